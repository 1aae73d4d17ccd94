"""An order book: a snapshot, then each change in sequence, and a new snapshot whenever a change may be missing.

Exchanges send changes with consecutive numbers, and a snapshot that ends with one of them on request. To put the two
together, and to notice that they do not fit any more, is what `SnapshotThenDeltas` does:

- changes that arrive while the snapshot is fetched are kept, those that are part of it are dropped;
- a lost connection, a full inbox or a missing number give a `Gap` at once: do not trade on this book now;
- then comes a new snapshot, and it goes on.

Run it: `python examples/order_book.py [URL] [--seconds 5]`; without a URL it talks to an exchange of its own, which
breaks connections and swallows changes. Each of its changes carries a checksum of the book as it should be then.
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

from resilient_ws import Delta, Gap, Message, ReconnectPolicy, Snapshot, SnapshotThenDeltas, WebSocketClient
from resilient_ws.testing import FaultConnection, FaultServer

Bids = dict[str, int]


def checksum(bids: Bids) -> int:
    """A number that two books share only if they are the same."""
    return zlib.crc32(json.dumps(bids, sort_keys=True).encode())


def apply(bids: Bids, change: dict[str, Any]) -> None:
    """Sets the size of one price; 0 = nobody offers it any more."""
    if change["size"]:
        bids[change["price"]] = change["size"]
    else:
        bids.pop(change["price"], None)


# ------------------------------------------------------------------------------------------------ the program


def as_change(message: Message) -> dict[str, Any] | None:
    """What `SnapshotThenDeltas` is told of each message: a change, or `None` if it is something else."""
    parsed: dict[str, Any] = json.loads(message)
    return parsed if parsed["type"] == "change" else None


async def follow(url: str, seconds: float) -> None:
    """Keeps a book for so long, and checks it against the exchange after each change."""
    client = WebSocketClient(url, reconnect=ReconnectPolicy(first_delay=0.2, min_delay=0.1))

    async def fetch_book() -> dict[str, Any]:
        # Over the same connection here; where it is an HTTP request, do that.
        def is_book(message: Message) -> bool:
            return bool(json.loads(message)["type"] == "book")

        book: dict[str, Any] = json.loads(await client.request('{"op": "book"}', is_book, 5))
        return book

    bids: Bids = {}
    snapshots = changes = wrong = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), client:
            async for item in SnapshotThenDeltas(
                client,
                fetch_snapshot=fetch_book,
                parse=as_change,
                sequence=lambda change: change["number"],
                snapshot_sequence=lambda book: book["number"],
                retry_delay=0.1,
            ):
                match item:
                    case Snapshot(book, number):
                        bids = dict(book["bids"])
                        snapshots += 1
                        print(f"book of {len(bids)} prices as of change {number}: right from here on")
                    case Delta(change):
                        apply(bids, change)
                        changes += 1
                        wrong += checksum(bids) != change["checksum"]
                    case Gap():
                        why = f"changes missing: {item.missing}" if item.missing else str(item.close)
                        print(f"stale: {why}")
                    case _:
                        assert_never(item)
    print(f"{snapshots} snapshots, {changes} changes, after {wrong} of them the book was wrong")


# ------------------------------------------------------------------------------------------------ the exchange


@attrs.define
class Exchange:
    """The exchange that is used when none is given."""

    bids: Bids = attrs.field(factory=lambda: {str(price): 1 for price in range(60_000, 60_010)})
    number: int = 0

    def change(self) -> str:
        """Changes the book and returns what is sent about it."""
        self.number += 1
        change = {"price": str(random.randrange(60_000, 60_020)), "size": random.randrange(5)}
        apply(self.bids, change)
        told = {"type": "change", "number": self.number, "checksum": checksum(self.bids), **change}
        return json.dumps(told)

    async def serve(self, connection: FaultConnection) -> None:
        """Streams changes and answers requests, until it has had enough of this connection."""
        async with asyncio.TaskGroup() as group:
            answers = group.create_task(self._answer(connection))
            for count in range(random.randrange(50, 100)):
                await asyncio.sleep(0.01)
                change = self.change()
                if count != 30:  # this one gets lost
                    await connection.send(change)
            answers.cancel()
        connection.rst()

    async def _answer(self, connection: FaultConnection) -> None:
        async for message in connection:
            if json.loads(message)["op"] == "book":
                book = {"type": "book", "number": self.number, "bids": dict(self.bids)}
                await asyncio.sleep(0.05)  # an answer takes its time, and changes go on meanwhile
                await connection.send(json.dumps(book))


@contextlib.asynccontextmanager
async def an_exchange(url: str | None) -> AsyncIterator[str]:
    """Yields the address of an exchange: the one that was given, or one that lives as long as this block."""
    if url is not None:
        yield url
        return
    async with FaultServer(handler=Exchange().serve) as server:
        yield server.url


async def main() -> None:
    """Reads the command line and keeps a book."""
    parser = argparse.ArgumentParser(description="Keeps an order book.")
    parser.add_argument("url", nargs="?", help="where the exchange is; default: one of our own")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    async with an_exchange(options.url) as url:
        await follow(url, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
