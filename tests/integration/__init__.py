"""The client against servers that we did not write."""
