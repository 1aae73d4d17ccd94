"""What aiohttp's frame parser is given in place of its queue, and the response class that gives it.

The parser calls `feed_data` of a queue for each message, and `ClientSession(ws_response_class=)` may bring a parser
with a queue of its own. aiohttp documents neither; `resilient_ws.transports.aiohttp_trial` tries both. What the parser
does to stay within bounds is kept: it stops when its queue is full, which is also what bounds a decompression bomb.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import ClientResponse, ClientWebSocketResponse, WSMsgType
from aiohttp.http_websocket import WebSocketReader, WebSocketWriter

from resilient_ws.transports.whole_frames import Cutter

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


class Hearer(Protocol):
    """Who is told what the queue does not keep."""

    def take_frame(self, frame: Any) -> None:
        """A control frame."""

    def tell_batch(self) -> None:
        """There is a batch, and it is large."""

    def refuse_size(self) -> None:
        """A message is larger than we take."""

    def note_end(self, error: BaseException | None) -> None:
        """The parser has come to an end."""


class DirectQueue(WebSocketDataQueue):
    """What the parser believes to be its queue.

    While `direct` is unset, data wait in aiohttp's queue, in order and bounded by it; pings and pongs never wait.
    Slots, because they are found faster than the attributes of a dictionary: a fifth of the time for each message.
    """

    __slots__ = ("append", "batch", "bytes", "direct", "ended", "link", "max_message_size")

    def __init__(self, protocol: Any, loop: asyncio.AbstractEventLoop, max_message_size: int) -> None:
        super().__init__(protocol, HELD, loop=loop)
        self.max_message_size = max_message_size
        self.direct = False  # until there is a link that reads
        self.batch: list[Any] = []  # of the read of the moment
        self.append = self.batch.append
        self.bytes = 0
        self.link: Hearer | None = None
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
        if link is not None and (self.direct or data[0] is WSMsgType.PING or data[0] is WSMsgType.PONG):
            link.take_frame(data)
        else:
            super().feed_data(data, size)

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

    __slots__ = ("_alarm",)

    def __init__(self, protocol: Any, loop: asyncio.AbstractEventLoop, max_message_size: int) -> None:
        super().__init__(protocol, loop, max_message_size)
        self._alarm = min(
            HELD, max_message_size + 1
        )  # bytes in the batch up to which nothing has to be asked

    def feed_data(self, data: Any, size: int) -> None:
        """Called by the parser for each message; must not raise."""
        kind = data[0]
        total = self.bytes + size
        if self.direct and total < self._alarm and (kind is _TEXT or kind is _BINARY):
            self.append(data[1])
            self.bytes = total
        elif not (self.direct and (kind is _TEXT or kind is _BINARY)):
            self._feed_slowly(data, size)
        elif size > self.max_message_size and self.link is not None:
            self.link.refuse_size()  # the parser lets one byte more pass than without compression
        else:
            self.append(data[1])
            self.bytes = total
            if total >= HELD and self.link is not None:
                self.link.tell_batch()


class Front:
    """What aiohttp believes to be its parser: it gets all bytes, so that none are missed that came with the handshake."""

    def __init__(self, parser: WebSocketReader, feed: Callable[[bytes], object]) -> None:
        self._feed = feed
        self.feed_eof = parser.feed_eof

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Called by aiohttp, until there is a link that reads."""
        self._feed(data)
        return False, b""


def forget_handshake(http: Any, front: Front, queue: DirectQueue) -> None:
    """Lets aiohttp's protocol go of its queues and of its HTTP parser: three kilobytes that nothing asks any more."""
    http.set_parser(front, queue)
    # They have no public names. The parser would go with the connection; the buffer is one of HTTP answers.
    http._parser = None  # noqa: SLF001
    http._buffer = ()  # noqa: SLF001


class DirectResponse(ClientWebSocketResponse):
    """A response whose parser has a `DirectQueue`; aiohttp asks for the parser before the first frame is parsed.

    Attributes:
        feed: Takes what is read from the socket.
    """

    def __init__(self, max_message_size: int, *args: Any, **kwargs: Any) -> None:
        self._front: Front | None = None
        super().__init__(*args, **kwargs)
        response: ClientResponse = args[3]
        assert response.connection is not None
        self.http: Any = response.connection.protocol
        self.frame_writer: WebSocketWriter = args[1]
        make = DeflateQueue if self.compress else DirectQueue
        self.queue = make(self.http, asyncio.get_running_loop(), max_message_size)
        # aiohttp refuses a message of exactly its limit; ours is inclusive.
        parser = WebSocketReader(
            self.queue, max_message_size + 1, compress=bool(self.compress), decode_text=True
        )
        self.feed: Callable[[bytes], object] = parser.feed_data
        if not self.compress:
            self.feed = Cutter(self.queue, lambda data: parser.feed_data(data)[0], max_message_size).feed
        self._front = Front(parser, self.feed)

    def forget_handshake(self) -> None:
        """Lets go of what only the handshake needed."""
        assert self._front is not None
        forget_handshake(self.http, self._front, self.queue)

    # That aiohttp's attribute is overridden is the point.
    @property
    def _parser(self) -> Any:
        return self._front

    @_parser.setter
    def _parser(self, parser: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What aiohttp made is not used."""
