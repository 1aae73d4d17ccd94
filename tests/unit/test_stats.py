"""What is remembered of a client's life, in words."""

from resilient_ws import State, StateEvent
from resilient_ws.stats import Timeline


def test_a_change_of_state_is_said_in_the_same_words_whoever_says_it():
    timeline = Timeline(lambda: 0.0)
    assert timeline.note(StateEvent(old=State.OPEN, new=State.BACKOFF)) == "state open -> backoff"
    assert timeline.lines(lambda when: f"{when:g} s") == ["0 s  state open -> backoff"]
