"""What is remembered of a client's life, in words."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from resilient_ws import Fate, State, StateEvent, UndeliveredEvent
from resilient_ws.api.stats import Timeline


def test_a_change_of_state_is_said_in_the_same_words_whoever_says_it():
    timeline = Timeline(lambda: 0.0)
    assert timeline.note(StateEvent(old=State.OPEN, new=State.BACKOFF)) == "state open -> backoff"
    assert timeline.lines(lambda when: f"{when:g} s") == ["0 s  state open -> backoff"]


def undelivered(age, fate=Fate.UNCERTAIN):
    return UndeliveredEvent(message="x", fate=fate, accepted_at=0, age=age)


@given(st.lists(st.sampled_from(["a", "b", "uncertain", Fate.UNCERTAIN, Fate.EXPIRED])))
def test_equal_lines_in_a_row_are_one_with_their_count(steps):
    times = iter(range(1000))
    timeline = Timeline(lambda: next(times))
    for step in steps:
        if isinstance(step, Fate):
            timeline.note(undelivered(1.0, step))
        else:
            timeline.say(step)
    expected, when = [], 0
    for step, group in itertools.groupby(steps, key=lambda step: (type(step), step)):
        count = len(list(group))
        text = step[1]
        if isinstance(text, Fate):
            text = (
                f"a message of 1.0 s is {text}"
                if count == 1
                else f"{count} messages {text}, 1.0 to 1.0 s old"
            )
        elif count > 1:
            text = f"{text} ({count} times, until {when + count - 1})"
        expected.append(f"{when}  {text}")
        when += count
    assert timeline.lines(str) == expected


def test_many_messages_of_one_fate_leave_room_for_why():
    timeline = Timeline(lambda: 0.0)
    timeline.say("why")
    for number in range(10_000):
        timeline.note(undelivered(number % 11 / 10))
    assert timeline.lines(lambda _: "now") == ["now  why", "now  10000 messages uncertain, 0.0 to 1.0 s old"]
