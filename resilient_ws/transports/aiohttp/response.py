"""A response class that gives aiohttp's WebSocket connection our parser.

`ClientSession(ws_response_class=)` may bring a parser with a queue of its own, and something that stands in front of it.
aiohttp does not document that; `resilient_ws.transports.aiohttp.probe` tries it.
"""

from __future__ import annotations

from typing import Any

from aiohttp import ClientResponse, ClientWebSocketResponse
from aiohttp.http_websocket import WebSocketWriter

from resilient_ws.transports.shared.frame_cutter import Cutter
from resilient_ws.transports.shared.inflate import Packer, Unpacker
from resilient_ws.transports.shared.stream_link import Intake


class Front:
    """What aiohttp believes to be its parser: it gets all bytes, so that none are missed that came with the handshake.

    Attributes:
        cutter: Takes what is read from the socket.
        intake: Takes what the cutter finds.
        ended: Whether the connection was lost.
    """

    __slots__ = ("cutter", "ended", "intake")

    def __init__(self, max_message_size: int, *, compresses: bool) -> None:
        self.intake = Intake()
        make = Unpacker if compresses else Cutter
        self.cutter: Cutter = make(self.intake, max_message_size)
        self.ended = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Handle data for aiohttp until a link reads."""
        self.cutter.feed(bytes(data))
        return False, b""

    def feed_eof(self) -> None:
        """Handle a lost connection."""
        self.ended = True

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Handle the end of the stream, which aiohttp also calls on a lost connection."""


def forget_handshake(http: Any, front: Front) -> None:
    """Let aiohttp's protocol go of its queues and of its HTTP parser: three kilobytes that nothing asks any more."""
    http.set_parser(front, front)
    # They have no public names. The parser would go with the connection; the buffer is one of HTTP answers.
    http._parser = None  # noqa: SLF001
    http._buffer = ()  # noqa: SLF001


class DirectResponse(ClientWebSocketResponse):
    """A response whose parser is a `Front`; aiohttp asks for the parser before the first frame is parsed.

    Attributes:
        front: Takes what is read from the socket.
        http: aiohttp's protocol.
        packer: Packs messages; `None` = they are not compressed.
    """

    def __init__(self, max_message_size: int, *args: Any, **kwargs: Any) -> None:
        self.front: Front | None = None
        super().__init__(*args, **kwargs)
        response: ClientResponse = args[3]
        assert response.connection is not None
        self.http: Any = response.connection.protocol
        writer: WebSocketWriter = args[1]
        bits = self.compress
        self.packer = Packer(bits, forgets=writer.notakeover) if bits else None
        self.front = Front(max_message_size, compresses=bool(bits))

    def forget_handshake(self) -> None:
        """Let go of what only the handshake needed."""
        assert self.front is not None
        forget_handshake(self.http, self.front)

    # That aiohttp's attribute is overridden is the point.
    @property
    def _parser(self) -> Any:
        return self.front

    @_parser.setter
    def _parser(self, parser: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Ignore the parser that aiohttp made."""
