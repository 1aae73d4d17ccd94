"""A price feed: subscribe once, and never trade on a book that may be wrong.

The feed sends a snapshot after each subscription, and then changes. After one missed change, the book stays wrong. So the
book is *stale* from the moment a connection drops until the next snapshot:

- `with_gaps(lost=True)` yields `Lost` where a connection dropped, and a `Gap` when the next one is open. The book is
  emptied there, so a later book never contains a message of a dead connection.
- The iterator's `is_current` is false from the instant of the drop. A slow program may still have messages of the dead
  connection to read, among them a snapshot. They do not make the book current again.
- The subscription is declared once. The client repeats it on each new connection.

Check `is_stale` before you use the book.

Run it with `python examples/price_feed.py [URL] [--seconds 5]`. Without a URL, it starts its own feed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator
from typing import Protocol

import attrs

from resilient_ws import Gap, Heartbeat, Lost, Message, WebSocketClient
from resilient_ws.testing import FaultConnection, FaultServer

SYMBOL = "BTC-EUR"


class Stream(Protocol):
    """The source of a book's messages."""

    @property
    def is_current(self) -> bool:
        """Whether nothing is missing between the last message taken and the open connection."""
        ...


@attrs.define
class Book:
    """The bids of one symbol: price to size."""

    stream: Stream
    bids: dict[str, int] = attrs.field(factory=dict)
    has_snapshot: bool = False
    changes: int = 0

    @property
    def is_stale(self) -> bool:
        """Whether the bids must not be used now. Check it each time: the connection may drop at any time."""
        return not (self.has_snapshot and self.stream.is_current)

    def forget(self) -> None:
        """Empties the book, because changes may be missing."""
        self.bids.clear()
        self.has_snapshot = False

    def apply(self, message: dict[str, object]) -> None:
        """Applies a snapshot or a change. Ignores changes without a snapshot before them."""
        if message["type"] == "snapshot":
            assert isinstance(message["bids"], dict)
            self.bids = dict(message["bids"])
            self.has_snapshot = True
            if not self.is_stale:
                print(f"snapshot of {len(self.bids)} prices: the book is current again")
        elif self.has_snapshot:
            price, size = str(message["price"]), message["size"]
            assert isinstance(size, int)
            self.bids[price] = size
            self.changes += not self.is_stale


async def keep(book: Book, items: AsyncIterator[Message | Gap | Lost]) -> None:
    """Keeps a book until the client is closed."""
    async for item in items:
        if isinstance(item, Lost):
            book.forget()
            print("stale:", item.close)
        elif isinstance(item, Gap):
            book.forget()
            print(f"gap: {item.downtime:.2f} s without a connection, waiting for a snapshot")
        else:
            book.apply(json.loads(item))


async def follow(url: str, seconds: float) -> None:
    """Keeps a book until the time is up."""
    client = WebSocketClient(url, heartbeat=Heartbeat(interval=5, timeout=5, idle_timeout=30))
    client.subscribe(SYMBOL, json.dumps({"op": "subscribe", "symbol": SYMBOL}))
    stream = client.with_gaps(lost=True)
    book = Book(stream)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), client:
            await keep(book, stream)
    print(f"{client.stats.opens} connections, {book.changes} changes applied to a current book")


async def feed(connection: FaultConnection) -> None:
    """The feed used without a URL: it resets its connections again and again."""
    request = json.loads(await connection.recv())
    if request != {"op": "subscribe", "symbol": SYMBOL}:
        connection.close(1008, "subscribe first")
        return
    bids = {str(price): random.randint(1, 9) for price in range(60_000, 60_010)}
    await connection.send(json.dumps({"type": "snapshot", "bids": bids}))
    for number in itertools.count():
        change = {"type": "change", "price": random.choice([*bids]), "size": number}
        await connection.send(json.dumps(change))
        await asyncio.sleep(0.02)
        if number == 30:
            connection.rst()


@contextlib.asynccontextmanager
async def a_feed(url: str | None) -> AsyncIterator[str]:
    """Yields the URL of a feed: the given one, or a feed that runs as long as this block."""
    if url is not None:
        yield url
        return
    async with FaultServer(handler=feed) as server:
        yield server.url


async def main() -> None:
    """Reads the command line and follows the feed."""
    parser = argparse.ArgumentParser(description="Keep a book of prices.")
    parser.add_argument("url", nargs="?", help="the feed; default: start one")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    async with a_feed(options.url) as url:
        await follow(url, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
