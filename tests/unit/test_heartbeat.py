"""The heartbeat, rule by rule; `tests/property/test_heartbeat_model.py` looks for the cases nobody thought of."""

import sys

import pytest

from resilient_ws.api.options import Heartbeat
from resilient_ws.core.heartbeat import (
    DOUBTS,
    FAR,
    SHARED,
    SOON,
    TICK,
    HeartbeatMonitor,
    Reading,
    Verdict,
)
from tests.unit.heartbeat_driver import INTERVAL, START, TIMEOUT, Driver

# --- pings ---


@pytest.mark.parametrize("make", [Heartbeat, lambda: Heartbeat.app("ping", bool)])
def test_the_first_ping_is_due_an_interval_after_the_opening_and_the_next_an_interval_after_it(make):
    driver = Driver(make())
    assert driver.deadline == INTERVAL
    assert driver.look() == Verdict(ping=True)
    driver.pong(15.1)
    assert driver.deadline == 30.0
    assert driver.look().ping


def test_pings_go_out_whatever_arrives():
    driver = Driver()
    for second in range(1, 61):
        driver.show(received=second, messages=second, received_at=float(second), message_at=float(second))
        while driver.deadline <= second:
            driver.look()
            driver.pong(driver.deadline)
    assert driver.pings == [15.0, 30.0, 45.0, 60.0]


def test_a_ping_of_somebody_else_takes_the_place_of_the_next_one():
    driver = Driver()
    driver.ping(10.0)
    driver.pong(10.1)
    assert driver.deadline == 25.0


@pytest.mark.parametrize("opened_at", [0.0, 0.001, 1234.567, 1e6 + 0.3])
def test_the_pings_of_connections_that_were_opened_at_different_moments_share_moments(opened_at):
    monitor = HeartbeatMonitor(Heartbeat(15, 10), opened_at, Reading(**START))
    assert opened_at + 15 - SHARED < monitor.deadline <= opened_at + 15
    for number in range(1, 4):
        due = monitor.deadline
        assert (due / SHARED).is_integer()
        assert monitor.look(due + 0.003, Reading(**START)).ping  # which is how late a loop may be
        monitor.ping_sent(number, due + 0.003, Reading(**START))
        monitor.pong(number, due + 0.1)
        assert monitor.deadline == due + 15


@pytest.mark.parametrize("interval, due", [(0.3, 0.31), (FAR, FAR + 0.01), (sys.float_info.max,) * 2])
def test_a_short_interval_is_exact_and_a_very_long_one_is_no_error(interval, due):
    monitor = HeartbeatMonitor(Heartbeat(interval, 10), 0.01, Reading(**START))
    assert monitor.deadline == pytest.approx(due)


def test_an_early_look_changes_nothing():
    driver = Driver()
    assert driver.look(3.0) == Verdict(ping=False)
    assert driver.deadline == INTERVAL


def test_a_timer_that_fires_a_hair_early_is_not_asked_again():
    driver = Driver()
    assert driver.look(INTERVAL - TICK / 2).ping


def test_a_ping_that_could_not_be_sent_is_asked_for_again_an_interval_later():
    driver = Driver()
    assert driver.look(send=False).ping
    assert driver.deadline == 2 * INTERVAL


def test_round_trips():
    driver = Driver()
    assert driver.monitor.pong(1, 1.0) is None  # none was ever sent
    driver.ping(10.0)
    driver.ping(11.0)
    driver.ping(12.0)
    assert driver.pong(12.5, 2) == 1.5  # answers the first, too
    assert driver.pong(12.6, 1) is None
    assert driver.pong(12.7, 2) is None
    assert driver.pong(12.8, 4) is None  # never sent
    assert driver.pong(13.0, 3) == 1.0
    assert driver.monitor.answered


