"""The real client on virtual time, through random interleavings of everything that can happen to it.

500 examples by default, 50,000 with `make soak`; the promises checked are named in `client_story`.
"""

import asyncio
import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_ws.testing import PingAnswers, VirtualClock, VirtualLoop
from tests.property.client_story import ClientStory, Options

SOAK = settings().max_examples > 1_000

options = st.builds(
    Options,
    heartbeat=st.sampled_from(["ping", "ping", "ping", "expect", "app", "none"]),
    max_messages=st.integers(1, 5),
    max_bytes=st.integers(20, 60),
    overflow=st.sampled_from(["raise", "wait", "drop_oldest", "drop_newest"]),
    on_uncertain=st.sampled_from(["report", "resend"]),
    confirm=st.sampled_from([None, None, True, False]),
    inbox=st.integers(1, 5),
    inbox_overflow=st.sampled_from(["pause", "pause", "drop_oldest"]),
    consumer=st.sampled_from(["manual", "prompt", "slow", "callback"]),
).filter(lambda made: made.confirm is not False or made.on_uncertain == "report")
sends = st.fixed_dictionaries(
    {},
    optional={
        "ttl": st.sampled_from([0.3, 2.0, 30.0]),
        "confirm": st.just(True),
        "queue": st.just(False),
        "on_uncertain": st.sampled_from(["report", "resend"]),
        "key": st.sampled_from("ab"),
        "priority": st.sampled_from([1, -1]),
    },
)
turns = st.sampled_from([0, 0, 1, 1, 2, 5, 20])
seconds = st.sampled_from([0.001, 0.1, 0.5, 1.0, 1.5, 3.0, 6.0, 10.0, 30.0])


def act(name, *arguments):
    return st.tuples(st.just(name), *arguments, turns)


def peer(name, *arguments):
    return act("peer", st.just(name), *arguments)


acts = st.one_of(
    act("advance", seconds),
    act("advance", seconds),
    act("send", st.just({}), st.sampled_from([0, 5, 19])),
    act("send", sends, st.sampled_from([0, 5, 19])),
    act("burst", st.integers(2, 8)),
    act("recv"),
    act("flush", st.sampled_from([None, 0.0, 0.5, 5.0])),
    act("request", st.sampled_from([0.2, 3.0, 20.0])),
    act("subscribe", st.sampled_from("xy")),
    act("unsubscribe", st.sampled_from("xy")),
    act("cancel", st.integers(0, 10)),
    act("reconnect_now"),
    act("close", st.sampled_from([None, None, 0.0, 2.0])),
    act("dials", st.sampled_from(["refuse", "hang", "accept"]), st.integers(1, 3)),
    peer("send", st.integers(1, 12)),
    peer("close", st.sampled_from([None, 1000, 1001, 1003, 1008, 1009, 1011, 1013, 4000])),
    peer("drop"),
    peer("go_silent"),
    peer("go_deaf"),
    peer("go_mute"),
    peer("congest"),
    peer("recover"),
    peer("recover"),
    peer("ping"),
    peer("trickle"),
    peer("answers", st.sampled_from(PingAnswers)),
    peer("late", st.sampled_from([0.0, 0.05, 0.4, 3.0])),
)


@pytest.mark.promise("P1")
@pytest.mark.promise("P4")
@pytest.mark.promise("P5")
@pytest.mark.promise("P6")
@pytest.mark.promise("P7")
@pytest.mark.promise("P8")
@pytest.mark.promise("P10")
@pytest.mark.promise("P11")
@settings(max_examples=50_000 if SOAK else 500)
@given(options, st.lists(acts, min_size=1, max_size=40))
def test_whatever_happens_the_records_agree(chosen, played):
    live_through(chosen, played)


def live_through(chosen, played):
    """Play one story on a loop of its own; it must leave nothing."""
    loop = VirtualLoop(VirtualClock(limit=100_000))
    problems = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(story(chosen, played))
    assert not problems, problems


async def story(chosen, played):
    told = ClientStory(chosen)
    await told.play(played)
    for _ in range(5):
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, left
    timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
    assert not timers, timers
    gc.collect(0)
