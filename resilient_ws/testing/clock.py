"""A virtual clock: an event loop on which hours of waiting take milliseconds.

The loop is asyncio's own. Its `time` stands still while anything can run and jumps to the next timer when nothing
can. The loop also answers for boot time and wall time (`resilient_ws.aio.clocks`). It knows nothing of what runs on it;
code that uses another clock (`time.monotonic`, another process) is not affected.
"""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, Final, TypeAlias, TypeVar, TypeVarTuple, Unpack

from resilient_ws.testing.checks import check_range

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_Ready: TypeAlias = list[tuple[selectors.SelectorKey, int]]

IO_GRACE: Final = 0.002
"""Real seconds that sockets get to become ready before each jump, where the loop watches any. Source: measured, the
loopback interface needs less than 0.1 ms on a busy two-core machine."""

THREAD_GRACE: Final = 1.0
"""Real seconds for which one thread that was started meanwhile can hold the clock in all; then it is ignored."""

_POLL: Final = 0.002
_RESOLUTION: Final = time.get_clock_info("monotonic").resolution


class DeadlockError(RuntimeError):
    """Nothing can run, no timer is set and nothing is under way that could change this.

    Attributes:
        tasks: The tasks that wait, as text.
    """

    def __init__(self, tasks: list[str]) -> None:
        super().__init__(tasks)
        self.tasks = tasks

    def __str__(self) -> str:
        waiting = "".join(f"\n  {task}" for task in self.tasks) or " no task is left"
        return f"everything waits, and no timer is set that could end it:{waiting}"


class TimeLimitError(RuntimeError):
    """The clock has shown more than its limit: something repeats for ever, or the limit is too low.

    Attributes:
        limit: The limit, in seconds.
        tasks: The tasks that wait, as text.
    """

    def __init__(self, limit: float, tasks: list[str]) -> None:
        super().__init__(limit, tasks)
        self.limit = limit
        self.tasks = tasks

    def __str__(self) -> str:
        waiting = "".join(f"\n  {task}" for task in self.tasks) or " no task is left"
        return f"more than {self.limit:g} s of virtual time have passed:{waiting}"


