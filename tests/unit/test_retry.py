"""A failure becomes a delay or a stop: the table of defaults, the verdicts and the limits."""

import datetime as dt
import math
import random

import pytest
from tenacity import (
    stop_after_attempt,
    wait_fixed,
)

from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import (
    CertificateRejected,
    ConnectError,
    HandshakeRejected,
    InvalidURL,
    OpenTimeout,
    SetupFailed,
    SetupTimeout,
)
from resilient_ws.api.events import Failure, Retry, Stop
from resilient_ws.api.options import ReconnectPolicy
from resilient_ws.core.retry import RetryState, delay_range
from tests.unit.retry_story import DEFAULT, Highest, Story, answered, closed, refused

# ------------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize(
    "n,expected", [(1, (0, 1)), (2, (0.5, 2)), (3, (0.5, 4)), (4, (0.5, 8)), (5, (0.5, 16)), (6, (0.5, 30))]
)
def test_the_range_grows_up_to_the_cap(n, expected):
    assert delay_range(DEFAULT, n) == expected


@pytest.mark.parametrize("n", [1_000, 10_000_000])
def test_the_range_survives_any_number_of_failures(n):
    assert delay_range(DEFAULT, n) == (0.5, 30)
    assert delay_range(ReconnectPolicy(first_delay=0), n) == (0.5, 0.5)
    assert delay_range(ReconnectPolicy(factor=1), n) == (0.5, 1)


def test_the_range_is_never_below_min_delay():
    assert delay_range(ReconnectPolicy(first_delay=0.1, min_delay=5), 2) == (5, 5)


def test_the_slow_range_is_that_of_the_cap_at_once():
    assert delay_range(DEFAULT, 1, slow=True) == (0.5, 30)


def test_a_delay_is_drawn_from_its_range():
    state = RetryState(DEFAULT, random.Random(7))
    drawn = random.Random(7)
    for low, high in ((0, 1), (0.5, 2), (0.5, 4), (0.5, 8)):
        assert state.failed(refused(), 0.0).delay == drawn.uniform(low, high)


@pytest.mark.parametrize("outside,expected", [(-5.0, 0.5), (99.0, 2.0)])
def test_a_draw_outside_of_the_range_is_brought_back(outside, expected):
    class Wrong:
        def uniform(self, a: float, b: float) -> float:
            return outside

    state = RetryState(DEFAULT, Wrong())
    state.failed(refused(), 0.0)
    assert state.failed(refused(), 0.0).delay == expected


# ------------------------------------------------------------------------------------------------- the count


@pytest.mark.promise("P10")
def test_the_count_begins_anew_only_after_min_uptime():
    story = Story()
    assert [story.fails(closed(1000, opened_for=9.99)).delay for _ in range(6)] == [1, 2, 4, 8, 16, 30]
    assert (story.state.failures, story.state.attempt) == (6, 6)
    assert story.state.next_failure_number(9.99) == story.state.next_failure_number(None) == 7
    assert story.state.next_failure_number(10.0) == 1
    assert story.fails(closed(1000, opened_for=10.0)).delay == 1
    assert (story.state.failures, story.state.attempt) == (1, 0)


def test_dials_are_counted_since_the_last_stable_connection():
    state = RetryState(DEFAULT, Highest())
    assert [state.dialing(0.0), state.dialing(1.0)] == [1, 2]
    state.failed(closed(opened_for=10.0), 11.0)
    assert (state.attempt, state.dialing(12.0)) == (0, 1)


def test_a_connection_that_ended_during_set_up_was_not_open():
    story = Story(ReconnectPolicy(min_uptime=0))
    story.fails(refused())
    assert story.fails(closed(1000, opened_for=None)).delay == 2
    assert story.fails(closed(1000, opened_for=0.0)).delay == 1


def test_a_duration_that_is_no_number_is_not_stable():
    story = Story()
    story.fails(refused())
    assert story.state.failed(closed(opened_for=math.nan), story.now).delay == 2


