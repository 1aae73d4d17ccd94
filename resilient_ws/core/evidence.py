"""Evidence for and against a live peer: readings of the connection, pings in flight, unanswered pings.

Pure. It collects evidence; `heartbeat` decides. Only bytes from the peer are evidence of life. Silence counts against
the peer only from when a ping has left this machine and while reading is not paused, because until then no answer can
arrive.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from resilient_ws.api.record import Record

SMALL: Final = 256
"""Bytes that fit in one segment on any path: a ping (at most 131, RFC 6455 5.5), its TLS record, and a margin."""

FIRST_STEP: Final = 0.02
"""Seconds after which it is looked whether a ping has left an upload of ours behind; doubled each time."""

STANDS: Final = math.inf
"""The target of a ping that waits for room in the transport."""

COUNTED_LATE: Final = 3
"""From which late look on since the last answer the stretch before it counts."""

REMEMBERED: Final = 256
"""How many unanswered pings keep their time; the oldest is always one of them."""


@attrs.frozen(eq=False, repr=False)
class Reading(Record):
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
        spoke_at: When the last word came that is no data message: a ping message of the server, a reply to ours.
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
    spoke_at: float = -math.inf


def in_flight(reading: Reading) -> int:
    """Return how many bytes of ours a living kernel would acknowledge by and by."""
    return reading.pending if reading.in_flight is None else reading.in_flight


def _spoke_at(reading: Reading) -> float:
    """Return when the peer last said something whole."""
    return max(reading.message_at, reading.spoke_at)


def has_left(target: float, reading: Reading) -> bool:
    """Return whether all that was written up to `target` is gone; `STANDS` has not been written yet."""
    return reading.left >= target or (target < STANDS and not reading.pending)


def with_ping(reading: Reading, size: int) -> Reading | None:
    """Return what a look would show after a ping of `size` bytes was written; `None` where one has to be taken.

    Nothing stood in its way, and the peer's kernel has not acknowledged it yet.
    """
    if reading.pending or reading.paused or not reading.acknowledged:
        return None
    return Reading(
        reading.received,
        reading.received_at,
        reading.message_at,
        reading.messages,
        reading.left,
        size,
        acknowledged=True,
        paused=False,
        in_flight=None if reading.in_flight is None else size,
        resumed_at=reading.resumed_at,
        spoke_at=reading.spoke_at,
    )


class Quiet:
    """The first ping since the peer was last heard.

    Attributes:
        since: When it was sent, or when its clock began anew.
        target: What `Reading.left` shows when it has left, or `STANDS`.
        left_at: When it had left; `None` while it stands behind an upload of ours.
        step: Seconds until it is to be looked at again while it stands.
    """

    __slots__ = ("left_at", "since", "step", "target")

    def __init__(self, now: float, reading: Reading, *, stands: bool = False) -> None:
        self.since = now
        self.target = STANDS if stands else reading.left + reading.pending
        self.left_at: float | None = now if reading.pending <= SMALL and not stands else None
        self.step = FIRST_STEP

    def observe(self, now: float, reading: Reading, coarsest: float) -> None:
        """Note whether the ping has left by now; `coarsest` bounds `step`."""
        if self.left_at is not None:
            return
        if has_left(self.target, reading):
            self.left_at = now
        else:
            self.step = min(2 * self.step, coarsest)

    def restart(self, now: float) -> None:
        """Let the clock begin again."""
        self.since = now
        if self.left_at is not None:
            self.left_at = now


class Ping:
    """A ping that is not answered yet.

    Attributes:
        target: What `Reading.left` shows when it has left, or `STANDS`; `None` when it is known to have left.
        counted: The counted time from which it is unanswered.
    """

    __slots__ = ("counted", "number", "sent_at", "target")

    def __init__(self, number: int, now: float, reading: Reading, counted: float, *, stands: bool) -> None:
        self.number = number
        self.sent_at = now
        self.target: float | None = None if reading.pending <= SMALL else reading.left + reading.pending
        if stands:
            self.target = STANDS
        self.counted = counted


class FirstPing:
    """The first ping of a connection, until it is answered.

    Attributes:
        target: What `Reading.left` shows when it has left.
        messages: How many had come at the last look.
        look_at: When to look next.
        halves: In how many halves of the timeout messages came.
    """

    __slots__ = ("halves", "look_at", "messages", "target")

    def __init__(self, reading: Reading, look_at: float) -> None:
        self.target = reading.left + reading.pending
        self.messages = reading.messages
        self.look_at = look_at
        self.halves = 0


class Answers:
    """Which pings are unanswered, and for how long while the peer talked.

    Time counts only while messages arrive (silence has its own rule, and an answer cannot overtake the rest of a
    huge message) and while we read: a stretch between two looks counts whole if a message came in it, else as far as
    the last message is no older than `gap`. It does not count for a ping that stands behind data of ours that move.

    A stretch that ended late, since our loop stood still, does not count. From the third one on since the last answer
    it counts as far as it was to pass, or `gap`: a loop that is always late has read a PONG before its next look, too.

    Args:
        interval: Seconds between two pings.
        limit: Seconds that an answer may be owed; infinite = no limit.
        answered: Whether the peer is known to answer.
    """

    __slots__ = ("_counted", "_limit", "_missed", "_pings", "answered", "gap", "last")

    def __init__(self, interval: float, limit: float, *, answered: bool = False) -> None:
        self.answered = answered
        self._missed = 0  # stretches that ended late since the last answer
        self.last = -math.inf
        self.gap = min(interval, limit / 2)
        self._limit = limit
        self._counted = 0.0
        self._pings: list[Ping] = []

    @property
    def awaited(self) -> bool:
        """Whether a peer that has answered before owes an answer, and there is a limit to that."""
        return self.answered and bool(self._pings) and self._limit < math.inf

    @property
    def owed(self) -> float:
        """For how long, in counted seconds, the oldest ping is unanswered."""
        return self._counted - self._pings[0].counted

    def sent(self, number: int, now: float, reading: Reading, *, stands: bool = False) -> None:
        """Remember when ping `number` went out; one that `stands` is told again when it does."""
        if number == self.last:
            if stands:
                return
            del self._pings[-1]
        if len(self._pings) == REMEMBERED:
            del self._pings[1]
        self._pings.append(Ping(number, now, reading, self._counted, stands=stands))
        self.last = number

    def came(self, number: int, now: float) -> float | None:
        """Take the answer to ping `number`; return its round trip in seconds, `None` if it is owed no more.

        RFC 6455 5.5.3: "may elect to send a Pong frame for only the most recently processed Ping frame", so it
        answers those before it, too.
        """
        pings = self._pings
        if not pings or not pings[0].number <= number <= self.last:
            return None
        self.answered = True
        self._missed = 0
        trip = None
        while pings and pings[0].number <= number:
            ping = pings.pop(0)
            if ping.number == number:
                trip = now - ping.sent_at
        return trip

    def count(
        self, now: float, since: float, before: Reading, reading: Reading, *, late: float = 0.0
    ) -> None:
        """Count the stretch from `since` to `now`, which ended `late` seconds after it was to end."""
        if late:
            self._missed += 1
            if self._missed < COUNTED_LATE:
                return
            now = min(now, max(now - late, since + self.gap))
        if reading.messages != before.messages:
            self._counted += now - since
        else:
            self._counted += max(0.0, min(now, _spoke_at(reading) + self.gap) - since)

    def depart(self, before: Reading, reading: Reading) -> None:
        """Note which pings have left, and begin anew for those that stand behind what moves."""
        moved = reading.left != before.left
        for ping in reversed(self._pings):
            if ping.target is None:
                return
            if has_left(ping.target, reading):
                ping.target = None
                ping.counted = self._counted
            elif moved:
                ping.counted = self._counted

    def restart(self) -> None:
        """Begin to count anew for each ping."""
        for ping in self._pings:
            ping.counted = self._counted

    def due(self, reading: Reading, looked_at: float, *, late: float = 0.0) -> float:
        """When the oldest ping has been unanswered for too long, if things go on like this.

        Whether the peer still talks is judged by the time for which we have listened: not while the last look was `late`.
        """
        if reading.paused or not self.awaited or _spoke_at(reading) + self.gap <= looked_at - late:
            return math.inf
        return looked_at + self._limit - self.owed
