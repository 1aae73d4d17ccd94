"""Connecting again as the client lives it: when, where to, and when no more (P10, P9)."""

import asyncio
import itertools

import pytest
from tenacity import stop_after_attempt, wait_fixed, wait_incrementing

from resilient_ws import (
    Attempt,
    ClientClosed,
    ClientStopped,
    CloseEvent,
    ConnectError,
    Endpoint,
    Failure,
    HandshakeRejected,
    InvalidURL,
    OpenTimeout,
    ReconnectEvent,
    ReconnectPolicy,
    RetriesExhausted,
    Retry,
    RetryEvent,
    State,
    Stop,
)
from resilient_ws.testing import FakeTransport
from tests.client.kit import STEADY, URL, now, settle, stage

pytestmark = pytest.mark.promise("P10")


def dial_times(played):
    return [dial.at for dial in played.transport.dials]


# --- how long


async def test_delays_grow_within_their_ranges_and_the_count_begins_anew_after_min_uptime():
    policy = ReconnectPolicy(first_delay=2, min_delay=1, max_delay=16, factor=2, min_uptime=10)
    transport = FakeTransport()
    transport.refuse(times=8)
    async with stage(transport, ready=False, reconnect=policy) as played:
        await played.until_state(State.OPEN)
        await settle(11)
        played.peer.drop()
        await played.reopened()
        delays = [event.delay for event in played.of(RetryEvent)]
        highest = [2, 4, 8, 16, 16, 16, 16, 16, 2]
        lowest = [0, *[1] * 7, 0]
        assert all(low <= delay <= high for low, delay, high in zip(lowest, delays, highest, strict=True))
        assert [event.attempt for event in played.of(RetryEvent)] == [1, 2, 3, 4, 5, 6, 7, 8, 1]
        gaps = [
            after - before
            for before, after in zip(dial_times(played)[:8], dial_times(played)[1:9], strict=True)
        ]
        assert gaps == pytest.approx(delays[:8], abs=1e-6)


async def test_a_server_that_accepts_and_hangs_up_at_once_is_not_stormed():
    transport = FakeTransport(lambda peer: peer.close(1001))
    async with stage(transport, ready=False, reconnect=ReconnectPolicy(max_delay=30)) as played:
        await settle(600)
        assert 20 < len(transport.dials) < 60
        times = dial_times(played)
        assert all(after - before >= 0.5 for before, after in itertools.pairwise(times[1:]))


@pytest.mark.parametrize("kind", ["refused", "dropped", "setup", "hung"])
async def test_nothing_a_server_does_makes_a_storm(kind):
    async def setup(conn):
        if kind == "setup":
            raise ValueError

    transport = FakeTransport(lambda peer: peer.drop() if kind == "dropped" else None)
    if kind == "refused":
        transport.refuse(times=None)
    elif kind == "hung":
        transport.hang(times=None)
    async with stage(transport, ready=False, setup=setup, reconnect=ReconnectPolicy(max_delay=10)) as played:
        await settle(1000)
        assert len(transport.dials) < 300
        times = dial_times(played)
        assert all(after - before >= 0.5 for before, after in itertools.pairwise(times[1:]))


async def test_a_tenacity_wait_replaces_the_formula():
    transport = FakeTransport()
    transport.refuse(times=4)
    policy = ReconnectPolicy(wait=wait_incrementing(start=3, increment=2))
    async with stage(transport, ready=False, reconnect=policy) as played:
        await played.until_state(State.OPEN)
        assert dial_times(played) == pytest.approx([0, 3, 8, 15, 24])


async def test_retry_after_is_waited_before_the_delay():
    transport = FakeTransport()
    transport.refuse(HandshakeRejected("HTTP 503", status=503, retry_after=20))
    transport.refuse(HandshakeRejected("HTTP 429", status=429, retry_after=100_000))
    transport.refuse(HandshakeRejected("HTTP 502", status=502, retry_after=50))
    async with stage(transport) as played:
        assert dial_times(played) == pytest.approx([0, 21, 3622, 3673])
        assert "Retry-After" in played.of(RetryEvent)[0].rule


async def test_an_overloaded_server_gets_the_longest_range():
    async with stage(reconnect=ReconnectPolicy(first_delay=0.1, min_delay=20, max_delay=40)) as played:
        played.peer.close(1013)
        await settle()
        assert played.client.close_event.retry_in >= 20


# --- when no more


