"""The heartbeat where the peer answers: round trips, listening only, data that is expected, hints and cost."""

import math
from types import SimpleNamespace

import attrs
import pytest

from resilient_ws.api.options import Heartbeat
from resilient_ws.core import evidence
from resilient_ws.core.evidence import with_ping
from resilient_ws.core.heartbeat import (
    GRAIN,
    LATE,
    Reading,
)
from tests.unit.heartbeat_driver import INTERVAL, SURE, TIMEOUT, Driver

# --- answers ---


def talking(driver, end, every=1.0):
    """Messages arrive until `end`, or until death."""
    now = math.floor(driver.deadline) - 1.0
    while now < end:
        dead = driver.until(now + every)
        if dead.dead:
            return dead
        now += every
        driver.show(
            received=driver.shown["received"] + 1,
            received_at=now,
            messages=driver.shown["messages"] + 1,
            message_at=now,
        )
    return SimpleNamespace(dead=None, due=now)


@pytest.mark.parametrize("make, word", [(Heartbeat, "PONG"), (lambda: Heartbeat.app("ping", bool), "reply")])
def test_no_answer_though_messages_arrive_is_death(make, word):
    driver = Driver(make())
    driver.look()
    driver.pong(15.1)
    end = talking(driver, 200.0)
    assert end.due == pytest.approx(30.0 + 60.0)
    assert end.dead == f"no {word} for 60.0 s though messages arrive"


def test_a_peer_that_never_answered_may_go_on_like_that():
    driver = Driver()
    driver.look()
    assert talking(driver, 500.0).dead is None


def test_without_pong_timeout_nobody_owes_an_answer():
    driver = Driver(Heartbeat(pong_timeout=None))
    driver.look()
    driver.pong(15.1)
    assert talking(driver, 500.0).dead is None


def test_an_answer_to_an_older_ping_leaves_the_younger_one_owed():
    driver = Driver()
    driver.look()
    driver.pong(15.1)
    talking(driver, 80.0)
    driver.pong(80.5, 2)  # of 30.0
    end = talking(driver, 300.0)
    assert end.due == pytest.approx(45.0 + 60.0)


def test_time_without_messages_does_not_count_for_an_answer():
    driver = Driver(Heartbeat(1.0, 10.0, 4.0))
    driver.look()
    driver.pong(1.1)
    now = 1.1
    while now < 60.0:  # a huge frame: bytes, and no message
        now += 0.5
        driver.show(received=driver.shown["received"] + 1, received_at=now)
        assert driver.until(now).dead is None
    assert talking(driver, 100.0).dead


@pytest.mark.parametrize("interval, limit", [(15.0, 10.0), (15.0, 60.0), (1.0, 4.0)])
def test_a_huge_message_right_after_a_small_one_may_take_its_time(interval, limit):
    driver = Driver(Heartbeat(interval, TIMEOUT, limit))
    driver.look()
    driver.pong(interval + 0.1)
    driver.until(2 * interval)
    now = 2 * interval + 0.1
    driver.show(messages=1, message_at=now)
    while now < 300.0:
        now += 0.5
        driver.show(received=driver.shown["received"] + 1, received_at=now)
        assert driver.until(now).dead is None


def test_an_answer_nearly_owed_too_long_costs_no_looks_while_paused():
    driver = Driver(Heartbeat(pong_timeout=20.0))
    driver.look()
    driver.pong(15.1)
    talking(driver, 49.9)
    driver.show(paused=True)
    looks = 0
    while driver.deadline < 80.0:
        driver.look()
        looks += 1
    assert looks < 10


def test_an_answer_nearly_owed_too_long_costs_no_looks_while_messages_do_not_come():
    driver = Driver(Heartbeat(pong_timeout=20.0))
    driver.look()
    driver.pong(15.1)
    driver.until(30.0)
    driver.show(messages=1, message_at=30.0)
    driver.until(39.98)
    driver.show(messages=2, message_at=39.98)
    looks, now = 0, 39.98
    while now < 80.0:
        now = driver.deadline
        driver.show(received=driver.shown["received"] + 1)
        assert driver.look().dead is None
        looks += 1
    assert looks < 20


