"""What `client.stats` and `client.explain()` show: numbers as of now, and the recent past in words."""

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
"""Events that `explain()` remembers."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stats(Record):
    """Numbers of one client, counted since it was made unless said otherwise.

    Attributes:
        attempts: Dials.
        opens: Connections that became open.
        closes: Ends of those, by who ended them.
        sent: Messages written, those sent again included.
        received: Messages received.
        bytes_sent: Bytes of those messages' payloads.
        bytes_received: Bytes of those messages' payloads.
        confirmed: Messages the peer is known to have (or written, where `confirmation` was off).
        uncertain: Messages reported with `Fate.UNCERTAIN`.
        expired: Messages reported with `Fate.EXPIRED`.
        evicted: Messages reported with `Fate.EVICTED`.
        abandoned: Messages reported with `Fate.ABANDONED`.
        unverified: Messages let go unconfirmed, since the program did not read and no PONG could arrive.
        discarded: Messages received and thrown away: after our CLOSE, in a set-up that failed, by `drop_oldest`.
        waiting: Messages accepted and not written, now; after the end, those that stay in the outbox file.
        unconfirmed: Messages written and not confirmed, now.
        unread: Messages received and not taken, now.
        confirmation: Whether the open connection confirms deliveries: `on`, `off`; `none` without a connection.
        events_dropped: Events that slow callbacks did not take in time.
        dials_waiting: Clients that wait for their turn to dial where this one dials, now; itself included.
        dials_under_way: Dials to where this one dials that are under way, now; those of other clients included.
        held_for: Seconds for which no client is to dial there, since one was asked for time; 0 = no such request.
        waiting_for: What the client itself waits for, in words, such as its turn to dial, the URL provider, the next
            attempt; empty where nothing stands in its way.
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
    """One line of the timeline, for one event or for several in a row that say the same.

    Attributes:
        text: What it says; the fate, where it is about messages.
        ages: The least and the greatest age of those messages, `None` where it is about something else.
    """

    __slots__ = ("ages", "began", "count", "ended", "text")

    def __init__(self, when: float, text: str, ages: tuple[float, float] | None) -> None:
        self.began = self.ended = when
        self.count = 1
        self.text = text
        self.ages = ages

    def join(self, when: float, age: float | None) -> None:
        """The same has happened once more."""
        self.ended = when
        self.count += 1
        if self.ages is not None and age is not None:
            self.ages = min(age, self.ages[0]), max(age, self.ages[1])

    def shown(self, clock: Callable[[float], str]) -> str:
        """Return it in words; `clock` turns a time of day into text."""
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
        """Remember what is no event."""
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
        """Return one line for each, the oldest first; `clock` turns a time of day into text."""
        return [line.shown(clock) for line in self._past]


_VERDICT: Final = re.compile(r"\A.*: ((?:retry \d+|stop)\b.*)\Z", re.DOTALL)
_STEPS: Final = {(old, new): f"state {old} -> {new}" for old in State for new in State}


def changed(old: State, new: State) -> str:
    """Return in words that the state has changed; all clients remember the same text."""
    return _STEPS[old, new]


def told(event: Event) -> str:
    """Return what happened, in words, without any secret."""
    if isinstance(event, StateEvent):
        return changed(event.old, event.new)
    if isinstance(event, OpenEvent):
        by = f", by {event.transport}" if event.transport else ""
        return f"open to {event.endpoint}, attempt {event.attempt}{by}"
    if isinstance(event, CloseEvent):
        length = "" if event.opened_for is None else f" after {event.opened_for:.1f} s open"
        last = "; this is the end" if event.final else ""
        verdict = _VERDICT.sub(r"\1", event.rule)  # what led to it stands before
        return f"{event}{length}; {verdict}{last}"
    if isinstance(event, RetryEvent):
        return f"{event.rule}: in {event.delay:.2f} s"
    if isinstance(event, ReconnectEvent):
        return f"back after {event.downtime:.2f} s, {event.attempts} attempts, {event.resent} messages resent"
    if isinstance(event, ErrorEvent):
        return f"error in {event.where}: {type(event.exception).__name__}"
    return f"a message of {event.age:.1f} s is {event.fate.value}"
