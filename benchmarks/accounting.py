"""What the accounting of an outgoing message costs, without a socket: acceptance, writing and confirmation together.

    python benchmarks/accounting.py [--messages 200000] [--rounds 7]

Nanoseconds for each message, the least of the rounds, the loop itself taken off. `written through` is a plain message
on a connection that takes it; `waited first` is one that was accepted before it could be written.
"""

import argparse
import time
from collections.abc import Callable

from resilient_ws.options import Outbox
from resilient_ws.outbox import DeliveryQueue, Entry

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


if __name__ == "__main__":
    main()
