"""Compressed messages (RFC 7692), unpacked in the loop that cuts them out of what a socket gave.

Each message may refer to those before it, so there can be only one who unpacks, and it is not aiohttp's parser. That gets
a compressed message that comes in fragments, or is not whole in one read, as a plain one of bytes, and what it has
gathered is unpacked behind it. So the order of frames and their sizes are still for the parser to judge, and what is wrong
with a message ends the connection as its own errors do. The zlib in use is the one that aiohttp was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WebSocketError, WSCloseCode, WSMsgType

from resilient_ws.transports.aiohttp_queue import DirectQueue
from resilient_ws.transports.whole_frames import Cutter, read_head

if TYPE_CHECKING:
    from aiohttp.compression_utils import ZLibDecompressor
else:
    try:
        from aiohttp.compression_utils import ZLibDecompressor
    except ImportError:  # an aiohttp that is laid out differently: `is_supported` says no
        ZLibDecompressor = None

_TEXT: Final = 0x1
_BINARY: Final = 0x2
_OPCODE: Final = 0x0F
_FIN: Final = 0x80
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
_WHOLE_TEXT: Final = 0x81
_WHOLE_BINARY: Final = 0x82
_PACKED_TEXT: Final = 0xC1
_PACKED_BINARY: Final = 0xC2
_PACKED: Final = frozenset((_PACKED_TEXT, _PACKED_BINARY, 0x41, 0x42))
"""First bytes of a compressed message: RSV1 is set (RFC 7692 section 6)."""

_TAIL: Final = b"\x00\x00\xff\xff"
"""What RFC 7692 section 7.2.2 has to be added to a message before it is unpacked."""

BATCH: Final = 256 * 1024
"""Bytes of messages from which on they are told before more is unpacked: a few bytes may hold a thousand times as many."""


class Inflater:
    """Unpacks the messages of one connection, one after the other.

    Args:
        limit: Bytes of the largest message; of a larger one no more than one byte beyond is unpacked.

    Attributes:
        stream: zlib's; another one after a message that has ended it (RFC 7692 section 7.2.3.4).
    """

    __slots__ = ("_most", "_zlib", "stream")

    def __init__(self, limit: int) -> None:
        self._most = limit + 1
        self._zlib: Any = ZLibDecompressor(suppress_deflate_header=True)
        self.stream = self._zlib._decompressor  # noqa: SLF001 - it has no public name

    def message(self, packed: bytes) -> bytes:
        """Returns a message, or raises what ends the connection."""
        data: bytes = self.stream.decompress(packed + _TAIL, self._most)
        return self.checked(data)

    def checked(self, data: bytes) -> bytes:
        """Returns what the stream gave for one message, with what follows if that has ended the stream."""
        if self.stream.eof:
            try:
                data = self._zlib._decompress_members(data, self._most)  # noqa: SLF001
            except ValueError as error:
                raise WebSocketError(WSCloseCode.MESSAGE_TOO_BIG, str(error)) from error
            self.stream = self._zlib._decompressor  # noqa: SLF001
        if len(data) >= self._most:
            raise WebSocketError(
                WSCloseCode.MESSAGE_TOO_BIG, f"Decompressed message exceeds size limit {self._most - 1}"
            )
        return data


class DeflateQueue(DirectQueue):
    """The queue of a connection whose messages may be compressed.

    Attributes:
        inflater: Of this connection.
        packed: Of a compressed message that the parser takes for a plain one of bytes: its opcode; 0 = there is none.
    """

    __slots__ = ("inflater", "packed")

    def __init__(self, protocol: Any, max_message_size: int) -> None:
        super().__init__(protocol)
        self.inflater = Inflater(max_message_size)
        self.packed = 0

    def feed_data(self, data: Any, size: int) -> None:
        """Called by the parser for each message; what is raised here ends the connection as its own errors do."""
        if self.packed and data[0] is WSMsgType.BINARY:
            opcode, self.packed = self.packed, 0
            message = self.inflater.message(data[1])
            size = len(message)
            data = (
                (WSMsgType.TEXT, message.decode(), "") if opcode == _TEXT else (WSMsgType.BINARY, message, "")
            )
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Called when an error was found."""
        if isinstance(exc, UnicodeDecodeError):
            exc = WebSocketError(WSCloseCode.INVALID_TEXT, "Invalid UTF-8 text message")
        super().set_exception(exc, exc_cause)


