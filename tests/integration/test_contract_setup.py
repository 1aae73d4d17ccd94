"""What a program may rely on in its set-up and its URL provider, and what is logged."""

import asyncio
import logging

import pytest
import yarl

import resilient_ws
from resilient_ws import (
    Attempt,
    ClientStopped,
    ConnectError,
    Connection,
    Endpoint,
    HandshakeRejected,
    Heartbeat,
    Outbox,
    OutboxFull,
    ReconnectPolicy,
    SetupFailed,
    SetupTimeout,
    Stop,
    WebSocketClient,
)
from resilient_ws.testing import Accept, FaultServer, Refuse
from tests.integration.contract_servers import echo, websockets_server

QUICK = ReconnectPolicy(first_delay=0.02, min_delay=0.01, max_delay=0.05, min_uptime=0.2)
NOWHERE = "ws://127.0.0.1:9/"


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


async def test_set_up_may_say_how_to_ping():
    async def setup(connection):
        connection.heartbeat(interval=0.05, message="beat")

    async with FaultServer(default=Accept(echo=False)) as server:
        heartbeat = Heartbeat.app("unused", lambda message: message == "ack", interval=60, timeout=1)
        async with WebSocketClient(server.url, setup=setup, heartbeat=heartbeat) as client:
            connection = await server.connection()
            for _ in range(3):
                assert await connection.recv() == "beat"
                await connection.send("ack")
            while client.latency is None:
                await asyncio.sleep(0.005)
            assert client.stats.unread == 0


async def test_a_subscription_that_raises_is_named_as_such():
    def broken():
        raise ZeroDivisionError

    async with FaultServer() as server:
        client = WebSocketClient(server.url, fail_fast=True)
        client.subscribe("ticks", broken)
        with pytest.raises(SetupFailed, match="a subscription raised ZeroDivisionError") as error:
            async with client:
                pytest.fail("it is not set up")
    assert isinstance(error.value.__cause__, ZeroDivisionError)


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
