"""A fake transport whose peer is controlled by the test."""
