"""When a message counts as confirmed, what `flush` waits for, and what is asked of the peer (P4, P5)."""

import asyncio

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ClientClosed,
    DeliveryUncertain,
    Heartbeat,
    Inbox,
    InboxFull,
    Outbox,
    OutboxFull,
    ReconnectPolicy,
)
from resilient_ws.testing import PingAnswers
from tests.client.kit import answering, now, pending, settle, stage

SLOW = ReconnectPolicy(wait=wait_fixed(50))


# --- confirm=True


@pytest.mark.promise("P5")
async def test_confirm_returns_when_the_peer_has_it():
    async with stage() as played:
        played.peer.pong_delay = 0.3
        before = now()
        await played.client.send("x", confirm=True)
        assert now() == pytest.approx(before + 0.3)
        assert played.client.stats.confirmed == 1


async def test_confirm_asks_at_once_when_the_way_is_free_again():
    async with stage(outbox=Outbox(confirm_interval=60), heartbeat=Heartbeat(1000)) as played:
        played.peer.congest()
        await played.client.send("a")
        calls = pending(played.client.send("b", confirm=True), played.client.flush())
        await settle(5)
        played.peer.recover()
        await settle()
        assert all(call.done() for call in calls)
        await asyncio.gather(*calls)


async def test_confirm_asks_at_once_also_when_nothing_else_is_unconfirmed():
    async with stage(outbox=Outbox(confirm_interval=60), heartbeat=Heartbeat(1000)) as played:
        played.peer.congest()
        played.client.subscribe("not counted", "x")
        calls = pending(played.client.send("b", confirm=True), played.client.flush())
        await settle(5)
        played.peer.recover()
        await settle()
        assert all(call.done() for call in calls)
        await asyncio.gather(*calls)


async def test_confirm_waits_over_the_back_off():
    async with stage(start=False) as played:
        played.transport.refuse(times=2)
        played.client.start()
        await played.client.send("x", confirm=True)
        assert now() == pytest.approx(2, abs=0.01)
        assert played.received == ["x"]


async def test_confirm_says_uncertain_when_the_connection_ends_first():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        call = asyncio.ensure_future(played.client.send("x", confirm=True))
        await settle()
        played.peer.drop()
        with pytest.raises(DeliveryUncertain, match="before the peer confirmed"):
            await call
        await settle()
        assert played.fates == [("x", "uncertain")]


async def test_confirm_of_a_message_that_is_sent_again_waits_for_the_next_connection():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        call = asyncio.ensure_future(played.client.send("x", confirm=True, on_uncertain="resend"))
        await settle()
        played.peer.drop()
        await call
        assert played.received == ["x"]
        assert played.fates == []


@pytest.mark.parametrize("fate", ["expired", "evicted"])
async def test_confirm_says_so_when_the_message_is_never_written(fate):
    async with stage(reconnect=SLOW, outbox=Outbox(max_messages=1, overflow="drop_oldest")) as played:
        played.peer.drop()
        await settle()
        call = asyncio.ensure_future(played.client.send("x", confirm=True, ttl=3))
        await settle()
        if fate == "evicted":
            await played.client.send("y")
        with pytest.raises(DeliveryUncertain, match=fate):
            await call
        assert played.fates == [("x", fate)]


async def test_confirm_cancelled_leaves_the_message_accepted():
    async with stage() as played:
        played.peer.pong_delay = 5
        call = asyncio.ensure_future(played.client.send("x", confirm=True))
        await settle()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await played.client.flush()
        assert played.received == ["x"]
        assert played.client.stats.confirmed == 1


@pytest.mark.parametrize(
    "heartbeat", [None, Heartbeat.expect(), Heartbeat.app("ping", lambda m: m == "pong")]
)
async def test_confirm_says_at_once_that_confirmation_is_off(heartbeat):
    async with stage(heartbeat=heartbeat) as played:
        assert played.client.stats.confirmation == "off"
        with pytest.raises(DeliveryUncertain, match="confirmation is off .* was not sent"):
            await played.client.send("x", confirm=True)
        await played.client.send("y")
        assert played.client.stats.confirmed == 1
        await played.client.flush()
        assert played.received == ["y"]
        assert not played.peer.pings


async def test_confirm_accepted_before_the_connection_hears_that_confirmation_is_off():
    async with stage(start=False, heartbeat=None) as played:
        played.transport.accept(delay=1)
        played.client.start()
        call = asyncio.ensure_future(played.client.send("x", confirm=True))
        with pytest.raises(DeliveryUncertain, match="confirmation is off .* was accepted and is sent"):
            await call
        await settle()
        assert played.received == ["x"]
        assert played.client.stats.confirmed == 1


@pytest.mark.parametrize("heartbeat", [None, Heartbeat.expect()])
async def test_an_outbox_that_asks_for_confirmation_gets_it_whatever_the_heartbeat(heartbeat):
    async with stage(heartbeat=heartbeat, outbox=Outbox(confirm=True)) as played:
        assert played.client.stats.confirmation == "on"
        await played.client.send("x", confirm=True)
        assert len(played.peer.pings) == 1