# ------------------------------------------------------------------------------------------------- closes


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1011, 1012, 1014, 3000, 3999, 4000, 4999])
@pytest.mark.parametrize("opened_for", [None, 0.0, 60.0])
def test_a_close_nobody_asked_for_is_a_drop(code, opened_for):
    story = Story()
    for _ in range(20):
        decision = story.fails(closed(code, opened_for))
        assert (decision.stop, decision.errors) == (False, ())
        assert decision.rule.startswith(f"closed by peer with {code} ")


@pytest.mark.parametrize("origin", [CloseOrigin.NETWORK, CloseOrigin.HEARTBEAT, CloseOrigin.SETUP])
def test_a_connection_that_died_is_replaced(origin):
    story = Story()
    delays = [story.fails(closed(1006, 1.0, origin)).delay for _ in range(3)]
    assert delays == [1, 2, 4]
    rule = story.fails(closed(1006, 1.0, origin)).rule
    assert rule == f"closed by {origin.value} with 1006 Abnormal Closure: retry 4 within 0.5 to 8 s"


def test_try_again_later_starts_in_the_longest_range_and_stays_there():
    story = Story()
    assert story.fails(closed(1013)).delay == 30
    assert story.fails(refused()).delay == 30
    assert story.fails(closed(1001, opened_for=10.0)).delay == 1


def test_try_again_later_counts_after_a_stable_connection_too():
    story = Story()
    assert story.fails(closed(1013, opened_for=60.0)).delay == 30
    assert story.fails(refused()).delay == 30


BREAKING = [1002, 1007, 1009, 1004, 1015, 1016, 2999, 999, 5000]


@pytest.mark.parametrize("code", BREAKING)
def test_the_third_broken_connection_in_a_row_ends_it(code):
    story = Story()
    assert [story.fails(closed(code)).stop for _ in range(2)] == [False, False]
    decision = story.fails(closed(code))
    assert (decision.stop, decision.exhausted, decision.delay) == (True, False, 0)
    assert decision.rule.startswith(f"closed by peer with {code} ")
    assert decision.rule.endswith(", number 3 of 3 in a row without min_uptime=10 s in between: stop")


@pytest.mark.parametrize("sent_code", [1002, 1007, 1009])
@pytest.mark.parametrize("code", [1000, 1006, 1009])
def test_what_we_sent_decides_where_we_ended_it(code, sent_code):
    story = Story()
    ours = closed(code, origin=CloseOrigin.PROTOCOL, sent_code=sent_code)
    assert [story.fails(ours).stop for _ in range(3)] == [False, False, True]
    assert Story().fails(ours).rule.startswith(f"closed by us with {sent_code} ")


def test_what_we_answered_does_not_decide_where_the_peer_ended_it():
    story = Story()
    assert not any(story.fails(closed(1001, sent_code=1002)).stop for _ in range(5))


def test_a_broken_protocol_without_a_code_is_a_drop():
    story = Story()
    assert not any(story.fails(closed(1006, origin=CloseOrigin.PROTOCOL)).stop for _ in range(5))


def test_breaking_in_different_ways_is_one_row():
    story = Story()
    assert [story.fails(closed(code)).stop for code in (1002, 1007, 1009)] == [False, False, True]


def test_a_failed_dial_does_not_interrupt_the_row():
    story = Story()
    row = [closed(1002), refused(), closed(1002), answered(503), closed(1002)]
    assert [story.fails(failure).stop for failure in row] == [False, False, False, False, True]


@pytest.mark.parametrize(
    "other", [closed(1000), closed(1013), closed(1006, 0.0, CloseOrigin.LOCAL)], ids=["1000", "1013", "local"]
)
def test_another_end_interrupts_the_row(other):
    story = Story()
    row = [closed(1002), closed(1002), other, closed(1002), closed(1002), closed(1002)]
    assert [story.fails(failure).stop for failure in row] == [False] * 5 + [True]


def test_a_stable_connection_begins_a_new_row():
    story = Story()
    row = [closed(1002), closed(1002), closed(1002, opened_for=10.0), closed(1002), closed(1002)]
    assert [story.fails(failure).stop for failure in row] == [False] * 4 + [True]


