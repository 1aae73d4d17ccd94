"""Measurements of the message path, side by side with other clients: `python -m benchmarks`."""
