"""The simulated fleet: its draws are those of the policy, nobody is lost in it, and what the page claims of the peaks."""

import random
from collections import Counter

import numpy as np
import pytest
import websockets.client

from benchmarks.herd import also, as_fast, compare, table, verdict
from benchmarks.herd_formulas import OTHERS, Formula, ours, slowed
from benchmarks.herd_model import STEP, Server, simulate
from resilient_ws import Failure, ReconnectPolicy
from resilient_ws.core.retry import RetryState

NAMED = {formula.name: formula for formula in OTHERS}
POLICIES = [
    ReconnectPolicy(),
    ReconnectPolicy(first_delay=2, min_delay=1, max_delay=20, factor=1.5),
    ReconnectPolicy(first_delay=0, min_delay=0),
]


class Given:
    """Draws from numbers that were drawn before."""

    def __init__(self, numbers):
        self.numbers = iter(numbers)

    def uniform(self, a, b):
        return a + (b - a) * next(self.numbers)


class Same(random.Random):
    """The standard library's `uniform`, but for what it is made of."""

    def __init__(self, numbers):
        super().__init__(0)
        self.numbers = iter(numbers)

    def random(self):
        return next(self.numbers)


def lost() -> Failure:
    return Failure(attempt=1, close=None, error=ConnectionRefusedError(), status=None)


@pytest.mark.parametrize("source", [Given, Same])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_waits_are_those_of_the_retry_state(policy, source):
    clients, failures = 20, 12
    drawn = np.random.default_rng(7).random((failures, clients))
    formula = ours(policy)
    simulated = np.array([formula.waits(number + 1, drawn[number]) for number in range(failures)])
    for client in range(clients):
        state = RetryState(policy, source(drawn[:, client].tolist()))
        decided = [state.failed(lost(), float(number)).delay for number in range(failures)]
        assert decided == simulated[:, client].tolist()


def test_the_waits_of_websockets_are_those_of_the_installed_one():
    delays = list(zip(range(2, 14), websockets.client.backoff(), strict=False))
    assert len(delays) == 12
    at_once = NAMED["websockets"].waits(1, np.array([0.9]))
    assert at_once.tolist() == [0.0]
    first, *later = delays
    assert 0 <= first[1] <= 5
    assert NAMED["websockets"].waits(2, np.array([0.0, 1.0])).tolist() == [0.0, 5.0]
    for failures, delay in later:
        assert NAMED["websockets"].waits(failures, np.array([0.3])).tolist() == pytest.approx([delay])


@pytest.mark.parametrize(
    "name,failures,low,high",
    [
        ("socket.io", 1, 0.55, 1.5),
        ("socket.io", 2, 1.1, 3.0),
        ("socket.io", 3, 2.2, 5.0),
        ("socket.io", 4, 4.4, 5.0),
        ("socket.io", 80, 5.0, 5.0),
        ("nats.py", 1, 0.0, 0.0),
        ("nats.py", 61, 2.0, 2.0),
        ("nats.js", 2, 2.0, 2.1),
        ("gRPC", 1, 0.0, 0.0),
        ("gRPC", 2, 1.0, 1.0),
        ("gRPC", 3, 1.28, 1.92),
        ("gRPC", 90, 96.0, 144.0),
        ("centrifuge", 1, 0.5, 1.0),
        ("centrifuge", 2, 0.5, 1.5),
        ("centrifuge", 9, 0.5, 20.0),
        ("SignalR", 4, 30.0, 30.0),
        ("fixed sleep", 5, 10.0, 10.0),
    ],
)
def test_the_waits_of_the_others_have_the_published_range(name, failures, low, high):
    waits = NAMED[name].waits(failures, np.random.default_rng(1).random(20_000))
    assert low <= waits.min() <= low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) <= waits.max() <= high + 0.001
    if name == "socket.io" and failures == 4:
        # grown to 8 s, +-50 %: half of them are over the cap, and a quarter of the others
        assert (waits == 5.0).mean() > 0.5


@pytest.mark.parametrize("name,failures", [("nats.py", 62), ("nats.js", 11), ("SignalR", 5)])
def test_some_give_up(name, failures):
    drawn = np.array([0.5])
    assert NAMED[name].waits(failures - 1, drawn) is not None
    assert NAMED[name].waits(failures, drawn) is None


FLEETS = [
    Server(down=0.0, capacity=1e9),
    Server(down=5.0, capacity=100.0, backlog=20),
    Server(down=2.0, capacity=20.0, backlog=500, open_timeout=2.0),
]


@pytest.mark.parametrize("server", FLEETS, ids=str)
@pytest.mark.parametrize("formula", [ours(), *OTHERS], ids=lambda formula: formula.name)
def test_every_client_is_back_once_or_has_given_up_or_still_tries(formula, server):
    clients = 2000
    out = simulate(formula, clients, server, horizon=50.0)
    back = int(np.isfinite(out.back_at).sum())
    assert out.attempts.sum() == back + out.while_down + out.refused + out.timed_out
    assert back + out.gave_up <= clients
    if server.capacity >= 1e9:
        assert (back, out.refused, out.timed_out) == (clients, 0, 0)
    assert out.back_at.min() >= server.down
    taken = Counter(np.floor(out.back_at[np.isfinite(out.back_at)]).astype(int).tolist())
    assert max(taken.values(), default=0) <= server.capacity * (1 + STEP) + 1


