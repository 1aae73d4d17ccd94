"""Turns a failure into a delay or a stop.

Knows no clock, no loop and no source of randomness: `now` is passed in, what draws the delays is injected. Of tenacity
it asks only how long (`wait`) and whether that was enough (`stop`): its loops retry cancelled tasks and sleep by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.events import Failure, Retry, Stop
from resilient_ws.api.options import ReconnectPolicy, seconds, whole
from resilient_ws.api.record import Record
from resilient_ws.api.rules import text_of
from resilient_ws.core.retry_rules import Default, DefaultTable, is_replaced

if TYPE_CHECKING:
    from tenacity import RetryCallState

RETRY_AFTER_CAP: Final = 3600.0
"""Seconds of `Retry-After` that are waited at most: a wrong header must not park a client for days."""

_NOWHERE: Final[frozenset[int]] = frozenset()


class Random(Protocol):
    """What draws the delays; `random.Random` does."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number from `a` to `b`."""
        ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Decision(Record):
    """What follows a failure.

    Attributes:
        stop: Whether the client ends.
        exhausted: Whether it ends at a limit (`max_attempts`, `max_elapsed`, a tenacity `stop`), not by a rule.
        delay: Seconds until the next attempt begins, 0 or more and finite; 0 with `stop`.
        rule: Which rule decided, in words.
        rule_id: Which, by its id in `resilient_ws.api.rules`.
        errors: What was wrong with `decide`, `wait` or `stop`, by that name; the default was used instead.
    """

    stop: bool
    exhausted: bool = False
    delay: float = 0.0
    rule: str
    rule_id: str
    errors: tuple[tuple[str, BaseException], ...] = ()


def delay_range(policy: ReconnectPolicy, n: int, *, slow: bool = False) -> tuple[float, float]:
    """Return the range, in seconds, from which the delay before retry `n` is drawn evenly.

    The lower end stays apart from the upper one at the cap, so that many clients never fall into step.

    Args:
        policy: Whose formula it is.
        n: Failures in a row, 1 or more.
        slow: Whether the range is that of `max_delay` for every `n`.
    """
    if slow:
        return policy.min_delay, max(policy.min_delay, policy.max_delay)
    if n <= 1:
        return 0.0, policy.first_delay
    try:
        grown = policy.first_delay * policy.factor ** (n - 1)
    except OverflowError:
        grown = policy.max_delay if policy.first_delay else 0.0
    return policy.min_delay, max(policy.min_delay, min(policy.max_delay, grown))


