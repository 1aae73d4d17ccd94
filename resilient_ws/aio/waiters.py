"""A queue of waiting calls, served in order.

Knows nothing of what they wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from resilient_ws.api.errors import ResilientWSError


class Line:
    """A queue of waiting calls."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self._waiters)

    async def wait(self, may: Callable[[bool], bool]) -> None:
        """Return as soon as `may` says so: it is asked at once, and again whenever this call is woken.

        Args:
            may: Whether the call may go on; given whether it is the first in the line. What it raises ends the wait.
        """
        if not may(not self._waiters):
            await self.join(may)

    async def join(self, may: Callable[[bool], bool]) -> None:
        """Return when it was woken and `may` says so, as for `wait`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
            while not may(self._waiters[0] is waiter):
                fresh: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters[self._waiters.index(waiter)] = fresh
                waiter = fresh
                await waiter
        finally:
            self._waiters.remove(waiter)
            self._wake(2)

    def wake_next(self) -> None:
        """Let the first waiter check its condition again."""
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    def _wake(self, count: int) -> None:
        """Others look again, too: twice as many as went on, so that a crowd needs few turns of the loop."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
                if not count:
                    return

    def wake_all(self) -> None:
        """Every one looks again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: Callable[[], ResilientWSError]) -> None:
        """End every wait with an exception."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error())
