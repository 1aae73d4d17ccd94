"""What becomes of each message, told once: by the rule of the client, by its own, and by what came of its line."""

import asyncio

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ClientStopped,
    DeliveryUncertain,
    Fate,
    Heartbeat,
    Outbox,
    ReconnectEvent,
    ReconnectPolicy,
    Stop,
    UndeliveredEvent,
)
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import answering, settle, stage

LATER = ReconnectPolicy(wait=wait_fixed(10))


def mute(peer):
    peer.answers_pings = PingAnswers.NONE


@pytest.mark.promise("P4")
@pytest.mark.promise("P5")
@pytest.mark.parametrize("rule", ["report", "resend"])
async def test_each_message_may_have_a_rule_of_its_own(rule):
    other = {"report": "resend", "resend": "report"}[rule]
    async with stage(outbox=Outbox(on_uncertain=rule), reconnect=LATER) as played:
        mute(played.peer)
        await played.client.send("plain 1")
        await played.client.send("other 1", on_uncertain=other)
        await played.client.send("plain 2")
        await played.client.send("other 2", on_uncertain=other)
        await played.client.send("same", on_uncertain=rule)
        played.peer.drop()
        await settle()
        await played.client.send("later")
        await played.client.send("urgent", priority=9)
        peer = await played.reopened()
        await played.client.flush(timeout=1)
        plain, others = ["plain 1", "plain 2", "same"], ["other 1", "other 2"]
        again, told = (others, plain) if rule == "report" else (plain, others)
        assert list(peer.received) == [*again, "urgent", "later"], "what was written goes before all else"
        assert played.fates == [(message, Fate.UNCERTAIN) for message in told]
        (event,) = played.of(ReconnectEvent)
        assert (event.resent, event.uncertain) == (len(again), len(told))
        assert played.closes[0].uncertain == 5


@pytest.mark.promise("P4")
async def test_what_is_sent_again_stays_in_front_and_in_order_over_many_losses():
    async with stage(outbox=Outbox(on_uncertain="resend")) as played:
        mute(played.peer)
        played.transport._on_peer = mute
        for number in range(10):
            await played.client.send(str(number))
        for _ in range(5):
            played.peer.drop()
            await played.client.send("new")
            await played.reopened()
            await settle()
            assert played.received[:10] == [str(number) for number in range(10)]
        played.transport._on_peer = None
        played.peer.drop()
        await played.reopened()
        await played.client.flush(timeout=1)
        assert played.received == [*(str(number) for number in range(10)), *["new"] * 5]
        assert played.fates == []
        assert played.client.stats.confirmed == 15


@pytest.mark.promise("P5")
async def test_neither_ttl_nor_key_nor_overflow_touches_what_was_written():
    outbox = Outbox(on_uncertain="resend", max_messages=2, overflow="drop_oldest")
    async with stage(outbox=outbox, reconnect=LATER) as played:
        mute(played.peer)
        for number in range(4):
            await played.client.send(f"written {number}", ttl=2, key="k")
        played.peer.drop()
        await settle(3)
        await played.client.send("replaced", key="k")
        await played.client.send("waits", key="k")
        await played.client.send("evicted")
        await played.client.send("late 1")
        peer = await played.reopened()
        await played.client.flush(timeout=1)
        assert list(peer.received) == [*(f"written {number}" for number in range(4)), "evicted", "late 1"]
        assert played.fates == [("replaced", Fate.EVICTED), ("waits", Fate.EVICTED)]


@pytest.mark.promise("P5")
async def test_every_fate_is_told_once_with_its_age_and_counted():
    decide = ReconnectPolicy(
        wait=wait_fixed(10), decide=lambda failure: Stop() if failure.attempt > 1 else None
    )
    async with stage(outbox=Outbox(on_uncertain="report"), reconnect=decide) as played:
        await played.client.send("confirmed", confirm=True)
        mute(played.peer)
        await played.client.send("uncertain")
        await settle(1)
        played.transport.refuse(times=None)
        played.peer.drop()
        await settle()
        await played.client.send("expired", ttl=2)
        await played.client.send("evicted", key="k")
        await played.client.send("abandoned", key="k")
        with pytest.raises(ClientStopped) as stopped:
            await played.client.recv()
        await settle()
        events = played.of(UndeliveredEvent)
        told = {event.message: event for event in events}
        assert len(told) == len(events), "each once"
        assert set(told) == {"uncertain", "expired", "evicted", "abandoned"}
        assert {message: event.fate.value for message, event in told.items()} == {name: name for name in told}
        assert told["uncertain"].age == pytest.approx(1, abs=0.01)
        assert told["expired"].age == pytest.approx(2, abs=0.01)
        assert told["evicted"].age == pytest.approx(0, abs=0.01)
        assert told["abandoned"].age == pytest.approx(10, abs=0.1)
        assert [event.message for event in stopped.value.undelivered] == ["abandoned"]
        stats = played.client.stats
        assert (stats.expired, stats.evicted, stats.abandoned) == (1, 1, 1)
        assert (stats.waiting, stats.unconfirmed) == (0, 0)
        assert played.closes[-1].unsent == 1


