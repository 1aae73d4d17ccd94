"""An order book: a snapshot, then changes in sequence, and a new snapshot whenever a change may be missing.

Exchanges send changes with consecutive numbers. On request, they send a snapshot that ends with one of these numbers.
`SnapshotThenDeltas` combines the two and detects when they no longer fit:

- It keeps the changes that arrive while the snapshot is fetched, and drops those that the snapshot contains.
- It yields `Stale` at once after a drop, and a `Gap` for a full inbox or a missing number: do not trade on this book now.
- Then it fetches a new snapshot and continues.

`is_synced` is false from the instant of a drop, even if a slow program still has changes of the dead connection to read.
Check `is_stale` before you use the book.

Run it with `python examples/order_book.py [URL] [--seconds 5]`. Without a URL, it starts its own exchange, which drops
connections and omits changes. Each change carries a checksum of the book as it should be after it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import zlib
from collections.abc import AsyncIterator
from typing import Any, assert_never

import attrs

from resilient_ws import (
    Delta,
    Gap,
    Message,
    ReconnectPolicy,
    Snapshot,
    SnapshotThenDeltas,
    Stale,
    WebSocketClient,
)
from resilient_ws.testing import FaultConnection, FaultServer

Bids = dict[str, int]


def checksum(bids: Bids) -> int:
    """Returns a checksum of the book, to compare two books."""
    return zlib.crc32(json.dumps(bids, sort_keys=True).encode())


def apply(bids: Bids, change: dict[str, Any]) -> None:
    """Sets the size of one price; 0 removes the price."""
    if change["size"]:
        bids[change["price"]] = change["size"]
    else:
        bids.pop(change["price"], None)


# ------------------------------------------------------------------------------------------------ the program


def as_change(message: Message) -> dict[str, Any] | None:
    """Returns the change in a message, or `None` if it is something else."""
    parsed: dict[str, Any] = json.loads(message)
    return parsed if parsed["type"] == "change" else None


Changes = SnapshotThenDeltas[dict[str, Any], dict[str, Any]]


@attrs.define
class Book:
    """The bids: price to size."""

    items: Changes
    bids: Bids = attrs.field(factory=dict)
    snapshots: int = 0
    changes: int = 0
    wrong: int = 0

    @property
    def is_stale(self) -> bool:
        """Whether the bids must not be used now. Check it each time: the connection may drop at any time."""
        return not self.items.is_synced

    async def keep(self) -> None:
        """Keeps the book until the client is closed, and checks it against the exchange after each change."""
        async for item in self.items:
            match item:
                case Snapshot(book, number):
                    self.bids = dict(book["bids"])
                    self.snapshots += 1
                    if not self.is_stale:
                        print(f"book of {len(self.bids)} prices as of change {number}: current")
                case Delta(change):
                    apply(self.bids, change)
                    self.changes += 1
                    self.wrong += checksum(self.bids) != change["checksum"]
                case Stale():
                    self.bids.clear()
                    print(f"stale: {item.close}")
                case Gap():
                    self.bids.clear()
                    if item.missing:
                        print(f"stale: changes missing: {item.missing}")
                case _:
                    assert_never(item)


def a_book(client: WebSocketClient) -> Book:
    """Returns a book that `client` keeps current."""

    async def fetch_book() -> dict[str, Any]:
        # This exchange sends it over the same connection. Others need an HTTP request.
        def is_book(message: Message) -> bool:
            return bool(json.loads(message)["type"] == "book")

        book: dict[str, Any] = json.loads(await client.request('{"op": "book"}', is_book, 5))
        return book

    return Book(
        SnapshotThenDeltas(
            client,
            fetch_snapshot=fetch_book,
            parse=as_change,
            sequence=lambda change: change["number"],
            snapshot_sequence=lambda book: book["number"],
            retry_delay=0.1,
        )
    )


async def follow(url: str, seconds: float) -> None:
    """Keeps a book until the time is up."""
    client = WebSocketClient(url, reconnect=ReconnectPolicy(first_delay=0.2, min_delay=0.1))
    book = a_book(client)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), client:
            await book.keep()
    print(
        f"{book.snapshots} snapshots, {book.changes} changes, after {book.wrong} of them the book was wrong"
    )


# ------------------------------------------------------------------------------------------------ the exchange


@attrs.define
class Exchange:
    """The exchange used without a URL."""

    bids: Bids = attrs.field(factory=lambda: {str(price): 1 for price in range(60_000, 60_010)})
    number: int = 0

    def change(self) -> str:
        """Changes the book and returns the message about it."""
        self.number += 1
        change = {"price": str(random.randrange(60_000, 60_020)), "size": random.randrange(5)}
        apply(self.bids, change)
        told = {"type": "change", "number": self.number, "checksum": checksum(self.bids), **change}
        return json.dumps(told)

    async def serve(self, connection: FaultConnection) -> None:
        """Streams changes and answers requests for a while, then resets the connection."""
        async with asyncio.TaskGroup() as group:
            answers = group.create_task(self._answer(connection))
            for count in range(random.randrange(50, 100)):
                await asyncio.sleep(0.01)
                change = self.change()
                if count != 30:  # omitted on purpose
                    await connection.send(change)
            answers.cancel()
        connection.rst()

    async def _answer(self, connection: FaultConnection) -> None:
        async for message in connection:
            if json.loads(message)["op"] == "book":
                book = {"type": "book", "number": self.number, "bids": dict(self.bids)}
                await asyncio.sleep(0.05)  # the reply takes time, and changes continue meanwhile
                await connection.send(json.dumps(book))


@contextlib.asynccontextmanager
async def an_exchange(url: str | None) -> AsyncIterator[str]:
    """Yields the URL of an exchange: the given one, or an exchange that runs as long as this block."""
    if url is not None:
        yield url
        return
    async with FaultServer(handler=Exchange().serve) as server:
        yield server.url


async def main() -> None:
    """Reads the command line and keeps a book."""
    parser = argparse.ArgumentParser(description="Keep an order book.")
    parser.add_argument("url", nargs="?", help="the exchange; default: start one")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    async with an_exchange(options.url) as url:
        await follow(url, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
