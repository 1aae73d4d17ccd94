"""The governor as decisions: who may dial, in which order, and until when an origin is left alone."""

import math
from datetime import timedelta

import pytest

from resilient_ws import CloseEvent, CloseOrigin, ConnectError, Failure, Governor
from resilient_ws.core.governor import MAX_DIALS, MAX_HOLD, SLOT, Dials, request_for_time

HERE, THERE = "wss://here.test", "wss://there.test"


class Client:
    """Somebody who wants to dial."""

    def __init__(self, dials, origin=HERE, now=0.0, *, spread=0.5, hurried=False):
        self.dials = dials
        self.woken = 0
        self.ticket = dials.ask(origin, now, wake=self.wake, spread=lambda: spread, hurried=hurried)

    def wake(self):
        self.woken += 1

    @property
    def dials_now(self):
        return self.ticket.granted_at is not None and not self.ticket.is_over

    @property
    def due(self):
        return self.ticket.due

    def leave(self, now=0.0, *, opened=False):
        self.dials.leave(self.ticket, now, opened=opened)

    def knock(self, now):
        self.dials.knock(self.ticket, now)


def states(clients):
    return [client.dials_now for client in clients]


# --- how many at once


def test_as_many_dial_as_may_and_the_others_follow_in_their_order():
    dials = Dials(2, MAX_HOLD)
    clients = [Client(dials) for _ in range(5)]
    assert states(clients) == [True, True, False, False, False]
    assert dials.waiting(HERE) == 3
    assert clients[2].woken == 0
    clients[1].leave()
    assert states(clients) == [True, False, True, False, False]
    assert clients[2].woken == 1
    clients[0].leave(opened=True)
    clients[2].leave()
    assert states(clients) == [False, False, False, True, True]
    assert dials.waiting(HERE) == 0
    assert dials.dialing(HERE) == 2


def test_one_that_gives_up_waiting_gives_up_its_place_and_nothing_else():
    dials = Dials(1, MAX_HOLD)
    first, second, third = Client(dials), Client(dials), Client(dials)
    second.leave()
    assert states([first, second, third]) == [True, False, False]
    first.leave()
    first.leave()  # a second time does nothing
    assert third.dials_now
    assert not Client(dials).dials_now


def test_origins_do_not_wait_for_each_other():
    dials = Dials(1, MAX_HOLD)
    Client(dials)
    assert Client(dials, THERE).dials_now
    dials.hold(HERE, 0.0, 5.0, "HTTP 503", asked=True)
    assert dials.held(HERE, 1.0) is not None
    assert dials.held(THERE, 1.0) is None


def test_nothing_is_kept_of_an_origin_where_nothing_is_under_way():
    dials = Dials(1, MAX_HOLD)
    client, other = Client(dials), Client(dials)
    client.leave()
    other.leave()
    assert not dials._gates
    for number in range(1000):
        dials.hold(f"ws://{number}.test", float(number), 5.0, "HTTP 503", asked=True)
    assert len(dials._gates) < 200


# --- a hold


def test_during_a_hold_nobody_dials_and_each_comes_back_a_while_of_its_own_later():
    dials = Dials(5, MAX_HOLD)
    dials.hold(HERE, 10.0, 20.0, "HTTP 503", asked=True)
    clients = [Client(dials, now=12.0, spread=spread) for spread in (0.5, 0.0, 3.0)]
    assert [client.due for client in clients] == [30.5, 30.0, 33.0]
    assert dials.waiting(HERE) == 3
    clients[1].knock(29.9)  # too early
    assert not clients[1].dials_now
    clients[1].knock(30.0)
    assert states(clients) == [False, True, False]
    assert dials.held(HERE, 30.0) is None


def test_those_who_wait_for_a_place_are_held_as_well_and_those_under_way_are_not():
    dials = Dials(1, MAX_HOLD)
    first, second, third = Client(dials), Client(dials, spread=1.0), Client(dials, hurried=True)
    dials.hold(HERE, 0.0, 10.0, "HTTP 429", asked=True)
    assert second.due == 11.0
    assert second.woken == 1
    assert third.due == SLOT, "it is the next one now, and looks when a dial stops to count"
    first.leave(1.0)
    assert states([second, third]) == [False, True], "one whose program asked for it does not mind"


