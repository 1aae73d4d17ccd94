"""The ids of the rules that the client itself applies, and the peer's reason wherever its code stands."""

import asyncio
import logging

import pytest

from resilient_ws import (
    ClientStopped,
    DeliveryUncertain,
    Heartbeat,
    Outbox,
    ReconnectPolicy,
    RetryEvent,
    Stop,
    WebSocketClient,
)
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import settle, stage


async def test_close_was_called():
    async with stage() as played:
        await played.client.close()
        assert played.client.close_event.rule_id == "close-called"


async def test_the_first_attempt_failed():
    transport = FakeTransport()
    transport.refuse()
    async with stage(transport, ready=False, fail_fast=True) as played:
        await settle()
        assert played.client.close_event.rule_id == "fail-fast"


@pytest.mark.expects_errors
async def test_a_file_that_is_no_outbox(tmp_path):
    path = tmp_path / "outbox"
    path.write_bytes(b"not a database" * 1000)
    client = WebSocketClient("ws://peer.test/", transport=FakeTransport(), outbox=Outbox(path=path))
    client.start()
    with pytest.raises(ClientStopped):
        await client.ready()
    assert client.close_event.rule_id == "outbox-file"


async def test_the_owner_task_was_cancelled():
    client = WebSocketClient("ws://peer.test/", transport=FakeTransport())
    client.start()
    await client.ready()
    (owner,) = [task for task in asyncio.all_tasks() if task.get_name().endswith(":owner")]
    owner.cancel()
    await settle()
    assert client.close_event.rule_id == "owner-cancelled"


@pytest.mark.parametrize(
    "heartbeat, rule_id",
    [
        (Heartbeat(1, 2), "heartbeat-silent"),
        (Heartbeat.expect(5), "heartbeat-silent"),
        (Heartbeat(1, 2, idle_timeout=10), "heartbeat-idle"),
        (
            Heartbeat.app("ping", lambda message: message == "pong", 1, 2, pong_timeout=9),
            "heartbeat-unanswered",
        ),
    ],
    ids=["silent", "expect", "idle", "unanswered"],
)
async def test_each_verdict_of_the_heartbeat_has_an_id(heartbeat, rule_id):
    async with stage(heartbeat=heartbeat) as played:
        peer = played.peer
        if rule_id == "heartbeat-unanswered":
            peer.send("pong")
            await settle(1.5)
            peer.send("pong")
            ticker = asyncio.create_task(_tick(peer))
        elif rule_id == "heartbeat-silent":
            peer.go_silent()
        await played.until(lambda: bool(played.closes), within=100)
        if rule_id == "heartbeat-unanswered":
            ticker.cancel()
        assert (played.closes[0].rule_id, played.closes[0].cause.rule_id) == (rule_id, rule_id)
        assert played.of(RetryEvent)[0].rule_id == rule_id


async def _tick(peer):
    while True:
        await asyncio.sleep(0.5)
        peer.send("data")


async def test_a_message_that_was_not_confirmed_is_told_how_the_connection_ended():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        pending = asyncio.create_task(played.client.send("hello", confirm=True))
        await settle()
        played.peer.close(1008, "come\nback")
        with pytest.raises(
            DeliveryUncertain, match=r"before the peer confirmed the message: .*1008.*come\\nback"
        ):
            await pending


@pytest.mark.parametrize("code", [1000, 1008, 1011, 4001])
async def test_the_reason_stands_in_events_log_and_explain(code, caplog):
    caplog.set_level(logging.INFO, "resilient_ws")
    async with stage(reconnect=ReconnectPolicy(min_uptime=0)) as played:
        pending = asyncio.create_task(played.client.request("question", lambda message: False))
        await settle()
        played.peer.close(code, "come\nback")
        await settle()
        with pytest.raises(DeliveryUncertain, match=r"come\\nback"):
            await pending
        (close,), (retry,) = played.closes, played.of(RetryEvent)
        for text in (
            str(close),
            close.rule,
            retry.rule,
            str(retry.cause),
            played.client.explain(),
            caplog.text,
        ):
            assert "come\\nback" in text
            assert str(code) in text


async def test_the_reason_stands_in_what_ends_the_client():
    async with stage() as played:
        played.peer.close(1008, "token expired")
        with pytest.raises(ClientStopped, match='1008 Policy Violation \\("token expired"\\)'):
            await played.client.recv()
        assert played.client.close_event.rule_id == "peer-rejected"


async def test_the_reason_stands_in_the_failure_of_a_set_up():
    async def setup(connection):
        await connection.recv()

    transport = FakeTransport()
    async with stage(transport, setup=setup, ready=False) as played:
        await settle()
        played.peer.close(4001, "wrong channel")
        await settle()
        (retry,) = played.of(RetryEvent)
        assert "4001 application code" in str(retry.cause)
        assert "wrong channel" in str(retry.cause)
        assert "wrong channel" in retry.rule


# --- a burst of subscriptions


async def cut_after(subscriptions, code=1008, opened_for=0.0):
    transport = FakeTransport()
    client = WebSocketClient("ws://peer.test/", transport=transport)
    for number in range(subscriptions):
        client.subscribe(number, f"subscribe {number}")
    client.start()
    await client.ready()
    await settle(opened_for)
    transport.peer.close(code, "too many requests")
    await settle()
    event = client.close_event
    await client.close()
    return event


async def test_a_burst_of_subscriptions_that_is_cut_is_named_with_the_ways_out():
    event = await cut_after(12)
    assert (event.final, event.rule_id) == (True, "peer-rejected")
    assert "too many requests" in event.rule
    assert "12 declared subscriptions were sent in one burst" in event.rule
    assert "setup" in event.rule
    assert "decide" in event.rule


@pytest.mark.parametrize(
    "subscriptions, code, opened_for", [(1, 1008, 0), (0, 1008, 0), (12, 1001, 0), (12, 1008, 20)]
)
async def test_otherwise_there_is_no_talk_of_a_burst(subscriptions, code, opened_for):
    assert "burst" not in (await cut_after(subscriptions, code, opened_for)).rule


# --- the verdict in the log stays whole


async def test_what_decide_gave_as_its_reason_is_told_whole():
    policy = ReconnectPolicy(decide=lambda failure: Stop("maintenance: until noon: really"))
    async with stage(reconnect=policy) as played:
        played.peer.close(1001)
        with pytest.raises(ClientStopped):
            await played.client.recv()
        assert "decide said stop: maintenance: until noon: really; this is the end" in played.client.explain()
