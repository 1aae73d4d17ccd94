"""Schedules of network conditions for the chaos proxy, as text or random.

A schedule is made of steps, separated by semicolons or line ends: `10s blackhole down for 5s; +3s rst`. Parsing
and choosing know no proxy; `run_schedule` lets one happen.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from resilient_ws.testing.checks import check_range
from resilient_ws.testing.proxy.proxied import to_direction
from resilient_ws.testing.units import parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from resilient_ws.testing.proxy.proxy import ChaosProxy

SYNTAX: Final = """\
steps, separated by ";": TIME ACTION [for TIME], where TIME is from the start (10s) or after the step before (+10s).
Actions: rst, fin, silent (what is connected), half-close [up|down|both], blackhole [up|down|both], heal
[up|down|both], refuse, accept, latency TIME, jitter TIME, accept-delay TIME, bandwidth SIZE|off,
cut-after SIZE|off, and last: repeat.
"for TIME" takes back blackhole, refuse, latency, jitter, bandwidth and accept-delay after that time."""

_STEP: Final = re.compile(
    r"(?P<plus>\+?)\s*(?P<at>\S+)\s+(?P<action>[a-z-]+)(?:\s+(?!for\s)(?P<argument>\S+))?(?:\s+for\s+(?P<span>\S+))?"
)
_DIRECTED: Final = frozenset({"half-close", "blackhole", "heal"})
_PLAIN: Final = frozenset({"rst", "fin", "silent", "refuse", "accept", "repeat"})
_VALUED: Final[dict[str, Callable[[str], float]]] = {
    "latency": parse_duration,
    "jitter": parse_duration,
    "accept-delay": parse_duration,
    "bandwidth": parse_rate,
    "cut-after": parse_size,
}
_UNDO: Final = {
    "blackhole": "heal",
    "refuse": "accept",
    "latency": "restore",
    "jitter": "restore",
    "bandwidth": "restore",
    "accept-delay": "restore",
}


@attrs.frozen
class Step:
    """One thing that happens.

    Args:
        at: Seconds from the start of the schedule.
        action: One of the words in `SYNTAX`, or `"restore"`.
        argument: A direction for `half-close`, `blackhole` and `heal`; the name of the condition for
            `restore`; else `None`.
        value: The number for a condition, seconds or bytes; `None` where there is none.
    """

    at: float
    action: str
    argument: str | None = None
    value: int | float | None = None

    def __str__(self) -> str:
        number = None if self.value is None else f"{self.value:g}"
        return " ".join(part for part in (self.action, self.argument, number) if part)


def parse_schedule(text: str) -> list[Step]:
    """Return the steps of a schedule in the order of their time.

    Raises:
        ValueError: A step is not of the form in `SYNTAX`; the text names the step.
    """
    steps: list[Step] = []
    last = 0.0
    for part in re.split(r"[;\n]", text):
        if not part.strip():
            continue
        try:
            found, last = _parse_step(part.strip(), last)
        except ValueError as error:
            raise ValueError(f"schedule step {part.strip()!r}: {error}") from None
        steps += found
    steps.sort(key=lambda step: step.at)
    if any(step.action == "repeat" for step in steps[:-1]):
        raise ValueError("repeat must be the last step of a schedule")
    return steps


def _parse_step(text: str, last: float) -> tuple[list[Step], float]:
    found = _STEP.fullmatch(text)
    if found is None:
        raise ValueError("it is not of the form TIME ACTION [for TIME]")
    at = parse_duration(found["at"]) + (last if found["plus"] else 0.0)
    step = _make_step(at, found["action"], found["argument"])
    if found["span"] is None:
        return [step], at
    undo = _UNDO.get(step.action)
    if undo is None:
        raise ValueError(f"{step.action} cannot be taken back, so it takes no 'for'")
    name = step.action.replace("-", "_") if undo == "restore" else step.argument
    return [step, Step(at + parse_duration(found["span"]), undo, name)], at


def _make_step(at: float, action: str, argument: str | None) -> Step:
    if action in _PLAIN:
        if argument is not None:
            raise ValueError(f"{action} takes no {argument!r}")
        return Step(at, action)
    if action in _DIRECTED:
        return Step(at, action, to_direction(argument or ("down" if action == "half-close" else "both")))
    if action not in _VALUED:
        raise ValueError(f"there is no action {action!r}")
    if argument is None:
        raise ValueError(f"{action} needs a value")
    if argument == "off" and action in {"bandwidth", "cut-after"}:
        return Step(at, action)
    return Step(at, action, None, _VALUED[action](argument))


def random_schedule(seed: int, duration: float, *, every: float = 5.0) -> list[Step]:
    """Return a schedule of mixed faults; the same one for the same arguments.

    Args:
        seed: Of the random choices.
        duration: Seconds; everything has been taken back by then.
        every: Seconds between two faults, on average; each may last up to this long.

    Raises:
        ValueError: `duration` is negative, or `every` is not above 0.
    """
    check_range("duration", duration, 0)
    check_range("every", every, 0.001)
    chance = random.Random(seed)
    steps: list[Step] = []
    at = chance.uniform(0, 2 * every)
    while at < duration:
        steps += _random_fault(chance, at, min(at + chance.uniform(0.1, 1) * every, duration))
        at += chance.uniform(0, 2 * every)
    steps.sort(key=lambda step: step.at)
    return steps


def _random_fault(chance: random.Random, at: float, end: float) -> list[Step]:
    action = chance.choice(
        ["rst", "fin", "half-close", "silent", "blackhole", "refuse", "latency", "bandwidth"]
    )
    if action in {"rst", "fin", "silent"}:
        return [Step(at, action)]
    if action == "half-close":
        return [Step(at, action, chance.choice(["up", "down"]))]
    if action == "blackhole":
        direction = chance.choice(["up", "down", "both"])
        return [Step(at, action, direction), Step(end, "heal", direction)]
    if action == "refuse":
        return [Step(at, action), Step(at, "rst"), Step(end, "accept")]
    value = chance.uniform(0.01, 0.5) if action == "latency" else chance.uniform(1_000, 100_000)
    return [Step(at, action, None, value), Step(end, "restore", action)]


async def run_schedule(
    proxy: ChaosProxy, steps: Sequence[Step], log: Callable[[str], None] | None = None
) -> None:
    """Let a schedule happen to a proxy; return after the last step, or never where that is `repeat`.

    Args:
        proxy: The proxy.
        steps: The steps, in the order of their time.
        log: Called with each step as text; `None` for none.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    while True:
        for step in steps:
            await asyncio.sleep(start + step.at - loop.time())
            if step.action == "repeat":
                start = loop.time()
                continue
            if log is not None:
                log(f"at {step.at:g} s: {step}")
            await _apply(proxy, step)
        if not steps or steps[-1].action != "repeat":
            return


async def _apply(proxy: ChaosProxy, step: Step) -> None:
    name = step.action.replace("-", "_")
    match step.action:
        case "rst" | "fin" | "silent":
            _ = proxy.drop_all(step.action)
        case "half-close":
            _ = proxy.half_close_all(to_direction(step.argument))
        case "blackhole":
            proxy.blackhole(to_direction(step.argument))
        case "heal":
            proxy.heal(to_direction(step.argument))
        case "refuse":
            await proxy.refuse()
        case "accept":
            proxy.start()
        case "restore" if step.argument is not None:
            proxy.restore(step.argument)
        case "latency" | "jitter" | "bandwidth" | "accept-delay" | "cut-after":
            setattr(proxy, name, step.value)
        case _:
            raise ValueError(f"there is no action {step.action!r}")
