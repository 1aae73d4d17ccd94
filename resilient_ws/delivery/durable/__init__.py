"""The outbox file: accepted messages that survive the process."""
