"""The public types: options, endpoints, events, errors, close codes, statistics."""
