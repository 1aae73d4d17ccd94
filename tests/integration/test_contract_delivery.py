"""What a program may rely on about the messages it has sent and the ones it has not taken yet."""

import asyncio
import time
from datetime import timedelta

import pytest

from resilient_ws import (
    ClientClosed,
    CloseEvent,
    CloseOrigin,
    DeliveryUncertain,
    Fate,
    Gap,
    Heartbeat,
    Inbox,
    InboxFull,
    NotConnected,
    Outbox,
    OutboxFull,
    ReconnectEvent,
    ReconnectPolicy,
    RetryEvent,
    State,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.testing import Accept, FaultServer, Refuse

QUICK = ReconnectPolicy(first_delay=0.02, min_delay=0.01, max_delay=0.04)
LISTEN = Accept(echo=False)


def messages(server):
    return [received.message for received in server.received]


def fates(events):
    return [(event.message, event.fate) for event in events]


# ------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    "overflow, outcomes, arrived, evicted",
    [
        ("drop_oldest", [None] * 4, ["2", "3"], ["0", "1"]),
        ("drop_newest", [None] * 4, ["0", "1"], ["2", "3"]),
        ("raise", [None, None, OutboxFull, OutboxFull], ["0", "1"], []),
        ("wait", [None, None, NotConnected, NotConnected], ["0", "1"], []),
    ],
)
async def test_what_a_full_outbox_does_before_the_start(overflow, outcomes, arrived, evicted):
    told = []
    async with FaultServer(default=LISTEN) as server:
        client = WebSocketClient(server.url, outbox=Outbox(2, overflow=overflow), on_undelivered=told.append)
        for number, outcome in enumerate(outcomes):
            if outcome is None:
                await client.send(str(number))
            else:
                with pytest.raises(outcome):
                    await client.send(str(number))
        client.start()
        await client.ready(2)
        await client.flush(2)
        await client.close()
        assert messages(server) == arrived
    assert fates(told) == [(message, Fate.EVICTED) for message in evicted]
    assert client.stats.evicted == len(evicted)


@pytest.mark.parametrize("overflow", ["raise", "wait"])
async def test_while_open_a_full_outbox_is_back_pressure(overflow):
    policy = (
        ReconnectPolicy(first_delay=0, min_delay=0) if overflow == "wait" else ReconnectPolicy(60, 60, 60)
    )
    async with FaultServer(default=LISTEN, receive_buffer=4096) as server:
        async with WebSocketClient(
            server.url, reconnect=policy, outbox=Outbox(5, overflow=overflow)
        ) as client:
            connection = await server.connection()
            connection.stop_reading()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    for _ in range(200):
                        await client.send(b"x" * 500_000)
            waiting = asyncio.create_task(client.send("last"))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            connection.rst()
            if overflow == "raise":
                with pytest.raises(OutboxFull):
                    await waiting
            else:
                await asyncio.wait_for(waiting, 5)


@pytest.mark.promise("P2")
@pytest.mark.usefixtures("transport")
async def test_no_send_stays_blocked_on_a_peer_that_vanishes_behind_our_upload_with_pings_of_the_application():
    heartbeat = Heartbeat.app("ping", lambda message: message == "pong", interval=0.3, timeout=0.3)
    closes = asyncio.Queue()
    async with FaultServer(default=LISTEN, receive_buffer=4096) as server:
        options = {"heartbeat": heartbeat, "reconnect": ReconnectPolicy(60, 60, 60), "close_timeout": 0.2}
        async with WebSocketClient(server.url, on_close=closes.put_nowait, **options) as client:
            (await server.connection()).stop_reading()
            with pytest.raises(OutboxFull):
                async with asyncio.timeout(10):
                    while True:
                        await client.send(b"x" * 100_000)
            close = await asyncio.wait_for(closes.get(), 5)
    assert close.origin is CloseOrigin.HEARTBEAT
    assert "no data was sent or received" in str(close.cause)


