"""What a program may do at full speed on a healthy connection: nothing raises, nothing hangs, nothing grows (P6)."""

import asyncio
import gc
import sys
import tracemalloc

import pytest

from resilient_ws import Inbox, Outbox, WebSocketClient
from resilient_ws.testing import Accept, Deflate, FaultServer, Opcode, encode_frame

pytestmark = pytest.mark.usefixtures("transport")

COUNT = 50_000


@pytest.mark.slow
@pytest.mark.promise("P6")
@pytest.mark.parametrize("overflow", ["raise", "wait"])
@pytest.mark.parametrize("on_uncertain", ["report", "resend"])
async def test_the_echo_of_the_quick_start_against_a_flood(overflow, on_uncertain):
    echoed = []

    async def flood(connection):
        async with asyncio.TaskGroup() as group:
            group.create_task(take(connection))
            for number in range(COUNT):
                await connection.send(f"{number} {'x' * 100}")

    async def take(connection):
        async for message in connection:
            echoed.append(int(message.split()[0]))
            if len(echoed) == COUNT:
                return

    most_unread = most_unconfirmed = most_waiting = 0
    async with (
        FaultServer(handler=flood) as server,
        WebSocketClient(server.url, outbox=Outbox(overflow=overflow, on_uncertain=on_uncertain)) as client,
    ):
        taken = 0
        async for message in client:
            await client.send(message)
            taken += 1
            if taken % 100 == 0:
                stats = client.stats
                most_unread = max(most_unread, stats.unread)
                most_unconfirmed = max(most_unconfirmed, stats.unconfirmed)
                most_waiting = max(most_waiting, stats.waiting)
            if taken == COUNT:
                break
        await client.flush(timeout=20)
        assert client.stats.confirmed + client.stats.unverified == COUNT
        assert client.stats.opens == 1
        await server.until(lambda: len(echoed) == COUNT, timeout=20)
    assert echoed == list(range(COUNT))
    assert most_unread <= 2 * 4096 + 10_000, "the bounds, and what one read of the socket may hold"
    assert most_unconfirmed <= 65_536
    assert most_waiting <= 1000


@pytest.mark.slow
@pytest.mark.promise("P6")
@pytest.mark.parametrize("confirm", [None, False])
async def test_a_hundred_thousand_sends_in_a_loop(confirm):
    count = 100_000
    turns = 0

    async def tick():
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    async with (
        FaultServer(default=Accept(echo=False), keep=10) as server,
        WebSocketClient(server.url, outbox=Outbox(confirm=confirm, max_bytes=1_000_000)) as client,
    ):
        queue = client._supervisor.sender.queue
        ticking = asyncio.ensure_future(tick())
        for number in range(count):
            await client.send(f"{number} and some more to fill the message")
            if number % 100 == 0:
                assert queue.unconfirmed_bytes <= 1_000_000
                assert queue.waiting <= 1000
        await client.flush(timeout=20)
        ticking.cancel()
        await server.until(lambda: server.received_count == count, timeout=20)
        report = server.report(expected=count)
        assert client.stats.confirmed == count
    assert report.ok, str(report)
    assert turns > 5


@pytest.mark.promise("P6")
async def test_a_consumer_that_flushes_inside_its_own_iteration_amid_a_flood():
    async def flood(connection):
        for number in range(20_000):
            await connection.send(str(number))
        async for _ in connection:
            pass

    async with (
        FaultServer(handler=flood) as server,
        WebSocketClient(server.url, inbox=Inbox(max_messages=50_000)) as client,
    ):
        taken = 0
        async for message in client:
            taken += 1
            await client.send(message)
            if taken % 1000 == 0:
                await client.flush(timeout=10)
                assert client.stats.unconfirmed == 0
            if taken == 20_000:
                break
        assert client.stats.confirmed == 20_000


@pytest.mark.promise("P6")
@pytest.mark.parametrize("payload", [b"", b"ab"])
async def test_fragments_of_a_message_hold_no_more_than_their_bytes(payload):
    """Each costs its sender two bytes, and may cost us ten or thirty times as much."""
    count, rounds = 10_000, 10
    async with (
        FaultServer(default=Accept(echo=False)) as server,
        WebSocketClient(server.url) as client,
    ):
        peer = await server.connection()
        peer.raw(encode_frame(Opcode.TEXT, b"a", fin=False))
        held = []
        tracemalloc.start()
        try:
            for number in range(1, rounds + 1):
                peer.raw(encode_frame(Opcode.CONTINUATION, payload, fin=False) * count)
                peer.ping(b"%d" % number)
                await server.until(lambda number=number: len(peer.pongs) == number, timeout=20)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        peer.raw(encode_frame(Opcode.CONTINUATION, b"z"))
        assert await client.recv() == "a" + payload.decode() * count * rounds + "z"
        assert held[-1] - held[0] < 200_000 + 2 * len(payload) * count * rounds


@pytest.mark.parametrize("size", [2**32 - 2, 2**32 - 1, 2**32, sys.maxsize])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_the_largest_message_may_be_as_large_as_anybody_likes(size, compression):
    accept = Accept(deflate=Deflate() if compression else None)
    async with (
        FaultServer(default=accept) as server,
        WebSocketClient(
            server.url, max_message_size=size, compression=compression, reconnect=False
        ) as client,
    ):
        await client.send("hello" * 100)
        assert await client.recv() == "hello" * 100
