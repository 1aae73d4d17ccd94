"""Each `TimeoutError` says what was waited for, for how long, and what stood in the way."""

import asyncio
import contextlib

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ErrorEvent,
    Governor,
    HandshakeRejected,
    Inbox,
    OpenTimeout,
    Outbox,
    ReconnectPolicy,
    RetryEvent,
    SetupTimeout,
    State,
)
from resilient_ws.testing import FakeTransport
from tests.client.kit import URL, settle, stage


def never(message):
    return False


async def forever(*_):
    await asyncio.Event().wait()


async def ready(played):
    await played.client.ready(timeout=2)


async def flush(played):
    await played.client.flush(timeout=2)


async def request(played):
    await played.client.request("question", never, timeout=2)


# --- situations: what is done to a client, and what its texts must name then


async def hung(played):
    pass


async def refused(played):
    await played.until(lambda: len(played.transport.dials) == 3)


async def sent_something(played):
    await played.client.send("hello")
    played.peer.go_silent()
    await settle()


async def sent_without_connection(played):
    played.transport.refuse(HandshakeRejected("HTTP 503", status=503), times=None)
    played.peer.drop()
    await settle()
    await played.client.send("hello")
    await settle(5)


async def paused(played):
    played.peer.send("a", "b", "c")
    await settle()
    assert played.client._supervisor.inbox.paused


async def other_messages(played):
    async def chatter():
        for _ in range(3):
            await asyncio.sleep(0.1)
            played.peer.send("noise")

    played.task = asyncio.create_task(chatter())


def transport_that(how, **options):
    transport = FakeTransport()
    getattr(transport, how)(**options)
    return transport


TABLE = {
    "ready, hung": (
        ready, hung, {"transport": lambda: transport_that("hang", times=None), "ready": False, "open_timeout": None},
        ["not open within timeout=2 s", "connecting", "attempt 1", f"a connection to {URL}"],
    ),
    "ready, provider": (
        ready, hung, {"url": forever, "ready": False, "open_timeout": None},
        ["not open within timeout=2 s", "the URL provider"],
    ),
    "ready, setup": (
        ready, hung, {"setup": forever, "ready": False, "setup_timeout": None},
        ["not open within timeout=2 s", "waits for setup"],
    ),
    "ready, refused": (
        ready, refused,
        {
            "transport": lambda: transport_that(
                "refuse", error=HandshakeRejected("HTTP 503", status=503), times=None
            ),
            "ready": False,
            "reconnect": ReconnectPolicy(wait=wait_fixed(30)),
        },
        ["backoff", "attempt 3", "the next attempt, in ", "HandshakeRejected (HTTP 503)"],
    ),
    "ready, decide": (
        ready, refused,
        {
            "transport": lambda: transport_that("refuse", times=None),
            "ready": False,
            "reconnect": ReconnectPolicy(wait=wait_fixed(0.1), decide=forever),
        },
        ["backoff", "the decision whether to connect again"],
    ),
    "flush, silent peer": (
        flush, sent_something, {},
        ["not flushed within timeout=2 s", "0 messages are pending and 1 are not confirmed", "open"],
    ),
    "flush, no connection": (
        flush, sent_without_connection, {"reconnect": ReconnectPolicy(wait=wait_fixed(30))},
        ["1 messages are pending and 0 are not confirmed", "backoff", "the last failure: ConnectionLost"],
    ),
    "request, silent peer": (
        request, sent_something, {},
        ["no reply within timeout=2 s", "0 messages arrived and none matched", "the client is open"],
    ),
    "request, other messages": (
        request, other_messages, {}, ["no reply within timeout=2 s", "3 messages arrived and none matched"],
    ),
}  # fmt: skip


@pytest.mark.expects_errors
@pytest.mark.parametrize("name", TABLE)
async def test_the_text_says_what_was_waited_for_and_what_stood_in_the_way(name):
    call, situation, options, words = TABLE[name]
    options = dict(options)
    transport = options.pop("transport", FakeTransport)()
    url = options.pop("url", URL)
    if name == "ready, decide":
        situation = hung
    async with stage(transport, url, **options) as played:
        await situation(played)
        with pytest.raises(TimeoutError) as caught:
            await call(played)
        text = str(caught.value)
        for word in words:
            assert word in text, text
        assert caught.value.__cause__ is None


async def test_a_timeout_of_match_itself_is_passed_on():
    def match(message):
        raise TimeoutError("mine")

    async with stage() as played:
        asking = asyncio.create_task(played.client.request("question", match, timeout=5))
        await settle()
        played.peer.send("answer")
        with pytest.raises(TimeoutError, match="^mine$"):
            await asking


async def test_a_request_that_was_never_written_says_so():
    async with stage(outbox=Outbox(max_bytes=100)) as played:
        played.peer.congest()
        for _ in range(10):
            await played.client.send("x" * 10)
        with pytest.raises(TimeoutError, match="the request is pending and has not been written"):
            await played.client.request("x" * 100, never, timeout=2)
        played.peer.recover()


