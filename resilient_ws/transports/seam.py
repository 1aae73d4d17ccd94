"""The interface between the client and a transport.

A `Transport` opens a `Link`, one WebSocket connection; the link tells a `Receiver` what comes in. Everything but
`Transport.open`, `Link.read` and what `Link.write` may return is synchronous, so that a decision and its effect
are never apart. A test of the client puts a fake here; real sockets are only behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import Any, Protocol

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.message import Message
from resilient_ws.core.endings import End
from resilient_ws.core.heartbeat import Reading


class _All(Awaitable[None]):
    """Several waits in a row; unlike a coroutine, it need not be awaited."""

    __slots__ = ("_waits",)

    def __init__(self, waits: Sequence[Awaitable[None]]) -> None:
        self._waits = waits

    def __await__(self) -> Generator[Any, Any, None]:
        for wait in self._waits:
            yield from wait.__await__()


def all_of(waits: Sequence[Awaitable[None] | None]) -> Awaitable[None] | None:
    """Return what ends when each of `waits` has ended; `None` if there is nothing to wait for."""
    real = [wait for wait in waits if wait is not None]
    return _All(real) if len(real) > 1 else real[0] if real else None


class Receiver(Protocol):
    """What a link calls, on the event loop, in the order of the wire; `ended` comes once and last."""

    def message(self, message: Message, size: int, /) -> None:
        """Handle a complete data message of `size` bytes."""

    def burst(self, messages: list[Message], size: int, /, *, wakes: bool = True) -> None:
        """Several have arrived in one read of the socket, of `size` bytes in all; the list may be used again.

        The program is woken for them; without `wakes` it is not, and `wake` follows.
        """

    def wake(self) -> None:
        """Resume waiting user code within this call; must be the last step of a callback of the loop."""

    def pong(self, payload: bytes, /) -> None:
        """Handle a PONG; the link itself answers PINGs."""

    def ended(self, end: End, /, *, wakes: bool = True) -> None:
        """Handle the end; everything received before has been reported. `wakes` as for `burst`."""


class Link(Protocol):
    """One WebSocket connection, from the end of its handshake to the end of its socket."""

    endpoint: Endpoint
    subprotocol: str | None
    headers: Mapping[str, str]

    @property
    def transport(self) -> str:
        """What carries the connection, in words, for `OpenEvent.transport`."""
        ...

    @property
    def heard_at(self) -> float:
        """When bytes of the peer were last read, in seconds of the event loop; a system call would be too much."""
        ...

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hand one message to the socket.

        Returns:
            `None` when it is done; else an awaitable that ends when it is done and the send buffer has room again, to be
            awaited before the next `write`. Without compression the frame has been handed over in either case.

        Raises:
            ConnectionLost: Nothing of it was written; the link has ended or is about to say so. After any other exception
                the message may have been written in part, and the caller aborts the link.
        """

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hand several messages to the socket, one at least, in order and if possible in one system call.

        Returns:
            As for `write`.

        Raises:
            ConnectionLost: Nothing of them was written.
        """

    def ping(self, payload: bytes, /) -> None:
        """Write a PING; it stands behind what was written before. Do nothing on a dead link."""

    def close(self, code: int, reason: str, /) -> None:
        """Write a CLOSE; later data from the peer is still read. Do nothing on a dead link."""

    def abort(self) -> None:
        """Free the socket now. `ended` is not called afterwards.

        Unless a CLOSE has been written, what the kernel has not sent is thrown away too: it must not arrive after what
        the next connection carries.
        """

    def pause(self) -> None:
        """Stop reading, so that TCP slows the peer down."""

    def resume(self) -> None:
        """Go on reading."""

    def look(self, *, paused: bool) -> Reading:
        """Return what the connection shows now, for the heartbeat."""
        ...

    def read(self) -> Awaitable[None] | None:
        """Begin to tell the receiver what comes in.

        Returns:
            `None` where the link goes on by itself; else an awaitable, which ends with the link.
        """


class Transport(Protocol):
    """A library that moves frames, with the options of one client.

    An object that is passed as `WebSocketClient(transport=...)` may also have `configure(TransportOptions)`: it is
    called once, and raises `ValueError` for an option that it cannot honour.
    """

    async def open(self, endpoint: Endpoint, receiver: Receiver, /) -> Link:
        """Connect and complete the handshake; free the socket if it raises or is cancelled.

        Raises:
            ConnectError: The attempt failed; the subclass and the fields say how.
        """
        ...