def test_an_answer_nobody_asked_for_does_not_make_a_peer_one_that_answers():
    driver = Driver()
    driver.ping(1.0)
    driver.pong(1.5, 7)
    assert not driver.monitor.answered
    assert driver.monitor.unanswered_first


def test_unanswered_pings_are_remembered_up_to_a_bound_with_the_oldest_among_them():
    driver = Driver(Heartbeat(pong_timeout=None))
    for number in range(1_000):
        driver.ping(float(number))
    assert driver.pong(1_000.0, 500) is None  # it answers, but its time is not known any more
    assert driver.monitor.answered
    assert driver.pong(1_000.0, 999) == 2.0


# --- silence ---


def test_silence_for_timeout_after_a_ping_is_death():
    driver = Driver()
    end = driver.until()
    assert (end.due, end.dead) == (INTERVAL + TIMEOUT, "nothing arrived for 10.0 s after a ping")


@pytest.mark.parametrize("interval", [3.0, 10.0, 15.0])
@pytest.mark.parametrize("arrived", [0.1, 2.9, 12.9])
def test_death_comes_at_most_interval_and_timeout_after_the_last_byte(interval, arrived):
    driver = Driver(Heartbeat(interval, TIMEOUT))
    assert driver.until(arrived).dead is None
    driver.show(received=1)
    end = driver.until()
    assert arrived + TIMEOUT < end.due <= arrived + interval + TIMEOUT
    assert end.due in [ping + TIMEOUT for ping in driver.pings]


def test_any_arrival_ends_the_silence():
    driver = Driver()
    driver.look()
    driver.show(received=1)
    assert driver.look(24.9).dead is None
    assert driver.deadline == 30.0


@pytest.mark.parametrize("doubts", range(DOUBTS + 1))
def test_an_arrival_before_the_last_look_of_a_verdict_ends_the_silence(doubts):
    driver = Driver()
    driver.look()
    assert driver.deadline == 25.0
    for doubt in range(doubts):
        driver.look()
        assert driver.deadline == pytest.approx(25.0 + (doubt + 1) * SOON)
    driver.show(received=1)
    assert driver.look().dead is None
    assert driver.deadline == 30.0


def test_a_verdict_that_was_doubted_once_is_doubted_anew_the_next_time():
    driver = Driver()
    driver.look()
    driver.look()
    driver.monitor.pong(99, 25.001)
    driver.look(30.0)
    assert driver.deadline == 40.0
    for _ in range(DOUBTS):
        assert driver.look().dead is None
    assert driver.look().dead


def test_the_looks_of_a_verdict_are_never_nearer_than_the_loop_needs_to_ask_the_socket():
    driver = Driver()
    driver.look()
    assert driver.look(25.1).dead is None
    for _ in range(10):
        assert driver.look(25.101).dead is None
        assert driver.deadline == pytest.approx(25.1 + SOON)
    for late in (25.2, 25.3):
        assert driver.deadline < late
        dead = driver.look(late).dead
    assert dead


# --- late looks ---


def test_a_late_look_asks_again_instead_of_judging():
    driver = Driver()
    driver.look()
    late = driver.look(27.0)
    assert late == Verdict(ping=True)
    end = driver.until()
    assert end.due == 27.0 + TIMEOUT


def test_the_second_late_look_of_one_silence_judges():
    driver = Driver()
    driver.look()
    driver.look(27.0)
    assert driver.look(driver.deadline + 2.0) == Verdict(ping=False)
    assert driver.until().due < 40.0


def test_but_not_if_it_is_late_by_half_the_timeout():
    driver = Driver()
    driver.look()
    driver.look(27.0)
    assert driver.look(driver.deadline + 5.1).ping


def test_a_look_that_was_very_late_uses_the_excuse_up():
    driver = Driver()
    driver.look()
    driver.look(31.0)
    assert driver.look(driver.deadline + 2.0) == Verdict(ping=False)


