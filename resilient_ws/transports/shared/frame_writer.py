"""Builds client frames: header, masking key, masked payload (RFC 6455 section 5.2). Nothing is compressed.

Each frame has a fresh key from the system's random source (section 10.3). Masking needs a compiled function to be
fast; the caller brings one, and tries it before it is relied upon. `mask_slowly` does without.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from typing import Final

from resilient_ws.api.message import Message

Mask = Callable[[bytes, bytearray], object]
"""Masks the second argument in place with the four bytes of the first one."""

CONTINUATION: Final = 0x0
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
    """Return the header of a final, masked frame, without its key."""
    if size < _SHORT:
        return bytes([_FIN | opcode, _MASKED | size])
    if size < 65536:
        return _MEDIUM(_FIN | opcode, _MASKED | 126, size)
    return _LONG(_FIN | opcode, _MASKED | 127, size)


def server_head(first: int, size: int) -> bytes:
    """Return the header of a frame of a server, which is not masked, with the first byte given."""
    if size < _SHORT:
        return bytes([first, size])
    if size < 65536:
        return _MEDIUM(first, 126, size)
    return _LONG(first, 127, size)


_KEYS: Final = 1024
"""Keys that one call of the system brings."""


class _Keys:
    """Masking keys from the system's random source, fetched by the thousand since each fetch is a system call.

    All threads share the list. Taking a key is one atomic `pop`: a question before it ("is there one?") could be answered
    for another thread. A list in each thread would cost a look-up for each frame.
    """

    def __init__(self) -> None:
        self.left: list[bytes] = []

    def next(self) -> bytes:
        """Return a fresh key. Keys that another thread takes meanwhile do not matter."""
        first: bytes
        first, *more = struct.unpack("4s" * _KEYS, os.urandom(4 * _KEYS))
        self.left.extend(more)
        return first

    def forget(self) -> None:
        """Drop the keys that are left: a forked child must not use those of its parent."""
        self.left = []


_keys: Final = _Keys()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.forget)


def take_key() -> bytes:
    """Return a key that no frame of this process has had and no peer can predict."""
    try:
        return _keys.left.pop()
    except IndexError:
        return _keys.next()


def random_bits() -> int:
    """Return 32 bits for a library that makes its keys of a number."""
    return int.from_bytes(take_key())


def mask_slowly(key: bytes, data: bytearray) -> None:
    """Mask `data` in place, where no compiled function does."""
    size = len(data)
    whole = (key * (size // 4 + 1))[:size]
    data[:] = (int.from_bytes(data) ^ int.from_bytes(whole)).to_bytes(size)


def frame(opcode: int, payload: bytes, mask: Mask) -> bytes:
    """Return one frame."""
    key = take_key()
    masked = bytearray(payload)
    mask(key, masked)
    return b"".join((head(opcode, len(masked)), key, masked))


def message_frame(message: Message, mask: Mask) -> bytes:
    """Return the frame of one message."""
    if isinstance(message, str):
        opcode, heads, masked = TEXT, _TEXT_HEADS, bytearray(message.encode())
    else:
        opcode, heads, masked = BINARY, _BINARY_HEADS, bytearray(message)
    try:
        key = _keys.left.pop()  # as `take_key`, without the call
    except IndexError:
        key = _keys.next()
    mask(key, masked)
    size = len(masked)
    return b"".join((heads[size] if size < _SHORT else head(opcode, size), key, masked))


def message_frames(messages: Sequence[Message], mask: Mask) -> bytes:
    """Return the frames of several messages, one behind the other; written for many small ones."""
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
    """Return whether `mask` does what it is for; tried with every length up to two machine words, and a large one."""
    key = b"\x01\x80\x7f\xfe"
    for size in (*range(17), 4099):
        data = bytearray(range(256)) * 17
        del data[size:]
        expected = bytes(byte ^ key[index % 4] for index, byte in enumerate(data))
        mask(key, data)
        if bytes(data) != expected:
            return False
    return True
