"""No storm: whatever happens, the delays stay in their ranges and the dials within what the policy allows."""

import math
import os
import random
import statistics
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import (
    CertificateRejected,
    ConnectError,
    HandshakeRejected,
    InvalidURL,
    OpenTimeout,
)
from resilient_ws.api.events import CloseEvent, Failure, Retry, Stop
from resilient_ws.api.options import ReconnectPolicy
from resilient_ws.core.retry import RETRY_AFTER_CAP, RetryState, delay_range

delays = st.floats(0, 1000, allow_subnormal=False)


@st.composite
def policies(draw, **fixed):
    """Policies without strategies: the formula and the limits."""
    low, middle, high = sorted(draw(st.tuples(delays, delays, delays)))
    first, least = draw(st.sampled_from([(low, middle), (middle, low)]))
    options = {
        "first_delay": first,
        "min_delay": least,
        "max_delay": high,
        "factor": draw(st.floats(1, 1e5)),
        "max_attempts": draw(st.none() | st.integers(1, 6)),
        "max_elapsed": draw(st.none() | st.floats(1, 5000)),
        "min_uptime": draw(st.floats(0, 60)),
    }
    return ReconnectPolicy(**(options | fixed))


class Lowest:
    """The worst luck: every client draws the shortest delay."""

    def uniform(self, a: float, b: float) -> float:
        return a


# ------------------------------------------------------------------------------------------------- delays


@pytest.mark.promise("P10")
@given(policy=policies(max_attempts=None, max_elapsed=None), seed=st.integers(), failures=st.integers(1, 60))
def test_each_delay_is_within_the_formula(policy, seed, failures):
    state = RetryState(policy, random.Random(seed))
    for n in range(1, failures + 1):
        delay = state.failed(Failure(error=ConnectError()), 0.0).delay
        if n == 1:
            assert 0 <= delay <= policy.first_delay
        else:
            grown = min(policy.max_delay, policy.first_delay * math.pow(policy.factor, n - 1))
            assert policy.min_delay <= delay <= max(policy.min_delay, grown)


@pytest.mark.promise("P10")
@given(policy=policies(), n=st.integers(1, 10**9), slow=st.booleans())
def test_the_range_never_shrinks_or_passes_the_cap(policy, n, slow):
    low, high = delay_range(policy, n, slow=slow)
    assert 0 <= low <= high <= policy.max_delay
    assert high <= delay_range(policy, n + 1)[1] or n == 1 or slow
    assert low == (0 if n == 1 and not slow else policy.min_delay)


@pytest.mark.promise("P10")
@given(seed=st.integers(), n=st.integers(11, 10_000), cap=st.floats(1, 1000))
@settings(max_examples=30)
def test_many_clients_do_not_fall_into_step_at_the_cap(seed, n, cap):
    policy = ReconnectPolicy(max_delay=cap)
    source, drawn = random.Random(seed), []
    for _ in range(500):
        state = RetryState(policy, source)
        state.failures = n - 1
        drawn.append(state.failed(Failure(error=ConnectError()), 0.0).delay)
    evenly = (cap - policy.min_delay) / math.sqrt(12)  # the deviation of a uniform distribution
    assert 0.8 * evenly <= statistics.pstdev(drawn) <= 1.2 * evenly
    assert statistics.mean(drawn) == pytest.approx((policy.min_delay + cap) / 2, rel=0.2)


@pytest.mark.promise("P10")
@given(seed=st.integers(), retry_after=st.floats(0, 10_000, exclude_min=True))
@settings(max_examples=30)
def test_there_is_no_herd_at_the_end_of_retry_after(seed, retry_after):
    source, drawn = random.Random(seed), []
    for _ in range(200):
        failure = Failure(error=HandshakeRejected(), status=503, retry_after=retry_after)
        drawn.append(RetryState(ReconnectPolicy(), source).failed(failure, 0.0).delay)
    asked = min(retry_after, RETRY_AFTER_CAP)
    assert asked <= min(drawn) <= max(drawn) <= asked + 1
    assert max(drawn) - min(drawn) > 0.7