async def test_with_drop_oldest_a_send_never_waits():
    async with FaultServer(default=LISTEN, receive_buffer=4096) as server:
        outbox = Outbox(5, overflow="drop_oldest")
        async with WebSocketClient(server.url, outbox=outbox, close_timeout=0.2) as client:
            (await server.connection()).stop_reading()
            async with asyncio.timeout(5):
                for _ in range(200):
                    await client.send(b"x" * 500_000)
            assert client.state is State.OPEN
            assert client.stats.evicted > 0
            assert client.stats.waiting <= 5


async def test_ttl_expires_what_was_never_written():
    told = []
    async with FaultServer(default=Refuse(503)) as server:
        outbox = Outbox(ttl=timedelta(milliseconds=100))
        client = WebSocketClient(server.url, outbox=outbox, reconnect=QUICK, on_undelivered=told.append)
        client.start()
        await client.send("default")
        await client.send("shorter", ttl=timedelta(milliseconds=30))
        await client.send("longer", ttl=60)
        while len(told) < 2:
            await asyncio.sleep(0.01)
        assert client.stats.expired == 2
        await client.close()
    assert fates(told) == [("shorter", Fate.EXPIRED), ("default", Fate.EXPIRED), ("longer", Fate.ABANDONED)]
    assert told[0].age >= 0.03
    assert client.stats.abandoned == 1


@pytest.mark.promise("P4")
@pytest.mark.usefixtures("transport")
async def test_order_holds_where_a_connection_dies_between_two_messages_of_a_turn():
    told = []
    async with FaultServer(default=LISTEN) as server:
        async with WebSocketClient(server.url, reconnect=QUICK, on_undelivered=told.append) as client:
            (await server.connection()).rst()
            await asyncio.sleep(0)  # now the socket is reset, and nobody has looked at ours
            await client.send("1")
            await client.send("2")
            await client.send("3")
            await client.send("4", ttl=60)
            await client.send("5")
            assert client.state is State.OPEN
            await client.flush(2)
        assert fates(told) == [("1", Fate.UNCERTAIN)]
        assert messages(server) == ["2", "3", "4", "5"]


@pytest.mark.promise("P4")
@pytest.mark.usefixtures("transport")
async def test_what_must_not_wait_is_refused_where_a_connection_dies_between_two_messages_of_a_turn():
    told = []
    async with FaultServer(default=LISTEN) as server:
        outbox = Outbox(1, overflow="drop_oldest")
        client = WebSocketClient(server.url, outbox=outbox, reconnect=QUICK, on_undelivered=told.append)
        async with client:
            (await server.connection()).rst()
            await asyncio.sleep(0)
            await client.send("1")
            await client.send("2")
            await client.send("3")
            with pytest.raises(NotConnected, match="has just ended"):
                await client.send("4", queue=False)
            await client.flush(2)
        assert fates(told) == [("2", Fate.EVICTED), ("1", Fate.UNCERTAIN)]
        assert messages(server) == ["3"]


@pytest.mark.promise("P5")
@pytest.mark.usefixtures("transport")
async def test_flush_waits_for_what_a_dead_connection_has_not_taken():
    async with FaultServer(default=LISTEN) as server, WebSocketClient(server.url, reconnect=QUICK) as client:
        (await server.connection()).rst()
        await asyncio.sleep(0)
        await client.send("1")
        await client.send("2")
        await client.send("3")
        await client.flush(2)
        assert messages(server) == ["2", "3"]
        assert client.stats.opens == 2


# ------------------------------------------------------------------------------------------------- confirmation


async def test_confirm_returns_when_the_peer_has_the_message():
    async with FaultServer(default=LISTEN) as server, WebSocketClient(server.url) as client:
        await client.send("x", confirm=True)
        assert messages(server) == ["x"]
        assert (client.stats.confirmed, client.stats.confirmation) == (1, "on")


