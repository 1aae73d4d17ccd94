"""Boot time and wall time, which advance even while an event loop or the machine is suspended.

An event loop counts the seconds in which the machine runs. What outlives a suspended machine (a limit on an outage, the
age of a message) is measured in boot time, and what outlives the process is measured in wall time.

An event loop with methods of these names replaces both clocks for all that runs on it; `resilient_ws.testing.VirtualLoop`
does, so that a test on virtual time asks one clock only.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path


def boot_time() -> float:
    """Return the seconds since some fixed instant, those included for which the machine was suspended.

    It never goes back and no clock setting moves it; only differences mean something. Where the system has no such
    clock (neither Linux, macOS nor Windows) it is `time.monotonic`, which may stop while the machine is suspended.
    """
    replaced = _replaced("boot_time")
    return _real_boot_time() if replaced is None else replaced()


def wall_time() -> float:
    """Return the seconds since the epoch, as `time.time`: the same in all processes, moved when the clock is set."""
    replaced = _replaced("wall_time")
    return time.time() if replaced is None else replaced()


def _replaced(name: str) -> Callable[[], float] | None:
    """Return the clock of that name which the running event loop brings along; `None` = it has none, or none runs."""
    return getattr(_running_loop(), name, None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _find_boot_clock() -> Callable[[], float]:
    """Return the clock of this system that counts suspended time.

    Source: clock_gettime(2) of Linux (`CLOCK_BOOTTIME`) and of macOS, whose `CLOCK_MONOTONIC` goes on in sleep while
    Python's `time.monotonic` (`mach_absolute_time`) stops. That of Windows goes on.
    """
    name = "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    clock = getattr(time, name, None)
    if clock is not None:
        try:
            time.clock_gettime(clock)
        except OSError:  # a sandbox that does not know it
            pass
        else:
            return lambda: time.clock_gettime(clock)
    return time.monotonic


_real_boot_time = _find_boot_clock()


def boot_clock() -> Callable[[], float]:
    """Return what `boot_time` asks on the event loop that runs now, for callers that ask it often."""
    return _replaced("boot_time") or _real_boot_time


def boot_id() -> str | None:
    """Return a name for the time since the machine was started; `None` = this system has none.

    Boot times of two processes can be compared where this is equal.
    """
    replaced = getattr(_running_loop(), "boot_time", None)
    if replaced is not None:
        name: Callable[[], str] | None = getattr(_running_loop(), "boot_id", None)
        return None if name is None else name()
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


class SteadyClock:
    """Boot time that surely never goes back: what was counted as suspended stays counted.

    Attributes:
        slept: Seconds by which it is ahead of the clock that stops while the machine is suspended.
    """

    __slots__ = ("slept",)

    def __init__(self) -> None:
        self.slept = -math.inf

    def __call__(self) -> float:
        """Return the time in seconds."""
        boot = boot_time()
        running = running_time()
        self.slept = max(self.slept, boot - running)
        return running + self.slept


def running_time() -> float:
    """Return the seconds since some fixed instant for which the machine has run."""
    loop = _running_loop()
    return loop.time() if loop is not None and hasattr(loop, "boot_time") else time.monotonic()
