"""A client without a network: the peer is played by the test."""
