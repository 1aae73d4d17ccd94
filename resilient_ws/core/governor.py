"""Limits how many clients dial one origin: how many at once, in which order, and when it asked for time.

Knows no loop, no clock and no source of randomness: `now` is passed in, who waits is woken through a function of its
own and draws its own delay. The waiting itself is `resilient_ws.runtime.dial_slots`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

import attrs

from resilient_ws.api.close_codes import CloseCode, CloseOrigin, described
from resilient_ws.api.events import Failure
from resilient_ws.api.options import Duration, seconds, whole
from resilient_ws.api.record import Record
from resilient_ws.core.retry import RETRY_AFTER_CAP

Origin = str
"""Scheme, host and port, as `wss://host`; a port is named unless it is that of the scheme."""

MAX_DIALS: Final = 64
"""How many dials to one origin are under way at once.

The listen backlog of a server that just came up must hold them all, or the kernel drops their SYNs and each costs a
second. The smallest in use is 100: asyncio's, and with it that of `websockets` and many others; 128 follows (aiohttp,
Linux before 5.4), then 511 (nginx, Node). 64 leaves a third of it to others, and a handshake of 100 ms still lets 640
clients in each second.
"""

MAX_HOLD: Final = 60.0
"""Seconds for which the answer to one client holds the others.

It may have been about its path or its key alone. After a minute one of the others finds out, and if the answer was for
all of them it holds the rest again: at most `MAX_DIALS` dials a minute reach a server that wants none.
"""

SLOT: Final = 3.0
"""Seconds after which a dial no longer counts against the others.

