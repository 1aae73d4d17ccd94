"""What a program hands over to be called must be callable with what it will be called with; else it is refused at once."""

import asyncio
import functools
from unittest import mock

import attrs
import pytest

from resilient_ws import (
    ClientStopped,
    Heartbeat,
    ReconnectPolicy,
    Retry,
    SnapshotThenDeltas,
    State,
    WebSocketClient,
)
from resilient_ws.testing import FakeTransport
from tests.client.kit import URL, stage

CALLBACKS = [
    "on_open", "on_close", "on_reconnect", "on_retry", "on_message", "on_undelivered", "on_error", "on_state",
]  # fmt: skip


def client(url=URL, **options):
    return WebSocketClient(url, transport=FakeTransport(), **options)


ONE = {
    **{f"argument {name}": lambda function, name=name: client(**{name: function}) for name in CALLBACKS},
    **{f"method {name}": lambda function, name=name: getattr(client(), name)(function) for name in CALLBACKS},
    "setup": lambda function: client(setup=function),
    "provider": lambda function: client(function),
    "decide": lambda function: ReconnectPolicy(decide=function),
    "wait": lambda function: ReconnectPolicy(wait=function),
    "stop": lambda function: ReconnectPolicy(stop=function),
    "is_reply": lambda function: Heartbeat.app("x", function),
    "parse": lambda function: deltas(parse=function),
    "sequence": lambda function: deltas(sequence=function),
    "snapshot_sequence": lambda function: deltas(snapshot_sequence=function),
}
NONE = {
    "message": lambda function: Heartbeat.app(function, lambda _: True),
    "subscribe": lambda function: client().subscribe("key", function),
    "fetch_snapshot": lambda function: deltas(fetch_snapshot=function),
}


def deltas(**options):
    given = {"fetch_snapshot": lambda: None, "parse": len, "sequence": len, "snapshot_sequence": len}
    return SnapshotThenDeltas(client(), **{**given, **options})


class Things:
    def method(self, event):
        pass

    def short(self):
        pass

    @classmethod
    def of_class(cls, event):
        pass

    @staticmethod
    def static(event):
        pass

    def __call__(self, event):
        pass


class Silent:
    def __call__(self):
        pass


class Odd:
    """To look at its signature raises."""

    @property
    def __signature__(self):
        raise RuntimeError("no")

    def __call__(self, *_):
        pass


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function("injected", *arguments)

    return wrapper


@wrapped
def injected(what, event):
    pass


GOOD = [
    lambda event: None,
    lambda *events: None,
    lambda event, more=None: None,
    lambda event=None, *, named=1: None,
    functools.partial(lambda one, event: None, 1),
    functools.partial(lambda event, *, named: None, named=1),
    Things().method,
    Things.of_class,
    Things.static,
    Things(),
    injected,
    [].append,
    print,
    {}.get,
    str,
    mock.Mock(),
    mock.MagicMock(),
    Odd(),
]
BAD = [
    lambda: None,
    lambda one, two: None,
    lambda event, *, named: None,
    functools.partial(lambda event: None, 1),
    functools.partial(lambda one, two, three: None, 1),
    Things().short,
    Things.method,
    Silent(),
]


@pytest.mark.parametrize("where", ONE)
@pytest.mark.parametrize("function", GOOD, ids=range(len(GOOD)))
def test_what_takes_one_argument_is_accepted(where, function):
    ONE[where](function)


@pytest.mark.parametrize("where", ONE)
@pytest.mark.parametrize("function", BAD, ids=range(len(BAD)))
def test_what_does_not_is_refused_and_named(where, function):
    inner = function.func if isinstance(function, functools.partial) else function
    name = getattr(inner, "__qualname__", type(inner).__name__)
    with pytest.raises(TypeError, match="must take one argument, but") as refused:
        ONE[where](function)
    assert name in str(refused.value)


@pytest.mark.parametrize("where", NONE)
def test_what_is_called_without_arguments_is_checked_too(where):
    for good in (lambda: "x", lambda *_: "x", lambda word="x": word, functools.partial(str, "x")):
        NONE[where](good)
    with pytest.raises(TypeError, match="must take no arguments, but .*<lambda>"):
        NONE[where](lambda one: "x")


@pytest.mark.parametrize("name", CALLBACKS)
def test_async_ones_are_checked_alike(name):
    async def short():
        pass

    async def right(event):
        pass

    getattr(client(), name)(right)
    getattr(client(), name)(mock.AsyncMock())
    with pytest.raises(TypeError, match=f"{name} must take one argument, but .*short"):
        getattr(client(), name)(short)


async def test_a_request_and_its_match():
    async with stage() as played:
        with pytest.raises(TypeError, match="match must take one argument"):
            await played.client.request("x", lambda: True)
        assert played.received == []


@attrs.define
class Awaitable:
    value: object

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.value


@pytest.mark.parametrize(
    "give",
    [
        lambda value: asyncio.sleep(0, value),
        lambda value: asyncio.ensure_future(asyncio.sleep(0, value)),
        Awaitable,
    ],
)
async def test_setup_and_provider_may_return_any_awaitable(give):
    async with stage(url=lambda _: give(URL), setup=lambda _: give(None)) as played:
        assert played.client.state is State.OPEN


@pytest.mark.promise("P11")
@pytest.mark.parametrize("decide", [None, lambda _: Retry()])
@pytest.mark.parametrize("returned", [None, URL, 5, object()])
@pytest.mark.parametrize("which", ["setup", "provider"])
async def test_one_that_returns_something_else_ends_the_client_at_once(which, returned, decide):
    def mistaken(_):
        return returned

    options = {"setup": mistaken} if which == "setup" else {"url": mistaken}
    policy = ReconnectPolicy(decide=decide)
    async with stage(ready=False, reconnect=policy, **options) as played:
        with pytest.raises(ClientStopped) as stopped:
            await played.client.ready(1)
        cause = stopped.value.__cause__
        assert isinstance(cause, TypeError)
        assert "mistaken() returned" in str(cause)
        assert "awaitable" in str(cause)
        assert played.client.stats.attempts == 1
        assert played.client.state is State.CLOSED
        assert played.client.close_event.cause is cause
        assert "awaitable" in played.client.close_event.rule
