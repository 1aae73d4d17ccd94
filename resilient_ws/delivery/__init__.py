"""What outlives a connection: messages in both directions."""
