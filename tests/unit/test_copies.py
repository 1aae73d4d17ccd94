"""Every public exception, event and value can be pickled, copied and copied deeply, whatever foreign objects it holds."""

import copy
import inspect
import pickle
import ssl
from pathlib import Path

import attrs
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

import resilient_ws
from resilient_ws import (
    CloseEvent,
    ConnectionLost,
    Endpoint,
    ErrorEvent,
    Fate,
    HandshakeRejected,
    OpenEvent,
    State,
    UndeliveredEvent,
)
from resilient_ws.api.record import Record


class OddError(Exception):
    """Can be pickled, and not be read back."""

    def __init__(self, one, *, two):
        super().__init__(one)
        self.two = two


class SealedError(Exception):
    def __reduce__(self):
        raise RuntimeError("never")


class HolderError(Exception):
    def __init__(self):
        super().__init__("holds")
        self.lock = (one for one in ())


FOREIGN = [
    None,
    OSError(111, "refused"),
    ssl.SSLError(1, "bad"),
    OddError("x", two=2),
    SealedError("s"),
    HolderError(),
]
HEADERS = CIMultiDictProxy(CIMultiDict([("A", "1"), ("a", "2")]))
ENDPOINT = Endpoint("wss://u:p@host.test/x?y", HEADERS, ["s"])
CLOSE = CloseEvent(code=1006, cause=ConnectionLost("lost"))
FATE = UndeliveredEvent(message=b"m", fate=Fate.EXPIRED, accepted_at=1.0, age=2.0)

VALUES = {
    "message": "text", "problem": "a problem", "reason": "a reason", "path": Path("/outbox"), "sequence": 3, "needed": 4,
    "count": 5, "status": 403, "headers": HEADERS, "retry_after": 2.5, "retryable": False, "foreign": "Foreign",
    "event": CLOSE, "undelivered": [FATE], "size": 7, "limit": 6, "attempts": 8, "elapsed": 9.5,
}  # fmt: skip
FIELDS = {
    "endpoint": ENDPOINT, "close": CLOSE, "old": State.OPEN, "new": State.BACKOFF, "message": b"m", "fate": Fate.EXPIRED,
    "exception": ConnectionLost("x"), "where": "on_open", "code": 1006, "attempt": 1, "delay": 1.0, "attempts": 1,
    "downtime": 1.0, "accepted_at": 1.0, "age": 2.0, "number": 3, "url": "ws://host.test", "value": {"a": [1]},
    "sequence": 4, "headers": HEADERS,
}  # fmt: skip

PUBLIC = [vars(resilient_ws)[name] for name in resilient_ws.__all__]
ERRORS = [one for one in PUBLIC if inspect.isclass(one) and issubclass(one, BaseException)]
RECORDS = [one for one in PUBLIC if inspect.isclass(one) and issubclass(one, Record)]
WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "oldest pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def made(kind):
    """One with something in every field that has to be given, and in those that hold foreign objects."""
    if issubclass(kind, BaseException):
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        named = {one.name: VALUES[one.name] for one in parameters if one.name in VALUES}
        first = [named.pop(one.name) for one in parameters if one.kind == one.POSITIONAL_OR_KEYWORD]
        return kind(*(first or ["text"]), **named)
    fields = {
        field.name: FIELDS[field.name]
        for field in attrs.fields(kind)
        if field.init and field.name in FIELDS and (field.default is attrs.NOTHING or field.name == "headers")
    }
    return kind(**fields)


def shown(error):
    cause = error.__cause__
    return (type(error), str(error), repr(error), error.args, cause and (type(cause), str(cause)))


def test_the_lists_are_not_empty():
    assert len(ERRORS) > 15
    assert len(RECORDS) > 15


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_exception_keeps_everything(kind, way):
    error = made(kind)
    error.__cause__ = OSError(5, "cause")
    error.add_note("a note")
    same = WAYS[way](error)
    assert same is not error
    if not issubclass(kind, resilient_ws.ResilientWSError):
        error.__cause__ = same.__cause__  # a verdict; what pickle does with a cause is Python's own business
    assert shown(same) == shown(error)
    assert vars(same).keys() == vars(error).keys()
    for name, value in vars(error).items():
        assert repr(getattr(same, name)) == repr(value) or getattr(same, name) == value, name
    if vars(error).get("headers"):
        assert same.headers.getall("A") == ["1", "2"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_an_event_keeps_everything(kind, way):
    record = made(kind)
    same = WAYS[way](record)
    assert repr(same) == repr(record)
    for field in attrs.fields(kind):
        before, after = getattr(record, field.name), getattr(same, field.name)
        assert after == before or repr(after) == repr(before), field.name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cause", FOREIGN, ids=lambda cause: type(cause).__name__)
def test_whatever_foreign_exception_is_inside_it_can_be_copied(cause, way):
    rejected = HandshakeRejected("no", status=403, headers=HEADERS)
    rejected.__cause__ = cause
    outer = ConnectionLost("outer")
    outer.__cause__ = rejected
    for value, inner in [
        (CloseEvent(code=1006, cause=cause), lambda value: value.cause),
        (ErrorEvent(where="on_open", exception=cause, event=CLOSE), lambda value: value.exception),
        (rejected, lambda value: value.__cause__),
        (outer, lambda value: value.__cause__.__cause__),
        (OpenEvent(attempt=1, endpoint=ENDPOINT, headers=HEADERS), lambda _: cause),
    ]:
        same = WAYS[way](value)
        assert type(same) is type(value)
        told = inner(same)
        if type(told) is type(cause):
            assert str(told) == str(cause)
        else:
            assert str(told) == f"{type(cause).__qualname__}: {cause}"


def test_a_deep_copy_shares_nothing_that_can_be_changed():
    snapshot = resilient_ws.Snapshot({"a": [1]}, 1)
    same = copy.deepcopy(snapshot)
    same.value["a"].append(2)
    assert snapshot.value == {"a": [1]}
    assert copy.copy(snapshot).value is snapshot.value