def test_the_next_silence_is_excused_again():
    driver = Driver()
    driver.look()
    driver.look(27.0)
    driver.pong(28.0)
    driver.look(42.0)
    assert driver.look(54.0).ping


def test_a_look_that_is_late_before_silence_is_due_just_sends_the_ping():
    driver = Driver(Heartbeat(5.0, TIMEOUT))
    driver.look()
    assert driver.look(12.0).ping
    assert driver.until().due == 15.0


def test_lateness_counts_also_if_a_ping_came_before_the_look():
    driver = Driver()
    driver.look()
    driver.ping(29.0)  # the loop stood still until now, and this ran before the timer
    assert driver.look().dead is None
    assert driver.until().due == pytest.approx(39.0, abs=0.01)


def test_lateness_counts_also_if_a_pong_came_before_the_look():
    driver = Driver(Heartbeat(1000.0, idle_timeout=12.0))
    driver.pong(18.5)
    driver.look()
    assert driver.until().due == pytest.approx(18.5 + 12.0, abs=0.01)


def test_after_a_sleep_the_peer_is_asked_at_once():
    driver = Driver()
    driver.look()
    driver.pong(15.1)
    assert driver.look(20.0, suspended=3_600.0) == Verdict(ping=True)
    assert driver.until().due == 30.0


def test_a_nap_is_no_sleep():
    driver = Driver()
    assert driver.look(3.0, suspended=1.0) == Verdict(ping=False)


def test_a_sleep_in_a_silence_begins_it_anew():
    driver = Driver()
    driver.look()
    assert driver.look(24.99, suspended=2.0).ping
    assert driver.until().due == pytest.approx(34.99)


def test_a_ping_asked_for_after_a_sleep_is_not_asked_for_twice():
    driver = Driver()
    assert driver.look(3.0, suspended=2.0, send=False).ping
    assert not driver.look(4.0).ping
    assert driver.deadline == 18.0


# --- a ping behind an upload ---


def test_where_nothing_is_pending_everything_has_left():
    """The kernel may cease to tell, then the counts begin elsewhere."""
    driver = Driver()
    driver.show(left=9_000, pending=5_000, acknowledged=True)
    driver.ping(1.0)
    driver.show(left=40, pending=0, acknowledged=False)
    driver.look()
    assert driver.until().dead == "nothing arrived for 10.0 s after a ping"


def test_the_clock_of_a_ping_starts_when_it_has_left():
    driver = Driver()
    driver.show(pending=1_000_000)
    driver.ping(1.0)
    for second in range(1, 60):
        assert driver.until(1.0 + second).dead is None
        driver.show(left=second * 16_000, pending=1_000_000 - second * 16_000)
    driver.show(left=1_000_000, pending=0)
    end = driver.until()
    assert 60.0 + TIMEOUT <= end.due <= 60.0 + TIMEOUT + 0.5


def test_a_ping_has_left_when_what_was_written_before_it_is_gone_though_more_came_after_it():
    driver = Driver()
    driver.show(pending=5_000)
    driver.ping(1.0)
    driver.show(left=5_000, pending=90_000)
    end = driver.until()
    assert 1.0 + TIMEOUT <= end.due <= 1.0 + TIMEOUT + 0.05
    assert "after a ping" in end.dead


def test_an_upload_that_stands_still_is_death():
    driver = Driver()
    driver.show(pending=5_000)
    driver.ping(1.0)
    driver.until(3.0)
    driver.show(left=1_000, pending=4_000)
    end = driver.until()
    assert 3.0 + TIMEOUT <= end.due <= 3.0 + TIMEOUT + 0.5
    assert end.dead == "no data was sent or received for 10.0 s: 4000 bytes are pending"


def test_what_stood_before_the_ping_gets_the_timeout_from_the_ping_on():
    driver = Driver()
    driver.show(pending=5_000)
    driver.look(1.0)
    driver.look(14.0)
    assert driver.until().due == INTERVAL + TIMEOUT


