"""Messages in both directions across connections: outbox and inbox."""