def test_a_peer_that_answers_late_or_never_costs_few_looks_where_there_is_no_limit():
    driver = Driver(Heartbeat(pong_timeout=None))
    driver.look()
    driver.pong(15.1)
    looks = 0
    while driver.deadline < 75.1:
        driver.show(received=driver.shown["received"] + 1)
        driver.look()
        looks += 1
    assert looks == 4 + 3  # one for each ping, and one when its timeout is nearly over


def test_time_under_our_own_back_pressure_does_not_count_for_an_answer():
    driver = Driver(Heartbeat(pong_timeout=20.0))
    driver.look()
    driver.pong(15.1)
    talking(driver, 45.0)
    driver.show(paused=True)
    assert talking(driver, 200.0).dead is None
    driver.show(paused=False)
    driver.look()
    end = talking(driver, 300.0)
    assert 200.0 + 4.0 <= end.due <= 200.0 + 20.0


def test_a_stretch_in_which_our_loop_stood_still_does_not_count_for_an_answer():
    driver = Driver(Heartbeat(5.0, 10.0, 30.0))
    driver.look()
    driver.pong(5.1)
    talking(driver, 30.0)  # the ping of 10.0 is unanswered
    driver.show(received=99, messages=99, message_at=40.0)
    driver.look(40.0)
    assert talking(driver, 300.0).due == pytest.approx(40.0 + 10.0, abs=2.0)


def test_a_stall_longer_than_half_the_limit_begins_an_owed_answer_anew():
    driver = Driver(Heartbeat(30.0, 10.0, 2.0))
    driver.look()
    driver.pong(30.1)
    talking(driver, 61.8)
    driver.show(received=999, messages=999, message_at=64.0)
    assert driver.look(driver.deadline + 0.1).dead is None
    driver.show(received=1_000, messages=1_000, message_at=66.0)
    assert driver.look(66.0).dead is None
    assert talking(driver, 90.0, 0.1).due >= 67.9


def test_a_ping_behind_a_slow_upload_owes_no_answer_yet():
    driver = Driver(Heartbeat(pong_timeout=20.0))
    driver.look()
    driver.pong(15.1)
    driver.show(pending=100_000)
    for second in range(16, 100):
        assert talking(driver, second).dead is None
        driver.show(left=driver.shown["left"] + 1_000, pending=100_000 - 1_000 * (second - 15))
    driver.show(left=100_000 + 999, pending=0)
    end = talking(driver, 300.0)
    assert 99.0 + 20.0 <= end.due <= 99.0 + 20.0 + 5.0


def test_a_ping_behind_data_that_do_not_move_owes_one():
    """A path that eats what we send: the kernel waits for an acknowledgement that never comes."""
    driver = Driver(Heartbeat(pong_timeout=20.0))
    driver.look()
    driver.pong(15.1)
    driver.show(pending=100_000)
    assert talking(driver, 300.0).due == pytest.approx(30.0 + 20.0)


# --- listening only ---


def test_expecting_sends_nothing_and_ends_after_within():
    driver = Driver(Heartbeat.expect(60))
    assert driver.deadline == 60.0 + GRAIN
    end = driver.until()
    assert end.due == 60.0 + GRAIN
    assert end.dead == "nothing arrived for 60.0 s"
    assert end.hint is None
    assert driver.pings == []


def test_expecting_goes_by_the_time_of_the_last_arrival():
    driver = Driver(Heartbeat.expect(60))
    driver.show(received=5, received_at=59.0)
    end = driver.until()
    assert end.due == pytest.approx(119.0 + GRAIN)
    assert end.dead == "nothing arrived for 60.0 s"


def test_expecting_waits_while_paused_and_anew_afterwards():
    driver = Driver(Heartbeat.expect(60))
    driver.show(paused=True)
    assert driver.until(400.0).dead is None
    driver.show(paused=False, resumed_at=401.0)
    assert driver.until().due == pytest.approx(461.0 + GRAIN)


def test_expecting_looks_once_more_after_a_late_look():
    driver = Driver(Heartbeat.expect(60))
    late = driver.deadline + 2 * LATE
    assert driver.look(late).dead is None
    assert driver.until().due <= late + 0.05