def test_a_ping_that_stands_is_looked_after_soon_and_then_less_and_less_often():
    driver = Driver()
    driver.show(pending=5_000)
    driver.ping(1.0)
    waits, now = [], 1.0
    for step in range(8):
        waits.append(driver.deadline - now)
        now = driver.deadline
        driver.show(left=step + 1)
        driver.look()
    assert waits[:3] == pytest.approx([0.02, 0.04, 0.08])
    assert waits[-1] == pytest.approx(TIMEOUT / 20)


def test_a_short_message_before_the_ping_is_no_upload():
    driver = Driver()
    driver.show(pending=200, acknowledged=True)
    driver.ping(1.0)
    assert driver.deadline == 1.0 + TIMEOUT


# --- a ping that waits for room in the transport ---


def standing(now=INTERVAL, **reading):
    driver = Driver(Heartbeat.app("ping", bool, pong_timeout=60), **reading)
    assert driver.look(now, send=False).ping
    driver.stand(now)
    return driver


def test_a_ping_that_waits_for_room_behind_what_does_not_move_is_death_after_the_timeout():
    end = standing(pending=5000).until()
    assert end.due == INTERVAL + TIMEOUT
    assert end.dead == "no data was sent or received for 10.0 s: 5000 bytes are pending"


def test_while_what_is_before_it_moves_there_is_no_verdict_nor_while_that_is_compressed():
    driver = standing(pending=5000)
    for second in range(16, 60):
        driver.show(left=(second - 15) * 100)
        assert driver.until(second).dead is None
    driver.show(left=10_000, pending=0)
    assert driver.until(200).dead is None
    driver.show(pending=5000)
    assert driver.until().dead == "no data was sent or received for 10.0 s: 5000 bytes are pending"


def test_the_clock_of_such_a_ping_starts_when_it_has_left():
    driver = standing(pending=5000)
    driver.show(left=4900)
    assert driver.until(20.0).dead is None
    driver.show(pending=1000)
    driver.leave(20.0)
    driver.show(left=5900, pending=0)
    driver.look(21.0)
    end = driver.until()
    assert (end.due, end.dead) == (31.0, "nothing arrived for 10.0 s after a ping")


def test_one_that_is_handed_over_later_does_not_begin_the_silence_anew():
    driver = Driver(Heartbeat.app("ping", bool), pending=5000)
    driver.look(15.0)
    driver.show(left=5000, pending=5000)
    driver.look(16.0)
    driver.stand(20.0)
    driver.leave(22.0)
    assert driver.until().due == 26.0


def test_an_answer_is_owed_from_when_it_waits_while_nothing_moves_and_from_its_leaving_else():
    driver = Driver(Heartbeat.app("ping", bool, pong_timeout=60))
    driver.look(1.0)
    driver.ping(1.0)
    driver.pong(2.0)
    driver.show(pending=5000)
    driver.stand(15.0)
    for second in range(16, 60):
        driver.show(received=second, messages=second, received_at=second, message_at=second, left=second)
        assert driver.until(second).dead is None
    for second in range(60, 200):
        driver.show(received=second, messages=second, received_at=second, message_at=second)
        if driver.until(second).dead is not None:
            break
    assert 119 <= second <= 121


# --- paused by our own inbox ---


def test_while_reading_is_paused_silence_is_no_evidence():
    driver = Driver()
    driver.show(paused=True)
    assert driver.until(300.0).dead is None
    assert driver.pings == [15.0 * n for n in range(1, 21)]


def test_after_a_pause_the_peer_is_asked_anew():
    driver = Driver()
    driver.show(paused=True)
    driver.until(100.0)
    driver.show(paused=False)
    assert driver.look(101.0).ping
    assert driver.until().due == 101.0 + TIMEOUT


