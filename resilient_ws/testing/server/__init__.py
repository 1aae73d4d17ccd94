"""A WebSocket server with scripted faults."""
