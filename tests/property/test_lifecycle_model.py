"""The lifecycle: every step of the table and no other, and what holds along any path through it."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilient_ws import State
from resilient_ws.lifecycle import TRANSITIONS, Fact, Lifecycle

PATH_TO: dict[State, list[Fact]] = {
    State.IDLE: [],
    State.CONNECTING: [Fact.STARTED],
    State.OPEN: [Fact.STARTED, Fact.OPENED],
    State.BACKOFF: [Fact.STARTED, Fact.FAILED],
    State.CLOSING: [Fact.CLOSE_ASKED],
    State.CLOSED: [Fact.CLOSE_ASKED, Fact.ENDED],
}

ONLY_WAY: dict[State, set[tuple[State, Fact]]] = {
    State.OPEN: {(State.CONNECTING, Fact.OPENED)},
    State.CONNECTING: {(State.IDLE, Fact.STARTED), (State.BACKOFF, Fact.DIALED)},
    State.BACKOFF: {(State.CONNECTING, Fact.FAILED), (State.OPEN, Fact.LOST)},
    State.CLOSED: {(State.CLOSING, Fact.ENDED), (State.BACKOFF, Fact.ENDED)},
}
"""How the states can be entered that a program relies on."""


def ignore(_old: State, _new: State) -> None:
    pass


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("fact", Fact)
def test_a_step_is_taken_or_refused_and_then_nothing_changes(state, fact):
    told = []
    life = Lifecycle(lambda old, new: told.append((old, new)))
    for step in PATH_TO[state]:
        life.apply(step)
    told.clear()
    new = TRANSITIONS[state].get(fact)
    if new is None:
        with pytest.raises(RuntimeError, match=f"{fact.name} cannot happen in {state.name}"):
            life.apply(fact)
        assert (life.state, told) == (state, [])
    else:
        assert life.apply(fact) is life.state is new
        assert told == [(state, new)]


def test_close_can_be_asked_wherever_the_end_has_not_begun():
    for state, steps in TRANSITIONS.items():
        life = Lifecycle(ignore)
        for step in PATH_TO[state]:
            life.apply(step)
        assert (Fact.CLOSE_ASKED in steps) is not life.is_over


class LifecycleMachine(RuleBasedStateMachine):
    """Any facts in any order; those that the table refuses change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Lifecycle(self.note)
        self.path = [State.IDLE]
        self.fact: Fact | None = None

    def note(self, old: State, new: State) -> None:
        assert old is self.path[-1]
        assert old is not new
        if new in ONLY_WAY:
            assert (old, self.fact) in ONLY_WAY[new]
        self.path.append(new)

    @rule(fact=st.sampled_from(Fact))
    def happens(self, fact: Fact) -> None:
        self.fact = fact
        if fact in TRANSITIONS[self.life.state]:
            self.life.apply(fact)
        else:
            with pytest.raises(RuntimeError):
                self.life.apply(fact)

    @invariant()
    def is_where_it_was_told_to_be(self) -> None:
        assert self.life.state is self.path[-1]

    @invariant()
    def an_end_is_an_end(self) -> None:
        if State.CLOSING in self.path:
            assert State.OPEN not in self.path[self.path.index(State.CLOSING) :]
        assert State.CLOSED not in self.path[:-1]
        assert self.life.is_over is (self.path[-1] in {State.CLOSING, State.CLOSED})

    @invariant()
    def between_two_connections_there_is_a_back_off(self) -> None:
        opens = [index for index, state in enumerate(self.path) if state is State.OPEN]
        for first, second in itertools.pairwise(opens):
            assert State.BACKOFF in self.path[first:second]


TestLifecycle = LifecycleMachine.TestCase
