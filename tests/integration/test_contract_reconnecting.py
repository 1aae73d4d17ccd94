"""What a program may rely on when connections end: verdicts, delays, errors, the order of what is told."""

import asyncio
import datetime as dt
import time

import pytest
import tenacity
from websockets.asyncio.server import serve

from resilient_ws import (
    ClientClosed,
    ClientStopped,
    CloseCode,
    CloseEvent,
    CloseOrigin,
    ConnectError,
    Failure,
    HandshakeRejected,
    OpenTimeout,
    ReconnectPolicy,
    RetriesExhausted,
    Retry,
    RetryEvent,
    State,
    Stop,
    WebSocketClient,
)
from resilient_ws.testing import Accept, FaultServer, Hangup, NeverAnswer, Refuse, WrongAcceptKey

pytestmark = pytest.mark.usefixtures("transport")

QUICK = {"first_delay": 0.02, "min_delay": 0.01, "max_delay": 0.04}


async def closing_server(code, reason=""):
    async def handler(connection):
        await connection.close(code, reason)

    return await serve(handler, "127.0.0.1", 0)


async def end_of(client, timeout=3):
    """How the client ends by itself."""
    try:
        await asyncio.wait_for(client.run(signals=()), timeout)
    except ClientClosed as error:
        return error
    return None


# ---------------------------------------------------------------------------------------------------- close codes


@pytest.mark.parametrize("code", [1001, 4999])
async def test_after_these_codes_the_client_connects_again(code):
    server = await closing_server(code, "because")
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = WebSocketClient(url, reconnect=ReconnectPolicy(**QUICK))
        events = client.events()
        client.start()
        closes = []
        async for event in events:
            if isinstance(event, CloseEvent):
                closes.append(event)
                if len(closes) == 4:
                    break
        await client.close()
    assert all(
        (e.code, e.reason, e.was_clean, e.synthesized) == (code, "because", True, False) for e in closes
    )
    assert all((e.origin, e.will_retry, e.final) == (CloseOrigin.PEER, True, False) for e in closes)
    assert all(type(e.code) is int or isinstance(e.code, int) for e in closes)
    assert all(e.retry_in is not None and e.rule for e in closes)


@pytest.mark.parametrize("code", [1002])
async def test_after_these_codes_the_third_in_a_row_stops(code):
    server = await closing_server(code)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = WebSocketClient(url, reconnect=ReconnectPolicy(**QUICK))
        error = await end_of(client)
    assert isinstance(error, ClientStopped)
    assert client.stats.opens == 3
    assert error.event is client.close_event
    assert (error.event.code, error.event.final, error.event.will_retry) == (code, True, False)
    assert error.event.retry_in is None


@pytest.mark.parametrize("code", [1008])
async def test_after_these_codes_soon_after_opening_it_stops(code):
    server = await closing_server(code)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = WebSocketClient(url, reconnect=ReconnectPolicy(**QUICK))
        error = await end_of(client)
    assert isinstance(error, ClientStopped)
    assert client.stats.opens == 1


