"""What becomes of accepted messages across drops: each has exactly one end, and the numbers say so (P5)."""

import asyncio

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    CloseEvent,
    Fate,
    NotConnected,
    Outbox,
    ReconnectEvent,
    ReconnectPolicy,
    RetryEvent,
    UndeliveredEvent,
)
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import settle, stage

pytestmark = pytest.mark.promise("P5")
RESEND = Outbox(on_uncertain="resend")


async def test_exactly_the_unconfirmed_are_uncertain():
    async with stage() as played:
        for number in range(10):
            await played.client.send(f"confirmed {number}")
        await played.client.flush()
        played.peer.answers_pings = PingAnswers.NONE
        for number in range(5):
            await played.client.send(f"unconfirmed {number}")
        played.peer.drop()
        await settle()
        await played.client.send("waits")
        await played.reopened()
        await played.client.flush()
        assert played.fates == [(f"unconfirmed {number}", "uncertain") for number in range(5)]
        assert played.received == ["waits"]
        close, back = played.closes[0], played.of(ReconnectEvent)[0]
        assert (close.uncertain, close.unsent) == (5, 0)
        assert (back.uncertain, back.resent) == (5, 0)
        stats = played.client.stats
        assert (stats.confirmed, stats.uncertain, stats.sent) == (11, 5, 16)


async def test_resend_puts_them_in_front_in_order():
    async with stage(outbox=RESEND) as played:
        played.peer.answers_pings = PingAnswers.NONE
        for text in "abc":
            await played.client.send(text)
        played.peer.drop()
        await settle()
        for text in "def":
            await played.client.send(text)
        await played.reopened()
        played.peer.answers_pings = PingAnswers.NONE
        await settle()
        assert played.received == list("abcdef")
        played.peer.drop()
        await settle()
        await played.client.send("g")
        await played.reopened()
        await played.client.flush()
        assert played.received == list("abcdefg")
        assert played.fates == []
        backs = played.of(ReconnectEvent)
        assert [(back.resent, back.uncertain) for back in backs] == [(3, 0), (6, 0)]
        assert [close.uncertain for close in played.closes] == [3, 6]
        assert played.client.stats.confirmed == 7


