"""`answer=`: the server pings with messages of its own, and is answered however busy the program is."""

import asyncio
import functools
import json

import pytest

from resilient_ws import ConnectionLost, Heartbeat, Inbox, Outbox, State
from resilient_ws.connection.app_pings import MAX_REPLIES
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import now, settle, stage


def pong(message):
    """Answer what exchanges send: {"op": "ping", "id": 7}."""
    if isinstance(message, str) and '"ping"' in message:
        return json.dumps({"op": "pong", "id": json.loads(message)["id"]})
    return None


def ping(number):
    return json.dumps({"op": "ping", "id": number})


def pongs(*numbers):
    return [json.dumps({"op": "pong", "id": number}) for number in numbers]


KINDS = pytest.mark.parametrize(
    "make",
    [
        functools.partial(Heartbeat, 15, 10),
        functools.partial(Heartbeat.expect, 60),
        functools.partial(Heartbeat.app, "hi", lambda m: m == "hi back"),
    ],
    ids=["ping", "expect", "app"],
)


@KINDS
async def test_pings_of_the_server_are_answered_at_once_and_not_delivered(make):
    async with stage(heartbeat=make(answer=pong)) as played:
        played.peer.send("a", ping(1), "b", ping(2))
        await settle()
        assert played.received == pongs(1, 2)
        assert [await played.client.recv() for _ in range(2)] == ["a", "b"]
        assert played.client.stats.unread == 0
        assert played.client.stats.waiting == played.client.stats.unconfirmed == 0


@KINDS
async def test_they_are_answered_during_the_set_up_also_where_it_changes_the_heartbeat(make):
    async def setup(conn):
        if conn.first:
            conn.heartbeat(interval=20)
        await asyncio.sleep(5)

    transport = FakeTransport()
    async with stage(transport, setup=setup, ready=False, heartbeat=make(answer=pong)) as played:
        await settle(1)
        for connection in range(2):
            played.peer.send(ping(connection))
            await settle(1)
            assert played.received == pongs(connection)
            assert played.client.state is State.CONNECTING
            await played.client.ready()
            played.peer.send(ping(7))
            await settle()
            assert played.received[-1:] == pongs(7)
            played.peer.drop()
            await settle(2)


async def test_they_are_answered_before_a_request_that_matches_everything():
    async with stage(heartbeat=Heartbeat(answer=pong)) as played:
        call = asyncio.ensure_future(played.client.request("q", lambda _: True, timeout=5))
        await settle()
        played.peer.send(ping(1), "answer")
        assert await call == "answer"
        assert played.received == ["q", *pongs(1)]


async def test_a_slow_callback_and_a_full_outbox_do_not_keep_them_waiting():
    async def slow(_):
        await asyncio.sleep(1000)

    async with stage(
        on_message=slow, heartbeat=Heartbeat(answer=pong), outbox=Outbox(max_messages=2), close_timeout=1
    ) as played:
        played.peer.send("a")
        await settle()
        played.peer.send(ping(1), "b", ping(2))
        await settle()
        assert played.received == pongs(1, 2)


async def test_replies_go_before_what_waits_in_the_outbox_and_have_no_fate():
    async with stage(FakeTransport(buffer=100), heartbeat=Heartbeat(answer=pong)) as played:
        played.peer.congest()
        for number in range(5):
            await played.client.send(f"{number}" * 60)
        played.peer.send(ping(1))
        await settle(1)
        assert played.client.stats.waiting > 0
        played.peer.recover()
        await settle(3)
        assert len(played.received) == 6
        assert played.received.index(pongs(1)[0]) < 4
        assert played.client.stats.confirmed == 5
        assert not played.fates


@pytest.mark.promise("P6")
async def test_a_flood_of_them_is_answered_within_bounds_and_the_last_one_always():
    async with stage(heartbeat=Heartbeat(answer=pong)) as played:
        played.peer.send(*map(ping, range(1000)))
        await settle()
        assert played.received == pongs(*range(MAX_REPLIES), 999)
    async with stage(FakeTransport(buffer=100), heartbeat=Heartbeat(answer=pong)) as played:
        played.peer.congest()
        for number in range(1000):
            played.peer.send(ping(number))
            await settle()
        played.peer.recover()
        await settle(1)
        assert MAX_REPLIES <= len(played.received) <= MAX_REPLIES + 10
        assert played.received[-1:] == pongs(999)


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
@pytest.mark.parametrize("make", [Heartbeat, Heartbeat.expect])
async def test_one_that_raises_or_returns_something_else_is_reported_and_the_message_delivered(make):
    async def coroutine():
        pass

    bad = {
        "raises": lambda: 1 // 0,
        "fails": lambda: pytest.fail("a test of the program"),
        "cancels": lambda: (_ for _ in ()).throw(asyncio.CancelledError),
        "stops": lambda: next(iter(())),
        "true": lambda: True,
        "number": lambda: 1,
        "dict": dict,
        "coroutine": coroutine,
        "surrogate": lambda: "\ud83d",
    }
    async with stage(heartbeat=make(answer=lambda message: bad.get(message, lambda: None)())) as played:
        played.peer.send(*bad, "fine")
        await settle()
        assert [await played.client.recv() for _ in range(len(bad) + 1)] == [*bad, "fine"]
        await settle()
        assert [where for where, _ in played.errors] == ["heartbeat"] * len(bad)
        assert "Heartbeat answer must return" in str(played.errors)
        assert played.client.state is State.OPEN


async def test_pings_of_the_server_are_no_data_for_idle_timeout():
    async with stage(heartbeat=Heartbeat(15, 10, idle_timeout=50, answer=pong)) as played:
        opened = now()
        for number in range(20):
            if played.closes:
                break
            played.peer.send(ping(number))
            await settle(5)
        assert now() - opened < 56
        assert "no data message" in str(played.closes[0].cause)
        assert isinstance(played.closes[0].cause, ConnectionLost)


@pytest.mark.promise("P2")
async def test_one_that_pings_and_answers_no_more_is_noticed_by_its_own_pings():
    async with stage(heartbeat=Heartbeat(15, 10, pong_timeout=40, answer=pong)) as played:
        await settle(1)
        played.peer.answers_pings = PingAnswers.NONE
        began = now()
        for number in range(100):
            if played.closes:
                break
            played.peer.send(ping(number))
            await settle(2)
        assert 40 <= now() - began <= 58
        assert "no PONG" in str(played.closes[0].cause)


async def test_a_full_inbox_stops_the_reading_and_the_answers_with_it_until_there_is_room():
    async with stage(inbox=Inbox(max_messages=2), heartbeat=Heartbeat(answer=pong)) as played:
        played.peer.send("a", "b")
        played.peer.send(ping(1))
        await settle(1)
        assert played.received == []
        await played.client.recv()
        await played.client.recv()
        await settle()
        assert played.received == pongs(1)


async def async_answer(message):
    return message


class AsyncAnswer:
    async def __call__(self, message):
        return message


@KINDS
@pytest.mark.parametrize(
    "answer",
    [async_answer, functools.partial(async_answer), AsyncAnswer(), "pong", 7, b""],
    ids=["async", "partial", "object", "str", "int", "bytes"],
)
def test_what_cannot_answer_is_refused(make, answer):
    with pytest.raises(TypeError, match="answer must"):
        make(answer=answer)