async def test_confirm_is_uncertain_when_the_connection_ends_first():
    async with FaultServer(default=LISTEN) as server, WebSocketClient(server.url, reconnect=QUICK) as client:
        connection = await server.connection()
        connection.stop_answering_pings()
        sending = asyncio.create_task(client.send("x", confirm=True))
        assert await connection.recv() == "x"
        connection.rst()
        with pytest.raises(DeliveryUncertain):
            await sending
        await client.flush(2)
        assert client.stats.uncertain == 1


async def test_a_cancelled_confirm_has_been_accepted():
    async with FaultServer(default=Refuse(503)) as server:
        client = WebSocketClient(server.url, reconnect=QUICK)
        client.start()
        sending = asyncio.create_task(client.send("x", confirm=True))
        await asyncio.sleep(0.05)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert client.stats.waiting == 1
        with pytest.raises(DeliveryUncertain):
            await client.send("y", confirm=True, ttl=0.05)
        await client.close()


@pytest.mark.parametrize(
    "heartbeat",
    [None, Heartbeat.expect(60), Heartbeat.app("ping", lambda message: message == "pong")],
    ids=str,
)
async def test_without_pings_of_ours_confirmation_is_off_unless_asked_for(heartbeat):
    async with FaultServer(default=LISTEN) as server:
        async with WebSocketClient(server.url, heartbeat=heartbeat) as client:
            assert client.stats.confirmation == "off"
            began = time.monotonic()
            with pytest.raises(DeliveryUncertain):
                await client.send("x", confirm=True)
            assert time.monotonic() - began < 0.5
            await client.send("y")
            await client.flush(1)
            assert client.stats.confirmed == 1
            assert client.stats.unconfirmed == 0
        async with WebSocketClient(server.url, heartbeat=heartbeat, outbox=Outbox(confirm=True)) as client:
            await client.send("x", confirm=True)
            assert client.stats.confirmation == "on"


async def test_flush_times_out_without_withdrawing_and_does_not_raise_for_fates():
    told = []
    async with FaultServer(default=LISTEN) as server:
        async with WebSocketClient(server.url, reconnect=QUICK, on_undelivered=told.append) as client:
            connection = await server.connection()
            connection.stop_answering_pings()
            await client.send("x")
            with pytest.raises(TimeoutError):
                await client.flush(0.05)
            assert client.stats.unconfirmed == 1
            flushing = asyncio.create_task(client.flush())
            await asyncio.sleep(0)
            connection.rst()
            await asyncio.wait_for(flushing, 2)
        assert fates(told) == [("x", Fate.UNCERTAIN)]


# ------------------------------------------------------------------------------------------------------- drops


@pytest.mark.parametrize("on_uncertain", ["report", "resend"])
async def test_what_becomes_of_the_unconfirmed(on_uncertain):
    async with FaultServer(default=LISTEN) as server:
        client = WebSocketClient(server.url, reconnect=QUICK, outbox=Outbox(on_uncertain=on_uncertain))
        events = client.events()
        client.start()
        await client.ready(2)
        connection = await server.connection()
        connection.stop_answering_pings()
        for message in ("1", "2", "3"):
            await client.send(message)
        await client.send("once", queue=False)
        while len(messages(server)) < 4:
            await connection.recv()
        connection.rst()
        await server.connection()
        while client.stats.opens < 2:
            await asyncio.sleep(0.005)
        await client.send("4")
        await client.flush(2)
        await client.close()
        told = [event async for event in events]
        arrived = messages(server)
    again = ["1", "2", "3"] if on_uncertain == "resend" else []
    assert arrived == ["1", "2", "3", "once", *again, "4"]
    lost = ["once"] if again else ["1", "2", "3", "once"]
    assert fates(e for e in told if isinstance(e, UndeliveredEvent)) == [(m, Fate.UNCERTAIN) for m in lost]
    back = next(event for event in told if isinstance(event, ReconnectEvent))
    assert (back.resent, back.uncertain) == (len(again), len(lost))
    order = [type(e) for e in told if isinstance(e, CloseEvent | UndeliveredEvent | RetryEvent)]
    assert order == [CloseEvent, *[UndeliveredEvent] * len(lost), RetryEvent, CloseEvent]


