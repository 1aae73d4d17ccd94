"""The life of a client: any facts in any order, and what holds along any path through it."""

import itertools
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient_ws import (
    ClientStopped,
    CloseEvent,
    CloseOrigin,
    ConnectError,
    Endpoint,
    Failure,
    Fate,
    OpenEvent,
    ReconnectEvent,
    ReconnectPolicy,
    RetryEvent,
    State,
    StateEvent,
    Stop,
)
from resilient_ws.core.delivery import Entry
from resilient_ws.core.endings import Closing, Ending
from resilient_ws.core.endings import End as LinkEnd
from resilient_ws.core.life import (
    TRANSITIONS,
    Dial,
    Done,
    End,
    Fact,
    Goodbye,
    Judge,
    Life,
    Load,
    Serve,
    Settled,
    Wait,
)
from resilient_ws.core.retry import RetryState

HERE = Endpoint("ws://peer.test/ws")


def make(**options) -> Life:
    return Life(RetryState(ReconnectPolicy(), Random(1)), **options)


def lost(at: float, opened_for: float = 60.0, uncertain=(), **end) -> Ending:
    seen = LinkEnd(**{"code": None, "origin": CloseOrigin.NETWORK} | end)
    return Ending(
        end=seen,
        endpoint=HERE,
        at=at,
        opened_for=opened_for,
        silent_for=0.0,
        unsent=0,
        unconfirmed=len(uncertain),
        unread=0,
        uncertain=list(uncertain),
        resent=0,
        hint=None,
    )


def entry() -> Entry:
    return Entry("message", 7, 0.0, resend=False)


def opened(life: Life, now: float):
    life.dialing(now)
    return life.opened(OpenEvent(attempt=1, endpoint=HERE, first=not life.opens), now)


def is_open(life: Life) -> Life:
    life.started(0.0)
    opened(life, 0.0)
    return life


# ------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("fact", Fact)
def test_a_step_of_the_table_is_taken_and_any_other_refused(state, fact):
    life = make()
    life.state = state
    new = TRANSITIONS[state].get(fact)
    if new is None:
        with pytest.raises(RuntimeError, match=f"{fact.name} cannot happen in {state.name}"):
            life._apply(fact)
        assert life.state is state
    else:
        (told,) = life._apply(fact)
        assert isinstance(told, StateEvent)
        assert (told.old, told.new) == (state, life.state) == (state, new)


def test_every_state_but_the_last_leads_on_and_close_is_possible_until_the_end_has_begun():
    for state, steps in TRANSITIONS.items():
        life = make()
        life.state = state
        assert bool(steps) is (state is not State.CLOSED)
        assert (Fact.CLOSE_ASKED in steps) is not life.is_over


# ------------------------------------------------------------------------------------------------ single facts


def test_a_loss_is_told_with_its_fates_before_the_retry_and_the_wait_begins():
    life = is_open(make())
    gone = entry()
    life.lost(lost(5.0, uncertain=[gone]))
    assert isinstance(life.act, Judge)
    decision = life._retry.failed(life.act.failure, 5.0)
    close, fate, retry = life.judged(decision, 5.0, 5.0)
    assert isinstance(close, CloseEvent)
    assert close.will_retry
    assert (fate.entry, fate.fate) == (gone, Fate.UNCERTAIN)
    assert isinstance(retry, RetryEvent)
    assert isinstance(life.act, Wait)
    assert life.act.until == 5.0 + decision.delay


def test_the_gap_and_the_reconnect_event_know_the_close_before_and_the_downtime():
    life = is_open(make())
    life.lost(lost(5.0))
    life.judged(life._retry.failed(life.act.failure, 5.0), 5.0, 5.0)
    life.waited()
    told, gap = opened(life, 9.0)
    event = told[-1]
    assert isinstance(event, ReconnectEvent)
    assert (event.downtime, event.attempts, event.close) == (4.0, 1, life.last_close)
    assert (gap.close, gap.downtime) == (life.last_close, 4.0)