async def test_max_attempts_counts_since_the_last_stable_connection():
    async with stage(reconnect=ReconnectPolicy(wait=wait_fixed(1), max_attempts=3, min_uptime=5)) as played:
        for _ in range(4):
            await settle(6)
            played.transport.refuse(times=2)
            played.peer.drop()
            await played.reopened()
        await settle(6)
        played.transport.refuse(times=3)
        played.peer.drop()
        with pytest.raises(RetriesExhausted, match="max_attempts=3") as spent:
            await played.client.recv()
        assert spent.value.attempts == 3


async def test_max_elapsed_counts_from_the_loss():
    transport = FakeTransport()
    async with stage(transport, reconnect=ReconnectPolicy(wait=wait_fixed(4), max_elapsed=10)) as played:
        await settle(100)
        transport.refuse(times=None)
        played.peer.drop()
        with pytest.raises(RetriesExhausted, match="max_elapsed=10"):
            await played.client.recv()
        assert now() == pytest.approx(108, abs=0.1)


async def test_a_tenacity_stop_is_asked():
    transport = FakeTransport()
    transport.refuse(times=None)
    policy = ReconnectPolicy(wait=wait_fixed(1), stop=stop_after_attempt(4))
    async with stage(transport, ready=False, reconnect=policy) as played:
        with pytest.raises(RetriesExhausted):
            await played.client.ready()
        assert len(transport.dials) == 4


@pytest.mark.parametrize(
    "error,dials",
    [
        (HandshakeRejected("HTTP 404", status=404), 1),
        (HandshakeRejected("HTTP 200", status=200), 1),
        (InvalidURL(), 1),
        (ConnectError("never", retryable=False), 1),
        (HandshakeRejected("HTTP 503", status=503), 5),
        (HandshakeRejected("HTTP 408", status=408), 5),
        (ConnectError("reset"), 5),
    ],
)
async def test_what_ends_a_client_that_was_never_open(error, dials):
    transport = FakeTransport()
    transport.refuse(error, times=None)
    async with stage(transport, ready=False) as played:
        await settle(4.5)
        assert len(transport.dials) == dials
        assert (played.client.state is State.CLOSED) is (dials == 1)


async def test_a_refusal_after_it_was_open_is_retried_slowly_and_stops_at_the_tenth():
    policy = ReconnectPolicy(first_delay=1, min_delay=5, max_delay=30, refused_for=0)
    async with stage(reconnect=policy) as played:
        played.transport.refuse(HandshakeRejected("HTTP 404", status=404), times=None)
        played.peer.drop()
        with pytest.raises(ClientStopped, match="404"):
            await played.client.recv()
        assert len(played.transport.dials) == 11
        assert all(event.delay >= 5 for event in played.of(RetryEvent)[1:])


@pytest.mark.parametrize("code", [1002, 1007, 1009, 1010 + 30, 2999])
async def test_the_third_broken_connection_in_a_row_stops(code):
    async with stage() as played:
        for _ in range(2):
            played.peer.close(code)
            await played.reopened()
        played.peer.close(code)
        with pytest.raises(ClientStopped, match=str(code)):
            await played.client.recv()


@pytest.mark.parametrize("code", [1003, 1008, 1010])
async def test_a_rejection_soon_after_the_opening_stops_and_a_rule_about_idleness_does_not(code):
    async with stage() as played:
        await settle(10.5)
        played.peer.close(code)
        await played.reopened()
        played.peer.close(code)
        with pytest.raises(ClientStopped, match=f"{code}.*within min_uptime"):
            await played.client.recv()


# --- decide


