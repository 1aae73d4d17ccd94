"""Parses received bytes into messages (RFC 6455 section 5).

Most messages are one final, plain frame that lies whole in one read. To cut those out in one loop costs 0.14 us for 125
bytes; a compiled parser that calls a function of ours for each message takes longer: aiohttp's 0.36 us, that of picows 0.4
us (Python 3.11; `docs/performance.md`). Large ones mostly do not lie whole in one read: they are read into a `Window`, and
made of that. Everything else takes the slow way, frame by frame.

A peer may send sixty thousand frames in one read. One call of `read` or `feed` therefore takes a portion, keeps the rest as
it is and says so in `stalled`; `feed(b"")` goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from resilient_ws.api.close_codes import CloseCode
from resilient_ws.api.message import Message
from resilient_ws.transports.shared.frame_writer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from resilient_ws.transports.shared.large_frames import Window, borrow, give_back

_FINAL_TEXT: Final = 0x81
_FINAL_BINARY: Final = 0x82
_FINAL_PING: Final = 0x89
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_MESSAGES: Final = (_FINAL_TEXT, _FINAL_BINARY)
_OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
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

STEP: Final = 32 * 1024
"""Bytes that are cut in one go: at most 2 ms of empty messages."""

MESSAGES: Final = 2048
"""Messages from which on a portion ends; it has twice as many at most."""

FRAMES: Final = 256
"""Frames that take the slow way in one portion at most."""

PINGS: Final = 16
"""PINGs in a row that cost as much as one frame that takes the slow way."""

ANSWERED: Final = 16
"""PINGs of one read that are each answered; of more only the last ones are (RFC 6455 5.5.3). Autobahn asks for 10."""

BATCH: Final = 256 * 1024
"""Bytes of messages from which on a portion ends."""


Payload = bytes  # a `Taker` has an attribute of that name


class Taker(Protocol):
    """Who gets the messages.

    Attributes:
        direct: Whether it takes something now; else all is kept as it is.
        batch: The messages it was given.
        bytes: The bytes of those; added to here.
        append: Gives it one.
    """

    direct: bool
    bytes: int

    @property
    def batch(self) -> list[Message]:
        """The messages it was given."""
        ...

    @property
    def append(self) -> Callable[[Message], None]:
        """Gives it one."""
        ...

    def control(self, opcode: int, payload: Payload, /) -> None:
        """Take a PONG or a PING; of many PINGs in a row the last one."""

    def closed(self, payload: Payload, /) -> None:
        """Take a CLOSE, behind which nothing is read."""

    def broken(self, code: int, why: str, /) -> None:
        """Stop reading: the peer has broken the protocol or exceeded a limit."""


class Cutter:
    """Reads the frames of one connection, from the first one on.

    Args:
        taker: Who gets what is in them.
        limit: `max_message_size`, bytes, inclusive.

    Attributes:
        fault: A fault found elsewhere, behind all data read; code and text.
        over: Whether nothing is read any more.
        owed: Bytes that are missing of a frame whose message is gathered.
        stalled: Whether the last portion has left something that can be taken.
        window: Where to read to, while a large frame has begun.
    """

    __slots__ = (
        "_ends",
        "_gathered",
        "_in_message",
        "_is_small",
        "_kind",
        "_left",
        "_limit",
        "_parts",
        "_rest",
        "_step",
        "_taker",
        "fault",
        "over",
        "owed",
        "stalled",
        "window",
    )

    gathers = True
    """Whether large frames are read into a window."""

    def __init__(self, taker: Taker, limit: int) -> None:
        self._taker = taker
        self._limit = limit
        self._is_small = limit < _TWO_BYTES  # the fast way does not look at the size of a short frame
        self._step = STEP
        self._rest = b""  # what was read and is not taken
        self._parts: bytearray | None = None  # of a message that is gathered
        self._gathered = 0  # bytes of the message so far, as its frames have announced them
        self._kind = 0  # the first byte of its first frame
        self._ends = False  # whether the frame of which bytes are owed is its last one
        self._in_message = False  # its last frame has not begun
        self._left = 0  # how many frames may take the slow way in this portion
        self.fault: tuple[int, str] | None = None
        self.over = False
        self.owed = 0
        self.stalled = False
        self.window: Window | None = None

    def room(self, least: int, scratch: memoryview) -> memoryview:
        """Return where to read to, with room for `least` bytes: `scratch`, unless something speaks against it."""
        if self.window is not None:
            return self.window.room(max(0, least))
        return scratch if least <= len(scratch) else memoryview(bytearray(least))

    def read(self, view: memoryview, size: int) -> None:
        """Take the `size` bytes that one read of the socket has put into `view`, which was the room for it."""
        window = self.window
        if self.over:
            return
        if window is not None:
            window.end += size
            if window.end >= window.needed:
                self._cut_large(window.view, window.begin, window.end)
        elif size < LARGE or self._rest or self.owed or self._in_message:
            self.feed(bytes(view[:size]))
        else:
            self._cut_large(view, 0, size)

    def feed(self, data: bytes) -> None:
        """Take what one read of the socket gave, behind what is left, as far as one portion goes."""
        while (window := self.window) is not None and data:
            room = window.room(0)
            part = data[: len(room)]
            room[: len(part)] = part
            data = data[len(part) :]
            self.read(room, len(part))
        if self._rest:
            data, self._rest = self._rest + data, b""
        self.stalled = False
        taker = self._taker
        batch = taker.batch
        position, length, self._left = 0, len(data), FRAMES
        while position < length and not self.over:
            if not taker.direct or self._left <= 0 or len(batch) >= MESSAGES or taker.bytes >= BATCH:
                self._rest = data[position:] if position else data
                self.stalled = True
                return
            if not (self.owed or self._in_message or self._is_small):
                until = position + self._step
                position = self._cut_some(data, position, length)
                if position >= until or position >= length or taker.bytes >= BATCH:
                    continue
            self._left -= 1
            position = self._take(data, position, length)
        if self.fault is not None and not self.over:
            if taker.direct:
                self._break(*self.fault, length)
            else:
                self.stalled = True

    def _cut_large(self, view: memoryview, position: int, length: int) -> None:
        """Take out large messages up to the first thing that is none, which is for `feed`."""
        taker, limit = self._taker, self._limit
        while taker.direct and position + _LONG_HEAD <= length:
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
            if kind == _FINAL_BINARY:
                taker.append(bytes(view[start:stop]))
            else:
                try:
                    taker.append(str(view[start:stop], "utf-8"))
                except UnicodeDecodeError:
                    break
            taker.bytes += stop - start
            position = stop
        rest = bytes(view[position:length])
        window, self.window = self.window, None
        if window is not None:
            give_back(window)
        self.feed(rest)

    def _large_at(self, data: bytes | memoryview, position: int, length: int) -> int:
        """Return the bytes of the frame there, if it is a large message by itself that can be cut out; else 0."""
        head = read_head(data, position, length)
        if head is None or head[0] not in _MESSAGES:
            return 0
        _, size, start = head
        fits = LARGE <= size <= self._limit and (size >= _LEAST_LONG) == (start - position == _LONG_HEAD)
        return start + size - position if fits else 0

    def _hold(self, data: bytes | memoryview, position: int, length: int, needed: int) -> None:
        """Go on to read the frame that begins there into a window."""
        if self.window is not None:
            self.window.keep_from(position, needed)
        else:
            self.window = borrow()
            self.window.hold(data[position:length], needed)

    def _cut_some(self, data: bytes, position: int, length: int) -> int:
        """Take out messages of one step, as `_cut`; fewer where there are too many of them."""
        taker = self._taker
        count, size = len(taker.batch), taker.bytes
        stop = self._cut(data, position, length, position + self._step)
        more = len(taker.batch) - count
        if more > MESSAGES:
            del taker.batch[count:]
            taker.bytes = size
            self._step = 2 * MESSAGES  # bytes: the smallest frame has two
            return self._cut(data, position, length, position + self._step)
        if self._step < STEP and more * (STEP // self._step) < MESSAGES:
            self._step = STEP
        return stop

    def _cut(self, data: bytes, position: int, length: int, until: int) -> int:
        """Take out messages that begin before `until`, up to the first thing that is none; return where that is."""
        taker = self._taker
        append = taker.append
        last, taken = min(length - 1, until), 0
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
                    break
            elif kind == _FINAL_BINARY:
                append(data[start:stop])
            else:
                break
            taken += size
            position = stop
        taker.bytes += taken
        return position

    # --- the slow way ---

    def _take(self, data: bytes, position: int, length: int) -> int:
        """Take one frame, or what has come of it, or keep that; return where the next one begins."""
        if self.owed:
            stop = min(position + self.owed, length)
            self._add(data[position:stop])
            self.owed -= stop - position
            self._finish_frame()
            return stop
        if position + 2 > length:
            self._rest = data[position:]
            return length
        kind = data[position]
        if why := self._fault(kind, data[position + 1]):
            return self._break(CloseCode.PROTOCOL_ERROR, why, length)
        head = read_head(data, position, length)
        if head is None:
            self._rest = data[position:]
            return length
        _, size, start = head
        end = start + size
        if kind & _CONTROL:
            if end > length:
                self._rest = data[position:]
                return length
            return self._take_control(kind, data, start, end)
        gathered = self._gathered + size
        if gathered > self._bound(kind):
            why = too_big(gathered, self._limit, is_whole=bool(kind & _FIN))
            return self._break(CloseCode.MESSAGE_TOO_BIG, why, length)
        if length < end <= position + KEPT:
            self._rest = data[position:]
            return length
        if length < end and self.gathers and not self._in_message:
            needed = self._large_at(data, position, length)
            if needed:
                self._hold(data, position, length, needed)
                return length
        if not self._in_message:
            self._kind = kind
            if end <= length and kind & _FIN:  # whole, for all that a plain one can be
                self._emit(kind, data[start:end])
                return length if self.over else end
        self._gathered, self._in_message, self._ends = gathered, not kind & _FIN, bool(kind & _FIN)
        stop = min(end, length)
        self._add(data[start:stop])
        self.owed = end - stop
        self._finish_frame()
        return stop

    def _fault(self, kind: int, second: int) -> str | None:
        """Return what is wrong with a frame that begins so."""
        if second & _MASKED:
            return "a frame of the server is masked (RFC 6455 5.1)"
        if self._has_reserved_bits(kind):
            return "a frame has reserved bits (RFC 6455 5.2)"
        opcode = kind & _OPCODE
        if opcode not in _OPCODES:
            return f"a frame has the unknown opcode {opcode} (RFC 6455 5.2)"
        if opcode & _CONTROL:
            if not kind & _FIN:
                return "a control frame is fragmented (RFC 6455 5.5)"
            if second > _LONGEST_CONTROL:
                return "a control frame is longer than 125 bytes (RFC 6455 5.5)"
        elif (opcode == CONTINUATION) != self._in_message:
            return "fragments are out of order (RFC 6455 5.4)"
        return None

    def _has_reserved_bits(self, kind: int) -> bool:
        return kind & _RESERVED != 0

    def _bound(self, kind: int) -> int:  # noqa: ARG002
        """Return how large a message may be on the wire whose frame begins with `kind`."""
        return self._limit

    def _take_control(self, kind: int, data: bytes, start: int, end: int) -> int:
        if kind == _FINAL_PING:
            start, end = self._last_ping(data, start, end)
        opcode, payload = kind & _OPCODE, data[start:end]
        if opcode == CLOSE:
            self._end()
            self._taker.closed(payload)
            return len(data)
        self._taker.control(opcode, payload)
        return end

    def _last_ping(self, data: bytes, start: int, end: int) -> tuple[int, int]:
        """Return where the last one of a long row of PINGs begins and ends; of a short row, where the first one does."""
        first, last, count = (start, end), len(data) - 1, 0
        while end < last and data[end] == _FINAL_PING and count < PINGS * self._left:
            size = data[end + 1]
            if size > _LONGEST_CONTROL or end + 2 + size > last + 1:
                break
            start = end + 2
            end = start + size
            count += 1
        self._left -= count // PINGS
        return first if count < ANSWERED else (start, end)

    def _add(self, data: bytes) -> None:
        if self._parts is None:
            self._parts = bytearray()
        self._parts += data

    def _finish_frame(self) -> None:
        """Go on when a frame may be whole, and its message with it."""
        if not self.owed and self._ends:
            whole, self._parts = bytes(self._parts or b""), None
            self._gathered, self._ends = 0, False
            self._emit(self._kind, whole)

    def _emit(self, kind: int, payload: bytes) -> None:
        """Hand over a message whose first frame began with `kind`."""
        taker = self._taker
        if kind & _OPCODE == TEXT:
            try:
                taker.append(payload.decode())
            except UnicodeDecodeError:
                self._break(CloseCode.INVALID_DATA, "a text message is not UTF-8 (RFC 6455 8.1)", 0)
                return
        else:
            taker.append(payload)
        taker.bytes += len(payload)

    def _break(self, code: int, why: str, length: int) -> int:
        self._end()
        self._taker.broken(code, why)
        return length

    def _end(self) -> None:
        self.over = True
        self._parts, self._rest, self.owed = None, b"", 0


def too_big(size: int, limit: int, *, is_whole: bool = True) -> str:
    """Return what is said of a message of `size` bytes, or of more than it where it is not whole."""
    least = "" if is_whole else "at least "
    return f"a message of {least}{size} bytes is larger than max_message_size={limit}"


def read_head(data: bytes | memoryview, position: int, length: int) -> tuple[int, int, int] | None:
    """Return first byte, payload size and where the payload begins; `None` while the header is not whole."""
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
