"""A price feed: subscribe once, and never trade on a book that may be wrong.

The feed sends a snapshot after each subscription and then changes. A change that is missed makes the book wrong for
good, so the book is *stale* from the moment a connection ends until the next snapshot:

- `on_close` tells at once, also when the network said nothing, and marks the book stale;
- `with_gaps()` yields a `Gap` exactly where changes may be missing, between the last message of the old connection
  and the first one of the new;
- the subscription is declared once; the client repeats it on each new connection.

Run it: `python examples/price_feed.py [URL] [--seconds 5]`; without a URL it talks to a feed of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator

import attrs

from resilient_ws import CloseEvent, Gap, Heartbeat, WebSocketClient
from resilient_ws.testing import FaultConnection, FaultServer

SYMBOL = "BTC-EUR"


@attrs.define
class Book:
    """The bids of one symbol, price to size."""

    bids: dict[str, int] = attrs.field(factory=dict)
    is_stale: bool = True
    changes: int = 0

    def apply(self, message: dict[str, object]) -> None:
        """Takes a snapshot or one change; a change to a stale book is of no use."""
        if message["type"] == "snapshot":
            assert isinstance(message["bids"], dict)
            self.bids = dict(message["bids"])
            self.is_stale = False
            print(f"snapshot of {len(self.bids)} prices: the book is right again")
        elif not self.is_stale:
            price, size = str(message["price"]), message["size"]
            assert isinstance(size, int)
            self.bids[price] = size
            self.changes += 1


async def follow(url: str, seconds: float) -> None:
    """Keeps a book for so long."""
    book = Book()
    client = WebSocketClient(url, heartbeat=Heartbeat(interval=5, timeout=5, idle_timeout=30))

    @client.on_close
    def lost(event: CloseEvent) -> None:
        book.is_stale = True
        print("end of the connection:" if event.final else "stale:", event)

    client.subscribe(SYMBOL, json.dumps({"op": "subscribe", "symbol": SYMBOL}))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), client:
            async for item in client.with_gaps():
                if isinstance(item, Gap):
                    book.is_stale = True
                    print(f"gap: {item.downtime:.2f} s without a connection, waiting for a snapshot")
                else:
                    book.apply(json.loads(item))
    print(f"{client.stats.opens} connections, {book.changes} changes applied to a book that was right")


async def feed(connection: FaultConnection) -> None:
    """The feed that is used when none is given: it breaks down again and again."""
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
    """Yields the address of a feed: the one that was given, or one that lives as long as this block."""
    if url is not None:
        yield url
        return
    async with FaultServer(handler=feed) as server:
        yield server.url


async def main() -> None:
    """Reads the command line and follows the feed."""
    parser = argparse.ArgumentParser(description="Keeps a book of prices.")
    parser.add_argument("url", nargs="?", help="where the feed is; default: one of our own")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    async with a_feed(options.url) as url:
        await follow(url, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