@pytest.mark.parametrize("code", [1003, 1008, 1010])
def test_a_rejection_ends_it_and_a_late_rule_does_not(code):
    for opened_for in (None, 0.0, 9.99):
        decision = Story().fails(closed(code, opened_for))
        assert (decision.stop, decision.exhausted) == (True, False)
        assert decision.rule.endswith(" within min_uptime=10 s of opening: stop")
    decision = Story().fails(closed(code, opened_for=10.0))
    assert (decision.stop, decision.delay) == (False, 1)
    assert decision.rule.endswith(" after min_uptime=10 s of opening: retry 1 within 0 to 1 s")


def test_without_a_min_uptime_only_set_up_can_be_rejected():
    policy = ReconnectPolicy(min_uptime=0)
    assert not Story(policy).fails(closed(1008, opened_for=0.0)).stop
    assert Story(policy).fails(closed(1008, opened_for=None)).stop


# ------------------------------------------------------------------------------------------------- reconnect_now


@pytest.mark.parametrize("code", [1000, 1006, 1008, 1009])
def test_a_replaced_connection_is_followed_by_another(code):
    story = Story(ReconnectPolicy(max_attempts=1, max_elapsed=0.001, stop=stop_after_attempt(1)))
    for _ in range(5):
        decision = story.fails(closed(code, 3.0, CloseOrigin.LOCAL, sent_code=1000))
        assert (decision.stop, decision.delay) == (False, 0)
        assert decision.rule.startswith("reconnect_now() replaced the connection: retry ")


@pytest.mark.promise("P10")
def test_replacing_at_once_keeps_min_delay_between_dials():
    story = Story(ReconnectPolicy(min_delay=0.5))
    assert story.state.redial_in(story.now) == 0
    assert story.fails(closed(1000, 0.25, CloseOrigin.LOCAL)).delay == 0.25
    story.state.dialing(story.now)
    assert story.state.redial_in(story.now) == 0.5
    assert story.state.redial_in(story.now + 0.5) == story.state.redial_in(story.now + 9) == 0


def test_decide_may_still_say_otherwise_about_a_replaced_connection():
    replaced = closed(1000, 3.0, CloseOrigin.LOCAL)
    assert Story().fails(replaced, Stop("enough")).stop
    assert Story().fails(replaced, Retry(7)).delay == 7
    assert Story().fails(replaced, Retry()).delay == 1


# ------------------------------------------------------------------------------------------------- failed attempts


@pytest.mark.parametrize(
    "error",
    [
        ConnectError("refused"),
        OpenTimeout(),
        SetupFailed(),
        SetupTimeout(),
        ConnectionResetError(),
        TimeoutError(),
        OSError("no such host"),
        RuntimeError("the provider failed"),
        None,
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_attempt_that_may_end_differently_is_repeated(error):
    story = Story()
    decisions = [story.fails(Failure(error=error)) for _ in range(50)]
    assert not any(decision.stop for decision in decisions)
    assert [decision.delay for decision in decisions[:7]] == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599, 600, 999, 0, 99])
@pytest.mark.parametrize("before", [False, True])
def test_a_server_that_is_not_well_is_asked_again(status, before):
    story = Story().was_open() if before else Story()
    assert not any(story.fails(answered(status)).stop for _ in range(30))


REFUSALS = [400, 401, 403, 404, 410, 426, 451, 499, 100, 102, 200, 204, 301, 304, 399]


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_ends_a_client_that_was_never_open(status):
    story = Story()
    story.fails(refused())
    decision = story.fails(answered(status))
    assert (decision.stop, decision.exhausted) == (True, False)
    assert decision.rule == f"HTTP {status} before the client was ever open: stop"


AT_THE_TENTH = ReconnectPolicy(refused_for=0)


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_later_is_waited_out_up_to_the_tenth(status):
    story = Story(AT_THE_TENTH).was_open()
    for _ in range(9):
        decision = story.fails(answered(status))
        assert (decision.stop, decision.delay) == (False, 30)
    decision = story.fails(answered(status))
    assert (decision.stop, decision.exhausted) == (True, False)
    assert decision.rule == f"HTTP {status}, number 10 of 10 in a row: stop"


