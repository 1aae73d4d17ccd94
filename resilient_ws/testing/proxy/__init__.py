"""Proxies in front of a real server: bad networks, and forward proxies."""
