"""One client connection through the chaos proxy: two sockets and two pipes.

Dials the target; what happens to the bytes of one direction is in `pipe`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from resilient_ws.testing.link import attach
from resilient_ws.testing.proxy.pipe import Conditions, Pipe, Side
from resilient_ws.testing.server.script import Drop

if TYPE_CHECKING:
    from resilient_ws.testing.proxy.proxy import ChaosProxy

Direction: TypeAlias = Literal["up", "down", "both"]
"""`"up"` is from the client to the server, `"down"` is back."""

DIAL_TIMEOUT: Final = 10.0
"""Seconds that the target has to answer a connection; then the client's one is reset."""


class ProxiedConnection:
    """One client's connection through the proxy; made by `ChaosProxy`.

    Attributes:
        number: 1 for the first one accepted.
        cut_after: Bytes, both directions together, after which the connection is cut; `None`: never.
        cut: How it is cut.
    """

    def __init__(self, number: int, proxy: ChaosProxy, cut_after: int | None, cut: Drop) -> None:
        self.number = number
        self.cut_after = cut_after
        self.cut: Drop = cut
        self._proxy = proxy
        self._sides: list[Side] = []
        self._pipes: dict[str, Pipe] = {}
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<ProxiedConnection {self.number} {state}, {self.bytes_up} B up, {self.bytes_down} B down>"

    @property
    def is_open(self) -> bool:
        """Whether one of its sockets is still there."""
        return not self._closed.is_set()

    @property
    def bytes_up(self) -> int:
        """Bytes that were passed on to the server."""
        return self._pipes["up"].bytes if self._pipes else 0

    @property
    def bytes_down(self) -> int:
        """Bytes that were passed on to the client."""
        return self._pipes["down"].bytes if self._pipes else 0

    @property
    def bytes_waiting(self) -> int:
        """Bytes that wait in the proxy, both directions together."""
        return sum(pipe.waiting for pipe in self._pipes.values())

    async def wait_closed(self, timeout: float | None = 5.0) -> None:
        """Wait until both sockets are closed.

        Args:
            timeout: Seconds; `None`: no limit.

        Raises:
            TimeoutError: One is still there after `timeout`.
        """
        async with asyncio.timeout(timeout):
            await self._closed.wait()

    # ---- what can be done to it

    def rst(self) -> None:
        """Reset both sockets now."""
        self._stop_pipes()
        for side in self._sides:
            side.link.rst()

    def fin(self) -> None:
        """End both sockets with FIN; what waits in the proxy is gone."""
        self._stop_pipes()
        for side in self._sides:
            side.link.fin()

    def go_silent(self) -> None:
        """Let nothing pass any more in either direction, not even an end."""
        for pipe in self._pipes.values():
            pipe.hold()

    def drop(self, drop: Drop) -> None:
        """Lose the connection: `fin`, `rst` or `go_silent`."""
        {"fin": self.fin, "rst": self.rst, "silent": self.go_silent}[drop]()

    def half_close(self, direction: Direction = "down") -> None:
        """Send FIN in one direction after what is on its way; the other one goes on.

        Raises:
            ValueError: `direction` is none of the three.
        """
        for name in directions(direction):
            if name in self._pipes:
                self._pipes[name].take("fin")

    # ---- for the proxy

    async def begin(self, sock: socket.socket, target: tuple[str, int], delay: float) -> None:
        """Dial the target and let bytes pass; where that fails the client is reset. Called by the proxy."""
        loop = asyncio.get_running_loop()
        client = Side(sock, self._side_lost)
        self._sides.append(client)
        await attach(client.link, loop.connect_accepted_socket(lambda: client.link, sock))
        client.link.set_reading(False)
        if delay:
            await asyncio.sleep(delay)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                theirs = await _dial(target)
        except OSError as error:  # TimeoutError is one
            self._proxy.tell(f"connection {self.number}: the target was not reached ({type(error).__name__})")
            client.link.rst()
            return
        if client.link.ending:
            theirs.close()
            return
        server = Side(theirs, self._side_lost)
        self._sides.append(server)
        self._pipes["up"] = self._make_pipe(client, server, self._proxy.up, "up")
        self._pipes["down"] = self._make_pipe(server, client, self._proxy.down, "down")
        await attach(server.link, loop.create_connection(lambda: server.link, sock=theirs))
        for side in self._sides:
            side.let_go()
        self.pump()

    def began(self, sock: socket.socket) -> None:
        """Close the socket if `begin` was cancelled before it had a transport; called by the proxy."""
        if not self._sides:
            sock.close()
            self._close()

    def pump(self) -> None:
        """Look at the conditions again; called by the proxy."""
        for pipe in self._pipes.values():
            pipe.pump()

    def _make_pipe(self, source: Side, sink: Side, conditions: Conditions, name: str) -> Pipe:
        chance = random.Random(f"{self._proxy.seed}:{self.number}:{name}")
        return Pipe(source, sink, conditions, chance, self._allow, self._direction_ended)

    def _stop_pipes(self) -> None:
        for pipe in self._pipes.values():
            pipe.stop()

    def _allow(self, size: int) -> int:
        if self.cut_after is None:
            return size
        room = self.cut_after - self.bytes_up - self.bytes_down
        if size >= room:
            asyncio.get_running_loop().call_soon(self._cut)
        return min(size, max(room, 0))

    def _cut(self) -> None:
        if self.is_open:
            self._proxy.tell(f"connection {self.number}: cut after {self.cut_after} bytes ({self.cut})")
            self.drop(self.cut)

    def _direction_ended(self) -> None:
        if all(pipe.finished for pipe in self._pipes.values()):
            for side in self._sides:
                side.link.fin()

    def _side_lost(self) -> None:
        if all(side.link.lost.is_set() for side in self._sides):
            self._close()

    def _close(self) -> None:
        if self.is_open:
            self._closed.set()
            self._proxy.forget(self)


def to_direction(text: str | None) -> Direction:
    """Return the direction that a text names.

    Raises:
        ValueError: It is none of the three.
    """
    if text not in {"up", "down", "both"}:
        raise ValueError(f"direction must be 'up', 'down' or 'both', not {text!r}")
    return "up" if text == "up" else "down" if text == "down" else "both"


def directions(direction: Direction) -> tuple[str, ...]:
    """Return `up`, `down`, or both.

    Raises:
        ValueError: `direction` is none of the three.
    """
    return ("up", "down") if to_direction(direction) == "both" else (direction,)


async def _dial(target: tuple[str, int]) -> socket.socket:
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock
