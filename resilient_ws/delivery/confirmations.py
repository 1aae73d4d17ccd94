"""Waiters for the fate of messages: of one (`confirm=True`), or of all so far (`flush`).

Knows no connection: it is told what was confirmed and what was not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

from resilient_ws.api.errors import DeliveryUncertain, ResilientWSError
from resilient_ws.core.delivery import DeliveryQueue, Entry
from resilient_ws.delivery.reply_waiters import Patience

Token = asyncio.Future[None]
"""What a call with `confirm=True` waits for; the message carries it."""


class Confirmations:
    """The calls of one client that wait for the end of messages.

    Args:
        queue: Whose messages.
        patience: Lets reading go on for those who wait.
    """

    __slots__ = ("_flushes", "_held", "_patience", "_queue")

    def __init__(self, queue: DeliveryQueue, patience: Patience) -> None:
        self._queue = queue
        self._patience = patience
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._held: set[str] = set()

    async def of(self, token: Token) -> None:
        """Wait for the confirmation of one message."""
        with self._patience.waiting(token, asks=True):
            await token

    async def behind(self, position: int) -> None:
        """Wait until each message accepted before `position` has its end, and its fate has been told."""
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine = (position, settled)
        self._flushes.append(mine)
        try:
            with self._patience.waiting(settled, asks=True):
                await settled
        finally:
            self._flushes.remove(mine)

    def hold(self, why: str, *, held: bool) -> None:
        """Return whether fates are about to be told, so that no call sees an end before its fate is reported."""
        (self._held.add if held else self._held.discard)(why)

    @property
    def held(self) -> bool:
        """Whether fates are about to be told."""
        return bool(self._held)

    def progress(self) -> None:
        """Something was confirmed or given up: those who wait for more than one message look again."""
        if self._held:
            return
        for position, settled in self._flushes:
            if not settled.done() and self._queue.is_settled(position):
                settled.set_result(None)


def succeed(entries: Iterable[Entry]) -> None:
    """Resolve the waiters of confirmed messages."""
    for entry in entries:
        token = cast("Token | None", entry.token)
        if token is not None and not token.done():
            token.set_result(None)


def fail(entries: Iterable[Entry], error: Callable[[], ResilientWSError]) -> None:
    """Reject the waiters of messages that were not confirmed."""
    for entry in entries:
        token = cast("Token | None", entry.token)
        if token is not None and not token.done():
            token.set_exception(error())


def off() -> DeliveryUncertain:
    """Return what is raised for a message that is accepted, where nothing is confirmed."""
    return DeliveryUncertain(
        "confirmation is off on this connection: the message was accepted and is sent, but whether the peer has it "
        "cannot be known"
    )


def refused() -> DeliveryUncertain:
    """Return what is raised instead of sending, where nothing is confirmed."""
    return DeliveryUncertain(
        "confirmation is off on this connection, so the message was not sent: send it without confirm=True, or use "
        "request() to wait for an answer"
    )
