"""Decides whether a silent peer is dead.

Pure: `now` and a `Reading` come in, a deadline and a `Verdict` go out. It knows no clock, no loop and no socket; it
does not send the pings it asks for, it does not end a connection, and it does not know which platform it is on.

The rules, in the words of the code below:

- A **ping** is due `interval` after the last one, or a moment before, even if data arrives: it measures, it confirms, and it
  asks the direction away from us, which arriving data say nothing about.
- The connection is **quiet** from the first ping after the last sign of life. Its clock starts when the ping has left,
  because a ping queued behind an upload cannot be answered. It ends when any data arrives.
- A verdict is **doubted** first: the reading is taken again and again, so that the loop has asked the socket and has
  handed on what came in.
- A look that comes **late**, or after the machine slept, judges nothing: it saw the loop stand still, not the peer. The
  peer is asked anew instead. Such excuses are counted, so that a loop that is always late still notices a death.
- While **paused** by our own full inbox, the peer cannot be heard, so silence proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import attrs

from resilient_ws.api.options import Heartbeat
from resilient_ws.api.record import Record
from resilient_ws.core.evidence import STANDS, Answers, Quiet, Reading, in_flight

__all__ = ["HeartbeatMonitor", "Reading", "Verdict"]

Rule = Literal["silence", "answer", "idle"]
_SILENCE: Final = "silence"
_ANSWER: Final = "answer"
_IDLE: Final = "idle"
_RULES: Final[tuple[Rule, ...]] = (_SILENCE, _ANSWER, _IDLE)
_NONE_SPENT: Final[Mapping[Rule, int]] = MappingProxyType({})

DOUBTS: Final = 2
"""How many looks a verdict takes before the one that gives it.

uvloop runs the timers of a turn before it asks the sockets, so the first look may not know what has arrived; aiohttp
hands on what it read one turn later, so the second may not know it either.
"""

SOON: Final = 0.005
"""Seconds between these looks: another turn of the loop for certain, whether it was idle or stood still."""

LATE: Final = 0.25
"""Seconds after its deadline from which a look says more about our loop than about the peer."""

EXCUSES: Final = 3
"""How often in a row a look that is late by more than half of a limit lets that limit begin anew.

A loop that stood still for so long says nothing about the peer, so the peer is asked anew and has the whole limit to answer.
One that stands still again and again would never judge. An answer that has come is seen at every look, however late, so a
peer that has left three fresh pings in a row unanswered is dead.
"""

SLEPT: Final = 1.0
"""Seconds of suspension from which the time before it proves nothing."""

SLEEPS: Final = 10
"""How often in a row a suspended machine lets the limits begin anew: more often, since its network takes time to return."""

TICK: Final = 0.001
"""Seconds, the resolution of the coarsest loop (uvloop); two looks are never nearer."""

SHARED: Final = 1 / 64
"""Seconds between the moments at which pings go out, where the interval is longer than `FAR`."""

FAR: Final = 1.0
"""Seconds of an interval up to which each ping goes out at a moment of its own."""

GRAIN: Final = 0.02
"""Seconds that the kernel's clock of the last arrival may be wrong by: it counts jiffies, of 10 ms at most, twice."""


@attrs.frozen(eq=False, repr=False)
class Verdict(Record):
    """What to do after a look.

    Attributes:
        ping: Whether to send a ping now, and tell so with `ping_sent`.
        dead: Why the connection is dead, in words; `None` while it is not.
        hint: What to try instead, if this peer never answered a ping.
        rule_id: The stable id of the rule that was broken, as in `CloseEvent.rule_id`; `None` while none is.
    """

    ping: bool
    dead: str | None = None
    hint: str | None = None
    rule_id: str | None = None


_RULE_IDS: Final[dict[Rule, str]] = {
    _SILENCE: "heartbeat-silent",
    _ANSWER: "heartbeat-unanswered",
    _IDLE: "heartbeat-idle",
}
_NOTHING: Final = Verdict(ping=False)
_PING: Final = Verdict(ping=True)