def test_expecting_begins_anew_after_a_stall_or_a_sleep():
    driver = Driver(Heartbeat.expect(60))
    assert driver.look(100.0).dead is None
    assert driver.deadline == 160.0 + GRAIN
    assert not driver.look(120.0, suspended=30.0).ping
    assert driver.until().due == pytest.approx(180.0 + GRAIN)


def test_confirming_pings_measure_and_change_nothing_else_while_expecting():
    driver = Driver(Heartbeat.expect(60))
    driver.ping(1.0)
    assert driver.monitor.pong(1, 1.5) == 0.5
    driver.ping(30.0)
    assert driver.until().due == 60.0 + GRAIN


# --- no data ---


@pytest.mark.parametrize(
    "options", [Heartbeat(idle_timeout=40.0), Heartbeat.app("ping", bool, idle_timeout=40.0)]
)
def test_no_data_message_for_idle_timeout_is_an_end_though_pings_work(options):
    driver = Driver(options)
    driver.show(message_at=5.0, messages=1)
    verdict = None
    while verdict is None or verdict.dead is None:
        now = driver.deadline
        verdict = driver.look()
        if verdict.ping:
            driver.pong(now + 0.001)
    assert (round(now - SURE, 6), verdict.dead, verdict.hint) == (45.0, "no data message for 40.0 s", None)


def test_idle_time_does_not_run_while_paused():
    driver = Driver(Heartbeat.expect(1_000, idle_timeout=40.0))
    driver.show(paused=True)
    assert driver.until(300.0).dead is None
    driver.show(paused=False, resumed_at=301.0)
    assert driver.until().due == pytest.approx(341.0)


def test_idle_time_begins_anew_after_a_sleep():
    driver = Driver(Heartbeat.expect(1_000, idle_timeout=40.0))
    driver.look(39.0, suspended=100.0)
    assert driver.until().due == pytest.approx(79.0)


# --- hints ---


def test_a_peer_that_never_answered_gets_a_hint():
    end = Driver().until()
    assert "Heartbeat.expect" in end.hint
    assert "Heartbeat.app" in end.hint


def test_an_application_ping_that_was_never_answered_points_to_is_reply():
    assert "is_reply" in Driver(Heartbeat.app("ping", bool)).until().hint


def test_a_peer_that_has_answered_gets_none():
    driver = Driver()
    driver.look()
    driver.pong(15.1)
    assert driver.until().hint is None
    assert not driver.monitor.unanswered_first


# --- cost ---


def test_an_hour_of_a_healthy_connection_takes_one_look_for_each_ping():
    driver = Driver(acknowledged=True)
    looks = 0
    while driver.deadline <= 3_600.0:
        now = driver.deadline
        looks += 1
        driver.show(pending=36)
        driver.look()
        driver.show(left=driver.shown["left"] + 36, pending=0)
        driver.pong(now + 0.2)
    assert looks == 3_600 / INTERVAL


def test_the_numbers_that_the_rules_rest_on():
    assert GRAIN + SURE < 0.05
    assert evidence.SMALL > 125 + 6 + 5 + 8 + 16  # payload, header and mask; TLS record header, nonce, tag
    assert evidence.FIRST_STEP <= 0.1


# --- a look that is spared


def test_after_a_ping_a_look_would_show_what_is_reckoned():
    before = Reading(90, 4.0, 3.0, 7, 100, 0, acknowledged=True, paused=False, in_flight=0, resumed_at=2.0)
    looked = Reading(90, 4.0, 3.0, 7, 100, 14, acknowledged=True, paused=False, in_flight=14, resumed_at=2.0)
    assert with_ping(before, 14) == looked
    untold = attrs.evolve(before, in_flight=None)
    assert with_ping(untold, 14) == attrs.evolve(untold, pending=14)


@pytest.mark.parametrize("change", [{"pending": 1}, {"paused": True}, {"acknowledged": False}])
def test_where_something_stands_in_the_way_a_look_is_taken(change):
    before = Reading(90, 4.0, 3.0, 7, 100, 0, acknowledged=True, paused=False)
    assert with_ping(attrs.evolve(before, **change), 14) is None
