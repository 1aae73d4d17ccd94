"""Switches the safeguards of the package off, one at a time, and demands that a test notices."""
