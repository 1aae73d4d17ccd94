"""What speaks for a peer and against it: readings of the connection, pings under way, pings unanswered.

Pure, like `heartbeat`, which judges by it. It knows no verdict.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import attrs

SMALL: Final = 256
"""Bytes that leave in one segment whatever the path: a ping (131 at most, RFC 6455 5.5), its TLS record, a little."""

FIRST_STEP: Final = 0.02
"""Seconds after which it is looked whether a ping has left an upload of ours behind; doubled each time."""

REMEMBERED: Final = 256
"""How many unanswered pings keep their time; the oldest is always one of them."""


@attrs.frozen
class Reading:
    """What the connection shows at one look.

    Attributes:
        received: A count that grows with what comes from the peer: bytes where the kernel tells, else frames.
        received_at: When the last of it came, as far as known; the beginning of the connection at first.
        message_at: When the last data message came; the beginning of the connection at first.
        messages: How many whole data messages have come.
        left: Bytes of ours that are gone: acknowledged by the peer's kernel where that is known, else handed to ours.
        pending: Bytes of ours that are not gone yet: in our buffers and, where that is known, in our kernel.
        acknowledged: Whether `left` means acknowledged by the peer's kernel.
        paused: Whether reading is paused by our own full inbox.
        in_flight: How many of `pending` are on their way and would be acknowledged by a living kernel (those that
            wait for room at the peer are not); `None`: not known, then `pending` stands for it.
        resumed_at: When reading went on after its last pause; minus infinity if it was never paused, or not known.
            With it a pause between two looks is seen too.
    """

    received: int
    received_at: float
    message_at: float
    messages: int
    left: int
    pending: int
    acknowledged: bool
    paused: bool
    in_flight: int | None = None
    resumed_at: float = -math.inf


def in_flight(reading: Reading) -> int:
    """Returns how many bytes of ours a living kernel would acknowledge by and by."""
    return reading.pending if reading.in_flight is None else reading.in_flight


class Quiet:
    """The first ping since the peer was last heard."""

    __slots__ = ("left_at", "since", "step", "target")

    def __init__(self, now: float, reading: Reading) -> None:
        self.since = now
        self.target = reading.left + reading.pending
        self.left_at: float | None = now if reading.pending <= SMALL else None
        self.step = FIRST_STEP

    def observe(self, now: float, reading: Reading, coarsest: float) -> None:
        """Notes whether the ping has left by now."""
        if self.left_at is not None:
            return
        if reading.left >= self.target or not reading.pending:
            self.left_at = now
        else:
            self.step = min(2 * self.step, coarsest)

    def restart(self, now: float) -> None:
        """Lets the clock begin again."""
        self.since = now
        if self.left_at is not None:
            self.left_at = now


class Answers:
    """Which pings are unanswered, and for how long while the peer talked.

    Time counts only while messages arrive (silence has its own rule, and an answer cannot overtake the rest of a
    huge message) and while we read: a stretch between two looks counts whole if a message came in it, else as far as
    the last message is no older than `gap`.
    """

    def __init__(self, interval: float, limit: float) -> None:
        self.answered = False
        self.last = -math.inf
        self.gap = min(interval, limit / 2)
        self._limit = limit
        self._talked = 0.0
        self._from = 0.0
        self._pings: deque[tuple[int, float, float]] = deque()

    @property
    def awaited(self) -> bool:
        """Whether a peer that has answered before owes an answer."""
        return self.answered and bool(self._pings)

    @property
    def owed(self) -> float:
        """For how long, in counted seconds, the oldest ping is unanswered."""
        return self._talked - max(self._from, self._pings[0][2])

    def sent(self, number: int, now: float) -> None:
        """Remembers when ping `number` went out."""
        if len(self._pings) == REMEMBERED:
            del self._pings[1]
        self._pings.append((number, now, self._talked))
        self.last = number

    def came(self, number: int, now: float) -> float | None:
        """Takes the answer to ping `number`; RFC 6455 5.5.3: it answers the pings before it, too."""
        pings = self._pings
        if not pings or not pings[0][0] <= number <= self.last:
            return None
        self.answered = True
        trip = None
        while pings and pings[0][0] <= number:
            known, sent_at, _ = pings.popleft()
            if known == number:
                trip = now - sent_at
        return trip

    def observe(self, now: float, since: float, before: Reading, reading: Reading) -> None:
        """Counts the stretch between two looks."""
        if reading.messages != before.messages:
            self._talked += now - since
        else:
            self._talked += max(0.0, min(now, reading.message_at + self.gap) - since)

    def restart(self) -> None:
        """Counts for each ping from now on only."""
        self._from = self._talked

    def due(self, reading: Reading, looked_at: float) -> float:
        """When the oldest ping has been unanswered for too long, if things go on like this."""
        if reading.paused or not self.awaited:
            return math.inf
        rest = self._limit - self.owed
        if rest > 0 and reading.message_at + self.gap <= looked_at:
            return math.inf
        return looked_at + rest
