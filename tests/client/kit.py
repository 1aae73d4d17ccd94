"""What the tests of the client stand on: a client on a fake transport, and the rules every story must keep."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from tenacity import wait_fixed

from resilient_ws import (
    CloseEvent,
    ErrorEvent,
    Event,
    OpenEvent,
    ReconnectEvent,
    ReconnectPolicy,
    RetryEvent,
    State,
    StateEvent,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.api.rules import RULES
from resilient_ws.core.life import TRANSITIONS
from resilient_ws.testing import FakePeer, FakeTransport, PingAnswers

URL = "ws://peer.test/ws"
STEADY = ReconnectPolicy(wait=wait_fixed(1))
"""A retry comes one second later, so that times can be asserted."""


def now() -> float:
    """Return the virtual time."""
    return asyncio.get_running_loop().time()


async def settle(seconds: float = 0.001) -> None:
    """Let everything happen that can happen now; on virtual time the loop moves on only when nothing can run."""
    await asyncio.sleep(seconds)


def answering(answers: PingAnswers) -> FakeTransport:
    """Return a transport whose peers answer pings like that from the first one on, which goes out at OPEN."""
    return FakeTransport(lambda peer: setattr(peer, "answers_pings", answers))


class Stage:
    """A client, its transport, and everything it has told."""

    def __init__(self, client: WebSocketClient, transport: FakeTransport) -> None:
        self.client = client
        self.transport = transport
        self.events: list[Event] = []
        self._told = asyncio.Event()
        self._recorder: asyncio.Task[None] | None = None

    @property
    def peer(self) -> FakePeer:
        """The latest peer."""
        return self.transport.peer

    @property
    def received(self) -> list[Any]:
        """What the latest peer has received."""
        return list(self.peer.received)

    def record(self) -> None:
        """Begin to listen."""
        iterator = self.client.events()

        async def listen() -> None:
            async for event in iterator:
                self.events.append(event)
                self._told.set()

        self._recorder = asyncio.create_task(listen(), name="recorder")

    async def end(self) -> None:
        """Close the client and check what it has told."""
        await self.client.close()
        assert self._recorder is not None
        await self._recorder
        check_story(self.events)
        check_books(self.client, self.events)

    def of(self, kind: type) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def closes(self) -> list[CloseEvent]:
        """The closes so far."""
        return self.of(CloseEvent)

    @property
    def fates(self) -> list[tuple[Any, str]]:
        """What became of messages, in the order told."""
        return [(event.message, event.fate.value) for event in self.of(UndeliveredEvent)]

    @property
    def errors(self) -> list[tuple[str, str]]:
        """What went wrong beside the connection."""
        return [(event.where, str(event.exception)) for event in self.of(ErrorEvent)]

    @property
    def names(self) -> list[str]:
        """The kinds of events, states by their names."""
        return [named(event) for event in self.events]

    async def until(self, holds: Callable[[], bool], within: float = 3600) -> None:
        """Wait until something holds, looking at each event and once a second."""
        deadline = now() + within
        while not holds():
            assert now() < deadline, f"did not happen within {within} s; {self.client.explain()}"
            self._told.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._told.wait()
        await settle()

    async def until_state(self, state: State) -> None:
        """Wait for a state."""
        await self.until(lambda: self.client.state is state)

    async def reopened(self) -> FakePeer:
        """Wait until a connection is open other than the one of now."""
        before = self.client.stats.opens
        await self.until(lambda: self.client.stats.opens > before and self.client.state is State.OPEN)
        return self.peer


def named(event: Event) -> str:
    """Return the kind of an event in one word."""
    if isinstance(event, StateEvent):
        return event.new.value
    return type(event).__name__.removesuffix("Event").lower()


@contextlib.asynccontextmanager
async def stage(
    transport: FakeTransport | None = None,
    url: Any = URL,
    *,
    start: bool = True,
    ready: bool = True,
    **options: Any,
) -> AsyncIterator[Stage]:
    """Play a story on a client that is open at its beginning (unless told otherwise) and closed at its end."""
    transport = transport or FakeTransport()
    client = WebSocketClient(url, transport=transport, **{"reconnect": STEADY, **options})
    played = Stage(client, transport)
    played.record()
    try:
        if start:
            client.start()
            if ready:
                await client.ready(timeout=20_000)
        yield played
    except BaseException:
        await client.close()
        raise
    await played.end()


def check_story(events: list[Event]) -> None:
    """P1 and the order of events; the story is over."""
    state = State.IDLE
    is_open = False
    opened = 0
    finals = [event for event in events if isinstance(event, CloseEvent) and event.final]
    assert len(finals) == 1, f"{len(finals)} final closes"
    assert events[-1] is finals[0], "the final close is not the last event"
    told = [event for event in events if not isinstance(event, StateEvent | ErrorEvent)]
    for event in told:
        if isinstance(event, CloseEvent | RetryEvent):
            assert event.rule_id in RULES, f"{event.rule_id!r} is not the id of a rule: {event.rule}"
    for index, event in enumerate(told):
        after = told[index + 1] if index + 1 < len(told) else None
        if isinstance(event, OpenEvent):
            assert not is_open, "two opens without a close in between"
            assert event.first is (opened == 0)
            assert isinstance(after, ReconnectEvent) is (opened > 0), (
                "on_reconnect follows every open but the first"
            )
            is_open = True
            opened += 1
        elif isinstance(event, CloseEvent):
            assert is_open or event.final, "a close of nothing"
            assert is_open is (event.opened_for is not None)
            assert event.final is not event.will_retry
            is_open = False
            if event.will_retry:
                rest = [later for later in told[index + 1 :] if not isinstance(later, UndeliveredEvent)]
                assert isinstance(rest[0], RetryEvent | CloseEvent)
        elif isinstance(event, ReconnectEvent):
            assert isinstance(told[index - 1], OpenEvent)
    for event in events:
        if isinstance(event, StateEvent):
            assert event.old is state
            assert event.new in TRANSITIONS[state].values()
            state = event.new
    assert state is State.CLOSED
    assert not is_open


def check_books(client: WebSocketClient, events: list[Event]) -> None:
    """P5 as far as the numbers go: what was reported is what was counted, and nothing is left; the client is closed."""
    stats = client.stats
    assert client.state is State.CLOSED
    assert stats.waiting == stats.unconfirmed == 0
    counted = {
        "uncertain": stats.uncertain,
        "expired": stats.expired,
        "evicted": stats.evicted,
        "abandoned": stats.abandoned,
    }
    told = dict.fromkeys(counted, 0)
    for event in events:
        if isinstance(event, UndeliveredEvent):
            told[event.fate.value] += 1
    assert told == counted
    assert stats.opens == sum(isinstance(event, OpenEvent) for event in events)
    assert stats.opens == sum(stats.closes.values())
    assert client.close_event is events[-1]
    assert client._supervisor.loop is None or client._supervisor.is_finished


def pending(*coroutines):
    """Start each of them as a task."""
    return [asyncio.ensure_future(one) for one in coroutines]