A handshake is done in much less. One that takes longer hangs, or its server does; `open_timeout`, which the program may have
set to minutes or to none, must not decide how long the other clients of that origin wait for it. So at most `MAX_DIALS`
dials begin in any `SLOT` seconds on an origin that answers none, and all of them get their turn.
"""

_FEW: Final = 64


@attrs.frozen(eq=False, repr=False)
class Hold(Record):
    """An origin asked for time.

    Attributes:
        until: When it is over.
        since: When it was asked for, or asked for again.
        why: What it said.
    """

    until: float
    since: float
    why: str


class Ticket:
    """A client's place among those who want to dial one origin.

    Attributes:
        origin: Where to.
        due: When to `knock`; `None` = no time is set. `wake` is called when something has changed.
        granted_at: When it was let in; `None` = it waits.
    """

    __slots__ = ("due", "granted_at", "hurried", "is_over", "origin", "spread", "wake")

    def __init__(
        self, origin: Origin, wake: Callable[[], None], spread: Callable[[], float], *, hurried: bool
    ) -> None:
        self.origin = origin
        self.wake = wake
        self.spread = spread
        self.hurried = hurried
        self.due: float | None = None
        self.granted_at: float | None = None
        self.is_over = False


class _Gate:
    """The dials to one origin."""

    __slots__ = ("asleep", "counted", "hold", "late", "queue")

    def __init__(self) -> None:
        self.counted: OrderedDict[Ticket, None] = (
            OrderedDict()
        )  # under way for less than `SLOT`, the eldest first
        self.late = 0  # under way for longer
        self.queue: OrderedDict[Ticket, None] = OrderedDict()  # for a place, in the order of asking
        self.asleep: dict[Ticket, None] = {}  # each until its own time
        self.hold: Hold | None = None

    def held(self, now: float) -> Hold | None:
        return self.hold if self.hold is not None and now < self.hold.until else None

    def is_idle(self, now: float) -> bool:
        return not (self.dialing or self.queue or self.asleep or self.held(now))

    @property
    def dialing(self) -> int:
        return len(self.counted) + self.late

    def age(self, now: float) -> None:
        """Stop counting dials that have taken longer than `SLOT`."""
        while self.counted:
            eldest = next(iter(self.counted))
            if eldest.granted_at is None or eldest.granted_at + SLOT > now:
                return
            del self.counted[eldest]
            self.late += 1


class Dials:
    """The dials of all clients in one event loop.

    Args:
        max_dials: How many to one origin may be under way.
        max_hold: Seconds for which an origin may be held; `None` = never.
    """

    def __init__(self, max_dials: int, max_hold: float | None) -> None:
        self._max_dials = max_dials
        self._max_hold = max_hold
        self._gates: dict[Origin, _Gate] = {}
        self._sweep_at = _FEW

    @property
    def is_quiet(self) -> bool:
        """Whether no origin is held and none is dialed."""
        return not self._gates

    def held(self, origin: Origin, now: float) -> Hold | None:
        """Return why no dial may start; `None` if one may."""
        gate = self._gates.get(origin)
        return gate.held(now) if gate is not None else None

    def waiting(self, origin: Origin) -> int:
        """Return how many clients wait to be let in."""
        gate = self._gates.get(origin)
        return len(gate.queue) + len(gate.asleep) if gate is not None else 0

    def dialing(self, origin: Origin) -> int:
        """Return how many dials are under way."""
        gate = self._gates.get(origin)
        return gate.dialing if gate is not None else 0

    def ask(
        self,
        origin: Origin,
        now: float,
        *,
        wake: Callable[[], None],
        spread: Callable[[], float],
        hurried: bool = False,
        first: bool = False,
    ) -> Ticket:
        """Request a slot; the caller must call `leave` in any case.

        Args:
            origin: Where to.
            now: Seconds of the clock that all calls use.
            wake: Called when the ticket has changed.
            spread: Draws the seconds that this client waits after a hold, so that not all come at its end.
            hurried: Whether a hold does not count: the program itself asked for this dial.
            first: Whether this client had its turn and has given it back for a while: it comes before the others.
        """
        ticket = Ticket(origin, wake, spread, hurried=hurried)
        gate = self._gate(origin, now)
        self._place(gate, ticket, now, first=first)
        return ticket

    def knock(self, ticket: Ticket, now: float) -> None:
        """Queue a ticket whose time has come, or let it wait on if the origin asked for more time."""
        if ticket.is_over or ticket.due is None or now < ticket.due:
            return
        gate = self._gates[ticket.origin]
        if ticket in gate.asleep:
            del gate.asleep[ticket]
            self._place(gate, ticket, now)
        elif ticket in gate.queue:
            self._admit(gate, now)

    def hurry(self, ticket: Ticket, now: float, due: float) -> None:
        """Exempt a ticket from the hold; it is due at `due`, in its order."""
        ticket.hurried = True
        gate = self._gates[ticket.origin]
        if ticket in gate.asleep:
            ticket.due = due
            self.knock(ticket, now)
            ticket.wake()

    def leave(self, ticket: Ticket, now: float, *, opened: bool = False) -> None:
        """Release the slot: the dial is over or was given up. A second call does nothing.

        Args:
            ticket: Whose.
            now: As for `ask`.
            opened: Whether the origin let us in: if the dial began after the hold did, that ends it.
        """
        if ticket.is_over:
            return
        ticket.is_over = True
        gate = self._gates[ticket.origin]
        if ticket.granted_at is None:
            gate.queue.pop(ticket, None)
            gate.asleep.pop(ticket, None)
            self._admit(gate, now)
        else:
            if ticket in gate.counted:
                del gate.counted[ticket]
            else:
                gate.late -= 1
            hold = gate.held(now)
            if opened and hold is not None and hold.since <= ticket.granted_at:
                self._lift(gate, hold, now)
            self._admit(gate, now)
        if gate.is_idle(now):
            del self._gates[ticket.origin]

    def hold(self, origin: Origin, now: float, time: float, why: str, *, asked: bool) -> None:
        """Hold an origin that has asked for time: no dial starts until then, and waiting tickets are scheduled again.

        Args:
            origin: Which.
            now: As for `ask`.
            time: Seconds.
            why: What it said.
            asked: Whether it named the time. One that a client drew by itself does not lengthen a hold: of many that
                draw, the most timid would decide.
        """
        if self._max_hold is None or time <= 0:
            return
        until = now + min(time, self._max_hold)
        gate = self._gate(origin, now)
        hold = gate.held(now)
        if hold is not None and (until <= hold.until or not asked):
            return
        gate.hold = Hold(until, now, why)
        for ticket in [waiting for waiting in gate.queue if not waiting.hurried]:
            del gate.queue[ticket]
            self._place(gate, ticket, now)
            ticket.wake()
        self._admit(gate, now)

    def _place(self, gate: _Gate, ticket: Ticket, now: float, *, first: bool = False) -> None:
        hold = gate.held(now)
        if hold is not None and not ticket.hurried:
            ticket.due = hold.until + ticket.spread()
            gate.asleep[ticket] = None
        else:
            ticket.due = None
            gate.queue[ticket] = None
            if first:
                gate.queue.move_to_end(ticket, last=False)
            self._admit(gate, now, asking=ticket)

    def _admit(self, gate: _Gate, now: float, *, asking: Ticket | None = None) -> None:
        gate.age(now)
        while gate.queue and len(gate.counted) < self._max_dials:
            ticket, _ = gate.queue.popitem(last=False)
            gate.counted[ticket] = None
            ticket.due, ticket.granted_at = None, now
            ticket.wake()
        if gate.queue:
            # The next one looks again when the eldest dial stops to count.
            ticket, eldest = next(iter(gate.queue)), next(iter(gate.counted))
            due = (now if eldest.granted_at is None else eldest.granted_at) + SLOT
            if ticket.due != due:
                ticket.due = due
                if ticket is not asking:  # which is about to look at it
                    ticket.wake()

    @staticmethod
    def _lift(gate: _Gate, hold: Hold, now: float) -> None:
        """End a hold early; each of those who waited keeps what it has drawn."""
        gate.hold = None
        for ticket in gate.asleep:
            if ticket.due is not None and not ticket.hurried:
                ticket.due = now + max(0.0, ticket.due - hold.until)
                ticket.wake()

    def _gate(self, origin: Origin, now: float) -> _Gate:
        gate = self._gates.get(origin)
        if gate is None:
            if len(self._gates) >= self._sweep_at:  # expired holds of origins no longer in use
                self._gates = {key: one for key, one in self._gates.items() if not one.is_idle(now)}
                self._sweep_at = 2 * len(self._gates) + _FEW
            gate = self._gates[origin] = _Gate()
        return gate


def _max_dials(value: int) -> int:
    return whole("max_dials", value)


def _max_hold(value: Duration | None) -> float | None:
    limit = seconds("max_hold", value, none=True)
    if limit is not None and limit > RETRY_AFTER_CAP:
        raise ValueError(f"max_hold must be at most {RETRY_AFTER_CAP:g} s, got {limit:g}")
    return limit


@attrs.frozen(eq=False)
class Governor:
    """Limits how fast many clients dial one origin (scheme, host and port), as `WebSocketClient(governor=...)`.

    By default all clients of a process share one governor. At most `max_dials` dials to an origin are in progress at once,
    from the DNS lookup to the end of the handshake. Dials that take longer than 3 seconds no longer count, so that a
    hanging server does not block all clients. A URL provider runs without a slot. Other clients wait in order; this wait
    is not part of `open_timeout`.

    If a server answers one client with 429, 503 or any `Retry-After`, or closes with 1013, the other clients wait, too:
    for the time of `Retry-After`, or as long as that client waits, plus a random delay of their own policy. The first
    connection opened by a later dial ends this hold.

    If such answers concern only one API key, as 429 often does, give the clients of each key their own governor. Clients
    in different event loops do not wait for each other.

    Args:
        max_dials: The most dials to one origin at once, 1 or more.
        max_hold: Seconds or `timedelta`, more than 0 and at most an hour: the longest time that an answer to one client
            holds the others; `None` means that it never does.

    Raises:
        TypeError, ValueError: An argument has the wrong type or is out of its range.
    """

    max_dials: int = attrs.field(default=MAX_DIALS, converter=_max_dials)
    max_hold: float | None = attrs.field(default=MAX_HOLD, converter=_max_hold)
    _loops: WeakKeyDictionary[object, Dials] = attrs.field(
        init=False, repr=False, factory=WeakKeyDictionary[object, Dials]
    )

    def dials(self, loop: object) -> Dials:
        """Return the dials of one event loop, which has its own clock and its own thread."""
        # In one step, since clients in several threads may ask at once.
        return self._loops.get(loop) or self._loops.setdefault(loop, Dials(self.max_dials, self.max_hold))


SHARED: Final = Governor()
"""The one that all clients of a process share unless they are given another."""


def request_for_time(failure: Failure, delay: float) -> tuple[float, str, bool] | None:
    """Return what a failure says about its whole origin: for how long to leave it alone, why, and whether it said so.

    Args:
        failure: Of an attempt or a connection.
        delay: Seconds that the client itself waits now; infinite = it has ended.

    Source: RFC 9110 15.6.4 (503), RFC 6585 4 (429), the registry of RFC 6455 11.7 (1013).
    """
    close, retry_after = failure.close, failure.retry_after
    asked = retry_after if retry_after is not None and retry_after > 0 else 0.0
    if failure.status is not None and (asked or failure.status in {429, 503}):
        why = f"HTTP {failure.status}"
    elif close is not None and close.origin is CloseOrigin.PEER and close.code == CloseCode.TRY_AGAIN_LATER:
        why, asked = described(close.code, close.reason), 0.0
    else:
        return None
    time = min(asked, delay) if asked > 0 else delay
    return (time, why, asked > 0) if 0 < time < math.inf else None
