"""The end of a client: the closing handshake, the fate of what is left, the final event, the last of the callbacks.

It decides nothing: `close()`, a rule or a defect has said that this is the end, and the owner task acts it out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

import attrs

from resilient_ws.clocks import boot_time
from resilient_ws.closing import CloseCode, CloseOrigin
from resilient_ws.ending import Ending, close_event, describe_end, final_event
from resilient_ws.errors import ClientClosed, ClientStopped, RetriesExhausted
from resilient_ws.events import CloseEvent, Failure, Fate, State
from resilient_ws.lifecycle import Fact
from resilient_ws.opening import Opener
from resilient_ws.retry import Decision
from resilient_ws.rules import text_of
from resilient_ws.transports.base import End

if TYPE_CHECKING:
    from resilient_ws.engine import Engine

LAST_TURNS: Final = 0.1
"""Seconds that a cancelled callback has for its own clean-up."""

FORCED: Final = 0.25
"""Seconds beyond the bound of `close()` that the owner task has before the client ends without it."""

LATE: Final = 0.05
"""Seconds from which on a timer that fires late says that the loop stood still."""

FILE_TIMEOUT: Final = 1.0
"""Seconds for closing the outbox file when the owner task was cancelled."""

Sleep = Callable[[float | None, Callable[[], bool]], Awaitable[None]]
"""Waits until a time on the loop's clock (`None` = any), or until what is asked on each waking is true."""

log = logging.getLogger("resilient_ws")