# ------------------------------------------------------------------------------------------------- anything at all

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.just(10**400),
    st.timedeltas(),
)
errors = st.sampled_from(
    [
        None,
        ConnectError(),
        ConnectError(retryable=False),
        OpenTimeout(),
        CertificateRejected(),
        InvalidURL(),
        OSError(),
    ]
)
closes = st.builds(
    CloseEvent,
    code=st.integers(0, 6000),
    origin=st.sampled_from(CloseOrigin),
    sent_code=st.none() | st.sampled_from([1000, 1002, 1007, 1009]),
)
strange_failures = st.builds(
    Failure,
    close=st.none() | closes,
    error=errors,
    status=st.none() | st.integers(-10, 1100),
    retry_after=st.none() | st.floats(),
    opened_for=st.none() | st.floats(),
)


@pytest.mark.promise("P10")
@given(
    policy=policies(),
    returned=anything,
    failures=st.lists(
        st.tuples(strange_failures, st.none() | st.builds(Retry) | anything), min_size=1, max_size=20
    ),
    clock=st.lists(st.floats(-1e9, 1e9), min_size=20, max_size=20),
    endpoints=st.integers(1, 3),
    provider=st.booleans(),
)
def test_nothing_makes_a_delay_that_cannot_be_slept(policy, returned, failures, clock, endpoints, provider):
    policies_ = (policy, ReconnectPolicy(wait=lambda state: returned, stop=lambda state: returned))
    for policy_ in policies_:
        state = RetryState(policy_, random.Random(0), endpoints=endpoints, provider=provider)
        for (failure, verdict), now in zip(failures, clock, strict=False):
            state.dialing(now)
            decision = state.failed(failure, now, verdict)
            assert 0 <= decision.delay < math.inf
            assert decision.rule
            assert decision.stop or not decision.exhausted
            assert 0 <= state.endpoint < endpoints
            assert 0 <= state.redial_in(now) <= policy_.min_delay + 1e-6


# ------------------------------------------------------------------------------------------------- a client's life


