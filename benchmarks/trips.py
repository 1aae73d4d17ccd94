"""What the code itself does on its five most important trips: calls, files, and visits of files, drawn as diagrams.

    python -m benchmarks.trips                  prints the counts
    python -m benchmarks.trips --page FILE      writes them into a page, and the diagrams beside it

A call is one call of a Python function of the package. A file is a module of the package that was entered. A visit is
each change from one file to another, so a trip that goes back and forth has many visits of few files. Private connections to a
server of the fault kit are traced with `sys.setprofile`; the kit itself does not count.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from html import escape
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import resilient_ws
from resilient_ws import CloseEvent, Heartbeat, ReconnectEvent, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import FaultServer

ROOT: Final = str(Path(resilient_ws.__file__).parent) + "/"
KIT: Final = ROOT + "testing/"
WARM_UP: Final = 3
"""Trips that are made before the one that is traced, so that what is made once does not count."""


class Step(NamedTuple):
    """A call from one file of the package into another."""

    source: str
    target: str
    function: str


class Trace:
    """What was called between `start` and `stop`."""

    def __init__(self) -> None:
        self.calls = 0
        self.visits: list[Step] = []
        self._where = "program"

    def start(self) -> None:
        """Traces this thread from now on."""
        sys.setprofile(self._saw)

    def stop(self) -> None:
        """Traces no more."""
        sys.setprofile(None)

    def _saw(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if not code.co_filename.startswith(ROOT) or code.co_filename.startswith(KIT):
            return
        name = code.co_filename.removeprefix(ROOT).removesuffix(".py")
        self.calls += 1
        if name != self._where:
            self.visits.append(Step(self._where, name, code.co_name))
            self._where = name

    @property
    def files(self) -> list[str]:
        """The files that were entered, in the order of the first visit."""
        return list(dict.fromkeys(step.target for step in self.visits))

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Traces what is in the block."""
        self.start()
        try:
            yield
        finally:
            self.stop()


# ------------------------------------------------------------------------------------------------ the trips


class Trip(NamedTuple):
    """One of the trips."""

    name: str
    slug: str
    run: Callable[[], Awaitable[Trace]]


@contextlib.asynccontextmanager
async def connected(**options: Any) -> Any:
    """A server and a client that is open and has nothing left to do."""
    policy = ReconnectPolicy(first_delay=0, min_delay=0, max_delay=0)
    async with (
        FaultServer() as server,
        WebSocketClient(
            server.url, heartbeat=Heartbeat(interval=3600), reconnect=policy, **options
        ) as client,
    ):
        connection = await server.connection()
        await settled(client)
        yield server, connection, client


async def settled(client: WebSocketClient) -> None:
    """Waits until everything sent is confirmed and the loop has nothing to do."""
    await client.flush(5)
    for _ in range(20):
        await asyncio.sleep(0)


async def plain_send() -> Trace:
    """From the call of `send` until it returns."""
    trace = Trace()
    async with connected() as (_, _, client):
        for _ in range(WARM_UP):
            await client.send("x" * 100)
            await settled(client)
        with trace.tracing():
            await client.send("x" * 100)
        await settled(client)
    return trace


async def confirmed_send() -> Trace:
    """From the call of `send` until `flush` says that the peer has read it."""
    trace = Trace()
    async with connected() as (_, _, client):
        for _ in range(WARM_UP):
            await client.send("x" * 100)
            await settled(client)
        with trace.tracing():
            await client.send("x" * 100)
            await client.flush(5)
        await settled(client)
    return trace


async def receive() -> Trace:
    """From the bytes on the socket until `async for` has the message."""
    trace = Trace()
    async with connected() as (_, connection, client):
        for left in reversed(range(WARM_UP + 1)):
            taken = asyncio.ensure_future(anext(client))
            await asyncio.sleep(0.01)
            if left:
                await connection.send("x" * 100)
                await taken
            else:
                trace.start()
                await connection.send("x" * 100)
                await taken
                trace.stop()
    return trace


async def lose(*, until_back: bool) -> Trace:
    """From a reset of the connection until `on_close`, or from there until `on_reconnect`."""
    trace = Trace()
    done = asyncio.Event()
    last = False

    def closed(_: CloseEvent) -> None:
        if last:
            (trace.start if until_back else trace.stop)()

    def back(_: ReconnectEvent) -> None:
        if last and until_back:
            trace.stop()
        done.set()

    async with connected(on_close=closed, on_reconnect=back) as (server, first, _):
        connection = first
        for left in reversed(range(WARM_UP + 1)):
            last = not left
            done.clear()
            if last and not until_back:
                trace.start()
            connection.rst()
            await asyncio.wait_for(done.wait(), 10)
            if last:
                break
            connection = await server.connection()
            await asyncio.sleep(0.02)
        last = False
    return trace


