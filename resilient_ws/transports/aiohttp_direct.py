"""Messages handed over where aiohttp parses them: no task, no queue and no message object in between.

This needs parts of aiohttp that it does not document: its frame parser calls `feed_data` of a queue, and a response
class may bring a parser with a queue of its own. `is_supported` tries them once, before the first connection; where
anything looks different, `resilient_ws.transports.aiohttp_link` reads through the public API instead. What the parser
does to stay within bounds is kept: it stops when its queue is full, which is also what bounds a decompression bomb.

Measured with `python -m benchmarks receive`; the figures are in `docs/performance.md`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import ClientResponse, ClientWebSocketResponse, WebSocketError, WSMsgType
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_websocket import WebSocketReader

from resilient_ws.events import Endpoint, Message
from resilient_ws.heartbeat import Reading
from resilient_ws.inbox import size_of
from resilient_ws.transports.aiohttp_link import AiohttpLink
from resilient_ws.transports.base import End, Receiver, Sink

if TYPE_CHECKING:
    from aiohttp._websocket.reader_py import WebSocketDataQueue
else:
    try:
        from aiohttp._websocket.reader import WebSocketDataQueue
    except ImportError:  # an aiohttp that is laid out differently: `is_supported` says no
        WebSocketDataQueue = object

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY

HELD: Final = 256 * 1024
"""Bytes in aiohttp's own queue, while ours does not take messages, from twice which on its parser stops."""

log = logging.getLogger("resilient_ws")


class DirectQueue(WebSocketDataQueue):
    """What the parser believes to be its queue.

    While `holds` is set, data wait in aiohttp's queue, in order and bounded by it; pings and pongs never wait.
    """

    def __init__(
        self, protocol: Any, loop: asyncio.AbstractEventLoop, receiver: Receiver, max_message_size: int
    ) -> None:
        super().__init__(protocol, HELD, loop=loop)
        self.receiver = receiver
        self.max_message_size = max_message_size
        self.holds = True  # until there is a link that reads
        self.sink: Sink | None = None  # during one read, where messages go directly
        self.items: deque[Any] = deque()
        self.messages = 0
        self.bytes = 0
        self.link: DirectLink | None = None
        self.early: list[Any] = []
        self.ended: tuple[BaseException | None] | None = None

    def feed_data(self, data: Any, size: int) -> None:
        """Called by the parser for each message; must not raise."""
        kind = data[0]
        sink = self.sink
        if sink is not None and (kind is _TEXT or kind is _BINARY):
            self.items.append(data[1])
            self.messages += 1
            self.bytes += size
            if sink.wake is not None:
                sink.rouse()
        elif self.holds or (kind is not _TEXT and kind is not _BINARY) or size > self.max_message_size:
            self._feed_slowly(data, size)
        else:
            self.messages += 1
            self.receiver.message(data[1], size)

    def _feed_slowly(self, data: Any, size: int) -> None:
        link = self.link
        if data[0] is WSMsgType.PING or data[0] is WSMsgType.PONG:
            if link is None:
                self.early.append(data)
            else:
                link.take_frame(data)
        elif self.holds or link is None:
            super().feed_data(data, size)
        else:
            link.take_frame(data)

    @property
    def held(self) -> int:
        """How many messages wait here."""
        return len(self._buffer)

    @property
    def is_full(self) -> bool:
        """Whether the parser stops."""
        return self._size > self._limit

    def take(self) -> Any:
        """Takes the oldest message that is held; `None` if there is none. The parser goes on when it may."""
        if not self._buffer:
            return None
        step = self.read()
        try:
            step.send(None)
        except StopIteration as done:
            return done.value
        raise RuntimeError("a queue that holds messages did not give one")

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:  # noqa: ARG002
        """Called when the parser found an error."""
        self._note_end(exc)

    def feed_eof(self) -> None:
        """Called when the connection was lost."""
        self._note_end(None)

    def _note_end(self, error: BaseException | None) -> None:
        if self.ended is None:
            self.ended = (error,)
            if self.link is not None:
                self.link.note_end(error)


