"""`state`, `stats`, `close_event`, `latency` and `explain()` are true at any instant."""

import asyncio
import logging

import pytest

from resilient_ws import CloseOrigin, Endpoint, Inbox, Outbox, State, Stats
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import settle, stage


async def test_the_state_is_true_the_moment_something_happens():
    async with stage(start=False) as played:
        client = played.client
        states = [client.state]
        client.start()
        states.append(client.state)
        await client.ready()
        states.append(client.state)
        live = client._supervisor.active
        played.peer.drop()
        while live.end is None:
            await asyncio.sleep(0)
        states.append(client.state)
        await played.reopened()
        client.reconnect_now()
        states.append(client.state)
        await played.reopened()
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        states.append(client.state)
        await closing
        states.append(client.state)
        assert [state.value for state in states] == [
            "idle", "connecting", "open", "backoff", "backoff", "closing", "closed",
        ]  # fmt: skip


async def test_ready_and_send_agree_with_the_state():
    async with stage(ready=False) as played:
        ready = asyncio.create_task(played.client.ready())
        while not ready.done():
            assert played.client.state is not State.OPEN or not ready.done()
            await asyncio.sleep(0)
        assert played.client.state is State.OPEN
        await played.client.send("x", queue=False)


async def test_stats_count_what_moved():
    async with stage(start=False, inbox=Inbox(max_messages=100)) as played:
        client = played.client
        assert client.stats == Stats()
        await client.send("waits")
        assert client.stats == Stats(waiting=1)
        client.start()
        await client.ready()
        await settle()
        stats = client.stats
        assert (stats.attempts, stats.opens, stats.sent, stats.bytes_sent) == (1, 1, 1, 5)
        assert (stats.waiting, stats.unconfirmed, stats.confirmed, stats.confirmation) == (0, 1, 0, "on")
        await client.flush()
        assert (client.stats.unconfirmed, client.stats.confirmed) == (0, 1)
        played.peer.send("ü", b"123")
        await settle()
        stats = client.stats
        assert (stats.received, stats.bytes_received, stats.unread) == (2, 5, 2)
        await client.recv()
        assert client.stats.unread == 1
        played.peer.drop()
        await settle()
        stats = client.stats
        assert (stats.confirmation, dict(stats.closes)) == ("none", {CloseOrigin.NETWORK: 1})
        assert (stats.received, stats.bytes_received, stats.sent, stats.unread) == (2, 5, 1, 1)
        await played.reopened()
        assert (client.stats.attempts, client.stats.opens) == (2, 2)
        await client.send(b"12")
        await settle()
        assert (client.stats.sent, client.stats.bytes_sent) == (2, 7)
        kept = client.stats
        await client.send("later")
        assert kept.sent == 2
        with pytest.raises(AttributeError):
            kept.sent = 5
    stats = client.stats
    assert (stats.sent, stats.bytes_sent, stats.received, stats.bytes_received) == (3, 12, 2, 5)
    assert dict(stats.closes) == {CloseOrigin.NETWORK: 1, CloseOrigin.LOCAL: 1}
    assert stats.confirmation == "none"


async def test_requests_replies_and_discards_are_received_too():
    async with stage() as played:
        call = asyncio.create_task(played.client.request("?", lambda m: m == "answer", 5))
        await settle()
        played.peer.send("answer", "other")
        await call
        await settle()
        assert (played.client.stats.received, played.client.stats.bytes_received) == (2, 11)
        played.peer.answers_close = False
        closing = asyncio.create_task(played.client.close())
        await settle()
        played.peer.send("too late")
        await settle()
        played.peer.close()
        await closing
        stats = played.client.stats
        assert (stats.received, stats.discarded, stats.bytes_received, stats.unread) == (3, 1, 19, 1)


async def test_close_event_is_the_last_end():
    async with stage() as played:
        assert played.client.close_event is None
        played.peer.close(1012, "first")
        await played.reopened()
        assert played.client.close_event.reason == "first"
        assert played.client.close_event.will_retry
        played.peer.close(4000, "second")
        await played.reopened()
        assert played.client.close_event.reason == "second"
    assert played.client.close_event.final


async def test_explain_tells_the_recent_past_in_words_without_secrets():
    transport = FakeTransport()
    url = Endpoint("ws://user:secret@peer.test/path?token=secret", {"x": "secret"})
    async with stage(transport, url=url) as played:
        await settle(20)
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("secret payload")
        transport.refuse()
        played.peer.drop(ConnectionLost("pulled"))
        await played.reopened()
        await settle()
        text = played.client.explain()
        assert text.startswith("ws://peer.test/path: open\n")
        for words in (
            "state idle -> connecting", "open to ws://peer.test/path, attempt 1", "1006 Abnormal Closure", "pulled",
            "is uncertain", "refused by the test", "back after 2.00 s, 2 attempts",
        ):  # fmt: skip
            assert words in text, words
        assert "secret" not in text
        for _ in range(300):
            played.client.reconnect_now()
            await played.reopened()
        assert len(played.client.explain().splitlines()) <= 201


async def test_the_log_has_a_line_for_each_step_and_no_secret(caplog):
    caplog.set_level(logging.DEBUG, "resilient_ws")
    url = "ws://user:secret@peer.test/path?token=secret"
    async with stage(url=url, headers={"x": "secret"}) as played:
        await played.client.send("secret")
        played.peer.close(1001, "leaving")
        await played.reopened()
    text = caplog.text
    assert "secret" not in text
    assert "open to ws://peer.test/path" in text
    assert "leaving" in text
    assert {record.name for record in caplog.records} <= {"resilient_ws"}
    assert all(record.levelno < logging.ERROR for record in caplog.records)


async def test_the_numbers_of_the_close_event_are_those_of_its_moment():
    async with stage(outbox=Outbox(max_messages=10)) as played:
        played.peer.send("1", "2", "3")
        await settle(7)
        played.peer.congest()
        for text in "abcd":
            await played.client.send(text)
        await settle(5)
        played.peer.drop()
        await settle()
        close = played.closes[0]
        assert (close.unread, close.unsent, close.uncertain) == (3, 3, 1)
        assert close.opened_for == pytest.approx(12, abs=0.01)
        assert close.silent_for == pytest.approx(12, abs=0.01)
        await played.client.recv()
        assert played.client.close_event.unread == 3


async def test_nothing_grows_with_reconnects():
    async with stage() as played:

        def size():
            engine = played.client._supervisor
            return (
                len(asyncio.all_tasks()),
                len([timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]),
                len(engine.teller.timeline._past) <= 200,
                len(engine.subscriptions),
            )

        played.client.subscribe("k", "x")
        for _ in range(20):
            played.peer.drop()
            await played.reopened()
        await settle(5)
        before = size()
        for _ in range(200):
            played.peer.drop()
            await played.reopened()
        await settle(5)
        assert size() == before
