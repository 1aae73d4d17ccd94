"""Whole messages cut out of what a socket gave, in one loop; everything else is for the parser of the library.

Most messages are one final, plain frame that lies whole in one read. To cut those out here costs 0.14 us for 125 bytes;
a compiled parser that calls a function of ours for each message takes longer: aiohttp's 0.36 us, that of picows 0.4 us
(Python 3.11; `docs/performance.md`). Large ones mostly do not: they are read into a `Window`, and made of that. A PING or a
PONG is taken out too. What is taken is without fault; CLOSE, fragments, and whatever looks odd go to the library byte for
byte, which judges them (RFC 6455 section 5.2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from resilient_ws.events import Message
from resilient_ws.transports.window import Window, borrow, give_back

_FINAL_TEXT: Final = 0x81
_FINAL_BINARY: Final = 0x82
_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_MESSAGES: Final = (_FINAL_TEXT, _FINAL_BINARY)
_WHOLE: Final = frozenset((*_MESSAGES, 0x89, 0x8A))
"""First bytes of a frame after which a message may begin: a whole one, PING and PONG."""
_ORDINARY: Final = _WHOLE | {0x00, 0x80, 0x01, 0x02}
"""First bytes of a frame after which another one may come: those, and fragments."""
_LONGEST_CONTROL: Final = 125
_TWO_BYTES: Final = 126
"""In place of a length: it stands in the next two bytes."""
_EIGHT_BYTES: Final = 127
_MEDIUM_HEAD: Final = 4
_LONG_HEAD: Final = 10
_LEAST_LONG: Final = 65536
"""Bytes of a message below which eight bytes are more than its length needs."""
_LONG: Final = struct.Struct("!BBQ").unpack_from

KEPT: Final = 4096
"""Bytes up to which a frame that has not arrived whole is kept, to be cut out of the next read with others."""

LARGE: Final = 16 * 1024
"""Bytes of a message from which on a copy of it costs more than to look at it by itself."""


Payload = bytes  # a `Taker` has an attribute of that name


class Taker(Protocol):
    """Who gets the messages.

    Attributes:
        direct: Whether it takes them at the moment; else everything goes to the library.
        bytes: The bytes of those it was given; added to here.
        append: Gives it one.
    """

    direct: bool
    bytes: int
    append: Callable[[Message], None]

    def control(self, opcode: int, payload: Payload, /) -> bool:
        """Takes a PING or a PONG; returns `False` where it is for the library."""
        ...


class Cutter:
    """Stands in front of a parser, from the first byte of a connection on.

    Args:
        taker: Who gets whole messages.
        feed: The parser; returns whether it has found an error, after which it gets everything.
        limit: Bytes of the largest message that is cut out; of a larger one the parser is to complain.

    Attributes:
        given_up: Whether the parser gets everything from now on.
        owed: Bytes that the parser is to get before a new frame begins.
        window: Where to read to, while a large frame has begun.
    """

    __slots__ = ("_feed", "_in_message", "_limit", "_rest", "_taker", "given_up", "owed", "window")

    gathers = True
    """Whether large frames are read into a window; they go to the parser in pieces, else."""

    def __init__(self, taker: Taker, feed: Callable[[bytes], bool], limit: int) -> None:
        self._taker = taker
        self._feed = feed
        self._limit = limit
        self._rest = b""  # the beginning of a frame
        self.owed = 0
        self._in_message = False  # its last fragment has not come yet
        self.window: Window | None = None
        self.given_up = limit < _TWO_BYTES

    def take_over(self, tail: bytes) -> bool:
        """Begins amid a connection whose parser holds `tail`, the beginning of a frame; returns whether it can."""
        if self.given_up:
            return False
        self._rest, self._in_message, self.owed = b"", False, 0
        if tail:
            head = read_head(tail, 0, len(tail))
            if head is None or head[0] not in _WHOLE:
                return False
            self.owed = head[1] + head[2] - len(tail)
        return self.owed <= KEPT

    def room(self, least: int, scratch: memoryview) -> memoryview:
        """Returns where to read to, with room for `least` bytes: `scratch`, unless something speaks against it."""
        if self.window is not None:
            return self.window.room(max(0, least))
        return scratch if least <= len(scratch) else memoryview(bytearray(least))

    def read(self, view: memoryview, size: int) -> None:
        """Takes the `size` bytes that one read of the socket has put into `view`, which was the room for it."""
        window = self.window
        if window is not None:
            window.end += size
            if window.end >= window.needed:
                self._cut_large(window.view, window.begin, window.end)
        elif size < LARGE or self._rest or self.owed or self._in_message:
            self.feed(bytes(view[:size]))
        else:
            self._cut_large(view, 0, size)

    def feed(self, data: bytes) -> None:
        """Takes what one read of the socket gave."""
        while (window := self.window) is not None and data:
            room = window.room(0)
            part = data[: len(room)]
            room[: len(part)] = part
            data = data[len(part) :]
            self.read(room, len(part))
        if self._rest:
            data, self._rest = self._rest + data, b""
        position, length = 0, len(data)
        while position < length:
            if self._taker.direct and not (self.owed or self._in_message or self.given_up):
                position = self._cut(data, position, length)
                if position == length:
                    return
            position = self._pass_on(data, position, length)

    def _cut_large(self, view: memoryview, position: int, length: int) -> None:
        """Takes out large messages up to the first thing that is none, which is for `feed`."""
        taker, limit = self._taker, self._limit
        while not self.given_up and position + _LONG_HEAD <= length:
            kind, head, size = _LONG(view, position)  # in one step, though the length may have but two bytes
            start, least = position + _LONG_HEAD, _LEAST_LONG
            if head == _TWO_BYTES:
                start, size, least = position + _MEDIUM_HEAD, size >> 48, LARGE
            elif head != _EIGHT_BYTES:
                break
            if not least <= size <= limit or kind not in _MESSAGES:
                break
            stop = start + size
            if stop > length:
                self._hold(view, position, length, stop - position)
                return
            if not taker.direct:
                self._give(bytes(view[position:stop]))
            elif kind == _FINAL_BINARY:
                taker.append(bytes(view[start:stop]))
                taker.bytes += stop - start
            else:
                try:
                    taker.append(str(view[start:stop], "utf-8"))
                except UnicodeDecodeError:
                    self.given_up = True
                    break
                taker.bytes += stop - start
            position = stop
        rest = bytes(view[position:length])
        window, self.window = self.window, None
        if window is not None:
            give_back(window)
        self.feed(rest)

    def _large_at(self, data: bytes | memoryview, position: int, length: int) -> int:
        """Returns the bytes of the frame there, if it is a large message by itself that can be cut out; else 0."""
        head = read_head(data, position, length)
        if head is None or head[0] not in _MESSAGES or data[position + 1] & _MASKED:
            return 0
        _, size, start = head
        fits = LARGE <= size <= self._limit and (size >= _LEAST_LONG) == (start - position == _LONG_HEAD)
        return start + size - position if fits else 0

    def _hold(self, data: bytes | memoryview, position: int, length: int, needed: int) -> None:
        """Goes on to read the frame that begins there into a window."""
        if self.window is not None:
            self.window.keep_from(position, needed)
        else:
            self.window = borrow()
            self.window.hold(data[position:length], needed)

    def _cut(self, data: bytes, position: int, length: int) -> int:
        """Takes out messages up to the first thing that is none; returns where that is."""
        taker = self._taker
        append = taker.append
        last, taken = length - 1, 0
        while position < last:
            size = data[position + 1]
            start = position + 2
            if size >= _TWO_BYTES:
                if size == _TWO_BYTES and start + 2 <= length:
                    size = data[start] << 8 | data[start + 1]  # half the time of `int.from_bytes`
                    least = _TWO_BYTES
                    start += 2
                elif size == _EIGHT_BYTES and start + 8 <= length:
                    size = int.from_bytes(data[start : start + 8])
                    least = _LEAST_LONG
                    start += 8
                else:
                    break
                if not least <= size <= self._limit:
                    break
            stop = start + size
            if stop > length:
                break
            kind = data[position]
            if kind == _FINAL_TEXT:
                try:
                    append(data[start:stop].decode())
                except UnicodeDecodeError:
                    self.given_up = True
                    break
            elif kind == _FINAL_BINARY:
                append(data[start:stop])
            else:
                break
            taken += size
            position = stop
        taker.bytes += taken
        return position

    def _pass_on(self, data: bytes, position: int, length: int) -> int:
        """Gives the parser one frame, or what has come of it, or keeps that; returns where the next one begins."""
        if self.given_up:
            self._give(data[position:] if position else data)
            return length
        if self.owed:
            stop = min(position + self.owed, length)
            self.owed -= stop - position
            self._give(data[position:stop])
            return stop
        head = read_head(data, position, length)
        if head is None:
            self._rest = data[position:]
            return length
        kind, size, start = head
        end = start + size
        if length < end and self.gathers and not self._in_message:
            needed = self._large_at(data, position, length)
            if needed:
                self._hold(data, position, length, needed)
                return length
        if kind & _CONTROL:
            lasts = data[position + 1] <= _LONGEST_CONTROL
            waits = end > length
        else:
            # RFC 6455 5.4: a continuation where a message has begun, and only there.
            lasts = (kind & _OPCODE == 0) == self._in_message
            waits = length < end <= position + KEPT and size <= self._limit and not self._in_message
        if not lasts or kind not in _ORDINARY or data[position + 1] & _MASKED:
            self.given_up = True
            return position
        if waits:
            self._rest = data[position:]
            return length
        if not kind & _CONTROL:
            self._in_message = not kind & _FIN
        elif self._taker.control(kind & _OPCODE, data[start:end]):
            return end
        stop = min(end, length)
        self.owed = end - stop
        self._give(data[position:stop])
        return stop

    def _give(self, data: bytes) -> None:
        if self._feed(data):
            self.given_up = True


def read_head(data: bytes | memoryview, position: int, length: int) -> tuple[int, int, int] | None:
    """Returns first byte, payload size and where the payload begins; `None` while the header is not whole."""
    start = position + 2
    if start > length:
        return None
    size = data[position + 1] & ~_MASKED
    if size >= _TWO_BYTES:
        stop = start + (2 if size == _TWO_BYTES else 8)
        if stop > length:
            return None
        size, start = int.from_bytes(data[start:stop]), stop
    return data[position], size, start
