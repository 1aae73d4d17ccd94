"""Messages handed over where aiohttp parses them, and written where the socket is: no task, queue or object between.

It is used where `resilient_ws.transports.aiohttp_trial` finds that aiohttp has what it needs. Measured with
`python -m benchmarks`; the figures are in `docs/performance.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from aiohttp import WebSocketError, WSMsgType
from aiohttp.connector import Connection

from resilient_ws.closing import CloseCode
from resilient_ws.endpoints import Endpoint
from resilient_ws.errors import ConnectionLost
from resilient_ws.events import Message
from resilient_ws.inbox import size_of
from resilient_ws.transports.aiohttp_link import LOST, AiohttpLink
from resilient_ws.transports.aiohttp_outlet import Outlet
from resilient_ws.transports.aiohttp_queue import DirectQueue
from resilient_ws.transports.aiohttp_response import DirectResponse
from resilient_ws.transports.base import End, Receiver
from resilient_ws.transports.frames import PING
from resilient_ws.transports.scratch import READ, scratch
from resilient_ws.transports.socket_link import LAST_ANSWERS
from resilient_ws.transports.whole_frames import Cutter

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY

NARROW: Final = 32 * 1024
"""Bytes that one read takes in at most where messages are unpacked: that may take a thousand times as long."""


class _Between(asyncio.BufferedProtocol):
    """Stands between the socket and aiohttp's protocol, to know where a read begins and ends, and how it all ends.

    All connections read into one buffer. asyncio would make one of 256 KiB for each read, and a C library may ask the system
    for each. With TLS all that has been decrypted has to fit into the buffer: of what does not, asyncio and uvloop lose what
    has come before an end of the stream. They say how much that is; without TLS their hint means nothing.
    """

    __slots__ = ("_http", "_link", "_outlet")

    def __init__(self, link: DirectLink, http: Any, outlet: Outlet) -> None:
        self._link = link
        self._outlet = outlet
        self._http = http

    def pause_writing(self) -> None:
        self._outlet.fill()
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._outlet.drain()
        self._http.resume_writing()

    def eof_received(self) -> bool | None:
        self._http.eof_received()
        # asyncio would first wait for our send buffer, which nobody may ever empty.
        self._link.lost(None, wakes=False)
        self._link.wake()
        return self._link.keeps_socket

    def connection_lost(self, exc: Exception | None) -> None:
        self._outlet.drain()
        self._link.lost(exc, wakes=False)
        asyncio.get_running_loop().call_soon(self._http.connection_lost, exc)  # the program is told first
        self._link.wake()


class _Wire(_Between):
    """Takes messages as they are."""

    __slots__ = ("_began", "_buffer", "_cutter", "_ended", "_scratch")

    def __init__(self, link: DirectLink, cutter: Cutter, http: Any, outlet: Outlet) -> None:
        super().__init__(link, http, outlet)
        self._cutter = cutter
        self._buffer = self._scratch = scratch(READ)
        self._began, self._ended = link.read_begins, link.read_ends

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = self._cutter.room(sizehint, self._scratch)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._began()
        buffer, self._buffer = self._buffer, self._scratch  # an idle connection is to hold little
        self._cutter.read(buffer, nbytes)
        self._ended()


class _NarrowWire(_Between):
    """Takes so little in one read that to unpack it does not hold up the event loop."""

    __slots__ = ("_began", "_buffer", "_cutter", "_ended", "_is_tls", "_scratch")

    def __init__(self, link: DirectLink, cutter: Cutter, http: Any, outlet: Outlet) -> None:
        super().__init__(link, http, outlet)
        self._cutter = cutter
        self._buffer = self._scratch = scratch(NARROW)
        self._is_tls = link.is_tls
        self._began, self._ended = link.read_begins, link.long_read_ends

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = self._cutter.room(sizehint if self._is_tls else 0, self._scratch)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._began()
        data, self._buffer = bytes(self._buffer[:nbytes]), self._scratch
        self._cutter.feed(data)
        self._ended()


class DirectLink(AiohttpLink):
    """A `Link` that needs no reader task."""

    __slots__ = ("_compresses", "_feed", "_outlet", "_paused", "_pending", "_queue", "_stopped")

    def __init__(
        self,
        socket: DirectResponse,
        connection: Connection,
        transport: asyncio.Transport,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        max_message_size: int,
    ) -> None:
        super().__init__(
            socket,
            connection,
            transport,
            receiver,
            endpoint,
            headers=headers,
            max_message_size=max_message_size,
        )
        self._queue = socket.queue
        self._paused = False
        self._stopped = False  # the transport does not read
        self._pending: End | None = None  # of a socket that is gone before anybody reads
        self._compresses = bool(socket.compress)
        self._outlet = Outlet(transport, socket.frame_writer if self._compresses else None)
        self._feed = socket.cutter.feed
        wire = _NarrowWire if self._compresses else _Wire
        transport.set_protocol(wire(self, socket.cutter, socket.http, self._outlet))
        socket.forget_handshake()
        if self._compresses:
            self._stop()  # what is read now would wait in front of the parser, without a bound
        else:
            del self._socket  # only compressed messages go through it; it holds request and answer

    # --- out ---

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hands one message to the socket."""
        outlet = self._outlet
        if self._compresses:
            return super().write(message) or outlet.room
        if self._sent_code is not None:
            self._check_open()
        self._written += outlet.message(message)
        return outlet.room if outlet.full else None

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hands several messages to the socket at once."""
        self._check_open()
        if self._compresses:
            with self._outlet.joined():
                rest = super().write_all(messages)
            return rest or self._outlet.room
        self._written += self._outlet.messages(messages)
        return self._outlet.room

    def _control(self, payload: bytes, opcode: int) -> None:
        try:
            self._written += self._outlet.control(opcode, payload)
        except ConnectionLost:
            return  # `lost` tells it

    # --- in ---

    def read(self) -> None:
        """Begins to tell; the parser calls from then on."""
        queue = self._queue
        queue.link = self
        self._let_go()
        if queue.ended is not None:
            self.note_end(queue.ended[0])
        if self._pending is not None:
            self._finish(self._pending)  # unless the peer has broken the protocol before

    def read_begins(self) -> None:
        """Bytes have come: one clock reading for all that is in them."""
        self._frames += 1
        self._received_at = self._loop.time()

    def read_ends(self) -> None:
        """They have been parsed."""
        self._tell_batch(wakes=False)
        self._receiver.wake()

    def long_read_ends(self) -> None:
        """The same where what was read may not have been unpacked."""
        self._tell_all(wakes=False)
        self._receiver.wake()

    def _tell_batch(self, *, wakes: bool = True) -> None:
        """Tells all messages that were parsed since the last call."""
        queue = self._queue
        batch = queue.batch
        if not batch or self._over:
            return
        self._messages += len(batch)
        self._message_at = self._received_at
        size, queue.bytes = queue.bytes, 0
        try:
            self._receiver.burst(batch, size, wakes=wakes)
        finally:
            batch.clear()  # whatever it raises must not come again at the end

    def _tell_all(self, *, wakes: bool = True) -> None:
        """Tells all that was read, one batch after the other, as long as nobody pauses."""
        self._tell_batch(wakes=wakes)
        queue = self._queue
        while queue.stalled and queue.direct:
            self._feed(b"")
            self._tell_batch(wakes=wakes)

    def pause(self) -> None:
        """Stops reading; what has been read already is held."""
        self._paused = True
        self._stop()

    def _stop(self) -> None:
        self._queue.direct = False
        if not self._stopped and not self._transport.is_closing():
            self._stopped = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Goes on reading, with what is held first."""
        if self._paused:
            self._paused = False
            self._resumed_at = self._loop.time()
            self._let_go()

    def abort(self) -> None:
        """Frees the socket now. Messages that were read before are told, though nobody reads on."""
        queue = self._queue
        if not self._over:
            self._tell_batch()
            self._tell_held()
            self._over = True
        queue.link = _DEAF
        queue.direct = False
        super().abort()

    def _let_go(self) -> None:
        """Tells what is held, as long as nobody pauses again; then the parser tells by itself."""
        queue = self._queue
        if self._over or queue.link is None:
            return
        while not self._paused and not self._over and (frame := queue.take()) is not None:
            if frame[0] is _TEXT or frame[0] is _BINARY:
                self._tell_message(frame[1])
            else:
                self.take_frame(frame)
        if self._paused or self._over:
            return
        queue.direct = True
        self._tell_all()
        if self._paused or self._over:
            return
        if self._stopped and not self._transport.is_closing():
            self._stopped = False
            self._transport.resume_reading()

    def _tell_message(self, message: Message) -> None:
        self._messages += 1
        self._receiver.message(message, size_of(message))

    def take_frame(self, frame: Any) -> None:
        """A control frame."""
        kind, data, extra = frame
        if self._over:
            return
        if kind is WSMsgType.CLOSE:
            self._finish(self._closed(int(data), str(extra or "")))
        else:
            self.take_control(int(kind), bytes(data))

    def take_control(self, opcode: int, payload: bytes) -> None:
        """A PING or a PONG."""
        if self._over:
            return
        if opcode == PING:
            self._answer_ping(payload)
        else:
            self._receiver.pong(payload)

    def note_end(self, error: BaseException | None) -> None:
        """The parser has come to an end: the peer broke the protocol, or the socket is gone (`lost` says why)."""
        if error is None or isinstance(error, LOST):
            return
        if self._leaving is None:
            self._leaving = self._loop.call_later(LAST_ANSWERS, self._give_up, error)

    def _give_up(self, error: BaseException) -> None:
        """The parser reads no more, whatever comes."""
        self._leaving = None
        if not self._over:
            code = int(error.code) if isinstance(error, WebSocketError) else int(CloseCode.INVALID_DATA)
            self.close(code, "")
            self._finish(self._broken(error))

    def lost(self, error: Exception | None, *, wakes: bool = True) -> None:
        """The socket is gone; without `wakes` `wake` follows."""
        self._finish(self._lost_with(error), wakes=wakes)

    def _finish(self, end: End, *, wakes: bool = True) -> None:
        """Tells the end, after what came before."""
        self._tell_batch()
        if self._over:
            return
        if self._queue.link is None:
            self._pending = end
            return
        if self._paused and (close := self._tell_held()) is not None:
            end = self._closed(int(close[1]), str(close[2] or ""))
        self._stop()
        self._end(end, wakes=wakes)

    def _tell_held(self) -> Any:
        """Tells the messages that are held, though nobody takes them; returns the CLOSE behind them, if there is one."""
        queue = self._queue
        for _ in range(queue.held):
            frame = queue.take()
            if frame is None or frame[0] is WSMsgType.CLOSE:
                return frame
            if frame[0] is _TEXT or frame[0] is _BINARY:
                self._tell_message(frame[1])
        if not queue.stalled:
            return None
        last = queue.link = _LastWord(queue)
        queue.direct = True
        self._feed(b"")  # one batch more: what waits may be a thousand times as large
        self._tell_batch()
        return last.close


class _Deaf:
    """Takes the place of a link that is over."""

    def take_frame(self, frame: Any) -> None:
        pass

    def take_control(self, opcode: int, payload: bytes) -> None:
        pass

    def note_end(self, error: BaseException | None) -> None:
        pass


class _LastWord(_Deaf):
    """Takes the place of a link that is about to be over: hears the CLOSE behind what was read before."""

    def __init__(self, queue: DirectQueue) -> None:
        self._queue = queue
        self.close: Any = None

    def take_frame(self, frame: Any) -> None:
        if frame[0] is WSMsgType.CLOSE and self.close is None:
            self.close = frame
            self._queue.direct = False  # what follows it is not told


_DEAF: Final[Any] = _Deaf()
