"""What decides. Knows no event loop, no clock, no randomness and no network."""