async def test_no_confirmation_where_the_outbox_wants_none():
    async with stage(outbox=Outbox(confirm=False)) as played:
        assert played.client.stats.confirmation == "off"
        await played.client.send("x")
        await settle(5)
        assert len(played.peer.pings) == 1  # that of OPEN, as the heartbeat wants it
        assert played.client.stats.confirmed == 1


@pytest.mark.promise("P5")
async def test_a_peer_that_talks_and_answers_no_ping_turns_confirmation_off_and_nobody_is_told_yes():
    async with stage(answering(PingAnswers.NONE), heartbeat=Heartbeat(15, 10)) as played:
        played.transport._on_peer = None
        written = asyncio.ensure_future(played.client.send("x", confirm=True))
        flushed = asyncio.ensure_future(played.client.flush())
        for _ in range(8):
            played.peer.send("data")
            await settle(1)
        assert played.client.stats.confirmation == "on"
        assert not written.done()
        for _ in range(4):
            played.peer.send("data")
            await settle(1)
        assert played.client.stats.confirmation == "off"
        with pytest.raises(DeliveryUncertain, match="confirmation is off .* was accepted and is sent"):
            await written
        await flushed
        assert played.client.stats.confirmed == 1
        with pytest.raises(DeliveryUncertain, match="was not sent"):
            await played.client.send("y", confirm=True)
        played.peer.drop()
        await played.reopened()
        assert played.client.stats.confirmation == "on"
        await played.client.send("z", confirm=True)


async def test_a_wrong_pong_confirms_nothing():
    async with stage(answering(PingAnswers.WRONG)) as played:
        call = asyncio.ensure_future(played.client.send("x", confirm=True))
        await settle(2)
        played.peer.pong(b"")
        played.peer.pong(b"12345678")
        await settle(2)
        assert not call.done()
        assert played.client.stats.unconfirmed == 1
        played.peer.pong(played.peer.pings[-1])
        await call


# --- pings for confirmation


async def test_a_ping_goes_out_when_the_last_one_is_confirm_interval_old_and_takes_the_place_of_the_next():
    async with stage(outbox=Outbox(confirm_interval=3), heartbeat=Heartbeat(10)) as played:
        await settle(1)
        await played.client.send("a")
        await settle(1.9)
        assert len(played.peer.pings) == 1  # that of OPEN
        await settle(0.2)
        assert len(played.peer.pings) == 2
        assert played.client.stats.confirmed == 1
        await settle(9.8)
        assert len(played.peer.pings) == 2
        await settle(0.2)
        assert len(played.peer.pings) == 3


async def test_never_two_confirmation_pings_in_flight_and_the_next_one_as_soon_as_that_is_answered():
    async with stage(outbox=Outbox(confirm_interval=600), heartbeat=1000) as played:
        await settle()
        played.peer.pong_delay = 2
        began = now()
        calls = []
        for number in range(10):
            calls.append(asyncio.ensure_future(played.client.send(str(number), confirm=True)))
            await settle(0.1)
        assert len(played.peer.pings) == 2  # that of OPEN among them
        await asyncio.gather(*calls)
        assert len(played.peer.pings) == 3
        assert now() == pytest.approx(began + 4, abs=0.01)


async def test_half_of_the_bounds_ask_at_once():
    async with stage(outbox=Outbox(max_bytes=100, confirm_interval=600), heartbeat=1000) as played:
        await settle()
        await played.client.send("x" * 49)
        await settle()
        assert len(played.peer.pings) == 1  # that of OPEN
        await played.client.send("x")
        await settle()
        assert len(played.peer.pings) == 2


async def test_what_does_not_fit_beside_the_unconfirmed_asks_at_once():
    async with stage(outbox=Outbox(max_bytes=100, confirm_interval=600), heartbeat=1000) as played:
        await settle()
        await played.client.send("x" * 40)
        await settle()
        assert len(played.peer.pings) == 1  # that of OPEN
        await played.client.send("y" * 70)
        await settle()
        assert played.received == ["x" * 40, "y" * 70]


# --- flush


@pytest.mark.promise("P5")
async def test_flush_waits_for_what_was_accepted_before_and_not_for_more():
    async with stage() as played:
        played.peer.pong_delay = 1
        await played.client.flush()
        await played.client.send("a")
        flushed = asyncio.ensure_future(played.client.flush())
        await settle()
        await played.client.send("b")
        before = now()
        await flushed
        assert now() == pytest.approx(before + 1, abs=0.01)
        assert played.client.stats.unconfirmed == 1


async def test_flush_ends_when_each_fate_is_reported():
    async with stage(reconnect=SLOW) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("uncertain")
        first = asyncio.ensure_future(played.client.flush())
        await settle()
        played.peer.drop()
        await first
        await settle()
        assert played.fates == [("uncertain", "uncertain")]
        await played.client.send("expires", ttl=2)
        await played.client.flush()
        assert now() == pytest.approx(2, abs=0.1)
        assert played.fates[1:] == [("expires", "expired")]


