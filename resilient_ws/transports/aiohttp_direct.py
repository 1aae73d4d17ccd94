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
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import ClientResponse, ClientWebSocketResponse, WebSocketError, WSMsgType
from aiohttp.http_websocket import WebSocketReader

from resilient_ws.events import Endpoint, Message
from resilient_ws.inbox import size_of
from resilient_ws.transports.aiohttp_link import AiohttpLink
from resilient_ws.transports.base import End, Receiver

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

    While `direct` is unset, data wait in aiohttp's queue, in order and bounded by it; pings and pongs never wait.
    Slots, because they are found faster than the attributes of a dictionary: a fifth of the time for each message.
    """

    __slots__ = ("append", "batch", "bytes", "direct", "early", "ended", "link", "max_message_size")

    def __init__(self, protocol: Any, loop: asyncio.AbstractEventLoop, max_message_size: int) -> None:
        super().__init__(protocol, HELD, loop=loop)
        self.max_message_size = max_message_size
        self.direct = False  # until there is a link that reads
        self.batch: list[Any] = []  # of the read of the moment
        self.append = self.batch.append
        self.bytes = 0
        self.link: DirectLink | None = None
        self.early: list[Any] = []
        self.ended: tuple[BaseException | None] | None = None

    def feed_data(self, data: Any, size: int) -> None:
        """Called by the parser for each message; must not raise."""
        kind = data[0]
        if self.direct and (kind is _TEXT or kind is _BINARY):
            self.append(data[1])
            self.bytes += size
        else:
            self._feed_slowly(data, size)

    def _feed_slowly(self, data: Any, size: int) -> None:
        link = self.link
        if data[0] is WSMsgType.PING or data[0] is WSMsgType.PONG:
            if link is None:
                self.early.append(data)
            else:
                link.take_frame(data)
        elif not self.direct or link is None:
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


class DeflateQueue(DirectQueue):
    """The same where a read of the socket does not bound what comes out of it."""

    __slots__ = ()

    def feed_data(self, data: Any, size: int) -> None:
        """Called by the parser for each message; must not raise."""
        if size > self.max_message_size and self.direct and self.link is not None:
            self.link.refuse_size()  # the parser lets one byte more pass than without compression
            return
        super().feed_data(data, size)
        if self.bytes >= HELD and self.link is not None:
            self.link.tell_batch()


class DirectResponse(ClientWebSocketResponse):
    """A response whose parser has a `DirectQueue`; aiohttp asks for the parser before the first frame is parsed."""

    def __init__(self, max_message_size: int, *args: Any, **kwargs: Any) -> None:
        self.parser: WebSocketReader | None = None
        super().__init__(*args, **kwargs)
        response: ClientResponse = args[3]
        assert response.connection is not None
        self.http: Any = response.connection.protocol
        make = DeflateQueue if self.compress else DirectQueue
        self.queue = make(self.http, asyncio.get_running_loop(), max_message_size)
        # aiohttp refuses a message of exactly its limit; ours is inclusive.
        self.parser = WebSocketReader(
            self.queue, max_message_size + 1, compress=bool(self.compress), decode_text=True
        )

    @property
    def _parser(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride] - that is the point
        return self.parser

    @_parser.setter
    def _parser(self, parser: Any) -> None:
        """What aiohttp made is not used."""


class _Wire(asyncio.Protocol):
    """Stands between the socket and aiohttp's protocol, to know where a read begins and ends, and how it all ends."""

    def __init__(self, link: DirectLink, http: Any, parser: WebSocketReader) -> None:
        self._link = link
        self._http = http
        self._feed = parser.feed_data
        self._began, self._ended = link.read_begins, link.tell_batch

    def data_received(self, data: bytes) -> None:
        self._began()
        self._feed(data)
        self._ended()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def eof_received(self) -> bool | None:
        return cast("bool | None", self._http.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)
        self._link.lost(exc)


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
        assert socket.parser is not None
        self._queue = socket.queue
        self._paused = False
        self._stopped = False  # the transport does not read
        self._pending: End | None = None
        transport.set_protocol(_Wire(self, socket.http, socket.parser))

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

    def read_begins(self) -> None:
        """Bytes have come: one clock reading for all that is in them."""
        self._frames += 1
        self._received_at = self._loop.time()

    def tell_batch(self) -> None:
        """Tells all messages that were parsed since the last call."""
        queue = self._queue
        batch = queue.batch
        if not batch or self._over:
            return
        self._messages += len(batch)
        self._message_at = self._received_at
        size, queue.bytes = queue.bytes, 0
        self._receiver.burst(batch, size)
        batch.clear()

    def pause(self) -> None:
        """Stops reading; what has been read already is held."""
        self._paused = True
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
            self.tell_batch()
            for _ in range(queue.held):
                frame = queue.take()
                if frame is not None and (frame[0] is _TEXT or frame[0] is _BINARY):
                    self._tell_message(frame[1])
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
        if self._pending is not None:
            self._finish(self._pending)
        elif self._stopped and not self._transport.is_closing():
            self._stopped = False
            self._transport.resume_reading()

    def _tell_message(self, message: Message) -> None:
        size = size_of(message)
        if size > self._max_message_size:
            self.refuse_size()
            return
        self._messages += 1
        self._receiver.message(message, size)

    def take_frame(self, frame: Any) -> None:
        """A control frame."""
        kind, data, extra = frame
        if self._over:
            return
        if kind is WSMsgType.PING:
            self._answer_ping(data)
        elif kind is WSMsgType.PONG:
            self._receiver.pong(bytes(data))
        else:
            self._finish(self._closed(int(data), str(extra or "")))

    def refuse_size(self) -> None:
        """A message is larger than we take."""
        self._finish(self._too_big())

    def note_end(self, error: BaseException | None) -> None:
        """The parser has come to an end: the peer broke the protocol, or the socket is gone (`lost` says why)."""
        if isinstance(error, WebSocketError):
            self.close(int(error.code), "")
            self._finish(self._broken(error))

    def lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        why = (
            "no CLOSE frame" if error is None else str(error.args[-1] if error.args else type(error).__name__)
        )
        self._finish(self._lost(f"the connection was lost: {why}"))

    def _finish(self, end: End) -> None:
        """Tells the end, after what came before."""
        self.tell_batch()
        if self._over:
            return
        if self._queue.held and self._paused:
            self._pending = self._pending or end
            return
        self._queue.direct = False
        self._end(end)


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

    def tell_batch(self) -> None:
        self.heard.append("batch")

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
    queue = DirectQueue(nobody, asyncio.get_running_loop(), 1000)
    parser = WebSocketReader(queue, 1001, compress=False, decode_text=True)
    parser.feed_data(b"\x81\x05early\x89\x01p")  # held: there is no link yet
    held = queue.take()
    queue.link, queue.direct = cast("Any", nobody), True
    parser.feed_data(b"\x81\x02hi\x82")
    parser.feed_data(b"\x01b\x8a\x01p\x01\x01a\x80\x01b")
    told, size = list(queue.batch), queue.bytes
    queue.direct = False
    parser.feed_data((b"\x82\x7e\x03\xe8" + bytes(1000)) * 1000)  # more than is held: the parser must stop
    stalled = queue.is_full and queue.held < 1000
    taken = 0
    while queue.take() is not None:
        taken += 1
    return (
        held is not None
        and held[1] == "early"
        and [frame[1] for frame in queue.early] == [b"p"]
        and (told, size) == (["hi", b"b", "ab"], 5)
        and nobody.heard[:2] == [(10, b"p"), "paused"]
        and stalled
        and taken == 1000
        and isinstance(inspect.getattr_static(ClientWebSocketResponse, "compress"), property)
    )