@pytest.mark.promise("P9")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_decide_sees_everything_and_rules(asynchronous):
    asked = []
    verdicts = [Retry(after=7), Retry(), None, Stop("enough")]

    def decide(failure):
        asked.append(failure)
        return verdicts[len(asked) - 1]

    async def decide_later(failure):
        await asyncio.sleep(0.5)
        return decide(failure)

    transport = FakeTransport()
    policy = ReconnectPolicy(wait=wait_fixed(1), decide=decide_later if asynchronous else decide)
    async with stage(transport, reconnect=policy) as played:
        transport.refuse(
            HandshakeRejected("HTTP 500", status=500, headers={"x": "y"}, retry_after=3), times=2
        )
        played.peer.close(4001, "token expired")
        with pytest.raises(ClientStopped, match="enough"):
            await played.reopened()
            played.peer.close(1001)
            await played.client.recv()
        assert all(isinstance(failure, Failure) for failure in asked)
        assert (asked[0].close.code, asked[0].close.reason, asked[0].error) == (4001, "token expired", None)
        assert asked[0].opened_for is not None
        assert (asked[1].status, dict(asked[1].headers), asked[1].retry_after) == (500, {"x": "y"}, 3)
        assert [failure.attempt for failure in asked] == [1, 2, 3, 4]
        late = 0.5 if asynchronous else 0
        assert dial_times(played) == pytest.approx([0, 7 + late, 11 + 2 * late, 15 + 3 * late], abs=0.01)
        assert played.closes[0].retry_in == 7


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
@pytest.mark.parametrize(
    "fault", [ValueError("no"), "a string", asyncio.CancelledError(), TimeoutError("mine"), KeyError("x")]
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_decide_that_fails_is_reported_and_the_default_used(fault, asynchronous):
    def decide(failure):
        if isinstance(fault, BaseException):
            raise fault
        return fault

    async def decide_later(failure):
        return decide(failure)

    policy = ReconnectPolicy(wait=wait_fixed(1), decide=decide_later if asynchronous else decide)
    async with stage(reconnect=policy) as played:
        played.peer.drop()
        await played.reopened()
        assert [where for where, _ in played.errors] == ["decide"]
        assert now() == pytest.approx(1, abs=0.1)


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
async def test_a_decide_that_hangs_is_given_up():
    async def decide(failure):
        await asyncio.sleep(10_000)

    async with stage(reconnect=ReconnectPolicy(wait=wait_fixed(1), decide=decide)) as played:
        played.peer.drop()
        await settle()
        assert played.client.state is State.BACKOFF
        await played.reopened()
        assert now() == pytest.approx(11, abs=0.1)
        assert [where for where, _ in played.errors] == ["decide"]


async def test_decide_may_raise_stop():
    def decide(failure):
        raise Stop("by raising")

    async with stage(reconnect=ReconnectPolicy(decide=decide)) as played:
        played.peer.drop()
        with pytest.raises(ClientStopped, match="by raising"):
            await played.client.recv()


async def test_decide_can_overrule_a_stop():
    transport = FakeTransport()
    transport.refuse(HandshakeRejected("HTTP 404", status=404), times=3)
    policy = ReconnectPolicy(wait=wait_fixed(1), decide=lambda failure: Retry())
    async with stage(transport, ready=False, reconnect=policy) as played:
        await played.until_state(State.OPEN)
        assert len(transport.dials) == 4


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
async def test_a_wait_or_stop_that_fails_is_reported_and_the_default_used():
    def fail(state):
        raise ValueError("broken strategy")

    async with stage(reconnect=ReconnectPolicy(wait=fail, stop=fail)) as played:
        played.peer.drop()
        await played.reopened()
        assert sorted(where for where, _ in played.errors) == ["stop", "wait"]


# --- reconnect_now


async def test_it_ends_a_back_off_but_never_sooner_than_min_delay_after_the_last_dial():
    policy = ReconnectPolicy(wait=wait_fixed(100), min_delay=2)
    async with stage(reconnect=policy) as played:
        await settle(50)
        played.peer.drop()
        await settle(1)
        played.client.reconnect_now()
        await played.until_state(State.OPEN)
        assert now() == pytest.approx(51, abs=0.1)
        played.peer.drop()
        await settle()
        played.client.reconnect_now()
        played.client.reconnect_now()
        await settle(1)
        assert played.client.state is State.BACKOFF
        await played.until_state(State.OPEN)
        assert now() == pytest.approx(53, abs=0.1)


async def test_it_replaces_a_live_connection():
    async with stage(reconnect=ReconnectPolicy(min_delay=2, wait=wait_fixed(100))) as played:
        await settle(10)
        first = played.peer
        played.client.reconnect_now()
        assert played.client.state is State.BACKOFF
        await played.reopened()
        assert now() == pytest.approx(10, abs=0.1)
        assert first.close_code == 1000
        assert not first.is_open
        close = played.closes[0]
        assert (close.origin.value, close.sent_code, close.code) == ("local", 1000, 1006)
        for _ in range(5):
            played.client.reconnect_now()
        await played.reopened()
        assert now() == pytest.approx(12, abs=0.1)


@pytest.mark.parametrize("code, reason", [(1001, ""), (3000, "x"), (4000, "resuming"), (4999, "é" * 61)])
async def test_the_close_of_the_old_connection_says_what_was_asked(code, reason):
    async with stage() as played:
        first = played.peer
        played.client.reconnect_now(code, reason)
        await played.reopened()
        assert (first.close_code, first.close_reason) == (code, reason)
        assert (played.closes[0].sent_code, played.closes[0].rule_id) == (code, "reconnect-now")


@pytest.mark.parametrize(
    "code, reason, error",
    [
        (1005, "", ValueError),
        (1011, "", ValueError),
        (5000, "", ValueError),
        (True, "", TypeError),
        ("1000", "", TypeError),
        (4000, None, TypeError),
        (4000, "x" * 124, ValueError),
    ],
)
async def test_a_code_that_may_not_be_sent_is_refused_and_nothing_happens(code, reason, error):
    async with stage() as played:
        with pytest.raises(error):
            played.client.reconnect_now(code, reason)
        assert played.client.state is State.OPEN
        played.peer.drop()
        await settle()
        with pytest.raises(error):
            played.client.reconnect_now(code, reason)
        assert played.client.state is State.BACKOFF


async def test_it_does_not_count_as_a_failure():
    policy = ReconnectPolicy(wait=wait_fixed(1), max_attempts=2, min_delay=1)
    async with stage(reconnect=policy) as played:
        for _ in range(20):
            played.client.reconnect_now()
            await played.reopened()
        assert played.client.stats.opens == 21


async def test_it_does_nothing_to_an_attempt_under_way():
    transport = FakeTransport()
    transport.accept(delay=5)
    async with stage(transport, ready=False) as played:
        await settle(1)
        played.client.reconnect_now()
        await played.until_state(State.OPEN)
        assert len(transport.dials) == 1
        assert now() == pytest.approx(5, abs=0.1)
        played.transport.refuse()
        played.peer.drop()
        await played.reopened()
        assert now() == pytest.approx(7, abs=0.1)


@pytest.mark.promise("P10")
async def test_a_program_that_calls_it_all_the_time_makes_no_storm():
    transport = FakeTransport()
    transport.refuse(times=None)
    async with stage(transport, ready=False, reconnect=ReconnectPolicy(min_delay=0.5)) as played:
        for _ in range(1000):
            played.client.reconnect_now()
            await settle(0.02)
        assert len(transport.dials) <= 41


# --- where to


async def test_several_urls_are_tried_in_turn_and_a_stable_one_first():
    urls = ["ws://one.test", "ws://two.test", "ws://three.test"]
    transport = FakeTransport()
    transport.refuse()
    async with stage(
        transport, url=urls, reconnect=ReconnectPolicy(wait=wait_fixed(1), min_uptime=10)
    ) as played:
        await settle(11)
        played.peer.drop()
        await played.reopened()
        played.peer.drop()
        await played.reopened()
        await settle()
        hosts = [dial.endpoint.url.host for dial in transport.dials]
        assert hosts == ["one.test", "two.test", "two.test", "three.test"]
        assert str(played.of(ReconnectEvent)[-1].endpoint) == "ws://three.test/"


async def test_the_client_stops_only_when_all_of_one_round_said_stop():
    transport = FakeTransport()
    transport.refuse(HandshakeRejected("HTTP 404", status=404), times=None)
    async with stage(transport, url=["ws://one.test", "ws://two.test"], ready=False) as played:
        with pytest.raises(ClientStopped, match="all 2 addresses"):
            await played.client.ready()
        assert len(transport.dials) == 2


async def test_a_provider_is_asked_for_each_attempt_and_told_what_happened():
    asked = []

    async def where(attempt):
        asked.append(attempt)
        await asyncio.sleep(0.1)
        return Endpoint(f"ws://n{len(asked)}.test?token=secret", {"x-n": str(len(asked))}, ["chat"])

    transport = FakeTransport()
    transport.refuse()
    async with stage(transport, url=where, headers={"x-all": "1", "x-n": "0"}) as played:
        played.peer.close(1012, "restart")
        await played.reopened()
        assert all(isinstance(attempt, Attempt) for attempt in asked)
        assert [attempt.number for attempt in asked] == [1, 2, 3]
        assert asked[0] == Attempt(number=1)
        assert isinstance(asked[1].last_failure.error, ConnectError)
        assert str(asked[1].endpoint) == "ws://n1.test/"
        assert asked[1].last_close is None
        assert asked[2].last_close.reason == "restart"
        assert asked[2].last_failure.close.code == 1012
        assert [dict(dial.endpoint.headers)["x-n"] for dial in transport.dials] == ["1", "2", "3"]
        assert transport.dials[0].endpoint.headers["x-all"] == "1"
        assert transport.dials[0].endpoint.subprotocols == ("chat",)
        assert "secret" not in played.client.explain()
        assert "secret" not in repr(played.events)


async def test_a_provider_that_failed_hears_what_was_used_before():
    asked = []

    async def where(attempt):
        asked.append(attempt)
        if len(asked) == 2:
            raise OSError("the token service is down")
        return f"ws://n{len(asked)}.test"

    async with stage(url=where) as played:
        played.peer.drop()
        await played.reopened()
        assert [str(attempt.endpoint) for attempt in asked[1:]] == ["ws://n1.test/"] * 2
        assert isinstance(asked[2].last_failure.error, ConnectError)


@pytest.mark.promise("P9")
@pytest.mark.parametrize(
    "given,stops",
    [
        (ValueError("token service down"), False),
        (asyncio.CancelledError(), False),
        (TimeoutError("of its own"), False),
        (5, False),
        (None, False),
        ("http://wrong.scheme", True),
        (Stop("no more"), True),
    ],
)
async def test_whatever_a_provider_does_is_a_failed_attempt_or_a_stop(given, stops):
    calls = 0

    async def where(attempt):
        nonlocal calls
        calls += 1
        if calls > 2:
            return URL
        if isinstance(given, BaseException) and not isinstance(given, Stop):
            raise given
        return given

    async with stage(url=where, ready=False) as played:
        if stops:
            with pytest.raises(ClientStopped):
                await played.client.ready()
        else:
            await played.client.ready()
            await settle()
            assert now() == pytest.approx(2, abs=0.1)
            causes = [event.cause for event in played.of(RetryEvent)]
            assert all(isinstance(cause, ConnectError) for cause in causes)
            if isinstance(given, BaseException):
                assert type(given).__name__ in str(causes[0])


async def test_a_provider_that_raises_a_connect_error_before_it_returns_an_awaitable():
    calls = []

    def where(attempt):
        calls.append(attempt)
        if len(calls) == 1:
            raise HandshakeRejected("mine", status=503, retry_after=10)
        return asyncio.sleep(0, URL)

    async with stage(url=where) as played:
        assert now() == pytest.approx(11, abs=0.1)
        assert played.client.state is State.OPEN


async def test_a_refused_token_is_refreshed_once():
    tokens = []

    async def where(attempt):
        tokens.append(len(tokens))
        return URL

    transport = FakeTransport()
    transport.refuse(HandshakeRejected("HTTP 401", status=401), times=None)
    async with stage(transport, url=where, ready=False) as played:
        with pytest.raises(ClientStopped, match="401"):
            await played.client.ready()
        assert len(tokens) == 2


async def test_open_timeout_covers_the_whole_attempt():
    transport = FakeTransport()
    transport.hang()
    transport.accept(delay=2)
    async with stage(transport, open_timeout=3) as played:
        assert now() == pytest.approx(6, abs=0.1)
        cause = played.of(RetryEvent)[0].cause
        assert isinstance(cause, OpenTimeout)
        assert isinstance(cause, TimeoutError)
        assert "open_timeout=3" in str(cause)


@pytest.mark.expects_errors
async def test_a_transport_that_raises_something_unforeseen_fails_the_attempt_only():
    transport = FakeTransport()
    transport.refuse(AssertionError("ws://secret@host?token=secret"), times=2)
    async with stage(transport) as played:
        await settle()
        cause = played.of(RetryEvent)[0].cause
        assert isinstance(cause, ConnectError)
        assert (cause.foreign, cause.__cause__) == ("AssertionError", None)
        assert "secret" not in played.client.explain()


async def test_closing_during_each_kind_of_wait_leaves_no_further_dial():
    for kind in ("dial", "back-off", "provider"):

        async def where(attempt, kind=kind):
            if kind == "provider":
                await asyncio.sleep(1000)
            return URL

        transport = FakeTransport()
        if kind == "dial":
            transport.hang(times=None)
        else:
            transport.refuse(times=None)
        async with stage(transport, url=where, ready=False, reconnect=STEADY, open_timeout=None) as played:
            await settle(0.5)
            dials = len(transport.dials)
            await played.client.close()
            with pytest.raises(ClientClosed):
                await played.client.ready()
            await settle(100)
            assert len(transport.dials) == dials
            assert [type(event) for event in played.events][-1] is CloseEvent


async def test_the_callbacks_hear_of_the_end_before_a_dial_that_follows_at_once():
    transport = FakeTransport()
    dials = []
    at_once = ReconnectPolicy(first_delay=0, min_delay=0, max_delay=0)
    async with stage(transport, reconnect=at_once) as played:
        played.client.on_close(lambda _: dials.append(len(transport.dials)))
        played.peer.drop()
        await played.reopened()
    assert dials[0] == 1
