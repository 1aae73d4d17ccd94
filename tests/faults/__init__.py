"""The client in networks that are really broken."""