def test_a_hurried_backoff_ends_min_delay_after_the_last_dial_and_only_once():
    life = is_open(make())
    life.lost(lost(0.1, opened_for=0.1))
    life.hurry(0.1, 0.1)
    life.judged(life._retry.failed(life.act.failure, 0.1), 0.1, 0.1)
    assert life.act.until <= 0.5  # min_delay after the dial at 0
    life.waited()
    life.failed(Failure(error=ConnectError("no"), attempt=2))
    decision = life._retry.failed(life.act.failure, 0.6)
    life.judged(decision, 0.6, 0.6)
    assert life.act.until == 0.6 + decision.delay


def test_a_decision_that_comes_after_close_is_of_no_consequence():
    life = is_open(make())
    life.lost(lost(5.0))
    decision = life._retry.failed(life.act.failure, 5.0)
    life.close_asked(Closing.within(5, 5.0, 1000, ""))
    life.interrupt()
    assert life.judged(decision, 5.0, 5.0) == []
    assert isinstance(life.act, End)
    assert life.act.final.origin is CloseOrigin.LOCAL


def test_what_ends_a_client_while_it_drains_is_not_raised_instead_of_close():
    life = is_open(make())
    life.close_asked(Closing.within(5, 5.0, 1000, ""))
    life.lost(lost(5.0))
    decision = life._retry.failed(life.act.failure, 5.0, Stop("enough"))
    life.judged(decision, 5.0, 5.0)
    assert life.cause is None
    assert "enough" in life.act.final.rule


def test_a_stop_says_why_and_chains_what_was_seen():
    life = make()
    life.started(0.0)
    life.dialing(0.0)
    error = ConnectError("no route")
    life.failed(Failure(error=error))
    life.judged(life._retry.failed(life.act.failure, 0.0, Stop("enough")), 0.0, 0.0)
    assert isinstance(life.cause, ClientStopped)
    assert "enough" in str(life.cause)
    assert life.cause.__cause__ is error
    assert life.first_error is error


def test_with_fail_fast_only_the_first_attempt_is_final_and_a_stop_keeps_its_own_words():
    life = make(fail_fast=True)
    life.started(0.0)
    life.dialing(0.0)
    life.failed(Failure(error=Stop("wrong password")))
    assert life.verdict is None
    life.act = Judge(Failure(error=ConnectError()))
    assert life.verdict.stop

    later = is_open(make(fail_fast=True))
    later.lost(lost(2.0))
    assert later.verdict is None


# ------------------------------------------------------------------------------------------------ any history


