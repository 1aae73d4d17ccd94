"""A process that stores messages for as long as it lives, and says what it knows.

For each path on standard input a child is forked that begins at once; it is meant to be killed. Its lines, each in
one write, so that a kill takes none of them in half:

    pid 123             it was made
    accepted 7          `append` has returned for message 7
    marked 7            `mark` is committed
    settled 7           `remove` is about to be called
    dead                the child has been reaped; nothing more comes from it
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from resilient_ws import OutboxFileError
from resilient_ws.core.priority_queue import Entry
from resilient_ws.delivery.durable.commits import DurableOutbox

SENDERS = 8


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def store(path: str) -> None:
    outbox = await DurableOutbox.open(path)
    numbers = itertools.count(max((int(entry.message) for entry in outbox.restored), default=0) + 1)

    async def send() -> None:
        for number in numbers:
            entry = Entry(f"{number:09}", 9, 0.0, False)
            await outbox.append(entry)
            say(f"accepted {number}")
            if number % 3:
                outbox.mark([entry])
                await outbox.committed()
                say(f"marked {number}")
            if number % 3 == 2:
                say(f"settled {number}")
                outbox.remove([entry])

    await asyncio.gather(*(send() for _ in range(SENDERS)))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            say(f"pid {os.getpid()}")
            asyncio.run(store(line.strip()))
        os.waitpid(pid, 0)
        say("dead")


async def fill(path: str) -> None:
    """Store messages until the disk takes no more, then make room and go on; ends with what must be in the file."""
    outbox = await DurableOutbox.open(path)
    stored: list[Entry] = []
    for number in range(10_000):
        entry = Entry(f"{number:09}" * 100, 900, 0.0, False)
        try:
            await outbox.append(entry)
        except OutboxFileError as error:
            say(f"refused: {error}")
            break
        stored.append(entry)
    # Another program's file goes, so that what is settled can be noted at all: even that needs a page of the log.
    Path(path).with_name("ballast").unlink()
    outbox.remove(stored[:10])
    await outbox.flush()
    last = Entry("last", 4, 0.0, False)
    await outbox.append(last)
    await outbox.close()
    left = (await reopened(path)).restored
    say(f"kept {[entry.message for entry in left] == [entry.message for entry in [*stored[10:], last]]}")


async def reopened(path: str) -> DurableOutbox:
    outbox = await DurableOutbox.open(path)
    await outbox.close()
    return outbox


if __name__ == "__main__":
    if len(sys.argv) == 2:
        asyncio.run(fill(sys.argv[1]))
    else:
        main()