def test_a_longer_request_counts_and_one_that_a_client_drew_does_not_lengthen():
    dials = Dials(5, MAX_HOLD)
    dials.hold(HERE, 0.0, 10.0, "HTTP 503", asked=True)
    dials.hold(HERE, 1.0, 5.0, "shorter", asked=True)
    dials.hold(HERE, 1.0, 50.0, "drawn", asked=False)
    assert dials.held(HERE, 2.0).until == 10.0
    client = Client(dials, now=2.0)
    dials.hold(HERE, 3.0, 30.0, "longer", asked=True)
    assert dials.held(HERE, 4.0).until == 33.0
    assert dials.held(HERE, 4.0).why == "longer"
    client.knock(10.5)
    assert not client.dials_now, "it finds out when its time has come"
    assert client.due == 33.5
    dials.hold(THERE, 0.0, 5.0, "drawn", asked=False)
    assert dials.held(THERE, 4.0).until == 5.0


@pytest.mark.parametrize("max_hold, until", [(60.0, 60.0), (3600.0, 3600.0), (None, None)])
def test_a_hold_is_bounded(max_hold, until):
    dials = Dials(5, max_hold)
    dials.hold(HERE, 0.0, 86_400.0, "HTTP 429", asked=True)
    hold = dials.held(HERE, 0.0)
    assert (hold.until if hold is not None else None) == until


def test_a_dial_that_began_later_and_was_let_in_ends_the_hold():
    dials = Dials(5, MAX_HOLD)
    early = Client(dials, now=0.0)
    dials.hold(HERE, 1.0, 30.0, "HTTP 503", asked=True)
    waiting = Client(dials, now=2.0, spread=0.25)
    extended = Client(dials, now=2.0, spread=0.75)
    early.leave(3.0, opened=True)
    assert dials.held(HERE, 3.0) is not None, "it says nothing: it was under way already"
    hurried = Client(dials, now=4.0, hurried=True)
    assert hurried.dials_now
    hurried.leave(5.0, opened=False)
    assert dials.held(HERE, 5.0) is not None
    soon = Client(dials, now=5.0)
    dials.hurry(soon.ticket, 5.0, 8.0)
    another = Client(dials, now=5.0, hurried=True)
    another.leave(6.0, opened=True)
    assert soon.due == 8.0, "it waits for something else"
    assert dials.held(HERE, 6.0) is None
    assert [waiting.due, extended.due] == [6.25, 6.75], "they keep what they have drawn"
    assert waiting.woken == extended.woken == 1


def test_one_that_is_hurried_while_it_waits_comes_when_it_is_due():
    dials = Dials(1, MAX_HOLD)
    dials.hold(HERE, 0.0, 30.0, "HTTP 503", asked=True)
    client, other = Client(dials), Client(dials)
    dials.hurry(client.ticket, 1.0, 1.4)
    assert client.due == 1.4
    assert client.woken == 1
    client.knock(1.4)
    assert client.dials_now
    dials.hurry(client.ticket, 2.0, 2.0)  # on its way: nothing to hurry
    dials.hurry(other.ticket, 2.0, 2.0)
    assert other.due == 1.4 + SLOT, "it looks again when that dial stops to count"
    assert not other.dials_now, "the number of dials still counts"
    client.leave(3.0)
    assert other.dials_now


def test_a_request_for_no_time_holds_nobody():
    dials = Dials(1, MAX_HOLD)
    dials.hold(HERE, 0.0, 0.0, "HTTP 503", asked=True)
    assert dials.held(HERE, 0.0) is None
    assert not dials._gates


# --- a dial that hangs


@pytest.mark.promise("P9")
def test_dials_that_hang_do_not_keep_the_others_from_dialing():
    dials = Dials(2, MAX_HOLD)
    hung = [Client(dials, now=float(number)) for number in range(2)]
    others = [Client(dials, now=1.5) for _ in range(3)]
    assert [other.due for other in others] == [SLOT, None, None]
    others[0].knock(SLOT - 0.01)
    assert not any(states(others))
    others[0].knock(SLOT)
    assert states(others) == [True, False, False]
    assert others[1].woken == 1
    assert others[1].due == SLOT + 1, "when the next one stops to count"
    assert (dials.dialing(HERE), dials.waiting(HERE)) == (3, 2)
    others[1].knock(SLOT + 1)
    assert states(others) == [True, True, False]
    for client in hung:
        client.leave(50.0)
    assert states(others) == [True, True, True], "all of them have been under way for long"
    for other in others:
        other.leave(50.0)
    assert dials.is_quiet


