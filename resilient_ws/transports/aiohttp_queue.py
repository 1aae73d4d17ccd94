"""What aiohttp's frame parser is given in place of its queue.

The parser calls `feed_data` of a queue for each message, which aiohttp does not document;
`resilient_ws.transports.aiohttp_trial` tries it. What the parser does to stay within bounds is kept: it stops when its
queue is full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import WSMsgType

if TYPE_CHECKING:
    from aiohttp._websocket.reader_py import WebSocketDataQueue
else:
    try:
        from aiohttp._websocket.reader import WebSocketDataQueue
    except ImportError:  # an aiohttp that is laid out differently: `is_supported` says no
        WebSocketDataQueue = object

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY

_NO_LOOP: Final[Any] = None
"""Only who waits in aiohttp's queue needs one, and nobody does."""

HELD: Final = 256 * 1024
"""Bytes in aiohttp's own queue, while ours does not take messages, from twice which on its parser stops."""


class Hearer(Protocol):
    """Who is told what the queue does not keep."""

    def take_frame(self, frame: Any) -> None:
        """A control frame that the parser has found."""

    def take_control(self, opcode: int, payload: bytes) -> None:
        """A PING or a PONG."""

    def note_end(self, error: BaseException | None) -> None:
        """The parser has come to an end."""


class DirectQueue(WebSocketDataQueue):
    """What the parser believes to be its queue.

    While `direct` is unset, data wait in aiohttp's queue, in order and bounded by it; once there is a `link`, pings and
    pongs do not wait. That queue, a kilobyte without a message, is made with the parser (`get_ready`): most connections need neither.
    Slots, because they are found faster than the attributes of a dictionary: a fifth of the time for each message.

    Attributes:
        stalled: Whether there is more in what was read, which waits in front of the parser.
    """

    __slots__ = ("_http", "_is_ready", "append", "batch", "bytes", "direct", "ended", "link", "stalled")

    # That of the base class is called by `get_ready`.
    def __init__(self, protocol: Any) -> None:  # pyright: ignore[reportMissingSuperCall]
        self._http = protocol
        self._is_ready = False
        self.direct = False  # until there is a link that reads
        self.stalled = False
        self.batch: list[Any] = []  # of the read of the moment
        self.append = self.batch.append
        self.bytes = 0
        self.link: Hearer | None = None
        self.ended: tuple[BaseException | None] | None = None

    def get_ready(self) -> None:
        """There is to be a parser."""
        super().__init__(self._http, HELD, loop=_NO_LOOP)
        self._is_ready = True

    def control(self, opcode: int, payload: bytes) -> bool:
        """Takes a PING or a PONG; returns `False` where nobody hears of it yet."""
        link = self.link
        if link is None:
            return False
        link.take_control(opcode, payload)
        return True

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
        return len(self._buffer) if self._is_ready else 0

    @property
    def is_full(self) -> bool:
        """Whether the parser stops."""
        return self._size > self._limit

    def take(self) -> Any:
        """Takes the oldest message that is held; `None` if there is none. The parser goes on when it may."""
        if not self.held:
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
