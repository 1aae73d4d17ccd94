"""The message type and its size on the wire."""

from __future__ import annotations

Message = str | bytes
"""A message: `str` is sent and received as TEXT, `bytes` as BINARY."""


def size_of(message: Message) -> int:
    """Return the payload size of `message` in bytes."""
    if isinstance(message, str):
        return len(message) if message.isascii() else len(message.encode("utf-8", "surrogatepass"))
    return len(message)