SERVER_MADE = [
    answered(404),
    answered(200),
    answered(302),
    Failure(error=CertificateRejected("expired")),
    Failure(error=HandshakeRejected("wrong Sec-WebSocket-Accept", status=101, retryable=False), status=101),
    Failure(error=HandshakeRejected("an unsupported extension", retryable=False)),
    Failure(error=InvalidURL("port 0 in a Location"), endpoint=Endpoint("ws://host/")),
]


@pytest.mark.promise("P10")
@pytest.mark.parametrize("failure", SERVER_MADE, ids=lambda failure: str(failure.error))
@pytest.mark.parametrize("refused_for", [None, 0, 60, 3600, dt.timedelta(hours=2)], ids=str)
def test_what_the_server_does_wrong_does_not_end_a_client_that_has_been_open(failure, refused_for):
    story = Story(ReconnectPolicy(refused_for=refused_for)).was_open()
    lost = story.now - 1  # 1 s is what it waited since
    refusals = 0
    while not (decision := story.fails(failure)).stop and refusals < 1000:
        refusals += 1
        assert decision.delay == 30
    outage = story.now - lost
    if refused_for is None:
        assert refusals == 1000
    else:
        limit = refused_for.total_seconds() if isinstance(refused_for, dt.timedelta) else refused_for
        assert outage >= limit
        assert refusals + 1 >= 10
        assert refusals == 9 or outage < limit + 30, "the first one behind the limit ends it"
        assert decision.rule_id.endswith("-repeated")


@pytest.mark.parametrize("failure", SERVER_MADE, ids=lambda failure: str(failure.error))
def test_what_the_server_does_wrong_ends_a_client_that_was_never_open(failure):
    decision = Story().fails(failure)
    assert (decision.stop, decision.exhausted) == (True, False)
    assert decision.rule_id.endswith("-never-open")


def test_an_hour_of_refusals_counts_from_the_last_connection_however_short():
    story = Story(ReconnectPolicy(refused_for=100)).was_open()
    for _ in range(9):
        assert not story.fails(answered(404)).stop
    assert not story.fails(closed(1001, opened_for=1.0)).stop, "270 s later it opens for a second"
    for _ in range(9):
        assert not story.fails(answered(404)).stop
    assert story.fails(answered(404)).stop


def test_a_suspended_machine_does_not_end_a_client_at_its_first_refusals():
    story = Story().was_open()
    story.now += 8 * 3600
    assert not any(story.fails(answered(404)).stop for _ in range(9)), "they are not ten in a row"
    assert story.fails(answered(404)).stop


@pytest.mark.parametrize("other", [refused(), answered(502), answered(429)], ids=["refused", "502", "429"])
def test_another_failure_begins_a_new_row_of_refusals(other):
    story = Story(AT_THE_TENTH).was_open()
    for _ in range(3):
        assert not any(story.fails(answered(404)).stop for _ in range(9))
        assert not story.fails(other).stop


def test_a_connection_that_was_open_for_a_moment_counts_as_open():
    story = Story()
    story.fails(closed(1000, opened_for=0.0))
    assert not story.fails(answered(404)).stop


def test_an_open_connection_begins_a_new_row_of_refusals():
    story = Story(AT_THE_TENTH).was_open()
    for _ in range(3):
        assert not any(story.fails(answered(404)).stop for _ in range(9))
        assert not story.fails(closed(1001, opened_for=0.0)).stop


def test_a_certificate_is_a_refusal():
    bad = Failure(error=CertificateRejected("self-signed certificate"))
    decision = Story().fails(bad)
    assert decision.stop
    assert (
        decision.rule == "CertificateRejected (self-signed certificate) before the client was ever open: stop"
    )
    story = Story(AT_THE_TENTH).was_open()
    assert [story.fails(bad).delay for _ in range(9)] == [30] * 9
    assert story.fails(bad).stop


