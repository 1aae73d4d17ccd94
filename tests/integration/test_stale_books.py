"""The books of the examples under real drops, with a program that is slow to take what it receives: never right by what
a dead connection has said, and never used then.

The server writes on each message which connection it belongs to. A trader looks at the book all the time: between any two
steps of the loop, and in every callback.
"""

import asyncio
import contextlib
import importlib.util
import json
from pathlib import Path
from random import Random

import pytest

from resilient_ws import Gap, Lost, ReconnectPolicy, State, WebSocketClient
from resilient_ws.testing import FaultServer

EXAMPLES = Path(__file__).parents[2] / "examples"
CALLBACKS = ["on_open", "on_close", "on_reconnect", "on_retry", "on_state"]


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Trader:
    """Uses a book whenever it may, and notes each use of one that is of a connection which is no more."""

    def __init__(self, client, book, connection_of):
        self.client = client
        self.book = book
        self.connection_of = connection_of
        self.trades = 0
        self.stale = 0
        self.wrong = []
        for name in CALLBACKS:
            getattr(client, name)(lambda _, name=name: self.look(name))

    def look(self, where):
        if self.book.is_stale:
            self.stale += 1
            return
        self.trades += 1
        if self.client.state is not State.OPEN:
            self.wrong.append((where, "no connection is open"))
        elif self.connection_of(self.book) != self.client.stats.opens:
            self.wrong.append((where, f"{self.connection_of(self.book)} is not {self.client.stats.opens}"))

    async def watch(self):
        while True:
            self.look("between two steps")
            await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def watching(self):
        task = asyncio.create_task(self.watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert self.wrong == []


class Restless:
    """A feed that breaks down at any moment, most of all right behind a snapshot."""

    def __init__(self, seed, snapshots_by_themselves):
        self.random = Random(seed)
        self.connections = 0
        self.alone = snapshots_by_themselves

    async def serve(self, connection):
        self.connections += 1
        self.number = 0
        mine = self.connections
        answering = asyncio.create_task(self.answer(connection, mine))
        try:
            if self.alone:
                await connection.recv()
            for _ in range(self.random.randrange(1, 6)):
                await self.burst(connection, mine)
                await asyncio.sleep(self.random.choice([0, 0.002, 0.02]))
            self.random.choice([connection.rst, connection.rst, lambda: connection.close(1012)])()
        finally:
            answering.cancel()
            await asyncio.wait([answering])

    async def burst(self, connection, mine):
        for _ in range(self.random.randrange(8)):
            self.number += 1
            change = {"type": "change", "number": self.number, "price": "p", "size": mine, "checksum": 0}
            await connection.send(json.dumps(change))
            if self.alone and self.random.random() < 0.3:
                await connection.send(json.dumps({"type": "snapshot", "bids": {"p": mine}}))

    async def answer(self, connection, mine):
        if self.alone:
            return
        async for _ in connection:
            book = {"type": "book", "number": self.number, "bids": {"p": mine}}
            await connection.send(json.dumps(book))


def is_behind(random, items, server):
    """The same items, for a program that works on each of them for a while, and catches up with each third connection."""

    class Slow:
        @property
        def is_current(self):
            return items.is_current

        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.sleep(random.choice([0, 0, 0.001, 0.02]) if server.connections % 3 else 0)
            return await anext(items)

    return Slow()


@contextlib.asynccontextmanager
async def trading(client, trader, keeping):
    """Until there have been enough connections."""
    async with client, trader.watching():
        task = asyncio.create_task(keeping)
        yield
        task.cancel()
        await asyncio.wait([task])


async def enough(client, trader, *, connections=25):
    async with asyncio.timeout(20):
        while client.stats.opens < connections or min(trader.trades, trader.stale) <= 10:
            await asyncio.sleep(0.01)


POLICY = ReconnectPolicy(first_delay=0.01, min_delay=0, max_delay=0.01, min_uptime=0)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("seed", range(3))
async def test_the_price_feed_never_trades_on_what_a_dead_connection_said(seed):
    feed = example("price_feed")
    server = Restless(seed, snapshots_by_themselves=True)
    async with FaultServer(handler=server.serve) as listening:
        client = WebSocketClient(listening.url, reconnect=POLICY)
        client.subscribe("all", "{}")
        stream = client.with_gaps(lost=True)
        book = feed.Book(stream)
        trader = Trader(client, book, lambda book: book.bids["p"])
        async with trading(client, trader, feed.keep(book, is_behind(Random(seed), stream, server))):
            await enough(client, trader)
    assert trader.trades > 10
    assert trader.stale > 10


@pytest.mark.promise("P2")
@pytest.mark.parametrize("seed", range(3))
async def test_the_order_book_never_trades_on_what_a_dead_connection_said(seed):
    module = example("order_book")
    server = Restless(seed, snapshots_by_themselves=False)
    async with FaultServer(handler=server.serve) as listening:
        client = WebSocketClient(listening.url, reconnect=POLICY)
        book = module.a_book(client)
        book.items._retry_delay = 0.001
        items = book.items
        trader = Trader(client, book, lambda book: book.bids["p"])
        slow = is_behind(Random(seed), items, server)
        type(slow).is_synced = property(lambda _: items.is_synced)
        book.items = slow
        async with trading(client, trader, book.keep()):
            await enough(client, trader)
    assert trader.trades > 10
    assert trader.stale > 10


async def test_a_snapshot_of_a_dead_connection_that_was_not_read_yet_makes_nothing_right():
    """The consumer works on the message before the snapshot while the connection is lost."""
    feed = example("price_feed")

    async def serve(connection):
        await connection.recv()
        await connection.send('{"type": "change", "price": "p", "size": 1}')
        await connection.send('{"type": "snapshot", "bids": {"p": 1}}')
        await asyncio.sleep(0.05)
        connection.rst()

    async with FaultServer(handler=serve) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(wait=lambda _: 60.0))
        client.subscribe("x", "subscribe")
        lost = asyncio.Event()
        client.on_close(lambda _: lost.set())
        async with client:
            stream = client.with_gaps(lost=True)
            book = feed.Book(stream)
            book.apply(json.loads(await anext(stream)))
            await lost.wait()
            book.apply(json.loads(await anext(stream)))
            assert book.bids == {"p": 1}
            assert book.is_stale
            assert isinstance(await anext(stream), Lost)


@pytest.mark.promise("P2")
async def test_lost_comes_at_once_though_nothing_comes_after_the_reconnect():
    async def serve(connection):
        await connection.send("1")
        await asyncio.sleep(0.05)
        connection.rst()

    async with FaultServer(handler=serve) as server:
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(wait=lambda _: 1.0))
        loop = asyncio.get_running_loop()
        async with client, asyncio.timeout(10):
            lost_at, told = [], []
            client.on_close(lambda _: lost_at.append(loop.time()))
            async for item in client.with_gaps(lost=True):
                told.append((item, loop.time()))
                if isinstance(item, Gap):
                    break
            assert [type(item).__name__ for item, _ in told] == ["str", "Lost", "Gap"]
            assert told[1][1] - lost_at[0] < 0.2
            assert told[2][1] - lost_at[0] > 0.9
