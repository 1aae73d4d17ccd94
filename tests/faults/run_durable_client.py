"""A client with an outbox file that sends numbers for as long as it lives, and says what it knows.

Each line on standard input is `PATH URL ON_UNCERTAIN FIRST`: a child is forked that sends FIRST, FIRST + 1, ... until
it is killed, or with FIRST 0 sends nothing new and ends when nothing is left. Its lines, each in one write, so that a
kill takes none of them in half:

    pid 123             it was made
    accepted 7          `send` has returned for message 7
    uncertain 7         its fate was told
    dead                the child has been reaped; nothing more comes from it
"""

import asyncio
import itertools
import os
import sys

from tenacity import wait_fixed

from resilient_ws import Outbox, ReconnectPolicy, WebSocketClient

SENDERS = 4


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def live(path: str, url: str, on_uncertain: str, first: int) -> None:
    client = WebSocketClient(
        url,
        outbox=Outbox(path=path, on_uncertain=on_uncertain, confirm_interval=0.005),
        reconnect=ReconnectPolicy(wait=wait_fixed(0.005), min_delay=0.005),
        on_undelivered=lambda event: say(f"{event.fate.value} {event.message}"),
    )
    client.start()
    if first == 0:
        await client.flush()
        await client.close()
        return
    numbers = itertools.count(first)

    async def send() -> None:
        for number in numbers:
            await client.send(str(number))
            say(f"accepted {number}")

    await asyncio.gather(*(send() for _ in range(SENDERS)))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            say(f"pid {os.getpid()}")
            path, url, on_uncertain, first = line.split()
            asyncio.run(live(path, url, on_uncertain, int(first)))
            os._exit(0)
        os.waitpid(pid, 0)
        say("dead")


if __name__ == "__main__":
    main()
