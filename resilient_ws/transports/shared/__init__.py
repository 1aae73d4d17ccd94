"""What both transports need: dialing, handshakes, frames, sockets."""