class LifeMachine(RuleBasedStateMachine):
    """Plays the supervisor: carries out acts with any result, while facts come at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.life = make(has_file=True)
        self.told: list[object] = []
        self.is_open = False
        self.stays: list[Entry] = []
        self.life_of_entries: list[Entry] = []

    def note(self, told) -> None:
        self.told += told

    @precondition(lambda self: self.life.state is State.IDLE)
    @rule(close=st.booleans())
    def begins(self, close: bool) -> None:
        if close:
            self.life.started_to_close(self.now)
            self.closes(drains=False)
        else:
            self.note(self.life.started(self.now))

    @precondition(lambda self: not isinstance(self.life.act, Done))
    @rule(well=st.booleans(), passes=st.floats(0, 100), stop=st.integers(0, 9))
    def acts(self, well: bool, passes: float, stop: int) -> None:
        life = self.life
        self.now += passes
        match life.act:
            case Load():
                if well or stop:
                    life.loaded()
                else:
                    self.note(life.unloadable(OSError("full")))
            case Dial():
                attempt = life.dialing(self.now)
                if well:
                    event = OpenEvent(attempt=attempt.number, endpoint=HERE, first=not life.opens)
                    told, gap = life.opened(event, self.now)
                    assert (gap is None) is (life.opens == 1)
                    self.note(told)
                    self.is_open = True
                else:
                    self.note(life.failed(Failure(error=ConnectError("no"))))
            case Judge(failure=failure):
                verdict = None if stop else Stop("enough")
                decision = life._retry.failed(failure, self.now, verdict)
                self.note(life.judged(decision, self.now, self.now))
            case Wait(until=until):
                self.now = max(self.now, until)
                self.note(life.waited())
            case Goodbye():
                if self.is_open:
                    self.loses(local=True)
                life.said_goodbye()
            case End():
                abandoned = [entry()] if well else []
                fates, told = life.ended(abandoned=abandoned, uncertain=[], waiting=len(abandoned), unread=0)
                self.note([*fates, *told])
            case Serve():
                pass

    @precondition(lambda self: self.is_open)
    @rule(local=st.booleans())
    def loses(self, local: bool) -> None:
        gone = entry()
        self.life_of_entries.append(gone)
        origin = CloseOrigin.LOCAL if local else CloseOrigin.NETWORK
        self.is_open = False
        self.note(self.life.lost(lost(self.now, uncertain=[gone], origin=origin)))

    @precondition(lambda self: self.life.state is not State.IDLE and not self.life.is_over)
    @rule(drains=st.booleans())
    def closes(self, drains: bool) -> None:
        self.note(self.life.close_asked(Closing.within(5, self.now, 1000, "")))
        if not drains:
            self.life.interrupt()

    @precondition(lambda self: self.life.is_draining and not isinstance(self.life.act, End | Done))
    @rule()
    def drained(self) -> None:
        self.life.interrupt()

    @rule()
    def hurries(self) -> None:
        self.life.hurry(self.now, self.now)

    @precondition(lambda self: self.life.state is not State.IDLE)
    @rule(asked=st.booleans())
    def breaks(self, asked: bool) -> None:
        self.note(self.life.breaking())
        if self.is_open:
            self.loses(local=True)
        self.life.broken(ValueError("defect"), "defect", "a defect", asked=asked)

    @invariant()
    def states_follow_the_table(self) -> None:
        state = State.IDLE
        for event in self.told:
            if isinstance(event, StateEvent):
                assert event.old is state
                assert event.new in TRANSITIONS[state].values()
                state = event.new
        assert state is self.life.state

    @invariant()
    def opens_and_closes_alternate(self) -> None:
        """P1."""
        line = [event for event in self.told if isinstance(event, OpenEvent | CloseEvent)]
        for first, second in itertools.pairwise(line):
            if isinstance(first, OpenEvent):
                assert isinstance(second, CloseEvent)
            else:
                assert isinstance(second, OpenEvent) or (second.final and second.opened_for is None)
        finals = [event for event in line if isinstance(event, CloseEvent) and event.final]
        assert len(finals) == (self.life.state is State.CLOSED)
        if finals:
            assert self.told[-1] is finals[0] is self.life.last_close
        firsts = [event.first for event in line if isinstance(event, OpenEvent)]
        assert firsts == [True] * bool(firsts) + [False] * (len(firsts) - 1)
        assert sum(isinstance(event, ReconnectEvent) for event in self.told) == max(0, len(firsts) - 1)

    @invariant()
    def every_fate_is_told_once(self) -> None:
        """P5, as far as it is told here."""
        told = [event.entry for event in self.told if isinstance(event, Settled)]
        assert len(told) == len({id(one) for one in told})
        if self.life.state is State.CLOSED:
            assert {id(one) for one in self.life_of_entries} <= {id(one) for one in told}

    @invariant()
    def the_act_belongs_to_the_state(self) -> None:
        life = self.life
        if life.state is State.CLOSED:
            assert isinstance(life.act, Done)
        elif life.state is State.OPEN:
            assert isinstance(life.act, Serve)
            assert self.is_open
        if life.is_interrupted:
            assert isinstance(life.act, Goodbye | End | Done)
        if life.state is State.CLOSED and life.cause is None:
            assert life.closing is not None


TestLife = LifeMachine.TestCase
