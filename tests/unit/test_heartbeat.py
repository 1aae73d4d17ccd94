"""The heartbeat, rule by rule; `tests/property/test_heartbeat_model.py` looks for the cases nobody thought of."""

import math
import sys
from types import SimpleNamespace

import attrs
import pytest

from resilient_ws.api.options import Heartbeat
from resilient_ws.core import evidence
from resilient_ws.core.evidence import with_ping
from resilient_ws.core.heartbeat import (
    DOUBTS,
    FAR,
    GRAIN,
    LATE,
    SHARED,
    SOON,
    TICK,
    HeartbeatMonitor,
    Reading,
    Verdict,
)

INTERVAL, TIMEOUT = 15.0, 10.0
SURE = DOUBTS * SOON  # from the moment that a verdict is due to the look that gives it
START = {
    "received": 0,
    "received_at": 0.0,
    "message_at": 0.0,
    "messages": 0,
    "left": 0,
    "pending": 0,
    "acknowledged": False,
    "paused": False,
}


class Driver:
    """A monitor with its connection; `reading` is what the connection shows, changed by the test."""

    def __init__(self, options=None, **reading):
        self.shown = {**START, **reading}
        self.numbers = 0
        self.stands = False
        self.pings = []
        self.monitor = HeartbeatMonitor(options or Heartbeat(), 0.0, self.reading())

    def reading(self):
        return Reading(**self.shown)

    @property
    def deadline(self):
        return self.monitor.deadline

    def show(self, **reading):
        self.shown.update(reading)

    def look(self, now=None, *, send=True, **options):
        """Look at `now`, or at the deadline; send the ping that is asked for."""
        now = self.deadline if now is None else now
        verdict = self.monitor.look(now, self.reading(), **options)
        assert self.deadline > now
        if verdict.ping and self.stands:
            self.stand(now)
        elif verdict.ping and send:
            self.ping(now)
        return verdict

    def ping(self, now, size=0):
        self.numbers += 1
        self.pings.append(now)
        self.show(pending=self.shown["pending"] + size)
        self.monitor.ping_sent(self.numbers, now, self.reading())
        assert self.deadline > now

    def stand(self, now):
        """A ping waits for room, and those asked for later stand back."""
        self.numbers += not self.stands
        self.stands = True
        self.monitor.ping_sent(self.numbers, now, self.reading(), stands=True)
        assert self.deadline > now

    def leave(self, now):
        """The ping that waits is handed over."""
        self.stands = False
        self.monitor.ping_sent(self.numbers, now, self.reading())

    def pong(self, now, number=None):
        self.show(received=self.shown["received"] + 1, received_at=now)
        return self.monitor.pong(number or self.numbers, now)

    def until(self, end=math.inf):
        """Look at each deadline up to `end` or to death; returns the last verdict, and when it was due."""
        for _ in range(10_000):
            if self.deadline > end:
                return SimpleNamespace(dead=None, due=None, hint=None)
            now = self.deadline
            verdict = self.look()
            if verdict.dead is not None:
                return SimpleNamespace(dead=verdict.dead, due=round(now - SURE, 6), hint=verdict.hint)
        raise AssertionError("too many looks")


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