@pytest.mark.parametrize("status", [401, 403])
def test_a_provider_gets_one_chance_with_a_fresh_token(status):
    story = Story(provider=True)
    assert story.fails(answered(status)).delay == 1
    assert story.fails(answered(status)).stop
    assert Story(provider=False).fails(answered(status)).stop
    assert Story(provider=True).fails(answered(404)).stop


def test_the_chance_is_granted_again_after_the_next_open():
    story = Story(AT_THE_TENTH, provider=True)
    assert not story.fails(answered(401)).stop
    story.fails(closed(1000, opened_for=0.0))
    assert story.fails(answered(401)).delay == 4, "the ordinary range: it may well work now"
    delays = [story.fails(answered(401)).delay for _ in range(8)]
    assert delays == [30] * 8
    assert story.fails(answered(401)).stop, "the tenth in a row"


@pytest.mark.parametrize(
    "failure",
    [
        Failure(error=InvalidURL("url must have a host")),
        Failure(error=ConnectError("unsupported option", retryable=False)),
    ],
    ids=["url", "option"],
)
def test_what_cannot_end_differently_ends_it(failure):
    for story in (Story(), Story().was_open()):
        decision = story.fails(failure)
        assert (decision.stop, decision.exhausted) == (True, False)
        assert decision.rule == f"{type(failure.error).__name__} ({failure.error}): stop"


def test_an_accepted_handshake_that_failed_otherwise_is_repeated():
    assert not Story().fails(Failure(error=ConnectError("lost"), status=101)).stop


@pytest.mark.promise("P12")
def test_the_text_of_a_foreign_exception_is_not_shown():
    rule = Story().fails(Failure(error=RuntimeError("token=secret"))).rule
    assert rule == "RuntimeError: retry 1 within 0 to 1 s"


def test_a_stop_that_was_raised_ends_it_whatever_decide_says():
    decision = Story().fails(Failure(error=Stop("banned")), Retry(1))
    assert (decision.stop, decision.exhausted) == (True, False)
    assert decision.rule == "Stop was raised: banned"


# ------------------------------------------------------------------------------------------------- Retry-After


@pytest.mark.promise("P10")
@pytest.mark.parametrize("status", [429, 503, 500, 502, 408, 425, 599, 600])
def test_retry_after_is_waited_before_the_drawn_delay(status):
    story = Story()
    decision = story.fails(answered(status, retry_after=20))
    assert decision.delay == 20 + 1
    assert decision.rule == f"HTTP {status}: retry 1 after 20 s for Retry-After and then within 0 to 1 s"
    assert story.fails(answered(status, retry_after=20)).delay == 20 + 2


@pytest.mark.parametrize("retry_after", [3600.1, 10**9, math.inf])
def test_retry_after_is_capped_at_an_hour(retry_after):
    assert Story().fails(answered(503, retry_after)).delay == 3600 + 1


@pytest.mark.parametrize("retry_after", [None, 0, -1, math.nan, -math.inf])
def test_a_retry_after_that_makes_no_sense_is_not_waited(retry_after):
    assert Story().fails(answered(503, retry_after)).delay == 1


@pytest.mark.promise("P10")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("status", REFUSALS)
def test_an_answer_that_says_when_to_come_back_is_not_final(status, before):
    story = Story().was_open() if before else Story()
    for number in range(1, 30):
        decision = story.fails(answered(status, retry_after=20))
        assert (decision.stop, decision.rule_id) == (False, "http-retry-after")
        assert decision.delay == 20 + delay_range(DEFAULT, number + before)[1]
    assert not story.fails(answered(status, retry_after=0)).stop, "it says now"


@pytest.mark.parametrize("nonsense", [None, -1, math.nan, -math.inf])
def test_a_refusal_whose_retry_after_makes_no_sense_is_final(nonsense):
    assert Story().fails(answered(404, retry_after=nonsense)).stop


def test_a_refusal_that_says_when_to_come_back_begins_a_new_row():
    story = Story(AT_THE_TENTH).was_open()
    row = [answered(404)] * 9 + [answered(404, retry_after=1)] + [answered(404)] * 10
    assert [story.fails(failure).stop for failure in row] == [False] * 19 + [True]


