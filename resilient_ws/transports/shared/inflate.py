"""Compresses and decompresses messages (RFC 7692) in the event loop.

Each message may refer to those before it, in either direction. The zlib in use is the one that aiohttp was given.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

from resilient_ws.api.close_codes import CloseCode
from resilient_ws.api.message import Message
from resilient_ws.transports.shared.frame_cutter import BATCH, Cutter, Taker, read_head
from resilient_ws.transports.shared.frame_writer import BINARY, TEXT, Mask, frame

if TYPE_CHECKING:
    from aiohttp.compression_utils import ZLibBackend, ZLibCompressor, ZLibDecompressor
else:
    try:
        from aiohttp.compression_utils import ZLibBackend, ZLibCompressor, ZLibDecompressor
    except ImportError:  # an aiohttp that is laid out differently: `is_supported` says no
        ZLibBackend = ZLibCompressor = ZLibDecompressor = None

_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_RSV1: Final = 0x40
_RSV2_OR_3: Final = 0x30
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
_WHOLE_TEXT: Final = 0x81
_WHOLE_BINARY: Final = 0x82
_PACKED_TEXT: Final = 0xC1
_PACKED_BINARY: Final = 0xC2
"""First bytes of a compressed message: RSV1 is set (RFC 7692 section 6)."""

_TAIL: Final = b"\x00\x00\xff\xff"
"""What RFC 7692 section 7.2.2 has to be added to a message before it is unpacked."""

UNPACK_STEP: Final = 4096
"""Bytes that are unpacked in one go, at least: at most 2 ms of empty messages."""

PACK_STEP: Final = 64 * 1024
"""Bytes that are packed in one turn of the event loop: 1 to 2 ms."""


class TooLarge(Exception):  # noqa: N818 - ends a connection, is told in other words
    """A message is larger than it may be; the text says how."""


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
        """Return a message, or raise what ends the connection."""
        data: bytes = self.stream.decompress(packed + _TAIL, self._most)
        return self.checked(data)

    def checked(self, data: bytes) -> bytes:
        """Return what the stream gave for one message, with what follows if that has ended the stream."""
        if self.stream.eof:
            try:
                data = self._zlib._decompress_members(data, self._most)  # noqa: SLF001
            except ValueError as error:
                raise TooLarge(f"a compressed message has too many members ({error})") from error
            self.stream = self._zlib._decompressor  # noqa: SLF001
        if len(data) >= self._most:
            raise TooLarge(
                f"a message of at least {self._most} bytes when decompressed is larger than "
                f"max_message_size={self._most - 1}"
            )
        return data


class Unpacker(Cutter):
    """A `Cutter` for a connection whose messages may be compressed.

    Attributes:
        inflater: Of this connection.
    """

    __slots__ = ("inflater",)
    gathers = False

    def __init__(self, taker: Taker, limit: int) -> None:
        super().__init__(taker, limit)
        self._is_small = False  # here the size of each message is looked at
        self._step = UNPACK_STEP
        self.inflater = Inflater(limit)

    def _cut_some(self, data: bytes, position: int, length: int) -> int:
        return self._cut(data, position, length, position + UNPACK_STEP)

    def _cut(self, data: bytes, position: int, length: int, until: int) -> int:
        """Take out messages up to the first thing that is none, or until they make a batch; return where that is."""
        taker, limit, inflater = self._taker, self._limit, self.inflater
        append, stream = taker.append, inflater.stream
        inflate = stream.decompress
        last, most, total = min(length - 1, until), limit + 1, taker.bytes
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
                append(message.decode() if kind & TEXT else message)
                total += size
                position = stop
        except Exception as error:  # noqa: BLE001 - each zlib has its own
            taker.bytes = total
            return self._break(*_said_of(error), length)
        taker.bytes = total
        return position

    def _has_reserved_bits(self, kind: int) -> bool:
        first = not (kind & _CONTROL or kind & _OPCODE == 0)
        return kind & (_RSV2_OR_3 if first else _RSV2_OR_3 | _RSV1) != 0

    def _bound(self, kind: int) -> int:
        if not (self._kind if self._in_message else kind) & _RSV1:
            return self._limit
        # What cannot be made smaller grows by five bytes for each block (RFC 1951 3.2.4).
        return self._limit + (self._limit >> 8) + 64

    def _emit(self, kind: int, payload: bytes) -> None:
        if kind & _RSV1:
            try:
                payload = self.inflater.message(payload)
            except Exception as error:  # noqa: BLE001 - as above
                self._break(*_said_of(error), 0)
                return
        super()._emit(kind, payload)


def _said_of(error: Exception) -> tuple[int, str]:
    """Return code and text for what was raised by a message."""
    if isinstance(error, TooLarge):
        return CloseCode.MESSAGE_TOO_BIG, str(error)
    if isinstance(error, UnicodeDecodeError):
        return CloseCode.INVALID_DATA, "a text message is not UTF-8 (RFC 6455 8.1)"
    return CloseCode.INVALID_DATA, f"compressed data that cannot be unpacked ({error})"


class Packer:
    """Packs the messages of one connection, one after the other, a step in each turn of the event loop.

    Args:
        window_bits: Of the window that the server takes.
        forgets: Whether no message may refer to those before it.
    """

    __slots__ = ("_flush", "_mode", "_pack")

    def __init__(self, window_bits: int, *, forgets: bool) -> None:
        zlib: Any = ZLibBackend
        compressor = ZLibCompressor(level=zlib.Z_BEST_SPEED, wbits=-window_bits)
        self._pack = compressor.compress_sync
        self._flush = compressor.flush
        self._mode = zlib.Z_FULL_FLUSH if forgets else zlib.Z_SYNC_FLUSH

    def steps(self, messages: Sequence[Message], mask: Mask, put: Callable[[bytes], None]) -> Generator[None]:
        """Give the frames of `messages` to `put`, in order; stop where the event loop is to have its turn."""
        frames: list[bytes] = []
        left = PACK_STEP
        for message in messages:
            data = memoryview(message.encode() if isinstance(message, str) else message)
            packed: list[bytes] = []
            for begin in range(0, len(data), PACK_STEP):
                step = data[begin : begin + PACK_STEP]
                if left <= 0:
                    if frames:
                        put(b"".join(frames))
                        frames.clear()
                    yield
                    left = PACK_STEP
                packed.append(self._pack(step))
                left -= len(step)
            packed.append(self._flush(self._mode))
            opcode = TEXT if isinstance(message, str) else BINARY
            whole = b"".join(packed).removesuffix(_TAIL) or b"\x00"  # RFC 7692 7.2.3.6
            frames.append(frame(_RSV1 | opcode, whole, mask))
        if frames:
            put(b"".join(frames))
