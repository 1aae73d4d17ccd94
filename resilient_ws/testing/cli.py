"""`python -m resilient_ws chaos`: the chaos proxy as a command.

Runs until it is interrupted; prints what happens, a line each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from resilient_ws.testing.proxy.proxied import to_direction
from resilient_ws.testing.proxy.proxy import ChaosProxy
from resilient_ws.testing.proxy.schedule import SYNTAX, Step, parse_schedule, random_schedule, run_schedule
from resilient_ws.testing.units import parse_address, parse_duration, parse_rate, parse_size

T = TypeVar("T")

RANDOM_HOURS = 24.0
"""How long `--schedule random` goes on before it begins again, in hours."""


def main(argv: Sequence[str]) -> int:
    """Run the command with its arguments; return the exit code: 0 when interrupted, 1 if it cannot listen."""
    options = make_parser().parse_args(argv)
    try:
        asyncio.run(run(options))
    except OSError as error:
        _ = sys.stderr.write(f"cannot listen on {options.listen[0]}:{options.listen[1]}: {error}\n")
        return 1
    except KeyboardInterrupt:  # where the loop cannot handle signals
        pass
    return 0


async def run(options: argparse.Namespace) -> None:
    """Run the proxy until SIGINT or SIGTERM."""
    started = time.monotonic()

    def log(text: str) -> None:
        if not options.quiet:
            _ = sys.stdout.write(f"{time.monotonic() - started:9.3f}  {text}\n")
            _ = sys.stdout.flush()

    proxy = ChaosProxy(
        options.to,
        listen=options.listen,
        latency=options.latency,
        jitter=options.jitter,
        bandwidth=options.bandwidth,
        blackhole=options.blackhole,
        cut_after=options.cut_after,
        cut=options.cut,
        accept_delay=options.accept_delay,
        seed=options.seed,
        log=log,
    )
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, ended.set)
    async with proxy:
        log(f"listening on {proxy.authority} for {options.to[0]}:{options.to[1]}, seed {proxy.seed}")
        steps = _choose_steps(options.schedule, proxy.seed)
        running = loop.create_task(run_schedule(proxy, steps, log), name="schedule")
        if options.refuse:
            await proxy.refuse()
        try:
            _ = await ended.wait()
        finally:
            running.cancel()
            _ = await asyncio.wait([running])
    log("stopped")


def _choose_steps(schedule: list[Step] | None, seed: int) -> list[Step]:
    if schedule is None:
        duration = RANDOM_HOURS * 3600
        return [*random_schedule(seed, duration), Step(duration, "repeat")]
    return schedule


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m resilient_ws chaos",
        description="A TCP proxy that makes the network in front of a server as bad as it is told.",
        epilog=f"A schedule is {SYNTAX} Durations are 50ms, 2s, 1m; sizes are 500B, 64kB, 1MiB.",
    )
    add = parser.add_argument
    add("--listen", type=_as_type(parse_address), default=("127.0.0.1", 9000), metavar="HOST:PORT")
    add("--to", type=_as_type(parse_address), required=True, metavar="HOST:PORT", help="the server")
    add(
        "--latency",
        type=_as_type(parse_duration),
        default=0.0,
        metavar="TIME",
        help="delay in each direction",
    )
    add(
        "--jitter",
        type=_as_type(parse_duration),
        default=0.0,
        metavar="TIME",
        help="up to so much more, at random",
    )
    add("--bandwidth", type=_as_type(parse_rate), metavar="SIZE", help="bytes a second in each direction")
    add(
        "--blackhole",
        type=_as_type(to_direction),
        metavar="up|down|both",
        help="a direction in which nothing passes",
    )
    add(
        "--cut-after",
        type=_as_type(_parse_range),
        metavar="SIZE[-SIZE]",
        help="cut each connection after so much",
    )
    add("--cut", choices=["rst", "fin", "silent"], default="rst", help="how it is cut (%(default)s)")
    add(
        "--accept-delay",
        type=_as_type(parse_duration),
        default=0.0,
        metavar="TIME",
        help="before the server is dialed",
    )
    add("--refuse", action="store_true", help="refuse connections, until the schedule says accept")
    add("--seed", type=int, metavar="NUMBER", help="of all random choices; printed where it is not given")
    add(
        "--schedule",
        type=_as_type(_parse_steps),
        default=[],
        metavar="STEPS",
        help="what happens when, or: random",
    )
    add("--quiet", action="store_true", help="print nothing")
    return parser


def _parse_steps(text: str) -> list[Step] | None:
    return None if text.strip() == "random" else parse_schedule(text)


def _parse_range(text: str) -> int | tuple[int, int]:
    low, dash, high = text.partition("-")
    if not dash:
        return parse_size(text)
    if parse_size(low) > parse_size(high):
        raise ValueError(f"the end of a range must not be below its start, as in {text!r}")
    return parse_size(low), parse_size(high)


def _as_type(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return `parse` so that argparse shows what its ValueError says."""

    @functools.wraps(parse)
    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
