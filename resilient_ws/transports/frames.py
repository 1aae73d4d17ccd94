"""Frames of a client, as bytes: header, masking key, masked payload (RFC 6455 section 5.2). Nothing is compressed.

Each frame has a fresh key from the system's random source (section 10.3). Masking needs a compiled function to be
fast; the caller brings one, and tries it before it is relied upon.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from typing import Final

from resilient_ws.events import Message

Mask = Callable[[bytes, bytearray], object]
"""Masks the second argument in place with the four bytes of the first one."""

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_SHORT: Final = 126
_MASKED: Final = 0x80
_FIN: Final = 0x80
_TEXT_HEADS: Final = tuple(bytes([_FIN | TEXT, _MASKED | size]) for size in range(_SHORT))
_BINARY_HEADS: Final = tuple(bytes([_FIN | BINARY, _MASKED | size]) for size in range(_SHORT))
_MEDIUM: Final = struct.Struct("!BBH").pack
_LONG: Final = struct.Struct("!BBQ").pack


def head(opcode: int, size: int) -> bytes:
    """Returns the header of a final, masked frame, without its key."""
    if size < _SHORT:
        return bytes([_FIN | opcode, _MASKED | size])
    if size < 65536:
        return _MEDIUM(_FIN | opcode, _MASKED | 126, size)
    return _LONG(_FIN | opcode, _MASKED | 127, size)


class _Keys:
    """Masking keys, asked of the system by the thousand: that is a system call each time."""

    def __init__(self) -> None:
        self.left: list[bytes] = []

    def next(self) -> bytes:
        """Returns one that nobody has had."""
        if not self.left:
            self.left.extend(struct.unpack("4s" * _KEYS, os.urandom(4 * _KEYS)))
        return self.left.pop()


_KEYS: Final = 1024
_keys: Final = _Keys()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.left.clear)


def frame(opcode: int, payload: bytes, mask: Mask) -> bytes:
    """Returns one frame."""
    key = _keys.next()
    masked = bytearray(payload)
    mask(key, masked)
    return b"".join((head(opcode, len(masked)), key, masked))


def message_frame(message: Message, mask: Mask) -> bytes:
    """Returns the frame of one message."""
    if isinstance(message, str):
        opcode, heads, masked = TEXT, _TEXT_HEADS, bytearray(message.encode())
    else:
        opcode, heads, masked = BINARY, _BINARY_HEADS, bytearray(message)
    key = _keys.left.pop() if _keys.left else _keys.next()
    mask(key, masked)
    size = len(masked)
    return b"".join((heads[size] if size < _SHORT else head(opcode, size), key, masked))


def message_frames(messages: Sequence[Message], mask: Mask) -> bytes:
    """Returns the frames of several messages, one behind the other; written for many small ones."""
    count = len(messages)
    parts: list[bytes | bytearray] = []
    append = parts.append
    for message, key in zip(messages, struct.unpack("4s" * count, os.urandom(4 * count)), strict=True):
        if isinstance(message, str):
            opcode, heads, masked = TEXT, _TEXT_HEADS, bytearray(message.encode())
        else:
            opcode, heads, masked = BINARY, _BINARY_HEADS, bytearray(message)
        mask(key, masked)
        size = len(masked)
        append(heads[size] if size < _SHORT else head(opcode, size))
        append(key)
        append(masked)
    return b"".join(parts)


def is_mask(mask: Mask) -> bool:
    """Whether `mask` does what it is for; tried with every length up to two machine words, and a large one."""
    key = b"\x01\x80\x7f\xfe"
    for size in (*range(17), 4099):
        data = bytearray(range(256)) * 17
        del data[size:]
        expected = bytes(byte ^ key[index % 4] for index, byte in enumerate(data))
        mask(key, data)
        if bytes(data) != expected:
            return False
    return True
