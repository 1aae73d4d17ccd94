"""What a timer has to know: when others fire, and that the machine may have slept."""

from __future__ import annotations

import math
import time
from typing import Final

TICKS: Final = 64
"""In a second."""

FAR: Final = 1.0
"""Seconds from which on a deadline may wait for the next tick."""


def on_tick(deadline: float, now: float) -> float:
    """Returns when a timer for `deadline` is to fire: at the next tick, unless that is near.

    The timers of many connections so share a turn of the loop. The turn, and the waking of the process for it, is a fifth of
    what a heartbeat costs (`python -m benchmarks.idle`).
    """
    return math.ceil(deadline * TICKS) / TICKS if deadline > now + FAR else deadline


def slept() -> float:
    """Returns how far the clock that counts suspension is ahead of the one that does not; its growth is sleep."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return 0.0
    return time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)