class VirtualClock:
    """The time of a `VirtualLoop`: read it, and move it by hand if need be.

    Args:
        start: What the clock shows at first, in seconds.
        limit: Seconds after which the loop raises `TimeLimitError`; `None`: it goes on for ever. A heartbeat that
            repeats while a test waits for something else would otherwise never end.
        stall_timeout: Real seconds for which a loop without any timer waits for its sockets and threads before it
            raises `DeadlockError`.
        wall: The time of day at first, in seconds since the epoch; `None`: the real one.
    """

    def __init__(
        self,
        start: float = 0.0,
        *,
        limit: float | None = 7 * 86400.0,
        stall_timeout: float = 5.0,
        wall: float | None = None,
    ) -> None:
        check_range("stall_timeout", stall_timeout, 0)
        check_range("start", start, 0)
        if limit is not None:
            check_range("limit", limit, 0)
        self._now = start
        self._started = start
        self._limit = limit
        self._end = math.inf if limit is None else start + limit
        self._jumps = 0
        self._suspended = 0.0
        self._epoch = (time.time() if wall is None else wall) - start
        self.stall_timeout = stall_timeout

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now:g} s after {self._jumps} jumps>"

    @property
    def now(self) -> float:
        """What the clock shows, in seconds: `asyncio.AbstractEventLoop.time` of the loop."""
        return self._now

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return self._now - self._started

    @property
    def jumps(self) -> int:
        """How often the clock has jumped because nothing could run."""
        return self._jumps

    def advance(self, seconds: float) -> None:
        """Move the clock without letting anything run meanwhile, like a blocked loop or a stopped process.

        Timers that were due meanwhile fire late, as they would then.

        Raises:
            ValueError: `seconds` is negative.
        """
        check_range("seconds", seconds, 0)
        self._now += seconds

    @property
    def boot(self) -> float:
        """Boot time in seconds: what the clock shows and all seconds of `suspend`."""
        return self._now + self._suspended

    @property
    def wall(self) -> float:
        """The time of day in seconds since the epoch; `suspend` moves it too, and `set_wall` sets it."""
        return self._epoch + self._now + self._suspended

    def suspend(self, seconds: float) -> None:
        """Let the machine sleep: boot time and wall time go on, the clock of the loop stands still.

        Raises:
            ValueError: `seconds` is negative.
        """
        check_range("seconds", seconds, 0)
        self._suspended += seconds

    def set_wall(self, wall: float) -> None:
        """Set the time of day, as an administrator or NTP does; the other clocks do not notice.

        Args:
            wall: Seconds since the epoch; may lie in the past.
        """
        self._epoch += wall - self.wall

    def run(self, main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
        """Run a coroutine to its end on a `VirtualLoop` with this clock, as `asyncio.run` does.

        Raises:
            DeadlockError: Nothing could ever run again.
            TimeLimitError: The clock has gone past its limit.
        """
        with asyncio.Runner(debug=debug, loop_factory=lambda: VirtualLoop(self)) as runner:
            return runner.run(main)

    def creep(self) -> None:
        """Move on by one step of the float where a nanosecond no longer shows; called by the loop.

        After 97 days asyncio would else wait for ever for a timer that is due now: it fires what is due before the
        time plus the resolution of the clock, and adding that has no effect on so large a number.
        """
        if self._now + _RESOLUTION == self._now:
            self._now = math.nextafter(self._now, math.inf)

    def reach(self, when: float) -> None:
        """Move on to `when` if the clock shows less; called by the loop before a timer fires.

        asyncio fires what is due within the resolution of its clock, a nanosecond, and a jump may end a rounding step
        too early. Code that finds itself called too early sets the same timer again; on a clock that stands still
        while anything can run it would do so for ever.
        """
        self._now = max(self._now, when)

    def jump(self, seconds: float) -> float | None:
        """Move the clock by `seconds` or by the least that a float can show; called by the loop.

        Returns:
            The limit if it was passed, once; then it holds from there on again, so that the loop can be closed.
        """
        later = self._now + seconds
        self._now = later if later > self._now else math.nextafter(self._now, math.inf)
        self._jumps += 1
        if self._limit is None or self._now <= self._end:
            return None
        self._end = self._now + self._limit
        return self._limit


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time jumps to the next timer when nothing can run.

    No timer fires before its time, not even by a rounding step. Sockets, `call_soon_threadsafe` and executors work. The clock stands still while a job given to
    `run_in_executor` runs; while a thread lives that was started meanwhile, for at most `THREAD_GRACE` real seconds
    in all; and before each jump for `IO_GRACE` real seconds where sockets are watched. Subprocesses are not waited
    for. Where neither timer nor job is left, the loop raises `DeadlockError` out of `run_forever`: at once, or after
    the clock's `stall_timeout` where sockets are watched.

    Args:
        clock: The clock; `None`: a new one that starts at 0.
    """

    def __init__(self, clock: VirtualClock | None = None) -> None:
        self.clock = VirtualClock() if clock is None else clock
        self._jumper = _JumpingSelector(self.clock, self._waiting)
        super().__init__(self._jumper)

    def time(self) -> float:
        """Return what the clock shows."""
        return self.clock.now

    def boot_time(self) -> float:
        """Return the boot time of the clock; asked by `resilient_ws.aio.clocks`."""
        return self.clock.boot

    def boot_id(self) -> str:
        """Return a name for the time in which the boot time of the clock can be compared; asked by `resilient_ws.aio.clocks`."""
        return f"virtual {id(self.clock)}"

    def wall_time(self) -> float:
        """Return the wall time of the clock; asked by `resilient_ws.aio.clocks`."""
        return self.clock.wall

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in asyncio; a delay above 0 that a float can no longer add to the time moves it by one step."""
        now = self.time()
        if delay > 0 and now + delay == now:
            return self.call_at(math.nextafter(now, math.inf), callback, *args, context=context)
        return super().call_later(delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in asyncio; when the timer fires, the clock shows `when` or more."""
        clock = self.clock

        @functools.wraps(callback)
        def fire(*args: *Ts) -> None:
            clock.reach(when)
            callback(*args)

        return super().call_at(when, fire, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As in asyncio; the clock stands still until the result is there."""
        before = set(threading.enumerate())
        future = super().run_in_executor(executor, func, *args)
        self._jumper.job_started(future, set(threading.enumerate()) - before)
        return future

    def _waiting(self) -> list[str]:
        return sorted(repr(task) for task in asyncio.all_tasks(self))


def run_virtual(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine on virtual time: `asyncio.run` with a new `VirtualClock`.

    Raises:
        DeadlockError: Nothing could ever run again.
        TimeLimitError: A week of virtual time has passed.
    """
    return VirtualClock().run(main, debug=debug)


class _JumpingSelector(selectors.BaseSelector):
    """Asks the real selector without waiting; where the loop would wait, the clock jumps instead."""

    def __init__(self, clock: VirtualClock, waiting: Callable[[], list[str]]) -> None:
        self._clock = clock
        self._waiting = waiting
        self._jobs = 0
        self._real = selectors.DefaultSelector()
        self._known_threads = weakref.WeakSet(threading.enumerate())
        self._patience = weakref.WeakKeyDictionary[threading.Thread, float]()

    def job_started(self, job: asyncio.Future[Any], workers: set[threading.Thread]) -> None:
        """Stand still until `job` is done; `workers` were started to do it and then wait for the next."""
        self._jobs += 1
        self._known_threads.update(workers)
        job.add_done_callback(self._job_done)

    def _job_done(self, _: object) -> None:
        self._jobs -= 1

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def select(self, timeout: float | None = None) -> _Ready:
        """Return what is ready; where nothing is, jump by `timeout` (`None`: wait in real time, then give up)."""
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            self._clock.creep()
            return ready
        give_up = time.monotonic() + self._clock.stall_timeout
        while not (ready := self._wait_for_work()):
            if timeout is not None:
                self._jump(timeout)
                break
            if not self._watches_sockets() or time.monotonic() > give_up:
                raise DeadlockError(self._waiting())
        return ready

    def _jump(self, seconds: float) -> None:
        limit = self._clock.jump(seconds)
        if limit is not None:
            raise TimeLimitError(limit, self._waiting())

    def _wait_for_work(self) -> _Ready:
        """Wait in real time for what is under way outside of the loop; return what came of it."""
        while self._jobs or self._has_busy_thread():
            ready = self._real.select(_POLL)
            if ready:
                return ready
        return self._real.select(IO_GRACE if self._watches_sockets() else 0)

    def _watches_sockets(self) -> bool:
        return len(self._real.get_map()) > 1  # one is the loop's own, by which threads wake it

    def _has_busy_thread(self) -> bool:
        """Return whether a thread that was started meanwhile, and belongs to no executor, may be about to call."""
        now = time.monotonic()
        return any(
            self._patience.setdefault(thread, now + THREAD_GRACE) > now
            for thread in threading.enumerate()
            if thread not in self._known_threads
        )
