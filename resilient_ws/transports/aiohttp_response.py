"""The response class by which aiohttp's WebSocket connection gets a parser of ours.

`ClientSession(ws_response_class=)` may bring a parser with a queue of its own, and something that stands in front of it.
aiohttp does not document that; `resilient_ws.transports.aiohttp_trial` tries it.
"""

from __future__ import annotations

from typing import Any

from aiohttp import ClientResponse, ClientWebSocketResponse
from aiohttp.http_websocket import WebSocketReader, WebSocketWriter

from resilient_ws.transports.aiohttp_deflate import DeflateQueue, Unpacker
from resilient_ws.transports.aiohttp_queue import DirectQueue
from resilient_ws.transports.whole_frames import Cutter


class Front:
    """What aiohttp believes to be its parser: it gets all bytes, so that none are missed that came with the handshake.

    Attributes:
        cutter: Takes what is read from the socket.
    """

    __slots__ = ("_limit", "_parser", "_queue", "cutter")

    def __init__(self, queue: DirectQueue, max_message_size: int) -> None:
        self._queue = queue
        self._limit = max_message_size
        self._parser: WebSocketReader | None = None  # until something comes that needs it
        if isinstance(queue, DeflateQueue):
            self.cutter: Cutter = Unpacker(queue, self.parse, max_message_size)
        else:
            self.cutter = Cutter(queue, self.parse, max_message_size)

    def parse(self, data: bytes) -> bool:
        """Gives the parser what is not cut out; returns whether it has found an error."""
        if self._parser is None:
            self._queue.get_ready()
            # aiohttp refuses a message of exactly its limit; ours is inclusive. Nothing compressed gets so far.
            self._parser = WebSocketReader(self._queue, self._limit + 1, compress=False, decode_text=True)
        return self._parser.feed_data(data)[0]

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Called by aiohttp, until there is a link that reads."""
        self.cutter.feed(data)
        return False, b""

    def feed_eof(self) -> None:
        """Called by aiohttp when the connection is lost."""
        self._queue.feed_eof()


def forget_handshake(http: Any, front: Front, queue: DirectQueue) -> None:
    """Lets aiohttp's protocol go of its queues and of its HTTP parser: three kilobytes that nothing asks any more."""
    http.set_parser(front, queue)
    # They have no public names. The parser would go with the connection; the buffer is one of HTTP answers.
    http._parser = None  # noqa: SLF001
    http._buffer = ()  # noqa: SLF001


class DirectResponse(ClientWebSocketResponse):
    """A response whose parser has a `DirectQueue`; aiohttp asks for the parser before the first frame is parsed.

    Attributes:
        cutter: Takes what is read from the socket.
    """

    def __init__(self, max_message_size: int, *args: Any, **kwargs: Any) -> None:
        self._front: Front | None = None
        super().__init__(*args, **kwargs)
        response: ClientResponse = args[3]
        assert response.connection is not None
        self.http: Any = response.connection.protocol
        self.frame_writer: WebSocketWriter = args[1]
        if self.compress:
            self.queue: DirectQueue = DeflateQueue(self.http, max_message_size)
        else:
            self.queue = DirectQueue(self.http)
        self._front = Front(self.queue, max_message_size)
        self.cutter = self._front.cutter

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