async def test_a_policy_violation_after_min_uptime_is_retried():
    async def handler(connection):
        await asyncio.sleep(0.1)
        await connection.close(1008, "idle")

    async with serve(handler, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = WebSocketClient(url, reconnect=ReconnectPolicy(**QUICK, min_uptime=0.05))
        client.start()
        while client.stats.opens < 3:
            await asyncio.sleep(0.01)
        await client.close()


async def test_try_again_later_waits_in_the_range_of_max_delay():
    server = await closing_server(1013)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = WebSocketClient(url, reconnect=ReconnectPolicy(first_delay=0.001, min_delay=5, max_delay=60))
        retries = []
        client.on_retry(retries.append)
        client.start()
        while not retries:
            await asyncio.sleep(0.01)
        assert 5 <= retries[0].delay <= 60
        assert client.state is State.BACKOFF
        await client.close()


async def test_no_code_is_1005_and_no_close_is_1006():
    async with FaultServer() as server:
        closes = []
        async with WebSocketClient(
            server.url, reconnect=ReconnectPolicy(**QUICK), on_close=closes.append
        ) as client:
            (await server.connection()).close(None)
            (await server.connection()).fin()
            (await server.connection()).rst()
            await server.connection()
            await client.ready(2)
            while len(closes) < 3:
                await asyncio.sleep(0.01)
    assert [event.code for event in closes] == [1005, 1006, 1006, 1000]
    assert [event.was_clean for event in closes] == [True, False, False, True]
    assert [event.synthesized for event in closes] == [False, True, True, False]
    assert [event.final for event in closes] == [False, False, False, True]
    assert closes[0].cause is None
    assert all(isinstance(event.cause, Exception) for event in closes[1:3])


async def test_reconnect_false_the_first_end_is_the_end():
    server = await closing_server(1001, "bye")
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = WebSocketClient(url, reconnect=False)
        error = await end_of(client)
    assert type(error) in {ClientStopped, ClientClosed}
    assert (error.event.code, error.event.reason, error.event.final) == (1001, "bye", True)
    assert client.stats.opens == 1


def test_the_codes_are_listed():
    for code in range(1000, 1016):
        assert CloseCode(code) == code


async def test_a_close_of_ours_that_the_peer_never_answers_is_1006_with_a_cause():
    async with FaultServer(default=Accept(answer_close=False)) as server:
        async with WebSocketClient(server.url, close_timeout=0.2) as client:
            pass
        event = client.close_event
    assert (event.code, event.was_clean, event.synthesized, event.sent_code) == (1006, False, True, 1000)
    assert (event.origin, event.final) == (CloseOrigin.LOCAL, True)
    assert "CLOSE" in str(event.cause)


# --------------------------------------------------------------------------------------------------- handshakes


@pytest.mark.parametrize("status", [401, 302])
async def test_a_refusal_for_good_stops_a_client_that_was_never_open(status):
    async with FaultServer(default=Refuse(status)) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK))
        error = await end_of(client)
        assert server.attempt_count == 1
    assert isinstance(error, ClientStopped)
    assert isinstance(error.__cause__, ConnectError)
    assert isinstance(error.__cause__, HandshakeRejected)
    assert error.__cause__.status == status
    assert not error.__cause__.retryable
    assert error.event.opened_for is None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
async def test_a_refusal_for_now_is_retried(status):
    async with FaultServer(script=[Refuse(status)] * 3) as server:
        retries = []
        async with WebSocketClient(
            server.url, reconnect=ReconnectPolicy(**QUICK), on_retry=retries.append
        ) as client:
            assert client.stats.attempts == 4
    assert [retry.cause.status for retry in retries] == [status] * 3
    assert [retry.attempt for retry in retries] in ([1, 2, 3], [2, 3, 4])
    assert all(retry.cause.retryable for retry in retries)


async def test_later_a_refusal_is_retried_up_to_the_tenth_in_a_row():
    async with FaultServer(script=[Accept()], default=Refuse(404)) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK, refused_for=0))
        client.start()
        (await server.connection()).rst()
        error = await end_of(client)
        assert server.attempt_count == 11
    assert isinstance(error, ClientStopped)


async def test_refusals_do_not_end_a_client_that_was_open_before_refused_for():
    async with FaultServer(script=[Accept()], default=Refuse(404)) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK, refused_for=1))
        client.start()
        (await server.connection()).rst()
        began = time.monotonic()
        error = await end_of(client)
        assert time.monotonic() - began >= 1
        assert server.attempt_count > 11
    assert isinstance(error, ClientStopped)
    assert error.event.rule_id == "http-4xx-repeated"


