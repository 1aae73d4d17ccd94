"""Outbox files under control: a disk that is full, and one that is slow."""

import asyncio
import threading


async def on_thread(outbox, statement):
    """Run a statement on the connection of the outbox."""
    found, done = [], asyncio.Event()
    outbox._thread.do(
        lambda: found.extend(outbox._file._connection.execute(statement).fetchall()), lambda _: done.set()
    )
    await done.wait()
    return found


async def fill_up(outbox):
    """Let the file grow no further, and use up what room is left in it."""
    ((pages,),) = await on_thread(outbox, "PRAGMA page_count")
    await on_thread(outbox, f"PRAGMA max_page_count = {pages}")


class Gate:
    """Holds the thread of an outbox until it is opened."""

    def __init__(self, outbox):
        self._opened = threading.Event()
        self.entered = threading.Event()
        outbox._thread.do(self._hold, None)

    def _hold(self):
        self.entered.set()
        self._opened.wait(10)

    def open(self):
        self._opened.set()
