"""The data behind `client.stats` and `client.explain()`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

import attrs

from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.events import (
    CloseEvent,
    ErrorEvent,
    Event,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    State,
    StateEvent,
    UndeliveredEvent,
)
from resilient_ws.api.record import Record

TIMELINE: Final = 200
"""The number of lines that `explain()` keeps."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stats(Record):
    """Statistics of one client: counters since its creation, and gauges (marked "now").

    Attributes:
        attempts: Attempts to connect.
        opens: Connections opened.
        closes: Connections ended, by origin.
        sent: Messages written, including resent ones.
        received: Messages received.
        bytes_sent: Payload bytes of the messages written.
        bytes_received: Payload bytes of the messages received.
        confirmed: Messages that the peer is known to have received (or messages written while `confirmation` was off).
        uncertain: Messages reported with `Fate.UNCERTAIN`.
        expired: Messages reported with `Fate.EXPIRED`.
        evicted: Messages reported with `Fate.EVICTED`.
        abandoned: Messages reported with `Fate.ABANDONED`.
        unverified: Messages released unconfirmed, because your program did not read and no PONG could arrive.
        discarded: Messages received and discarded: after this client's CLOSE, in a failed setup, or by `drop_oldest`.
        waiting: Pending messages, now; after the end, those that stay in the outbox file.
        unconfirmed: Messages in flight (written and not confirmed), now.
        unread: Messages received and not read, now.
        confirmation: Whether the open connection confirms deliveries, `on` or `off`; `none` without a connection.
        events_dropped: Events dropped because callbacks were too slow.
        dials_waiting: Clients waiting for a dial slot of the same origin, now, including this one.
        dials_under_way: Dials in progress to the same origin, now, including those of other clients.
        held_for: Seconds until clients may dial the origin, because it asked for time; 0 if it did not.
        waiting_for: What the client is waiting for, in words, such as a dial slot, the URL provider or the next attempt;
            empty if nothing.
    """

    attempts: int = 0
    opens: int = 0
    closes: Mapping[CloseOrigin, int] = attrs.field(factory=dict[CloseOrigin, int])
    sent: int = 0
    received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    confirmed: int = 0
    uncertain: int = 0
    expired: int = 0
    evicted: int = 0
    abandoned: int = 0
    unverified: int = 0
    discarded: int = 0
    waiting: int = 0
    unconfirmed: int = 0
    unread: int = 0
    confirmation: Literal["on", "off", "none"] = "none"
    events_dropped: int = 0
    dials_waiting: int = 0
    dials_under_way: int = 0
    held_for: float = 0.0
    waiting_for: str = ""


class _Line:
    """One line of the timeline, for one event or several equal ones in a row.

    Attributes:
        text: The text; for messages, their fate.
        ages: The lowest and the highest age of the messages; `None` for other events.
    """

    __slots__ = ("ages", "began", "count", "ended", "text")

    def __init__(self, when: float, text: str, ages: tuple[float, float] | None) -> None:
        self.began = self.ended = when
        self.count = 1
        self.text = text
        self.ages = ages

    def join(self, when: float, age: float | None) -> None:
        """Count another equal event."""
        self.ended = when
        self.count += 1
        if self.ages is not None and age is not None:
            self.ages = min(age, self.ages[0]), max(age, self.ages[1])

    def shown(self, clock: Callable[[float], str]) -> str:
        """Return the line as text; `clock` formats a time."""
        began, ended = clock(self.began), clock(self.ended)
        if self.ages is not None:
            low, high = (f"{age:.1f}" for age in self.ages)
            if self.count == 1:
                return f"{began}  a message of {low} s is {self.text}"
            return f"{began}  {self.count} messages {self.text}, {low} to {high} s old"
        if self.count == 1:
            return f"{began}  {self.text}"
        until = "" if began == ended else f", until {ended}"
        return f"{began}  {self.text} ({self.count} times{until})"


class Timeline:
    """The recent events with their times; equal ones in a row are one line with their count.

    Args:
        wall: Returns the time of day, as `time.time()`.
    """

    __slots__ = ("_past", "_wall")

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._past: list[_Line] = []

    def note(self, event: Event) -> str:
        """Remember an event; return it in words."""
        text = told(event)
        if isinstance(event, UndeliveredEvent):
            self._add(event.fate.value, event.age)
        else:
            self._add(text, None)
        return text

    def say(self, text: str) -> None:
        """Add a line that is not an event."""
        self._add(text, None)

    def _add(self, text: str, age: float | None) -> None:
        now, past = self._wall(), self._past
        if past and (last := past[-1]).text == text and (last.ages is None) is (age is None):
            last.join(now, age)
            return
        past.append(_Line(now, text, None if age is None else (age, age)))
        if len(past) > TIMELINE:
            del past[0]

    def lines(self, clock: Callable[[float], str]) -> list[str]:
        """Return the lines, oldest first; `clock` formats a time."""
        return [line.shown(clock) for line in self._past]


_VERDICT: Final = re.compile(r"\A.*: ((?:retry \d+|stop)\b.*)\Z", re.DOTALL)
_STEPS: Final = {(old, new): f"state {old} -> {new}" for old in State for new in State}


def changed(old: State, new: State) -> str:
    """Return the text for a change of state; the texts are shared by all clients."""
    return _STEPS[old, new]


def told(event: Event) -> str:
    """Return an event as text, without secrets."""
    if isinstance(event, StateEvent):
        return changed(event.old, event.new)
    if isinstance(event, OpenEvent):
        by = f", by {event.transport}" if event.transport else ""
        return f"open to {event.endpoint}, attempt {event.attempt}{by}"
    if isinstance(event, CloseEvent):
        length = "" if event.opened_for is None else f" after {event.opened_for:.1f} s open"
        last = "; this is the end" if event.final else ""
        verdict = _VERDICT.sub(r"\1", event.rule)  # the event itself already says what led to it
        return f"{event}{length}; {verdict}{last}"
    if isinstance(event, RetryEvent):
        return f"{event.rule}: in {event.delay:.2f} s"
    if isinstance(event, ReconnectEvent):
        return f"back after {event.downtime:.2f} s, {event.attempts} attempts, {event.resent} messages resent"
    if isinstance(event, ErrorEvent):
        return f"error in {event.where}: {type(event.exception).__name__}"
    return f"a message of {event.age:.1f} s is {event.fate.value}"
