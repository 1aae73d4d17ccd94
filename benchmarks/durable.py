"""The durable outbox beside bare SQLite group commit, on the same disk, run by turns.

    python benchmarks/durable.py [--seconds 1] [--rounds 3] [--size 125] [--directory DIR]

`append`: messages stored for each second, so many to a commit. Bare SQLite is given them as lists and commits each
list; the outbox is given them one by one by as many concurrent senders, each of which waits for the commit.
`whole life`: each message is stored, and in a later commit it is removed again.

Beside it the processor time for each message: where other programs want the processor too, only that is comparable, since
the outbox hands each commit to a thread and back, and each time the system may let it wait.
"""

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from resilient_ws.core.priority_queue import Entry
from resilient_ws.delivery.durable.commits import DurableOutbox

GROUPS = (1, 10, 100, 1000)


class Figures(NamedTuple):
    """Messages per second, and microseconds of processor time for each."""

    rate: float
    cost: float


def bare(path: Path, message: str, group: int, seconds: float, *, whole_life: bool) -> Figures:
    """A loop around SQLite, with the settings of the outbox."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
        "CREATE TABLE message (record INTEGER PRIMARY KEY, body, accepted_at, expires_at, priority, key, resend, written)"
    )
    done = 0
    begun, worked = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - begun) < seconds:
        rows = [(done + n, message, 1.0, None, 0, None, 0, 0) for n in range(1, group + 1)]
        connection.execute("BEGIN IMMEDIATE")
        if whole_life:
            connection.execute("DELETE FROM message WHERE record <= ?", (done,))
        connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        done += group
    worked = time.process_time() - worked
    connection.close()
    return Figures(done / passed, worked / done * 1e6)


def ours(path: Path, message: str, group: int, seconds: float, *, whole_life: bool) -> Figures:
    """The outbox, with as many senders as bare SQLite has rows in a commit."""

    async def run() -> Figures:
        outbox = await DurableOutbox.open(path)
        done = 0
        size = len(message)
        begun, worked = time.perf_counter(), time.process_time()
        end = begun + seconds

        async def send() -> None:
            nonlocal done
            while time.perf_counter() < end:
                entry = Entry(message, size, 1.0, resend=False)
                await outbox.append(entry)
                if whole_life:
                    outbox.remove((entry,))
                done += 1

        await asyncio.gather(*(send() for _ in range(group)))
        passed, worked = time.perf_counter() - begun, time.process_time() - worked
        await outbox.close()
        return Figures(done / passed, worked / done * 1e6)

    return asyncio.run(run())


def measure(work: Callable[..., Figures], directory: Path, *args: object, **options: bool) -> Figures:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        return work(Path(place) / "outbox.db", *args, **options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=125)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    message = "x" * options.size
    print(
        f"{'':12} {'a commit':>9} {'bare SQLite':>12} {'outbox':>12} {'ratio':>7}  (messages/s, median of rounds)"
        f" {'bare':>9} {'outbox':>9} {'ratio':>7}  (processor)"
    )
    for whole_life in (False, True):
        for group in GROUPS:
            run = (options.directory, message, group, options.seconds)
            rounds = [
                (measure(bare, *run, whole_life=whole_life), measure(ours, *run, whole_life=whole_life))
                for _ in range(options.rounds)
            ]
            reference, reached = (
                Figures(*map(statistics.median, zip(*figures, strict=True)))
                for figures in zip(*rounds, strict=True)
            )
            rate = statistics.median(after.rate / before.rate for before, after in rounds)
            cost = statistics.median(before.cost / after.cost for before, after in rounds)
            label = "whole life" if whole_life else "append"
            print(
                f"{label:12} {group:9} {reference.rate:12,.0f} {reached.rate:12,.0f} {rate:7.2f} {'':33}"
                f"{reference.cost:6.1f} us {reached.cost:6.1f} us {cost:7.2f}"
            )


if __name__ == "__main__":
    main()