class DirectResponse(ClientWebSocketResponse):
    """A response whose parser has a `DirectQueue`; aiohttp asks for the parser before the first frame is parsed."""

    def __init__(self, receiver: Receiver, max_message_size: int, *args: Any, **kwargs: Any) -> None:
        self.parser: WebSocketReader | None = None
        super().__init__(*args, **kwargs)
        response: ClientResponse = args[3]
        assert response.connection is not None
        self.http: Any = response.connection.protocol
        self.queue = DirectQueue(self.http, asyncio.get_running_loop(), receiver, max_message_size)
        self.parser = WebSocketReader(
            self.queue, max_message_size + 1, compress=bool(self.compress), decode_text=True
        )

    @property
    def _parser(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride] - that is the point
        return self.parser

    @_parser.setter
    def _parser(self, parser: Any) -> None:
        """What aiohttp made is not used."""


class DirectLink(AiohttpLink):
    """A `Link` that needs no reader task."""

    def __init__(
        self,
        socket: DirectResponse,
        response: ClientResponse,
        transport: asyncio.Transport,
        receiver: Receiver,
        endpoint: Endpoint,
        max_message_size: int,
    ) -> None:
        super().__init__(socket, response, transport, receiver, endpoint, max_message_size)
        self._queue = socket.queue
        self._http = socket.http
        self._compresses = bool(socket.compress)
        self._paused = False
        self._stopped = False  # the transport does not read
        self._pending: End | None = None
        self._counted = 0  # messages before the read of the moment
        # aiohttp has done this already, with the queue of its own that nobody uses.
        self._http.set_parser(socket.parser, self._queue, data_received_cb=self._read_begins)

    def _read_begins(self) -> None:
        """Bytes have come: what is done once for all that is in them."""
        self._settle()
        self._frames += 1
        self._received_at = self._loop.time()
        queue = self._queue
        if not queue.holds and not self._compresses:
            sink = queue.sink = self._receiver.sink
            if sink is not None:
                queue.items = sink.items

    def _settle(self) -> None:
        """Accounts for the read before."""
        queue = self._queue
        if queue.messages != self._messages:
            self._messages = queue.messages
            self._message_at = self._received_at
        sink, queue.sink = queue.sink, None
        if sink is not None and queue.bytes:
            size, queue.bytes = queue.bytes, 0
            sink.settle(size)

    def look(self, *, paused: bool) -> Reading:
        """Returns what the connection shows now, for the heartbeat."""
        self._settle()
        return super().look(paused=paused)

    async def read(self) -> None:
        """Begins to tell; the parser calls from then on."""
        queue = self._queue
        queue.link = self
        for frame in queue.early:
            self.take_frame(frame)
        queue.early.clear()
        self._let_go()
        if queue.ended is not None:
            self.note_end(queue.ended[0])

    def pause(self) -> None:
        """Stops reading; what has been read already is held."""
        self._settle()
        self._paused = self._queue.holds = True
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
        if not self._over:
            self._settle()
            self._over = True
            for _ in range(self._queue.held):
                frame = self._queue.take()
                if frame is not None and (frame[0] is _TEXT or frame[0] is _BINARY):
                    self._tell_message(frame[1])
        self._queue.link = _DEAF
        self._queue.holds = False
        super().abort()

    def _let_go(self) -> None:
        """Tells what is held, as long as nobody pauses again; then the parser tells by itself."""
        if self._over or self._queue.link is None:
            return
        queue = self._queue
        while not self._paused and not self._over and (frame := queue.take()) is not None:
            if frame[0] is _TEXT or frame[0] is _BINARY:
                self._tell_message(frame[1])
            else:
                self.take_frame(frame)
        if self._paused or self._over:
            return
        queue.holds = False
        if self._pending is not None:
            self._finish(self._pending)
        elif self._stopped and not self._transport.is_closing():
            self._stopped = False
            self._transport.resume_reading()

    def _tell_message(self, message: Message) -> None:
        size = size_of(message)
        if size > self._max_message_size:
            self._finish(self._too_big())
            return
        self._queue.messages += 1
        self._receiver.message(message, size)

    def take_frame(self, frame: Any) -> None:
        """A control frame, or a message that is too big."""
        kind, data, extra = frame
        if self._over:
            return
        if kind is WSMsgType.PING:
            self._answer_ping(data)
        elif kind is WSMsgType.PONG:
            self._receiver.pong(bytes(data))
        elif kind is WSMsgType.CLOSE:
            self._finish(self._closed(int(data), str(extra or "")))
        else:
            self._finish(self._too_big())

    def note_end(self, error: BaseException | None) -> None:
        """The parser, or the connection, has come to an end."""
        if isinstance(error, WebSocketError):
            self.close(int(error.code), "")
            self._finish(self._broken(error))
        else:
            self._loop.call_soon(self._tell_lost)  # aiohttp learns the reason a moment later

    def _tell_lost(self) -> None:
        error = self._http.exception()
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no CLOSE frame"
        self._finish(self._lost(f"the connection was lost: {why}"))

    def _finish(self, end: End) -> None:
        """Tells the end, after what is held."""
        if self._over:
            return
        if self._queue.held and self._queue.holds:
            self._pending = end
            return
        self._settle()
        self._over = True
        self._receiver.ended(end)