class HeartbeatMonitor:
    """Judges one connection, from its opening to its end.

    Call `look` at `deadline` with a fresh `Reading`, and send a ping if the verdict asks for one. A look may come
    early (because reading was resumed, or a timer was left where it stood when the deadline moved away). `deadline`
    moves only in `look`, `ping_sent` and `pong`; after each of them it is later than the `now` it was given, but
    maybe nearer than before.

    Args:
        options: The rules. With `Heartbeat.app` only the application's own pings are to be told to `ping_sent`,
            since any ping that is told takes the place of the next one.
        now: Seconds on a monotonic clock, the same one for all calls and for the times in a `Reading`.
        reading: What the connection shows at its beginning.
        answers: Whether this peer is known to answer pings, from an earlier connection.
    """

    __slots__ = (
        "_acted_at",
        "_again_at",
        "_answers",
        "_begun_at",
        "_broken",
        "_coarsest",
        "_deadline",
        "_doubted",
        "_doubts",
        "_excused",
        "_heard_at",
        "_idle",
        "_idle_from",
        "_interval",
        "_kind",
        "_late",
        "_looked_at",
        "_looked_late",
        "_moved_at",
        "_next_ping",
        "_owes_ping",
        "_pinged_at",
        "_pong_timeout",
        "_quiet",
        "_reading",
        "_spent",
        "_stuck_at",
        "_timeout",
    )

    def __init__(self, options: Heartbeat, now: float, reading: Reading, *, answers: bool = False) -> None:
        self._interval = options.interval
        self._timeout = options.timeout
        self._idle = math.inf if options.idle_timeout is None else options.idle_timeout
        self._kind = options.kind
        self._coarsest = max(0.1, options.timeout / 20)
        self._pong_timeout = math.inf if options.pong_timeout is None else options.pong_timeout
        self._reading = reading
        self._looked_at = now
        self._looked_late = 0.0
        self._begun_at = now
        self._idle_from = now
        self._heard_at = reading.received_at
        self._moved_at = now
        self._stuck_at = now
        self._pinged_at = -math.inf
        self._next_ping = math.inf if self._kind == "expect" else _ping_after(now, self._interval)
        self._owes_ping = False
        self._quiet: Quiet | None = None
        self._answers = Answers(self._interval, self._pong_timeout, answered=answers)
        self._late = 0.0
        self._excused = False
        self._spent: Mapping[Rule, int] = _NONE_SPENT
        self._again_at = -math.inf
        self._doubted: Rule = _SILENCE
        self._doubts = 0
        self._broken: Rule = _SILENCE
        self._deadline: float | None = None  # not asked for since `_acted_at`
        self._acted_at = now

    @property
    def deadline(self) -> float:
        """When to look next."""
        if self._deadline is None:
            self._deadline = self._next_look()
        return self._deadline

    @property
    def answered(self) -> bool:
        """Whether this peer has ever answered a ping, on this connection or, as far as it was told so, on an earlier one."""
        return self._answers.answered

    @property
    def unanswered_first(self) -> bool:
        """Whether pings were sent and none was ever answered."""
        return self._answers.last > -math.inf and not self._answers.answered

    @property
    def hint(self) -> str | None:
        """What to try with a peer that never answered a ping; `None` if it did, or was never asked."""
        if not self.unanswered_first:
            return None
        if self._kind == "app":
            return "no reply to an application ping has ever come on this connection: is_reply matched no message"
        return (
            "this peer has never answered a ping on this connection: Heartbeat.expect suits a server that sends the "
            "pings itself, Heartbeat.app one that answers only its own ping message"
        )

    # --- what happens ---

    def look(self, now: float, reading: Reading, *, suspended: float = 0.0) -> Verdict:
        """Judge by what the connection shows now.

        Args:
            now: Seconds; later than `deadline` by more than `LATE` means that our loop stood still.
            reading: Taken just before.
            suspended: Seconds that the machine slept since the last look, as far as `now` does not show them.
        """
        late = self._lateness(now)
        self._late = 0.0
        self._observe(now, reading, late)
        if suspended > SLEPT:
            self._begin_anew(now, SLEEPS)
            self._owes_ping = True
        dead = self._judge(now, late)
        ping = self._kind != "expect" and (self._owes_ping or now + TICK >= self._next_ping)
        if ping:
            self._next_ping = _ping_after(now, self._interval)
        self._owes_ping = False
        self._act(now)
        if dead is not None:
            return Verdict(ping=False, dead=dead, hint=self.hint, rule_id=_RULE_IDS[self._broken])
        return _PING if ping else _NOTHING

    def ping_sent(
        self, number: int, now: float, reading: Reading, *, stands: bool = False, asks_only: bool = False
    ) -> None:
        """Take note of a ping that was just handed to the transport, whoever wanted it; the next is `interval` away.

        Args:
            number: Larger than that of any ping before.
            now: Seconds.
            reading: Taken after the ping was written, so that `pending` includes it.
            stands: Whether it waits for room in the transport instead. It is told again, with the same number, when
                it is handed over, and before that in place of each ping that would be due.
            asks_only: Whether it takes the place of no other ping, and no silence begins with it: it is to find out
                whether and how fast the peer answers. `asked` may follow.
        """
        self._late = self._lateness(now)
        self._observe(now, reading, self._late)
        self._answers.sent(number, now, reading, stands=stands)
        self._pinged_at = now
        if self._kind != "expect" and not asks_only:
            self._owes_ping = False
            self._next_ping = _ping_after(now, self._interval)
            if self._quiet is None or (self._quiet.target == STANDS and not stands):
                self._quiet = Quiet(now, reading, stands=stands)
        self._act(now)

    def asked(self, now: float, reading: Reading) -> None:
        """Let the silence begin, unless it has: the peer was asked by something other than a ping that was told.

        Args:
            now: Seconds.
            reading: Taken after that was written.
        """
        self._late = self._lateness(now)
        self._observe(now, reading, self._late)
        if self._kind != "expect" and self._quiet is None:
            self._quiet = Quiet(now, reading)
        self._act(now)

    def pong(self, number: int, now: float) -> float | None:
        """Take an answer to ping `number`; it answers the pings before it too, and is a sign of life in any case.

        Returns:
            The round trip in seconds; `None` for a ping that was answered before or never sent.
        """
        self._late = self._lateness(now)
        self._hear()
        trip = self._answers.came(number, now)
        if trip is not None and self._spent:
            self._forgive(_ANSWER)
        self._act(now)
        return trip

    # --- what is seen ---

    def _lateness(self, now: float) -> float:
        """By how much the deadline has been missed; a ping or a pong may have come between it and the look."""
        if self._deadline is None and now <= self._acted_at + TICK:
            return self._late  # no deadline is as near as that
        return max(self._late, now - self.deadline)

    def _observe(self, now: float, reading: Reading, late: float) -> None:
        """Take in what changed since the last look, for which it is too `late`."""
        before, since = self._reading, self._looked_at
        self._reading, self._looked_at, self._looked_late = reading, now, late
        if reading.received != before.received:
            self._heard_at = reading.received_at
            self._hear()
        if self._spent and reading.message_at != before.message_at:
            self._forgive(_IDLE)
        if reading.left != before.left or not before.pending:
            self._moved_at = self._stuck_at = now
        elif not in_flight(before):
            self._stuck_at = now
        if self._quiet is not None:
            self._quiet.observe(now, reading, self._coarsest)
        seen = reading.resumed_at > since
        if before.paused or reading.paused or seen:
            if not reading.paused:
                self._begun_at = self._idle_from = reading.resumed_at if seen else now
                self._ask_again(now)
        else:
            self._answers.count(now, since, before, reading, late=late if late > LATE else 0.0)
        self._answers.depart(before, reading)

    def _hear(self) -> None:
        """Note that data arrived: the peer was alive when it sent it."""
        self._quiet = None
        self._excused = False
        if self._spent:
            self._forgive(_SILENCE)

    def _forgive(self, rule: Rule) -> None:
        """Reset the excuses of a rule: the data it waited for has arrived."""
        if rule in self._spent:
            self._spent = {other: spent for other, spent in self._spent.items() if other != rule}

    def _ask_again(self, now: float) -> None:
        """Let a silence begin anew with a fresh ping, or with the last one if that was only just sent."""
        if self._quiet is None:
            return
        if now - self._pinged_at < min(1.0, self._interval / 2):
            self._quiet.restart(now)
        else:
            self._quiet = None
            self._owes_ping = True

    def _begin_anew(self, now: float, most: int) -> None:
        """Forget what spoke against the peer, but for the rules that have been excused `most` times in a row."""
        spent = dict(self._spent)
        for rule in _RULES:
            times = spent.get(rule, 0)
            if times >= most:
                continue
            spent[rule] = times + 1
            if rule == _SILENCE:
                self._begun_at = now
                self._ask_again(now)
            elif rule == _ANSWER:
                self._answers.restart()
            else:
                self._idle_from = now
        self._spent = spent

    # --- what is judged ---

    def _judge(self, now: float, late: float) -> str | None:
        """Return the cause of death, if there is one and it was doubted often enough."""
        due, rule = self._first_due()
        if now < due:
            self._doubts = 0
        elif late > max(LATE, self._limit(rule) / 2) and self._spent.get(rule, 0) < EXCUSES:
            self._excused = True
            self._doubts = 0
            self._begin_anew(now, EXCUSES)
        elif late > LATE and rule == _SILENCE and not self._excused:
            self._excused = True
            self._ask_again(now)
        elif not self._doubts or self._doubted != rule:
            self._doubted, self._doubts, self._again_at = rule, 1, now + SOON
        elif now >= self._again_at:
            if self._doubts >= DOUBTS:
                self._broken = rule
                return self._cause(rule, now)
            self._doubts += 1
            self._again_at = now + SOON
        return None

    def _first_due(self) -> tuple[float, Rule]:
        """Return when the first of the rules is broken if nothing changes, and which."""
        due = self._silence_due()
        rule: Rule = _SILENCE
        answer = self._answers.due(self._reading, self._looked_at, late=self._looked_late)
        if answer < due:
            due, rule = answer, _ANSWER
        if not self._reading.paused:
            idle = max(self._reading.message_at, self._idle_from) + self._idle
            if idle < due:
                due, rule = idle, _IDLE
        return due, rule

    def _silence_due(self) -> float:
        reading, quiet = self._reading, self._quiet
        if self._kind == "expect":
            return math.inf if reading.paused else max(self._heard_at, self._begun_at) + self._timeout + GRAIN
        if quiet is None:
            return math.inf
        if reading.paused:
            # What we do not read proves nothing, but a living kernel acknowledges what reaches it.
            stuck = reading.acknowledged and in_flight(reading)
            return max(self._stuck_at, quiet.since) + self._timeout if stuck else math.inf
        if quiet.left_at is None and not reading.pending:
            return math.inf  # what it stands behind is still being compressed
        return self._silent_since(quiet) + self._timeout

    def _silent_since(self, quiet: Quiet) -> float:
        """Since when an answer could be on its way, or nothing of ours moves."""
        return max(self._moved_at, quiet.since) if quiet.left_at is None else quiet.left_at

    def _cause(self, rule: Rule, now: float) -> str:
        reading, quiet = self._reading, self._quiet
        if rule == _IDLE:
            return f"no data message for {now - max(reading.message_at, self._idle_from):.1f} s"
        if rule == _ANSWER:
            answer = "PONG" if self._kind == "ping" else "reply"
            return f"no {answer} for {self._answers.owed:.1f} s though messages arrive"
        if quiet is None:
            return f"nothing arrived for {now - max(self._heard_at, self._begun_at):.1f} s"
        if reading.paused:
            stuck = now - max(self._stuck_at, quiet.since)
            return f"no sent data was acknowledged and nothing arrived for {stuck:.1f} s"
        silent = now - self._silent_since(quiet)
        if quiet.left_at is None:
            return f"no data was sent or received for {silent:.1f} s: {reading.pending} bytes are pending"
        return f"nothing arrived for {silent:.1f} s after a ping"

    def _limit(self, rule: Rule) -> float:
        if rule == _SILENCE:
            return self._timeout
        return self._pong_timeout if rule == _ANSWER else self._idle

    def _act(self, now: float) -> None:
        """Invalidate the deadline; it is computed on demand, since a ping may follow at once."""
        self._acted_at = now
        self._deadline = None

    def _next_look(self) -> float:
        """Return the first moment at which a look can change anything."""
        looked_at, quiet = self._looked_at, self._quiet
        due, _ = self._first_due()
        wake = min(self._next_ping, self._again_at if self._doubts else due)
        if self._reading.paused:
            wake = min(wake, looked_at + min(self._interval, self._idle) / 2)
        elif quiet is not None and quiet.left_at is None:
            wake = min(wake, looked_at + quiet.step)
        elif self._answers.awaited:
            wake = min(wake, looked_at + self._answers.gap / 2)
        return max(wake, self._acted_at + TICK)


def _ping_after(now: float, interval: float) -> float:
    """Return when the next ping is due: `interval` later, or less than `SHARED` before that.

    So the pings of many connections share turns of the loop, and with them what it takes to wake the process
    (`python -m benchmarks.idle`).
    """
    due = now + interval
    return due - due % SHARED if interval > FAR else due
