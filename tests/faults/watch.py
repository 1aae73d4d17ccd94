"""What a client tells, with the time of each word; and how long the loop stood still meanwhile.

The bounds of the client hold "from when our loop runs", and a test that shares two cores with others has to know.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from resilient_ws import CloseEvent, Event, Heartbeat, OpenEvent, ReconnectPolicy, RetryEvent, WebSocketClient

TRANSPORTS = ("aiohttp", "picows")

INTERVAL = 0.5
TIMEOUT = 0.5
PONG_TIMEOUT = 1.0
HEARTBEAT = Heartbeat(INTERVAL, TIMEOUT, PONG_TIMEOUT)
QUICK = ReconnectPolicy(first_delay=0, min_delay=0.05, max_delay=0.2, min_uptime=0)

TOLERANCE = 0.1
"""Seconds that a bound may be passed by."""

TICK = 0.005
STOOD_STILL = 0.02
"""Seconds from which a late tick counts: the loop stood still, not the client."""

LATE = 0.25
"""Seconds of standing still from which the client judges nothing and asks the peer again."""

PATIENCE = 10.0
"""Seconds for what is not measured, only awaited."""

E = TypeVar("E", bound=Event)


class Told(NamedTuple):
    """One event of the client."""

    at: float
    event: Any


class Watch:
    """The events of one client, in order, with the times (``time.monotonic``) at which they were told.

    Attributes:
        heard_at: When something last came from the peer, as far as the test has seen it.
        record: Keeps a figure; ``--junitxml`` writes them all down.
    """

    record: Callable[[str, object], None]

    def __init__(self, client: WebSocketClient) -> None:
        self.client = client
        self.told: list[Told] = []
        self.heard_at = time.monotonic()
        self._stalls: list[tuple[float, float]] = []
        self._news = asyncio.Event()
        for register in (
            client.on_open,
            client.on_close,
            client.on_retry,
            client.on_reconnect,
            client.on_undelivered,
            client.on_error,
            client.on_state,
        ):
            register(self._note)

    def _note(self, event: Event) -> None:
        self.told.append(Told(time.monotonic(), event))
        self._news.set()

    async def tick(self) -> None:
        """Measure how long the loop stands still, and see each PONG, until cancelled."""
        before = time.monotonic()
        latency = self.client.latency
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if self.client.latency is not latency:
                latency = self.client.latency
                self.heard_at = now
            if now - before - TICK > STOOD_STILL:
                self._stalls.append((now, now - before - TICK))
            before = now

    def bound(self, seconds: float, since: float) -> float:
        """Return ``seconds`` with the tolerance, and with what the loop stood still since then."""
        again = TIMEOUT if any(stall > LATE for at, stall in self._stalls if at >= since) else 0.0
        return seconds + TOLERANCE + self.stalled(since) + again

    def stalled(self, since: float) -> float:
        """Return for how long the loop has stood still since then."""
        return sum(stall for at, stall in self._stalls if at >= since)

    def of(self, kind: type[E]) -> list[Told]:
        """Return the events of one kind."""
        return [told for told in self.told if isinstance(told.event, kind)]

    async def until(self, is_true: Callable[[], bool], within: float = PATIENCE) -> None:
        """Wait until something holds that changes with an event."""
        async with asyncio.timeout(within):
            while not is_true():
                self._news.clear()
                await self._news.wait()

    async def nth(self, kind: type[E], number: int, within: float = PATIENCE) -> Told:
        """Wait for the event of one kind with this number, counted from 1."""
        await self.until(lambda: len(self.of(kind)) >= number, within)
        return self.of(kind)[number - 1]

    async def closed(self, number: int = 1, within: float = PATIENCE) -> Told:
        """Wait for a ``CloseEvent``."""
        return await self.nth(CloseEvent, number, within)

    async def opened(self, number: int = 1, within: float = PATIENCE) -> Told:
        """Wait for an ``OpenEvent``."""
        return await self.nth(OpenEvent, number, within)

    async def retried(self, number: int = 1, within: float = PATIENCE) -> Told:
        """Wait for a ``RetryEvent``."""
        return await self.nth(RetryEvent, number, within)

    async def pong(self) -> None:
        """Wait until the next PONG has come."""
        before = self.client.latency
        async with asyncio.timeout(PATIENCE):
            while self.client.latency is before:
                await asyncio.sleep(0.002)
        self.heard_at = time.monotonic()

    async def recv(self) -> str | bytes:
        """Take the next message."""
        async with asyncio.timeout(3 * PATIENCE):
            message = await self.client.recv()
        self.heard_at = time.monotonic()
        return message

    async def take_until_closed(self, number: int = 1) -> Told:
        """Take messages until a ``CloseEvent``."""
        taking = asyncio.create_task(self._take())
        try:
            return await self.closed(number)
        finally:
            await ended(taking)

    async def _take(self) -> None:
        while True:
            await self.recv()

    def assert_never_closed(self) -> None:
        """No connection has ended."""
        assert [told.event for told in self.of(CloseEvent)] == []
        assert len(self.of(OpenEvent)) == 1


@asynccontextmanager
async def watching(client: WebSocketClient, *, ready: bool = True) -> AsyncIterator[Watch]:
    """Run a client, watched: from its first open, or with ``ready=False`` from its start."""
    watch = Watch(client)
    ticking = asyncio.create_task(watch.tick())
    try:
        client.start()
        if ready:
            await client.ready(PATIENCE)
        yield watch
    finally:
        await client.close()
        await ended(ticking)


async def ended(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end; what it raised is raised."""
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


async def eventually(is_true: Callable[[], Awaitable[bool]], within: float = PATIENCE) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(within):
        while not await is_true():
            await asyncio.sleep(0.02)
