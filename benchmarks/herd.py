"""A fleet on paper: everybody loses the server in the same instant; who comes back when, and in what crowd?

    python -m benchmarks.herd [--clients 1000000] [--down 5 30 120] [--capacity 20000] [--backlog 4096] [--seed 1]
                              [--also first_delay=2,factor=3] [--page docs/fleet.md]
    python -m benchmarks.herd --real 2000 [--down 5] [--slow 4]

Each client is simulated by itself, with this library's own policy code and with the published formulas of others. The
second form lets real clients of this library lose a real server on this machine, and compares.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np

from benchmarks import herd_plot
from benchmarks.herd_formulas import OTHERS, Formula, ours
from benchmarks.herd_model import Outcome, Server, simulate
from resilient_ws import ReconnectPolicy

AS_FAST: Final = 1.05
"""How much longer after the restart than ours another policy may take until 99 % are back, to count as one as fast."""

SHOWN_AFTER: Final = 90
"""Seconds after the restart where the plots end."""

DELAYS: Final = ("first_delay", "min_delay", "max_delay", "factor")

BEGIN: Final = "<!-- written by python -m benchmarks.herd -->"


@attrs.frozen
class Run:
    """One policy and what became of its fleet."""

    formula: Formula
    outcome: Outcome


def compare(
    formulas: Sequence[Formula], clients: int, server: Server, *, seed: int = 1, horizon: float = 600.0
) -> list[Run]:
    """Simulates a fleet for each policy."""
    return [Run(one, simulate(one, clients, server, seed=seed, horizon=horizon)) for one in formulas]


def as_fast(runs: Sequence[Run], reference: Run) -> list[Run]:
    """Returns the runs of other libraries in which 99 % were back as fast as in `reference`."""
    down = reference.outcome.down
    limit = down + (reference.outcome.until_back(0.99) - down) * AS_FAST
    return [run for run in runs if not run.formula.own and run.outcome.until_back(0.99) <= limit]


def table(runs: Sequence[Run], clients: int) -> str:
    """Returns the figures as Markdown, peaks in percent of the clients. Those as fast as the first are marked."""
    first = runs[0]
    fast = as_fast(runs, first)
    lines = [
        "| policy | 50 / 99 / 100 % back | peak, 1 s / 0.1 s | after restart | while down | rejected |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        out = run.outcome
        name = f"**{run.formula.name}**" if run is first else run.formula.name
        backs = [_when(out, share).removesuffix(" s") for share in (0.5, 0.99, 1.0)]
        cells = [
            f"{name} *" if run in fast else name,
            backs[0] if len(set(backs)) == 1 else " / ".join(backs),
            f"{100 * out.peak() / clients:.1f} / {100 * out.peak(within=0.1) / clients:.1f}",
            f"{100 * out.peak(since=out.down) / clients:.1f}",
            f"{out.while_down / clients:.1f}",
            f"{(out.refused + out.timed_out) / clients:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(runs: Sequence[Run]) -> str:
    """Says in a sentence how the first compares with those that are as fast."""
    first, fast = runs[0], as_fast(runs, runs[0])
    if not fast:
        return f"No other policy has 99 % of the clients back as fast as {first.formula.name}."
    parts: list[str] = []
    for what, since in (("overall", 0.0), ("after the restart", first.outcome.down)):
        own = first.outcome.peak(since=since)
        least = min(fast, key=lambda run: run.outcome.peak(since=since))
        lowest = least.outcome.peak(since=since)
        relation = "lower than" if own < lowest else "NOT lower than"
        parts.append(
            f"{what} {own:,}, {relation} the lowest of the equally fast policies, {lowest:,} ({least.formula.name})"
        )
    return f"Peak of {first.formula.name}: {'; '.join(parts)}."


def _when(out: Outcome, share: float) -> str:
    seconds = out.until_back(share) - out.down
    if np.isfinite(seconds):
        return f"{seconds:.1f} s"
    return "never" if out.gave_up > (1 - share) * len(out.back_at) else "later"


def plot(runs: Sequence[Run], server: Server) -> str:
    """Returns the attempts per second of each fleet as SVG."""
    shown = int(server.down) + SHOWN_AFTER
    edges = np.arange(1, shown + 1)
    panels: list[herd_plot.Panel] = []
    for run in runs:
        out = run.outcome
        back = np.searchsorted(np.sort(out.back_at), edges) / len(out.back_at)
        panels.append(
            herd_plot.Panel(
                name=run.formula.name,
                note=f"peak {out.peak():,}/s, 99 % back: {_when(out, 0.99)}",
                per_second=out.per_second()[:shown].tolist(),
                back=back.tolist(),
                own=run.formula.own,
            )
        )
    top = 1.3 * max(run.outcome.peak() for run in runs)
    return herd_plot.figure(panels, down=server.down, capacity=server.capacity, top=top)


def also(text: str) -> Formula:
    """Returns our formula with other options than the default: `first_delay=2,factor=3`."""
    delays = {name: float(getattr(ReconnectPolicy(), name)) for name in DELAYS}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in delays:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(DELAYS)}, got {name!r}")
        delays[name] = float(value)
    policy = ReconnectPolicy(
        first_delay=delays["first_delay"],
        min_delay=delays["min_delay"],
        max_delay=delays["max_delay"],
        factor=delays["factor"],
    )
    return ours(policy, name=f"with {text}")


def report(options: argparse.Namespace) -> None:
    """Prints the tables; with a page, writes them below the line that begins them, and plots for the first capacity."""
    head = "" if options.page is None else options.page.read_text(encoding="utf-8").partition(BEGIN)[0]
    parts = [f"Generated by `python -m benchmarks.herd {' '.join(sys.argv[1:])}`."]
    for capacity, down in itertools.product(options.capacity, options.down):
        server = Server(down=down, capacity=capacity, backlog=options.backlog)
        runs = compare([ours(), *options.also, *OTHERS], options.clients, server, seed=options.seed)
        title = f"{options.clients:,} clients, down for {down:g} s, then {capacity:,.0f} a second"
        parts += [f"### {title}", table(runs, options.clients), verdict(runs)]
        print("\n\n".join(["", *parts[-3:]]), flush=True)
        if options.page is not None and capacity == options.capacity[0]:
            picture = options.page.with_name(f"{options.page.stem}-{down:g}.svg")
            shown = [runs[0], *(run for run in runs if not run.formula.own)]
            picture.write_text(plot(shown, server), encoding="utf-8")
            parts.append(f"![Attempts per second of each policy, down for {down:g} s]({picture.name})")
    if options.page is not None:
        options.page.write_text(f"{head}{BEGIN}\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1_000_000, help="from 1,000 to 1,000,000")
    parser.add_argument("--down", type=float, nargs="+", default=[5.0, 30.0, 120.0], help="seconds")
    parser.add_argument("--capacity", type=float, nargs="+", default=[20_000.0], help="handshakes per second")
    parser.add_argument("--backlog", type=int, default=4096, help="how many may wait to be accepted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--also",
        type=also,
        action="append",
        default=[],
        metavar="OPTION=VALUE,...",
        help="ours, but with this",
    )
    parser.add_argument("--page", type=Path, help="also write the tables here, and the plots beside it")
    parser.add_argument(
        "--real", type=int, metavar="CLIENTS", help="let so many real clients lose a real server"
    )
    parser.add_argument(
        "--slow", type=float, default=4.0, help="with --real: all delays so many times as long"
    )
    options = parser.parse_args()
    if options.real is None:
        report(options)
    else:
        from benchmarks import herd_real

        herd_real.report(options.real, options.down[0], options.slow)


if __name__ == "__main__":
    main()
