"""Measures the message path beside other clients.

    python -m benchmarks [receive] [paced] [send] [echo] [reset] [account] [import]
                         [--rounds 5] [--seconds 0.15] [--page FILE] [--profile]

All clients run in this one process, one after the other in each round, so that a busy machine slows them all alike;
the server has the other core. Figures are of processor time, except for echo and reset, which are of time that passed.
"""

import argparse
import asyncio
import cProfile
import os
import platform
import pstats
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.charts import chart
from benchmarks.clients import Ours, OursOnPicows
from benchmarks.peer import Server
from benchmarks.rows import Row
from benchmarks.workloads import WORKLOADS

__all__ = ["Server"]

BEGIN = "<!-- written by make bench-full -->"
PACKAGES = ("aiohttp", "picows", "uvloop", "websockets", "jetsocket", "websocket-client", "zlib-ng")


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def targets(rows: list[Row]) -> str:
    lines = ["| workload | target | measured |", "|---|---|---|"]
    lines += [f"| {row.name} | {wanted} | {found} |" for row in rows for wanted, found in row.verdicts()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=0.15, help="about how long raw aiohttp takes each time"
    )
    parser.add_argument(
        "--page",
        type=Path,
        help="also write the tables here, below the line that begins them, and plots beside it",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="instead of measuring, profile resilient_ws once in each row: where its time goes, and in how many calls",
    )
    options = parser.parse_args()
    if options.profile:
        profile(options.workloads or list(WORKLOADS), options.seconds)
        return
    about = f"{versions()}; {options.rounds} rounds, {platform.machine()}, {os.cpu_count()} cores."
    print(about)
    begun = time.monotonic()
    groups: dict[str, list[Row]] = {}
    with Server() as server:
        for name in options.workloads or WORKLOADS:
            groups[name] = WORKLOADS[name](server, options.seconds)
            for row in groups[name]:
                row.run(options.rounds)
                print(f"\n{row.table()}", flush=True)
    rows = [row for group in groups.values() for row in group]
    print(f"\n### Targets\n\n{targets(rows)}\n\n{time.monotonic() - begun:.0f} s")
    if options.page is not None:
        write_page(options.page, about, groups)


def profile(names: list[str], seconds: float) -> None:
    """Prints the functions of resilient_ws, and of what it stands on, that take the most time themselves."""
    with Server() as server:
        for name in names:
            for row in WORKLOADS[name](server, seconds):
                for client in row.who:
                    if client in (Ours, OursOnPicows):
                        asyncio.run(row.measure(client()))  # what happens once is not looked at
                        profiler = cProfile.Profile()
                        profiler.runcall(asyncio.run, row.measure(client()))
                        print(f"\n### {row.name}: {client.name}\n")
                        pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


def write_page(page: Path, about: str, groups: dict[str, list[Row]]) -> None:
    """Replaces what stands below the line that begins the tables, and the plots: one for the first row of each group."""
    parts = [about, "### Targets", targets([row for group in groups.values() for row in group])]
    for name, rows in groups.items():
        plot = page.with_name(f"{page.stem}-{name}.svg")
        plot.write_text(chart(rows[0]))
        parts += [f"![{rows[0].name}]({plot.name})", *(row.table() for row in rows)]
    head = page.read_text().partition(BEGIN)[0]
    page.write_text(f"{head}{BEGIN}\n\n" + "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