class Farewell:
    """Ends one client, once."""

    __slots__ = ("_engine", "_limit", "_opener", "closed", "finished")

    def __init__(self, engine: Engine, opener: Opener, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._opener = opener
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the state is CLOSED."""
        self.finished: asyncio.Future[None] = loop.create_future()
        """Done when the callbacks have run, too."""
        self._limit: asyncio.TimerHandle | None = None  # of the time for code of the program

    # ------------------------------------------------------------------------------------------ what ends it

    async def say_goodbye(self, sleep: Sleep, wake: Callable[[], None]) -> None:
        """`close()` was called: the closing handshake on a connection that is open, and the end."""
        engine = self._engine
        closing, live = engine.closing, engine.live
        assert closing is not None
        if live is not None:
            assert live.link is not None
            assert live.pinger is not None
            engine.sender.watch(wake)
            await sleep(closing.handshake_until, lambda: live.end is not None or engine.sender.is_written)
            engine.sender.watch(None)
            if live.end is None:
                live.pinger.farewell()
                live.discard()
                live.link.close(closing.code, closing.reason)
                await sleep(closing.handshake_until, lambda: live.end is not None)
            live.ended(End(code=None, origin=CloseOrigin.LOCAL, sent_code=closing.code))
        self.as_asked(engine.ending)

    def as_asked(self, ending: Ending | None) -> None:
        """The end that `close()` asked for."""
        if ending is None:
            final = CloseEvent(code=CloseCode.ABNORMAL_CLOSURE, synthesized=True, origin=CloseOrigin.LOCAL)
        else:
            final = attrs.evolve(close_event(ending), origin=CloseOrigin.LOCAL)
        self._end(attrs.evolve(final, rule=text_of("close-called"), rule_id="close-called"), ending)

    def give_up(self, failure: Failure, decision: Decision, ending: Ending | None) -> None:
        """A rule said stop, of a connection that has ended or of an attempt that has failed."""
        retry = self._engine.retry
        hint = f"; {ending.hint}" if ending is not None and ending.hint is not None else ""
        text = f"the client has ended: {decision.rule}{hint}"
        if decision.exhausted:
            elapsed = retry.elapsed(boot_time())
            stopped: ClientClosed = RetriesExhausted(text, attempts=retry.attempt, elapsed=elapsed)
        else:
            stopped = ClientStopped(text)
        error = failure.error if failure.error is not None else describe_end(failure.close)
        self.stop(stopped, error, decision.rule_id, ending, failure, rule=decision.rule)

    def defect(self, error: Exception) -> None:
        """The owner task has failed, which is our fault: the client ends aloud, and its connection with it."""
        self._engine.step(Fact.CLOSE_ASKED)
        self._cut_line()
        stopped = ClientStopped(f"a defect of resilient_ws: {type(error).__name__}")
        self.stop(stopped, error, "defect", self._engine.ending)

    def stop(
        self,
        stopped: ClientClosed,
        cause: BaseException,
        rule_id: str,
        ending: Ending | None = None,
        failure: Failure | None = None,
        *,
        rule: str | None = None,
    ) -> None:
        """The client ends by itself: `stopped` is raised where the program waits, unless `close()` came first.

        Args:
            stopped: What is raised.
            cause: What it is raised from.
            rule_id: Which rule decided.
            ending: The end of the connection that was open, if one was.
            failure: What the rule was asked about.
            rule: Its text with the verdict; `None` = the text of the rule alone.
        """
        engine = self._engine
        stopped.__cause__ = cause
        if engine.closing is None:
            engine.cause = stopped
        text = text_of(rule_id) if rule is None else rule
        if ending is not None and ending.hint is not None:
            text = f"{text}; {ending.hint}"
        self._end(attrs.evolve(final_event(ending, failure, cause), rule=text, rule_id=rule_id), ending)

    def terminate(self, cause: BaseException | None = None) -> None:
        """The last resort: whatever is still there ends now, without waiting.

        Args:
            cause: What has ended the owner task; `None` = it has not ended.
        """
        engine = self._engine
        if engine.state is not State.CLOSED:
            engine.step(Fact.CLOSE_ASKED)
            self._cut_line()
            self._opener.abandon()
            if engine.closing is not None:
                self.as_asked(engine.ending)
            else:
                self._broken(cause or asyncio.CancelledError())
        engine.sender.end_file()
        finish(self.closed)
        self._finish()

    def _broken(self, cause: BaseException) -> None:
        """The owner task ends, and nobody has called `close()`."""
        if isinstance(cause, BaseExceptionGroup):  # the group of its tasks has packed it
            cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
        was_cancelled = isinstance(cause, asyncio.CancelledError)
        rule_id = "owner-cancelled" if was_cancelled else "owner-ended"
        what = text_of(rule_id, error=type(cause).__name__)
        stopped = ClientStopped(f"{what}, and close() was not called")
        self.stop(stopped, cause, rule_id, self._engine.ending, rule=what)

    def bind(self, until: float | None) -> None:
        """Sets until when `close()` waits for code of the program, on the loop's clock; `None` = for ever."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = None
        if until is not None:
            loop = asyncio.get_running_loop()
            self._limit = loop.call_at(until + FORCED, self._is_overdue, until + FORCED)

    def _is_overdue(self, limit: float) -> None:
        """The limit has passed, and the owner task has not ended."""
        loop = asyncio.get_running_loop()
        if loop.time() - limit > LATE:
            # The loop stood still, so the task knows no more than we do. It has a moment, once.
            self._limit = loop.call_later(LAST_TURNS, self._force)
        else:
            self._force()

    def _force(self) -> None:
        log.error("the owner task did not end in time: code of the program swallows cancellation")
        self.terminate()

    def _finish(self) -> None:
        self.bind(None)
        finish(self.finished)

    # ------------------------------------------------------------------------------------------ how it ends

    def _cut_line(self) -> None:
        """Ends the connection that is open, if one is, without a word to the peer."""
        if self._engine.live is not None:
            self._engine.live.ended(End(code=None, origin=CloseOrigin.LOCAL))

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
        finish(self.closed)

    async def serve_callbacks(self) -> None:
        """Gives the callbacks their time, then ends them."""
        engine = self._engine
        limit = engine.config.close_timeout
        until = engine.closing.callbacks_until if engine.closing is not None else None
        if until is None and limit is not None:
            until = engine.now() + limit
        await asyncio.sleep(0)  # they have a turn also where the loop stood still until it was too late
        while engine.dispatcher.lanes:  # the end of one may set the other going again
            left = None if until is None else until - engine.now()
            if left is not None and left <= 0:
                break
            await asyncio.wait(engine.dispatcher.lanes, timeout=left)
        late = engine.dispatcher.lanes
        engine.dispatcher.stop()
        for lane in late:
            lane.cancel()
        if late:
            _, deaf = await asyncio.wait(late, timeout=LAST_TURNS)
            if deaf:
                log.error("a callback swallows cancellation and is left behind")
        await self.close_file(None if until is None else max(LAST_TURNS, until - engine.now()))
        self._finish()

    async def close_file(self, limit: float | None) -> None:
        """Waits until the outbox file, if there is one, is free for others."""
        try:
            async with asyncio.timeout(limit):
                await self._engine.sender.close_file()
        except TimeoutError:
            log.error("the outbox file could not be closed in time")  # noqa: TRY400 - that it was late says it all


def finish(future: asyncio.Future[None]) -> None:
    """Makes `future` done, unless it is."""
    if not future.done():
        future.set_result(None)