def test_retry_after_is_added_to_a_strategy():
    story = Story(ReconnectPolicy(wait=wait_fixed(3)))
    assert story.fails(answered(429, retry_after=20)).delay == 23


# ------------------------------------------------------------------------------------------------- verdicts


def test_decide_may_stop_at_once():
    decision = Story().fails(refused(), Stop("the market is closed"))
    assert (decision.stop, decision.exhausted, decision.delay) == (True, False, 0)
    assert decision.rule == "decide said stop: the market is closed"


@pytest.mark.parametrize("after", [0, 0.25, 7, 100_000])
def test_decide_may_set_the_delay(after):
    story = Story(ReconnectPolicy(wait=wait_fixed(3)))
    decision = story.fails(answered(429, retry_after=20), Retry(after))
    assert decision.delay == after
    assert type(decision.delay) is float
    assert decision.rule == f"HTTP 429: retry 1 after {after:g} s, as decide said"


@pytest.mark.parametrize(
    "failure",
    [answered(404), closed(1008), Failure(error=InvalidURL("bad")), Failure(error=CertificateRejected())],
    ids=["404", "1008", "url", "certificate"],
)
def test_decide_may_overrule_a_stop(failure):
    assert Story().fails(failure).stop
    story = Story()
    assert [story.fails(failure, Retry()).delay for _ in range(12)][:6] == [1, 2, 4, 8, 16, 30]
    assert story.fails(failure, Retry(0.5)).delay == 0.5


def test_overruling_without_a_delay_means_the_formula():
    story = Story().was_open()
    assert story.fails(answered(404), Retry()).delay == 2, "not the range of max_delay"
    decision = story.fails(answered(429, retry_after=20), Retry())
    assert decision.delay == 20 + 4
    assert decision.rule.endswith("after 20 s for Retry-After and then within 0.5 to 4 s, as decide said")
    assert Story().fails(closed(1013), Retry()).delay == 1


def test_a_row_goes_on_while_decide_overrules():
    story = Story()
    for _ in range(3):
        assert not story.fails(closed(1002), Retry()).stop
    assert story.fails(closed(1002)).stop


@pytest.mark.parametrize("verdict", [True, 5, "stop", Stop, Retry], ids=repr)
def test_a_verdict_that_is_none_is_reported_and_the_default_used(verdict):
    decision = Story().fails(refused(), verdict)
    assert (decision.stop, decision.delay) == (False, 1)
    ((where, error),) = decision.errors
    assert where == "decide"
    assert str(error) == f"decide must return Retry, Stop or None, got {type(verdict).__name__}"
    decision = Story().fails(answered(404), verdict)
    assert decision.stop
    assert decision.errors


def test_without_reconnect_the_first_end_is_the_end():
    for failure in (closed(1001, opened_for=60.0), refused(), closed(1006, 1.0, CloseOrigin.LOCAL)):
        decision = Story(None, endpoints=3).fails(failure)
        assert (decision.stop, decision.exhausted, decision.delay) == (True, False, 0)
        assert decision.rule.startswith("reconnect=False: ")
    assert "HTTP 503" in Story(None).fails(answered(503)).rule
    assert Story(None).fails(Failure(error=Stop("banned"))).rule == "Stop was raised: banned"


# ------------------------------------------------------------------------------------------------- limits


@pytest.mark.promise("P10")
@pytest.mark.parametrize("limit", [1, 2, 3, 10])
@pytest.mark.parametrize("failure", [refused(), closed(1000, 1.0)], ids=["refused", "accept and close"])
def test_max_attempts_is_a_number_of_dials(limit, failure):
    story = Story(ReconnectPolicy(max_attempts=limit))
    for _ in range(2):
        dials = 1
        while not (decision := story.fails(failure)).stop:
            dials += 1
        assert (dials, decision.exhausted, decision.delay) == (limit, True, 0)
        assert decision.rule.startswith(f"max_attempts={limit} reached; ")
        assert not story.fails(closed(1001, opened_for=10.0)).stop, "a stable connection: as many dials again"


