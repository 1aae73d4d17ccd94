"""The transport that uses picows."""
