"""What the accounting of an outgoing message costs: acceptance, writing and confirmation together.

    python benchmarks/accounting.py [--messages 200000] [--rounds 7]

First without a socket: nanoseconds for each message, the least of the rounds, the loop itself taken off. `written through`
is a plain message on a connection that takes it; `waited first` is one that was accepted before it could be written.

Then the whole client, sending to a server in another process with confirmation and without, by turns: messages for each
second of processor time, and the median of the ratios. `one by one` awaits something after each message, so that each is
a turn of the loop of its own.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from resilient_ws import WebSocketClient
from resilient_ws.api.options import Outbox
from resilient_ws.core.delivery import DeliveryQueue, Entry

MESSAGE = "x" * 125
PINGS_EACH = 10_000


def nothing(count: int, turn: int) -> None:
    """The loop alone."""
    now = 0.0
    for n in range(count):
        if n % turn == 0:
            now = float(n)
        if n % PINGS_EACH == PINGS_EACH - 1:
            now += 1.0


def written_through(count: int, turn: int, *, confirming: bool = True) -> None:
    queue = DeliveryQueue(Outbox())
    queue.connected(confirming=confirming)
    write_through = queue.write_through
    now = 0.0
    for n in range(count):
        if n % turn == 0:
            now = float(n)
        if not write_through(MESSAGE, 125, now):
            raise RuntimeError("the queue is full")
        if n % PINGS_EACH == PINGS_EACH - 1:
            queue.confirm(queue.mark())


def unconfirmed_mode(count: int, turn: int) -> None:
    written_through(count, turn, confirming=False)


def waited_first(count: int, turn: int) -> None:
    queue = DeliveryQueue(Outbox())
    queue.connected(confirming=True)
    for n in range(0, count, turn):
        for _ in range(turn):
            queue.accept(Entry(MESSAGE, 125, 0.0, resend=False))
        while queue.take() is not None:
            queue.written()
        if n % PINGS_EACH < turn:
            queue.confirm(queue.mark())


def nanoseconds(work: Callable[[int, int], None], count: int, turn: int, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        work(count, turn)
        best = min(best, time.perf_counter() - begun)
    return best / count * 1e9


async def sent_per_second(url: str, count: int, *, confirm: bool | None, one_by_one: bool) -> float:
    """Messages for each second of processor time, the last flush included."""
    async with WebSocketClient(url, outbox=Outbox(confirm=confirm)) as client:
        begun = time.process_time()
        for _ in range(count):
            await client.send(MESSAGE)
            if one_by_one:
                await asyncio.sleep(0)
        await client.flush()
        return count / (time.process_time() - begun)


def whole_client(count: int, rounds: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ports = json.loads(server.stdout.readline())
        url = f"ws://127.0.0.1:{ports['stream']}/sink?size={len(MESSAGE)}"
        for name, one_by_one in (("in a loop", False), ("one by one", True)):
            pairs = []
            for _ in range(rounds):
                off, on = (
                    asyncio.run(sent_per_second(url, count, confirm=confirm, one_by_one=one_by_one))
                    for confirm in (False, None)
                )
                pairs.append((off, on))
            off, on = (statistics.median(figures) for figures in zip(*pairs, strict=True))
            ratio = statistics.median(after / before for before, after in pairs)
            print(f"client, {name:12} without {off:12,.0f}/s, with {on:12,.0f}/s, ratio {ratio:.2f}")
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cases = {
        "written through, 50 in a turn": (written_through, 50),
        "written through, 1 in a turn": (written_through, 1),
        "written through, confirmation off": (unconfirmed_mode, 50),
        "waited first, 50 at once": (waited_first, 50),
    }
    for name, (work, turn) in cases.items():
        loop = (
            nanoseconds(nothing, options.messages, turn, options.rounds) if work is not waited_first else 0.0
        )
        print(f"{name:36} {nanoseconds(work, options.messages, turn, options.rounds) - loop:6.0f} ns")
    whole_client(options.messages, options.rounds)


if __name__ == "__main__":
    main()
