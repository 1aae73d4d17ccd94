"""The chaos proxy: a TCP proxy that simulates a bad network in front of any server.

What happens to one connection is in `proxied`, to the bytes of one direction in `pipe`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

from resilient_ws.testing.checks import check_range
from resilient_ws.testing.listener import Listener
from resilient_ws.testing.proxy.pipe import Conditions
from resilient_ws.testing.proxy.proxied import Direction, ProxiedConnection, directions
from resilient_ws.testing.server.script import Drop
from resilient_ws.testing.units import parse_address

KEEP: Final = 10_000
"""How many connections `ChaosProxy.connections` remembers."""


class ChaosProxy:
    """A TCP proxy with a bad network inside.

    ::

        async with ChaosProxy(server.url, latency=0.05, seed=7) as proxy:
            ...  # connect a client to proxy.url
            proxy.down.blackhole = True
            proxy.drop_all("rst")

    `up` (client to server) and `down` (back) hold the conditions of each direction; the attributes of the proxy
    itself set both. Everything may be changed at any time. Random choices come from `seed`: for the same seed, the
    piece `k` of connection `n` has the same jitter and connection `n` is cut at the same byte (how TCP cuts a
    stream into pieces is up to the kernel).

    Args:
        target: Where to connect to: a URL, `"host:port"`, or host and port.
        listen: Where to listen: `"host:port"`, or host and port; port `0` is any free one.
        latency: Seconds that each byte takes in each direction.
        jitter: Seconds; each piece takes a random part of this longer, order is kept.
        bandwidth: Bytes per second, for each connection and direction; `None`: no limit.
        blackhole: The direction in which nothing passes, or `None`.
        cut_after: Bytes, both directions together, after which a connection is cut; a pair is a range to choose from
            for each connection; `None`: never.
        cut: How it is cut.
        accept_delay: Seconds before the target is dialed for an accepted connection.
        seed: Of the random choices; `None`: a new one, to be found in `seed`.
        log: Called with a line of text for each thing that happens; `None` for none.

    Attributes:
        up: The conditions from the client to the server.
        down: The conditions from the server to the client.
    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        listen: str | tuple[str, int] = ("127.0.0.1", 0),
        latency: float = 0.0,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        blackhole: Direction | None = None,
        cut_after: int | tuple[int, int] | None = None,
        cut: Drop = "rst",
        accept_delay: float = 0.0,
        seed: int | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._target = target
        self._address = _target_address(target)
        self._listener = Listener(*(parse_address(listen) if isinstance(listen, str) else listen))
        self.seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self._log = log
        self._count = 0
        self._remembered: deque[ProxiedConnection] = deque(maxlen=KEEP)
        self._open: set[ProxiedConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.up = Conditions(self._pump)
        self.down = Conditions(self._pump)
        self._initial: dict[str, float | None] = {
            "latency": latency,
            "jitter": jitter,
            "bandwidth": bandwidth,
            "accept_delay": accept_delay,
        }
        for name in self._initial:
            self.restore(name)
        self.cut_after = cut_after
        self.cut: Drop = cut
        if blackhole is not None:
            self.blackhole(blackhole)

    def __repr__(self) -> str:
        host, port = self._address
        return f"<ChaosProxy {self._listener.authority} to {host}:{port}, {len(self._open)} open, seed {self.seed}>"

    # ---- life

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def start(self) -> None:
        """Accept connections, on the same port as before if there was one; does nothing while it does."""
        self._listener.start(self._accepted)

    async def refuse(self) -> None:
        """Refuse new connections until `start`; those that are there go on."""
        if self._listener.is_listening:
            await self._listener.stop()

    async def aclose(self) -> None:
        """Stop for good: every connection is reset, no task is left when this returns."""
        await self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        connections = list(self._open)
        for connection in connections:
            connection.rst()
        for connection in connections:
            await connection.wait_closed(None)

    # ---- where it is

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the first `start` if none was given."""
        return self._listener.port

    @property
    def authority(self) -> str:
        """Where it listens, as a URL has it: `host:port`."""
        return self._listener.authority

    @property
    def url(self) -> str:
        """The URL of the target with the address of the proxy; for a target without a scheme `ws://host:port/`."""
        if isinstance(self._target, str) and "://" in self._target:
            return urlunsplit(urlsplit(self._target)._replace(netloc=self._listener.authority))
        return f"ws://{self._listener.authority}/"

    # ---- conditions of both directions

    @property
    def latency(self) -> float:
        """Seconds that each byte takes; setting it sets both directions, reading gives the greater one."""
        return max(self.up.latency, self.down.latency)

    @latency.setter
    def latency(self, seconds: float) -> None:
        self.up.latency = self.down.latency = seconds

    @property
    def jitter(self) -> float:
        """Seconds of jitter; setting it sets both directions, reading gives the greater one."""
        return max(self.up.jitter, self.down.jitter)

    @jitter.setter
    def jitter(self, seconds: float) -> None:
        self.up.jitter = self.down.jitter = seconds

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second; setting it sets both directions, reading gives the lower one."""
        return min(
            (rate for rate in (self.up.bandwidth, self.down.bandwidth) if rate is not None), default=None
        )

    @bandwidth.setter
    def bandwidth(self, rate: float | None) -> None:
        self.up.bandwidth = self.down.bandwidth = rate

    @property
    def accept_delay(self) -> float:
        """Seconds before the target is dialed for an accepted connection."""
        return self._accept_delay

    @accept_delay.setter
    def accept_delay(self, seconds: float) -> None:
        check_range("accept_delay", seconds, 0)
        self._accept_delay = seconds

    @property
    def cut_after(self) -> int | tuple[int, int] | None:
        """Bytes after which each connection accepted from now on is cut, a range to choose from, or `None`."""
        return self._cut_after

    @cut_after.setter
    def cut_after(self, size: int | tuple[int, int] | None) -> None:
        low, high = size if isinstance(size, tuple) else (size, size)
        if low is not None and high is not None:
            check_range("cut_after", low, 0)
            check_range("the end of cut_after", high, low)
        self._cut_after = size

    def blackhole(self, direction: Direction = "both") -> None:
        """Let nothing pass in a direction until `heal`, in connections that are there and in new ones."""
        for name in directions(direction):
            self._conditions(name).blackhole = True

    def heal(self, direction: Direction = "both") -> None:
        """End `blackhole`; what has waited passes."""
        for name in directions(direction):
            self._conditions(name).blackhole = False

    def restore(self, name: str) -> None:
        """Set `latency`, `jitter`, `bandwidth` or `accept_delay` to what the proxy was made with."""
        setattr(self, name, self._initial[name])

    def _conditions(self, name: str) -> Conditions:
        return self.up if name == "up" else self.down

    def _pump(self) -> None:
        for connection in list(self._open):
            connection.pump()

    # ---- connections

    @property
    def connections(self) -> list[ProxiedConnection]:
        """Each connection so far, the closed ones too (the last 10,000), in order."""
        return list(self._remembered)

    @property
    def open_connections(self) -> list[ProxiedConnection]:
        """The connections that are there."""
        return [connection for connection in self._remembered if connection.is_open]

    def drop_all(self, drop: Drop = "rst") -> int:
        """Lose every connection that is there; return how many."""
        connections = self.open_connections
        for connection in connections:
            connection.drop(drop)
        return len(connections)

    def half_close_all(self, direction: Direction = "down") -> int:
        """Half-close every connection that is there; return how many."""
        connections = self.open_connections
        for connection in connections:
            connection.half_close(direction)
        return len(connections)

    def tell(self, text: str) -> None:
        """Report a line to `log`."""
        if self._log is not None:
            self._log(text)

    def forget(self, connection: ProxiedConnection) -> None:
        """Note that a connection is over; called by it."""
        self._open.discard(connection)
        self.tell(
            f"connection {connection.number}: closed, {connection.bytes_up} B up, {connection.bytes_down} B down"
        )

    def _accepted(self, sock: socket.socket) -> None:
        self._count += 1
        connection = ProxiedConnection(self._count, self, self._choose_cut(self._count), self.cut)
        self._open.add(connection)
        self._remembered.append(connection)
        self.tell(f"connection {connection.number}: accepted")
        task = asyncio.get_running_loop().create_task(
            connection.begin(sock, self._address, self._accept_delay), name=f"ChaosProxy:{self.port}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: connection.began(sock))

    def _choose_cut(self, number: int) -> int | None:
        if isinstance(self._cut_after, tuple):
            return random.Random(f"{self.seed}:{number}:cut").randint(*self._cut_after)
        return self._cut_after


def _target_address(target: str | tuple[str, int]) -> tuple[str, int]:
    if isinstance(target, tuple):
        return target
    if "://" not in target:
        return parse_address(target)
    parts = urlsplit(target)
    if parts.hostname is None:
        raise ValueError(f"target must be a URL with a host, host:port, or (host, port), not {target!r}")
    return parts.hostname, parts.port or (443 if parts.scheme in {"wss", "https"} else 80)