def test_max_attempts_holds_when_decide_says_retry():
    story = Story(ReconnectPolicy(max_attempts=2))
    assert not story.fails(refused(), Retry(0)).stop
    assert story.fails(refused(), Retry(0)).exhausted


def test_a_rule_that_stops_is_named_before_a_limit():
    decision = Story(ReconnectPolicy(max_attempts=1)).fails(answered(404))
    assert (decision.stop, decision.exhausted) == (True, False)


def test_no_attempt_begins_after_max_elapsed():
    story = Story(ReconnectPolicy(max_elapsed=14.9))
    decisions = []
    while not (decision := story.fails(refused())).stop:
        decisions.append(decision.delay)
    assert decisions == [1, 2, 4]
    assert story.state.elapsed(story.now) == 7
    assert decision.exhausted
    assert decision.rule.startswith(
        "max_elapsed=14.9 s would be passed: the next attempt would begin at 15 s; "
    )


def test_an_attempt_may_begin_at_max_elapsed():
    story = Story(ReconnectPolicy(max_elapsed=7))
    assert [story.fails(refused()).stop for _ in range(4)] == [False, False, False, True]


def test_max_elapsed_counts_what_the_server_asks_for():
    assert Story(ReconnectPolicy(max_elapsed=60)).fails(answered(503, retry_after=60)).exhausted
    assert Story(ReconnectPolicy(max_elapsed=60)).fails(refused(), Retry(61)).exhausted


def test_max_elapsed_counts_from_the_loss():
    story = Story(ReconnectPolicy(max_elapsed=5))
    assert not story.fails(closed(1006, opened_for=1000.0)).stop
    assert story.state.elapsed(story.now) == 1, "the delay that was slept"
    assert not story.fails(refused()).stop
    assert story.fails(refused()).exhausted


def test_the_loss_may_be_earlier_than_the_decision():
    story = Story(ReconnectPolicy(max_elapsed=5))
    story.fails(closed(1006, opened_for=1000.0), lost_at=story.now + 998)
    assert story.state.elapsed(story.now) == 3, "2 s for decide and 1 s of sleep"


def test_the_time_in_which_a_connection_was_open_does_not_count():
    story = Story(ReconnectPolicy(max_elapsed=5, min_uptime=10_000))
    assert not story.fails(closed(1006, opened_for=1000.0)).stop
    assert story.state.elapsed(story.now) == 1


def test_a_connection_was_not_open_for_longer_than_it_is_since_the_start():
    state = RetryState(DEFAULT, Highest())
    state.started(100.0)
    state.failed(closed(1006, opened_for=9.0), 103.0)
    assert state.elapsed(105.0) == 2


@pytest.mark.promise("P10")
def test_accept_then_close_does_not_set_max_elapsed_back():
    story = Story(ReconnectPolicy(max_elapsed=60))
    decisions = [story.fails(closed(1000, opened_for=0.0)) for _ in range(7)]
    assert [decision.stop for decision in decisions] == [False] * 5 + [True] * 2


def test_elapsed_before_the_start_is_nothing():
    state = RetryState(ReconnectPolicy(max_elapsed=5), Highest())
    assert state.elapsed(1000.0) == 0
    assert not state.failed(refused(), 1000.0).stop
    assert not state.failed(closed(1000, opened_for=1.0), 1000.0).stop
    state.dialing(1000.0)
    state.dialing(1003.0)
    assert state.elapsed(1004.0) == 4, "since the first dial"
    assert state.elapsed(999.0) == 0


# ------------------------------------------------------------------------------------------------- several addresses


def test_the_next_address_is_tried_in_turn():
    story = Story(endpoints=3)
    visited = []
    for _ in range(7):
        visited.append(story.state.endpoint)
        story.fails(refused())
    assert visited == [0, 1, 2, 0, 1, 2, 0]


def test_after_a_stable_connection_the_same_address_comes_first():
    story = Story(endpoints=3)
    story.fails(refused())
    story.fails(closed(1001, opened_for=10.0))
    assert story.state.endpoint == 1
    story.fails(closed(1001, opened_for=9.0))
    assert story.state.endpoint == 2


