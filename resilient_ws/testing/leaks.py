"""A check that code leaves no task, timer or socket behind.

Looks at the running loop and at the descriptors of the process; knows nothing of what made them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from resilient_ws.testing.checks import check_range

_TURNS: Final = 1_000
"""How often the loop turns at most while what is about to end gets its time; a virtual loop does not wait."""

_DESCRIPTORS: Final = Path("/dev/fd")


class LeakError(AssertionError):
    """Something was left behind.

    Attributes:
        leaks: Each task, timer and socket, as text.
    """

    def __init__(self, leaks: Sequence[str]) -> None:
        super().__init__(tuple(leaks))
        self.leaks = tuple(leaks)

    def __str__(self) -> str:
        return "left behind:" + "".join(f"\n  {leak}" for leak in self.leaks)


class LeakCheck:
    """Raise `LeakError` at the end of the block if it leaves tasks, timers or sockets behind.

    Timers are seen on asyncio's own loops, not on uvloop; sockets where the system has `/dev/fd`. A block that
    raises is not checked: it has one thing to say already.

    Args:
        grace: Real seconds that what is about to end is given.
    """

    def __init__(self, *, grace: float = 1.0) -> None:
        check_range("grace", grace, 0)
        self._grace = grace
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._sockets: frozenset[tuple[int, int]] = frozenset()

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.all_tasks()
        self._timers = _timers()
        self._sockets = _sockets()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.verify()

    async def verify(self) -> None:
        """Check now; the block goes on.

        Raises:
            LeakError: Something is there that was not at the start of the block, even after `grace`.
        """
        _ = gc.collect()
        deadline = time.monotonic() + self._grace
        leaks = self._find()
        for turn in range(_TURNS):
            if not leaks or time.monotonic() > deadline:
                break
            await asyncio.sleep(0 if turn < 20 else 0.005)
            leaks = self._find()
        if leaks:
            raise LeakError(leaks)

    def _find(self) -> list[str]:
        tasks = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        before = {id(timer) for timer in self._timers}
        timers = [timer for timer in _timers() if id(timer) not in before]
        return [
            *(f"task {task!r}" for task in tasks),
            *(f"timer {timer!r}" for timer in timers),
            *(f"socket on descriptor {number}" for number, _ in sorted(_sockets() - self._sockets)),
        ]


def _timers() -> list[asyncio.TimerHandle]:
    scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
    return [timer for timer in scheduled if not timer.cancelled()]


def _sockets() -> frozenset[tuple[int, int]]:
    """Return number and inode of each socket of the process."""
    found: set[tuple[int, int]] = set()
    for descriptor in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():
        number = int(descriptor.name)
        try:
            status = os.fstat(number)
        except OSError:  # closed meanwhile: the descriptor of the listing itself, for one
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add((number, status.st_ino))
    return frozenset(found)
