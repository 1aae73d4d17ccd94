"""One connection, from the handshake to its end: reading, writing, heartbeat, setup."""