def test_it_ends_only_when_all_of_a_round_said_stop():
    story = Story(endpoints=3)
    decision = story.fails(answered(404))
    assert (decision.stop, decision.delay) == (False, 1)
    assert (
        "HTTP 404 before the client was ever open: stop for address 1 of 3, the next one is tried: "
        in decision.rule
    )
    assert not story.fails(Failure(error=InvalidURL("bad"))).stop
    decision = story.fails(closed(1008, opened_for=None))
    assert (decision.stop, decision.exhausted) == (True, False)
    assert decision.rule.endswith(": stop, and all 3 addresses say so")


@pytest.mark.parametrize("other", [refused(), answered(503), closed(1001)], ids=["refused", "503", "1001"])
def test_another_failure_of_an_address_takes_its_word_back(other):
    story = Story(ReconnectPolicy(), endpoints=2)
    bad = Failure(error=InvalidURL("bad"))
    rounds = [bad, other, other, bad, bad]
    assert [story.fails(failure).stop for failure in rounds] == [False] * 4 + [True]


def test_an_open_takes_back_the_word_of_that_address_only():
    story = Story(endpoints=2)
    bad = Failure(error=InvalidURL("bad"))
    assert not story.fails(bad).stop
    assert not story.fails(closed(1000, opened_for=1.0)).stop
    assert story.state.endpoint == 0
    assert not story.fails(bad).stop
    assert story.fails(bad).stop


def test_after_a_stable_connection_a_new_round_begins():
    story = Story(endpoints=2)
    bad = Failure(error=InvalidURL("bad"))
    assert not story.fails(bad).stop
    assert not story.fails(closed(1000, opened_for=60.0)).stop
    assert story.state.endpoint == 1
    assert not story.fails(bad).stop, "address 1 has said so before that connection, and was not asked since"
    assert story.fails(bad).stop


def test_retry_after_is_about_the_address_that_asked():
    story = Story(endpoints=2)
    assert story.fails(answered(503, retry_after=60)).delay == 1, "the other address has not asked"
    assert story.fails(refused()).delay == 59 + 2, "what is left of the minute, then the drawn delay"
    assert story.fails(refused()).delay == 4
    assert story.fails(refused()).delay == 8, "it has been waited once"


def test_retry_after_is_about_all_addresses_of_one_origin():
    story = Story(endpoints=3, origins=["a", "a", "b"])
    assert story.fails(answered(503, retry_after=60)).delay == 60 + 1
    assert story.fails(answered(429, retry_after=60)).delay == 2
    assert story.fails(refused()).delay == 58 + 4


def test_an_address_that_opened_is_asked_again_though_it_was_refused_before():
    story = Story(endpoints=2)
    bad = Failure(error=InvalidURL("bad"))
    assert not story.fails(bad).stop
    story.fails(refused())
    story.state.dialing(story.now)
    story.state.opened()
    assert not story.state.failed(closed(1001, opened_for=60.0), story.now).stop
    story.fails(refused())
    assert not story.fails(bad).stop, "address 1 has been open since it said stop"


def test_decide_takes_back_the_word_of_an_address():
    story = Story(endpoints=2)
    assert not story.fails(answered(404)).stop
    assert not story.fails(answered(404), Retry()).stop
    assert not story.fails(answered(404), Retry()).stop
    assert not story.fails(answered(404)).stop
    assert story.fails(answered(404)).stop


def test_a_stop_of_the_program_holds_for_all_addresses():
    assert Story(endpoints=3).fails(refused(), Stop()).stop
    assert Story(endpoints=3).fails(Failure(error=Stop())).stop


def test_limits_hold_for_all_addresses_together():
    story = Story(ReconnectPolicy(max_attempts=2), endpoints=3)
    assert not story.fails(answered(404)).stop
    assert story.fails(answered(404)).exhausted


@pytest.mark.parametrize("endpoints,error", [(0, ValueError), (-1, ValueError), (True, TypeError)])
def test_there_is_at_least_one_address(endpoints, error):
    with pytest.raises(error, match="endpoints must be "):
        RetryState(DEFAULT, Highest(), endpoints=endpoints)
