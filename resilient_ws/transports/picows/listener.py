"""The picows listener, which takes over its frames and its automatic behaviour.

picows shakes hands. Some of what follows may come in the same read, and is parsed by picows; as soon as it is known where a
frame begins, the frames are ours (`resilient_ws.transports.shared.frame_cutter`), in a third of the time.

Where a peer breaks the protocol, picows writes a CLOSE in the moment in which it parses, before the program has seen what
came before. From the end of the handshake on it is therefore given a `Stub` for the transport of the socket: we read from
there that it has closed, and write the CLOSE ourselves.
"""

# The types that picows states are partial.
# pyright: reportIncompatibleMethodOverride=false, reportUnnecessaryComparison=false

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, cast

from picows import WSFrame, WSListener, WSTransport

from resilient_ws.api.close_codes import CloseCode
from resilient_ws.transports.shared.frame_cutter import Cutter, too_big
from resilient_ws.transports.shared.frame_writer import server_head
from resilient_ws.transports.shared.read_buffers import READ, scratch
from resilient_ws.transports.shared.stream_link import Intake

if TYPE_CHECKING:
    from resilient_ws.transports.picows.link import PicowsLink

PIECE: Final = 2048
"""Bytes that picows parses at once, until we can take over: sooner or later a frame ends."""


class PicowsListener(WSListener):
    """What picows tells of the first frames: they are put together again, for the one who judges them all.

    Attributes:
        cutter: Takes what is read from the socket.
        intake: Takes what the cutter finds.
    """

    def __init__(self, max_message_size: int) -> None:
        super().__init__()
        self.intake = Intake()
        self.cutter = Cutter(self.intake, max_message_size)
        self.max_message_size = max_message_size
        self.connection: WSTransport | None = None  # writes to the socket, until there is a link
        self.parser: WSTransport | None = None  # writes to the stub
        self.is_gone = False  # the socket
        self.gone_with: Exception | None = None
        self.link: PicowsLink | None = None
        self.tail = -1  # bytes behind the last frame that picows has parsed; -1 = there was none
        self.early: list[bytes] = []  # frames

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Take over after the handshake; bytes behind it have not been parsed."""
        if self.parser is None:
            self.connection = transport
            socket: Any = transport.underlying_transport
            picows = socket.get_protocol()
            picows.connection_made(Stub(socket.get_extra_info("socket")))
            self.parser = picows.transport
            socket.set_protocol(Wire(self, picows))

    def on_ws_disconnected(self, _: WSTransport) -> None:
        """Handle the loss of the socket."""
        self.is_gone = True

    def on_ws_frame(self, _: WSTransport, frame: WSFrame) -> None:
        """Handle a frame."""
        self.tail = frame.tail_size
        self.early.append(copy_of(frame))

    def take_early(self) -> None:
        """Hand over what picows has parsed, and what it has found wrong behind that."""
        early, self.early = b"".join(self.early), []
        cutter, parser = self.cutter, self.parser
        if parser is not None and parser.is_close_frame_sent and cutter.fault is None:
            handshake: Any = parser.close_handshake
            code, why = int(handshake.sent.code), str(handshake.sent.reason or "it says no more")
            if code == CloseCode.MESSAGE_TOO_BIG:
                sizes = [int(number) for number in re.findall(r"\d+", why)]
                why = too_big(max([self.max_message_size + 1, *sizes]), self.max_message_size)
            cutter.fault = code, why
        cutter.feed(early)


class Wire(asyncio.BufferedProtocol):
    """Stands between the socket and picows, to know where a read begins and ends, and how it all ends."""

    __slots__ = ("_buffer", "_cuts", "_cutter", "_inner", "_listener", "_scratch")

    def __init__(self, listener: PicowsListener, inner: Any) -> None:
        self._listener = listener
        self._inner = inner
        self._cutter = listener.cutter
        self._cuts = False  # picows has given all that came with the handshake
        self._buffer = self._scratch = scratch(READ)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to. With TLS all that has been decrypted has to fit in (see `aiohttp_direct`)."""
        self._buffer = self._cutter.room(sizehint, self._scratch)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        link = self._listener.link
        buffer, self._buffer = self._buffer, self._scratch  # an idle connection is to hold little
        if link is not None:
            link.read_begins()
        if self._cuts:
            self._cutter.read(buffer, nbytes)
        else:
            self._parse(bytes(buffer[:nbytes]))
        if link is not None:
            link.read_ends()

    def _parse(self, data: bytes) -> None:
        """Give picows what comes first, until it is known where a frame begins."""
        listener, cutter = self._listener, self._cutter
        position = 0
        while position < len(data) and cutter.fault is None and not cutter.over:
            if not self._cuts and listener.tail == 0:
                self._cuts = True
            if self._cuts:
                cutter.feed(data[position:])
                return
            piece = data[position : position + PIECE]
            position += len(piece)
            self._give(piece)
            listener.take_early()
            if 0 < listener.tail <= len(piece):  # the beginning of a frame, which picows holds
                self._cuts = True
                cutter.feed(piece[len(piece) - listener.tail :] + data[position:])
                return

    def _give(self, data: bytes) -> None:
        rest = memoryview(data)
        self._listener.tail = -1
        while rest:
            buffer = self._inner.get_buffer(-1)
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            before, self._listener.tail = self._listener.tail, -1
            self._inner.buffer_updated(size)
            rest = rest[size:]
            if self._listener.tail < 0 <= before:
                self._listener.tail = before + size  # no frame has ended since

    def pause_writing(self) -> None:
        """Note that the send buffer is above its high-water mark."""
        if self._listener.link is not None:
            self._listener.link.fill()

    def resume_writing(self) -> None:
        """Note that the send buffer has room again."""
        if self._listener.link is not None:
            self._listener.link.drain()

    def eof_received(self) -> bool | None:
        """Handle a FIN at once; asyncio would first wait for the send buffer, which may never drain."""
        self._inner.eof_received()
        link = self._listener.link
        if link is None:
            return None
        link.lost(None, wakes=False)
        link.wake()
        return link.keeps_socket

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the socket, perhaps before a link reads."""
        listener = self._listener
        listener.is_gone = True
        listener.gone_with = exc
        self._inner.connection_lost(exc)
        if listener.link is not None:
            listener.link.lost(exc, wakes=False)
            listener.link.wake()


class Stub(asyncio.Transport):
    """Takes the place of the socket's transport for what picows does by itself: it writes and closes nothing."""

    def __init__(self, sock: object) -> None:
        # With a TLS object picows writes to its transport, never to the socket behind it.
        super().__init__({"socket": sock, "ssl_object": self})

    def get_write_buffer_size(self) -> int:
        """Return that there is room."""
        return 0

    def write(self, data: object) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


def copy_of(frame: WSFrame) -> bytes:
    """Return a frame as it was read."""
    reserved = (frame.rsv1 << 6) | (frame.rsv2 << 5) | (frame.rsv3 << 4)
    payload = frame.get_payload_as_bytes()
    first = (0x80 if frame.fin else 0) | reserved | int(cast("int", frame.msg_type))
    return server_head(first, len(payload)) + payload
