"""What `events()` returns: every event in order, for one who takes them when it likes, bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from resilient_ws.errors import ConcurrencyError, ResilientWSError
from resilient_ws.events import ErrorEvent, Event

SUBSCRIBER_QUEUE: Final = 1_000
"""Events that one `events()` iterator may hold; beyond, the oldest go and an `ErrorEvent` counts them."""


class EventsDropped(ResilientWSError):  # noqa: N818 - a fact that is reported, as the events beside it
    """Events were not delivered since nobody took them in time.

    Attributes:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} events were dropped, since nobody took them in time")
        self.count = count


class Subscription:
    """What `events()` returns: an async iterator over every event from now on.

    Args:
        ended: Whether no event comes any more.
        home: Returns the loop in which events happen, as soon as it is known.
    """

    def __init__(self, ended: bool, home: Callable[[], asyncio.AbstractEventLoop | None]) -> None:
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = ended
        self._home = home

    def push(self, event: Event) -> None:
        """Appends an event; the oldest one goes when the queue is full."""
        if len(self._events) >= SUBSCRIBER_QUEUE:
            self._events.popleft()
            self._dropped += 1
        self._events.append(event)
        self._wake()

    def end(self) -> None:
        """No event comes any more."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events and not self._dropped:
            if self._ended:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise ConcurrencyError("another task is waiting on this events() iterator")
            loop = asyncio.get_running_loop()
            if self._home() not in (None, loop):
                raise ConcurrencyError.other_loop()
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return ErrorEvent(where="events", exception=EventsDropped(dropped))
        return self._events.popleft()