def test_a_pause_between_two_looks_is_seen_by_the_time_of_its_end():
    driver = Driver()
    driver.look()
    driver.show(resumed_at=24.9)
    assert driver.look().ping
    assert driver.until().due == 25.0 + TIMEOUT


def test_after_a_pause_in_which_something_came_nobody_is_asked():
    driver = Driver()
    driver.look()
    driver.show(paused=True)
    driver.look(20.0)
    driver.show(paused=False, received=1)
    assert not driver.look(21.0).ping
    assert driver.deadline == 30.0


def test_a_reader_that_stops_and_goes_causes_no_flood_of_pings():
    driver = Driver()
    driver.look()
    for step in range(1, 1_001):
        now = 15.0 + step / 100
        driver.show(resumed_at=now - 0.001)
        driver.look(now)
    assert len(driver.pings) <= 1 + 10
    assert driver.until().due == pytest.approx(25.0 + TIMEOUT)


def test_a_ping_for_another_reason_serves_after_a_pause_too():
    driver = Driver()
    driver.look()
    driver.show(resumed_at=20.0)
    driver.ping(20.1)
    assert not driver.look(20.2).ping
    assert driver.until().due == pytest.approx(20.1 + TIMEOUT)


def test_with_a_short_interval_the_ping_before_the_end_of_a_pause_is_soon_too_old():
    driver = Driver(Heartbeat(0.4, TIMEOUT))
    driver.look()
    driver.show(resumed_at=0.65)
    assert driver.look(0.7).ping


def test_a_ping_just_sent_that_stands_behind_an_upload_serves_after_a_pause_too():
    driver = Driver()
    driver.show(pending=5_000)
    driver.ping(15.0)
    driver.show(resumed_at=15.5)
    assert not driver.look(15.6).ping
    assert driver.until().due == pytest.approx(15.6 + TIMEOUT)


def test_a_pause_hides_no_peer_whose_kernel_is_mute():
    driver = Driver()
    driver.show(paused=True, acknowledged=True)
    while driver.deadline <= 15.0:
        driver.look(send=False)
    driver.ping(15.0, size=36)
    end = driver.until()
    assert end.due == 25.0
    assert end.dead == "no sent data was acknowledged and nothing arrived for 10.0 s"


@pytest.mark.parametrize(
    "change", [{"left": 36, "pending": 0}, {"in_flight": 0}, {"acknowledged": False}, {"received": 1}]
)
def test_but_one_that_acknowledges_or_has_no_room_or_cannot_be_seen_is_left_alone(change):
    driver = Driver()
    driver.show(paused=True, acknowledged=True, pending=36)
    driver.ping(15.0)
    driver.show(**change)
    driver.look(24.9)
    assert driver.until(26.0).dead is None


def test_a_window_that_closes_between_the_looks_of_a_verdict_is_an_answer():
    driver = Driver()
    driver.show(paused=True, acknowledged=True, pending=36, in_flight=36)
    driver.ping(15.0)
    driver.until(24.99)
    assert driver.deadline == 25.0
    for _ in range(DOUBTS):
        driver.look()
    driver.show(in_flight=0)
    assert driver.look().dead is None


def test_an_upload_that_the_peer_takes_slowly_while_we_are_paused_is_life():
    driver = Driver()
    driver.show(paused=True, acknowledged=True, pending=100_000)
    driver.ping(15.0)
    for second in range(16, 100):
        assert driver.until(second).dead is None
        driver.show(left=1_000 * second, pending=200_000 - 1_000 * second)
    assert driver.until().due == pytest.approx(99.0 + TIMEOUT, abs=INTERVAL / 2)


def test_bytes_that_were_not_in_flight_before_have_not_stood():
    driver = Driver()
    driver.show(paused=True, acknowledged=True, pending=90_000, in_flight=0)
    driver.ping(15.0)
    driver.look(24.0)
    driver.show(in_flight=1_000)
    driver.look(24.5)
    end = driver.until()
    assert end.due == pytest.approx(34.5)