@pytest.mark.parametrize(
    "code,resent", [(1003, False), (1007, False), (1008, False), (1009, False), (1011, True)]
)
async def test_a_poison_message_is_not_sent_again(code, resent):
    async with stage(outbox=RESEND, reconnect=ReconnectPolicy(wait=wait_fixed(1), min_uptime=0)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("poison?")
        played.peer.close(code)
        await settle()
        await played.client.send("next")
        await played.reopened()
        await played.client.flush()
        assert played.received == (["poison?", "next"] if resent else ["next"])
        assert played.fates == ([] if resent else [("poison?", "uncertain")])


async def test_our_own_1009_is_no_poison():
    async with stage(outbox=RESEND, max_message_size=10) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("x")
        played.peer.send("x" * 11)
        await played.reopened()
        await played.client.flush()
        assert played.received == ["x"]


async def test_a_message_may_have_its_own_rule():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("report")
        await played.client.send("resend", on_uncertain="resend")
        await played.client.send("never", on_uncertain="resend", queue=False)
        played.peer.drop()
        await played.reopened()
        await played.client.flush()
        assert played.received == ["resend"]
        assert played.fates == [("report", "uncertain"), ("never", "uncertain")]


async def test_what_stood_in_the_send_buffer_is_uncertain_and_what_waited_is_not():
    async with stage() as played:
        played.peer.congest()
        for text in "abc":
            await played.client.send(text)
        played.peer.drop()
        await played.reopened()
        await played.client.flush()
        assert played.received == ["b", "c"]
        assert played.fates == [("a", "uncertain")]
        assert (played.closes[0].unsent, played.closes[0].uncertain) == (2, 1)


async def test_what_was_being_compressed_is_uncertain_though_it_never_left():
    async with stage(compression="deflate") as played:
        played.peer.write_delay = 2
        await played.client.send("x" * 20_000)
        await played.client.send("y")
        await settle(1)
        assert played.client.stats.unconfirmed == 1
        played.peer.drop()
        await played.reopened()
        await played.client.flush()
        assert played.received == ["y"]
        assert [event.fate for event in played.of(UndeliveredEvent)] == [Fate.UNCERTAIN]


async def test_messages_that_take_time_to_write_leave_in_order_and_are_confirmed():
    async with stage(compression="deflate") as played:
        played.peer.write_delay = 0.5
        sent = [f"{number}".ljust(20_000) for number in range(5)] + ["small"]
        for message in sent:
            await played.client.send(message)
        await played.client.flush()
        assert played.received == sent
        assert played.client.stats.confirmed == 6


async def test_the_fates_come_between_the_close_and_the_retry():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        await played.client.send("b")
        played.peer.drop()
        await settle()
        kinds = [type(event) for event in played.events if not type(event).__name__.startswith("State")]
        assert kinds[-4:] == [CloseEvent, UndeliveredEvent, UndeliveredEvent, RetryEvent]


async def test_each_fate_says_how_old_the_message_was():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        await settle(3)
        await played.client.send("b")
        await settle(2)
        played.peer.drop()
        await settle()
        events = played.of(UndeliveredEvent)
        assert [event.age for event in events] == pytest.approx([5, 2], abs=0.05)
        assert events[1].accepted_at > events[0].accepted_at


async def test_a_thousand_drops_and_every_message_has_one_end():
    ends: dict[str, int] = {}
    number = 0
    async with stage(reconnect=ReconnectPolicy(wait=wait_fixed(0.1), min_delay=0.1)) as played:
        for _ in range(300):
            for _ in range(7):
                await played.client.send(f"{number}")
                number += 1
            if number % 3 == 0:
                await played.client.flush()
            if number % 5 == 0:
                played.peer.go_deaf()
            if number % 2 == 0:
                played.peer.drop()
                await played.reopened()
        await played.client.flush()
        for message, _ in played.fates:
            ends[message] = ends.get(message, 0) + 1
        confirmed = number - len(ends)
        stats = played.client.stats
        assert all(count == 1 for count in ends.values())
        assert (stats.confirmed, stats.uncertain) == (confirmed, len(ends))
        arrived = {message for peer in played.transport.peers for message in peer.received}
        assert {str(n) for n in range(number)} - set(ends) <= arrived


async def test_with_resend_nothing_is_ever_lost_over_hundreds_of_drops():
    async with stage(outbox=RESEND, reconnect=ReconnectPolicy(wait=wait_fixed(0.1), min_delay=0.1)) as played:
        for number in range(1000):
            await played.client.send(f"{number}")
            if number % 7 == 0:
                if number % 3:
                    played.peer.go_deaf()
                played.peer.drop()
                await asyncio.sleep(0.03)
        await played.client.flush()
        first: dict[str, None] = {}
        for peer in played.transport.peers:
            for message in peer.received:
                first.setdefault(message)
        assert list(first) == [str(number) for number in range(1000)]
        assert played.fates == []
        assert played.client.stats.confirmed == 1000


async def test_a_connection_that_confirms_nothing_counts_what_was_written():
    async with stage(heartbeat=None) as played:
        for number in range(10):
            await played.client.send(str(number))
        assert played.client.stats.confirmed == 10
        played.peer.drop()
        await settle()
        assert played.fates == []
        assert played.closes[0].uncertain == 0


async def test_a_dead_link_that_has_not_said_so_takes_nothing():
    async with stage(FakeTransport(latency=1)) as played:
        played.peer.send("x")
        await settle(1.5)
        played.client._supervisor.active.link.pause()
        played.peer.drop()
        await settle(1.5)
        await played.client.send("kept")
        assert played.client.stats.waiting == 1
        played.client._supervisor.active.link.resume()
        await played.reopened()
        await played.client.flush()
        assert played.received == ["kept"]
        assert played.fates == []


async def test_a_dead_link_that_has_not_said_so_refuses_what_must_not_wait():
    async with stage(FakeTransport(latency=1)) as played:
        played.peer.send("x")
        await settle(1.5)
        played.client._supervisor.active.link.pause()
        played.peer.drop()
        await settle(1.5)
        with pytest.raises(NotConnected, match="has just ended"):
            await played.client.send("refused", queue=False)
        assert played.client.stats.waiting == 0
        played.client._supervisor.active.link.resume()
        await played.reopened()
        await played.client.send("accepted")
        await played.client.flush()
        assert played.received == ["accepted"]
        assert played.fates == []
