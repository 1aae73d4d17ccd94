"""The way out of a connection that aiohttp opened: frames written to its socket in one step, and how full it is.

This needs parts of aiohttp that it does not document: its masking function, and the `transport` of its frame writer,
which compresses. `is_supported` tries both. Everything that is sent within one loop turn leaves in one system call,
where aiohttp makes one for each message; `docs/performance.md` has the figures.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.http_websocket import WebSocketWriter

from resilient_ws.errors import ConnectionLost
from resilient_ws.events import Message
from resilient_ws.transports.frames import Mask, frame, is_mask, message_frame, message_frames

if TYPE_CHECKING:
    mask: Mask
else:
    try:
        from aiohttp._websocket.helpers import websocket_mask as mask
    except ImportError:  # an aiohttp that is laid out differently: `is_supported` says no
        mask = None


HIGH: Final = 256 * 1024
"""Bytes in the send buffer from which on nothing more is written, until a quarter is left; about what aiohttp takes."""


class _Gathered:
    """Stands for the socket while several messages are compressed."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write: Final = self.parts.append

    @staticmethod
    def is_closing() -> bool:
        return False


class Outlet:
    """Where the frames of one connection go.

    Args:
        transport: Its socket.
        writer: aiohttp's own, for messages that are compressed; `None` = none is.

    Attributes:
        full: Whether the send buffer is fuller than it should be.
    """

    __slots__ = ("_room", "_transport", "_writer", "full")

    def __init__(self, transport: asyncio.Transport, writer: WebSocketWriter | None) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(HIGH)
        self._writer: Any = writer
        self.full = False
        self._room: asyncio.Future[None] | None = None

    def message(self, message: Message) -> int:
        """Writes one message, not compressed; returns how many bytes that were."""
        data = message_frame(message, mask)
        transport = self._transport
        if transport.is_closing():
            raise ConnectionLost("the connection is gone")
        transport.write(data)
        return len(data)

    def messages(self, messages: Sequence[Message]) -> int:
        """Writes several, in order."""
        return self._put(message_frames(messages, mask))

    def control(self, opcode: int, payload: bytes) -> int:
        """Writes a control frame."""
        return self._put(frame(opcode, payload, mask))

    @contextmanager
    def joined(self) -> Generator[None]:
        """Writes as one what aiohttp's writer writes within this block."""
        self._check()
        gathered = _Gathered()
        self._writer.transport = gathered
        try:
            yield
        finally:
            self._writer.transport = self._transport
            if gathered.parts:
                self._transport.write(b"".join(gathered.parts))

    def _put(self, data: bytes) -> int:
        self._check()
        self._transport.write(data)
        return len(data)

    def _check(self) -> None:
        if self._transport.is_closing():
            raise ConnectionLost("the connection is gone")

    # --- how full it is ---

    @property
    def room(self) -> Awaitable[None] | None:
        """What ends when the send buffer has room again; `None` while it has."""
        if not self.full:
            return None
        if self._room is None or self._room.done():
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def fill(self) -> None:
        """The send buffer is fuller than it should be."""
        self.full = True

    def drain(self) -> None:
        """It has room again, or the connection is lost and nothing will be kept in it."""
        self.full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def is_supported() -> bool:
    """Whether aiohttp has what this module needs, and it does what it should. May raise anything."""
    names = list(inspect.signature(ClientWebSocketResponse.__init__).parameters)
    return names[1:5] == ["reader", "writer", "protocol", "response"] and is_mask(mask) and _try_writer()


def _try_writer() -> bool:
    """Whether a message that aiohttp's writer compresses ends up in the transport it has at that moment."""
    made, given = _Gathered(), _Gathered()
    make = cast("Callable[..., Any]", WebSocketWriter)
    writer = make(None, made, use_mask=True, compress=15)
    writer.transport = given
    step = writer.send_frame(b"x" * 100, WSMsgType.TEXT)
    try:
        step.send(None)
    except StopIteration:
        return not made.parts and len(given.parts) == 1 and given.parts[0][:1] == b"\xc1"
    step.close()
    return False