async def test_a_refused_token_of_a_provider_gets_one_more_try():
    calls = []
    async with FaultServer(default=Refuse(401)) as server:

        async def provider(attempt):
            calls.append(attempt)
            return server.url

        error = await end_of(WebSocketClient(provider, reconnect=ReconnectPolicy(**QUICK)))
        assert server.attempt_count == 2
    assert isinstance(error, ClientStopped)
    assert len(calls) == 2


async def test_a_wrong_accept_key_stops():
    async with FaultServer(default=WrongAcceptKey()) as server:
        error = await end_of(WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK)))
        assert server.attempt_count == 1
    assert isinstance(error, ClientStopped)


async def test_hang_ups_and_time_outs_are_retried():
    async with FaultServer(
        script=[Hangup("rst"), Hangup("fin"), NeverAnswer(), Hangup(when="connect")]
    ) as server:
        retries = []
        async with WebSocketClient(
            server.url, reconnect=ReconnectPolicy(**QUICK), open_timeout=0.2, on_retry=retries.append
        ):
            pass
    assert len(retries) == 4
    assert all(isinstance(retry.cause, ConnectError) for retry in retries)
    assert isinstance(retries[2].cause, OpenTimeout)
    assert isinstance(retries[2].cause, TimeoutError)


async def test_retry_after_is_waited_before_the_delay():
    async with FaultServer(script=[Refuse(503, retry_after=1)]) as server:
        retries = []
        began = time.monotonic()
        async with WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK), on_retry=retries.append):
            assert time.monotonic() - began >= 1
    assert 1 <= retries[0].delay <= 1.1
    assert retries[0].cause.retry_after == 1


@pytest.mark.parametrize(
    "retry_after, wished, low, high",
    [(999_999, 999_999, 3600, 3600.1), (dt.timedelta(seconds=100), 100, 98, 100.1)],
    ids=["capped", "date"],
)
async def test_retry_after_may_be_a_date_and_is_capped_at_an_hour(retry_after, wished, low, high):
    if isinstance(retry_after, dt.timedelta):
        retry_after = dt.datetime.now(dt.UTC) + retry_after
    async with FaultServer(script=[Refuse(429, retry_after=retry_after)]) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK))
        events = client.events()
        client.start()
        retry = next(
            event for event in [await anext(events) for _ in range(3)] if isinstance(event, RetryEvent)
        )
        await client.close()
    assert low <= retry.delay <= high
    assert retry.cause.retry_after == pytest.approx(wished, abs=2)


async def test_only_a_connection_that_lasted_starts_the_count_again():
    async with FaultServer() as server:
        retries = []
        async with WebSocketClient(
            server.url, reconnect=ReconnectPolicy(**QUICK, min_uptime=0.1), on_retry=retries.append
        ) as client:
            for _ in range(3):
                (await server.connection()).rst()
            connection = await server.connection()
            while client.stats.opens < 4:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.15)
            connection.rst()
            await server.connection()
            await client.ready(2)
    assert [retry.attempt for retry in retries] == [1, 2, 3, 1]


async def test_reconnect_now_is_never_sooner_than_min_delay_after_the_last_dial():
    async with FaultServer() as server:
        policy = ReconnectPolicy(first_delay=0.02, min_delay=0.3, max_delay=1)
        async with WebSocketClient(server.url, reconnect=policy) as client:
            began = time.monotonic()
            while time.monotonic() - began < 0.7:
                client.reconnect_now()
                await asyncio.sleep(0.02)
            assert server.attempt_count <= 4


# -------------------------------------------------------------------------------------------------- the policy


async def test_max_attempts_counts_attempts():
    async with FaultServer(default=Refuse(503)) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK, max_attempts=3))
        error = await end_of(client)
        assert server.attempt_count == 3
    assert isinstance(error, RetriesExhausted)
    assert error.attempts == 3
    assert error.elapsed > 0
    assert error.__cause__.status == 503
    assert error.event is client.close_event
    assert error.undelivered == () or list(error.undelivered) == []


