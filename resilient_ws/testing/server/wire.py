"""WebSocket frames as bytes, valid or invalid, for the fault server.

The encoder writes any frame. The parser is strict about what makes the rest of the stream
unreadable and reports everything else as facts on the frame. Knows no socket, no clock and no handshake.
"""

from __future__ import annotations

import codecs
import enum
import struct
from typing import TypeAlias

import attrs

from resilient_ws.testing.server.deflate import Codec

Message: TypeAlias = str | bytes
"""A whole message: `str` is TEXT, `bytes` is BINARY."""


class Opcode(enum.IntEnum):
    """The opcodes of RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


RSV1, RSV2, RSV3 = 4, 2, 1
"""The reserved bits, as `Frame.rsv` and `encode_frame` count them."""

MAX_CONTROL_PAYLOAD = 125
"""The longest payload of a control frame, in bytes (RFC 6455 section 5.5)."""


class WireError(Exception):
    """What the peer sent breaks the protocol; `code` is the close code that says so."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} ({self.code})"


@attrs.frozen
class Frame:
    """One frame as it was on the wire, the payload unmasked; `key` is its masking key, `None` where it had none."""

    opcode: int
    payload: bytes = attrs.field(default=b"", repr=lambda payload: f"<{len(payload)} bytes>")
    fin: bool = True
    rsv: int = 0
    masked: bool = False
    key: bytes | None = attrs.field(default=None, eq=False, repr=False)


def apply_mask(data: bytes, mask: bytes) -> bytes:
    """Return `data` XORed with the four bytes of `mask`; applying it twice gives `data` again."""
    size = len(data)
    repeated = mask * (size // 4 + 1)
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated[:size], "big")).to_bytes(size, "big")


def encode_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    declared: int | None = None,
) -> bytes:
    """Return one frame, valid or not.

    Args:
        opcode: 0 to 15; the unassigned ones too.
        payload: What follows the header, before masking. Its length is not limited, not even for control frames.
        fin: The FIN bit.
        rsv: 0 to 7, the sum of `RSV1`, `RSV2` and `RSV3`.
        mask: The four bytes of the masking key, or `None` to send the frame unmasked as a server must.
        declared: The length that the header claims, in bytes. `None` is the true one; a larger one makes the
            receiver wait for bytes that never come.

    Raises:
        ValueError: `opcode`, `rsv`, `mask` or `declared` does not fit into the header.
    """
    if not 0 <= opcode <= 15:
        raise ValueError(f"opcode must be 0 to 15, not {opcode}")
    if not 0 <= rsv <= 7:
        raise ValueError(f"rsv must be 0 to 7, not {rsv}")
    if mask is not None and len(mask) != 4:
        raise ValueError(f"mask must be 4 bytes, not {len(mask)}")
    length = len(payload) if declared is None else declared
    if not 0 <= length < 2**64:
        raise ValueError(f"declared must be 0 to 2**64 - 1, not {declared}")
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0 if mask is None else 0x80
    if length < 126:
        head = struct.pack("!BB", first, bit | length)
    elif length < 2**16:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, bit | 127, length)
    if mask is None:
        return head + payload
    return head + mask + apply_mask(payload, mask)


def encode_close(code: int | None, reason: str | bytes = "") -> bytes:
    """Return the payload of a CLOSE frame; `None` as `code` is the empty one.

    Any code from 0 to 65,535 and any reason, as bytes not even UTF-8, can be written.

    Raises:
        ValueError: `code` does not fit into two bytes, or is `None` while a reason is given.
    """
    raw = reason.encode() if isinstance(reason, str) else reason
    if code is None:
        if raw:
            raise ValueError("a CLOSE frame with a reason needs a code: code must be 0 to 65535, not None")
        return b""
    if not 0 <= code <= 0xFFFF:
        raise ValueError(f"code must be 0 to 65535, not {code}")
    return struct.pack("!H", code) + raw