class Unpacker(Cutter):
    """A `Cutter` for a connection whose messages may be compressed.

    While the queue takes nothing, what was read waits here as it is: unpacked it may be a thousand times as large.
    """

    __slots__ = ("_queue",)
    gathers = False

    def __init__(self, queue: DeflateQueue, feed: Callable[[bytes], bool], limit: int) -> None:
        super().__init__(queue, feed, limit)
        self._queue = queue
        self.given_up = False  # here the size of each message is looked at

    def feed(self, data: bytes) -> None:
        """Takes what one read of the socket gave, or goes on with what waits; as much as makes one batch."""
        queue = self._queue
        if self._rest:
            data, self._rest = self._rest + data, b""
        queue.stalled = False
        position, length = 0, len(data)
        while position < length:
            if not queue.direct or queue.bytes >= BATCH:
                self._rest = data[position:]
                queue.stalled = True
                return
            if not (self.owed or self._in_message or self.given_up):
                position = self._cut(data, position, length)
                if position == length or queue.bytes >= BATCH:
                    continue
            position = self._pass_on(data, position, length)

    def _cut(self, data: bytes, position: int, length: int) -> int:
        """Takes out messages up to the first thing that is none, or until they make a batch; returns where that is."""
        queue, limit, inflater = self._queue, self._limit, self._queue.inflater
        append, stream = queue.append, inflater.stream
        inflate = stream.decompress
        last, most, total = length - 1, limit + 1, queue.bytes
        message: bytes
        try:
            while position < last and total < BATCH:
                size = data[position + 1]
                start = position + 2
                if size >= _TWO_BYTES:
                    head = read_head(data, position, length)
                    least = _TWO_BYTES if size == _TWO_BYTES else 65536
                    if head is None or size > _EIGHT_BYTES or head[1] < least:
                        break
                    _, size, start = head
                stop = start + size
                if stop > length or size > limit:
                    break
                kind = data[position]
                if _PACKED_TEXT <= kind <= _PACKED_BINARY:
                    message = inflate(data[start:stop] + _TAIL, most)
                    size = len(message)
                    if size > limit or stream.eof:
                        message = inflater.checked(message)
                        size, stream = len(message), inflater.stream
                        inflate = stream.decompress
                elif _WHOLE_TEXT <= kind <= _WHOLE_BINARY:
                    message = data[start:stop]
                else:
                    break
                append(message.decode() if kind & _TEXT else message)
                total += size
                position = stop
        except Exception as error:  # noqa: BLE001 - each zlib has its own
            self.given_up, self._feed = True, _nobody
            queue.set_exception(error)
        queue.bytes = total
        return position

    def _pass_on(self, data: bytes, position: int, length: int) -> int:
        """As that of a `Cutter`, and a message that is compressed goes as one of plain bytes."""
        if self.owed or self.given_up or self._in_message or data[position] not in _PACKED:
            return super()._pass_on(data, position, length)
        head = read_head(data, position, length)
        if head is None:
            self._rest = data[position:]
            return length
        kind, size, start = head
        self._queue.packed = kind & _OPCODE
        frame = bytes((kind & _FIN | _BINARY,)) + data[position + 1 : start + size]
        taken = super()._pass_on(frame, 0, len(frame))
        if self._rest:  # it waits, as it is
            self._rest, self._queue.packed = data[position:], 0
        return position + taken


def _nobody(_: bytes) -> bool:
    """Takes the place of the parser after an error."""
    return True
