"""The one task that owns a client's connections: connect, wait for the end, decide, wait, connect again.

Every other task of the client is a child of this one. User code is awaited only through it and through the two lanes
of `resilient_ws.dispatch`. What is done when nothing follows is in `resilient_ws.farewell`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from resilient_ws.clocks import boot_time
from resilient_ws.dial import NotAwaitable
from resilient_ws.ending import Ending, close_event, describe_end, failed_attempt
from resilient_ws.endpoints import Endpoint
from resilient_ws.errors import ClientStopped, OutboxFileError, SetupFailed
from resilient_ws.events import (
    Attempt,
    Failure,
    Fate,
    Gap,
    Lost,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    State,
    Stop,
)
from resilient_ws.farewell import FILE_TIMEOUT, Farewell, finish
from resilient_ws.lifecycle import Fact
from resilient_ws.live import Live
from resilient_ws.opening import AttemptFailed, Interrupted, Opener
from resilient_ws.program import called_apart, enter, is_waited_for_by, must_pass
from resilient_ws.retry import Decision
from resilient_ws.rules import text_of
from resilient_ws.wake import resume

if TYPE_CHECKING:
    from resilient_ws.engine import Engine

DECIDE_TIMEOUT: Final = 10.0
"""Seconds that an async `decide` may take before the default is used."""

log = logging.getLogger("resilient_ws")


class Owner:
    """The task, and what only it knows."""

    __slots__ = (
        "_dials_since_loss",
        "_engine",
        "_farewell",
        "_group",
        "_last_endpoint",
        "_last_failure",
        "_next_at",
        "_opener",
        "_resent",
        "_scope",
        "_starting",
        "_task",
        "_waker",
    )

    def __init__(self, engine: Engine, opener: Opener) -> None:
        self._engine = engine
        self._opener = opener
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._waker: asyncio.Future[None] | None = None
        self._scope: asyncio.Timeout | None = None  # of what `close()` cuts short
        self._starting = False  # a task, which must not take a step before its caller knows of it
        self._last_failure: Failure | None = None
        self._last_endpoint: Endpoint | None = None
        self._next_at: float | None = None  # when the back-off is over, on the loop's clock
        self._dials_since_loss = 0
        self._resent = 0
        self._farewell: Farewell | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Creates the task."""
        self._starting = True
        self._task = loop.create_task(self._own(), name=self._named("owner"))
        self._starting = False

    @property
    def farewell(self) -> Farewell:
        """The end of the client; made when somebody asks, since it is most of its life away."""
        if self._farewell is None:
            assert self._engine.loop is not None
            self._farewell = Farewell(self._engine, self._opener, self._engine.loop)
        return self._farewell

    @property
    def last_endpoint(self) -> Endpoint | None:
        """Where the last attempt led, `None` before the first one."""
        return self._last_endpoint

    @property
    def is_running_here(self) -> bool:
        """Whether the caller is code that this task awaits."""
        return is_waited_for_by(self._task)

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody cancels the task, as `asyncio.run` does with all tasks at its end."""
        return self._task is not None and self._task.cancelling() > 0

    def waits_for(self) -> str:
        """Returns in words what stands between the client and an open connection."""
        engine = self._engine
        if engine.state is State.BACKOFF:
            if self._next_at is None:
                return "the decision whether to connect again"
            return f"the next attempt, in {max(0.0, self._next_at - engine.now()):.1f} s"
        return self._opener.waits_for() or "the outbox file to be read"

    @property
    def last_failure(self) -> Failure | None:
        """Why the last attempt or connection failed."""
        return self._last_failure

    def wake(self) -> None:
        """Something has happened: look again."""
        if self._waker is not None:
            finish(self._waker)
        if self._scope is not None and self._engine.interrupted and not self._scope.expired():
            self._scope.reschedule(self._engine.now())

    def go_on(self) -> None:
        """The task looks again within this call: the last thing that a callback of the loop does."""
        if self._waker is not None:
            resume(self._waker)

    def spawn(self, name: str, function: Callable[[], Awaitable[None]]) -> asyncio.Task[None] | None:
        """Starts a child; `None` before the task runs and after its end."""
        if self._group is None:
            return None
        before, self._starting = self._starting, True
        task = self._group.create_task(self._guarded(name, function), name=self._named(name))
        self._starting = before
        return task

    async def _guarded(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        """Runs a child; a defect in it must be seen, and must not take the other children along."""
        await self._begin()
        try:
            await function()
        except Exception:
            log.exception("the %s task failed", name)

    async def _begin(self) -> None:
        """Waits for the next turn where tasks begin at once (`asyncio.eager_task_factory`)."""
        if self._starting:
            await asyncio.sleep(0)

    def _named(self, name: str) -> str:
        return f"resilient_ws:{self._engine.config.addresses.host}:{name}"

    # ------------------------------------------------------------------------------------------ the task

    async def _own(self) -> None:
        enter()
        await self._begin()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._engine.dispatcher.serve()
                try:
                    await self._live_on()
                except Exception as error:
                    # A defect of ours must end the client aloud, not silently.
                    log.exception("the owner task failed")
                    self.farewell.defect(error)
                await self.farewell.serve_callbacks()
                self._group = None
        finally:
            self._group = None
            if self._engine.loop is not None and not self._engine.loop.is_closed():
                self.farewell.terminate(sys.exception())
                await self.farewell.close_file(FILE_TIMEOUT)

    async def _live_on(self) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        if not engine.interrupted and not await self._load():
            return
        while not engine.interrupted:
            failure = await self._attempt()
            if failure is None:
                # Without a coroutine of its own, which an idle client would hold.
                while engine.ending is None and not engine.interrupted:
                    await self._next_waking(loop)
            ending = engine.ending
            if ending is not None:
                failure = ending.failure(engine.retry.next_failure_number(ending.opened_for))
            if failure is not None and not engine.interrupted:
                decision = await self._decide(failure, ending)
                if decision.stop and not engine.interrupted:
                    self.farewell.give_up(failure, decision, ending)
                    return
                if not engine.interrupted:
                    self._tell_retry(failure, decision, ending)
                    if ending is not None:
                        self._last_failure = ending.failure(failure.attempt, engine.last_close)
                    await self._back_off(decision.delay)
                    continue
            if ending is not None:
                self.farewell.as_asked(ending)
                return
        await self.farewell.say_goodbye(self._sleep, self.wake)

    async def _load(self) -> bool:
        """Takes over what an earlier client left in the outbox file; `False` = it cannot be used, which is the end."""
        engine = self._engine
        try:
            async with asyncio.timeout(None) as self._scope:
                for entry, fate in await engine.sender.load():
                    engine.teller.tell_fate(entry, fate)
                engine.tell_clock()
        except TimeoutError:
            return True  # `close()` has cut it short
        except OutboxFileError as error:
            if engine.closing is not None:
                engine.failed("outbox", error)
            engine.step(Fact.FAILED)
            stopped = ClientStopped(f"the client has ended: {error}")
            self.farewell.stop(stopped, error, "outbox-file")
            return False
        finally:
            self._scope = None
        engine.sender.fates_told()
        return True

    async def _attempt(self) -> Failure | None:
        """Makes one attempt; returns why it failed, or `None` when the connection is open (or `close()` came)."""
        engine = self._engine
        number = engine.retry.dialing(boot_time())
        engine.tally.attempts += 1
        self._dials_since_loss += 1
        last = self._last_failure
        attempt = Attempt(
            number=number,
            endpoint=self._last_endpoint,
            last_failure=last,
            last_close=engine.last_close,
        )
        try:
            live = await self._opener.open(engine.retry.endpoint, attempt, first=not engine.tally.opens)
        except Interrupted:
            return None
        except AttemptFailed as failed:
            engine.step(Fact.FAILED)
            self._last_failure = failed_attempt(failed, engine.retry.next_failure_number(None))
            if failed.endpoint is not None:
                self._last_endpoint = failed.endpoint
            if isinstance(failed.error, SetupFailed) and failed.error.__cause__ is not None:
                engine.teller.tell_failure("setup", failed.error.__cause__, level=logging.WARNING)
            elif failed.endpoint is None and failed.error.__cause__ is not None:
                engine.teller.log_raised("the URL provider", failed.error.__cause__, level=logging.WARNING)
            if engine.first_error is None:
                engine.first_error = failed.error
            return self._last_failure
        assert live.link is not None
        self._last_endpoint = live.link.endpoint
        self._opened(live, number)
        return None

    def _opened(self, live: Live, number: int) -> None:
        """The connection is set up: says so, and lets messages through in both directions."""
        engine = self._engine
        link, writer, pinger = live.link, live.writer, live.pinger
        assert link is not None
        assert writer is not None
        assert pinger is not None
        first = not engine.tally.opens
        engine.tally.opens += 1
        engine.live = live
        engine.inbox.is_connected = True
        live.opened_at = boot_time()
        engine.retry.opened()
        engine.step(Fact.OPENED)
        engine.tell(
            OpenEvent(
                attempt=number,
                endpoint=link.endpoint,
                subprotocol=link.subprotocol,
                headers=link.headers,
                first=first,
                transport=str(getattr(link, "transport", "")),  # a transport of the program may not say
            )
        )
        close = engine.last_close
        if close is not None and engine.lost_at is not None:
            downtime = live.opened_at - engine.lost_at
            engine.inbox.gap(Gap(close=close, downtime=downtime))
            engine.tell(
                ReconnectEvent(
                    attempts=self._dials_since_loss,
                    downtime=downtime,
                    close=close,
                    resent=self._resent,
                    uncertain=close.uncertain - self._resent,
                    endpoint=link.endpoint,
                )
            )
        self._dials_since_loss = 0
        engine.answer_ready(is_open=True)
        live.deliver_to(engine.inbox)
        engine.sender.attach(writer, pinger, confirming=engine.config.confirms)
        if engine.inbox.paused:
            link.pause()
        else:
            link.resume()  # the set-up may have left it paused

    async def _decide(self, failure: Failure, ending: Ending | None) -> Decision:
        engine = self._engine
        if engine.config.fail_fast and not engine.tally.opens and not isinstance(failure.error, Stop):
            return Decision(stop=True, rule=text_of("fail-fast"), rule_id="fail-fast")
        if isinstance(failure.error, NotAwaitable):
            rule = text_of("cannot-heal", why=str(failure.error))
            return Decision(stop=True, rule=rule, rule_id="cannot-heal")
        decide = engine.config.reconnect.decide if engine.config.reconnect is not None else None
        verdict: object = None
        if decide is not None:
            try:
                verdict = decide(failure)
                if isinstance(verdict, Awaitable):
                    async with asyncio.timeout(DECIDE_TIMEOUT) as self._scope:
                        verdict = await called_apart(verdict)
            except Stop as stop:
                verdict = stop
            except BaseException as error:  # the program's code must not end the client
                if must_pass(error):
                    raise
                if not engine.interrupted:  # then `close()` has cut it short, and nobody asks any more
                    if isinstance(error, TimeoutError) and self._scope is not None and self._scope.expired():
                        error = TimeoutError(f"decide took longer than {DECIDE_TIMEOUT:g} s")
                    engine.failed("decide", error)
                verdict = None
            finally:
                self._scope = None
        lost_at = ending.at if ending is not None else None
        turns = engine.turns
        assert turns is not None
        decision = engine.retry.failed(
            failure,
            boot_time(),
            verdict,
            lost_at=lost_at,
            held=turns.held,
            excused=ending is not None and ending.excused,
        )
        turns.failed(failure, decision)
        settled = getattr(engine.config.transport, "settled", None)
        if settled is not None:
            settled(stable=engine.retry.was_stable(failure))
        for where, problem in decision.errors:
            engine.failed(where, problem)
        return decision

    async def _back_off(self, delay: float) -> None:
        engine = self._engine
        if not delay:
            await asyncio.sleep(0)  # the callbacks hear of the end before the dial: half the time for them
        self._next_at = until = engine.now() + delay
        await self._sleep(until, lambda: engine.interrupted or engine.hurried)
        if engine.hurried:
            earliest = engine.now() + engine.retry.redial_in(boot_time())
            await self._sleep(min(until, earliest), lambda: engine.interrupted)
        self._next_at = None
        engine.hurried = False
        if not engine.interrupted:
            engine.step(Fact.DIALED)

    async def _sleep(self, until: float | None, done: Callable[[], bool]) -> None:
        """Waits for the clock, or for what `wake` announces."""
        loop = asyncio.get_running_loop()
        while not done() and (until is None or loop.time() < until):
            waker = self._next_waking(loop)
            timer = loop.call_at(until, finish, waker) if until is not None else None
            try:
                await waker
            finally:
                if timer is not None:
                    timer.cancel()

    def _next_waking(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Returns what is done when something has happened."""
        self._waker = waker = loop.create_future()
        return waker

    def _tell_retry(self, failure: Failure, decision: Decision, ending: Ending | None) -> None:
        engine = self._engine
        engine.ending = None
        if ending is not None:
            rule = decision.rule if ending.hint is None else f"{decision.rule}; {ending.hint}"
            close = close_event(
                ending, will_retry=True, retry_in=decision.delay, rule=rule, rule_id=decision.rule_id
            )
            engine.last_close = close
            self._resent = ending.resent
            engine.inbox.lost(Lost(close))
            engine.tell(close)
            for entry in ending.uncertain:
                engine.teller.tell_fate(entry, Fate.UNCERTAIN)
            engine.sender.fates_told()
        retry = RetryEvent(
            attempt=engine.retry.failures,
            delay=decision.delay,
            cause=failure.error if failure.error is not None else describe_end(failure.close),
            rule=decision.rule,
            rule_id=decision.rule_id,
        )
        engine.teller.tell(retry, logged=ending is None)  # the close has said it already
