"""The client side of a fake connection without a socket.

It keeps what a kernel would keep: bytes that have arrived and are not read, bytes that are written and not gone.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Literal, Protocol

import attrs

from resilient_ws.api.close_codes import CloseCode, CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.message import Message, size_of
from resilient_ws.core.endings import End
from resilient_ws.core.heartbeat import Reading
from resilient_ws.transports.seam import Receiver, all_of

FRAME_HEAD: Final = 6
"""Bytes that each frame counts beside its payload: a short head and the mask (RFC 6455 5.2)."""


@attrs.frozen
class Frame:
    """What goes over the wire, in either direction.

    Attributes:
        kind: `part` = bytes of a frame that is not whole yet; `end` = the end of the connection.
        payload: Of a message or a control frame; `None` for the others.
        code: Of a CLOSE; `None` where it carries none.
        reason: Of a CLOSE.
        cause: Of an `end`.
        size: Bytes.
    """

    kind: Literal["message", "ping", "pong", "close", "part", "end"]
    payload: Message = ""
    code: int | None = None
    reason: str = ""
    cause: BaseException | None = None
    size: int = attrs.field(kw_only=True)


def frame(kind: Literal["message", "ping", "pong"], payload: Message) -> Frame:
    """Return a frame with its size on the wire."""
    return Frame(kind, payload, size=size_of(payload) + FRAME_HEAD)


class Wire(Protocol):
    """The way out of a link, to its peer."""

    def carry(self, sent: Frame, /) -> Awaitable[None] | None:
        """Take a frame; return an awaitable if the send buffer has no room then."""
        ...

    def delayed(self, message: Message, /) -> Awaitable[None] | None:
        """Take a message to hand over later, where writing takes time; `None` where it does not."""
        ...

    def pending(self) -> tuple[int, int | None]:
        """Bytes that are not gone, and how many of them are in flight (`None`: not known)."""
        ...

    def aborted(self) -> None:
        """Note that the client has freed its socket."""
        ...


class FakeLink:
    """A `Link` of `resilient_ws.transports.seam`.

    Args:
        wire: Leads to the peer.
        receiver: The client.
        endpoint: Where the client wanted to go.
        subprotocol: What the peer chose.
        headers: Of the peer's answer to the handshake.
        limit: Bytes of the largest message, inclusive.
        kernel: Whether the kernel tells about bytes, as on Linux; else only frames count.
    """

    transport = "FakeTransport"

    def __init__(
        self,
        wire: Wire,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        subprotocol: str | None,
        headers: Mapping[str, str],
        limit: int,
        kernel: bool,
    ) -> None:
        self.endpoint = endpoint
        self.subprotocol = subprotocol
        self.headers = headers
        self._wire = wire
        self._receiver = receiver
        self._limit = limit
        self._kernel = kernel
        self._loop = asyncio.get_running_loop()
        self._unread: deque[Frame] = deque()
        self._paused = False
        self._broken = False
        self._sent_code: int | None = None
        self._written = 0
        self._bytes = self._frames = self._messages = 0
        self._resumed_at = -math.inf
        self._received_at = self._message_at = self._loop.time()
        self.over = False

    @property
    def unread(self) -> int:
        """Frames that have arrived while reading is paused."""
        return len(self._unread)

    @property
    def paused(self) -> bool:
        """Whether the client has stopped reading."""
        return self._paused

    # --- out ---

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hand one message to the peer, or to the network that keeps it."""
        self._check()
        delayed = self._wire.delayed(message)
        return self._carry(frame("message", message)) if delayed is None else delayed

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hand several messages to the peer, or to the network that keeps them."""
        return all_of([self.write(message) for message in messages])

    def ping(self, payload: bytes, /) -> None:
        """Write a PING."""
        if not (self.over or self._broken):
            self._carry(frame("ping", payload))

    def close(self, code: int, reason: str, /) -> None:
        """Write a CLOSE, once."""
        if self._sent_code is None and not (self.over or self._broken):
            self._sent_code = code
            self._carry(Frame("close", "", code, reason, size=FRAME_HEAD + 2 + len(reason.encode())))

    def hand_over(self, message: Message) -> Awaitable[None] | None:
        """Write a message whose writing took time."""
        self._check()
        return self._carry(frame("message", message))

    def _check(self) -> None:
        if self.over or self._broken:
            raise ConnectionLost("the connection is gone")

    def _carry(self, sent: Frame) -> Awaitable[None] | None:
        self._written += sent.size
        return self._wire.carry(sent)

    def abort(self) -> None:
        """End the connection without a word."""
        if not self.over:
            self.over = True
            self._unread.clear()
        self._wire.aborted()

    # --- in ---

    def pause(self) -> None:
        """Stop reading."""
        self._paused = True

    def resume(self) -> None:
        """Go on reading, what has arrived meanwhile first."""
        if self._paused:
            self._paused = False
            self._resumed_at = self._loop.time()
            self._loop.call_soon(self._read_on)

    def read(self) -> None:
        """Do nothing: this link tells by itself."""

    @property
    def heard_at(self) -> float:
        """When something of the peer was last read; with a kernel that tells, when it arrived there."""
        return self._received_at

    def look(self, *, paused: bool) -> Reading:
        """Return what the connection shows now."""
        pending, in_flight = self._wire.pending()
        return Reading(
            received=self._bytes if self._kernel else self._frames,
            received_at=self._received_at,
            message_at=self._message_at,
            messages=self._messages,
            left=self._written - pending,
            pending=pending,
            acknowledged=self._kernel,
            paused=paused,
            in_flight=in_flight if self._kernel else None,
            resumed_at=self._resumed_at,
        )

    def arrived(self, frames: list[Frame]) -> None:
        """Deliver frames to the kernel; the client reads them unless reading is paused."""
        for one in frames:
            if one.kind == "end":
                self._broken = True
            elif self._kernel:
                self._bytes += one.size
                self._received_at = self._loop.time()
            self._unread.append(one)
        self._read_on()

    def _read_on(self) -> None:
        while self._unread and not self._paused and not self.over:
            self._read(self._unread.popleft())
        self._receiver.wake()

    def _read(self, one: Frame) -> None:
        if one.kind == "end":
            return self._end(
                End(code=None, origin=CloseOrigin.NETWORK, sent_code=self._sent_code, cause=one.cause)
            )
        if one.kind == "part":
            return None
        self._frames += 1
        self._received_at = self._loop.time()
        if one.kind == "close":
            return self._closed(one)
        if one.kind == "pong":
            assert isinstance(one.payload, bytes)
            return self._receiver.pong(one.payload)
        if one.kind == "ping":
            # RFC 6455 5.5.2: a PONG with the same payload, as soon as is practical.
            self._carry(frame("pong", one.payload))
            return None
        return self._message(one.payload, one.size - FRAME_HEAD)

    def _message(self, message: Message, size: int) -> None:
        if size > self._limit:
            self.close(CloseCode.MESSAGE_TOO_BIG, "")
            cause = ConnectionLost(f"a message is larger than {self._limit} bytes")
            self._end(End(code=None, origin=CloseOrigin.PROTOCOL, sent_code=self._sent_code, cause=cause))
            return
        self._messages += 1
        self._message_at = self._received_at
        self._receiver.burst([message], size, wakes=False)

    def _closed(self, one: Frame) -> None:
        # RFC 6455 5.5.1: answer with the code received; an empty CLOSE is answered with 1000.
        self.close(one.code or CloseCode.NORMAL_CLOSURE, "")
        code = CloseCode.NO_STATUS_RCVD if one.code is None else one.code
        self._end(End(code=code, reason=one.reason, origin=CloseOrigin.PEER, sent_code=self._sent_code))

    def _end(self, end: End) -> None:
        self.over = True
        self._unread.clear()
        self._receiver.ended(end, wakes=False)
