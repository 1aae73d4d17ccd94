"""The heartbeat of one connection: it sends pings, and reports which messages the peer has read.

It carries out what `resilient_ws.core.heartbeat` decides, and asks for the confirmations that `resilient_ws.core.delivery` needs.
One loop timer serves both; it is re-armed lazily and finds out when it fires whether it fired too early.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import attrs

from resilient_ws.aio.clocks import boot_time
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.message import Message
from resilient_ws.api.options import Heartbeat
from resilient_ws.connection.app_pings import AppPings
from resilient_ws.connection.writer import Writer
from resilient_ws.core.delivery import DeliveryQueue, Entry
from resilient_ws.core.evidence import FirstPing, Reading, has_left, with_ping
from resilient_ws.core.heartbeat import HeartbeatMonitor
from resilient_ws.transports.seam import Link

_TAG: Final = struct.Struct("!4sI")
_TAG_MASK: Final = 0xFFFFFFFF
PING_SIZE: Final = 2 + 4 + _TAG.size
"""Bytes of a ping: head, mask and tag (RFC 6455 5.2)."""

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for the first PONG where no heartbeat gives a timeout."""

HALVES: Final = 2
"""Halves of that time in which messages must come for the peer to be one that talks and answers no ping."""

EARLY: Final = 0.001
"""Seconds that a timer may fire too early: uvloop counts in milliseconds."""

REAL: Final = 60.0
"""Seconds between the time of a foreign event loop and the system's within which they are the same clock."""

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

MAX_ANSWERERS: Final = 64
"""Endpoints of a client of which it is remembered that a ping was answered."""

MAX_OUTSTANDING: Final = 64
"""Unanswered pings that are remembered, for a peer that never answers."""


class Watcher(Protocol):
    """What a pinger tells."""

    def dead(self, cause: str, hint: str | None, rule_id: str, /) -> None:
        """Give up the connection: the heartbeat declared it dead."""

    def confirmed(self, entries: Sequence[Entry], /) -> None:
        """Handle messages confirmed by a PONG; `entries` are those with a waiter."""

    def confirmation_off(self, entries: Sequence[Entry], /) -> None:
        """Handle a peer that answers no ping; `entries` are the written messages with a waiter."""

    def confirmation_on(self) -> None:
        """Handle an answered ping after confirmation was turned off."""

    def failed(self, where: str, error: BaseException, /) -> None:
        """User code raised."""

    def broken(self, error: BaseException, /) -> None:
        """Give up the connection after a defect in the pinger."""