class ClientLife(RuleBasedStateMachine):
    """A client meets a hostile server, with the worst luck; a second account of what the policy allows is kept."""

    @initialize(
        policy=policies(),
        endpoints=st.integers(1, 3),
        provider=st.booleans(),
        seed=st.none() | st.integers(0, 99),
    )
    def start(self, policy, endpoints, provider, seed):
        self.again = lambda: self.start(policy, endpoints, provider, seed)
        self.policy = policy
        source = Lowest() if seed is None else random.Random(seed)
        self.state = RetryState(policy, source, endpoints=endpoints, provider=provider)
        self.now = 0.0
        self.state.started(self.now)
        self.row = 0  # failures since the last stable connection
        self.dials = 0  # dials since then
        self.down = 0.0  # seconds without a connection since then
        self.asked = {}  # until when an address is to be left alone
        self.open = self.ended = False
        self.dial(0.0)

    def dial(self, delay):
        self.now += delay
        self.down += delay
        self.dials += 1
        self.asked.pop(self.state.endpoint, None)
        assert self.state.dialing(self.now) == self.dials
        self.dialed_at = self.now

    def fails(self, failure, verdict=None):
        stable = failure.opened_for is not None and failure.opened_for >= self.policy.min_uptime
        if stable:
            self.row = self.dials = 0
            self.down = 0.0
        self.row += 1
        assert self.state.next_failure_number(failure.opened_for) == self.row
        before = self.state.endpoint
        replaced = failure.close is not None and failure.close.origin is CloseOrigin.LOCAL
        if replaced and not stable:
            self.dials -= 1  # it has led to a connection
        if failure.retry_after is not None:
            self.asked[before] = self.now + min(RETRY_AFTER_CAP, failure.retry_after)
        decision = self.state.failed(failure, self.now, verdict)
        assert self.state.failures == self.row
        assert self.state.attempt == self.dials
        assert self.state.endpoint == (before if stable else (before + 1) % self.state._endpoints)
        assert self.state.elapsed(self.now) == pytest.approx(self.down, abs=1e-6)
        if decision.stop:
            assert decision.delay == 0
            assert not (replaced and verdict is None), "the program asked for a new connection"
            self.ended = True
        elif replaced and verdict is None:
            assert self.now + decision.delay >= self.dialed_at + self.policy.min_delay - 1e-6
            self.dial(decision.delay)
        else:
            self.may_dial(decision, verdict, free=replaced)
            self.dial(decision.delay)
        self.open = False

    def may_dial(self, decision, verdict, *, free):
        policy = self.policy
        if not free:
            assert policy.max_attempts is None or self.dials < policy.max_attempts
            assert policy.max_elapsed is None or self.down + decision.delay <= policy.max_elapsed + 1e-6
        if isinstance(verdict, Retry) and verdict.after is not None:
            assert decision.delay == verdict.after
            return
        asked = max(0.0, self.asked.get(self.state.endpoint, self.now) - self.now)
        assert decision.delay >= asked + (policy.min_delay if self.row > 1 else 0.0) - 1e-6
        assert decision.delay <= asked + max(policy.min_delay, policy.max_delay) + 1e-6

    @precondition(lambda self: not self.ended and not self.open)
    @rule(took=st.floats(0, 10))
    def opens(self, took):
        self.now += took
        self.down += took
        self.state.opened()
        self.open = True

    @precondition(lambda self: not self.ended and not self.open)
    @rule(
        took=st.floats(0, 10),
        status=st.sampled_from([None, None, 301, 401, 404, 429, 500, 503]),
        retry_after=st.none() | st.floats(0, 10_000),
        error=errors,
        verdict=st.sampled_from([None, None, None, Retry(), Retry(0), Retry(3)]),
    )
    def attempt_fails(self, took, status, retry_after, error, verdict):
        self.now += took
        self.down += took
        self.fails(Failure(error=error, status=status, retry_after=retry_after), verdict)

    @precondition(lambda self: not self.ended and self.open)
    @rule(
        lasted=st.floats(0, 100),
        code=st.sampled_from([1000, 1001, 1002, 1006, 1008, 1009, 1013, 4000]),
        origin=st.sampled_from(CloseOrigin),
        verdict=st.sampled_from([None, None, None, Retry(), Retry(0), Retry(3)]),
    )
    def connection_ends(self, lasted, code, origin, verdict):
        self.now += lasted
        self.fails(Failure(close=CloseEvent(code=code, origin=origin), opened_for=lasted), verdict)

    @precondition(lambda self: not self.ended and self.open)
    @rule()
    def program_stops(self):
        self.fails(Failure(close=CloseEvent(code=1000), opened_for=0.0), Stop())
        assert self.ended

    @precondition(lambda self: self.ended)
    @rule()
    def another_client_starts(self):
        self.again()

    @invariant()
    def the_next_address_exists(self):
        if hasattr(self, "state"):
            assert 0 <= self.state.endpoint < self.state._endpoints


@pytest.mark.promise("P10")
def test_a_client_never_dials_more_than_its_policy_allows():
    run_state_machine_as_test(ClientLife, settings=settings(max_examples=150, stateful_step_count=40))


# ------------------------------------------------------------------------------------------------- an hour of hostility


@pytest.mark.promise("P10")
@pytest.mark.parametrize("worst_luck", [True, False])
@given(
    opened_for=st.lists(st.none() | st.floats(0, 20), min_size=1, max_size=8),
    min_delay=st.floats(0.3, 2),
    seed=st.integers(),
)
@settings(max_examples=25)
def test_an_hour_of_any_server_is_no_storm(worst_luck, opened_for, min_delay, seed):
    policy = ReconnectPolicy(min_delay=min_delay)
    state = RetryState(policy, Lowest() if worst_luck else random.Random(seed))
    now, dials, stable = 0.0, 0, 0
    state.started(now)
    while now < 3600:
        lasted = opened_for[dials % len(opened_for)]
        state.dialing(now)
        dials += 1
        failure = Failure(error=ConnectError())
        if lasted is not None:
            state.opened()
            now += lasted
            stable += lasted >= policy.min_uptime
            failure = Failure(close=CloseEvent(code=1000, origin=CloseOrigin.PEER), opened_for=lasted)
        decision = state.failed(failure, now)
        assert not decision.stop
        now += decision.delay
    # One dial per min_delay, and one at once at the start and after each connection that lasted min_uptime.
    assert dials <= 2 + stable + 3600 / min_delay
    assert stable <= 3600 / policy.min_uptime + 1


