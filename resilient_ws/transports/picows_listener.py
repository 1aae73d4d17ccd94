"""What picows tells, and what it is kept from doing by itself.

Messages, PINGs and PONGs do not get that far: once it is known where a frame begins they are cut out of each read, in a third
of the time (`resilient_ws.transports.whole_frames`), and picows is given the rest.

Where a peer breaks the protocol, picows writes a CLOSE in the moment in which it parses, before the program has seen what
came before. From the end of the handshake on it is therefore given a `Stub` for the transport of the socket: we read from
there that it has closed, and write the CLOSE ourselves.
"""

# The types that picows states are partial.
# pyright: reportIncompatibleMethodOverride=false, reportUnnecessaryComparison=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from resilient_ws.events import Message
from resilient_ws.transports.scratch import READ, scratch
from resilient_ws.transports.whole_frames import Cutter

if TYPE_CHECKING:
    from resilient_ws.transports.picows_link import PicowsLink

TEXT: Final = WSMsgType.TEXT
BINARY: Final = WSMsgType.BINARY


class PicowsListener(WSListener):
    """What picows tells: whole messages are gathered for the read of the moment, the rest is passed on."""

    def __init__(self, max_message_size: int) -> None:
        super().__init__()
        self.max_message_size = max_message_size
        self.connection: WSTransport | None = None  # writes to the socket, until there is a link
        self.parser: WSTransport | None = None  # writes to the stub
        self.is_gone = False  # the socket
        self.gone_with: Exception | None = None
        self.link: PicowsLink | None = None
        self.batch: list[Message] = []  # of the read of the moment
        self.append = self.batch.append
        self.bytes = 0  # of the messages in it
        self.tail = -1  # bytes behind the last frame of the read; -1 = there was none
        self.early: list[tuple[int, bytes, bool, bool]] = []
        self.direct = False  # until there is a link that reads, and while a message is not whole

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done; what came with it has not been parsed."""
        if self.parser is None:
            self.connection = transport
            socket: Any = transport.underlying_transport
            picows = socket.get_protocol()
            picows.connection_made(Stub(socket.get_extra_info("socket")))
            self.parser = picows.transport
            socket.set_protocol(Wire(self, picows))

    def on_ws_disconnected(self, _: WSTransport) -> None:
        """The socket is gone."""
        self.is_gone = True

    def on_ws_frame(self, _: WSTransport, frame: WSFrame) -> None:
        """A frame has come."""
        self.tail = frame.tail_size
        if self.direct and frame.fin and not (frame.rsv1 or frame.rsv2 or frame.rsv3):
            kind = frame.msg_type
            if kind is TEXT:
                try:
                    self.append(frame.get_payload_as_utf8_text())
                except UnicodeDecodeError:
                    pass  # the slow way says what is wrong
                else:
                    self.bytes += frame.payload_size
                    return
            elif kind is BINARY:
                self.append(frame.get_payload_as_bytes())
                self.bytes += frame.payload_size
                return
        if self.link is not None:
            self.link.take(*copy_of(frame))
        else:
            self.early.append(copy_of(frame))

    def control(self, opcode: int, payload: bytes) -> bool:
        """Takes a PING or a PONG; there is a link, since nothing is cut out before."""
        link = self.link
        assert link is not None
        link.take(opcode, payload, fin=True, reserved=False)
        return True

    def pause_writing(self) -> None:
        """The send buffer is fuller than it should be."""
        if self.link is not None:
            self.link.fill()

    def resume_writing(self) -> None:
        """It has room again."""
        if self.link is not None:
            self.link.drain()


class Wire(asyncio.BufferedProtocol):
    """Stands between the socket and picows, to know where a read begins and ends, and how it all ends."""

    __slots__ = ("_buffer", "_cuts", "_cutter", "_inner", "_listener", "_parser", "_scratch")

    def __init__(self, listener: PicowsListener, inner: Any) -> None:
        self._listener = listener
        self._inner = inner
        self._parser: WSTransport = inner.transport
        self._cutter = Cutter(listener, self._parse, listener.max_message_size)
        self._cuts = False  # picows has given all that came with the handshake
        self._buffer = self._scratch = scratch(READ)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns where to read to. With TLS all that has been decrypted has to fit in (see `aiohttp_direct`)."""
        self._buffer = self._cutter.room(sizehint, self._scratch)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come; where the peer has broken the protocol, nothing that follows means anything."""
        listener = self._listener
        link = listener.link
        buffer, self._buffer = self._buffer, self._scratch  # an idle connection is to hold little
        if link is None:
            if not self._parser.is_close_frame_sent:
                self._parse(bytes(buffer[:nbytes]))
            return
        link.read_begins()
        if link.broken:
            return
        cutter = self._cutter
        if self._cuts:
            cutter.read(buffer, nbytes)
        else:
            data = bytes(buffer[:nbytes])
            self._parse(data)
            if listener.direct and 0 <= listener.tail <= len(data):
                self._cuts = cutter.take_over(data[len(data) - listener.tail :])
        link.read_ends()

    def _parse(self, data: bytes) -> bool:
        """Gives picows what it has not read itself; returns whether it found an error, or we did."""
        rest = memoryview(data)  # its buffer is small at first: a copy of the rest for each part would add up
        while rest:
            buffer = self._inner.get_buffer(-1)
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            self._listener.tail = -1
            self._inner.buffer_updated(size)
            rest = rest[size:]
        link = self._listener.link
        return self._parser.is_close_frame_sent or link is None or link.broken

    def pause_writing(self) -> None:
        """The send buffer is fuller than it should be."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has room again."""
        self._inner.resume_writing()

    def eof_received(self) -> bool | None:
        """The peer sends no more; asyncio would first wait for our send buffer, which nobody may ever empty."""
        self._inner.eof_received()
        link = self._listener.link
        if link is None:
            return None
        link.lost(None, wakes=False)
        link.wake()
        return link.keeps_socket

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, perhaps before there is a link that reads."""
        listener = self._listener
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
        """Returns that there is room."""
        return 0

    def write(self, data: object) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Closes nothing."""


def copy_of(frame: WSFrame) -> tuple[int, bytes, bool, bool]:
    """Returns what outlives a frame: its kind, its payload, whether it is final, whether it has reserved bits."""
    reserved = bool(frame.rsv1 or frame.rsv2 or frame.rsv3)
    return int(cast("int", frame.msg_type)), frame.get_payload_as_bytes(), bool(frame.fin), reserved
