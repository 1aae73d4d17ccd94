"""Writes frames to a socket, and tracks how full its send buffer is.

The compiled masking function is a part of aiohttp that it does not document; `is_supported` tries it. Everything that is sent
within one loop turn leaves in one system call, where aiohttp makes one for each message; `docs/performance.md` has the figures.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import ClientWebSocketResponse

from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.message import Message
from resilient_ws.transports.shared.frame_writer import Mask, frame, is_mask, message_frame, message_frames

if TYPE_CHECKING:
    mask: Mask
else:
    try:
        from aiohttp._websocket.helpers import websocket_mask as mask
    except ImportError:  # an aiohttp that is laid out differently: `is_supported` says no
        mask = None


HIGH: Final = 256 * 1024
"""Bytes in the send buffer from which on nothing more is written, until a quarter is left; about what aiohttp takes."""


class Outlet:
    """Where the frames of one connection go.

    Args:
        transport: Its socket.
        mask: Masks payloads.

    Attributes:
        mask: The same.
        full: Whether the send buffer is fuller than it should be.
    """

    __slots__ = ("_room", "_transport", "full", "mask")

    def __init__(self, transport: asyncio.Transport, mask: Mask) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(HIGH)
        self.mask = mask
        self.full = False
        self._room: asyncio.Future[None] | None = None

    def message(self, message: Message) -> int:
        """Write one message, not compressed; return how many bytes that were."""
        data = message_frame(message, self.mask)
        transport = self._transport
        if transport.is_closing():
            raise ConnectionLost("the connection is gone")
        transport.write(data)
        return len(data)

    def messages(self, messages: Sequence[Message]) -> int:
        """Write several, in order."""
        return self._put(message_frames(messages, self.mask))

    def control(self, opcode: int, payload: bytes) -> int:
        """Write a control frame."""
        return self._put(frame(opcode, payload, self.mask))

    def put(self, data: bytes) -> int:
        """Write frames that are made already."""
        return self._put(data)

    def _put(self, data: bytes) -> int:
        self.check()
        self._transport.write(data)
        return len(data)

    def check(self) -> None:
        """Raise `ConnectionLost` if the socket is gone."""
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
        """Note that the send buffer is above its high-water mark."""
        self.full = True

    def drain(self) -> None:
        """Note that the send buffer has room again, or that the connection is lost."""
        self.full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def is_supported() -> bool:
    """Return whether aiohttp has what this module needs, and it does what it should. May raise anything."""
    names = list(inspect.signature(ClientWebSocketResponse.__init__).parameters)
    return names[1:5] == ["reader", "writer", "protocol", "response"] and is_mask(mask)
