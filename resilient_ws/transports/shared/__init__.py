"""Code of both transports: dialing, proxies, handshakes, frames, sockets."""