async def test_a_request_of_the_set_up():
    seen = []

    async def setup(connection):
        with pytest.raises(TimeoutError) as caught:
            await connection.request("question", never, timeout=2)
        seen.append(str(caught.value))

    async with stage(setup=setup):
        assert seen == ["no reply within timeout=2 s during the set-up: 0 messages arrived and none matched"]


async def test_reading_that_is_paused_is_named():
    async with stage(inbox=Inbox(max_messages=3)) as played:
        await paused(played)
        assert played.client.stats.waiting_for == (
            "the program: the inbox holds 3 messages that the program does not take, so reading is paused"
        )
        assert "does not take" in played.client.explain().splitlines()[0]


@pytest.mark.expects_errors
async def test_the_timeouts_of_an_attempt_name_the_step():
    transport = FakeTransport()
    transport.hang(times=1)
    async with stage(transport, ready=False, setup=forever, open_timeout=3, setup_timeout=4) as played:
        await played.until(lambda: len(played.of(RetryEvent)) == 2)
        late, slow = (event.cause for event in played.of(RetryEvent))
        assert isinstance(late, OpenTimeout)
        assert str(late) == f"no connection within open_timeout=3.0 s: waited for a connection to {URL}"
        assert isinstance(slow, SetupTimeout)
        assert "setup took longer than setup_timeout=4.0 s; the server sent 0 messages meanwhile" in str(slow)


@pytest.mark.expects_errors
async def test_a_decide_that_takes_too_long_is_named():
    async with stage(reconnect=ReconnectPolicy(wait=wait_fixed(1), decide=forever)) as played:
        played.peer.drop()
        await played.reopened()
        (error,) = played.of(ErrorEvent)
        assert (error.where, str(error.exception)) == ("decide", "decide took longer than 10 s")


# --- what a client waits for, of those that share an origin


@pytest.mark.promise("P9")
@pytest.mark.parametrize("hangs", ["provider", "handshake"])
async def test_what_hangs_does_not_keep_another_client_from_dialing(hangs):
    transport = FakeTransport()
    governor = Governor()
    options = {"governor": governor, "ready": False, "open_timeout": None}
    async with contextlib.AsyncExitStack() as stack:
        if hangs == "handshake":
            transport.hang(times=64)
        for _ in range(64):
            asked = []

            async def provide(attempt, asked=asked):
                asked.append(attempt)
                if len(asked) > 1:
                    await forever()
                return URL

            url = provide if hangs == "provider" else URL
            played = await stack.enter_async_context(stage(transport, url, **options))
            if hangs == "provider":
                await played.until_state(State.OPEN)
                played.peer.drop()  # from now on it knows the origin, and its provider hangs
        await settle(2)
        other = await stack.enter_async_context(stage(transport, **options))
        await settle()
        if hangs == "handshake":
            assert other.client.state is State.CONNECTING
            assert other.client.stats.dials_under_way == 64
            assert "a dial slot for ws://peer.test: 64 dials in progress" in other.client.stats.waiting_for
            assert "a dial slot" in other.client.explain().splitlines()[0]
            await settle(3)
        assert other.client.state is State.OPEN
        assert other.client.stats.waiting_for == ""


async def test_a_hold_of_the_origin_is_named():
    governor = Governor()
    transport = FakeTransport()
    transport.refuse(HandshakeRejected("HTTP 418", status=418, retry_after=30), times=1)
    options = {"governor": governor, "ready": False}
    async with stage(transport, **options) as first:
        await settle()
        assert "the next attempt, in 3" in first.client.stats.waiting_for
        async with stage(transport, **options) as second:
            await settle()
            waits = second.client.stats.waiting_for
            assert "since ws://peer.test has asked for time (HTTP 418)" in waits
            assert waits in second.client.explain()
            await second.until_state(State.OPEN)


@pytest.mark.expects_errors
async def test_a_provider_that_fails_gives_up_its_place():
    transport, governor = FakeTransport(), Governor(max_dials=1)
    calls = []

    async def provide(attempt):
        calls.append(attempt)
        if len(calls) == 2:
            await asyncio.sleep(0.5)
            raise ValueError("no token")
        return URL

    async with stage(transport, provide, governor=governor) as played:
        transport.hang(times=2)
        played.peer.drop()
        await settle(1.2)  # its provider is running, without a place
        async with (
            stage(transport, ready=False, governor=governor) as second,
            stage(transport, ready=False, governor=governor) as third,
        ):
            await played.until(lambda: len(calls) >= 2 and played.client.state is State.BACKOFF)
            await settle(1.5)
            waits = played.client.stats.waiting_for
            assert "1 others waiting" in waits, "it came after the third one, and not before"
            assert "0 others" not in third.client.stats.waiting_for
            assert second.client.state is State.CONNECTING
