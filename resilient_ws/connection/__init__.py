"""What dies with its socket: one connection from its dial to its end."""
