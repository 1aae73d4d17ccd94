"""What a client tells, written down: for tests that look at it afterwards or wait for something in it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from resilient_ws import (
    CloseEvent,
    ErrorEvent,
    Event,
    OpenEvent,
    ReconnectEvent,
    ReconnectPolicy,
    RetryEvent,
    UndeliveredEvent,
    WebSocketClient,
)
from tests.conftest import open_sockets

E = TypeVar("E")

# Back at once, and patient: for tests that are about something else than delays and limits.
SOON = ReconnectPolicy(first_delay=0.02, min_delay=0.01, max_delay=0.05)


class Told:
    """Every event of one client, in the order in which the callbacks got them."""

    def __init__(self, client: WebSocketClient) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()
        for register in (
            client.on_open,
            client.on_close,
            client.on_reconnect,
            client.on_retry,
            client.on_undelivered,
            client.on_error,
            client.on_state,
        ):
            register(self._note)

    def _note(self, event: Any) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def opens(self) -> list[OpenEvent]:
        return self.of(OpenEvent)

    @property
    def closes(self) -> list[CloseEvent]:
        return self.of(CloseEvent)

    @property
    def reconnects(self) -> list[ReconnectEvent]:
        return self.of(ReconnectEvent)

    @property
    def retries(self) -> list[RetryEvent]:
        return self.of(RetryEvent)

    @property
    def undelivered(self) -> list[UndeliveredEvent]:
        return self.of(UndeliveredEvent)

    @property
    def errors(self) -> list[ErrorEvent]:
        return self.of(ErrorEvent)

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until it holds; it is asked again after each event."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s, told so far: {self.events[-10:]}") from None

    async def close(self, number: int = 1, timeout: float = 10.0) -> CloseEvent:
        """Wait for the close event with this number, from 1, and return it."""
        await self.until(lambda: len(self.closes) >= number, timeout)
        return self.closes[number - 1]

    async def retry(self, number: int = 1, timeout: float = 10.0) -> RetryEvent:
        """Wait for the retry event with this number, from 1, and return it."""
        await self.until(lambda: len(self.retries) >= number, timeout)
        return self.retries[number - 1]

    async def reconnect(self, number: int = 1, timeout: float = 10.0) -> ReconnectEvent:
        """Wait for the reconnect event with this number, from 1, and return it."""
        await self.until(lambda: len(self.reconnects) >= number, timeout)
        return self.reconnects[number - 1]

    def check_order(self) -> None:
        """Opens and closes alternate, each open but the first has its reconnect, the one final close is the last event."""
        kinds = [
            type(event) for event in self.events if isinstance(event, OpenEvent | CloseEvent | ReconnectEvent)
        ]
        is_open, opens = False, 0
        for at, kind in enumerate(kinds):
            if kind is OpenEvent:
                assert not is_open, "an open without the close of the one before"
                is_open, opens = True, opens + 1
                assert opens == 1 or kinds[at + 1 : at + 2] == [ReconnectEvent], (
                    "an open without its reconnect"
                )
            elif kind is CloseEvent:
                final = at == len(kinds) - 1
                assert is_open or final, "a close without an open"
                is_open = False
            else:
                assert kinds[at - 1] is OpenEvent, "a reconnect without its open"
                assert opens > 1, "a reconnect after the first open"
        finals = [event for event in self.closes if event.final]
        assert finals == self.events[-1:], "not exactly one final close, or not the last event"


async def until_freed(is_freed: Callable[[], bool], within: float = 0.5) -> None:
    """Wait until it holds; after ``within`` seconds fail, naming the sockets that are there."""
    deadline = time.monotonic() + within
    while not is_freed():
        assert time.monotonic() < deadline, sorted(open_sockets())
        await asyncio.sleep(0.005)
