"""A fake transport: the real client, without sockets, against a peer that the test controls.

    transport = FakeTransport()
    async with WebSocketClient("ws://test", transport=transport) as client:
        await client.send("hello")
        assert transport.peer.received == ["hello"]
        transport.peer.drop()                       # the network fails
        peer = await transport.next_peer()          # the client is back

On a `VirtualLoop` the waiting in between takes no time. What a dial meets is planned with `accept`, `refuse` and
`hang`; what is not planned is accepted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import attrs

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectError
from resilient_ws.testing.checks import check_range
from resilient_ws.testing.fake.peer import RECORDS, FakePeer
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.seam import Link, Receiver


@attrs.define
class Dial:
    """One attempt of the client to connect.

    Attributes:
        endpoint: Where to.
        at: When, in seconds by the clock of the loop.
        peer: What it reached; `None` if nothing (yet).
    """

    endpoint: Endpoint
    at: float
    peer: FakePeer | None = None


@attrs.frozen
class _Plan:
    delay: float = 0.0
    error: Exception | Callable[[], Exception] | None = None
    hangs: bool = False
    subprotocol: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


class FakeTransport:
    """A `Transport` whose connections lead to `FakePeer`s: pass it as `WebSocketClient(transport=...)`.

    Args:
        on_peer: Called with each new peer before the client knows of it: to set it up, or to let it speak first.
        latency: Seconds that everything a peer sends is on its way.
        kernel: Whether the system tells about bytes, as Linux does; else only whole frames are signs of life.
        buffer: Bytes that the client may write to a network that takes nothing before it has to wait.

    Attributes:
        dials: What the client tried, the oldest first.
        peers: What it reached, the oldest first.
    """

    def __init__(
        self,
        on_peer: Callable[[FakePeer], object] | None = None,
        *,
        latency: float = 0.0,
        kernel: bool = True,
        buffer: int = 256 * 1024,
    ) -> None:
        check_range("latency", latency, 0)
        check_range("buffer", buffer, 0)
        self.dials: deque[Dial] = deque(maxlen=RECORDS)
        self.peers: deque[FakePeer] = deque(maxlen=RECORDS)
        self._on_peer = on_peer
        self._latency = latency
        self._kernel = kernel
        self._buffer = buffer
        self._plans: deque[_Plan] = deque()
        self._otherwise = _Plan()
        self._options = TransportOptions()
        self._fresh: deque[FakePeer] = deque(maxlen=RECORDS)
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def peer(self) -> FakePeer:
        """The latest peer that the client has reached.

        Raises:
            LookupError: There is none yet.
        """
        if not self.peers:
            raise LookupError("the client has not reached any peer yet")
        return self.peers[-1]

    async def next_peer(self) -> FakePeer:
        """Wait for the next peer that the client reaches, or has reached, and that was not returned before."""
        while not self._fresh:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        return self._fresh.popleft()

    # --- what the next dials meet ---

    def accept(
        self,
        times: int | None = 1,
        *,
        delay: float = 0.0,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Plan that a dial succeeds.

        Args:
            times: How many dials, after those planned before; `None` = all that are not planned.
            delay: Seconds that it takes.
            subprotocol: What the peer chooses.
            headers: Of its answer.
        """
        self._plan(times, _Plan(delay=delay, subprotocol=subprotocol, headers=dict(headers or {})))

    def refuse(
        self,
        error: Exception | Callable[[], Exception] | None = None,
        times: int | None = 1,
        *,
        delay: float = 0.0,
    ) -> None:
        """Plan that a dial fails.

        Args:
            error: With what, or a function that makes it; `None` = a `ConnectError` that can be retried.
            times: As for `accept`.
            delay: As for `accept`.
        """
        self._plan(times, _Plan(delay=delay, error=error or _refused))

    def hang(self, times: int | None = 1) -> None:
        """Plan that nothing comes of a dial."""
        self._plan(times, _Plan(hangs=True))

    def _plan(self, times: int | None, plan: _Plan) -> None:
        check_range("delay", plan.delay, 0)
        if times is None:
            self._otherwise = plan
        else:
            check_range("times", times, 1, RECORDS)
            self._plans.extend([plan] * times)

    # --- the seam ---

    def configure(self, options: TransportOptions) -> None:
        """Take over what the client was told; only `max_message_size` means something here."""
        self._options = options

    async def open(self, endpoint: Endpoint, receiver: Receiver, /) -> Link:
        """Do what is planned for this dial."""
        loop = asyncio.get_running_loop()
        dial = Dial(endpoint, loop.time())
        self.dials.append(dial)
        plan = self._plans.popleft() if self._plans else self._otherwise
        if plan.hangs:
            await loop.create_future()
        if plan.delay:
            await asyncio.sleep(plan.delay)
        if plan.error is not None:
            raise plan.error() if callable(plan.error) else plan.error
        peer = dial.peer = FakePeer(
            endpoint,
            receiver,
            subprotocol=plan.subprotocol,
            headers=plan.headers,
            limit=self._options.max_message_size,
            latency=self._latency,
            kernel=self._kernel,
            buffer=self._buffer,
        )
        self.peers.append(peer)
        self._fresh.append(peer)
        if self._on_peer is not None:
            self._on_peer(peer)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        return peer.link


def _refused() -> Exception:
    return ConnectError("refused by the test")