async def test_flush_in_time_or_not():
    async with stage(start=False, reconnect=SLOW) as played:
        played.transport.refuse()
        played.client.start()
        await played.client.send("x")
        with pytest.raises(TimeoutError):
            await played.client.flush(timeout=3)
        assert played.client.stats.waiting == 1
        with pytest.raises(TimeoutError):
            await played.client.flush(0)
        await played.client.flush()
        assert played.received == ["x"]
        await played.client.flush(0)


async def test_flush_says_when_the_client_ends_first():
    async with stage(reconnect=SLOW) as played:
        played.peer.drop()
        await settle()
        await played.client.send("x")
        call = asyncio.ensure_future(played.client.flush())
        await settle()
        await played.client.close()
        with pytest.raises(ClientClosed):
            await call
        with pytest.raises(ClientClosed):
            await played.client.flush()


async def test_flush_works_inside_the_own_iteration():
    async with stage() as played:
        played.peer.send(*map(str, range(100)))
        seen = []
        async for message in played.client:
            seen.append(message)
            await played.client.send(message)
            await played.client.flush(timeout=5)
            if len(seen) == 100:
                break
        assert played.received == seen == [str(number) for number in range(100)]


# --- answers behind our own full inbox


@pytest.mark.promise("P5")
async def test_who_waits_for_an_answer_reads_on_to_twice_the_bounds():
    async with stage(inbox=Inbox(max_messages=10)) as played:
        played.peer.pong_delay = 0.5
        call = asyncio.ensure_future(played.client.send("x", confirm=True))
        await settle()
        played.peer.send(*map(str, range(19)))
        await call
        assert played.client.stats.unread == 19
        assert played.peer.paused
        for number in range(19):
            assert await played.client.recv() == str(number)
        assert not played.peer.paused


@pytest.mark.parametrize("kind", ["send", "flush", "request"])
@pytest.mark.parametrize("full", ["already", "later"])
async def test_who_waits_for_an_answer_that_cannot_come_is_told(kind, full):
    async with stage(inbox=Inbox(max_messages=10)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        if full == "already":
            # Somebody waits while it fills up to twice the bounds, and gives up.
            first = asyncio.ensure_future(played.client.send("first", confirm=True))
            await settle()
            played.peer.send(*map(str, range(30)))
            with pytest.raises(InboxFull):
                await first
        await played.client.send("x")
        call = asyncio.ensure_future(
            {
                "send": lambda: played.client.send("y", confirm=True),
                "flush": played.client.flush,
                "request": lambda: played.client.request("y", lambda m: m == "answer", 1000),
            }[kind]()
        )
        await settle()
        if full == "later":
            assert not call.done()
            played.peer.send(*map(str, range(30)))
        await settle()
        assert call.done()
        with pytest.raises(InboxFull, match="is queued behind unread messages"):
            await call
        assert played.client.stats.unread == 20
        for number in range(30):
            assert await played.client.recv() == str(number)


@pytest.mark.promise("P5")
async def test_while_the_program_does_not_read_sends_go_on_and_are_counted_as_unverified():
    async with stage(inbox=Inbox(max_messages=10), outbox=Outbox(max_bytes=100)) as played:
        played.peer.send(*map(str, range(20)))
        await settle()
        assert played.peer.paused
        for _ in range(50):
            async with asyncio.timeout(1):
                await played.client.send("x" * 10)
        stats = played.client.stats
        assert stats.unverified > 30
        assert stats.unverified + stats.unconfirmed + stats.waiting == 50
        for number in range(20):
            assert await played.client.recv() == str(number)
        await played.client.flush()
        stats = played.client.stats
        assert stats.unverified + stats.confirmed == 50
        assert len(played.received) == 50


@pytest.mark.promise("P5")
async def test_with_resend_nothing_is_let_go_and_the_reason_is_said():
    options = {"inbox": Inbox(max_messages=10), "outbox": Outbox(max_bytes=100, on_uncertain="resend")}
    async with stage(**options) as played:
        played.peer.send(*map(str, range(20)))
        await settle()
        with pytest.raises(OutboxFull, match="while the program does not read"):
            for _ in range(50):
                await played.client.send("x" * 10)
        assert played.client.stats.unverified == 0
        for number in range(20):
            assert await played.client.recv() == str(number)
        await played.client.flush()
        stats = played.client.stats
        assert stats.confirmed == len(played.received) == 20


@pytest.mark.parametrize("resend", ["report", "resend"])
async def test_an_unqueued_message_does_not_wait_for_a_pong_that_cannot_come(resend):
    options = {"inbox": Inbox(max_messages=10), "outbox": Outbox(max_bytes=100, on_uncertain=resend)}
    async with stage(**options) as played:
        played.peer.send(*map(str, range(20)))
        await settle()
        for _ in range(10):
            await played.client.send("x" * 10)
        async with asyncio.timeout(5):
            if resend == "report":
                await played.client.send("y", queue=False)
            else:
                with pytest.raises(OutboxFull, match="while the program does not read"):
                    await played.client.send("y", queue=False)
        while played.client.stats.unread:
            await played.client.recv()
