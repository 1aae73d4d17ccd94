"""`with_gaps(lost=True)`: the place of each loss in the stream of messages, told as soon as it is reached."""

import asyncio
import copy
import pickle
from random import Random

import pytest

from resilient_ws import (
    ClientStopped,
    CloseEvent,
    Gap,
    Inbox,
    Lost,
    State,
    WebSocketClient,
)
from resilient_ws.api import options
from resilient_ws.delivery import inbox as inboxes
from resilient_ws.testing import FakeTransport
from tests.client.kit import URL, now, settle, stage


def short(item):
    match item:
        case Lost():
            assert isinstance(item.close, CloseEvent)
            return "lost"
        case Gap():
            return f"gap {item.count}" + (f" dropped {item.dropped}" if item.dropped else "")
    return item


async def take(stream, count):
    return [short(await asyncio.wait_for(anext(stream), 1000)) for _ in range(count)]


@pytest.mark.promise("P2")
async def test_a_loss_is_told_at_once_and_the_gap_when_the_next_connection_is_open():
    async with stage() as played:
        closes = []
        played.client.on_close(closes.append)
        stream = played.client.with_gaps(lost=True)
        played.peer.send("1")
        assert await take(stream, 1) == ["1"]
        waiting = asyncio.ensure_future(anext(stream))
        await settle(5)
        dropped_at = now()
        played.peer.drop()
        lost = await waiting
        assert now() == dropped_at
        assert lost == Lost(closes[0])
        assert lost.close is closes[0]
        assert lost.cause is closes[0].cause
        gap = await anext(stream)
        assert now() == pytest.approx(dropped_at + 1)
        assert (gap.close, gap.count) == (closes[0], 1)
        played.peer.send("2")
        assert await take(stream, 1) == ["2"]


async def test_messages_before_the_loss_come_before_it_and_none_after():
    async with stage() as played:
        stream = played.client.with_gaps(lost=True)
        played.peer.send("1", "2", "3")
        await settle()
        played.peer.drop()
        await settle()
        assert await take(stream, 4) == ["1", "2", "3", "lost"]
        await played.reopened()
        played.peer.send("4")
        assert await take(stream, 2) == ["gap 1", "4"]


async def test_without_lost_all_is_as_ever():
    async with stage() as played:
        stream, other = played.client.with_gaps(), played.client.with_gaps(lost=False)
        played.peer.send("1")
        await settle()
        played.peer.drop()
        await played.reopened()
        assert await take(stream, 1) == ["1"]
        waiting = asyncio.ensure_future(anext(other))
        await settle(5)
        assert not waiting.done(), "the gap comes with the first message"
        played.peer.send("2")
        assert short(await waiting) == "gap 1"
        assert await take(stream, 1) == ["2"]


@pytest.mark.parametrize(
    "when", ["before the loss", "in the outage", "behind it", "behind its first message"]
)
async def test_an_iteration_may_begin_at_any_time(when):
    async with stage() as played:
        begin = lambda: played.client.with_gaps(lost=True)  # noqa: E731
        stream = begin() if when == "before the loss" else None
        played.peer.drop()
        await settle()
        stream = begin() if when == "in the outage" else stream
        await played.reopened()
        stream = begin() if when == "behind it" else stream
        played.peer.send("1")
        await settle()
        stream = stream or begin()
        expected = ["lost", "gap 1", "1"] if when in {"before the loss", "in the outage"} else ["gap 1", "1"]
        assert await take(stream, len(expected)) == expected


@pytest.mark.promise("P6")
async def test_losses_that_are_not_taken_do_not_grow_with_the_reconnects():
    async with stage() as played:
        stream = played.client.with_gaps(lost=True)
        played.peer.send("1")
        await settle()
        for _ in range(50):
            played.peer.drop()
            await played.reopened()
        assert len(played.client._supervisor.inbox.items) == 3
        played.peer.send("2")
        lost = (await take(stream, 1), await anext(stream))[1]
        assert lost.close == played.closes[-1]
        assert await take(stream, 2) == ["gap 50", "2"]


@pytest.mark.promise("P6")
async def test_what_the_inbox_drops_takes_no_loss_along():
    async with stage(inbox=Inbox(max_messages=2, overflow="drop_oldest")) as played:
        stream = played.client.with_gaps(lost=True)
        played.peer.send("1", "2")
        await settle()
        played.peer.drop()
        await played.reopened()
        played.peer.send("3")
        await settle()
        assert len(played.client._supervisor.inbox) == 2
        assert await take(stream, 5) == ["gap 0 dropped 1", "2", "lost", "gap 1", "3"]
        for number in range(4, 8):
            played.peer.drop()
            await played.reopened()
            played.peer.send(str(number), str(number))
        await settle()
        assert await take(stream, 6) == ["lost", "gap 3 dropped 6", "lost", "gap 1", "7", "7"]


@pytest.mark.promise("P11")
async def test_the_loss_that_ends_the_client_is_told_by_the_end_itself():
    async with stage(reconnect=False) as played:
        stream = played.client.with_gaps(lost=True)
        played.peer.send("1")
        await settle()
        played.peer.drop()
        await settle()
        assert await take(stream, 1) == ["1"]
        assert not stream.is_current
        with pytest.raises(ClientStopped):
            await anext(stream)