class RetryState:
    """What is remembered between failures in order to decide about the next one.

    Args:
        policy: `None` = `reconnect=False`: the first end is the end.
        random: Draws the delays.
        endpoints: How many addresses are tried in turn, 1 or more; a URL provider counts as one.
        origins: What each of them belongs to: a `Retry-After` holds for all that have the same; `None` = each has its own.
        provider: Whether the address comes from a URL provider, which may have a fresh token.

    Attributes:
        attempt: Dials since the last stable connection (or the start), the current one included; 0 right after the
            loss of a stable one.
        failures: Failures in a row since then.
        endpoint: Which address the next dial uses, from 0.
    """

    __slots__ = (
        "_asked_until",
        "_dialed_at",
        "_down_since",
        "_endpoints",
        "_only_once",
        "_origins",
        "_policy",
        "_random",
        "_said_stop",
        "_table",
        "_unconnected_since",
        "attempt",
        "endpoint",
        "failures",
    )

    def __init__(
        self,
        policy: ReconnectPolicy | None,
        random: Random,
        *,
        endpoints: int = 1,
        origins: Sequence[Hashable] | None = None,
        provider: bool = False,
    ) -> None:
        self.attempt = 0
        self.failures = 0
        self.endpoint = 0
        self._policy = ReconnectPolicy() if policy is None else policy
        self._only_once = policy is None
        self._random = random
        self._endpoints = whole("endpoints", endpoints)
        self._origins = range(endpoints) if origins is None else origins
        self._asked_until: dict[Hashable, float] = {}  # by `Retry-After`, until it is dialed again
        self._table = DefaultTable(self._policy.min_uptime, self._policy.refused_for, provider=provider)
        self._down_since: float | None = None
        self._unconnected_since: float | None = None
        self._dialed_at = -math.inf
        self._said_stop = _NOWHERE

    def started(self, now: float) -> None:
        """Note the start of the client, from which `max_elapsed` counts until a stable connection is lost."""
        self._down_since = self._unconnected_since = now

    def dialing(self, now: float) -> int:
        """Note that a dial begins; return its number since the last stable connection, from 1."""
        if self._down_since is None:
            self._down_since = now
        self._dialed_at = now
        self._asked_until.pop(self._origins[self.endpoint], None)
        self.attempt += 1
        return self.attempt

    def dialed(self, now: float) -> None:
        """Note that the dial got its slot only now."""
        self._dialed_at = now

    def opened(self) -> None:
        """Note that the connection is open: the server accepts this client, so later refusals may be temporary."""
        self._table.opened()

    def elapsed(self, now: float) -> float:
        """Return the seconds without an open connection since the last stable one was lost, or since the start.

        The seconds for which a connection was open that did not become stable are left out: what matters is for how
        long the program has had none, and a peer that accepts and hangs up at once must not set the count back.
        """
        return 0.0 if self._down_since is None else max(0.0, now - self._down_since)

    def time_left(self, now: float) -> float | None:
        """Return the seconds for which an attempt may still begin (`max_elapsed`), 0 or more; `None` = no limit."""
        limit = self._policy.max_elapsed
        return None if limit is None else max(0.0, limit - self.elapsed(now))

    def spread(self) -> float:
        """Return a delay, in seconds, drawn as for a retry of now: what keeps clients apart that waited together."""
        return self._draw(*delay_range(self._policy, max(1, self.failures), slow=self._table.is_slow))

    def redial_in(self, now: float) -> float:
        """Return the seconds until `reconnect_now()` may dial: `min_delay` after the last dial, 0 or more."""
        return max(0.0, self._dialed_at + self._policy.min_delay - now)

    def next_failure_number(self, opened_for: float | None) -> int:
        """Return `Failure.attempt` for a failure after `opened_for` seconds open (`None`: never), changing nothing."""
        return 1 if self._is_stable(opened_for) else self.failures + 1

    def failed(
        self,
        failure: Failure,
        now: float,
        verdict: object = None,
        *,
        lost_at: float | None = None,
        held: Callable[[int], tuple[float, str] | None] = lambda _: None,
        excused: bool = False,
    ) -> Decision:
        """Return the decision after a connection has ended or an attempt has failed.

        Args:
            failure: What has happened.
            now: Seconds of the clock that all calls use.
            verdict: What `decide` returned: `Retry`, `Stop`, or `None` for the default; anything else is reported.
            lost_at: When it happened, if earlier than `now`; `None` = `now`.
            held: For how many seconds the address of that number is to be left alone since it asked another client
                for time, and the words for it; `None` = it is not.
            excused: Whether a message may have caused it that is given up sooner or later (`Outbox.max_resends`).
        """
        stable = self._is_stable(failure.opened_for)
        self._count(failure, now if lost_at is None else lost_at)
        since = self._unconnected_since
        outage = 0.0 if since is None else max(0.0, now - since)
        default = self._table.after(failure, rejected=not stable, outage=outage, excused=excused)
        address = self.endpoint
        self._asked_until[self._origins[address]] = now + _retry_after(failure)
        if not stable:
            self.endpoint = (address + 1) % self._endpoints
        if isinstance(failure.error, Stop):
            return _stopped("stop-raised", reason=failure.error.reason)
        if self._only_once:
            return _stopped("reconnect-off", why=default.why)
        if isinstance(verdict, Stop):
            return _stopped("decide-stop", reason=verdict.reason)
        errors: list[tuple[str, BaseException]] = []
        if verdict is not None and not isinstance(verdict, Retry):
            shown = type(verdict).__name__
            errors.append(("decide", TypeError(f"decide must return Retry, Stop or None, got {shown}")))
            verdict = None
        if verdict is None and default.stop:
            self._said_stop |= {address}
            why = default.why
            if len(self._said_stop) >= self._endpoints:
                everywhere = f", and all {self._endpoints} addresses say so" if self._endpoints > 1 else ""
                rule = f"{why}: stop{everywhere}"
                return Decision(stop=True, rule=rule, rule_id=default.rule_id, errors=tuple(errors))
            why = f"{why}: stop for address {address + 1} of {self._endpoints}, the next one is tried"
            default = attrs.evolve(default, why=why)
        else:
            self._said_stop -= {address}
        return self._paced(failure, now, verdict, default, errors, held)

    def was_stable(self, failure: Failure) -> bool:
        """Return whether nothing was wrong with the address: the connection lasted, or the program replaced it."""
        return self._is_stable(failure.opened_for) or is_replaced(failure.close)

    def _is_stable(self, opened_for: float | None) -> bool:
        return opened_for is not None and opened_for >= self._policy.min_uptime

    def _count(self, failure: Failure, lost_at: float) -> None:
        if failure.opened_for is not None:
            self._unconnected_since = lost_at
        if self._is_stable(failure.opened_for):
            self.attempt = self.failures = 0
            self._said_stop = _NOWHERE
            self._table.begin_anew()
            self._down_since = lost_at
        elif self._down_since is not None and failure.opened_for is not None:
            self._down_since = min(lost_at, self._down_since + failure.opened_for)
        self.failures += 1
        if is_replaced(failure.close) and self.attempt:
            self.attempt -= 1  # it has led to a connection, which nothing was wrong with

    def _paced(
        self,
        failure: Failure,
        now: float,
        verdict: Retry | None,
        default: Default,
        errors: list[tuple[str, BaseException]],
        held: Callable[[int], tuple[float, str] | None],
    ) -> Decision:
        """Return when to retry, or to stop because a limit is reached."""
        asked = is_replaced(failure.close)
        state = self._tenacity_state(failure, now)
        if verdict is not None and verdict.after is not None:
            delay, how = float(verdict.after), f"after {verdict.after:g} s, as decide said"
        elif asked and verdict is None:
            delay, how = self.redial_in(now), "at once, but min_delay after the last dial"
        else:
            delay, how = self._drawn(
                state, slow=verdict is None and (default.slow or self._table.is_slow), errors=errors
            )
            wished, why = self._asked_until.get(self._origins[self.endpoint], now) - now, "for Retry-After"
            hold = held(self.endpoint)
            if hold is not None and hold[0] > wished:
                wished, why = hold[0], f"since {hold[1]}"
            if wished > 0:
                delay, how = wished + delay, f"after {wished:.4g} s {why} and then {how}"
            if verdict is not None:
                how = f"{how}, as decide said"
        limit = None if asked else self._limit(state, now, delay, errors)
        if limit is not None:
            rule_id, facts = limit
            rule = text_of(rule_id, why=default.why, **facts)
            return Decision(stop=True, exhausted=True, rule=rule, rule_id=rule_id, errors=tuple(errors))
        rule_id = default.rule_id if verdict is None else "decide-retry"
        rule = f"{default.why}: retry {self.failures} {how}"
        return Decision(stop=False, delay=delay, rule=rule, rule_id=rule_id, errors=tuple(errors))

    def _drawn(
        self, state: RetryCallState | None, *, slow: bool, errors: list[tuple[str, BaseException]]
    ) -> tuple[float, str]:
        wait = self._policy.wait
        if wait is not None and state is not None:
            try:
                chosen = seconds("what wait returns", wait(state), zero=True)
            except Exception as error:  # noqa: BLE001 - the program's code must not end the client
                errors.append(("wait", error))
            else:
                return chosen, f"after {chosen:g} s, as wait said"
        low, high = delay_range(self._policy, self.failures, slow=slow)
        return self._draw(low, high), f"within {low:g} to {high:g} s"

    def _draw(self, low: float, high: float) -> float:
        return min(high, max(low, self._random.uniform(low, high)))

    def _limit(
        self, state: RetryCallState | None, now: float, delay: float, errors: list[tuple[str, BaseException]]
    ) -> tuple[str, dict[str, object]] | None:
        """Return which rule forbids an attempt after `delay`, and what its text names; `None` = none does."""
        policy = self._policy
        if policy.max_attempts is not None and self.attempt >= policy.max_attempts:
            return "max-attempts", {"limit": policy.max_attempts}
        begins = self.elapsed(now) + delay
        if policy.max_elapsed is not None and begins > policy.max_elapsed:
            return "max-elapsed", {"limit": f"{policy.max_elapsed:g}", "begins": f"{begins:g}"}
        if policy.stop is not None and state is not None:
            state.attempt_number, state.upcoming_sleep = self.attempt, delay
            try:
                if policy.stop(state):
                    elapsed = f"{self.elapsed(now):g}"
                    return "stop-strategy", {"attempt": self.attempt, "elapsed": elapsed}
            except Exception as error:  # noqa: BLE001 - the program's code must not end the client
                errors.append(("stop", error))
        return None

    def _tenacity_state(self, failure: Failure, now: float) -> RetryCallState | None:
        """Return what tenacity's strategies look at, on our clock instead of its own; `None` where there are none."""
        if self._policy.wait is None and self._policy.stop is None:
            return None
        from tenacity import (  # most programs have no strategy: loaded for those who do
            Future,
            RetryCallState,
            Retrying,
        )

        close = failure.close
        error = failure.error or (close.cause if close is not None else None) or ConnectionLost(str(close))
        state = RetryCallState(
            Retrying(), None, (), {}
        )  # strategies may look at the first one; it never runs
        state.attempt_number = self.failures
        state.outcome = Future.construct(self.failures, error, has_exception=True)
        state.start_time, state.outcome_timestamp = now - self.elapsed(now), now
        return state


def _stopped(rule_id: str, **facts: object) -> Decision:
    return Decision(stop=True, rule=text_of(rule_id, **facts), rule_id=rule_id)


def _retry_after(failure: Failure) -> float:
    """Return the seconds that the server asked the client to wait, for any status; 0 if none or not valid.

    Source: RFC 9110 section 10.2.3 (429, 503 and 3xx are examples); 418, 403 and 502 are seen in the field.
    """
    wished = failure.retry_after
    return float(min(wished, RETRY_AFTER_CAP)) if wished is not None and wished > 0 else 0.0