def test_with_patience_all_are_back_and_the_same_seed_gives_the_same_fleet():
    server = Server(down=5.0, capacity=100.0, backlog=20)
    first, second, third = (simulate(ours(), 2000, server, seed=seed) for seed in (1, 1, 2))
    assert np.isfinite(first.back_at).all()
    assert first.gave_up == 0
    assert (first.back_at == second.back_at).all()
    assert (first.attempts == second.attempts).all()
    assert (first.back_at != third.back_at).any()
    assert first.until_back(0.5) <= first.until_back(0.99) <= first.until_back(1.0) == first.back_at.max()


def test_a_crowd_is_let_in_as_fast_as_the_server_is_and_the_rest_is_refused():
    together = Formula("together", lambda failures, drawn: drawn * 0 + 1.0 if failures == 1 else None, "")
    out = simulate(together, 1000, Server(down=0.0, capacity=100.0, backlog=300))
    assert out.attempts.nonzero()[0].tolist() == [round(1.0 / STEP)]
    assert out.peak() == out.peak(within=0.1) == 1000
    assert np.isfinite(out.back_at).sum() == 300 + 100 * STEP
    assert out.refused == out.gave_up == 1000 - 305
    assert out.until_back(0.3) == pytest.approx(1.0 + 300 / 100)
    assert out.until_back(0.31) == np.inf
    assert out.per_second()[:3].tolist() == [0, 1000, 0]


def test_who_waits_too_long_in_the_backlog_gives_that_attempt_up():
    together = Formula("together", lambda failures, drawn: drawn * 0 + 1.0 if failures == 1 else None, "")
    out = simulate(together, 1000, Server(down=0.0, capacity=100.0, backlog=1000, open_timeout=4.0))
    assert np.isfinite(out.back_at).sum() == 400
    assert out.timed_out == out.gave_up == 600


def test_a_deadline_that_counts_from_the_dial_is_over_when_the_dial_took_longer():
    def waits(failures, drawn):
        return drawn * 0 + (0.0 if failures == 1 else 3.0)

    server = Server(down=0.0, capacity=10.0, backlog=100, open_timeout=4.0)
    for from_dial, expected in ((True, 4.0), (False, 7.0)):
        out = simulate(Formula("", waits, "", from_dial=from_dial), 80, server)
        again = out.attempts.nonzero()[0] * STEP
        assert again[:2].tolist() == pytest.approx([0.0, expected], abs=2 * STEP)


# ------------------------------------------------------------------------------------------------ what the page claims

CLIENTS = 10_000


@pytest.mark.parametrize("down", [5.0, 30.0, 120.0])
def test_no_policy_as_fast_as_the_default_has_a_lower_peak_where_the_server_is_the_bottleneck(down):
    server = Server(down=down, capacity=CLIENTS / 50, backlog=CLIENTS * 4096 // 1_000_000)
    runs = compare([ours(), *OTHERS], CLIENTS, server, horizon=down + 90)
    fast = as_fast(runs, runs[0])
    assert [run.formula.name for run in fast] == ["centrifuge"]
    for since in (0.0, down):
        assert runs[0].outcome.peak(since=since) < min(run.outcome.peak(since=since) for run in fast)
    assert "NOT" not in verdict(runs)


@pytest.mark.parametrize("capacity", [CLIENTS / 50, 1e9])
@pytest.mark.parametrize("down", [0.0, 30.0])
def test_with_a_first_delay_above_one_second_no_policy_as_fast_has_a_lower_peak(down, capacity):
    runs = compare(
        [also("first_delay=1.25"), *OTHERS], CLIENTS, Server(down=down, capacity=capacity), horizon=down + 90
    )
    assert all(runs[0].outcome.peak() < run.outcome.peak() for run in as_fast(runs, runs[0]))
    assert runs[0].outcome.peak() < CLIENTS


def test_the_peak_of_the_default_is_at_most_a_tenth_above_one_attempt_for_each_client():
    out = simulate(ours(), CLIENTS, Server(down=30.0))
    assert out.peak() < 1.1 * CLIENTS
    assert out.peak(since=30.0) < 0.07 * CLIENTS


def test_a_table_shows_each_policy_and_marks_those_as_fast():
    server = Server(down=5.0, capacity=20.0, backlog=10)
    runs = compare([ours(), also("factor=3,min_delay=1"), *OTHERS], 1000, server, horizon=200.0)
    text = table(runs, 1000)
    rows = [line.split(" | ")[0] for line in text.splitlines()[2:]]
    assert rows[:2] == ["| **resilient_ws**", "| with factor=3,min_delay=1"]
    assert "| centrifuge *" in rows
    assert "| SignalR" in rows
    assert "never" in next(line for line in text.splitlines() if line.startswith("| SignalR"))
    assert verdict(runs).startswith("Peak of resilient_ws: overall ")


def test_a_slowed_policy_has_the_same_shape():
    policy = slowed(ReconnectPolicy(), 4)
    drawn = np.random.default_rng(3).random(100)
    for failures in range(1, 12):
        quick, slow = (ours(one).waits(failures, drawn) for one in (ReconnectPolicy(), policy))
        assert slow == pytest.approx(quick * 4)
