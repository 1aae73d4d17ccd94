"""The governor under any order of calls: its bound holds, nobody is passed over, nobody waits for ever."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from resilient_ws.core.governor import SLOT, Dials

ORIGINS = ["ws://a.test", "ws://b.test"]
MAX_DIALS = 3
MAX_HOLD = 50.0

spans = st.floats(0, 80, allow_subnormal=False)


class Caller:
    """A client that does what is asked of it, and nothing else: it looks again when it is woken or due."""

    def __init__(self, dials, origin, now, spread, hurried):
        self.woken = False
        self.held_at_grant = False
        self.ticket = dials.ask(origin, now, wake=self.wake, spread=lambda: spread, hurried=hurried)

    def wake(self):
        self.woken = True


class GovernorModel(RuleBasedStateMachine):
    """Clients that come, dial, open, fail, give up and hurry, while their origins ask for time."""

    callers = Bundle("callers")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.dials = Dials(MAX_DIALS, MAX_HOLD)
        self.there = []

    def granted(self, origin):
        return [
            one for one in self.there if one.ticket.origin == origin and one.ticket.granted_at is not None
        ]

    @rule(target=callers, origin=st.sampled_from(ORIGINS), spread=spans, hurried=st.booleans())
    def ask(self, origin, spread, hurried):
        caller = Caller(self.dials, origin, self.now, spread, hurried)
        self.there.append(caller)
        return caller

    @rule(caller=callers, opened=st.booleans())
    def leave(self, caller, opened):
        ticket = caller.ticket
        gate = self.dials._gates.get(ticket.origin) if caller in self.there else None
        line = [one for one in gate.queue if one is not ticket] if gate is not None else []
        counted = gate is not None and ticket in gate.counted  # one that has hung for long takes no place
        if caller in self.there:
            self.there.remove(caller)
        self.dials.leave(ticket, self.now, opened=opened)
        let_in = [one for one in line if one.granted_at is not None]
        assert let_in == line[: len(let_in)], "somebody was passed over"
        assert len(let_in) == min(len(line), counted)

    @rule(origin=st.sampled_from(ORIGINS), time=spans, asked=st.booleans())
    def hold(self, origin, time, asked):
        self.dials.hold(origin, self.now, time, "HTTP 503", asked=asked)

    @rule(caller=callers, later=st.floats(0, 2))
    def hurry(self, caller, later):
        if caller in self.there:
            self.dials.hurry(caller.ticket, self.now, self.now + later)

    @rule(seconds=spans)
    def advance(self, seconds):
        self.now += seconds
        for caller in self.there:
            if caller.ticket.due is not None and caller.ticket.due <= self.now:
                self.dials.knock(caller.ticket, self.now)

    def counted(self, origin):
        return [one for one in self.granted(origin) if one.ticket.granted_at + SLOT > self.now]

    @invariant()
    def no_more_dials_than_may(self):
        for origin in ORIGINS:
            assert len(self.granted(origin)) == self.dials.dialing(origin)
            assert len(self.counted(origin)) <= MAX_DIALS

    @invariant()
    def who_waits_waits_for_something(self):
        for caller in self.there:
            ticket = caller.ticket
            if ticket.granted_at is not None:
                continue
            gate = self.dials._gates[ticket.origin]
            if ticket in gate.queue:
                assert len(gate.counted) == MAX_DIALS, "a place is free and somebody waits for one"
                assert ticket.hurried or self.dials.held(ticket.origin, self.now) is None
            else:
                assert ticket.due is not None
            if gate.queue:
                assert next(iter(gate.queue)).due is not None, "nobody would look when a dial stops to count"

    @invariant()
    def who_was_let_in_knows_it(self):
        for caller in self.there:
            assert caller.ticket.granted_at is None or caller.woken

    @invariant()
    def a_hold_ends(self):
        for origin in ORIGINS:
            hold = self.dials.held(origin, self.now)
            assert hold is None or hold.until <= self.now + MAX_HOLD

    @invariant()
    def the_books_agree(self):
        for origin in ORIGINS:
            waiting = [
                one for one in self.there if one.ticket.origin == origin and one.ticket.granted_at is None
            ]
            assert self.dials.waiting(origin) == len(waiting)

    def teardown(self):
        # Left alone, everybody gets a turn.
        for _ in range(10 * (len(self.there) + 1)):
            if not self.there:
                break
            self.now += MAX_HOLD + 81
            for caller in list(self.there):
                if caller.ticket.due is not None:
                    self.dials.knock(caller.ticket, self.now)
            for origin in ORIGINS:
                for caller in self.granted(origin):
                    self.there.remove(caller)
                    self.dials.leave(caller.ticket, self.now)
        assert not self.there
        self.dials.hold("ws://other.test", self.now, 1.0, "HTTP 503", asked=True)


TestGovernor = pytest.mark.promise("P10")(GovernorModel.TestCase)
