"""The timer for messages with a time to live."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from resilient_ws.core.delivery import DeliveryQueue

EXPIRY_LOOK: Final = 30.0
"""Seconds after which it is looked at the latest whether a message has expired."""

EARLY: Final = 0.001
"""Seconds by which a timer may fire too early: uvloop counts in milliseconds."""


class Expiry:
    """Calls back when the message that expires next is due.

    Args:
        queue: The messages.
        clock: Tells the time that entries have.
        expire: Called with the seconds by which the timer may have fired too early.
    """

    __slots__ = ("_at", "_clock", "_expire", "_queue", "_timer")

    def __init__(
        self, queue: DeliveryQueue, clock: Callable[[], float], expire: Callable[[float], None]
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def arm(self) -> None:
        """Set the timer for the message that expires next, unless an earlier one is set."""
        due = self._queue.next_expiry
        if due is None or (self._timer is not None and self._at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at = due
        # The clock of the loop stops while the machine is suspended, so a timer must not be far ahead.
        delay = min(max(0.0, due - self._clock()), EXPIRY_LOOK)
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        try:
            self._expire(EARLY)
        finally:
            self.arm()  # other messages expire even after a failure