async def test_max_elapsed_ends_the_retries():
    async with FaultServer(default=Refuse(503)) as server:
        policy = ReconnectPolicy(**QUICK, max_elapsed=dt.timedelta(milliseconds=200))
        error = await end_of(WebSocketClient(server.url, reconnect=policy))
    assert isinstance(error, RetriesExhausted)
    assert 0.2 - 0.04 <= error.elapsed <= 5  # the last attempt may have taken its time on a busy machine


async def test_strategies_of_tenacity_are_taken():
    async with FaultServer(default=Refuse(503)) as server:
        retries = []
        policy = ReconnectPolicy(wait=tenacity.wait_fixed(0.05), stop=tenacity.stop_after_attempt(3))
        error = await end_of(WebSocketClient(server.url, reconnect=policy, on_retry=retries.append))
        assert server.attempt_count == 3
    assert isinstance(error, RetriesExhausted)
    assert [retry.delay for retry in retries] == [0.05, 0.05]


async def test_accept_then_close_backs_off_until_max_attempts():
    server = await closing_server(1001)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = WebSocketClient(url, reconnect=ReconnectPolicy(**QUICK, max_attempts=3, min_uptime=10))
        error = await end_of(client)
    assert isinstance(error, RetriesExhausted)


async def test_decide_sees_everything_and_rules():
    seen = []

    def decide(failure):
        seen.append(failure)
        if failure.status == 404:
            return Retry(after=dt.timedelta(milliseconds=10))
        if failure.status == 503:
            return None
        if failure.close is not None:
            return Stop(f"{failure.close.code} {failure.close.reason}")
        return Retry(0)

    async def leave(connection):
        connection.close(4001, "enough")

    script = [
        Refuse(404, headers={"X-Why": "portal"}.items()),
        Refuse(503, retry_after=0),
        Accept(then=leave),
    ]
    async with FaultServer(script=script) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(**QUICK, decide=decide))
        error = await end_of(client)
    assert isinstance(error, ClientStopped)
    assert "4001 enough" in str(error)
    assert all(isinstance(failure, Failure) for failure in seen)
    assert seen[0].headers["X-Why"] == "portal"
    assert [failure.status for failure in seen] == [404, 503, None]
    assert [failure.attempt for failure in seen] == [1, 2, 3]
    assert seen[2].opened_for is not None
    assert seen[0].close is None
    assert isinstance(seen[0].error, HandshakeRejected)
    assert all(failure.endpoint is not None for failure in seen)


@pytest.mark.expects_errors
async def test_a_broken_decide_is_reported_and_the_default_used():
    errors = []

    def decide(failure):
        raise ZeroDivisionError

    async with FaultServer(script=[Refuse(503)]) as server:
        policy = ReconnectPolicy(**QUICK, decide=decide)
        async with WebSocketClient(server.url, reconnect=policy, on_error=errors.append):
            pass
    assert [type(event.exception) for event in errors] == [ZeroDivisionError]
    assert errors[0].where == "decide"


async def test_several_addresses_are_tried_in_turn_and_all_must_say_stop():
    async with FaultServer(default=Refuse(404)) as one, FaultServer(default=Refuse(503)) as two:
        async with FaultServer() as three:
            async with WebSocketClient(
                [one.url, two.url, three.url], reconnect=ReconnectPolicy(**QUICK, min_uptime=0.01)
            ) as client:
                assert (one.attempt_count, two.attempt_count, three.attempt_count) == (1, 1, 1)
                await asyncio.sleep(0.05)
                (await three.connection()).rst()
                await three.connection()
                while client.stats.opens < 2:
                    await asyncio.sleep(0.01)
                assert (one.attempt_count, two.attempt_count) == (1, 1)
    async with FaultServer(default=Refuse(404)) as one, FaultServer(default=Refuse(403)) as two:
        error = await end_of(WebSocketClient([one.url, two.url], reconnect=ReconnectPolicy(**QUICK)))
        assert (one.attempt_count, two.attempt_count) == (1, 1)
        assert isinstance(error, ClientStopped)
