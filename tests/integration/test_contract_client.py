"""What a program may rely on of the client's members (section by section of the reference), over real servers."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import attrs
import pytest
import yarl
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve

import resilient_ws
from resilient_ws import (
    Attempt,
    ClientClosed,
    ClientStopped,
    ConcurrencyError,
    ConnectError,
    Connection,
    DeliveryUncertain,
    Endpoint,
    Gap,
    HandshakeRejected,
    Heartbeat,
    Inbox,
    InvalidURL,
    MessageTooBig,
    NotConnected,
    OpenEvent,
    Outbox,
    OutboxFull,
    ReconnectPolicy,
    Retry,
    SetupFailed,
    SetupTimeout,
    State,
    Stats,
    Stop,
    WebSocketClient,
)
from resilient_ws.testing import Accept, FaultServer, NeverAnswer, Refuse

QUICK = ReconnectPolicy(first_delay=0.02, min_delay=0.01, max_delay=0.05, min_uptime=0.2)
NOWHERE = "ws://127.0.0.1:9/"
STATS_FIELDS = """
    attempts opens closes sent received bytes_sent bytes_received confirmed uncertain expired evicted abandoned
    unverified discarded waiting unconfirmed unread confirmation events_dropped
""".split()  # noqa: SIM905 - as the reference lists them


@asynccontextmanager
async def websockets_server(handler, **options) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/chat"


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def aiohttp_server(handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/ws", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
    finally:
        await runner.cleanup()


# ------------------------------------------------------------------------------------------------ construction


def test_everything_but_the_url_is_keyword_only():
    with pytest.raises(TypeError):
        WebSocketClient(NOWHERE, None)


@pytest.mark.parametrize(
    "url", ["http://example.com", "example.com", "", "ws://", [], "ws://host:99999/", "ws://two words/"]
)
def test_an_address_that_is_no_websocket_address_is_refused_at_once(url):
    with pytest.raises(ValueError) as error:
        WebSocketClient(url)
    if url != []:
        assert isinstance(error.value, InvalidURL)
        assert isinstance(error.value, ConnectError)


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat": 0},
        {"heartbeat": -1},
        {"heartbeat": float("nan")},
        {"open_timeout": 0},
        {"setup_timeout": -1},
        {"close_timeout": float("inf")},
        {"max_message_size": 0},
        {"compression": "gzip"},
        {"transport": "carrier-pigeon"},
        {"subprotocols": ["a b"]},
        {"headers": {"X": "a\r\nb: c"}},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_named(options):
    (field,) = options
    with pytest.raises(ValueError, match=field.rstrip("s")):
        WebSocketClient(NOWHERE, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat": "15"},
        {"open_timeout": "10"},
        {"reconnect": 3},
        {"outbox": 10},
        {"inbox": 10},
        {"setup": 1},
        {"on_open": "no"},
        {"fail_fast": "yes"},
        {"max_message_size": 1.5},
        {"subprotocols": "chat"},
        {"session": "aiohttp"},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_named(options):
    (field,) = options
    with pytest.raises(TypeError, match=field):
        WebSocketClient(NOWHERE, **options)


def test_options_take_their_fields_by_position():
    assert (Heartbeat(5, 2).interval, Heartbeat(5, 2).timeout) == (5, 2)
    assert Heartbeat(5, 2, 30).pong_timeout == 30
    assert Outbox(10).max_messages == 10
    assert Inbox(10).max_messages == 10
    assert Retry(3).after == 3
    assert Retry().after is None
    assert Stop("enough").reason == "enough"
    assert isinstance(Stop("enough"), Exception)
    endpoint = Endpoint("ws://h/p", {"A": "b"}, ["chat"])
    assert (str(endpoint.url), dict(endpoint.headers), list(endpoint.subprotocols)) == (
        "ws://h/p",
        {"A": "b"},
        ["chat"],
    )
    assert ReconnectPolicy(2, 1).min_delay == 1
    Heartbeat.expect(60)
    Heartbeat.app("ping", lambda message: message == "pong", 5, 2)


def test_a_duration_may_be_a_timedelta_everywhere():
    second = timedelta(seconds=1)
    WebSocketClient(
        NOWHERE,
        open_timeout=second,
        setup_timeout=second,
        close_timeout=second,
        heartbeat=second,
        outbox=Outbox(ttl=second, confirm_interval=second),
        reconnect=ReconnectPolicy(second, second, 2 * second, max_elapsed=second, min_uptime=second),
    )
    assert Heartbeat(5 * second, 2 * second, 9 * second, idle_timeout=second).interval == 5.0
    Heartbeat.expect(second)
    Heartbeat.app("a", bool, second, second)
    assert Retry(second).after == 1.0


def test_nothing_secret_is_in_a_repr():
    client = WebSocketClient(
        "ws://127.0.0.1:9/path?token=hunter2#hunter2",
        headers={"Authorization": "hunter2"},
        subprotocols=["hunter2"],
        proxy="http://user:hunter2@127.0.0.1:1",
    )
    assert "hunter2" not in repr(client) + client.explain() + repr(
        Endpoint("ws://h/?t=hunter2", {"a": "hunter2"})
    )
    endpoint = Endpoint("ws://hunter2@h/?t=hunter2", {"a": "hunter2"}, ["hunter2"])
    assert "hunter2" not in str(endpoint) + repr(endpoint)
    opened = OpenEvent(
        attempt=1, endpoint=endpoint, subprotocol="hunter2", headers={"a": "hunter2"}, first=True
    )
    assert "hunter2" not in repr(opened)


# ------------------------------------------------------------------------------------------- before start, after


async def test_before_start_what_waits_raises_and_what_is_sent_is_kept():
    async with websockets_server(echo) as url:
        client = WebSocketClient(url)
        assert client.state is State.IDLE
        assert client.latency is None
        assert client.close_event is None
        for call in (
            client.ready(),
            client.recv(),
            client.request("a", bool, 1),
            client.send("a", confirm=True),
            client.send("a", queue=False),
            anext(aiter(client)),
        ):
            with pytest.raises(NotConnected):
                await call
        await client.send("one")
        await client.send_json({"two": 2})
        with pytest.raises(NotConnected):
            await client.flush()
        client.subscribe("k", "sub", "unsub")
        assert client.stats.waiting == 2
        client.start()
        client.start()
        await client.ready(5)
        assert [await client.recv() for _ in range(3)] == ["sub", "one", '{"two":2}']
        await client.close()
        assert client.state is State.CLOSED


async def test_after_close_every_call_raises_client_closed():
    async with websockets_server(echo) as url:
        async with WebSocketClient(url) as client:
            pass
        assert client.close_event.final
        assert client.close_event.code == 1000
        calls = {
            "start": client.start,
            "subscribe": lambda: client.subscribe("a", "b"),
            "reconnect_now": client.reconnect_now,
        }
        for call in calls.values():
            with pytest.raises(ClientClosed):
                call()
        for call in (
            client.ready(),
            client.send("a"),
            client.send("a", confirm=True),
            client.send("a", queue=False),
            client.send_json(1),
            client.recv(),
            client.request("a", bool, 1),
            client.flush(),
        ):
            with pytest.raises(ClientClosed) as error:
                await call
            assert error.value.event is client.close_event
        assert [message async for message in client] == []
        assert [event async for event in client.events()] == []
        await client.close()


async def test_closing_before_start_is_a_final_close():
    client = WebSocketClient(NOWHERE)
    seen = []
    client.on_close(seen.append)
    await client.send("kept")
    await client.close()
    assert client.state is State.CLOSED
    assert client.close_event.final
    assert client.close_event.opened_for is None
    assert client.stats.abandoned == 1
    assert seen == [client.close_event]


async def test_ready_times_out_and_the_client_goes_on():
    async with FaultServer(script=[NeverAnswer()]) as server:
        client = WebSocketClient(server.url, open_timeout=0.3, reconnect=QUICK)
        client.start()
        with pytest.raises(TimeoutError):
            await client.ready(timedelta(milliseconds=50))
        await client.ready(5)
        await client.close()


async def test_when_the_first_connection_is_refused_for_good_async_with_raises_and_closes():
    async with FaultServer(default=Refuse(403)) as server:
        client = WebSocketClient(server.url)
        with pytest.raises(ClientStopped) as error:
            async with client:
                pytest.fail("it is not connected")
        assert client.state is State.CLOSED
        assert isinstance(error.value.__cause__, HandshakeRejected)
        assert error.value.__cause__.status == 403
        assert error.value.event is client.close_event


async def test_fail_fast_raises_the_first_failure():
    async with FaultServer(default=Refuse(503, retry_after=7)) as server:
        client = WebSocketClient(server.url, fail_fast=True)
        with pytest.raises(HandshakeRejected) as error:
            async with client:
                pytest.fail("it is not connected")
        assert (error.value.status, error.value.retry_after) == (503, 7)
        assert error.value.retryable
        assert error.value.headers["Retry-After"] == "7"
        assert client.state is State.CLOSED


# ----------------------------------------------------------------------------------------------------- messages


async def test_text_and_binary_keep_their_types():
    async with websockets_server(echo) as url, WebSocketClient(yarl.URL(url)) as client:
        for message in ("text", b"bytes", bytearray(b"array"), memoryview(b"view"), "", b""):
            await client.send(message)
            got = await client.recv()
            assert got == (message if isinstance(message, str) else bytes(message))
            assert type(got) is (str if isinstance(message, str) else bytes)
        for wrong in (None, 1, {"a": 1}, ["a"]):
            with pytest.raises(TypeError):
                await client.send(wrong)
        assert client.stats.sent == client.stats.received == 6


async def test_two_consumers_at_once_are_refused():
    async with websockets_server(echo) as url, WebSocketClient(url) as client:
        waiting = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError):
            await client.recv()
        with pytest.raises(ConcurrencyError):
            await anext(aiter(client))
        await client.send("a")
        assert await waiting == "a"


async def test_while_callbacks_consume_recv_is_refused():
    async with websockets_server(echo) as url:
        got = asyncio.Queue()
        async with WebSocketClient(url, on_message=got.put) as client:
            with pytest.raises(ConcurrencyError):
                await client.recv()
            await client.send("a")
            assert await got.get() == "a"
        async with WebSocketClient(url) as client:

            @client.on_message
            def take(message):
                got.put_nowait(message)

            with pytest.raises(ConcurrencyError):
                await client.recv()
            take.remove()
            await client.send("b")
            assert await client.recv() == "b"


async def test_a_client_belongs_to_one_loop():
    async with websockets_server(echo) as url, WebSocketClient(url) as client:

        def elsewhere():
            errors = []
            for call in (
                client.send,
                lambda _: client.recv(),
                lambda _: client.ready(),
                lambda _: client.close(),
            ):
                try:
                    asyncio.run(call("a"))
                except resilient_ws.ResilientWSError as error:
                    errors.append(error)
            return errors

        errors = await asyncio.to_thread(elsewhere)
        assert [type(error) for error in errors] == [ConcurrencyError] * 4
        await client.send("still there")
        assert await client.recv() == "still there"


async def test_a_message_over_the_bound_is_refused_and_nothing_is_lost():
    async with websockets_server(echo) as url, WebSocketClient(url, outbox=Outbox(max_bytes=100)) as client:
        with pytest.raises(MessageTooBig):
            await client.send("x" * 101)
        await client.send("x" * 100)
        assert len(await client.recv()) == 100


async def test_request_takes_its_answer_and_nothing_else():
    async def server(connection):
        async for message in connection:
            await connection.send("before")
            await connection.send(f"answer to {message}")
            await connection.send("after")

    async with websockets_server(server) as url, WebSocketClient(url) as client:
        assert await client.request("x", lambda m: m.startswith("answer"), 2) == "answer to x"
        assert [await client.recv(), await client.recv()] == ["before", "after"]
        with pytest.raises(TimeoutError):
            await client.request("y", lambda _: False, timedelta(milliseconds=50))


async def test_request_on_a_drop_is_uncertain():
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            connection = await server.connection()
            asking = asyncio.create_task(client.request("x", bool, 5))
            assert await connection.recv() == "x"
            connection.rst()
            with pytest.raises(DeliveryUncertain):
                await asking


async def test_messages_go_on_across_reconnects_with_gaps():
    async def server(connection):
        await connection.send("hello")
        await connection.close(1001, "away")

    async with websockets_server(server) as url:
        client = WebSocketClient(url, reconnect=QUICK)
        items = []
        async with client:
            async for item in client.with_gaps():
                items.append(item)
                if items.count("hello") == 3:
                    break
    assert items[0] == "hello"
    gaps = [item for item in items if isinstance(item, Gap)]
    assert [type(item) for item in items] == [str, Gap, str, Gap, str]
    assert all(
        (gap.close.code, gap.close.reason, gap.count, gap.dropped) == (1001, "away", 1, 0) for gap in gaps
    )
    assert all(gap.downtime > 0 for gap in gaps)
    assert not any(gap.resumed for gap in gaps)


async def test_adjacent_gaps_merge():
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            items = client.with_gaps()
            for _ in range(3):
                (await server.connection()).rst()
            await (await server.connection()).send("at last")
            gap = await anext(items)
            assert isinstance(gap, Gap)
            assert gap.count == 3
            assert await anext(items) == "at last"


async def test_the_iteration_ends_quietly_only_when_we_closed():
    async def server(connection):
        await connection.send("one")
        await connection.send("two")
        await connection.close(4001, "gone")

    async with websockets_server(server) as url:
        got = []
        with pytest.raises(ClientClosed) as error:
            async with WebSocketClient(url, reconnect=False) as client:
                async for message in client:
                    got.append(message)  # noqa: PERF401 - it raises at the end
        assert got == ["one", "two"]
        assert (error.value.event.code, error.value.event.reason) == (4001, "gone")
        with pytest.raises(ClientClosed):
            await client.recv()


async def test_events_begin_with_the_call_and_end_with_the_final_close():
    async with websockets_server(echo) as url:
        client = WebSocketClient(url)
        early = client.events()
        client.start()
        await client.ready(5)
        late = client.events()
        await client.close()
        names = [type(event).__name__ async for event in early]
        assert names == ["StateEvent", "StateEvent", "OpenEvent", "StateEvent", "StateEvent", "CloseEvent"]
        assert [type(event).__name__ async for event in late] == ["StateEvent", "StateEvent", "CloseEvent"]


async def test_subscriptions_are_sent_now_and_on_each_connection():
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            one = await server.connection()
            count = iter(range(100))
            client.subscribe("a", "sub a", "unsub a")
            client.subscribe("b", lambda: f"sub b {next(count)}")
            assert [await one.recv(), await one.recv()] == ["sub a", "sub b 0"]
            client.subscribe("a", "sub a again", "unsub a")
            one_got = await one.recv()
            if one_got == "unsub a":
                one_got = await one.recv()
            assert one_got == "sub a again"
            client.subscribe("c", "sub c", "unsub c")
            client.unsubscribe("c")
            assert [await one.recv(), await one.recv()] == ["sub c", "unsub c"]
            one.rst()
            two = await server.connection()
            assert sorted([await two.recv(), await two.recv()]) == ["sub a again", "sub b 1"]
            await client.send("plain")
            assert await two.recv() == "plain"


async def test_reconnect_now_replaces_a_live_connection():
    async with FaultServer() as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            await server.connection()
            client.reconnect_now()
            await server.connection()
            await client.ready(5)
            assert client.stats.opens == 2
            assert client.close_event is not None


async def test_reconnect_now_ends_a_long_back_off():
    policy = ReconnectPolicy(first_delay=60, min_delay=0.05, max_delay=60)
    async with FaultServer(script=[Refuse(503, retry_after=30)]) as server:
        client = WebSocketClient(server.url, reconnect=policy)
        client.start()
        await server.until(lambda: server.attempt_count == 1)
        while client.state is not State.BACKOFF:
            await asyncio.sleep(0.01)
        client.reconnect_now()
        await client.ready(5)
        await client.close()


async def test_stats_have_their_fields_and_add_up():
    async with (
        aiohttp_server(aiohttp_echo) as url,
        WebSocketClient(url, heartbeat=Heartbeat(0.1, 1)) as client,
    ):
        await client.send("abc")
        await client.send("défg", confirm=True)
        assert [await client.recv(), await client.recv()] == ["abc", "défg"]
        await client.flush(timedelta(seconds=2))
        stats = client.stats
        names = attrs.fields_dict(Stats)
        for name in STATS_FIELDS:
            assert name in names
        assert (stats.attempts, stats.opens, stats.sent, stats.received, stats.confirmed) == (1, 1, 2, 2, 2)
        assert (stats.bytes_sent, stats.bytes_received) == (8, 8)
        assert (stats.waiting, stats.unconfirmed, stats.unread, stats.confirmation) == (0, 0, 0, "on")
        with pytest.raises(AttributeError):
            stats.sent = 3
        assert client.latency is not None
        assert 0 < client.latency < 1


async def aiohttp_echo(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await (ws.send_str if message.type.name == "TEXT" else ws.send_bytes)(message.data)
    return ws


# ------------------------------------------------------------------------------------------------------- ending


@pytest.mark.parametrize(
    "arguments, error",
    [
        ((1005,), ValueError),
        ((999,), ValueError),
        ((5000,), ValueError),
        ((1000, "é" * 62), ValueError),
        (("a",), TypeError),
    ],
)
async def test_close_refuses_what_may_not_be_sent(arguments, error):
    async with websockets_server(echo) as url, WebSocketClient(url) as client:
        with pytest.raises(error):
            await client.close(*arguments)
        await client.send("still open")
        assert await client.recv() == "still open"


async def test_close_says_code_and_reason_and_wakes_everybody():
    seen = asyncio.get_running_loop().create_future()

    async def server(connection):
        await connection.wait_closed()
        seen.set_result((connection.close_code, connection.close_reason))

    async with websockets_server(server) as url:
        client = WebSocketClient(url)
        client.start()
        await client.ready(2)
        waiting = [
            asyncio.create_task(client.recv()),
            asyncio.create_task(client.request("x", lambda _: False, None)),
            asyncio.create_task(client.run()),
        ]
        await asyncio.sleep(0.05)
        await client.close(4321, "é" * 61)
        assert await seen == (4321, "é" * 61)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [ClientClosed, ClientClosed, type(None)]
        event = client.close_event
        assert (event.code, event.was_clean, event.sent_code, event.origin.value) == (
            4321,
            True,
            4321,
            "local",
        )
        assert event.final
        assert not event.will_retry
        assert not event.synthesized


async def test_a_callback_may_close():
    async def server(connection):
        await connection.send("stop")
        await connection.wait_closed()

    async with websockets_server(server) as url:
        client = WebSocketClient(url)

        @client.on_message
        async def done(message):
            await client.close(1001)
            assert client.state is not State.OPEN

        await asyncio.wait_for(client.run(), 3)
        assert client.close_event.sent_code == 1001


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_run_ends_on_a_signal_and_restores_the_handler(number):
    def on_open(_):
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        default = signal.getsignal(number)
        async with websockets_server(echo) as url:
            client = WebSocketClient(url, on_open=on_open)
            await asyncio.wait_for(client.run(), 3)
            assert client.state is State.CLOSED
            assert signal.getsignal(number) is default
    finally:
        signal.signal(number, before)


async def test_run_leaves_a_handler_of_the_program_alone():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        async with websockets_server(echo) as url:
            client = WebSocketClient(url)
            running = asyncio.create_task(client.run())
            while client.state is not State.OPEN:
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            await client.send("still here")
            assert await client.recv() == "still here"
            assert seen == [signal.SIGTERM]
            await client.close()
            await running
    finally:
        signal.signal(signal.SIGTERM, before)


def test_run_in_another_thread_leaves_signals_alone():
    results = []

    async def main():
        async with websockets_server(echo) as url:
            client = WebSocketClient(url)

            @client.on_open
            async def done(_):
                await client.close()

            await asyncio.wait_for(client.run(), 3)
            results.append(client.state)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(5)
    assert results == [State.CLOSED]


async def test_run_raises_what_ended_the_client():
    async with FaultServer(default=Refuse(404)) as server:
        with pytest.raises(ClientStopped) as error:
            await WebSocketClient(server.url).run(signals=())
        assert error.value.__cause__.status == 404


async def test_each_callback_may_be_an_argument_and_is_told_in_order():
    told = []
    events = ("open", "close", "reconnect", "retry", "undelivered", "error", "state")
    arguments = {f"on_{name}": (lambda event, name=name: told.append((name, event))) for name in events}
    async with FaultServer() as server:
        async with WebSocketClient(server.url, reconnect=QUICK, **arguments) as client:
            (await server.connection()).rst()
            await server.connection()
            await client.ready(2)
            while client.stats.opens < 2:
                await asyncio.sleep(0.01)
    names = [name for name, event in told if name != "state"]
    assert names == ["open", "close", "retry", "open", "reconnect", "close"]
    opens = [event for name, event in told if name == "open"]
    assert [event.first for event in opens] == [True, False]
    assert [event.opened_for is not None for name, event in told if name == "close"] == [True, True]
    first = next(event for name, event in told if name == "close")
    assert (first.code, first.reason, first.was_clean, first.synthesized, first.sent_code) == (
        1006,
        "",
        False,
        True,
        None,
    )
    assert (first.origin.value, first.will_retry, first.final) == ("network", True, False)
    assert first.cause is not None
    assert first.rule
    assert first.retry_in is not None
    back = next(event for name, event in told if name == "reconnect")
    assert back.close is first
    assert back.attempts == 1
    assert back.downtime > 0
    assert told[-1] == ("close", client.close_event)


@pytest.mark.expects_errors
async def test_a_raising_callback_is_reported_and_harms_nobody():
    errors = []

    def broken(_):
        msg = "mine"
        raise KeyError(msg)

    async with websockets_server(echo) as url:
        async with WebSocketClient(url, on_open=broken, on_error=errors.append) as client:
            await client.send("a")
            assert await client.recv() == "a"
    assert [type(error.exception) for error in errors] == [KeyError]
    assert "on_open" in errors[0].where
    assert type(errors[0].event).__name__ == "OpenEvent"


async def test_a_slow_callback_does_not_hold_up_close():
    async def slow(_):
        await asyncio.sleep(60)

    async with websockets_server(echo) as url:
        client = WebSocketClient(url, on_open=slow, close_timeout=timedelta(milliseconds=200))
        client.start()
        await client.ready(2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.close()
        assert loop.time() - began < 1
        assert client.close_event.final


async def test_close_returns_after_the_callbacks_have_run():
    order = []

    async def slow(_):
        await asyncio.sleep(0.05)
        order.append("told")

    async with websockets_server(echo) as url:
        async with WebSocketClient(url, on_close=slow):
            pass
        order.append("closed")
    assert order == ["told", "closed"]


async def test_cancelled_receives_lose_nothing():
    async with websockets_server(echo) as url, WebSocketClient(url) as client:
        expected = [str(number) for number in range(100)]
        for message in expected:
            await client.send(message)
        got = []
        while len(got) < len(expected):
            try:
                async with asyncio.timeout(0.0005):
                    got.append(await client.recv())
            except TimeoutError:
                continue
        assert got == expected


# ------------------------------------------------------------------------------------------------------- set-up


async def test_set_up_has_its_members_and_leaves_the_rest_in_order():
    kept = []

    async def server(connection):
        await connection.send("hello")
        assert await connection.recv() == "auth"
        for message in ("early", "ok", "late 1", "late 2"):
            await connection.send(message)
        await echo(connection)

    async def setup(connection):
        kept.append(connection)
        assert isinstance(connection, Connection)
        assert connection.first
        assert connection.attempt == 1
        assert connection.endpoint.url is not None
        assert connection.subprotocol == "chat"
        assert connection.headers["Upgrade"] == "websocket"
        assert await connection.recv() == "hello"
        connection.heartbeat(interval=5)
        assert await connection.request("auth", lambda m: m == "ok", 2) == "ok"

    async with websockets_server(server, subprotocols=["chat"]) as url:
        async with WebSocketClient(url, setup=setup, subprotocols=["chat", "other"]) as client:
            await client.send("mine")
            assert [await client.recv() for _ in range(4)] == ["early", "late 1", "late 2", "mine"]
            for call in (kept[0].send("x"), kept[0].recv(), kept[0].request("x", bool, 1)):
                with pytest.raises(resilient_ws.ResilientWSError):
                    await call


async def test_set_up_that_fails_is_a_failed_attempt():
    tries = []
    retries = []

    async def setup(connection):
        tries.append(connection.attempt)
        if len(tries) == 1:
            msg = "wrong token"
            raise LookupError(msg)
        if len(tries) == 2:
            await asyncio.sleep(5)

    async with websockets_server(echo) as url:
        client = WebSocketClient(
            url, setup=setup, setup_timeout=0.1, reconnect=QUICK, on_retry=retries.append
        )
        async with client:
            assert client.stats.opens == 1
    assert tries == [1, 2, 3]
    assert [type(retry.cause) for retry in retries] == [SetupFailed, SetupTimeout]
    assert isinstance(retries[0].cause.__cause__, LookupError)
    assert isinstance(retries[1].cause, TimeoutError)


async def test_stop_raised_in_set_up_ends_the_client():
    async def setup(connection):
        raise Stop("banned")

    async with websockets_server(echo) as url:
        with pytest.raises(ClientStopped, match="banned") as error:
            async with WebSocketClient(url, setup=setup):
                pytest.fail("it is not connected")
        assert error.value.event.opened_for is None


async def test_a_provider_is_asked_for_each_attempt():
    asked = []

    async with FaultServer(script=[Refuse(503), Accept(subprotocols=["v2"])]) as server:

        async def provider(attempt):
            assert isinstance(attempt, Attempt)
            asked.append(attempt)
            if len(asked) == 1:
                return yarl.URL(server.url)
            return Endpoint(server.url + "?token=s3cret", {"X-Token": "s3cret"}, ["v2"])

        async with WebSocketClient(provider, reconnect=QUICK, headers={"X-Mine": "1"}) as client:
            connection = await server.connection()
            request = server.attempts[-1].request
            assert request.headers["X-Token"] == "s3cret"
            assert request.headers["X-Mine"] == "1"
            assert "s3cret" not in client.explain()
            connection.rst()
            await server.connection()
    assert [attempt.number for attempt in asked[:2]] == [1, 2]
    assert asked[0].last_failure is asked[0].last_close is None
    assert asked[1].last_failure.status == 503
    assert isinstance(asked[1].last_failure.error, HandshakeRejected)
    assert asked[2].last_close.code == 1006


@pytest.mark.parametrize("how", ["raise", "return"])
async def test_a_provider_may_say_stop(how):
    async def provider(attempt):
        if how == "raise":
            raise Stop("no account")
        return Stop("no account")

    with pytest.raises(ClientStopped, match="no account"):
        async with WebSocketClient(provider):
            pytest.fail("it is not connected")


async def test_one_line_is_logged_per_transition_without_secrets(caplog):
    caplog.set_level(logging.DEBUG, "resilient_ws")
    async with FaultServer() as server:
        async with WebSocketClient(
            server.url + "?token=s3cret", reconnect=QUICK, headers={"Authorization": "s3cret"}
        ) as client:
            (await server.connection()).rst()
            await server.connection()
            while client.stats.opens < 2:
                await asyncio.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("resilient_ws")]
    assert lines
    assert not any("s3cret" in line for line in lines)
    assert len(lines) < 20, lines


async def test_the_environment_names_the_proxy_only_when_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ws_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with websockets_server(echo) as url:
        async with WebSocketClient(url):
            pass
        with pytest.raises(ConnectError):
            async with WebSocketClient(url, proxy="env", fail_fast=True):
                pytest.fail("it went past the proxy")


async def test_a_full_outbox_raises_out_of_open():
    client = WebSocketClient(NOWHERE, outbox=Outbox(2))
    await client.send("1")
    await client.send("2")
    with pytest.raises(OutboxFull):
        await client.send("3")
    await client.close()
