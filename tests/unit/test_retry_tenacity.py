"""The strategies of tenacity, which may decide how long to wait and when to stop."""

import datetime as dt
import math
from collections.abc import Callable

import pytest
import tenacity
from tenacity import (
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    wait_chain,
    wait_exception,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

from resilient_ws.api.errors import (
    ConnectError,
    ConnectionLost,
)
from resilient_ws.api.events import CloseEvent, Failure
from resilient_ws.api.options import ReconnectPolicy
from tests.unit.retry_story import Story, answered, closed, refused

# ------------------------------------------------------------------------------------------------- tenacity: wait

WAITS: list[tuple[Callable[..., float], list[tuple[float, float]]]] = [
    (wait_none(), [(0, 0)] * 4),
    (wait_fixed(dt.timedelta(seconds=3)), [(3, 3)] * 4),
    (wait_exponential(multiplier=2, max=10), [(2, 2), (4, 4), (8, 8), (10, 10)]),
    (wait_exponential_jitter(multiplier=1, max=5, jitter=1), [(1, 2), (2, 3), (4, 5), (5, 5)]),
    (wait_random_exponential(multiplier=1, max=5), [(0, 1), (0, 2), (0, 4), (0, 5)]),
    (wait_chain(wait_fixed(1), wait_fixed(7), wait_random(2, 3)), [(1, 1), (7, 7), (2, 3), (2, 3)]),
    (wait_incrementing(1, 10, 25) + wait_random(0, 1), [(1, 2), (11, 12), (21, 22), (25, 26)]),
    (wait_exception(lambda error: 9 if isinstance(error, ConnectError) else 1), [(9, 9)] * 4),
    (lambda state: state.attempt_number * 2, [(2, 2), (4, 4), (6, 6), (8, 8)]),
]


@pytest.mark.parametrize("wait,ranges", WAITS, ids=lambda value: type(value).__name__)
def test_any_wait_strategy_replaces_the_formula(wait, ranges):
    for slow in (False, True):
        story = Story(ReconnectPolicy(wait=wait))
        if slow:
            story.state.failed(closed(1013, opened_for=60.0), story.now)
            story.state.failures = 0
        for low, high in ranges:
            decision = story.fails(refused())
            assert low <= decision.delay <= high
            assert decision.errors == ()
            assert decision.rule.endswith(f"after {decision.delay:g} s, as wait said")


def test_wait_counts_failures_since_the_last_stable_connection():
    story = Story(ReconnectPolicy(wait=wait_incrementing(1, 1)))
    assert [story.fails(refused()).delay for _ in range(3)] == [1, 2, 3]
    assert story.fails(closed(1000, opened_for=60.0)).delay == 1


def test_strategies_see_what_happened_on_our_clock():
    seen = []

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        seen.append(("wait", state.attempt_number, state.seconds_since_start, state.outcome.exception()))
        assert state.outcome.failed
        assert repr(state)
        return 4

    def stop(state: tenacity.RetryCallState) -> bool:
        assert state.outcome is not None
        seen.append(("stop", state.attempt_number, state.seconds_since_start, state.upcoming_sleep))
        return False

    story = Story(ReconnectPolicy(wait=wait, stop=stop))
    error, cause = ConnectError("refused"), ConnectionLost("reset")
    story.fails(Failure(error=error))
    story.now += 0.5
    story.fails(Failure(close=CloseEvent(code=1006, cause=cause), opened_for=20.0))
    story.fails(answered(429, retry_after=6))
    assert seen == [
        ("wait", 1, 0.0, error),
        ("stop", 1, 0.0, 4),
        ("wait", 1, 0.0, cause),
        ("stop", 0, 0.0, 4),
        ("wait", 2, 4.0, seen[4][3]),
        ("stop", 1, 4.0, 10),
    ]


def test_strategies_see_an_exception_even_where_none_was():
    seen = []
    story = Story(ReconnectPolicy(wait=wait_exception(lambda error: seen.append(error) or 1.0)))
    story.fails(closed(1001))
    story.fails(Failure())
    assert [type(error) for error in seen] == [ConnectionLost, ConnectionLost]
    assert str(seen[0]) == "closed by peer with 1001 Going Away"


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    "returned",
    [-1, -0.001, math.nan, math.inf, -math.inf, None, "1", True, 10**400],
    ids=lambda value: str(value)[:5],
)
def test_a_wait_that_returns_nonsense_is_reported_and_the_formula_used(returned):
    story = Story(ReconnectPolicy(wait=lambda state: returned))
    for expected in (1, 2, 4):
        decision = story.fails(refused())
        assert (decision.stop, decision.delay) == (False, expected)
        ((where, error),) = decision.errors
        assert where == "wait"
        assert str(error).startswith("what wait returns must be ")


