"""What a stream of bytes from a server means, read as a whole: the yardstick for the real client.

Slow and simple, after RFC 6455 section 5 and RFC 7692. Ours takes one thing that the standard forbids, a length in more
bytes than it needs. Where the frame parser of aiohttp, through its public API, takes more, the outcome is `LENIENT`: from
there on nothing is said.
"""

import enum
import struct
import zlib

import attrs

Message = str | bytes
NEVER_ON_THE_WIRE = (1004, 1005, 1006, 1015)
ASSIGNED = (*range(1000, 1004), *range(1007, 1015), *range(3000, 5000))
TAIL = b"\x00\x00\xff\xff"


class Ending(enum.Enum):
    """How a stream ends."""

    CLOSE = "a CLOSE frame"
    BROKEN = "the protocol is broken"
    CUT = "the stream ends first"
    LENIENT = "nothing is said"


@attrs.frozen
class Outcome:
    """The messages of a stream, and its end.

    Attributes:
        codes: Of CLOSE the one in the frame (1005: none), of BROKEN those that may be answered.
    """

    messages: list[Message]
    ending: Ending
    codes: tuple[int, ...] = ()
    reason: str = ""


@attrs.frozen
class _End(Exception):  # noqa: N818 - ends the reading, is not an error
    ending: Ending
    codes: tuple[int, ...] = ()
    reason: str = ""


@attrs.frozen
class _Head:
    fin: bool
    rsv1: bool
    opcode: int
    size: int


def read_stream(stream: bytes, *, deflate: bool, max_size: int, public: bool = False) -> Outcome:
    """Return what a client that takes messages of up to `max_size` bytes makes of `stream`; `public`: through aiohttp's API."""
    reading = _Reading(stream, deflate=deflate, max_size=max_size, public=public)
    try:
        while True:
            reading.frame()
    except _End as end:
        return Outcome(reading.messages, end.ending, end.codes, end.reason)


class _Reading:
    def __init__(self, stream: bytes, *, deflate: bool, max_size: int, public: bool) -> None:
        self.stream = stream
        self.public = public
        self.deflate = deflate
        self.max_size = max_size
        self.messages: list[Message] = []
        self.begun: _Head | None = None  # the first frame of the message of the moment
        self.parts = b""
        self.inflate = zlib.decompressobj(-15)

    def take(self, size: int) -> bytes:
        taken, self.stream = self.stream[:size], self.stream[size:]
        if len(taken) < size:
            raise _End(Ending.CUT)
        return taken

    def frame(self) -> None:
        head = self.head()
        payload = self.take(head.size)
        if head.opcode == 8:
            self.close(payload)
        elif head.opcode < 8:
            self.data(head, payload)

    def head(self) -> _Head:
        first, second = self.take(2)
        fin, rsv1, opcode, size = bool(first & 0x80), bool(first & 0x40), first & 0x0F, second & 0x7F
        is_control, is_rest = opcode >= 8, opcode == 0
        broken = _End(Ending.BROKEN, (1002,))
        strictly = _End(Ending.LENIENT) if self.public else broken
        if opcode not in (0, 1, 2, 8, 9, 10):
            raise broken
        if first & 0x30 or (rsv1 and not self.deflate):
            raise broken
        if is_control and (not fin or size > 125):
            raise broken
        if rsv1 and is_rest and self.begun is None:
            raise strictly  # wrong twice, and it may be seen before the frame is whole or behind it
        if rsv1 and not is_control and self.begun is not None:
            raise broken
        if second & 0x80 or (rsv1 and is_control):
            raise strictly  # a server's frame must not be masked, a control frame not compressed
        if not is_control and is_rest is (self.begun is None) and not self.public:
            raise broken
        if size >= 126:
            short = size
            size = int.from_bytes(self.take(2 if short == 126 else 8), "big")
            if size < (126 if short == 126 else 65536) and self.public:
                raise _End(Ending.LENIENT)  # longer than it need be
        if not is_control and size + len(self.parts) > self.bound(rsv1=rsv1):
            raise _End(Ending.BROKEN, (1009, 1002))
        return _Head(fin, rsv1, opcode, size)

    def bound(self, *, rsv1: bool) -> int:
        """How large a message may be on the wire: to compress one may make it larger."""
        packed = self.begun.rsv1 if self.begun is not None else rsv1
        return self.max_size + ((self.max_size >> 8) + 64 if packed and not self.public else 0)

    def close(self, payload: bytes) -> None:
        if len(payload) == 1:
            raise _End(Ending.BROKEN, (1002,))
        code = struct.unpack("!H", payload[:2])[0] if payload else 1005
        if payload and (code < 1000 or code in NEVER_ON_THE_WIRE):
            raise _End(Ending.BROKEN, (1002, 1007))
        if payload and code not in ASSIGNED and self.public:
            raise _End(Ending.LENIENT)
        if payload and code < 3000 and code not in ASSIGNED:
            raise _End(Ending.BROKEN, (1002,))
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            raise _End(Ending.BROKEN, (1007, 1002)) from None
        raise _End(Ending.CLOSE, (code,), reason)

    def data(self, head: _Head, payload: bytes) -> None:
        if (head.opcode == 0) is (self.begun is None):
            if self.begun is not None and not self.parts:
                raise _End(Ending.LENIENT)  # a message within a message of which there is no byte yet
            raise _End(Ending.BROKEN, (1002,))
        self.begun = self.begun or head
        self.parts += payload
        if not head.fin:
            return
        begun, whole = self.begun, self.parts
        self.begun, self.parts = None, b""
        if begun.rsv1:
            whole = self.inflated(whole)
        try:
            self.messages.append(whole.decode() if begun.opcode == 1 else whole)
        except UnicodeDecodeError:
            raise _End(Ending.BROKEN, (1007,)) from None

    def inflated(self, payload: bytes) -> bytes:
        try:
            whole = self.inflate.decompress(payload + TAIL, self.max_size + 1)
        except zlib.error:
            raise _End(Ending.BROKEN, (1007, 1000)) from None  # 1000: aiohttp's own answer
        if self.inflate.eof:
            raise _End(Ending.LENIENT)  # a final block: zlib streams may follow each other
        if len(whole) > self.max_size:
            raise _End(Ending.BROKEN, (1009,))
        return whole
