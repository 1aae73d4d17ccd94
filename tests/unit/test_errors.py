"""What the exceptions are, and which fields they carry."""

import copy
import pickle
import re

import pytest

from resilient_ws.api import errors
from resilient_ws.api.errors import (
    CertificateRejected,
    ClientClosed,
    ClientStopped,
    ConcurrencyError,
    ConnectError,
    ConnectionLost,
    DeliveryUncertain,
    HandshakeRejected,
    InboxFull,
    InvalidURL,
    MessageTooBig,
    NotConnected,
    OpenTimeout,
    OutboxFileError,
    OutboxFull,
    ProxyRejected,
    ResilientWSError,
    RetriesExhausted,
    SetupFailed,
    SetupTimeout,
)
from resilient_ws.api.events import CloseEvent, Fate, UndeliveredEvent

PARENTS = {
    ConnectError: (ResilientWSError,),
    OpenTimeout: (ConnectError, TimeoutError),
    HandshakeRejected: (ConnectError,),
    ProxyRejected: (HandshakeRejected,),
    CertificateRejected: (ConnectError,),
    InvalidURL: (ConnectError, ValueError),
    SetupFailed: (ConnectError,),
    SetupTimeout: (ConnectError, TimeoutError),
    ConnectionLost: (ResilientWSError,),
    ClientClosed: (ResilientWSError,),
    ClientStopped: (ClientClosed,),
    RetriesExhausted: (ClientClosed,),
    NotConnected: (ResilientWSError,),
    OutboxFull: (ResilientWSError,),
    OutboxFileError: (ResilientWSError,),
    InboxFull: (ResilientWSError,),
    MessageTooBig: (ResilientWSError,),
    DeliveryUncertain: (ResilientWSError,),
    ConcurrencyError: (ResilientWSError,),
}


@pytest.mark.parametrize("error", PARENTS)
def test_the_tree(error):
    assert error.__bases__ == PARENTS[error]


def test_the_tree_is_complete():
    defined = {
        thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)
    }
    assert defined == {ResilientWSError, *PARENTS}


@pytest.mark.parametrize(
    "error", [ConnectError, OpenTimeout, HandshakeRejected, CertificateRejected, SetupTimeout]
)
def test_a_failed_attempt_carries_what_the_server_said(error):
    bare = error()
    assert str(bare) == "the connection could not be opened"
    assert (bare.status, bare.headers, bare.retry_after, bare.retryable, bare.foreign) == (
        None,
        None,
        None,
        True,
        None,
    )
    full = error(
        "refused", status=429, headers={"A": "secret"}, retry_after=3.0, retryable=False, foreign="X"
    )
    assert str(full) == "refused"
    assert (full.status, full.headers, full.retry_after) == (429, {"A": "secret"}, 3.0)
    assert (full.retryable, full.foreign) == (False, "X")
    assert "secret" not in repr(full)


def test_a_bad_address_does_not_get_better():
    error = InvalidURL(foreign="UnicodeError")
    assert str(error) == "not a ws or wss URL"
    assert (error.retryable, error.foreign, error.status) == (False, "UnicodeError", None)


def test_the_end_carries_its_event_and_what_was_not_delivered():
    event = CloseEvent(code=1008, final=True)
    lost = UndeliveredEvent(message="m", fate=Fate.ABANDONED, accepted_at=1.0, age=2.0)
    error = ClientStopped("stopped", event=event, undelivered=[lost])
    assert (str(error), error.event, error.undelivered) == ("stopped", event, (lost,))
    assert (ClientClosed().event, ClientClosed().undelivered) == (None, ())
    assert str(ClientClosed()) == "the client is closed"


def test_exhaustion_carries_how_much_was_tried():
    event = CloseEvent(code=1006, final=True)
    error = RetriesExhausted(event=event, attempts=3, elapsed=4.5)
    assert (str(error), error.event, error.undelivered) == ("no attempt is left", event, ())
    assert (error.attempts, error.elapsed) == (3, 4.5)
    assert (RetriesExhausted().attempts, RetriesExhausted().elapsed) == (0, 0.0)


def test_a_message_too_big_carries_the_sizes():
    error = MessageTooBig(size=9, limit=8)
    assert (str(error), error.size, error.limit) == ("the message is too big", 9, 8)


@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        OpenTimeout("late", retryable=False),
        HandshakeRejected("no", status=404, retry_after=1.0),
        InvalidURL("bad"),
        RetriesExhausted("done", attempts=2, elapsed=1.5),
        MessageTooBig("big", size=2, limit=1),
    ],
)
def test_errors_keep_their_fields_across_processes(error, duplicate):
    other = duplicate(error)
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))


def _every_class():
    kinds = [ResilientWSError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return [kind for kind in kinds if kind.__module__.startswith("resilient_ws.")]


def test_each_class_has_an_id_of_its_own():
    import resilient_ws  # all modules that define one

    assert {kind.__name__ for kind in _every_class()} >= {"EventsDropped", "SnapshotOutdated", "OpenTimeout"}
    ids = {kind: kind.__dict__["id"] for kind in _every_class()}
    assert len(set(ids.values())) == len(ids)
    for kind, name in ids.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name), kind
        assert name.replace("-", "") == kind.__name__.lower()
    assert resilient_ws.OpenTimeout.id == resilient_ws.OpenTimeout("late").id == "open-timeout"
    assert resilient_ws.InvalidURL.id == "invalid-url"


def test_a_class_of_the_program_may_name_itself():
    class OwnError(ResilientWSError):
        id = "my-own"

    class OtherError(OwnError):
        pass

    assert (OwnError.id, OtherError.id) == ("my-own", "other-error")