@pytest.mark.promise("P5")
async def test_whoever_waits_hears_of_an_end_after_the_fates_that_came_of_it():
    async with stage(reconnect=LATER) as played:
        mute(played.peer)
        heard = []
        played.client.on_undelivered(lambda event: heard.append(event.message))

        async def flush():
            await played.client.flush()
            heard.append("flushed")

        await played.client.send("a")
        await played.client.send("b")
        flushing = asyncio.ensure_future(flush())
        await settle()
        played.peer.drop()
        await flushing
        assert heard == ["a", "b", "flushed"]


@pytest.mark.promise("P5")
async def test_what_expired_is_not_written_though_the_timer_comes_late():
    async with stage() as played:
        played.peer.congest()
        await played.client.send("in hand")
        await played.client.send("late", ttl=1)
        played.client._supervisor.sender._expiry.cancel()  # as a loop that was blocked until after the ttl
        await settle(2)
        played.peer.recover()
        await played.client.flush()
        assert played.received == ["in hand"]
        assert played.fates == [("late", Fate.EXPIRED)]


@pytest.mark.promise("P5")
@pytest.mark.parametrize("when", ["opened", "doubted"])
async def test_who_waits_for_the_confirmation_of_what_waits_is_told_that_it_is_off(when):
    off = when == "opened"
    transport = FakeTransport() if off else answering(PingAnswers.NONE)
    options = {"heartbeat": None} if off else {"heartbeat": Heartbeat(5, 10, pong_timeout=None)}
    async with stage(transport, start=not off, **options) as played:
        if off:
            transport._on_peer = lambda peer: peer.congest()
            transport.accept(delay=1)
            played.client.start()
        else:
            await played.client.send("unanswered")
            for _ in range(7):
                played.peer.send("alive")
                await settle(1)
            played.peer.congest()
        calls = [asyncio.ensure_future(played.client.send(text, confirm=True)) for text in "abc"]
        for _ in range(10):
            await settle(1)
            if played.transport.peers:
                played.peer.send("alive")
        assert played.client.stats.confirmation == "off"
        assert played.client.stats.waiting == 2
        for call in calls:
            assert call.done(), "it will never be confirmed"
            assert isinstance(call.exception(), DeliveryUncertain)
        played.peer.recover()
        await settle()
        assert played.received[-3:] == ["a", "b", "c"]


@pytest.mark.promise("P5")
async def test_time_for_which_the_machine_sleeps_counts_for_a_ttl():
    clock = asyncio.get_running_loop().clock
    transport = FakeTransport()
    transport.refuse(times=3)
    async with stage(transport, outbox=Outbox(max_messages=2), ready=False) as played:
        await played.client.send("stale", ttl=20)
        await played.client.send("kept", ttl=100_000)
        clock.suspend(8 * 3600)
        await played.client.send("fresh", ttl=20)  # there is room at once, though no timer has fired
        await played.client.ready()
        await played.client.flush(timeout=5)
        assert played.fates == [("stale", Fate.EXPIRED)]
        assert [event.age for event in played.of(UndeliveredEvent)] == [pytest.approx(8 * 3600, abs=5)]
        assert played.received == ["kept", "fresh"]


@pytest.mark.promise("P5")
@pytest.mark.parametrize("step", [-1e6, -3600, 3600, 1e6])
async def test_a_clock_that_is_set_neither_kills_nor_revives_a_message(step):
    clock = asyncio.get_running_loop().clock
    transport = FakeTransport()
    transport.refuse(times=10)
    async with stage(transport, ready=False) as played:
        await played.client.send("short", ttl=5)
        await played.client.send("long", ttl=500)
        clock.set_wall(clock.wall + step)
        await settle(6)
        assert played.fates == [("short", Fate.EXPIRED)]
        await played.client.ready()
        await played.client.flush(timeout=5)
        assert played.received == ["long"]
