"""What connections cost that have nothing to say: memory for each, and processor time for their heartbeats.

    python -m benchmarks.idle [--clients 5000] [--interval 5] [--seconds 15] [--rounds 3] [--only NAME] [--trace]

Each client runs in a process of its own, one after the other in each round, against one server process. Every
connection has one task that waits for messages, and pings every `--interval` seconds. `--trace` prints where the
memory of `--only NAME` was allocated instead.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.__main__ import Server
from resilient_ws import Heartbeat, WebSocketClient

AT_ONCE = 64
SPREAD = 2
"""Intervals over which the connections are opened: each of them at a time of its own within the interval."""

PAGE = os.sysconf("SC_PAGE_SIZE")

Opener = Callable[[str, float], Any]


@asynccontextmanager
async def raw_aiohttp(url: str, interval: float) -> AsyncIterator[Any]:
    """All of them in one session, as aiohttp recommends."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield lambda: session.ws_connect(url, heartbeat=interval)


@asynccontextmanager
async def ours(url: str, interval: float, transport: Any = "aiohttp") -> AsyncIterator[Any]:
    async def one() -> Any:
        client = WebSocketClient(url, heartbeat=Heartbeat(interval, interval), transport=transport)
        client.start()
        await client.ready()
        return client

    yield one


@asynccontextmanager
async def ours_on_picows(url: str, interval: float) -> AsyncIterator[Any]:
    async with ours(url, interval, "picows") as one:
        yield one


OPENERS: dict[str, Opener] = {
    "aiohttp": raw_aiohttp,
    "resilient_ws": ours,
    "resilient_ws picows": ours_on_picows,
}


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def read(connection: Any) -> None:
    async for _ in connection:
        pass


def timers(loop: Any) -> int:
    return sum(not timer.cancelled() for timer in loop._scheduled)


async def measure(
    name: str, url: str, clients: int, interval: float, seconds: float, *, trace: bool
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    kept: list[Any] = []

    async def open_all(count: int, one: Any, seconds: float) -> None:
        """Opens them evenly over so many seconds, so that their pings do not come in swarms."""
        began = loop.time()

        async def several(first: int) -> None:
            for number in range(first, count, AT_ONCE):
                await asyncio.sleep(began + number * seconds / count - loop.time())
                connection = await one()
                kept.append((connection, loop.create_task(read(connection))))

        await asyncio.gather(*(several(number) for number in range(AT_ONCE)))

    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(OPENERS[name](url, interval))
        await open_all(64, one, 0.0)  # what is loaded and made once is not counted
        await asyncio.sleep(0.1)
        before, tasks, set_timers = resident(), len(asyncio.all_tasks()), timers(loop)
        if trace:
            tracemalloc.start(12)
        began = time.process_time()
        await open_all(clients, one, SPREAD * interval)
        opening = time.process_time() - began
        await asyncio.sleep(interval + 0.5)  # each has pinged once
        if trace:
            show(clients)
        used = resident() - before
        tasks, set_timers = len(asyncio.all_tasks()) - tasks, timers(loop) - set_timers
        began, since = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        beating = (time.process_time() - began) / (time.perf_counter() - since)
        print(
            json.dumps(
                {
                    "memory": used / clients,
                    "beat": beating * interval / clients,
                    "open": opening / clients,
                    "tasks": tasks / clients,
                    "timers": set_timers / clients,
                }
            ),
            flush=True,
        )
        os._exit(0)  # to close them all is of no interest


def show(clients: int) -> None:
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    by_line = snapshot.statistics("lineno")
    print(f"traced: {sum(stat.size for stat in by_line) / clients:,.0f} bytes for each connection")
    for stat in by_line[:120]:
        frame = stat.traceback[0]
        print(
            f"{stat.size / clients:8,.0f} B {stat.count / clients:6.2f} x  {frame.filename[-60:]}:{frame.lineno}"
        )


def run(name: str, url: str, args: argparse.Namespace) -> dict[str, float]:
    """Measures one client in a process of its own."""
    numbers = [f"--{key}={getattr(args, key)}" for key in ("clients", "interval", "seconds")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.idle", "--only", name, "--url", url, *numbers],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def table(results: dict[str, list[dict[str, float]]]) -> str:
    base = results["aiohttp"]
    lines = [
        "| client | KiB each | x | CPU of a heartbeat, us | x | tasks | timers | CPU to open, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rounds in results.items():
        memory = statistics.median(one["memory"] for one in rounds)
        beat = statistics.median(one["beat"] for one in rounds)
        more = statistics.median(one["memory"] / ref["memory"] for one, ref in zip(rounds, base, strict=True))
        dearer = statistics.median(one["beat"] / ref["beat"] for one, ref in zip(rounds, base, strict=True))
        last = rounds[-1]
        lines.append(
            f"| {name} | {memory / 1024:.1f} | {more:.2f} | {beat * 1e6:.1f} | {dearer:.2f} | {last['tasks']:.2f} "
            f"| {last['timers']:.2f} | {statistics.median(one['open'] for one in rounds) * 1e3:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of idle connections.")
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=OPENERS)
    parser.add_argument("--url")
    parser.add_argument("--trace", action="store_true")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.url:
        asyncio.run(measure(args.only, args.url, args.clients, args.interval, args.seconds, trace=args.trace))
        return
    with Server() as server:
        url = server.url("/echo", "echo")
        if args.trace:
            asyncio.run(measure(args.only, url, args.clients, args.interval, args.seconds, trace=True))
        names = ["aiohttp", args.only] if args.only else list(OPENERS)
        results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                results[name].append(run(name, url, args))
        print(table(results))


if __name__ == "__main__":
    main()
