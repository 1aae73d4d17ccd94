"""Where the time goes between a reset and the next connection: the steps of `Told` and `Back`, beside raw aiohttp.

    python -m benchmarks.reset_steps [--count 400] [--rounds 5]

Each step is noted by the clock that the server wrote before it reset the connection. To note them takes some
microseconds, so the sums are a little more than those of `python -m benchmarks reset`.
"""

import argparse
import asyncio
import statistics
import time
from asyncio import selector_events
from collections.abc import Callable
from typing import Any, ClassVar

from aiohttp import ClientResponse
from aiohttp.connector import BaseConnector

from benchmarks import resets
from benchmarks.__main__ import Server
from resilient_ws.connection.active import ActiveConnection
from resilient_ws.core.life import Life
from resilient_ws.runtime.supervisor import Supervisor

STEPS = {
    "message": "the program receives the message sent before the reset",
    "failed": "the socket reports the reset",
    "lost": "asyncio reports it, one loop iteration later",
    "ended": "heartbeat and link have ended, the socket is released",
    "counted": "traffic and unconfirmed messages are counted",
    "decided": "the owner task has decided about a retry",
    "told": "**`on_close` is called**",
    "dial": "the dial starts",
    "connected": "TCP is connected",
    "answered": "the handshake response is read",
    "open": "**the program has the next connection**",
}
"""In the order in which they happen; raw aiohttp has no `ended`, `counted` and `decided`."""


class Notes(resets.Notes):
    """Notes when each step was, too."""

    now: "ClassVar[Notes | None]" = None

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.last: dict[str, float] = {}
        self.after: dict[str, list[float]] = {}

    def note(self, step: str) -> None:
        """It is done now."""
        self.last[step] = time.monotonic()

    def message(self, data: bytes) -> None:
        super().message(data)
        self.note("message")

    def ended(self) -> None:
        self.note("told")
        super().ended()

    def opened(self) -> None:
        self.note("open")
        if self.reset_at is not None:
            for step, at in self.last.items():
                if at >= self.reset_at:
                    self.after.setdefault(step, []).append(at - self.reset_at)
        self.last.clear()
        super().opened()


def _note(step: str) -> None:
    if step and Notes.now is not None:
        Notes.now.note(step)


def _mark(owner: Any, name: str, *, begins: str = "", ends: str = "") -> None:
    """Notes when a method begins or ends."""
    call: Callable[..., Any] = getattr(owner, name)

    def marked(*args: Any, **kwargs: Any) -> Any:
        _note(begins)
        result = call(*args, **kwargs)
        _note(ends)
        return result

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        _note(begins)
        result = await call(*args, **kwargs)
        _note(ends)
        return result

    setattr(owner, name, awaited if asyncio.iscoroutinefunction(call) else marked)


def _mark_all() -> None:
    transport: Any = selector_events._SelectorTransport
    _mark(transport, "_fatal_error", begins="failed")
    _mark(transport, "_call_connection_lost", begins="lost")
    _mark(ActiveConnection, "_finish", ends="ended")
    _mark(Supervisor, "connection_ended", ends="counted")
    _mark(Life, "judged", begins="decided")
    _mark(BaseConnector, "connect", begins="dial", ends="connected")
    _mark(ClientResponse, "start", ends="answered")


async def _measure(who: str, url: str, count: int) -> dict[str, float]:
    notes = Notes.now = Notes(count)
    async with asyncio.timeout(60):
        if who == "aiohttp":
            await resets.raw_aiohttp(url, notes)
        else:
            await resets.ours(url, notes, "aiohttp")
    return {step: statistics.median(after) for step, after in notes.after.items()}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Returns it as Markdown."""
    lines = ["| us after the reset | aiohttp | resilient_ws |", "|---|---|---|"]
    for step, words in STEPS.items():
        times = [[one[step] for one in rounds if step in one] for rounds in found.values()]
        shown = (f"{statistics.median(some) * 1e6:.0f}" if some else "" for some in times)
        lines.append(f"| {words} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The steps between a reset and the next connection.")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    _mark_all()
    found: dict[str, list[dict[str, float]]] = {"aiohttp": [], "resilient_ws": []}
    with Server() as server:
        for _ in range(args.rounds):
            for who, rounds in found.items():
                rounds.append(asyncio.run(_measure(who, server.url("/reset?after=0.002"), args.count)))
    print(table(found))


if __name__ == "__main__":
    main()
