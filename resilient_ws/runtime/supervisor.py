"""The supervisor of one client, which carries out the acts of `Life`, one at a time.

What happens meanwhile (a link ends, a heartbeat gives up, `close()` is called) is noted in `Life` within the call that
tells of it, so that `state` and `stats` are true at any instant. Then the task is woken, and looks at `Life.act` again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import attrs

from resilient_ws.aio.clocks import SteadyClock, boot_time
from resilient_ws.aio.resume import resume
from resilient_ws.aio.user_code import called_apart, current_call, enter, is_waited_for_by, must_pass
from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.errors import ClientClosed, ConnectError, OutboxFileError, SetupFailed
from resilient_ws.api.events import CloseEvent, Failure, Lost, OpenEvent, State, StateEvent, Stop
from resilient_ws.api.rules import text_of
from resilient_ws.api.stats import Stats
from resilient_ws.connection.active import ActiveConnection
from resilient_ws.core.endings import (
    AttemptFailed,
    Closing,
    Ending,
    burst_hint,
    ended_error,
    failed_attempt,
    failed_with,
    is_poison,
    is_suspect,
    told_end,
)
from resilient_ws.core.endings import End as LinkEnd
from resilient_ws.core.life import Dial, Done, End, Goodbye, Judge, Life, Load, Serve, Settled, Told, Wait
from resilient_ws.core.retry import Decision, RetryState
from resilient_ws.core.scrubbing import secrets_of
from resilient_ws.delivery.delivery import Delivery
from resilient_ws.delivery.inbox import Inbox
from resilient_ws.runtime.addresses import NotAwaitable
from resilient_ws.runtime.attempt import Interrupted, Opener, Subscription
from resilient_ws.runtime.callbacks import Dispatcher
from resilient_ws.runtime.config import RANDOM, Config
from resilient_ws.runtime.counters import Tally
from resilient_ws.runtime.dial_slots import Turns
from resilient_ws.runtime.reporting import PauseNotice, Teller

if TYPE_CHECKING:
    from resilient_ws.delivery.durable.store import Persistence

DECIDE_TIMEOUT: Final = 10.0
"""Seconds that an async `decide` may take before the default is used."""

LAST_TURNS: Final = 0.1
"""Seconds that a cancelled callback has for its own clean-up."""

FORCED: Final = 0.25
"""Seconds beyond the bound of `close()` that the task has before the client ends without it."""

LATE: Final = 0.05
"""Seconds from which on a timer that fires late says that the loop stood still."""

FILE_TIMEOUT: Final = 1.0
"""Seconds for closing the outbox file when the task was cancelled."""

CLOCK_STEP: Final = 1.0
"""Seconds by which the time of day may be behind what the outbox file knows before that is told."""

log = logging.getLogger("resilient_ws")


class Supervisor:
    """The parts of one client, and the task that runs them."""

    __slots__ = (
        "_closed",
        "_drain",
        "_finished",
        "_group",
        "_latency",
        "_limit",
        "_opener",
        "_pause_notice",
        "_ready",
        "_scope",
        "_starting",
        "_task",
        "_waker",
        "active",
        "config",
        "dispatcher",
        "inbox",
        "life",
        "loop",
        "retry",
        "sender",
        "subscriptions",
        "tally",
        "teller",
        "turns",
    )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.subscriptions: dict[Hashable, Subscription] = {}
        self.inbox = Inbox(config.inbox, self)
        self.dispatcher = Dispatcher(self.inbox, self, 2 * config.outbox.max_bytes)
        clock = SteadyClock()
        self.teller = Teller(config.addresses.shown, self.dispatcher, clock, self._secrets)
        self._pause_notice = PauseNotice(self.teller, self.inbox)
        self.sender = Delivery(
            config.outbox,
            self._store(clock),
            self.inbox,
            clock=clock,
            tell=self.teller.tell_fate,
            after=self.dispatcher.after,
            ended=self.ended_error,
            compresses=config.compresses,
        )
        self.retry = RetryState(
            config.reconnect,
            RANDOM,
            endpoints=config.addresses.count,
            origins=config.addresses.origins,
            provider=config.addresses.is_provided,
        )
        self.life = Life(self.retry, fail_fast=config.fail_fast, has_file=config.outbox.path is not None)
        self.tally = Tally(self.sender.queue, self.inbox, self.dispatcher)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.turns: Turns | None = None
        self.active: ActiveConnection | None = None
        """The connection that is open."""
        self._opener: Opener | None = None
        self._latency: float | None = None
        self._ready: list[asyncio.Future[bool]] = []
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._waker: asyncio.Future[None] | None = None
        self._scope: asyncio.Timeout | None = None  # of user code that `close()` cuts short
        self._starting = False  # a task, which must not take a step before its caller knows of it
        self._drain: asyncio.TimerHandle | None = None
        self._limit: asyncio.TimerHandle | None = None  # of the time that user code has at the end
        self._closed: asyncio.Future[None] | None = None
        self._finished: asyncio.Future[None] | None = None

    def _store(self, clock: SteadyClock) -> Persistence | None:
        outbox = self.config.outbox
        if outbox.path is None or outbox.durability is None:
            return None
        from resilient_ws.delivery.durable.store import (
            Persistence,  # loads SQLite, which not every Python has
        )

        return Persistence(
            outbox.path,
            outbox.durability,
            clock=clock,
            drops=outbox.overflow in {"drop_oldest", "drop_newest"},
            failed=lambda error: self.teller.tell_failure("outbox", error),
        )

    # ------------------------------------------------------------------------------------------ the task

    async def _supervise(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry out one act after the other. Each ends as soon as another one is due."""
        life = self.life
        while not isinstance(act := life.act, Done):
            match act:
                case Load():
                    await self._load()
                case Dial():
                    await self._dial()
                case Serve():
                    while life.act is act:  # here, and not in a coroutine that an idle client would hold
                        self._waker = loop.create_future()
                        await self._waker
                case Judge(failure=failure):
                    decision = life.verdict or await self._decide(failure)
                    if life.act is act:
                        self._note(life.judged(decision, self.now(), boot_time()))
                        self.sender.fates_told()
                case Wait(until=until):
                    if until <= loop.time():
                        await asyncio.sleep(0)  # callbacks hear of the end before the dial
                    await self._sleep(until, lambda act=act: life.act is not act)  # type: ignore[misc]
                    if life.act is act:
                        self._note(life.waited())
                case Goodbye():
                    await self._say_goodbye()
                case End():
                    self._end()

    async def _run(self) -> None:
        enter()
        await self._begin_later()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self.dispatcher.serve()
                try:
                    await self._supervise(loop)
                except Exception as error:
                    # A defect of ours must end the client aloud, not silently.
                    log.exception("the supervisor task failed")
                    self._break(error, "defect", f"a defect of resilient_ws: {type(error).__name__}")
                await self._serve_callbacks()
                self._group = None
        finally:
            self._group = None
            if not loop.is_closed():
                self._terminate(sys.exception())
                await self._close_file(FILE_TIMEOUT)

    async def _load(self) -> None:
        """Take over what an earlier client left in the outbox file."""
        try:
            async with asyncio.timeout(None) as self._scope:
                for entry, fate in await self.sender.load():
                    self.teller.tell_fate(entry, fate)
                self._tell_clock()
        except TimeoutError:
            return  # `close()` has cut it short
        except OutboxFileError as error:
            if self.life.closing is not None:
                self.failed("outbox", error)
            self._note(self.life.unloadable(error))
            return
        finally:
            self._scope = None
        self.sender.fates_told()
        self.life.loaded()

    def _tell_clock(self) -> None:
        """Say that the time of day was set back, if it was, so that the ages of messages in the file are guesses."""
        behind = self.sender.stepped_back
        if behind > CLOCK_STEP:
            error = OutboxFileError(
                Path(self.config.outbox.path or ""),
                f"was last used {behind:.0f} s later than it is now, so the clock was set back: messages with a ttl may be "
                "older than they seem",
            )
            self.teller.warn("outbox", error)

    async def _dial(self) -> None:
        life, opener = self.life, self._opener
        assert opener is not None
        attempt = life.dialing(boot_time())
        try:
            active = await opener.open(self.retry.endpoint, attempt, first=not life.opens)
        except Interrupted:
            return
        except AttemptFailed as failed:
            self._note(life.failed(failed_attempt(failed, self.retry.next_failure_number(None))))
            if isinstance(failed.error, SetupFailed) and failed.error.__cause__ is not None:
                self.teller.tell_failure("setup", failed.error.__cause__, level=logging.WARNING)
            elif failed.endpoint is None and failed.error.__cause__ is not None:
                self.teller.log_raised("the URL provider", failed.error.__cause__, level=logging.WARNING)
            return
        self._opened(active, attempt.number)

    def _opened(self, active: ActiveConnection, number: int) -> None:
        """Tell of the open connection, and let messages through in both directions."""
        link, writer, pinger = active.link, active.writer, active.pinger
        assert link is not None
        assert writer is not None
        assert pinger is not None
        self.active = active
        self.inbox.is_connected = True
        active.opened_at = boot_time()
        event = OpenEvent(
            attempt=number,
            endpoint=link.endpoint,
            subprotocol=link.subprotocol,
            headers=link.headers,
            first=not self.life.opens,
            transport=str(getattr(link, "transport", "")),  # a transport of the program may not say
        )
        told, gap = self.life.opened(event, active.opened_at)
        self._note(told)
        if gap is not None:
            self.inbox.gap(gap)
        self._answer_ready(is_open=True)
        active.deliver_to(self.inbox)
        self.sender.attach(writer, pinger, confirming=self.config.confirms)
        if self.inbox.paused:
            link.pause()
        else:
            link.resume()  # `setup` may have left it paused

    async def _decide(self, failure: Failure) -> Decision:
        """Ask the program where it wants to be asked, and the retry rules."""
        if isinstance(failure.error, NotAwaitable):
            rule = text_of("cannot-heal", why=str(failure.error))
            return Decision(stop=True, rule=rule, rule_id="cannot-heal")
        policy = self.config.reconnect
        decide = policy.decide if policy is not None else None
        verdict: object = None
        if decide is not None:
            try:
                verdict = decide(failure)
                if isinstance(verdict, Awaitable):
                    async with asyncio.timeout(DECIDE_TIMEOUT) as self._scope:
                        verdict = await called_apart(verdict)
            except Stop as stop:
                verdict = stop
            except BaseException as error:  # user code must not end the client
                if must_pass(error):
                    raise
                if not self.life.is_interrupted:  # then `close()` has cut it short, and the answer is moot
                    if isinstance(error, TimeoutError) and self._scope is not None and self._scope.expired():
                        error = TimeoutError(f"decide took longer than {DECIDE_TIMEOUT:g} s")
                    self.failed("decide", error)
                verdict = None
            finally:
                self._scope = None
        ending, turns = self.life.ending, self.turns
        assert turns is not None
        lost_at = ending.at if ending is not None else None
        decision = self.retry.failed(
            failure,
            boot_time(),
            verdict,
            lost_at=lost_at,
            held=turns.held,
            excused=ending is not None and ending.excused,
        )
        turns.failed(failure, decision)
        settled = getattr(self.config.transport, "settled", None)
        if settled is not None:
            settled(stable=self.retry.was_stable(failure))
        for where, problem in decision.errors:
            self.failed(where, problem)
        return decision

    async def _sleep(self, until: float | None, done: Callable[[], bool]) -> None:
        """Wait for the clock, or for what `wake` announces."""
        loop = asyncio.get_running_loop()
        while not done() and (until is None or loop.time() < until):
            self._waker = waker = loop.create_future()
            timer = loop.call_at(until, _finish, waker) if until is not None else None
            try:
                await waker
            finally:
                if timer is not None:
                    timer.cancel()

    def _wake(self) -> None:
        """Wake the task, since the act may have changed."""
        if self._waker is not None:
            _finish(self._waker)
        if self._scope is not None and self.life.is_interrupted and not self._scope.expired():
            self._scope.reschedule(self.now())

    def spawn(self, name: str, function: Callable[[], Awaitable[None]]) -> asyncio.Task[None] | None:
        """Start a child of the task; `None` before the task runs and after its end."""
        if self._group is None:
            return None
        before, self._starting = self._starting, True
        task = self._group.create_task(self._guarded(name, function), name=self._named(name))
        self._starting = before
        return task

    async def _guarded(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        """Run a child; a defect in it must be seen, and must not take the other children along."""
        await self._begin_later()
        try:
            await function()
        except Exception:
            log.exception("the %s task failed", name)

    async def _begin_later(self) -> None:
        """Wait for the next turn where tasks begin at once (`asyncio.eager_task_factory`)."""
        if self._starting:
            await asyncio.sleep(0)

    def _named(self, name: str) -> str:
        return f"resilient_ws:{self.config.addresses.host}:{name}"

    # ------------------------------------------------------------------------------------------ its end

    async def _say_goodbye(self) -> None:
        """Make the closing handshake on the connection that is open."""
        closing, active = self.life.closing, self.active
        assert closing is not None
        if active is not None:
            assert active.link is not None
            assert active.pinger is not None
            self.sender.watch(self._wake)
            await self._sleep(
                closing.handshake_until, lambda: active.end is not None or self.sender.is_written
            )
            self.sender.watch(None)
            if active.end is None:
                active.pinger.farewell()
                active.discard()
                active.link.close(closing.code, closing.reason)
                await self._sleep(closing.handshake_until, lambda: active.end is not None)
            active.ended(LinkEnd(code=None, origin=CloseOrigin.LOCAL, sent_code=closing.code))
        self.life.said_goodbye()

    def _end(self) -> None:
        """Settle what is left, and tell of the end."""
        if not isinstance(self.life.act, End):
            return  # `_terminate` did not wait for user code that has come back now
        waiting = self.sender.queue.waiting
        abandoned, uncertain = self.sender.close()
        fates, told = self.life.ended(
            abandoned=abandoned, uncertain=uncertain, waiting=waiting, unread=len(self.inbox)
        )
        self._note(fates)
        self.sender.fates_told()
        self._pause_notice.end()
        if self._drain is not None:
            self._drain.cancel()
        self._note(told)
        self.dispatcher.end()
        self.inbox.end()
        self._answer_ready(is_open=False)
        _finish(self.closed)

    def _break(
        self, cause: BaseException, rule_id: str, text: str, *, rule: str | None = None, asked: bool = False
    ) -> None:
        """End the open connection, without a CLOSE, and the client."""
        self._note(self.life.breaking())
        if self.active is not None:
            self.active.ended(LinkEnd(code=None, origin=CloseOrigin.LOCAL))
        if self._opener is not None:
            self._opener.abandon()
        self.life.broken(cause, rule_id, text, rule=rule, asked=asked)
        self._end()

    def _terminate(self, cause: BaseException | None = None) -> None:
        """End everything at once, without waiting; the last resort.

        Args:
            cause: What has ended the task; `None` = it has not ended.
        """
        if self.life.state is not State.CLOSED:
            if isinstance(cause, BaseExceptionGroup):  # the group of its tasks has packed it
                cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
            cause = cause or asyncio.CancelledError()
            rule_id = "owner-cancelled" if isinstance(cause, asyncio.CancelledError) else "owner-ended"
            what = text_of(rule_id, error=type(cause).__name__)
            self._break(cause, rule_id, f"{what}, and close() was not called", rule=what, asked=True)
        self.sender.end_file()
        _finish(self.closed)
        self._bind(None)
        _finish(self.finished)

    async def _serve_callbacks(self) -> None:
        """Give the callbacks their time, then end them."""
        limit, closing, dispatcher = self.config.close_timeout, self.life.closing, self.dispatcher
        until = closing.callbacks_until if closing is not None else None
        if until is None and limit is not None:
            until = self.now() + limit
        await asyncio.sleep(0)  # they have a turn also where the loop stood still until it was too late
        while dispatcher.lanes:  # the end of one may set the other going again
            left = None if until is None else until - self.now()
            if left is not None and left <= 0:
                break
            await asyncio.wait(dispatcher.lanes, timeout=left)
        late = dispatcher.lanes
        dispatcher.stop()
        for lane in late:
            lane.cancel()
        if late:
            _, deaf = await asyncio.wait(late, timeout=LAST_TURNS)
            if deaf:
                log.error("a callback swallows cancellation and is left behind")
        await self._close_file(None if until is None else max(LAST_TURNS, until - self.now()))
        self._bind(None)
        _finish(self.finished)

    async def _close_file(self, limit: float | None) -> None:
        """Wait until the outbox file, if there is one, is free for others."""
        try:
            async with asyncio.timeout(limit):
                await self.sender.close_file()
        except TimeoutError:
            log.error("the outbox file could not be closed in time")  # noqa: TRY400 - that it was late says it all

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the state is CLOSED. Created lazily, like `finished`."""
        if self._closed is None:
            assert self.loop is not None
            self._closed = self.loop.create_future()
        return self._closed

    @property
    def finished(self) -> asyncio.Future[None]:
        """Done when the callbacks have run, too."""
        if self._finished is None:
            assert self.loop is not None
            self._finished = self.loop.create_future()
        return self._finished

    @property
    def is_finished(self) -> bool:
        """Whether the client has ended and the callbacks have run."""
        return self._finished is not None and self._finished.done()

    def _bind(self, until: float | None) -> None:
        """Set until when `close()` waits for user code, on the loop's clock; `None` = for ever."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = None
        if until is not None:
            loop = asyncio.get_running_loop()
            self._limit = loop.call_at(until + FORCED, self._is_overdue, until + FORCED)

    def _is_overdue(self, limit: float) -> None:
        """Act on a task that has not ended within the limit."""
        loop = asyncio.get_running_loop()
        if loop.time() - limit > LATE:
            # The loop stood still, so the task knows no more than we do. It has a moment, once.
            self._limit = loop.call_later(LAST_TURNS, self._force)
        else:
            self._force()

    def _force(self) -> None:
        log.error("the supervisor task did not end in time: user code swallows cancellation")
        self._terminate()

    # ------------------------------------------------------------------------------------------ what is asked of it

    @property
    def state(self) -> State:
        """The state now."""
        return self.life.state

    def now(self) -> float:
        """Seconds of the event loop."""
        return (self.loop or asyncio.get_running_loop()).time()

    def start(self) -> None:
        """Begin connecting."""
        self._begin()
        self._note(self.life.started(boot_time()))
        self.sender.start()

    def _begin(self) -> None:
        self.loop = loop = asyncio.get_running_loop()
        config = self.config
        self.turns = Turns(config.governor, config.addresses, self.retry, self.teller.note)
        self._opener = Opener(
            config,
            self.turns,
            host=self,
            delivery=self.sender,
            given_up=self.tally.add,
            queue=self.sender.queue,
            subscriptions=self.subscriptions,
            spawn=self.spawn,
            idle=self.sender.idle,
        )
        self._starting = True
        self._task = loop.create_task(self._run(), name=self._named("owner"))
        self._starting = False

    async def ready(self) -> None:
        """Wait until the state is OPEN, if only for a moment; raise what ended the client."""
        life = self.life
        if life.state is State.OPEN:
            return
        if not life.is_over:
            waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._ready.append(waiter)
            try:
                if await waiter:
                    return
            finally:
                self._ready.remove(waiter)
        error = life.first_error
        if self.config.fail_fast and isinstance(error, ConnectError) and not life.opens:
            raise error
        raise self.ended_error()

    def _answer_ready(self, *, is_open: bool) -> None:
        """Those who wait for OPEN are told that it was reached, or that it never will be."""
        for waiter in self._ready:
            if not waiter.done():
                waiter.set_result(is_open)

    def reconnect_now(self, code: int, reason: str) -> None:
        """End the current backoff, or replace the open connection, closing it with `code` and `reason`."""
        active, state = self.active, self.state
        if state is State.OPEN and active is not None and active.link is not None:
            active.link.close(code, reason)
            active.ended(LinkEnd(code=None, origin=CloseOrigin.LOCAL, sent_code=code))
        elif state is State.BACKOFF:
            self.life.hurry(self.now(), boot_time())
            self._wake()
        if self.turns is not None:
            self.turns.hurry(next_one=self.state is State.BACKOFF)

    def request_close(self, code: int, reason: str, drain: float | None) -> None:
        """Begin to close, once; a later call may only end the draining earlier than the first one said."""
        life = self.life
        if life.is_over:
            self._shorten(drain)
            return
        if self.loop is None:
            self._begin()
            life.started_to_close(boot_time())
        assert self.loop is not None
        closing = Closing.within(self.config.close_timeout, self.now() + (drain or 0.0), code, reason)
        self._bind(closing.callbacks_until)
        drains = drain is not None and not self.sender.is_settled
        self._note(life.close_asked(closing))
        self.sender.refuse(keep_waiters=drains)
        self._answer_ready(is_open=False)
        if self.active is not None:
            self.active.fail_requests(self.ended_error())
        if drains and drain is not None:
            self._drain = self.loop.call_later(drain, self._interrupt)
            if self.turns is not None:
                self.turns.hurry(next_one=True)
            life.hurry(self.now(), boot_time())
            self._wake()
            self.sender.watch(self._interrupt_when_settled)
        else:
            self._interrupt()

    def _shorten(self, drain: float | None) -> None:
        """`close()` was called once more."""
        until, closing = self.now() + (drain or 0.0), self.life.closing
        if self._drain is None or self.life.is_interrupted or closing is None or until >= self._drain.when():
            return
        self.life.closing = closing = Closing.within(
            self.config.close_timeout, until, closing.code, closing.reason
        )
        self._bind(closing.callbacks_until)
        self._drain.cancel()
        if drain and self.loop is not None:
            self._drain = self.loop.call_at(until, self._interrupt)
        else:
            self._interrupt()

    def _interrupt_when_settled(self) -> None:
        if self.sender.is_settled:
            self._interrupt()

    def _interrupt(self) -> None:
        """Give up the current act, so that the task goes on to the end."""
        if self.life.is_interrupted:
            return
        self.life.interrupt()
        if self._drain is not None:
            self._drain.cancel()
        self.sender.watch(None)
        self.inbox.end()
        if self._opener is not None:
            self._opener.interrupt()
        self._wake()

    @property
    def is_inside(self) -> bool:
        """Whether the caller is user code that the task or a lane waits for."""
        return self.dispatcher.inside or is_waited_for_by(self._task)

    async def wait_closed(self) -> None:
        """Wait until the client is closed and, unless called from inside of it, the callbacks have run."""
        call = current_call()
        while not self.finished.done():
            if self.is_inside:
                if not is_waited_for_by(self._task):
                    await asyncio.shield(self.closed)
                return
            if call is None:
                await asyncio.shield(self.finished)
                return
            # Code that runs at once (an eager task) runs before a task of ours begins to wait for it.
            with call.noticed(asyncio.get_running_loop()) as notice:
                await asyncio.wait((self.finished, notice), return_when=asyncio.FIRST_COMPLETED)

    def ended_error(self) -> ClientClosed:
        """Return the exception for a call that comes too late."""
        return ended_error(
            self.life.cause,
            is_closed=self.state is State.CLOSED,
            last_close=self.life.last_close,
            undelivered=self.teller.undelivered,
        )

    def left_open(self) -> str | None:
        """Return what is wrong with a client that is garbage now, in words; `None` = it was closed, or has done nothing."""
        queue, state = self.sender.queue, self.state
        count = queue.waiting + queue.unconfirmed
        if state is State.IDLE:
            return f"was never started: {_messages(count)} lost" if count else None
        if self.life.is_over:
            return None
        if self.config.outbox.path is not None:
            kept = "no accepted message is lost, they are in the outbox file"
            return f"was not closed: {kept}" if count else "was not closed"
        return f"was not closed: {_messages(count)} lost" if count else "was not closed"

    @property
    def is_ending(self) -> bool:
        """Whether the task is being cancelled, as `asyncio.run` does with all tasks at its end."""
        return self._task is not None and self._task.cancelling() > 0

    def log_raised(self, what: str, error: BaseException, /) -> None:
        """Log what user code has raised."""
        self.teller.log_raised(what, error)

    def _secrets(self) -> set[str]:
        """Return the secrets in the URLs, headers and subprotocols in use."""
        last = self.life.last_endpoint
        endpoints = (*self.config.addresses.known, *((last,) if last is not None else ()))
        return {secret for endpoint in endpoints for secret in secrets_of(endpoint)}

    @property
    def latency(self) -> float | None:
        """The last round trip, in seconds."""
        active = self.active
        now = active.pinger.latency if active is not None and active.pinger is not None else None
        return now if now is not None else self._latency

    @property
    def waiting_for(self) -> str:
        """In words, what the client itself waits for; empty where nothing stands in its way."""
        if self.state is State.OPEN:
            unread = f"the inbox holds {len(self.inbox)} messages that the program does not take"
            return f"the program: {unread}, so reading is paused" if self.inbox.paused else ""
        if self._opener is None or self.life.is_over:
            return ""
        if isinstance(self.life.act, Wait):
            return f"the next attempt, in {max(0.0, self.life.act.until - self.now()):.1f} s"
        if self.state is State.BACKOFF:
            return "the decision whether to connect again"
        return self._opener.waits_for() or "the outbox file to be read"

    def standing(self) -> str:
        """Return in words where the client stands and what stands in the way: for the text of a `TimeoutError`."""
        waits, failure = self.waiting_for, self.life.last_failure
        text = f"the client is {self.state.value}"
        if self.state is not State.OPEN:
            text += f" (attempt {self.retry.attempt})"
        if waits:
            text += f" and waits for {waits}"
        if failure is not None and self.state is not State.OPEN:
            text += f"; the last failure: {failed_with(failure)}"
        return text

    def stats(self) -> Stats:
        """Return the current statistics."""
        numbers, turns, address = self.tally.stats(self.life, self.active), self.turns, self.retry.endpoint
        if turns is None:
            return attrs.evolve(numbers, waiting_for=self.waiting_for)
        held = turns.held(address)
        return attrs.evolve(
            numbers,
            dials_waiting=turns.waiting(address),
            dials_under_way=turns.under_way(address),
            held_for=held[0] if held else 0.0,
            waiting_for=self.waiting_for,
        )

    # ------------------------------------------------------------------------------------------ what connections tell

    def connection_ended(self, active: ActiveConnection, end: LinkEnd, /, *, wakes: bool) -> None:
        """Note that a link has ended, or that the heartbeat gave it up."""
        if active is not self.active:
            if self._opener is not None:
                self._opener.ended(active)
            return
        now = boot_time()
        self._latency = self.latency
        self.active = None
        self.inbox.is_connected = False
        queue = self.sender.queue
        unsent, unconfirmed = queue.waiting, queue.unconfirmed
        suspect = is_suspect(end) or active.write_failed
        loss = self.sender.detach(poison=is_poison(end), suspect=suspect, how=lambda: told_end(end))
        self.tally.add(active)
        ending = Ending(
            end=end,
            endpoint=active.link.endpoint if active.link is not None else None,
            at=now,
            opened_for=now - active.opened_at,
            silent_for=active.silent_for,
            unsent=unsent,
            unconfirmed=unconfirmed,
            unread=len(self.inbox),
            uncertain=loss.uncertain,
            resent=loss.resent,
            hint=active.hint or self._burst_hint(end, now - active.opened_at),
            excused=queue.suspects,
        )
        self._note(self.life.lost(ending))
        if wakes:
            self._wake()

    def _burst_hint(self, end: LinkEnd, opened_for: float) -> str | None:
        policy = self.config.reconnect
        soon = opened_for < (policy.min_uptime if policy is not None else math.inf)
        return burst_hint(end, len(self.subscriptions)) if soon else None

    def wake(self) -> None:
        """Let the task report an end and run the callbacks within this call."""
        if self.life.ending is not None:
            self.dispatcher.serve_at_once(self._go_on)

    def _go_on(self) -> None:
        if self._waker is not None:
            resume(self._waker)

    def confirmation_changed(self, *, is_on: bool) -> None:
        """Report that the peer answers no pings, or that it answers them after all."""
        if is_on:
            self.teller.note("the peer has answered a ping after all: confirmation is on again")
        else:
            self.teller.tell_unconfirmed()

    def failed(self, where: str, error: BaseException, /) -> None:
        """User code raised, beside any call of its own."""
        self.teller.tell_failure(where, error)

    def _note(self, told: Iterable[Told]) -> None:
        """Tell what happened, in order."""
        for one in told:
            if isinstance(one, Settled):
                self.teller.tell_fate(one.entry, one.fate, at_the_end=one.at_the_end)
            elif isinstance(one, StateEvent):
                self.teller.tell_state(one.old, one.new)
            else:
                if isinstance(one, CloseEvent) and one.will_retry:
                    self.inbox.lost(Lost(one))
                self.teller.tell(one)

    # ------------------------------------------------------------------------------------------ the inbox

    def inbox_full(self) -> None:
        """Pause reading."""
        loop = asyncio.get_running_loop()
        if self.active is not None and self.active.link is not None:
            self.active.link.pause()
        loop.call_soon(self.sender.pump)
        if self.state is not State.CLOSED:
            self._pause_notice.begin(loop)

    def inbox_relaxed(self) -> None:
        """Resume reading."""
        self._pause_notice.end()
        if self.active is not None and self.active.link is not None:
            self.active.link.resume()

    def inbox_stuck(self) -> None:
        """Fail the waiters, whose data cannot arrive through the full inbox."""
        self.sender.patience.stuck()


def _finish(future: asyncio.Future[None]) -> None:
    """Complete `future` unless it is done."""
    if not future.done():
        future.set_result(None)


def _messages(count: int) -> str:
    return "1 accepted message is" if count == 1 else f"{count} accepted messages are"