class _Deaf:
    """Takes the place of a link that is over."""

    def take_frame(self, frame: Any) -> None:
        pass

    def note_end(self, error: BaseException | None) -> None:
        pass


_DEAF: Final[Any] = _Deaf()


class _Nobody:
    """Stands for protocol and receiver while the parser is tried."""

    _reading_paused = False

    def __init__(self) -> None:
        self.heard: list[object] = []

    def message(self, message: object, size: int) -> None:
        self.heard.append((message, size))

    def take_frame(self, frame: Any) -> None:
        self.heard.append((int(frame[0]), bytes(frame[1])))

    def pause_reading(self) -> None:
        self.heard.append("paused")

    def resume_reading(self) -> None:
        self.heard.append("resumed")


@functools.cache
def is_supported() -> bool:
    """Whether the parser of this aiohttp does what this module relies on; logged once where it does not."""
    if os.environ.get("RESILIENT_WS_PLAIN"):
        return False
    try:
        supported = _try_parser()
    except Exception as error:  # whatever is different, the plain way works
        log.debug("the direct way was tried", exc_info=error)
        supported = False
    if not supported:
        log.info("this aiohttp is read through its public API, which is slower")
    return supported


def _try_parser() -> bool:
    nobody = _Nobody()
    queue = DirectQueue(nobody, asyncio.get_running_loop(), cast("Any", nobody), 1000)
    parser = WebSocketReader(queue, 1001, compress=False, decode_text=True)
    parser.feed_data(b"\x81\x05early\x89\x01p")  # held: there is no link yet
    queue.link, queue.holds = cast("Any", nobody), False
    held = queue.take()
    parser.feed_data(b"\x81\x02hi\x82")
    parser.feed_data(b"\x01b\x8a\x01p\x01\x01a\x80\x01b")
    queue.holds = True
    parser.feed_data((b"\x82\x7e\x03\xe8" + bytes(1000)) * 1000)  # more than is held: the parser must stop
    stalled = queue.is_full and queue.held < 1000
    taken = 0
    while queue.take() is not None:
        taken += 1
    expected = [("hi", 2), (b"b", 1), (10, b"p"), ("ab", 2), "paused"]
    signature = inspect.signature(ResponseHandler.set_parser)
    return (
        held is not None
        and held[1] == "early"
        and [frame[1] for frame in queue.early] == [b"p"]
        and nobody.heard[: len(expected)] == expected
        and stalled
        and taken == 1000
        and "data_received_cb" in signature.parameters
        and isinstance(inspect.getattr_static(ClientWebSocketResponse, "compress"), property)
    )
