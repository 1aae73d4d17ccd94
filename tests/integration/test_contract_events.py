"""What a program may rely on about errors, and about what is told and in which order."""

import asyncio
import itertools
import time

import pytest

from resilient_ws import (
    ClientClosed,
    ClientStopped,
    CloseEvent,
    CloseOrigin,
    ConnectError,
    HandshakeRejected,
    Heartbeat,
    InvalidURL,
    OpenEvent,
    OpenTimeout,
    ReconnectEvent,
    ReconnectPolicy,
    ResilientWSError,
    RetriesExhausted,
    RetryEvent,
    SetupFailed,
    SetupTimeout,
    State,
    StateEvent,
    WebSocketClient,
)
from resilient_ws.testing import Accept, FaultServer, Refuse

QUICK = {"first_delay": 0.02, "min_delay": 0.01, "max_delay": 0.04}


async def end_of(client, timeout=3):
    """How the client ends by itself."""
    try:
        await asyncio.wait_for(client.run(signals=()), timeout)
    except ClientClosed as error:
        return error
    return None


# ------------------------------------------------------------------------------------------------------- errors


def test_the_errors_form_the_promised_tree():
    for error in (OpenTimeout, HandshakeRejected, InvalidURL, SetupFailed, SetupTimeout):
        assert issubclass(error, ConnectError)
    assert issubclass(OpenTimeout, TimeoutError)
    assert issubclass(SetupTimeout, TimeoutError)
    assert issubclass(InvalidURL, ValueError)
    assert issubclass(ClientStopped, ClientClosed)
    assert issubclass(RetriesExhausted, ClientClosed)
    assert issubclass(ConnectError, ResilientWSError)
    assert issubclass(ClientClosed, ResilientWSError)
    error = ConnectError()
    for name in ("status", "headers", "retry_after", "retryable", "foreign"):
        assert hasattr(error, name)


async def test_a_refused_connection_says_what_it_was_without_the_query():
    client = WebSocketClient("ws://127.0.0.1:9/?token=s3cret", fail_fast=True)
    with pytest.raises(ConnectError) as error:
        async with client:
            pytest.fail("nobody listens there")
    assert error.value.retryable
    assert error.value.status is None
    assert isinstance(error.value.__cause__, OSError) or error.value.foreign
    assert "s3cret" not in str(error.value)


# -------------------------------------------------------------------------------------------------------- order


async def test_the_order_of_events_over_a_life():
    async with FaultServer(script=[Accept(), Refuse(503)]) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK))
        events = client.events()
        client.start()
        (await server.connection()).rst()
        await server.connection()
        while client.stats.opens < 2:
            await asyncio.sleep(0.005)
        await client.close()
        told = [event async for event in events]
    kinds = [type(event) for event in told if not isinstance(event, StateEvent)]
    assert kinds == [OpenEvent, CloseEvent, RetryEvent, RetryEvent, OpenEvent, ReconnectEvent, CloseEvent]
    states = [(event.old.value, event.new.value) for event in told if isinstance(event, StateEvent)]
    assert [old for old, _ in states[1:]] == [new for _, new in states[:-1]]
    assert [new for _, new in states] == [
        "connecting", "open", "backoff", "connecting", "backoff", "connecting", "open", "closing", "closed",
    ]  # fmt: skip
    for before, after in itertools.pairwise(told):
        if isinstance(after, OpenEvent):
            assert isinstance(before, StateEvent)
            assert before.new is State.OPEN
    back = next(event for event in told if isinstance(event, ReconnectEvent))
    assert back.attempts == 2
    assert isinstance(told[-1], CloseEvent)
    assert sum(event.final for event in told if isinstance(event, CloseEvent)) == 1
    assert list(client.stats.closes) or client.stats.closes
    assert client.stats.closes[CloseOrigin.NETWORK] == 1
    assert client.stats.closes[CloseOrigin.LOCAL] == 1


async def test_silence_is_noticed_within_interval_and_timeout():
    async with FaultServer(script=[Accept(echo=False)]) as server:
        closes = []
        async with WebSocketClient(
            server.url,
            heartbeat=Heartbeat(0.2, 0.2),
            reconnect=ReconnectPolicy(**QUICK),
            on_close=closes.append,
        ):
            connection = await server.connection()
            connection.go_silent()
            began = time.monotonic()
            while not closes:
                await asyncio.sleep(0.005)
            took = time.monotonic() - began
            connection.rst()
    event = closes[0]
    assert took < 0.6
    assert (event.code, event.origin, event.synthesized) == (1006, CloseOrigin.HEARTBEAT, True)
    assert event.silent_for is not None
    assert event.cause is not None


async def test_too_big_a_message_is_answered_with_1009_and_the_client_goes_on():
    async with FaultServer() as server:
        closes = []
        async with WebSocketClient(
            server.url, max_message_size=100, reconnect=ReconnectPolicy(**QUICK), on_close=closes.append
        ) as client:
            connection = await server.connection()
            await connection.send("x" * 100)
            assert len(await client.recv()) == 100
            await connection.send("x" * 101)
            await server.connection()
            while not closes:
                await asyncio.sleep(0.005)
    assert closes[0].sent_code == 1009
    assert closes[0].origin is CloseOrigin.PROTOCOL
    assert closes[0].will_retry


async def test_a_close_during_set_up_decides_not_what_set_up_raised():
    async def setup(connection):
        await connection.recv()

    async def leave(connection):
        connection.close(4003, "who are you")

    async with FaultServer(script=[Accept(then=leave)], default=Accept(then=None)) as server:
        retries = []

        async def twice(connection):
            if connection.first and connection.attempt == 1:
                await setup(connection)

        async with WebSocketClient(
            server.url, setup=twice, reconnect=ReconnectPolicy(**QUICK), on_retry=retries.append
        ) as client:
            assert client.stats.opens == 1
    assert len(retries) == 1
    assert "4003" in retries[0].rule or "4003" in str(retries[0].cause)


async def test_exhausted_with_messages_waiting_tells_what_was_not_delivered():
    undelivered = []
    async with FaultServer(default=Refuse(503)) as server:
        client = WebSocketClient(
            server.url, reconnect=ReconnectPolicy(**QUICK, max_attempts=2), on_undelivered=undelivered.append
        )
        await client.send("a")
        error = await end_of(client)
    assert [event.message for event in undelivered] == ["a"]
    assert [event.message for event in error.undelivered] == ["a"]
    assert undelivered[0].fate.value == "abandoned"
    assert undelivered[0].age >= 0
    assert client.close_event.unsent == 1