@pytest.mark.parametrize("outage", [False, True])
async def test_close_is_no_loss(outage):
    async with stage() as played:
        stream = played.client.with_gaps(lost=True)
        if outage:
            played.peer.drop()
            await settle()
        await played.client.close()
        assert [short(item) async for item in stream] == (["lost"] if outage else [])


@pytest.mark.promise("P8")
async def test_a_cancelled_step_loses_no_loss():
    for turns in range(8):
        async with stage() as played:
            stream = played.client.with_gaps(lost=True)
            step = asyncio.ensure_future(anext(stream))
            await settle()
            played.peer.drop()
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = step.cancel()
            if cancelled:
                with pytest.raises(asyncio.CancelledError):
                    await step
                assert await take(stream, 1) == ["lost"]
            else:
                assert short(await step) == "lost"


@pytest.mark.parametrize("how", ["recv", "iteration", "batches", "callback", "with_gaps"])
async def test_other_consumers_of_the_same_client_do_not_see_losses(how):
    async with stage() as played:
        client, got = played.client, []
        client.with_gaps(lost=True)

        async def consume():
            if how in {"recv", "iteration"}:
                while True:
                    got.append(await (client.recv() if how == "recv" else anext(client)))
            elif how == "with_gaps":
                async for item in client.with_gaps():
                    got.extend([] if isinstance(item, Gap) else [item])
            elif how == "batches":
                async for batch in client.batches():
                    got.extend(batch)

        if how == "callback":
            client.on_message(got.append)
        consumer = asyncio.ensure_future(consume())
        for number in range(4):
            await settle()
            played.peer.send(f"{number}a", f"{number}b")
            await settle(number % 2)
            played.peer.drop()
            await played.reopened()
        played.peer.send("last")
        await settle()
        assert got == [f"{number}{letter}" for number in range(4) for letter in "ab"] + ["last"]
        consumer.cancel()
        await asyncio.wait([consumer])


@pytest.mark.promise("P4")
@pytest.mark.parametrize("overflow", ["pause", "drop_oldest"])
@pytest.mark.parametrize("seed", range(60))
async def test_no_message_of_a_dead_connection_comes_after_its_loss(seed, overflow):
    """Whatever the pace of the two sides: losses, gaps and messages stand in their order, and `is_current` is never wrong."""
    random = Random(seed)
    async with stage(inbox=Inbox(max_messages=random.choice([1, 3, 100]), overflow=overflow)) as played:
        stream = played.client.with_gaps(lost=True)
        got = []
        judged = []

        async def consume():
            connection = 0
            is_lost = False
            async for item in stream:
                got.append(short(item))
                if isinstance(item, Lost):
                    is_lost = True
                elif isinstance(item, Gap):
                    is_lost = False if item.close is not None else is_lost
                else:
                    of = int(item.split()[0])
                    assert of >= connection, "a message of a connection before"
                    assert of == connection or not is_lost, "no gap before the message"
                    assert not (is_lost and of == connection), "a message of a dead connection after its loss"
                    connection = of
                    live = played.client.stats.opens - 1 if played.client.state is State.OPEN else None
                    judged.append(stream.is_current)
                    assert not stream.is_current or of == live
                if random.random() < 0.5:
                    await asyncio.sleep(random.choice([0, 0.01, 0.5, 3]))

        consumer = asyncio.ensure_future(consume())
        for number in range(8):
            for _ in range(random.randrange(4)):
                played.peer.send(*(f"{number} {index}" for index in range(random.randrange(1, 6))))
                await asyncio.sleep(random.choice([0, 0, 0.01, 1]))
            played.peer.drop()
            if random.random() < 0.3:
                played.transport.refuse(times=2)
            await played.reopened()
        played.peer.send("8 end")
        await played.until(lambda: got and got[-1] == "8 end")
        assert stream.is_current
        assert True in judged
        consumer.cancel()
        await asyncio.wait([consumer])


class Nobody:
    def inbox_full(self):
        pass

    inbox_relaxed = inbox_stuck = inbox_full


@pytest.mark.parametrize("taken", [False, True])
def test_a_message_that_was_kept_back_comes_before_the_loss_or_not_at_all(taken):
    close = CloseEvent(code=1006)
    inbox = inboxes.Inbox(options.Inbox(), Nobody())
    inbox.tell_losses()
    inbox.is_connected = True
    inbox.put("1", 1)
    inbox.is_connected = False
    inbox.lost(Lost(close))
    if taken:
        inbox.take_all()
    assert inbox.put_late("2", 1, ended=True) is not taken
    assert inbox.take_all() == ([] if taken else ["1", "2", Lost(close)])
    inbox.is_connected = True
    inbox.gap(Gap(close=close))
    assert not inbox.put_late("3", 1, ended=True)
    assert inbox.put_late("4", 1, ended=False)
    assert inbox.take_all() == [Gap(close=close), "4"]


@pytest.mark.parametrize("wrong", [1, None, "yes"])
def test_lost_is_checked(wrong):
    with pytest.raises(TypeError, match="lost must be True or False"):
        WebSocketClient(URL, transport=FakeTransport()).with_gaps(lost=wrong)


def test_a_loss_is_a_frozen_value():
    lost = Lost(CloseEvent(code=1001, reason="bye"))
    assert pickle.loads(pickle.dumps(lost)) == copy.deepcopy(lost) == copy.copy(lost) == lost
    with pytest.raises(AttributeError):
        lost.close = None
