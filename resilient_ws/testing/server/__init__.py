"""A server that misbehaves as told."""
