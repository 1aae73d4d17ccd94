"""One direction of a proxied connection: bytes are delayed by the current conditions and forwarded in order.

Knows links; nothing of listening, dialing or schedules.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from resilient_ws.testing.checks import check_range
from resilient_ws.testing.link import Link

MAX_WAITING: Final = 1 << 20
"""Bytes that wait in one direction of one connection before its source is no longer read."""

_SLICE: Final = 0.02
"""Seconds of bandwidth that leave at once: short enough to look steady, long enough to cost little."""

End: TypeAlias = Literal["fin", "rst"]


class Conditions:
    """What one direction of the network is like; each attribute may be changed at any time.

    Attributes:
        latency: Seconds that each byte takes, at least.
        jitter: Seconds; each piece takes a random part of this longer. Order is kept.
        bandwidth: Bytes per second of each connection, `None`: no limit.
        blackhole: Whether nothing passes. Bytes are kept, as TCP would send them again, and pass when it ends.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._latency = 0.0
        self._jitter = 0.0
        self._bandwidth: float | None = None
        self._blackhole = False

    def __repr__(self) -> str:
        rate = "" if self._bandwidth is None else f", {self._bandwidth:g} B/s"
        hole = ", black hole" if self._blackhole else ""
        return f"<Conditions {self._latency:g} s + {self._jitter:g} s{rate}{hole}>"

    @property
    def latency(self) -> float:
        """Seconds that each byte takes, at least."""
        return self._latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        check_range("latency", seconds, 0)
        self._latency = seconds

    @property
    def jitter(self) -> float:
        """Seconds; each piece takes a random part of this longer."""
        return self._jitter

    @jitter.setter
    def jitter(self, seconds: float) -> None:
        check_range("jitter", seconds, 0)
        self._jitter = seconds

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second of each connection, `None`: no limit."""
        return self._bandwidth

    @bandwidth.setter
    def bandwidth(self, rate: float | None) -> None:
        if rate is not None:
            check_range("bandwidth", rate, 1)
        self._bandwidth = rate

    @property
    def blackhole(self) -> bool:
        """Whether nothing passes."""
        return self._blackhole

    @blackhole.setter
    def blackhole(self, blackhole: bool) -> None:
        self._blackhole = blackhole
        self._changed()


class Side:
    """One socket of a proxied connection: the client's or the server's.

    Attributes:
        link: The socket.
        out: The direction that reads from here, `None` until the other side is there; `let_go` opens it.
        back: The direction that writes to here, `None` until the other side is there.
    """

    def __init__(self, sock: socket.socket, lost: Callable[[], None]) -> None:
        self._lost = lost
        self.out: Pipe | None = None
        self.back: Pipe | None = None
        self._early: deque[bytes | End] | None = deque()
        self.link = Link(sock, self, linger=1.0)
        self.link.keep_after_eof = True
        self.link.set_reading(False)

    def link_made(self) -> None:
        """Nothing: reading begins with the first pump, when the other side is there too."""

    def link_received(self, data: bytes) -> None:
        """Let the bytes travel."""
        self._travel(data)

    def link_eof(self) -> None:
        """Let the FIN travel as the bytes do; the other direction goes on."""
        self._travel("fin")

    def link_writable(self) -> None:
        """Write on."""
        if self.back is not None:
            self.back.pump()

    def link_ended(self, by_peer: str | None) -> None:
        """Let a reset travel as the bytes do."""
        if by_peer == "rst":
            self._travel("rst")
        if self.back is not None:
            self.back.stop()
        self._lost()

    def let_go(self) -> None:
        """Let what comes from here travel from now on, beginning with what came before."""
        early, self._early = self._early, None
        for piece in early or ():
            self._travel(piece)

    def _travel(self, piece: bytes | End) -> None:
        if self._early is not None:
            self._early.append(piece)  # uvloop reads once although it was told not to
        elif self.out is not None:
            self.out.take(piece)

    def end(self, how: End) -> None:
        """Send FIN after what is written, or reset at once."""
        if how == "fin":
            self.link.half_close()
        else:
            self.link.rst()


class Pipe:
    """One direction of one connection.

    Args:
        conditions: What the direction is like, now and whenever it changes.
        chance: The source of the jitter.
        passed: Called with the number of bytes about to pass; returns how many may.
        ended: Called when the FIN has passed.
    """

    def __init__(
        self,
        source: Side,
        sink: Side,
        conditions: Conditions,
        chance: random.Random,
        passed: Callable[[int], int],
        ended: Callable[[], None],
    ) -> None:
        self._source = source
        self._sink = sink
        self._conditions = conditions
        self._chance = chance
        self._passed = passed
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | End]] = deque()
        self._waiting = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._held = False
        self.finished = False
        self.bytes = 0
        source.out = sink.back = self

    @property
    def waiting(self) -> int:
        """Bytes that have come and not yet gone."""
        return self._waiting

    def take(self, piece: bytes | End) -> None:
        """Let a piece travel: bytes, FIN or RST."""
        if self._stopped or self.finished:
            return
        conditions = self._conditions
        delay = conditions.latency + self._chance.random() * conditions.jitter
        start = max(self._loop.time() + delay, self._free_at)
        rate = conditions.bandwidth
        if rate is None or isinstance(piece, str):
            self._put(start, piece)
        else:
            step = max(1, int(rate * _SLICE))
            for at in range(0, len(piece), step):
                part = piece[at : at + step]
                start += len(part) / rate
                self._put(start, part)
        self._free_at = start
        self.pump()

    def _put(self, at: float, piece: bytes | End) -> None:
        self._queue.append((at, piece))
        self._waiting += len(piece) if isinstance(piece, bytes) else 0

    def pump(self) -> None:
        """Pass what is due; set the timer for what is not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        blocked = self._held or self._conditions.blackhole
        while self._queue and not (blocked or self._stopped or self._sink.link.congested):
            at, piece = self._queue[0]
            if at > now:
                self._timer = self._loop.call_at(at, self.pump)
                break
            self._queue.popleft()
            self._pass(piece)
        if not self._stopped:
            self._source.link.set_reading(self._waiting < MAX_WAITING and not blocked)

    def _pass(self, piece: bytes | End) -> None:
        if isinstance(piece, bytes):
            self._waiting -= len(piece)
            allowed = self._passed(len(piece))
            self.bytes += allowed
            self._sink.link.write(piece[:allowed])
            return
        self._sink.end(piece)
        self._queue.clear()
        self._waiting = 0
        self.finished = True
        self._ended()

    def hold(self) -> None:
        """Let nothing pass on this connection from now on, without an end; what waits is kept."""
        self._held = True
        self.pump()

    def stop(self) -> None:
        """Let nothing pass any more; what waits is dropped."""
        self._stopped = True
        self._queue.clear()
        self._waiting = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
