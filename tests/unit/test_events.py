"""The facts a program is told: what they hold, what they refuse, and what they keep to themselves."""

import attrs
import pytest

from resilient_ws.api import events
from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.events import (
    Attempt,
    CloseEvent,
    ErrorEvent,
    Failure,
    Fate,
    Gap,
    OpenEvent,
    ReconnectEvent,
    Retry,
    RetryEvent,
    State,
    StateEvent,
    Stop,
    UndeliveredEvent,
)

HOME = Endpoint("wss://host/path")
CLOSE = CloseEvent(code=1006)

FIELDS = {
    OpenEvent: "attempt endpoint subprotocol headers first transport",
    CloseEvent: "code reason was_clean synthesized origin sent_code cause opened_for silent_for unsent uncertain"
    " unread will_retry retry_in rule rule_id final",
    RetryEvent: "attempt delay cause rule rule_id",
    ReconnectEvent: "attempts downtime close resent uncertain endpoint",
    UndeliveredEvent: "message fate accepted_at age times_sent",
    StateEvent: "old new",
    ErrorEvent: "where exception event",
    Gap: "close downtime count dropped resumed missing",
    Endpoint: "url headers subprotocols",
    Attempt: "number endpoint last_failure last_close",
    Failure: "close error status headers retry_after attempt opened_for endpoint",
    Retry: "after",
}


@pytest.mark.parametrize("kind", FIELDS)
def test_the_fields_of_each_event(kind):
    assert [field.name for field in attrs.fields(kind)] == FIELDS[kind].split()


@pytest.mark.parametrize(
    "event,field",
    [
        (CLOSE, "code"),
        (OpenEvent(attempt=1, endpoint=HOME), "attempt"),
        (RetryEvent(attempt=1, delay=0.5), "delay"),
        (ReconnectEvent(attempts=1, downtime=2.0, close=CLOSE, endpoint=HOME), "close"),
        (UndeliveredEvent(message="m", fate=Fate.EXPIRED, accepted_at=0.0, age=1.0), "fate"),
        (StateEvent(old=State.IDLE, new=State.CONNECTING), "new"),
        (ErrorEvent(where="on_close", exception=ValueError()), "where"),
        (Gap(), "count"),
        (HOME, "url"),
        (Attempt(number=1), "number"),
        (Failure(), "error"),
        (Retry(), "after"),
    ],
)
def test_events_are_frozen(event, field):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(event, field, None)


def test_states_and_fates_are_their_names():
    assert [state.value for state in State] == ["idle", "connecting", "open", "backoff", "closing", "closed"]
    assert [fate.value for fate in Fate] == ["uncertain", "expired", "evicted", "abandoned"]


# ------------------------------------------------------------------------------------------------- events


@pytest.mark.promise("P12")
@pytest.mark.parametrize(
    "event",
    [
        OpenEvent(attempt=1, endpoint=HOME, headers={"Set-Cookie": "secret"}),
        Failure(status=401, headers={"Set-Cookie": "secret"}, endpoint=HOME),
        UndeliveredEvent(message="secret", fate=Fate.EXPIRED, accepted_at=0.0, age=1.0),
        ErrorEvent(where="on_message", exception=ValueError(), event="secret"),
    ],
)
def test_no_event_shows_a_header_or_a_message(event):
    assert "secret" not in repr(event)


def test_a_close_says_itself_in_a_line():
    peer = CloseEvent(code=1001, reason="moved", was_clean=True, origin=CloseOrigin.PEER)
    assert str(peer) == "closed by peer with 1001 Going Away: moved"
    dead = CloseEvent(code=1006, synthesized=True, cause=ConnectionLost("silent for 25 s"))
    ended = CloseEvent(code=1006, synthesized=True, origin=CloseOrigin.LOCAL)
    assert str(ended) == "closed by this client (no CLOSE frame from the server: 1006)"
    assert str(dead) == "closed by network (no CLOSE frame from the server: 1006): silent for 25 s"


def test_the_least_a_close_says():
    assert CLOSE.reason == CLOSE.rule == ""
    assert CLOSE.origin is CloseOrigin.NETWORK
    assert (CLOSE.unsent, CLOSE.uncertain, CLOSE.unread) == (0, 0, 0)
    for name in ("sent_code", "cause", "opened_for", "silent_for", "retry_in"):
        assert getattr(CLOSE, name) is None
    for name in ("was_clean", "synthesized", "will_retry", "final"):
        assert getattr(CLOSE, name) is False


def test_an_open_has_headers_even_if_none_came():
    event = OpenEvent(attempt=1, endpoint=HOME)
    assert dict(event.headers) == {}
    assert (event.subprotocol, event.first) == (None, False)


def test_every_event_of_the_stream_is_in_the_union():
    members = set(events.Event.__args__)
    named = {
        thing for name, thing in vars(events).items() if name.endswith("Event") and isinstance(thing, type)
    }
    assert members == named


# ------------------------------------------------------------------------------------------------- verdicts


def test_stop_is_raised_or_returned():
    assert Stop("banned").reason == str(Stop("banned")) == "banned"
    assert Stop().reason == "the program said stop"
    with pytest.raises(Stop, match="banned"):
        raise Stop("banned")


@pytest.mark.parametrize("after", [None, 0, 0.5, 10**6])
def test_a_retry_waits_a_time_that_can_be_waited(after):
    assert Retry(after).after == Retry(after=after).after == after


@pytest.mark.parametrize("after", [-1, -0.001, float("inf"), float("nan"), pytest.param(10**400, id="huge")])
def test_a_retry_does_not_wait_nonsense(after):
    with pytest.raises(ValueError, match=r"Retry\.after must be 0 or more and finite, got "):
        Retry(after)


@pytest.mark.parametrize("after", ["1", True, [1]])
def test_a_retry_waits_seconds_or_a_timedelta(after):
    with pytest.raises(TypeError, match=r"Retry\.after must be seconds, a timedelta or None, got "):
        Retry(after)