TRIPS: Final = (
    Trip("send returns", "send", plain_send),
    Trip("send until confirmed (send and flush)", "confirm", confirmed_send),
    Trip("bytes until `async for`", "receive", receive),
    Trip("loss until `on_close`", "lose", lambda: lose(until_back=False)),
    Trip("`on_close` until `on_reconnect`", "back", lambda: lose(until_back=True)),
)


# ------------------------------------------------------------------------------------------------ as pictures

COLUMN, ROW, MARGIN = 118, 22, 12
INK, LINE_INK, OURS = "#7d8590", "#8da4bd", "#12a594"


def diagram(name: str, trace: Trace) -> str:
    """Returns the trip as a sequence diagram in SVG, readable on a light and on a dark page."""
    lanes = ["program", *trace.files]
    place = {lane: MARGIN + 50 + COLUMN * number for number, lane in enumerate(lanes)}
    steps = _merged(trace.visits)
    top = 66
    width, height = MARGIN * 2 + COLUMN * len(lanes), top + ROW * len(steps) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(name)}</title>",
        f'<g font-family="system-ui, sans-serif" font-size="11" fill="{INK}">',
        f'<text x="4" y="16" font-size="13" font-weight="600">{escape(name.replace("`", ""))}</text>',
    ]
    for lane, x in place.items():
        package, _, module = lane.rpartition("/")
        parts += [
            f'<text x="{x}" y="38" text-anchor="middle">{escape(package)}</text>',
            f'<text x="{x}" y="52" text-anchor="middle" font-weight="600">{escape(module)}</text>',
            f'<path d="M{x} 58V{height - 8}" stroke="{LINE_INK}" stroke-opacity="0.4" fill="none"/>',
        ]
    for number, (step, count) in enumerate(steps):
        y = top + ROW * number + 12
        begin, end = place[step.source], place[step.target]
        tip = -6 if end > begin else 6
        label = step.function + (f" x {count}" if count > 1 else "")
        parts += [
            f'<path d="M{begin} {y}H{end}m{tip} -4l{-tip} 4l{tip} 4" stroke="{OURS}" fill="none"/>',
            f'<text x="{(begin + end) / 2}" y="{y - 4}" text-anchor="middle">{escape(label)}</text>',
        ]
    return "\n".join([*parts, "</g></svg>", ""])


def _merged(steps: list[Step]) -> list[tuple[Step, int]]:
    """Joins equal pairs of steps that follow each other, such as a loop over three registered things."""
    merged: list[tuple[Step, int]] = []
    for step in steps:
        if len(merged) >= 2 and merged[-2][0] == step:
            merged[-2:] = [(merged[-2][0], merged[-2][1] + 1), merged[-1]]
        elif merged and merged[-1][0] == step:
            merged[-1] = (step, merged[-1][1] + 1)
        else:
            merged.append((step, 1))
    # A loop leaves its second half behind as steps of its own: drop a repeated answer that no new question precedes.
    return [item for number, item in enumerate(merged) if not number or item[0] != merged[number - 1][0]]


def table(traces: list[tuple[Trip, Trace]]) -> str:
    """Returns the counts as a Markdown table."""
    lines = ["| trip | calls | files | visits of files |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {trip.name} | {trace.calls} | {len(trace.files)} | {len(trace.visits)} |"
        for trip, trace in traces
    ]
    return "\n".join(lines)


def main() -> int:
    """Makes the trips."""
    parser = argparse.ArgumentParser(description="Count the calls, files and visits of the five main trips.")
    parser.add_argument(
        "--page", type=Path, help="a page to write the counts into; the diagrams go beside it"
    )
    parser.add_argument("--show", action="store_true", help="print each change of file, too")
    chosen = parser.parse_args()
    traces = [(trip, asyncio.run(trip.run())) for trip in TRIPS]
    print(table(traces))
    for trip, trace in traces:
        if chosen.show:
            print(f"\n{trip.name}")
            for step in trace.visits:
                print(f"  {step.source} -> {step.target}.{step.function}")
        if chosen.page is not None:
            path = chosen.page.with_name(f"trip-{trip.slug}.svg")
            path.write_text(diagram(trip.name, trace), encoding="utf-8")
    if chosen.page is not None:
        text = chosen.page.read_text(encoding="utf-8")
        head, begin, rest = text.partition("<!-- measured: trips -->\n")
        _, end, tail = rest.partition("<!-- end of trips -->")
        if not begin or not end:
            print(f"{chosen.page} has no part for trips", file=sys.stderr)
            return 1
        chosen.page.write_text(f"{head}{begin}\n{table(traces)}\n\n{end}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
