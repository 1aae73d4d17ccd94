"""Measures the message path beside other clients.

    python -m benchmarks [receive] [paced] [send] [echo] [import] [--rounds 5] [--seconds 0.25] [--page FILE]

All clients run in this one process, one after the other in each round, so that a busy machine slows them all alike;
the server has the other core. Ratios are of CPU time, except for echo, whose p50 is time that passed. More is faster.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import picows
import trustme
import websockets

from benchmarks import clients as c

Measure = Callable[[c.Client], Awaitable[float]]
BEGIN = "<!-- written by make bench-full -->"
ROUGH = 600_000  # messages of 125 bytes that raw aiohttp takes in a second


class Server:
    """The other process, with a certificate for TLS."""

    def __enter__(self) -> "Server":
        self.folder = tempfile.TemporaryDirectory()
        authority = trustme.CA()
        path = Path(self.folder.name) / "cert.pem"
        issued = authority.issue_cert("127.0.0.1")
        path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        self.tls = c.ssl.create_default_context()
        authority.configure_trust(self.tls)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        pinned = ["--cpu", str(cores[-1])] if len(cores) > 1 else []
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py")), "--cert", str(path), *pinned],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if pinned:
            os.sched_setaffinity(0, set(cores[:-1]))
        assert self.process.stdout is not None
        self.ports = json.loads(self.process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def url(self, path: str, port: str = "stream") -> str:
        return f"{'wss' if port == 'secure' else 'ws'}://127.0.0.1:{self.ports[port]}{path}"


class Row:
    def __init__(self, name: str, unit: str, measure: Measure, who: tuple[type[c.Client], ...]) -> None:
        self.name, self.unit, self.measure, self.who = name, unit, measure, who
        self.costs: dict[str, list[float]] = {}

    def run(self, rounds: int) -> None:
        """Seconds for each message or round trip; the clients take turns."""
        for _ in range(rounds):
            for client in self.who:
                try:
                    cost = asyncio.run(self.measure(client()))
                except NotImplementedError:
                    continue
                self.costs.setdefault(client.name, []).append(cost)

    def ratios(self) -> list[tuple[str, float, float, float, float]]:
        """Name, median cost, and the ratio to raw aiohttp of the same round: median, least, most."""
        reference = self.costs[c.Aiohttp.name]
        found = []
        for name, costs in self.costs.items():
            each = [base / cost for base, cost in zip(reference, costs, strict=True)]
            found.append((name, statistics.median(costs), statistics.median(each), min(each), max(each)))
        return found

    def table(self) -> str:
        lines = [
            f"### {self.name}",
            "",
            f"| client | {self.unit} | x raw aiohttp | min-max |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {cost * 1e6:.2f} | {ratio:.2f} | {low:.2f}-{high:.2f} |"
            for name, cost, ratio, low, high in self.ratios()
        ]
        return "\n".join(lines)


RECEIVERS = (
    c.Aiohttp,
    c.Ours,
    c.OursInBatches,
    c.OursByCallback,
    c.OursOnPicows,
    c.OursOnPicowsInBatches,
    c.PicowsCore,
    c.PicowsWebsockets,
    c.Websockets,
    c.WebsocketsReconnecting,
)
FEW = (c.Aiohttp, c.Ours, c.OursInBatches, c.OursOnPicows, c.PicowsWebsockets, c.Websockets)
SENDERS = (
    c.Aiohttp,
    c.Ours,
    c.OursUnconfirmed,
    c.OursOnPicows,
    c.PicowsCore,
    c.PicowsWebsockets,
    c.Websockets,
)
ECHOERS = (c.Aiohttp, c.Ours, c.OursOnPicows, c.PicowsCore, c.PicowsWebsockets, c.Websockets)


def receive(server: Server, seconds: float) -> list[Row]:
    rows: list[Row] = []

    def add(
        title: str,
        size: int,
        who: tuple[type[c.Client], ...],
        *,
        kind: str = "text",
        deflate: bool = False,
        tls: bool = False,
    ) -> None:
        count = max(200, int(ROUGH * seconds / (1 + size / 8000) / (4 if deflate else 1)))
        path = f"/blast?size={size}&kind={kind}&deflate={int(deflate)}"
        url = server.url(path, "secure" if tls else "stream")

        async def measure(client: c.Client) -> float:
            timed = await client.receive(url, count, tls=server.tls if tls else None, deflate=deflate)
            return timed.cpu / count

        rows.append(Row(f"Receive {title}", "us CPU each", measure, who))

    add("125 B text", 125, RECEIVERS)
    add("20 B text", 20, FEW)
    add("1 KiB text", 1024, FEW)
    add("64 KiB text", 65536, FEW)
    add("125 B binary", 125, FEW, kind="binary")
    add("125 B text, TLS", 125, FEW, tls=True)
    add("125 B text, deflate", 125, FEW, deflate=True)
    return rows


def paced(server: Server, seconds: float) -> list[Row]:
    count = max(500, int(seconds * 10_000))

    async def measure(client: c.Client) -> float:
        timed = await client.receive(server.url("/paced?size=125&interval=0.0001"), count)
        return timed.cpu / count

    return [Row("A 125 B message each 100 us", "us CPU each", measure, FEW)]


def send(server: Server, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for size in (125, 65536):
        count = max(200, int(ROUGH * seconds / 2 / (1 + size / 4000)))

        async def measure(client: c.Client, size: int = size, count: int = count) -> float:
            return (await client.send(server.url(f"/sink?size={size}"), "x" * size, count)).cpu / count

        rows.append(Row(f"Send {size} B, one after the other", "us CPU each", measure, SENDERS))
    return rows


def echo(server: Server, seconds: float) -> list[Row]:
    count = max(300, int(seconds * 6000))
    rows: list[Row] = []
    for outstanding in (1, 64):

        async def p50(client: c.Client, outstanding: int = outstanding) -> float:
            _, took = await client.echo(server.url("/", "echo"), "x" * 125, count, outstanding)
            return statistics.median(took)

        rows.append(Row(f"Echo 125 B, {outstanding} outstanding, p50", "us", p50, ECHOERS))
    return rows


def imports(_: Server, __: float) -> list[Row]:
    def importing(*names: str) -> float:
        code = (
            f"import time; t = time.process_time(); import {', '.join(names)}; print(time.process_time() - t)"
        )
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)

    class Import(c.Client):
        modules: tuple[str, ...] = ()

    def make(name_: str, *modules_: str) -> type[c.Client]:
        return type(name_, (Import,), {"name": name_, "modules": modules_})

    async def measure(client: c.Client) -> float:
        return importing(*getattr(client, "modules"))  # noqa: B009

    who = (
        make(c.Aiohttp.name, "aiohttp"),
        make("resilient_ws", "resilient_ws"),
        make("websockets", "websockets.asyncio.client"),
    )
    return [Row("Import", "us CPU", measure, who)]


WORKLOADS: dict[str, Callable[[Server, float], list[Row]]] = {
    "receive": receive,
    "paced": paced,
    "send": send,
    "echo": echo,
    "import": imports,
}


def versions() -> str:
    found: dict[str, Any] = {
        "Python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "websockets": websockets.__version__,
        "picows": picows.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="about how long raw aiohttp takes each time"
    )
    parser.add_argument(
        "--page", type=Path, help="also write the tables here, below the line that begins them"
    )
    options = parser.parse_args()
    tables = [f"{versions()}; {options.rounds} rounds, {platform.machine()}, {os.cpu_count()} cores."]
    print(tables[0])
    with Server() as server:
        for name in options.workloads or WORKLOADS:
            for row in WORKLOADS[name](server, options.seconds):
                row.run(options.rounds)
                tables.append(row.table())
                print(f"\n{tables[-1]}", flush=True)
    if options.page is not None:
        write_page(options.page, tables)


def write_page(page: Path, tables: list[str]) -> None:
    """Replaces what stands below the line that begins the tables."""
    head = page.read_text().partition(BEGIN)[0]
    page.write_text(f"{head}{BEGIN}\n\n" + "\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