def test_a_wait_may_return_a_timedelta():
    assert Story(ReconnectPolicy(wait=lambda state: dt.timedelta(seconds=2))).fails(refused()).delay == 2


def test_strategies_that_raise_are_reported_and_the_default_used():
    def broken(state: tenacity.RetryCallState) -> float:
        raise ZeroDivisionError

    story = Story(ReconnectPolicy(wait=broken, stop=broken, max_attempts=2))
    decision = story.fails(refused())
    assert (decision.stop, decision.delay) == (False, 1)
    assert [(where, type(error)) for where, error in decision.errors] == [
        ("wait", ZeroDivisionError),
        ("stop", ZeroDivisionError),
    ]
    decision = story.fails(refused())
    assert decision.exhausted
    assert [where for where, _ in decision.errors] == ["wait"], "the limit that holds is not asked twice"


def test_what_must_end_the_program_is_not_caught():
    def interrupted(state: tenacity.RetryCallState) -> float:
        raise KeyboardInterrupt

    for name in ("wait", "stop"):
        with pytest.raises(KeyboardInterrupt):
            Story(ReconnectPolicy(**{name: interrupted})).fails(refused())


# ------------------------------------------------------------------------------------------------- tenacity: stop

STOPS = [
    (stop_after_attempt(4), 4),
    (stop_after_delay(7), 4),
    (stop_before_delay(7), 3),
    (stop_any(stop_after_attempt(9), stop_after_delay(3)), 3),
    (stop_after_attempt(2) | stop_after_delay(1000), 2),
    (stop_all(stop_after_attempt(2), stop_after_delay(3)), 3),
    (stop_after_attempt(5) & stop_after_delay(1), 5),
    (lambda state: state.attempt_number > 2, 3),
]


@pytest.mark.parametrize("stop,dials", STOPS, ids=lambda value: type(value).__name__)
def test_any_stop_strategy_ends_it(stop, dials):
    story = Story(ReconnectPolicy(stop=stop))
    decisions = [story.fails(refused()) for _ in range(dials)]
    assert [decision.stop for decision in decisions] == [False] * (dials - 1) + [True]
    assert decisions[-1].exhausted
    assert decisions[-1].rule.startswith(f"stop said so after attempt {dials}, ")


def test_a_stop_strategy_counts_anew_after_a_stable_connection():
    story = Story(ReconnectPolicy(stop=stop_after_attempt(2)))
    assert [story.fails(refused()).stop, story.fails(closed(1000, opened_for=10.0)).stop] == [False, False]
    assert [story.fails(refused()).stop for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    "policy,dials",
    [
        (ReconnectPolicy(max_attempts=2, max_elapsed=100, stop=stop_after_attempt(3)), 2),
        (ReconnectPolicy(max_attempts=9, max_elapsed=2, stop=stop_after_attempt(3)), 2),
        (ReconnectPolicy(max_attempts=9, max_elapsed=100, stop=stop_after_attempt(3)), 3),
    ],
    ids=["max_attempts", "max_elapsed", "stop"],
)
def test_of_several_limits_the_first_wins(policy, dials):
    story = Story(policy)
    assert [story.fails(refused()).exhausted for _ in range(dials)] == [False] * (dials - 1) + [True]
