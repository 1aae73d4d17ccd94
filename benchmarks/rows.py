"""One measured comparison: the clients take turns, each figure is a ratio within one round, and targets are judged."""

import asyncio
import contextlib
import gc
import statistics
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import aiohttp

from benchmarks.clients import Aiohttp, Client
from benchmarks.others import NotInstalledError, load

Measure = Callable[[Client], Awaitable[float]]


class Target(NamedTuple):
    """`client` is to be at least (where less is better: at most) `limit` times `reference`."""

    client: str
    limit: float
    reference: str = Aiohttp.name


class Figure(NamedTuple):
    """Of one client: seconds, and the ratio to the reference of the same round."""

    name: str
    cost: float
    ratio: float
    low: float
    high: float


class Row:
    """What several clients take for the same work.

    Args:
        name: The title.
        unit: Of the cost, in words; it is shown in microseconds.
        measure: Seconds that a client takes for one piece of the work.
        who: The clients; the first one is the reference.
        targets: What is to be reached.
        times: Whether ratios are of time (less is better); else of speed.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        measure: Measure,
        who: tuple[type[Client], ...],
        targets: tuple[Target, ...] = (),
        *,
        times: bool = False,
    ) -> None:
        self.name, self.unit, self.measure, self.who = name, unit, measure, who
        self.targets, self.times = targets, times
        self.costs: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            # Another one begins each round: whoever is always first has the better caches.
            first = number % len(self.who)
            for client in (*self.who[first:], *self.who[:first]):
                if client.name in self.missing:
                    continue
                gc.collect()  # what others left is not to be collected in its time
                try:
                    with _zlib_of(client), asyncio.Runner(loop_factory=_loop_of(client)) as runner:
                        cost = runner.run(self.measure(client()))
                except NotImplementedError:
                    self.missing[client.name] = "cannot do that"
                except NotInstalledError as missing:
                    self.missing[client.name] = f"is not installed: {missing}"
                else:
                    self.costs.setdefault(client.name, []).append(cost)

    def against(self, name: str, reference: str) -> Figure:
        costs, base = self.costs[name], self.costs[reference]
        each = [mine / its if self.times else its / mine for mine, its in zip(costs, base, strict=True)]
        return Figure(name, statistics.median(costs), statistics.median(each), min(each), max(each))

    @property
    def figures(self) -> list[Figure]:
        return [self.against(name, self.who[0].name) for name in self.costs]

    def table(self) -> str:
        kind = "time" if self.times else "speed"
        lines = [
            f"### {self.name}",
            "",
            f"| client | {self.unit} | {kind}, x {self.who[0].name} | min-max |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {cost * 1e6:.2f} | {ratio:.2f} | {low:.2f}-{high:.2f} |"
            for name, cost, ratio, low, high in self.figures
        ]
        lines += ["", *(f"- {name} {why}" for name, why in self.missing.items())] if self.missing else []
        verdicts = list(self.verdicts())
        if verdicts:
            lines += ["", *(f"- Target: {wanted}. **{found}**" for wanted, found in verdicts)]
        return "\n".join(lines)

    def verdicts(self) -> Iterator[tuple[str, str]]:
        """What was wanted, and what was found."""
        for client, limit, reference in self.targets:
            if client not in self.costs or reference not in self.costs:
                continue
            ratio = self.against(client, reference).ratio
            reached = ratio <= limit if self.times else ratio >= limit
            bound = f"{'at most' if self.times else 'at least'} {limit:g} x {reference}"
            yield f"{client} {bound}", f"{ratio:.2f}: {'reached' if reached else 'not reached'}"


def _loop_of(client: type[Client]) -> Callable[[], asyncio.AbstractEventLoop] | None:
    return load("uvloop", "uvloop").new_event_loop if client.uvloop else None


@contextlib.contextmanager
def _zlib_of(client: type[Client]) -> Iterator[None]:
    if not client.zlib_ng:
        yield
        return
    aiohttp.set_zlib_backend(load("zlib-ng", "zlib_ng.zlib_ng"))
    try:
        yield
    finally:
        aiohttp.set_zlib_backend(load("zlib", "zlib"))
