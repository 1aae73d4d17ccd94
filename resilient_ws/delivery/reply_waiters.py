"""Waiters for a reply of the peer: reading continues for them, or they fail if it cannot.

Knows neither messages nor connections; the waiting calls belong to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from resilient_ws.api.errors import InboxFull, ResilientWSError
from resilient_ws.delivery.inbox import Inbox


class Patience:
    """The calls of one client that wait for an answer.

    Args:
        inbox: Through which the answers must come.
        ask: Called when a call starts to wait for a PONG.
    """

    __slots__ = ("_ask", "_asking", "_inbox", "_waiters")

    def __init__(self, inbox: Inbox, ask: Callable[[], None]) -> None:
        self._inbox = inbox
        self._ask = ask
        self._waiters: list[asyncio.Future[Any]] = []
        self._asking = 0

    @property
    def asks(self) -> bool:
        """Whether a call waits for a PONG."""
        return self._asking > 0

    @contextmanager
    def waiting(self, waiter: asyncio.Future[Any], *, asks: bool) -> Generator[None]:
        """While it is entered, reading goes on to twice the bounds of the inbox; `waiter` fails if that is not enough.

        Args:
            waiter: What the call awaits.
            asks: Whether a PONG is what it waits for.
        """
        self._waiters.append(waiter)
        self._asking += asks
        try:
            if not self._inbox.expect():
                self.stuck()
            if asks:
                self._ask()
            yield
        finally:
            self._waiters.remove(waiter)
            self._asking -= asks
            self._inbox.expect_no_more()

    def stuck(self) -> None:
        """Fail the waiters: the inbox is full beyond twice its bounds, so the replies cannot arrive."""
        self.fail(lambda: InboxFull("the reply is queued behind unread messages"))

    def fail(self, error: Callable[[], ResilientWSError]) -> None:
        """End every wait with an exception."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error())
