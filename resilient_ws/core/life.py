"""The life of one client: what has happened, the events to report, and the next act.

Theory of operation. `TRANSITIONS` is the table of states that a program sees. `Life` holds the state together with
everything else that is known of the past: how often the client was open, what was lost, who asked for the end. Each
method notes one fact and returns what to tell, in order. `act` is what the supervisor does now. It is never asked to
remember anything: it carries out the act, notes what came of it, and looks at `act` again.

A fact may come at any time: a connection ends, or `close()` is called, while the supervisor waits for something else. So
the act may change under it, and a result that comes too late is of no consequence: `judged` and `waited` do nothing
unless their act is still the current one.

Knows no clock, no loop, no connection. Times are passed in: `now` on the clock of the event loop, `boot` on the one that
counts suspended time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from resilient_ws.api.close_codes import CloseCode, CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ClientClosed, ClientStopped, RetriesExhausted
from resilient_ws.api.events import (
    Attempt,
    CloseEvent,
    Event,
    Failure,
    Fate,
    Gap,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    State,
    StateEvent,
    Stop,
)
from resilient_ws.api.rules import text_of
from resilient_ws.core.delivery import Entry
from resilient_ws.core.endings import Closing, Ending, close_event, describe_end, final_event
from resilient_ws.core.retry import Decision, RetryState

# ------------------------------------------------------------------------------------------------ the states


class Fact(enum.StrEnum):
    """What can happen to a client."""

    STARTED = "start()"
    OPENED = "handshake, setup and subscriptions done"
    FAILED = "the attempt failed"
    LOST = "the connection ended"
    DIALED = "the backoff is over"
    CLOSE_ASKED = "close()"
    ENDED = "nothing is left to do"


TRANSITIONS: Final[Mapping[State, Mapping[Fact, State]]] = {
    State.IDLE: {Fact.STARTED: State.CONNECTING, Fact.CLOSE_ASKED: State.CLOSING},
    State.CONNECTING: {
        Fact.OPENED: State.OPEN,
        Fact.FAILED: State.BACKOFF,
        Fact.CLOSE_ASKED: State.CLOSING,
    },
    State.OPEN: {Fact.LOST: State.BACKOFF, Fact.CLOSE_ASKED: State.CLOSING},
    State.BACKOFF: {
        Fact.DIALED: State.CONNECTING,
        Fact.CLOSE_ASKED: State.CLOSING,
        Fact.ENDED: State.CLOSED,
    },
    State.CLOSING: {Fact.ENDED: State.CLOSED},
    State.CLOSED: {},
}

# ------------------------------------------------------------------------------------------------ the acts


# Plain classes: to make these eight with attrs would take a tenth of the time that it takes to import the package.


class Load:
    """Read the outbox file, then call `loaded` or `unloadable`."""

    __slots__ = ()


class Dial:
    """Make one attempt: call `dialing` as it begins, then `opened` or `failed`."""

    __slots__ = ()


class Serve:
    """A connection is open: wait until something happens."""

    __slots__ = ()


class Judge:
    """Ask the retry rules about `failure`, then call `judged`."""

    __slots__ = ("failure",)

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Wait:
    """Wait until `until` on the clock of the event loop, then call `waited`."""

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Goodbye:
    """Make the closing handshake on the open connection, then call `said_goodbye`."""

    __slots__ = ()


class End:
    """Settle what is left, then call `ended` with it.

    Attributes:
        final: The last event, as far as it is known.
        ending: The connection that ended with the client; `None` = none was open.
    """

    __slots__ = ("ending", "final")

    def __init__(self, final: CloseEvent, ending: Ending | None = None) -> None:
        self.final = final
        self.ending = ending


class Done:
    """Nothing is left to do."""

    __slots__ = ()


Act = Load | Dial | Serve | Judge | Wait | Goodbye | End | Done


class Settled:
    """A message has its fate: what becomes an `UndeliveredEvent`."""

    __slots__ = ("at_the_end", "entry", "fate")

    def __init__(self, entry: Entry, fate: Fate, *, at_the_end: bool = False) -> None:
        self.entry = entry
        self.fate = fate
        self.at_the_end = at_the_end


Told = Event | Settled
"""What a fact is answered with: to be told in this order."""


class Life:
    """Everything that is known of one client, and what follows from it.

    Args:
        retry: Decides about failures; `Life` tells it of dials and openings.
        fail_fast: Whether the failure of the first attempt ends the client.
        has_file: Whether an outbox file is to be read first.
    """

    __slots__ = (
        "_dials_since_loss",
        "_ending",
        "_fail_fast",
        "_has_file",
        "_hurried",
        "_interrupted",
        "_lost_at",
        "_resent",
        "_retry",
        "act",
        "attempts",
        "cause",
        "closes",
        "closing",
        "first_error",
        "last_close",
        "last_endpoint",
        "last_failure",
        "opens",
        "state",
    )

    def __init__(self, retry: RetryState, *, fail_fast: bool = False, has_file: bool = False) -> None:
        self._retry = retry
        self._fail_fast = fail_fast
        self._has_file = has_file
        self.state = State.IDLE
        self.act: Act = Done()
        """What the supervisor does now."""
        self.attempts = 0
        self.opens = 0
        self.closes: dict[CloseOrigin, int] = {}
        self.cause: ClientClosed | None = None
        """What ended the client; `None` = `close()` did, or it has not ended."""
        self.first_error: Exception | None = None
        """Why the first attempt that failed did so."""
        self.last_close: CloseEvent | None = None
        self.last_endpoint: Endpoint | None = None
        """Where the last attempt led."""
        self.last_failure: Failure | None = None
        """Why the last attempt or connection failed."""
        self.closing: Closing | None = None
        """What `close()` asked for, with its deadlines."""
        self._interrupted = False  # `close()` was called, and draining is over
        self._hurried = False  # the next backoff is cut short
        self._ending: Ending | None = None  # of a connection, until it is told
        self._lost_at: float | None = None
        self._resent = 0
        self._dials_since_loss = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is accepted."""
        return self.state is State.CLOSING or self.state is State.CLOSED

    @property
    def is_interrupted(self) -> bool:
        """Whether what is under way is given up, because the client closes and does not drain."""
        return self._interrupted

    @property
    def is_draining(self) -> bool:
        """Whether the client closes and still goes on until everything is settled."""
        return self.closing is not None and not self._interrupted

    @property
    def ending(self) -> Ending | None:
        """The connection that has ended and of which nothing has been told yet."""
        return self._ending

    # ------------------------------------------------------------------------------------------ the way up

    def started(self, boot: float) -> list[Told]:
        """`start()` was called."""
        self._retry.started(boot)
        self.act = Load() if self._has_file else Dial()
        return self._step(Fact.STARTED)

    def started_to_close(self, boot: float) -> None:
        """`close()` was called on a client that was never started. `close_asked` follows."""
        self._retry.started(boot)
        self.act = Load() if self._has_file else Dial()

    def loaded(self) -> None:
        """Note that the outbox file has been read."""
        if isinstance(self.act, Load):
            self.act = Dial()

    def unloadable(self, error: Exception) -> list[Told]:
        """Note that the outbox file cannot be used, which ends the client."""
        told = self._step(Fact.FAILED)
        self._stop(ClientStopped(f"the client has ended: {error}"), error, "outbox-file")
        return told

    def dialing(self, boot: float) -> Attempt:
        """Note the start of an attempt and return the argument for the URL provider."""
        self.attempts += 1
        self._dials_since_loss += 1
        return Attempt(
            number=self._retry.dialing(boot),
            endpoint=self.last_endpoint,
            last_failure=self.last_failure,
            last_close=self.last_close,
        )

    def opened(self, event: OpenEvent, boot: float) -> tuple[list[Told], Gap | None]:
        """Note that the attempt succeeded; also return the gap before the first message."""
        self.opens += 1
        self._retry.opened()
        self.last_endpoint = event.endpoint
        told: list[Told] = [*self._step(Fact.OPENED), event]
        gap: Gap | None = None
        close = self.last_close
        if close is not None and self._lost_at is not None:
            downtime = boot - self._lost_at
            gap = Gap(close=close, downtime=downtime)
            told.append(
                ReconnectEvent(
                    attempts=self._dials_since_loss,
                    downtime=downtime,
                    close=close,
                    resent=self._resent,
                    uncertain=close.uncertain - self._resent,
                    endpoint=event.endpoint,
                )
            )
        self._dials_since_loss = 0
        if isinstance(self.act, Dial):
            self.act = Serve()
        return told, gap

    # ------------------------------------------------------------------------------------------ the way down

    def failed(self, failure: Failure) -> list[Told]:
        """Note that the attempt failed."""
        told = self._step(Fact.FAILED)
        self.last_failure = failure
        if failure.endpoint is not None:
            self.last_endpoint = failure.endpoint
        if self.first_error is None and isinstance(failure.error, Exception):
            self.first_error = failure.error
        if isinstance(self.act, Dial):
            self.act = Judge(failure)
        return told

    def lost(self, ending: Ending) -> list[Told]:
        """Note that the open connection ended."""
        origin = CloseOrigin.LOCAL if self._interrupted else ending.end.origin
        self.closes[origin] = self.closes.get(origin, 0) + 1
        self._ending = ending
        self._lost_at = ending.at
        if isinstance(self.act, Serve):
            number = self._retry.next_failure_number(ending.opened_for)
            self.act = Judge(ending.failure(number))
        return self._step(Fact.LOST)

    @property
    def verdict(self) -> Decision | None:
        """What is decided about the current failure before the program is asked; `None` = ask."""
        failure = self.act.failure if isinstance(self.act, Judge) else None
        if self._fail_fast and not self.opens and failure and not isinstance(failure.error, Stop):
            return Decision(stop=True, rule=text_of("fail-fast"), rule_id="fail-fast")
        return None

    def judged(self, decision: Decision, now: float, boot: float) -> list[Told]:
        """Note the verdict of the retry rules about the failure of the current act."""
        if not isinstance(self.act, Judge):
            return []  # close() came first
        failure, ending = self.act.failure, self._ending
        if decision.stop:
            self._give_up(failure, decision, boot)
            return []
        told: list[Told] = []
        self._ending = None
        if ending is not None:
            close = close_event(
                ending,
                will_retry=True,
                retry_in=decision.delay,
                rule=_with_hint(decision.rule, ending),
                rule_id=decision.rule_id,
            )
            self.last_close = close
            self.last_failure = ending.failure(failure.attempt, close)
            self._resent = ending.resent
            told.append(close)
            told += [Settled(entry, Fate.UNCERTAIN) for entry in ending.uncertain]
        told.append(
            RetryEvent(
                attempt=self._retry.failures,
                delay=decision.delay,
                cause=failure.error if failure.error is not None else describe_end(failure.close),
                rule=decision.rule,
                rule_id=decision.rule_id,
            )
        )
        self.act = self._waiting(now + decision.delay, now, boot)
        return told

    def hurry(self, now: float, boot: float) -> None:
        """Cut the current backoff short, or the next one."""
        self._hurried = True
        if isinstance(self.act, Wait):
            self.act = self._waiting(self.act.until, now, boot)

    def _waiting(self, until: float, now: float, boot: float) -> Wait:
        return Wait(min(until, now + self._retry.redial_in(boot)) if self._hurried else until)

    def waited(self) -> list[Told]:
        """Note that the backoff is over."""
        if not isinstance(self.act, Wait):
            return []
        self._hurried = False
        self.act = Dial()
        return self._step(Fact.DIALED)

    # ------------------------------------------------------------------------------------------ the end

    def close_asked(self, closing: Closing) -> list[Told]:
        """`close()` was called; the client goes on until `interrupt`."""
        self.closing = closing
        return self._step(Fact.CLOSE_ASKED)

    def interrupt(self) -> None:
        """Give up the current act."""
        self._interrupted = True
        if isinstance(self.act, Serve):
            self.act = Goodbye()
        elif not isinstance(self.act, Goodbye | End):
            self._end_as_asked()

    def said_goodbye(self) -> None:
        """Note that the connection has ended, with or without a closing handshake."""
        if isinstance(self.act, Goodbye):
            self._end_as_asked()

    def breaking(self) -> list[Told]:
        """Begin the end after a defect, or after the task was ended from outside. `broken` follows."""
        return self._step(Fact.CLOSE_ASKED)

    def broken(
        self, cause: BaseException, rule_id: str, text: str, *, rule: str | None = None, asked: bool
    ) -> None:
        """Note that the connection is gone, too.

        Args:
            cause: What has ended the client.
            rule_id: The same as a rule.
            text: That of the exception.
            rule: The text of the rule; `None` = that of its id.
            asked: Whether this is the end that `close()` asked for, if it was called.
        """
        if self.state is State.CLOSED:
            return
        if asked and self.closing is not None:
            self._end_as_asked()
        else:
            self._stop(ClientStopped(text), cause, rule_id, self._ending, rule=rule)

    def _end_as_asked(self) -> None:
        if self._ending is None:
            final = CloseEvent(code=CloseCode.ABNORMAL_CLOSURE, synthesized=True, origin=CloseOrigin.LOCAL)
        else:
            final = attrs.evolve(close_event(self._ending), origin=CloseOrigin.LOCAL)
        final = attrs.evolve(final, rule=text_of("close-called"), rule_id="close-called")
        self.act = End(final, self._ending)

    def _give_up(self, failure: Failure, decision: Decision, boot: float) -> None:
        text = f"the client has ended: {_with_hint(decision.rule, self._ending)}"
        stopped: ClientClosed = ClientStopped(text)
        if decision.exhausted:
            stopped = RetriesExhausted(text, attempts=self._retry.attempt, elapsed=self._retry.elapsed(boot))
        error = failure.error if failure.error is not None else describe_end(failure.close)
        self._stop(stopped, error, decision.rule_id, self._ending, failure, rule=decision.rule)

    def _stop(
        self,
        stopped: ClientClosed,
        cause: BaseException,
        rule_id: str,
        ending: Ending | None = None,
        failure: Failure | None = None,
        *,
        rule: str | None = None,
    ) -> None:
        """Stop the client: blocked calls raise `stopped`, unless `close()` came first.

        Args:
            stopped: What is raised.
            cause: What it is raised from.
            rule_id: Which rule decided.
            ending: The end of the connection that was open, if one was.
            failure: What the rule was asked about.
            rule: Its text with the verdict; `None` = the text of the rule alone.
        """
        stopped.__cause__ = cause
        if self.closing is None:
            self.cause = stopped
        final = final_event(ending, failure, cause)
        text = text_of(rule_id) if rule is None else rule
        self.act = End(attrs.evolve(final, rule=_with_hint(text, ending), rule_id=rule_id), ending)

    def ended(
        self, *, abandoned: Sequence[Entry], uncertain: Sequence[Entry], waiting: int, unread: int
    ) -> tuple[list[Told], list[Told]]:
        """Note that `End` is done; return the events about messages and about the client.

        Args:
            abandoned: Accepted messages that were never written.
            uncertain: Those that were written and are neither confirmed nor told.
            waiting: How many were pending before that.
            unread: How many received messages the program has not taken.
        """
        if not isinstance(self.act, End):
            return [], []
        final, ending = self.act.final, self.act.ending
        left = (*(ending.uncertain if ending is not None else ()), *uncertain)
        fates: list[Told] = [Settled(entry, Fate.UNCERTAIN, at_the_end=True) for entry in left]
        fates += [Settled(entry, Fate.ABANDONED, at_the_end=True) for entry in abandoned]
        self.last_close = attrs.evolve(
            final,
            unsent=waiting - len(uncertain) if ending is None else final.unsent,
            uncertain=len(uncertain) if ending is None else final.uncertain,
            unread=unread,
            final=True,
        )
        self._ending = None
        self.act = Done()
        return fates, [*self._apply(Fact.ENDED), self.last_close]

    # ------------------------------------------------------------------------------------------ the table

    def _step(self, fact: Fact) -> list[Told]:
        """Take a step of the table; while the client closes, what happens changes its state no longer."""
        return [] if self.is_over else self._apply(fact)

    def _apply(self, fact: Fact) -> list[Told]:
        """Change `state`; nothing else writes it.

        Raises:
            RuntimeError: The table has no such step; a defect of this package.
        """
        old, new = self.state, TRANSITIONS[self.state].get(fact)
        if new is None:
            raise RuntimeError(f"{fact.name} cannot happen in {old.name}")
        self.state = new
        return [StateEvent(old=old, new=new)]


def _with_hint(rule: str, ending: Ending | None) -> str:
    return rule if ending is None or ending.hint is None else f"{rule}; {ending.hint}"