@pytest.mark.parametrize("code", [1007, 1009])
async def test_a_poison_message_is_not_sent_again(code):
    told = []
    async with FaultServer(default=LISTEN) as server:
        client = WebSocketClient(
            server.url, reconnect=QUICK, outbox=Outbox(on_uncertain="resend"), on_undelivered=told.append
        )
        async with client:
            connection = await server.connection()
            connection.stop_answering_pings()
            await client.send("poison")
            await connection.recv()
            connection.close(code)
            await server.connection()
            await client.flush(2)
        assert messages(server) == ["poison"]
    assert fates(told) == [("poison", Fate.UNCERTAIN)]


# ------------------------------------------------------------------------------------------------------- closing


async def test_drain_waits_for_a_connection_and_the_confirmation():
    async with FaultServer(script=[Refuse(503)] * 2, default=LISTEN) as server:
        client = WebSocketClient(server.url, reconnect=QUICK)
        client.start()
        await client.send("x")
        await client.close(drain=timedelta(seconds=3))
        assert messages(server) == ["x"]
    assert (client.stats.confirmed, client.stats.abandoned, client.close_event.code) == (1, 0, 1000)


async def test_drain_is_bounded_and_the_rest_is_told():
    told = []
    async with FaultServer(default=LISTEN) as server:
        client = WebSocketClient(server.url, on_undelivered=told.append)
        client.start()
        await client.ready(2)
        (await server.connection()).stop_answering_pings()
        await client.send("x")
        flushing = asyncio.create_task(client.flush())
        await asyncio.sleep(0.01)
        began = time.monotonic()
        await client.close(drain=0.1)
        assert 0.1 <= time.monotonic() - began < 2
        with pytest.raises(ClientClosed):
            await flushing
    assert fates(told) == [("x", Fate.UNCERTAIN)]
    assert client.close_event.uncertain == 1
    assert client.close_event.code == 1000


# -------------------------------------------------------------------------------------------------------- inbox


async def test_an_inbox_that_drops_leaves_a_gap():
    async with FaultServer(default=LISTEN) as server:
        async with WebSocketClient(server.url, inbox=Inbox(3, overflow="drop_oldest")) as client:
            connection = await server.connection()
            for number in range(10):
                await connection.send(str(number))
            while client.stats.received < 10:
                await asyncio.sleep(0.005)
            items = client.with_gaps()
            gap, *rest = [await anext(items) for _ in range(4)]
            assert isinstance(gap, Gap)
            assert gap.dropped == 7
            assert gap.close is None
            assert rest == ["7", "8", "9"]
            assert client.stats.discarded == 7


async def test_a_paused_inbox_loses_nothing_and_a_waiting_call_says_when_it_is_stuck():
    async with FaultServer(default=LISTEN) as server:
        async with WebSocketClient(server.url, inbox=Inbox(3)) as client:
            connection = await server.connection()
            asking = asyncio.create_task(client.request("q", lambda message: message == "answer", 5))
            await connection.recv()
            for _ in range(30_000):
                await connection.send("x" * 100)
            await connection.send("answer")
            with pytest.raises(InboxFull):
                await asking
            with pytest.raises(InboxFull):
                await client.send("y", confirm=True)
            for _ in range(30_000):
                assert await client.recv() == "x" * 100
            assert await client.recv() == "answer"


async def test_what_came_before_the_close_is_still_delivered():
    async with FaultServer(default=LISTEN) as server:
        client = WebSocketClient(server.url)
        async with client:
            connection = await server.connection()
            for number in range(20):
                await connection.send(str(number))
            while client.stats.received < 20:
                await asyncio.sleep(0.005)
        assert client.close_event.unread == 20
        assert [message async for message in client] == [str(number) for number in range(20)]
        assert client.stats.unread == 0
