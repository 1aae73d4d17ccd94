"""What programs see: options, events, errors. Imports nothing of the package above it."""
