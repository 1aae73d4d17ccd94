"""Timers of many connections share ticks; a near one is exact."""

import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws import clocks
from resilient_ws.clocks import FAR, TICKS, on_tick, slept

moments = st.floats(0, 1e7)


@given(moments, st.floats(0, FAR))
def test_a_near_deadline_stands(now, wait):
    deadline = now + wait
    if deadline <= now + FAR:
        assert on_tick(deadline, now) == deadline


@given(moments, st.floats(FAR * 1.001, 1e6))
def test_a_far_deadline_is_put_off_to_the_next_tick(now, wait):
    deadline = now + wait
    due = on_tick(deadline, now)
    assert (due * TICKS).is_integer()
    assert 0 <= due - deadline < 1 / TICKS
    assert on_tick(due, now) == due


def test_what_was_slept_grows_by_what_the_one_clock_counts_and_the_other_does_not(monkeypatch):
    times = {"boot": 250.0, "monotonic": 200.0}
    clock = SimpleNamespace(CLOCK_BOOTTIME="boot", CLOCK_MONOTONIC="monotonic", clock_gettime=times.get)
    monkeypatch.setattr(clocks, "time", clock)
    before = slept()
    times["boot"] += 90.0
    times["monotonic"] += 30.0
    assert slept() - before == pytest.approx(60.0)


def test_where_no_clock_counts_sleep_none_is_seen(monkeypatch):
    monkeypatch.setattr(clocks, "time", SimpleNamespace(monotonic=time.monotonic))
    assert slept() == 0.0