# ------------------------------------------------------------------------------------------------- a server at fault

HERE = Endpoint("wss://here.test/")
mistakes = st.one_of(
    st.sampled_from([200, 301, 302, 304, 400, 401, 403, 404, 410, 418, 499]).map(
        lambda status: Failure(error=HandshakeRejected(status=status), status=status, endpoint=HERE)
    ),
    st.sampled_from(
        [
            CertificateRejected("expired"),
            HandshakeRejected("wrong accept", status=101, retryable=False),
            HandshakeRejected("unknown extension", retryable=False),
            InvalidURL("port 0"),
        ]
    ).map(lambda error: Failure(error=error, endpoint=HERE)),
)
others = st.one_of(
    st.just(Failure(error=ConnectError("refused"), endpoint=HERE)),
    st.sampled_from([408, 425, 429, 500, 502, 503]).map(
        lambda status: Failure(error=HandshakeRejected(status=status), status=status, endpoint=HERE)
    ),
    st.tuples(st.sampled_from([403, 404, 418]), st.floats(0, 100)).map(
        lambda one: Failure(
            error=HandshakeRejected(status=one[0]), status=one[0], retry_after=one[1], endpoint=HERE
        )
    ),
)
lost = st.floats(0, 100).map(
    lambda lasted: Failure(close=CloseEvent(code=1001, origin=CloseOrigin.PEER), opened_for=lasted)
)


@pytest.mark.promise("P10")
@given(
    history=st.lists(
        st.tuples(
            st.sampled_from([mistakes] * 3 + [others, lost]).flatmap(lambda one: one),
            st.floats(0, 600),
            st.integers(1, 14),
        ),
        max_size=8,
    ),
    refused_for=st.none() | st.floats(0, 7200),
    endpoints=st.integers(1, 3),
    provider=st.booleans(),
)
def test_refusals_end_a_client_that_was_open_at_the_tenth_in_a_row_and_not_before_its_time(
    history, refused_for, endpoints, provider
):
    policy = ReconnectPolicy(refused_for=refused_for)
    state = RetryState(policy, random.Random(1), endpoints=endpoints, provider=provider)
    now = 0.0
    state.started(now)
    state.dialing(now)
    state.opened()
    state.failed(Failure(close=CloseEvent(code=1006), opened_for=60.0), now)
    row, unconnected_since = 0, now
    for failure, took in [(failure, took) for failure, took, times in history for _ in range(times)]:
        now += took
        state.dialing(now)
        if failure.opened_for is not None:
            state.opened()
            now += failure.opened_for
            row, unconnected_since = 0, now
        elif (
            failure.retry_after is not None
            or failure.status in {408, 425, 429, 500, 502, 503}
            or (failure.status is None and type(failure.error) is ConnectError)
        ):
            row = 0
        else:
            row += 1
        decision = state.failed(failure, now)
        if decision.stop:
            assert refused_for is not None
            assert row >= 10
            assert now - unconnected_since >= refused_for
            assert decision.rule_id.endswith("-repeated")
            return
        if row >= 10 and refused_for is not None and endpoints == 1 and not provider:
            assert now - unconnected_since < refused_for, "then it does end"
        now += decision.delay


FORKED = """
import os
from resilient_ws.runtime.config import RANDOM
RANDOM.seed(1)
drawn = []
for _ in range(2):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, repr(RANDOM.uniform(0, 1)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    drawn.append(os.read(reader, 100).decode())
assert drawn[0] != drawn[1], drawn
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.promise("P10")
def test_processes_that_are_forked_from_one_do_not_draw_the_same():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=30)