def test_one_that_had_its_turn_comes_before_those_that_wait():
    dials = Dials(1, MAX_HOLD)
    first, second, third = (Client(dials) for _ in range(3))
    first.leave()
    assert states([second, third]) == [True, False]
    back = dials.ask(HERE, 1.0, wake=lambda: None, spread=lambda: 0.0, first=True)
    second.leave(2.0)
    assert back.granted_at == 2.0
    assert not third.dials_now


def test_one_that_gives_up_leaves_the_next_one_a_time_to_look():
    dials = Dials(1, MAX_HOLD)
    _, second, third = (Client(dials) for _ in range(3))
    second.leave(1.0)
    assert third.due == SLOT
    third.knock(SLOT)
    assert third.dials_now


# --- what says that an origin asks for time


def lost(code, origin=CloseOrigin.PEER):
    return Failure(close=CloseEvent(code=code, origin=origin))


@pytest.mark.parametrize(
    "failure, delay, expected",
    [
        (Failure(status=503, retry_after=20.0), 20.7, (20.0, "HTTP 503", True)),
        (Failure(status=429, retry_after=20.0), 5.0, (5.0, "HTTP 429", True)),
        (Failure(status=503), 0.7, (0.7, "HTTP 503", False)),
        (Failure(status=503, retry_after=0.0), 0.7, (0.7, "HTTP 503", False)),
        (Failure(status=503, retry_after=20.0), math.inf, (20.0, "HTTP 503", True)),
        (Failure(status=503), math.inf, None),
        (Failure(status=503), 0.0, None),
        (Failure(status=502, retry_after=20.0), 30.0, (20.0, "HTTP 502", True)),
        (Failure(status=418, retry_after=20.0), 21.0, (20.0, "HTTP 418", True)),
        (Failure(status=418), 21.0, None),
        (Failure(retry_after=20.0), 21.0, None),
        (Failure(error=ConnectError()), 1.0, None),
        (lost(1013), 12.0, (12.0, "1013 Try Again Later", False)),
        (lost(1013, CloseOrigin.LOCAL), 12.0, None),
        (lost(1012), 12.0, None),
    ],
)
def test_what_a_failure_says_about_its_origin(failure, delay, expected):
    assert request_for_time(failure, delay) == expected


# --- the options


def test_the_default_governor():
    governor = Governor()
    assert (governor.max_dials, governor.max_hold) == (MAX_DIALS, MAX_HOLD) == (64, 60.0)
    assert repr(governor) == "Governor(max_dials=64, max_hold=60.0)"
    assert Governor(max_hold=timedelta(minutes=2)).max_hold == 120.0
    assert Governor(max_hold=None).max_hold is None


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"max_dials": 0}, ValueError, "max_dials must be 1 or more, got 0"),
        ({"max_dials": 2.0}, TypeError, "max_dials must be an int, got float"),
        ({"max_hold": 0}, ValueError, "max_hold must be more than 0 and finite, got 0.0"),
        ({"max_hold": 3601}, ValueError, "max_hold must be at most 3600 s, got 3601"),
        ({"max_hold": "1"}, TypeError, "max_hold must be seconds or a timedelta or None, got str"),
    ],
)
def test_options_are_checked(options, error, text):
    with pytest.raises(error, match=text):
        Governor(**options)


def test_each_event_loop_has_dials_of_its_own_and_takes_them_along():
    class Loop:
        pass

    governor, one, other = Governor(max_dials=1), Loop(), Loop()
    dials = governor.dials(one)
    assert governor.dials(one) is dials
    Client(dials)
    assert Client(governor.dials(other)).dials_now
    assert not Client(Governor(max_dials=1).dials(one)).due
    del one
    assert len(governor._loops) == 1
