"""The one task that owns a client's connections: connect, wait for the end, decide, wait, connect again; and the end.

Every other task of the client is a child of this one. User code is awaited only through it and through the two lanes
of `resilient_ws.dispatch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import attrs

from resilient_ws.closing import CloseCode, CloseOrigin
from resilient_ws.dispatch import is_being_cancelled
from resilient_ws.ending import Ending, close_event, describe_end, failed_attempt, final_event
from resilient_ws.errors import ClientClosed, ClientStopped, OutboxFileError, RetriesExhausted, SetupFailed
from resilient_ws.events import (
    Attempt,
    CloseEvent,
    Failure,
    Fate,
    Gap,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    State,
    Stop,
)
from resilient_ws.lifecycle import Fact
from resilient_ws.live import Live
from resilient_ws.opening import AttemptFailed, Interrupted, Opener
from resilient_ws.retry import Decision
from resilient_ws.transports.base import End

if TYPE_CHECKING:
    from resilient_ws.engine import Engine

DECIDE_TIMEOUT: Final = 10.0
"""Seconds that an async `decide` may take before the default is used."""

LAST_TURNS: Final = 0.1
"""Seconds that a cancelled callback has for its own clean-up."""

FILE_TIMEOUT: Final = 1.0
"""Seconds for closing the outbox file when the owner task was cancelled."""

log = logging.getLogger("resilient_ws")


class Owner:
    """The task, and what only it knows."""

    def __init__(self, engine: Engine, opener: Opener) -> None:
        loop = asyncio.get_running_loop()
        self._engine = engine
        self._opener = opener
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._waker: asyncio.Future[None] | None = None
        self._scope: asyncio.Timeout | None = None  # of what `close()` cuts short
        self._last_failure: Failure | None = None
        self._dials_since_loss = 0
        self._resent = 0
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the state is CLOSED."""
        self.finished: asyncio.Future[None] = loop.create_future()
        """Done when the callbacks have run, too."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Creates the task."""
        self._task = loop.create_task(self._own(), name=self._named("owner"))

    @property
    def is_running_here(self) -> bool:
        """Whether the caller is code that this task awaits."""
        return self._task is not None and asyncio.current_task() is self._task

    def wake(self) -> None:
        """Something has happened: look again."""
        if self._waker is not None:
            _finish(self._waker)
        if self._scope is not None and self._engine.interrupted and not self._scope.expired():
            self._scope.reschedule(self._engine.now())

    def spawn(self, name: str, function: Callable[[], Awaitable[None]]) -> asyncio.Task[None] | None:
        """Starts a child; `None` before the task runs and after its end."""
        if self._group is None:
            return None
        return self._group.create_task(_guarded(name, function), name=self._named(name))

    def _named(self, name: str) -> str:
        return f"resilient_ws:{self._engine.config.addresses.host}:{name}"

    # ------------------------------------------------------------------------------------------ the task

    async def _own(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._engine.dispatcher.serve()
                try:
                    await self._live_on()
                except Exception as error:
                    # A defect of ours must end the client aloud, not silently.
                    log.exception("the owner task failed")
                    self._engine.step(Fact.CLOSE_ASKED)
                    self._cut_line()
                    stopped = ClientStopped(f"a defect of resilient_ws: {type(error).__name__}")
                    self._stop(stopped, error, ending=self._engine.ending)
                await self._serve_callbacks()
                self._group = None
        finally:
            self._group = None
            self.terminate()
            await self._close_file(FILE_TIMEOUT)

    async def _live_on(self) -> None:
        engine = self._engine
        if not engine.interrupted and not await self._load():
            return
        while not engine.interrupted:
            failure = await self._attempt()
            if failure is None and not engine.interrupted:
                await self._sleep(None, lambda: engine.ending is not None or engine.interrupted)
            ending = engine.ending
            if ending is not None:
                failure = ending.failure(engine.retry)
            if failure is not None and not engine.interrupted:
                decision = await self._decide(failure, ending)
                if decision.stop and not engine.interrupted:
                    self._give_up(failure, decision, ending)
                    return
                if not engine.interrupted:
                    self._tell_retry(failure, decision, ending)
                    await self._back_off(decision.delay)
                    continue
            if ending is not None:
                self._end_as_asked(ending)
                return
        await self._say_goodbye()

    async def _load(self) -> bool:
        """Takes over what an earlier client left in the outbox file; `False` = it cannot be used, which is the end."""
        engine = self._engine
        try:
            async with asyncio.timeout(None) as self._scope:
                for entry in await engine.sender.load():
                    engine.teller.tell_fate(entry, Fate.UNCERTAIN)
        except TimeoutError:
            return True  # `close()` has cut it short
        except OutboxFileError as error:
            if engine.closing is not None:
                engine.failed("outbox", error)
            engine.step(Fact.FAILED)
            self._stop(
                ClientStopped(f"the client has ended: {error}"), error, "the outbox file cannot be used"
            )
            return False
        finally:
            self._scope = None
        engine.sender.fates_told()
        return True

    async def _attempt(self) -> Failure | None:
        """Makes one attempt; returns why it failed, or `None` when the connection is open (or `close()` came)."""
        engine = self._engine
        number = engine.retry.dialing(engine.now())
        engine.totals["attempts"] += 1
        self._dials_since_loss += 1
        last = self._last_failure
        attempt = Attempt(
            number=number,
            endpoint=last.endpoint if last is not None else None,
            last_failure=last,
            last_close=engine.last_close,
        )
        try:
            live = await self._opener.open(engine.retry.endpoint, attempt, first=not engine.totals["opens"])
        except Interrupted:
            return None
        except AttemptFailed as failed:
            engine.step(Fact.FAILED)
            self._last_failure = failed_attempt(failed, engine.retry.next_failure_number(None))
            if isinstance(failed.error, SetupFailed) and failed.error.__cause__ is not None:
                engine.teller.tell_failure("setup", failed.error.__cause__, level=logging.WARNING)
            if engine.first_error is None:
                engine.first_error = failed.error
            return self._last_failure
        self._opened(live, number)
        return None

    def _opened(self, live: Live, number: int) -> None:
        """The connection is set up: says so, and lets messages through in both directions."""
        engine = self._engine
        link, writer, pinger = live.link, live.writer, live.pinger
        assert link is not None
        assert writer is not None
        assert pinger is not None
        first = not engine.totals["opens"]
        engine.totals["opens"] += 1
        engine.live = live
        live.opened_at = engine.now()
        engine.retry.opened()
        engine.step(Fact.OPENED)
        engine.tell(
            OpenEvent(
                attempt=number,
                endpoint=link.endpoint,
                subprotocol=link.subprotocol,
                headers=link.headers,
                first=first,
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
        if engine.inbox.paused:
            link.pause()
        engine.sender.attach(writer, pinger, confirming=engine.config.confirms)

    async def _decide(self, failure: Failure, ending: Ending | None) -> Decision:
        engine = self._engine
        if engine.config.fail_fast and not engine.totals["opens"] and not isinstance(failure.error, Stop):
            return Decision(stop=True, rule="fail_fast: the first attempt failed")
        decide = engine.config.reconnect.decide if engine.config.reconnect is not None else None
        verdict: object = None
        if decide is not None:
            try:
                verdict = decide(failure)
                if isinstance(verdict, Awaitable):
                    async with asyncio.timeout(DECIDE_TIMEOUT) as self._scope:
                        verdict = await verdict
            except Stop as stop:
                verdict = stop
            except (Exception, asyncio.CancelledError) as error:  # the program's code must not end the client
                if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                    raise
                if not engine.interrupted:  # then `close()` has cut it short, and nobody asks any more
                    engine.failed("decide", error)
                verdict = None
            finally:
                self._scope = None
        lost_at = ending.at if ending is not None else None
        decision = engine.retry.failed(failure, engine.now(), verdict, lost_at=lost_at)
        for where, problem in decision.errors:
            engine.failed(where, problem)
        return decision

    async def _back_off(self, delay: float) -> None:
        engine = self._engine
        until = engine.now() + delay
        await self._sleep(until, lambda: engine.interrupted or engine.hurried)
        if engine.hurried:
            earliest = engine.now() + engine.retry.redial_in(engine.now())
            await self._sleep(min(until, earliest), lambda: engine.interrupted)
        engine.hurried = False
        if not engine.interrupted:
            engine.step(Fact.DIALED)

    async def _sleep(self, until: float | None, done: Callable[[], bool]) -> None:
        """Waits for the clock, or for what `wake` announces."""
        loop = asyncio.get_running_loop()
        while not done() and (until is None or loop.time() < until):
            self._waker = waker = loop.create_future()
            timer = loop.call_at(until, _finish, waker) if until is not None else None
            try:
                await waker
            finally:
                self._waker = None
                if timer is not None:
                    timer.cancel()

    def _tell_retry(self, failure: Failure, decision: Decision, ending: Ending | None) -> None:
        engine = self._engine
        engine.ending = None
        if ending is not None:
            rule = decision.rule if ending.hint is None else f"{decision.rule}; {ending.hint}"
            close = attrs.evolve(close_event(ending), will_retry=True, retry_in=decision.delay, rule=rule)
            engine.last_close = close
            self._last_failure = attrs.evolve(failure, close=close)
            self._resent = ending.resent
            engine.tell(close)
            for entry in ending.uncertain:
                engine.teller.tell_fate(entry, Fate.UNCERTAIN)
            engine.sender.fates_told()
        retry = RetryEvent(
            attempt=engine.retry.failures,
            delay=decision.delay,
            cause=failure.error if failure.error is not None else describe_end(failure.close),
            rule=decision.rule,
        )
        engine.teller.tell(retry, logged=ending is None)  # the close has said it already

    # ------------------------------------------------------------------------------------------ ends

    async def _say_goodbye(self) -> None:
        """`close()` was called: the closing handshake on a connection that is open, and the end."""
        engine = self._engine
        closing, live = engine.closing, engine.live
        assert closing is not None
        if live is not None:
            assert live.link is not None
            assert live.pinger is not None
            engine.sender.watch(self.wake)
            await self._sleep(
                closing.handshake_until, lambda: live.end is not None or engine.sender.is_written
            )
            engine.sender.watch(None)
            if live.end is None:
                live.pinger.farewell()
                live.discard()
                live.link.close(closing.code, closing.reason)
                await self._sleep(closing.handshake_until, lambda: live.end is not None)
            live.ended(End(code=None, origin=CloseOrigin.LOCAL, sent_code=closing.code))
        self._end_as_asked(engine.ending)

    def _end_as_asked(self, ending: Ending | None) -> None:
        """The end that `close()` asked for."""
        if ending is None:
            final = CloseEvent(code=CloseCode.ABNORMAL_CLOSURE, synthesized=True, origin=CloseOrigin.LOCAL)
        else:
            final = attrs.evolve(close_event(ending), origin=CloseOrigin.LOCAL)
        self._end(attrs.evolve(final, rule="close() was called"), ending)

    def _give_up(self, failure: Failure, decision: Decision, ending: Ending | None) -> None:
        """A rule said stop, of a connection that has ended or of an attempt that has failed."""
        retry = self._engine.retry
        text = f"the client has ended: {decision.rule}"
        if decision.exhausted:
            elapsed = retry.elapsed(self._engine.now())
            stopped: ClientClosed = RetriesExhausted(text, attempts=retry.attempt, elapsed=elapsed)
        else:
            stopped = ClientStopped(text)
        error = failure.error if failure.error is not None else describe_end(failure.close)
        self._stop(stopped, error, decision.rule, ending, failure)

    def _stop(
        self,
        stopped: ClientClosed,
        cause: BaseException,
        rule: str = "a defect",
        ending: Ending | None = None,
        failure: Failure | None = None,
    ) -> None:
        engine = self._engine
        stopped.__cause__ = cause
        if engine.closing is None:
            engine.cause = stopped
        if ending is not None and ending.hint is not None:
            rule = f"{rule}; {ending.hint}"
        self._end(attrs.evolve(final_event(ending, failure, cause), rule=rule), ending)

    def _end(self, final: CloseEvent, ending: Ending | None) -> None:
        """Nothing follows: tells the fate of what is left, and ends with the final event."""
        engine = self._engine
        if engine.state is State.CLOSED:
            return  # `terminate` did not wait for code of the program that has come back now
        engine.ending = None
        waiting = engine.sender.queue.waiting
        abandoned, uncertain = engine.sender.close()
        for entry in (*(ending.uncertain if ending is not None else ()), *uncertain):
            engine.teller.tell_fate(entry, Fate.UNCERTAIN, at_the_end=True)
        for entry in abandoned:
            engine.teller.tell_fate(entry, Fate.ABANDONED, at_the_end=True)
        engine.sender.fates_told()
        engine.last_close = attrs.evolve(
            final,
            unsent=waiting - len(uncertain) if ending is None else final.unsent,
            uncertain=len(uncertain) if ending is None else final.uncertain,
            unread=len(engine.inbox),
            final=True,
        )
        engine.quiet()
        engine.lifecycle.apply(Fact.ENDED)
        engine.tell(engine.last_close)
        engine.dispatcher.end()
        engine.inbox.end()
        engine.answer_ready(is_open=False)
        _finish(self.closed)

    async def _serve_callbacks(self) -> None:
        """Gives the callbacks their time, then ends them."""
        engine = self._engine
        limit = engine.config.close_timeout
        until = engine.closing.callbacks_until if engine.closing is not None else None
        if until is None and limit is not None:
            until = engine.now() + limit
        while engine.dispatcher.lanes:  # the end of one may set the other going again
            left = None if until is None else until - engine.now()
            if left is not None and left <= 0:
                break
            await asyncio.wait(engine.dispatcher.lanes, timeout=left)
        late = engine.dispatcher.lanes
        for lane in late:
            lane.cancel()
        if late:
            _, deaf = await asyncio.wait(late, timeout=LAST_TURNS)
            if deaf:
                log.error("a callback swallows cancellation and is left behind")
        await self._close_file(None if until is None else max(LAST_TURNS, until - engine.now()))
        _finish(self.finished)

    async def _close_file(self, limit: float | None) -> None:
        """Waits until the outbox file, if there is one, is free for others."""
        try:
            async with asyncio.timeout(limit):
                await self._engine.sender.close_file()
        except TimeoutError:
            log.error("the outbox file could not be closed in time")  # noqa: TRY400 - that it was late says it all

    def _cut_line(self) -> None:
        """Ends the connection that is open, if one is, without a word to the peer."""
        if self._engine.live is not None:
            self._engine.live.ended(End(code=None, origin=CloseOrigin.LOCAL))

    def terminate(self) -> None:
        """The last resort: whatever is still there ends now, without waiting."""
        engine = self._engine
        if engine.state is not State.CLOSED:
            if engine.closing is None:
                engine.cause = ClientStopped("the owner task was cancelled, and close() was not called")
            engine.step(Fact.CLOSE_ASKED)
            self._cut_line()
            self._opener.abandon()
            self._end_as_asked(engine.ending)
        engine.sender.end_file()
        _finish(self.closed)
        _finish(self.finished)


async def _guarded(name: str, function: Callable[[], Awaitable[None]]) -> None:
    """Runs a child; a defect in it must be seen, and must not take the other children along."""
    try:
        await function()
    except Exception:
        log.exception("the %s task failed", name)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
