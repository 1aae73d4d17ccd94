"""The iterator that `events()` returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Self

from resilient_ws.api.errors import ConcurrencyError, ResilientWSError
from resilient_ws.api.events import ErrorEvent, Event
from resilient_ws.runtime.event_queue import EventQueue

SUBSCRIBER_QUEUE: Final = 1_000
"""Events that one `events()` iterator may hold; beyond, the oldest go and an `ErrorEvent` counts them."""


class EventsDropped(ResilientWSError):  # noqa: N818 - a fact that is reported, as the events beside it
    """Events were not delivered because they were not taken in time.

    Attributes:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} events were dropped because they were not taken in time")
        self.count = count


class Subscription:
    """What `events()` returns: an async iterator over every event from now on.

    Args:
        ended: Whether no more events will come.
        home: Returns the loop in which events happen, as soon as it is known.
        max_bytes: How many bytes of messages the held events may keep alive.
    """

    def __init__(
        self, ended: bool, home: Callable[[], asyncio.AbstractEventLoop | None], max_bytes: int
    ) -> None:
        self._events = EventQueue(SUBSCRIBER_QUEUE, max_bytes)
        self._number = 0
        self._dropped = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = ended
        self._home = home

    def push(self, event: Event, size: int) -> None:
        """Append an event of `size` bytes; the oldest ones go where it does not fit."""
        events = self._events
        while not events.fits(size):
            events.take()
            self._dropped += 1
        self._number += 1
        events.append(self._number, size, event)
        self._wake()

    def end(self) -> None:
        """No more events will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        events = self._events
        while not events and not self._dropped:
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
        waiting = events.take()
        assert waiting is not None
        return waiting[2]