class FrameParser:
    """Cuts a byte stream into frames.

    Args:
        max_payload: The longest payload accepted, in bytes; what the header declares counts.
    """

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """The number of bytes of the unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take what arrived and return the frames that are complete now.

        Raises:
            WireError: A length has its most significant bit set (1002) or is above `max_payload` (1009).
        """
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        try:
            while (found := self._cut(start)) is not None:
                frame, start = found
                frames.append(frame)
        finally:
            del self._buffer[:start]
        return frames

    def _cut(self, start: int) -> tuple[Frame, int] | None:
        buffer = self._buffer
        have = len(buffer) - start
        if have < 2:
            return None
        first, second = buffer[start], buffer[start + 1]
        length, at = second & 0x7F, start + 2
        if length == 126:
            if have < 4:
                return None
            (length,) = struct.unpack_from("!H", buffer, at)
            at += 2
        elif length == 127:
            if have < 10:
                return None
            (length,) = struct.unpack_from("!Q", buffer, at)
            at += 8
            if length >= 2**63:
                raise WireError(1002, "the most significant bit of a length is set")
        if length > self._max_payload:
            raise WireError(1009, f"a frame of {length} bytes is longer than {self._max_payload}")
        masked = bool(second & 0x80)
        body = at + 4 if masked else at
        if len(buffer) < body + length:
            return None
        payload = bytes(buffer[body : body + length])
        key = bytes(buffer[at:body]) if masked else None
        if key is not None:
            payload = apply_mask(payload, key)
        frame = Frame(first & 0xF, payload, bool(first & 0x80), first >> 4 & 7, masked, key)
        return frame, body + length


class Assembler:
    """Joins data frames to messages, checking each rule that a client must keep.

    Args:
        max_message: The largest message accepted, in bytes, after decompression.
        codec: The permessage-deflate state of the connection, or `None` where it was not negotiated.
    """

    def __init__(self, max_message: int, codec: Codec | None = None) -> None:
        self._max_message = max_message
        self._codec = codec
        self._parts = bytearray()
        self._opcode: int | None = None
        self._compressed = False

    def add(self, frame: Frame) -> Message | None:
        """Take one data frame; return the message that it completes, or `None` while one is unfinished.

        Raises:
            WireError: The frame or the message breaks RFC 6455 (1002), is not UTF-8 (1007) or too big (1009).
        """
        self._check_order(frame)
        if frame.opcode != Opcode.CONTINUATION:
            self._opcode = frame.opcode
            self._compressed = bool(frame.rsv & RSV1)
        self._parts += frame.payload
        if len(self._parts) > self._max_message:
            raise WireError(1009, f"a message is longer than {self._max_message} bytes")
        if not frame.fin:
            return None
        data, opcode = bytes(self._parts), self._opcode
        self._parts.clear()
        self._opcode = None
        if self._compressed and self._codec is not None:
            inflated = self._codec.decompress(data, self._max_message)
            if inflated is None:
                raise WireError(1009, f"a message is longer than {self._max_message} bytes when decompressed")
            data = inflated
        if opcode == Opcode.BINARY:
            return data
        return decode_text(data)

    def _check_order(self, frame: Frame) -> None:
        if frame.opcode == Opcode.CONTINUATION:
            if self._opcode is None:
                raise WireError(1002, "a continuation frame without a message to continue")
            if frame.rsv:
                raise WireError(1002, "a reserved bit is set on a continuation frame")
            return
        if self._opcode is not None:
            raise WireError(1002, "a new message begins inside a fragmented one")
        if frame.rsv & ~RSV1 or (frame.rsv and self._codec is None):
            raise WireError(1002, "a reserved bit is set that no extension defines")


def decode_text(data: bytes) -> str:
    """Return `data` as text.

    Raises:
        WireError: It is not UTF-8 (1007).
    """
    try:
        return codecs.decode(data, "utf-8")
    except UnicodeDecodeError:
        raise WireError(1007, "a text is not UTF-8") from None


def check_client_frame(frame: Frame) -> None:
    """Check what RFC 6455 demands of a single frame from a client.

    Raises:
        WireError: It is unmasked (5.1), has an unassigned opcode (5.2), or is a control frame that is fragmented,
            longer than 125 bytes (5.5) or has a reserved bit set; each is a 1002.
    """
    if not frame.masked:
        raise WireError(1002, "a frame from the client is not masked")
    if frame.opcode not in Opcode.__members__.values():
        raise WireError(1002, f"opcode {frame.opcode} is not assigned")
    if frame.opcode < Opcode.CLOSE:
        return
    if not frame.fin:
        raise WireError(1002, "a control frame is fragmented")
    if len(frame.payload) > MAX_CONTROL_PAYLOAD:
        raise WireError(1002, f"a control frame of {len(frame.payload)} bytes is longer than 125")
    if frame.rsv:
        raise WireError(1002, "a reserved bit is set on a control frame")


def decode_close(payload: bytes) -> tuple[int | None, str]:
    """Return code and reason of a CLOSE frame; the code is `None` where it was empty.

    Raises:
        WireError: The payload is one byte long (1002) or the reason is not UTF-8 (1007).
    """
    if not payload:
        return None, ""
    if len(payload) == 1:
        raise WireError(1002, "a CLOSE frame of one byte")
    (code,) = struct.unpack_from("!H", payload)
    return code, decode_text(payload[2:])
