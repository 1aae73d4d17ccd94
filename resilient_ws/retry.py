"""A failure becomes a delay or a stop.

Knows no clock, no loop and no source of randomness: `now` is passed in, what draws the delays is injected. Of tenacity
it asks only how long (`wait`) and whether that was enough (`stop`): its loops retry cancelled tasks and sleep by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from resilient_ws.closing import CloseOrigin, CloseRule, describe, rule_for
from resilient_ws.errors import CertificateRejected, ConnectError, ConnectionLost
from resilient_ws.events import CloseEvent, Failure, Retry, Stop
from resilient_ws.options import ReconnectPolicy, seconds, whole
from resilient_ws.record import Record

if TYPE_CHECKING:
    from tenacity import RetryCallState

RETRY_AFTER_CAP: Final = 3600.0
"""Seconds of `Retry-After` that are waited at most: a wrong header must not park a client for days."""

BROKEN_IN_A_ROW: Final = 3
"""How many connections in a row may break the protocol, the last one included that ends the client."""

REFUSED_IN_A_ROW: Final = 10
"""How many attempts in a row a once reachable server may refuse, the last one included that ends the client."""

_NOWHERE: Final[frozenset[int]] = frozenset()


class Random(Protocol):
    """What draws the delays; `random.Random` does."""

    def uniform(self, a: float, b: float) -> float:
        """Returns a number from `a` to `b`."""
        ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Decision(Record):
    """What follows a failure.

    Attributes:
        stop: Whether the client ends.
        exhausted: Whether it ends at a limit (`max_attempts`, `max_elapsed`, a tenacity `stop`), not by a rule.
        delay: Seconds until the next attempt begins, 0 or more and finite; 0 with `stop`.
        rule: Which rule decided, in words.
        errors: What was wrong with `decide`, `wait` or `stop`, by that name; the default was used instead.
    """

    stop: bool
    exhausted: bool = False
    delay: float = 0.0
    rule: str
    errors: tuple[tuple[str, BaseException], ...] = ()


@attrs.frozen(eq=False, repr=False)
class _Default(Record):
    """What the default table says: why, whether to stop, and whether the delay comes from the longest range."""

    why: str
    stop: bool = False
    slow: bool = False


def delay_range(policy: ReconnectPolicy, n: int, *, slow: bool = False) -> tuple[float, float]:
    """Returns the range, in seconds, from which the delay before retry `n` is drawn evenly.

    The lower end stays apart from the upper one at the cap, so that many clients never fall into step.

    Args:
        policy: Whose formula it is.
        n: Failures in a row, 1 or more.
        slow: Whether the range is that of `max_delay` whatever `n` is.
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
        provider: Whether the address comes from a URL provider, which may have a fresh token.

    Attributes:
        attempt: Dials since the last stable connection (or the start), the current one included; 0 right after the
            loss of a stable one.
        failures: Failures in a row since then.
        endpoint: Which address the next dial uses, from 0.
    """

    def __init__(
        self, policy: ReconnectPolicy | None, random: Random, *, endpoints: int = 1, provider: bool = False
    ) -> None:
        self.attempt = 0
        self.failures = 0
        self.endpoint = 0
        self._policy = ReconnectPolicy() if policy is None else policy
        self._only_once = policy is None
        self._random = random
        self._endpoints = whole("endpoints", endpoints)
        self._provider = provider
        self._was_open = False
        self._down_since: float | None = None
        self._dialed_at = -math.inf
        self._broken = 0
        self._refused = 0
        self._refreshed = False
        self._slow = False
        self._said_stop = _NOWHERE

    def started(self, now: float) -> None:
        """The client has started: `max_elapsed` counts from here until a stable connection is lost."""
        self._down_since = now

    def dialing(self, now: float) -> int:
        """A dial begins; returns its number since the last stable connection, from 1."""
        if self._down_since is None:
            self._down_since = now
        self._dialed_at = now
        self.attempt += 1
        return self.attempt

    def dialed(self, now: float) -> None:
        """The dial that began has only now been let through."""
        self._dialed_at = now

    def opened(self) -> None:
        """The connection has become open: the server takes us, so a refusal later is no verdict on our request."""
        self._was_open = True
        self._refused = 0
        self._refreshed = False

    def elapsed(self, now: float) -> float:
        """Returns the seconds without an open connection since the last stable one was lost, or since the start.

        The seconds for which a connection was open that did not become stable are left out: what matters is for how
        long the program has had none, and a peer that accepts and hangs up at once must not set the count back.
        """
        return 0.0 if self._down_since is None else max(0.0, now - self._down_since)

    def time_left(self, now: float) -> float | None:
        """Returns the seconds for which an attempt may still begin (`max_elapsed`), 0 or more; `None` = no limit."""
        limit = self._policy.max_elapsed
        return None if limit is None else max(0.0, limit - self.elapsed(now))

    def spread(self) -> float:
        """Returns a delay, in seconds, drawn as for a retry of now: what keeps clients apart that waited together."""
        return self._draw(*delay_range(self._policy, max(1, self.failures), slow=self._slow))

    def redial_in(self, now: float) -> float:
        """Returns the seconds until `reconnect_now()` may dial: `min_delay` after the last dial, 0 or more."""
        return max(0.0, self._dialed_at + self._policy.min_delay - now)

    def next_failure_number(self, opened_for: float | None) -> int:
        """Returns `Failure.attempt` for a failure after `opened_for` seconds open (`None`: never), changing nothing."""
        return 1 if self._is_stable(opened_for) else self.failures + 1

    def failed(
        self,
        failure: Failure,
        now: float,
        verdict: object = None,
        *,
        lost_at: float | None = None,
        held: Callable[[int], tuple[float, str] | None] = lambda _: None,
    ) -> Decision:
        """A connection has ended or an attempt has failed; returns what follows.

        Args:
            failure: What has happened.
            now: Seconds of the clock that all calls use.
            verdict: What `decide` returned: `Retry`, `Stop`, or `None` for the default; anything else is reported.
            lost_at: When it happened, if earlier than `now`; `None` = `now`.
            held: For how many seconds the address of that number is to be left alone since it asked another client
                for time, and the words for it; `None` = it is not.
        """
        stable = self._is_stable(failure.opened_for)
        self._count(failure, now if lost_at is None else lost_at)
        default = self._by_table(failure, rejected=not stable)
        address = self.endpoint
        if not stable:
            self.endpoint = (address + 1) % self._endpoints
        if isinstance(failure.error, Stop):
            return Decision(stop=True, rule=f"Stop was raised: {failure.error.reason}")
        if self._only_once:
            return Decision(stop=True, rule=f"reconnect=False: {default.why}, and the first end is the end")
        if isinstance(verdict, Stop):
            return Decision(stop=True, rule=f"decide said stop: {verdict.reason}")
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
                return Decision(stop=True, rule=f"{why}: stop{everywhere}", errors=tuple(errors))
            why = f"{why}: stop for address {address + 1} of {self._endpoints}, the next one is tried"
            default = attrs.evolve(default, why=why)
        else:
            self._said_stop -= {address}
        return self._paced(failure, now, verdict, default, errors, held)

    def _is_stable(self, opened_for: float | None) -> bool:
        return opened_for is not None and opened_for >= self._policy.min_uptime

    def _count(self, failure: Failure, lost_at: float) -> None:
        if self._is_stable(failure.opened_for):
            self.attempt = self.failures = self._broken = 0
            self._slow = False
            self._down_since = lost_at
        elif self._down_since is not None and failure.opened_for is not None:
            self._down_since = min(lost_at, self._down_since + failure.opened_for)
        self.failures += 1

    def _paced(
        self,
        failure: Failure,
        now: float,
        verdict: Retry | None,
        default: _Default,
        errors: list[tuple[str, BaseException]],
        held: Callable[[int], tuple[float, str] | None],
    ) -> Decision:
        """A retry is due: returns when, or that a limit is reached."""
        asked = _is_replaced(failure.close)
        state = self._tenacity_state(failure, now)
        if verdict is not None and verdict.after is not None:
            delay, how = float(verdict.after), f"after {verdict.after:g} s, as decide said"
        elif asked and verdict is None:
            delay, how = self.redial_in(now), "at once, but min_delay after the last dial"
        else:
            delay, how = self._drawn(
                state, slow=verdict is None and (default.slow or self._slow), errors=errors
            )
            wished, why = _retry_after(failure), "for Retry-After"
            hold = held(self.endpoint)
            if hold is not None and hold[0] > wished:
                wished, why = hold[0], f"since {hold[1]}"
            if wished:
                delay, how = wished + delay, f"after {wished:.4g} s {why} and then {how}"
            if verdict is not None:
                how = f"{how}, as decide said"
        limit = None if asked else self._limit(state, now, delay, errors)
        if limit is not None:
            return Decision(stop=True, exhausted=True, rule=f"{limit}; {default.why}", errors=tuple(errors))
        rule = f"{default.why}: retry {self.failures} {how}"
        return Decision(stop=False, delay=delay, rule=rule, errors=tuple(errors))

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
    ) -> str | None:
        """Returns which limit forbids an attempt after `delay`, or `None`."""
        policy = self._policy
        if policy.max_attempts is not None and self.attempt >= policy.max_attempts:
            return f"max_attempts={policy.max_attempts} reached"
        begins = self.elapsed(now) + delay
        if policy.max_elapsed is not None and begins > policy.max_elapsed:
            return f"max_elapsed={policy.max_elapsed:g} s would be passed: the next attempt would begin at {begins:g} s"
        if policy.stop is not None and state is not None:
            state.attempt_number, state.upcoming_sleep = self.attempt, delay
            try:
                if policy.stop(state):
                    return f"stop said so after attempt {self.attempt}, {self.elapsed(now):g} s without a connection"
            except Exception as error:  # noqa: BLE001 - the program's code must not end the client
                errors.append(("stop", error))
        return None

    def _tenacity_state(self, failure: Failure, now: float) -> RetryCallState | None:
        """Returns what tenacity's strategies look at, on our clock instead of its own; `None` where there are none."""
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

    def _by_table(self, failure: Failure, *, rejected: bool) -> _Default:
        """Returns what the default table says."""
        if failure.close is not None:
            return self._after_close(failure.close, rejected=rejected)
        error, status = failure.error, failure.status
        if status is not None and status != 101:
            return self._after_answer(status)
        if isinstance(error, CertificateRejected):
            return self._refusal(_named(error))
        return _Default(_named(error), stop=isinstance(error, ConnectError) and not error.retryable)

    def _after_close(self, close: CloseEvent, *, rejected: bool) -> _Default:
        if _is_replaced(close):
            self._broken = 0
            return _Default("reconnect_now() replaced the connection")
        code, who = close.code, f"closed by {close.origin} with"
        if close.origin is CloseOrigin.PROTOCOL and close.sent_code is not None:
            code, who = close.sent_code, "closed by us with"
        rule, why = rule_for(code), f"{who} {describe(code)}"
        if rule is CloseRule.RETRY or rule is CloseRule.RETRY_SLOW:
            self._broken = 0
            self._slow |= rule is CloseRule.RETRY_SLOW  # until it has recovered, however it refuses
            return _Default(why)
        uptime = f"min_uptime={self._policy.min_uptime:g} s"
        if rule is CloseRule.RETRY_UNLESS_REPEATED:
            self._broken += 1
            counted = f"number {self._broken} of {BROKEN_IN_A_ROW} in a row without {uptime} in between"
            return _Default(f"{why}, {counted}", stop=self._broken >= BROKEN_IN_A_ROW)
        self._broken = 0
        return _Default(f"{why} {'within' if rejected else 'after'} {uptime} of opening", stop=rejected)

    def _after_answer(self, status: int) -> _Default:
        """An HTTP answer that is not 101.

        Source: RFC 9110 section 15 (a status outside of 100 to 599 is to be treated as 5xx).
        """
        why = f"HTTP {status}"
        if status in {408, 425, 429} or not 100 <= status < 500:
            return _Default(why)
        if status in {401, 403} and self._provider and not self._refreshed:
            self._refreshed = True
            self._refused += 1
            return _Default(f"{why}, the URL provider may have a fresh token")
        return self._refusal(why)

    def _refusal(self, why: str) -> _Default:
        if not self._was_open:
            return _Default(f"{why} before the client was ever open", stop=True)
        self._refused += 1
        counted = f"{why}, number {self._refused} of {REFUSED_IN_A_ROW} since the last open"
        return _Default(counted, stop=self._refused >= REFUSED_IN_A_ROW, slow=True)


def _is_replaced(close: CloseEvent | None) -> bool:
    """Whether the program itself replaced a live connection: no failure of anybody, so no limit applies."""
    return close is not None and close.origin is CloseOrigin.LOCAL


def _retry_after(failure: Failure) -> float:
    """Returns the seconds the server asked to wait, 0 where it may not ask or made no sense."""
    wished = failure.retry_after
    if failure.status not in {429, 503} or wished is None or not wished > 0:
        return 0.0
    return float(min(wished, RETRY_AFTER_CAP))


def _named(error: BaseException | None) -> str:
    """Returns the type of `error`, with its text only where that is ours: a foreign one may hold a secret."""
    if error is None:
        return "the attempt failed"
    name = type(error).__name__
    return f"{name} ({error})" if isinstance(error, ConnectError) else name