class Answerers:
    """The endpoints whose peers have answered a ping of a client, over all its connections.

    A peer that has answered once and does so no more has not read what was sent; one that never did may not know how.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: tuple[str, ...] = ()  # the oldest first; few, and most clients have one

    def knows(self, endpoint: Endpoint, kind: str) -> bool:
        """Return whether a ping of this `kind` was answered there."""
        return _place(endpoint, kind) in self._known

    def note(self, endpoint: Endpoint, kind: str) -> None:
        """Note that a ping of this `kind` was answered at that address."""
        place = _place(endpoint, kind)
        if place not in self._known:
            self._known = (*self._known[-MAX_ANSWERERS + 1 :], place)


def _place(endpoint: Endpoint, kind: str) -> str:
    """Return what says which peer it is: scheme, host, port and path; a query may hold a token that changes."""
    url = endpoint.url
    return sys.intern(
        f"{kind} {url.scheme}://{url.raw_host}:{url.port}{url.raw_path}"
    )  # many clients have the same


class Pinger:
    """Pings, verdicts and confirmations of one connection.

    Args:
        link: The connection.
        writer: Its way out, for pings that are messages of the application.
        queue: Whose written messages a PONG confirms.
        heartbeat: `None` = no pings and no verdicts of its own.
        confirm_interval: Seconds between two pings for confirmation.
        is_paused: Whether our own inbox has stopped the reading.
        answerers: Remembers which peers answer.
        watcher: Is told of verdicts.
    """

    __slots__ = (
        "_ahead_of_real",
        "_answered",
        "_answerers",
        "_app",
        "_confirm_at",
        "_confirm_interval",
        "_doubted",
        "_due",
        "_first",
        "_heartbeat",
        "_is_paused",
        "_known",
        "_last_ping",
        "_link",
        "_loop",
        "_monitor",
        "_number",
        "_only_asks",
        "_others",
        "_outstanding",
        "_prefix",
        "_queue",
        "_stopped",
        "_stopwatch",
        "_timer",
        "_wanted",
        "_watcher",
        "_writer",
        "latency",
    )

    def __init__(
        self,
        link: Link,
        writer: Writer,
        queue: DeliveryQueue,
        *,
        heartbeat: Heartbeat | None,
        confirm_interval: float,
        is_paused: Callable[[], bool],
        answerers: Answerers,
        watcher: Watcher,
    ) -> None:
        self._link = link
        self._writer = writer
        self._queue = queue
        self._heartbeat = heartbeat
        self._confirm_interval = confirm_interval
        self._is_paused = is_paused
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._stopwatch = _stopwatch(self._loop)
        now = self._loop.time()
        self._answerers = answerers
        self._known = answerers.knows(link.endpoint, "ping")  # to answer PINGs
        self._monitor: HeartbeatMonitor | None = None
        if heartbeat is not None:
            self._monitor = self._make_monitor(heartbeat, link.look(paused=False))
        self._prefix = os.urandom(4)
        self._number = 0
        self._outstanding: list[tuple[int, int, float]] = []  # number, mark, when it was written
        self._only_asks = False  # whether the last ping is the question at OPEN, with which no silence begins
        self._first: FirstPing | None = None  # while it is not answered
        self._last_ping = now
        self._confirm_at: float | None = None
        self._wanted = False
        self._others = 0  # PONGs that answer none of our pings
        self._app: AppPings | None = None
        self._answered = False
        self._doubted = False  # confirmation was switched off, since no ping was answered
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._stopped = False
        self._ahead_of_real = _suspend_clock(self._loop)
        self.latency: float | None = None
        self._use_app()
        self._arm()

    @property
    def silent_for(self) -> float:
        """Seconds since something came from the peer, what we have not read included; costs two system calls."""
        return max(0.0, self._loop.time() - self._link.look(paused=False).received_at)

    def use(self, heartbeat: Heartbeat) -> None:
        """Go on with other options: a gateway has told its interval."""
        self._heartbeat = heartbeat
        self._monitor = self._make_monitor(heartbeat, self._look_at_link())
        self._use_app()
        self._arm()

    def _make_monitor(self, heartbeat: Heartbeat, reading: Reading) -> HeartbeatMonitor:
        answers = self._known
        if heartbeat.kind == "app":
            answers = self._answerers.knows(self._link.endpoint, "app")
        return HeartbeatMonitor(heartbeat, self._loop.time(), reading, answers=answers)

    def _use_app(self) -> None:
        heartbeat = self._heartbeat
        if heartbeat is None:
            return
        if self._app is None:
            if heartbeat.kind != "app" and heartbeat.answer is None:
                return
            clock, failed = self._loop.time, self._watcher.failed
            self._app = AppPings(
                heartbeat,
                self._writer,
                clock=clock,
                stopwatch=self._stopwatch,
                told=self._app_pinged,
                unable=self._app_failed,
                failed=failed,
            )
        self._app.heartbeat = heartbeat

    def stop(self) -> None:
        """End the timer; nothing is told afterwards."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def opened(self) -> None:
        """Send the first ping of an open connection, to learn whether and how fast the peer answers.

        It is a question only: a peer that is silent from the start is judged after the next ping.
        """
        if self._is_pinging and not self._outstanding and not self._stopped:
            self._ping(only_asks=True)
            self._arm()

    # --- confirmations ---

    def wrote(self) -> None:
        """Something was written that no ping covers; sees to it that one will. Called once a loop turn at most."""
        if self._stopped or not self._queue.confirming:
            return
        try:
            self._cover()
        except Exception as error:  # noqa: BLE001 - as in `_fired`
            self._watcher.broken(error)

    def _cover(self) -> None:
        if self._queue.needs_ping:
            self.want()
        elif self._confirm_at is not None:
            return
        elif self._is_waiting:
            if self._again_due is not None:
                self._arm()
        elif self._queue.unmarked:
            self._confirm_at = self._last_ping + self._confirm_interval
            if self._confirm_at <= self._loop.time():
                self._ping()
            self._arm()

    def want(self) -> None:
        """Send a confirming ping at once, or when the one in flight is answered: a call waits for it."""
        if self._stopped or not self._queue.confirming:
            return
        try:
            if self._is_waiting:
                self._wanted = True
                self._arm()
            elif self._queue.unmarked:
                self._ping()
                self._arm()
        except Exception as error:  # noqa: BLE001 - as in `_fired`
            self._watcher.broken(error)

    @property
    def _is_waiting(self) -> bool:
        """Whether a ping is in flight; the one that went out at OPEN delays no other."""
        return bool(self._outstanding) and not self._only_asks

    def farewell(self) -> None:
        """Send a last ping before CLOSE if it would confirm something."""
        if not self._stopped and self._queue.confirming and self._queue.unconfirmed:
            self._ping()

    def pong(self, payload: bytes) -> None:
        """Handle a PONG; only one with a tag of this connection counts (RFC 6455 5.5.3)."""
        if self._stopped:
            return
        try:
            self._take_pong(payload)
        except Exception as error:  # noqa: BLE001 - as in `_fired`
            self._watcher.broken(error)

    def _take_pong(self, payload: bytes) -> None:
        prefix, tag = _TAG.unpack(payload) if len(payload) == _TAG.size else (b"", 0)
        number = self._number - ((self._number - tag) & _TAG_MASK)  # the latest ping with that tag
        if self._doubted and prefix == self._prefix and 1 <= number <= self._number:
            self._doubted = False
            self._watcher.confirmation_on()
        if (
            prefix != self._prefix
            or not self._outstanding
            or not self._outstanding[0][0] <= number <= self._number
        ):
            self._others += 1
            return
        mark, written_at, answered = 0, 0.0, 0
        while self._outstanding and self._outstanding[0][0] <= number:
            answered, mark, written_at = self._outstanding.pop(0)
        self._answered = True
        self._first = None
        self._only_asks = False
        if not self._known:
            self._known = True
            self._answerers.note(self._link.endpoint, "ping")
        if answered == number and (self._heartbeat is None or self._heartbeat.kind != "app"):
            self.latency = self._stopwatch() - written_at
        if self._monitor is not None and self._is_pinging:
            self._monitor.pong(number, self._loop.time())
        if mark:
            self._watcher.confirmed(self._queue.confirm(mark))
        if self._stopped:
            return
        if self._wanted and not self._outstanding:
            self._wanted = False
            self.want()
        self.wrote()
        if not self._outstanding:
            self._arm(later=True)

    @property
    def takes_messages(self) -> bool:
        """Whether `answers` and `is_reply` are to be asked about each message."""
        return self._app is not None

    def answers(self, message: Message) -> bool:
        """Answer `message` if it is a ping of the server's own protocol; return whether it was."""
        return self._app is not None and self._app.answer(message)

    def is_reply(self, message: Message) -> bool:
        """Return whether `message` answers a ping of the application's own protocol; then it is consumed."""
        app = self._app
        if app is None or self._monitor is None or not app.is_reply(message):
            return False
        if not self._monitor.answered:
            self._answerers.note(self._link.endpoint, "app")
        if self._monitor.pong(app.answered, self._loop.time()) is not None:
            self.latency = self._stopwatch() - app.written_at
        return True

    def note_data(self) -> None:
        """Handle a message that is not a reply, known without calling `is_reply`."""
        if self._app is not None:
            self._app.note_data()

    @property
    def _is_pinging(self) -> bool:
        return self._heartbeat is not None and self._heartbeat.kind == "ping"

    # --- pings ---

    def _ping(self, seen: Reading | None = None, *, only_asks: bool = False) -> None:
        """Write a PING that covers what has been written whole.

        Args:
            only_asks: Whether no silence begins with it.
            seen: What the connection showed just now, which spares another look, of two system calls, where nothing
                stands in the way.
        """
        if self._writer.lane.held:
            seen = None
        self._writer.flush()
        if self._stopped:  # writing what was held has failed
            return
        self._number += 1
        now = self._loop.time()
        mark = self._queue.mark() if self._queue.confirming else 0
        self._outstanding.append((self._number, mark, self._stopwatch()))
        if len(self._outstanding) > MAX_OUTSTANDING:
            del self._outstanding[0]  # a later PONG covers what it covered
        self._last_ping = now
        self._confirm_at = None
        self._link.ping(_TAG.pack(self._prefix, self._number & _TAG_MASK))
        reading = with_ping(seen, PING_SIZE) if seen is not None else None
        if reading is None:
            reading = self._look_at_link()
        self._only_asks = only_asks
        if self._first is None and not self._answered and not self._known:
            self._first = FirstPing(reading, now + self._half_timeout)
        if self._monitor is not None and self._is_pinging:
            self._monitor.ping_sent(self._number, now, reading, asks_only=only_asks)

    def _app_pinged(self) -> None:
        app = self._app
        if app is not None and self._monitor is not None and not self._stopped:
            reading = self._look_at_link()
            self._monitor.ping_sent(app.number, self._loop.time(), reading, stands=app.stands)
            self._arm()

    def _app_failed(self) -> None:
        """No ping of the application can be made: a PING asks instead, since silence of a peer that is not asked proves nothing."""
        if self._monitor is not None and not self._stopped:
            self._ping()
            if not self._stopped:
                self._monitor.asked(self._loop.time(), self._look_at_link())
                self._arm()

    # --- the timer ---

    def _arm(self, *, later: bool = False) -> None:
        """Make sure that the timer fires at the earliest deadline, or earlier.

        Args:
            later: Whether it is to fire no earlier, since there was an answer: a timer that fires for nothing is a
                turn of the loop for nothing, a third of those of an idle connection.
        """
        if self._stopped:
            return
        deadline = self._monitor.deadline if self._monitor is not None else None
        for other in (self._confirm_at, self._first_look_due, self._again_due):
            if other is not None and (deadline is None or other < deadline):
                deadline = other
        if deadline is None:
            return
        if self._timer is not None:
            if self._due == deadline or (self._due < deadline and not later):
                return
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._fired)

    @property
    def _half_timeout(self) -> float:
        return (self._heartbeat.timeout if self._heartbeat is not None else DEFAULT_TIMEOUT) / 2

    @property
    def _first_look_due(self) -> float | None:
        """When to look again whether the first ping of the connection will ever be answered."""
        return self._first.look_at if self._first is not None and self._queue.confirming else None

    @property
    def _again_due(self) -> float | None:
        """When to ask again, since the last ping was not answered: where a heartbeat pings, it does that."""
        if self._is_pinging or not self._outstanding or not self._queue.confirming:
            return None
        return self._last_ping + DEFAULT_TIMEOUT if self._queue.unconfirmed else None

    def _look_at_link(self) -> Reading:
        """Return what the link shows; a PONG that answers none of our pings is a word as a message is, a reply is not data."""
        reading = self._link.look(paused=self._is_paused())
        app, messages = self._app, reading.messages + self._others
        if app is not None:
            spoke_at = reading.message_at
            return attrs.evolve(reading, messages=messages, message_at=app.data_at, spoke_at=spoke_at)
        return attrs.evolve(reading, messages=messages) if self._others else reading

    def _fired(self) -> None:
        """Without this timer no death is noticed: an exception ends the connection, and is never the timer's silent end."""
        self._timer = None
        try:
            self._act_in_time()
        except Exception as error:  # noqa: BLE001 - see above
            self._watcher.broken(error)
        finally:
            if self._timer is None:
                self._arm()  # also where the process is to end, and something keeps it from that

    def _act_in_time(self) -> None:
        now = self._loop.time()
        look_due = self._first_look_due
        if self._first is not None and look_due is not None and now >= look_due:
            self._doubt(self._first, now)
        if self._stopped:
            return
        monitor = self._monitor
        if monitor is not None and now + EARLY >= monitor.deadline:
            self._look(monitor, now)
        if self._stopped:
            return
        if self._confirm_at is not None and now >= self._confirm_at:
            self._confirm_at = None
            if self._queue.unmarked and not self._is_waiting:
                self._ping()
        again_due = self._again_due
        if again_due is not None and now >= again_due:
            self._ping()
        self._arm()

    def _look(self, monitor: HeartbeatMonitor, now: float) -> None:
        drift = _suspend_clock(self._loop)
        suspended, self._ahead_of_real = drift - self._ahead_of_real, drift
        reading = self._look_at_link()
        verdict = monitor.look(now, reading, suspended=suspended)
        if verdict.dead is not None:
            self._watcher.dead(verdict.dead, verdict.hint, verdict.rule_id or "")
        elif verdict.ping:
            if self._app is not None and not self._is_pinging:
                self._app.ask()
            else:
                self._ping(reading)

    def _doubt(self, first: FirstPing, now: float) -> None:
        """Turn confirmation off for this connection once the peer has talked for the timeout and not answered.

        A burst of messages just behind the ping does not say that the peer has read it: the line may be dead since, and
        what was written on it is unconfirmed for good reason. Where no heartbeat would ever judge, silence counts too.
        """
        reading = self._look_at_link()
        talks = reading.messages > first.messages and has_left(first.target, reading)
        if not reading.paused and (talks or self._monitor is None):
            first.halves += 1
        if first.halves < HALVES:
            first.messages, first.look_at = reading.messages, now + self._half_timeout
            return
        self._first = None
        self._answered = True
        self._outstanding.clear()
        self._doubted = True
        self._watcher.confirmation_off(self._queue.turn_off())


def _stopwatch(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock for round trips: that of the loop may have steps of 1 ms (uvloop) or 16 ms (Windows).

    A loop that shows a time of its own, as `resilient_ws.testing.VirtualLoop` does, is believed.
    """
    if isinstance(loop, asyncio.BaseEventLoop):
        is_real = type(loop).time is asyncio.BaseEventLoop.time
    else:
        is_real = abs(loop.time() - time.monotonic()) < REAL
    return time.perf_counter if is_real else loop.time


def _suspend_clock(loop: asyncio.AbstractEventLoop) -> float:
    """Return how far the clock that counts suspension is ahead of the one that does not; its growth is sleep."""
    if hasattr(loop, "boot_time"):  # as `resilient_ws.testing.VirtualLoop` has
        return boot_time() - loop.time()
    if _BOOTTIME is not None:  # asked at each look, so without the calls of `boot_time`
        return time.clock_gettime(_BOOTTIME) - time.monotonic()
    return boot_time() - time.monotonic()
