"""What a program may rely on from before the start until after the end."""

import asyncio
import os
import signal
import threading
from datetime import timedelta

import pytest

from resilient_ws import (
    ClientClosed,
    ClientStopped,
    HandshakeRejected,
    NotConnected,
    ReconnectPolicy,
    State,
    WebSocketClient,
)
from resilient_ws.testing import FaultServer, NeverAnswer, Refuse
from tests.integration.contract_servers import echo, websockets_server

pytestmark = pytest.mark.usefixtures("transport")

QUICK = ReconnectPolicy(first_delay=0.02, min_delay=0.01, max_delay=0.05, min_uptime=0.2)
NOWHERE = "ws://127.0.0.1:9/"


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
