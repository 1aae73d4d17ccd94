"""A peer, a path and our own loop on simulated time, to drive a heartbeat monitor through whatever may happen."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from resilient_ws.api.options import Heartbeat
from resilient_ws.core.heartbeat import HeartbeatMonitor, Reading

PING_SIZE = 36
FRAME = 40
KERNEL_ROOM = 4_000


@dataclass
class Story:
    """What happens. Times are seconds from the opening; spans are (from, to), in order and apart."""

    options: Heartbeat
    linux: bool = True  # whether the kernel tells about bytes
    latency: float = 0.01  # from the moment a ping has left to the arrival of its answer
    rate: float = 100_000.0  # bytes a second that leave us
    uploads: list[tuple[float, int]] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)  # when a data message arrives
    trickle: tuple[float, float, float] | None = None  # a huge frame: from, to, seconds between its bytes
    pauses: list[tuple[float, float]] = field(default_factory=list)
    told_resumption: bool = True  # whether readings say when reading went on
    look_on_resume: bool = False
    stuck_while_paused: bool = False  # the peer reads nothing while we do not: its window is closed
    blocks: list[tuple[float, float]] = field(default_factory=list)
    timers_first: bool = False  # as uvloop does: the timers of a turn before its sockets
    sleeps: list[tuple[float, float]] = field(default_factory=list)  # when, and how long TCP takes to recover
    vanished_at: float = math.inf  # nothing reaches us or is acknowledged any more
    stopped_at: float = math.inf  # the peer's process stands still, its kernel acknowledges
    deaf_at: float = math.inf  # nothing reaches the peer any more, it talks on
    answers: bool = True
    until: float = 60.0


class Simulation:
    """Runs a `Story`; afterwards `died_at`, `cause` and the facts tell what came of it."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.now = 0.0
        self.died_at: float | None = None
        self.cause = ""
        self.hint: str | None = None
        self.looks = 0
        self.pings: list[float] = []
        self.left_at: list[float] = []  # when ping n + 1 had left
        self.moved_at = 0.0
        self.arrived_at = 0.0  # at our kernel
        self.read_at = 0.0  # by us
        self.trips: list[float] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._drained = 0.0
        self._written = 0
        self._path: deque[tuple[float, int]] = deque()  # pings on their way: where they end, which they are
        self._bytes = self._frames = self._messages = 0
        self._message_at = 0.0
        self._paused = False
        self._resumed_at = -math.inf
        self._unread: deque[Callable[[], None]] = deque()
        self._held: deque[tuple[int, Callable[[], None]]] = (
            deque()
        )  # waits at the peer for room in our kernel
        self._backlog = 0
        self._blocked_until = 0.0
        self._stalled_until = 0.0  # TCP recovers from our sleep
        self._suspended = 0.0
        self._plan()
        self.monitor = HeartbeatMonitor(story.options, 0.0, self.reading())

    # --- the course of things ---

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), what))

    def _plan(self) -> None:
        story = self.story
        for start, end in story.blocks:
            self._at(start, lambda end=end: self._block(end))
        for when, size in story.uploads:
            self._at(when, lambda size=size: self._write(size))
        for when in story.messages:
            self._at(when, self._peer_talks)
        if story.trickle is not None:
            start, end, step = story.trickle
            for index in range(int((end - start) / step) + 1):
                self._at(start + index * step, lambda: self._arrive(1, lambda: None))
        for start, end in story.pauses:
            self._at(start, self._pause)
            self._at(end, self._resume)
        for when, recovery in story.sleeps:
            self._at(when, lambda recovery=recovery: self._sleep(recovery))

    def run(self) -> "Simulation":
        while self.died_at is None:
            wake = max(self.monitor.deadline, self._blocked_until)
            step = min(wake, self._next_event(), self._next_departure())
            if step > self.story.until:
                break
            self._flow(step)
            if self._path and self._path[0][0] <= self._drained + 1e-6:
                self._depart()
            elif (
                self._agenda and self._agenda[0][0] <= step and not (self.story.timers_first and wake <= step)
            ):
                heapq.heappop(self._agenda)[2]()
            elif wake <= step:
                self._look()
            elif self._agenda and self._agenda[0][0] <= step:
                heapq.heappop(self._agenda)[2]()
        return self

    def _next_event(self) -> float:
        return self._agenda[0][0] if self._agenda else math.inf

    # --- our bytes ---

    @property
    def _flows(self) -> bool:
        """Whether what we write leaves and is acknowledged."""
        shut = self._paused and self.story.stuck_while_paused
        return self.now < min(self.story.vanished_at, self.story.deaf_at) and not shut

    def _next_departure(self) -> float:
        if not self._path or not self._flows:
            return math.inf
        return self.now + max(0.0, self._path[0][0] - self._drained) / self.story.rate

    def _flow(self, to: float) -> None:
        if self._flows:
            ends = min(to, self.story.vanished_at, self.story.deaf_at)
            before = self._drained
            self._drained = min(float(self._written), before + max(0.0, ends - self.now) * self.story.rate)
            if self._drained > before:
                self.moved_at = ends
        self.now = max(self.now, to)

    def _write(self, size: int) -> None:
        self._written += size

    def _send_ping(self) -> None:
        self._write(PING_SIZE)
        self.pings.append(self.now)
        self._path.append((float(self._written), len(self.pings)))
        self.monitor.ping_sent(len(self.pings), self.now, self.reading())
        assert self.monitor.deadline > self.now

    def _depart(self) -> None:
        end, number = self._path.popleft()
        self._drained = max(self._drained, end)
        self.left_at.append(self.now)
        if self.story.answers and self.now < self.story.stopped_at:
            self._at(self.now + self.story.latency, lambda: self._arrive(FRAME, lambda: self._pong(number)))

    # --- what comes in ---

    def _peer_talks(self) -> None:
        self._arrive(FRAME, self._message)

    def _arrive(self, size: int, read: Callable[[], None]) -> None:
        if self.now >= min(self.story.vanished_at, self.story.stopped_at):
            return
        if self.now < self._stalled_until:
            self._at(self._stalled_until, lambda: self._arrive(size, read))
            return
        if self._held or self._backlog + size > KERNEL_ROOM:
            self._held.append((size, read))
            return
        self._bytes += size
        self.arrived_at = self.now
        self._unread.append(read)
        if self._paused or self.now < self._blocked_until:
            self._backlog += size
        else:
            self._read()

    def _read(self) -> None:
        self._backlog = 0
        while self._unread:
            self.read_at = self.now
            self._frames += 1
            self._unread.popleft()()
        held, self._held = self._held, deque()
        for size, read in held:  # now that there is room, a round trip later
            self._at(self.now + self.story.latency, lambda size=size, read=read: self._arrive(size, read))

    def _message(self) -> None:
        self._messages += 1
        self._message_at = self.now

    def _pong(self, number: int) -> None:
        trip = self.monitor.pong(number, self.now)
        if trip is not None:
            self.trips.append(trip)
        assert self.monitor.deadline > self.now

    # --- our own doing ---

    def _pause(self) -> None:
        self._paused = True

    def _resume(self) -> None:
        self._paused = False
        self._resumed_at = self.now
        if self.now >= self._blocked_until:
            self._read()
            if self.story.look_on_resume:
                self._look()

    def _block(self, end: float) -> None:
        self._blocked_until = end
        self._at(end, lambda: None if self._paused else self._read())

    def _sleep(self, recovery: float) -> None:
        self._suspended += 600.0
        self._stalled_until = self.now + recovery

    def reading(self) -> Reading:
        linux = self.story.linux
        pending = math.ceil(self._written - self._drained)
        return Reading(
            received=self._bytes if linux else self._frames,
            received_at=self.arrived_at if linux else self.read_at,
            message_at=self._message_at,
            messages=self._messages,
            left=math.floor(self._drained),
            pending=pending,
            acknowledged=linux,
            paused=self._paused,
            in_flight=(pending if not (self._paused and self.story.stuck_while_paused) else 0)
            if linux
            else None,
            resumed_at=self._resumed_at if self.story.told_resumption else -math.inf,
        )

    def _look(self) -> None:
        self.looks += 1
        slept, self._suspended = self._suspended, 0.0
        verdict = self.monitor.look(self.now, self.reading(), suspended=slept)
        assert self.monitor.deadline > self.now
        if verdict.dead is not None:
            self.died_at, self.cause, self.hint = self.now, verdict.dead, verdict.hint
        elif verdict.ping:
            self._send_ping()
