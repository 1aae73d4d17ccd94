"""The owner task of a client: connect, notice, tell, wait, connect again; and the end.

One task owns all of it. What happens elsewhere (a link ends, a heartbeat gives up, `close()` is called) is noted
synchronously and wakes the owner, which alone decides what follows.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Literal

import attrs

from resilient_ws.closing import CloseCode, CloseOrigin
from resilient_ws.config import Config
from resilient_ws.dispatch import Dispatcher
from resilient_ws.ending import Ending, close_event, describe_end, failed_attempt, is_poison
from resilient_ws.errors import ClientClosed, ClientStopped, InboxFull, RetriesExhausted
from resilient_ws.events import (
    Attempt,
    CloseEvent,
    ErrorEvent,
    Event,
    Failure,
    Fate,
    Gap,
    Message,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    State,
    StateEvent,
    Stop,
    UndeliveredEvent,
)
from resilient_ws.inbox import Inbox
from resilient_ws.lifecycle import Fact, Lifecycle
from resilient_ws.live import Live, Match
from resilient_ws.opening import AttemptFailed, Interrupted, Opener, OpeningOptions, Subscription
from resilient_ws.outbox import Entry
from resilient_ws.retry import Decision, RetryState
from resilient_ws.sender import Sender
from resilient_ws.stats import Stats, Timeline, told
from resilient_ws.transports.base import End

DECIDE_TIMEOUT: Final = 10.0
"""Seconds that an async `decide` may take before the default is used."""

PAUSE_NOTICE: Final = 5.0
"""Seconds that reading may be paused by a full inbox before the program is told."""

PAUSE_NOTICE_EVERY: Final = 60.0
"""Seconds between two such notices."""

SHARE_FOR_CALLBACKS: Final = 0.2
"""Part of `close_timeout`, one second at most, that is kept for the callbacks after the closing handshake."""

log = logging.getLogger("resilient_ws")


@attrs.frozen
class Closing:
    """What `close()` asked for, with its deadlines on the loop's clock (`None` = no limit)."""

    code: int
    reason: str
    handshake_until: float | None
    callbacks_until: float | None


class Engine:
    """Everything of a client but its public face."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.subscriptions: dict[Hashable, Subscription] = {}
        self.inbox = Inbox(config.inbox, pause=self._inbox_full, resume=self._inbox_relaxed, stuck=self._stuck)
        self.sender = Sender(
            config.outbox,
            self.inbox,
            tell=self._undelivered,
            ended=self.ended_error,
            compresses=config.compresses,
        )
        self.dispatcher = Dispatcher(self.inbox, self._spawn)
        self.timeline = Timeline(time.time)
        self.lifecycle = Lifecycle(self._state_changed)
        self.retry = RetryState(
            config.reconnect,
            random.Random(),  # noqa: S311 - spreads clients, guards nothing
            endpoints=config.addresses.count,
            provider=config.addresses.is_provided,
        )
        self.totals: Counter[str] = Counter()
        self.closes: Counter[CloseOrigin] = Counter()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.live: Live | None = None
        self.latency: float | None = None
        self.last_close: CloseEvent | None = None
        self.cause: Exception | None = None  # what ended the client, unless close() did
        self.undelivered: list[UndeliveredEvent] = []
        self._first_error: Exception | None = None
        self._opener: Opener | None = None
        self._owner: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._waker: asyncio.Future[None] | None = None
        self._ready: set[asyncio.Future[None]] = set()
        self._closed: asyncio.Future[None] | None = None  # the state is CLOSED
        self._finished: asyncio.Future[None] | None = None  # and the callbacks have run
        self._closing: Closing | None = None
        self._interrupted = False
        self._ending: Ending | None = None
        self._last_failure: Failure | None = None
        self._lost_at: float | None = None
        self._dials_since_loss = 0
        self._resent = 0
        self._retry_at: float | None = None
        self._hurried = False
        self._pause_timer: asyncio.TimerHandle | None = None
        self._noticed_at = -PAUSE_NOTICE_EVERY

    # ------------------------------------------------------------------------------------------ asked from outside

    @property
    def state(self) -> State:
        """The state now."""
        return self.lifecycle.state

    def start(self) -> None:
        """Begins connecting."""
        self._begin()
        self.lifecycle.apply(Fact.STARTED)
        self.sender.start()

    def _begin(self) -> None:
        loop = self.loop = asyncio.get_running_loop()
        config = self.config
        self._closed, self._finished = loop.create_future(), loop.create_future()
        self._opener = Opener(
            OpeningOptions(
                addresses=config.addresses,
                transport=config.transport,
                setup=config.setup,
                heartbeat=config.heartbeat,
                outbox=config.outbox,
                inbox=config.inbox,
                open_timeout=config.open_timeout,
                setup_timeout=config.setup_timeout,
            ),
            host=self,
            watcher=lambda live: LiveWatcher(self, live),
            queue=self.sender.queue,
            subscriptions=self.subscriptions,
            is_paused=lambda: self.inbox.paused,
            spawn=self._spawn,
            idle=self.sender.idle,
        )
        self.retry.started(loop.time())
        self._owner = loop.create_task(self._own(), name=f"resilient_ws:{config.addresses.host}:owner")

    async def ready(self) -> None:
        """Waits until the state is OPEN; raises what ended the client."""
        while self.lifecycle.state is not State.OPEN:
            if self.lifecycle.is_over:
                if self.config.fail_fast and self._first_error is not None and not self.totals["opens"]:
                    raise self._first_error
                raise self.ended_error()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._ready.add(waiter)
            try:
                await waiter
            finally:
                self._ready.discard(waiter)

    def reconnect_now(self) -> None:
        """Ends a back-off wait, or replaces the connection that is open."""
        live = self.live
        if live is not None and live.link is not None and self.state is State.OPEN:
            live.link.close(CloseCode.NORMAL_CLOSURE, "")
            live.ended(End(code=None, origin=CloseOrigin.LOCAL, sent_code=CloseCode.NORMAL_CLOSURE))
        elif self.state is State.BACKOFF:
            self._hurried = True
            self._wake()

    def request_close(self, code: int, reason: str, drain: float | None) -> None:
        """Begins to close, once; later calls change nothing."""
        if self.lifecycle.is_over:
            return
        if self.loop is None:
            self._begin()
        assert self.loop is not None
        now = self.loop.time()
        limit = self.config.close_timeout
        until = None if limit is None else now + (drain or 0.0) + limit
        spared = None if until is None or limit is None else until - min(1.0, SHARE_FOR_CALLBACKS * limit)
        self._closing = Closing(code, reason, spared, until)
        self.lifecycle.apply(Fact.CLOSE_ASKED)
        drains = drain is not None and not self.sender.is_settled
        self.sender.refuse(keep_waiters=drains)
        for waiter in self._ready:
            _wake(waiter)
        if self.live is not None:
            self.live.fail_requests(self.ended_error())
        if drains:
            assert drain is not None
            deadline = self.loop.call_later(drain, self._interrupt)
            self._closed_future.add_done_callback(lambda _: deadline.cancel())
            if self.live is not None and self.live.pinger is not None:
                self.live.pinger.want()
            self._hurried = True
            self._wake()
            self.sender.when_settled(self._interrupt)
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        if self._interrupted:
            return
        self._interrupted = True
        self.sender.when_settled(None)
        self.inbox.end()
        if self._opener is not None:
            self._opener.interrupt()
        self._wake()

    @property
    def is_inside(self) -> bool:
        """Whether the caller is code that the owner task or a lane waits for."""
        return self.dispatcher.inside or asyncio.current_task() is self._owner

    async def wait_closed(self, *, inside: bool) -> None:
        """Waits until the client is closed and, unless called from inside of it, the callbacks have run."""
        if inside:
            if asyncio.current_task() is not self._owner:
                await asyncio.shield(self._closed_future)
            return
        assert self._finished is not None
        until = self._closing.callbacks_until if self._closing is not None else None
        try:
            async with asyncio.timeout_at(None if until is None else until + 0.5):
                await asyncio.shield(self._finished)
        except TimeoutError:
            if self._finished.done():
                return
            log.error("the owner task did not end in time: code of the program swallows cancellation")
            self._terminate()

    async def wait_finished(self) -> None:
        """Waits until the client is closed and the callbacks have run, however it comes to that."""
        assert self._finished is not None
        await asyncio.shield(self._finished)

    @property
    def _closed_future(self) -> asyncio.Future[None]:
        assert self._closed is not None
        return self._closed

    def ended_error(self) -> ClientClosed:
        """Returns the exception for a call that comes too late."""
        event = self.last_close if self.last_close is not None and self.last_close.final else None
        if self.cause is None:
            return ClientClosed(
                "the client is closed" if self.state is State.CLOSED else "the client is closing",
                event=event,
                undelivered=self.undelivered,
            )
        if isinstance(self.cause, RetriesExhausted):
            error: ClientClosed = RetriesExhausted(
                str(self.cause),
                event=event,
                undelivered=self.undelivered,
                attempts=self.cause.attempts,
                elapsed=self.cause.elapsed,
            )
        else:
            error = ClientStopped(str(self.cause), event=event, undelivered=self.undelivered)
        error.__cause__ = self.cause.__cause__
        return error

    @property
    def cause_of_end(self) -> BaseException | None:
        """What ended the client, for chaining."""
        return self.cause.__cause__ if self.cause is not None else None

    @property
    def current_latency(self) -> float | None:
        """The last round trip, in seconds."""
        live = self.live
        now = live.pinger.latency if live is not None and live.pinger is not None else None
        return now if now is not None else self.latency

    async def request(self, message: Message, size: int, match: Match) -> Message:
        """Sends with `queue=False` and returns the first message that matches."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.sender.admit_unqueued(size)
        live = self.live
        assert live is not None
        with self.sender.patience(answer):
            return await live.request(lambda: self.sender.write_unqueued(message, size), match)

    def subscribe(self, key: Hashable, subscription: Subscription) -> None:
        """Declares an intent."""
        if self.lifecycle.is_over:
            raise self.ended_error()
        self.subscriptions[key] = subscription
        live = self.live
        if live is None or live.writer is None:
            return
        try:
            message = subscription.render(self.config.outbox.max_bytes)
        except Exception as error:  # noqa: BLE001 - as on a later connection, where nobody could catch it
            self.failed("subscribe", error)
            return
        live.writer.post(message)

    def unsubscribe(self, key: Hashable) -> None:
        """Takes an intent back."""
        if self.lifecycle.is_over:
            raise self.ended_error()
        gone = self.subscriptions.pop(key, None)
        live = self.live
        if gone is not None and gone.unsubscribe is not None and live is not None and live.writer is not None:
            live.writer.post(gone.unsubscribe)

    def stats(self) -> Stats:
        """The numbers as of now."""
        queue, totals, live = self.sender.queue, self.totals, self.live
        writer = live.writer if live is not None else None
        confirmation: Literal["on", "off", "none"] = "none"
        if live is not None:
            confirmation = "on" if queue.confirming else "off"
        return Stats(
            attempts=totals["attempts"],
            opens=totals["opens"],
            closes=dict(self.closes),
            sent=totals["sent"] + (writer.sent if writer is not None else 0),
            received=totals["received"] + (live.received if live is not None else 0),
            bytes_sent=totals["bytes_sent"] + (writer.bytes_sent if writer is not None else 0),
            bytes_received=totals["bytes_received"] + (live.bytes_received if live is not None else 0),
            confirmed=queue.confirmed,
            uncertain=queue.uncertain,
            expired=queue.expired,
            evicted=queue.evicted,
            abandoned=queue.abandoned,
            unverified=queue.unverified,
            discarded=totals["discarded"] + self.inbox.dropped + (live.discarded if live is not None else 0),
            waiting=queue.waiting,
            unconfirmed=queue.unconfirmed,
            unread=len(self.inbox),
            confirmation=confirmation,
            events_dropped=self.dispatcher.dropped.total(),
        )

    # ------------------------------------------------------------------------------------------ the owner task

    def _spawn(
        self, name: str, function: Callable[[], Awaitable[None]]
    ) -> asyncio.Task[None] | None:
        """Starts a child of the owner task; `None` while there is none."""
        if self._group is None:
            return None
        coroutine = _call(function)
        return self._group.create_task(coroutine, name=f"resilient_ws:{self.config.addresses.host}:{name}")

    async def _own(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self.dispatcher.serve()
                try:
                    await self._live_on()
                except Exception as error:  # noqa: BLE001 - a defect of ours must end the client aloud, not silently
                    log.exception("the owner task failed")
                    self._stop(ClientStopped(f"a defect of resilient_ws: {type(error).__name__}"), error, "a defect")
                await self._finish_lanes()
                self._group = None
        finally:
            self._group = None
            self._terminate()

    async def _live_on(self) -> None:
        while not self._interrupted:
            failure = await self._attempt()
            ending: Ending | None = None
            if failure is None and not self._interrupted:
                await self._sleep(None, lambda: self._ending is not None or self._interrupted)
            if self._ending is not None:
                ending, self._ending = self._ending, None
                if self._interrupted:
                    self._finish(ending)
                    return
                failure = ending.failure(self.retry)
            if self._interrupted:
                break
            assert failure is not None
            decision = await self._decide(failure, ending.at if ending is not None else None)
            if self._interrupted and ending is None:
                break
            if decision.stop or self._interrupted:
                self._give_up(failure, decision, ending)
                return
            self._tell_retry(failure, decision, ending)
            await self._back_off(decision.delay)
        await self._shut_down()

    async def _attempt(self) -> Failure | None:
        """Makes one attempt; returns why it failed, or `None` when the connection is open (or `close()` came)."""
        assert self._opener is not None
        assert self.loop is not None
        number = self.retry.dialing(self.loop.time())
        self.totals["attempts"] += 1
        self._dials_since_loss += 1
        last = self._last_failure
        told_to_provider = Attempt(
            number=number,
            endpoint=last.endpoint if last is not None else None,
            last_failure=last,
            last_close=self.last_close,
        )
        try:
            live = await self._opener.open(
                self.retry.endpoint, told_to_provider, first=not self.totals["opens"]
            )
        except Interrupted:
            return None
        except AttemptFailed as failed:
            self._step(Fact.FAILED)
            failure = failed_attempt(failed, self.retry.next_failure_number(None))
            if self._first_error is None:
                self._first_error = failed.error
            self._last_failure = failure
            return failure
        self._opened(live, number)
        return None

    def _opened(self, live: Live, number: int) -> None:
        assert self.loop is not None
        link, writer, pinger = live.link, live.writer, live.pinger
        assert link is not None
        assert writer is not None
        assert pinger is not None
        now = self.loop.time()
        first = not self.totals["opens"]
        self.totals["opens"] += 1
        self.live = live
        live.opened_at = now
        self.retry.opened()
        close, downtime = self.last_close, 0.0
        if not first:
            assert close is not None
            assert self._lost_at is not None
            downtime = now - self._lost_at
            self.inbox.gap(Gap(close=close, downtime=downtime))
        self._step(Fact.OPENED)
        self._emit(
            OpenEvent(
                attempt=number, endpoint=link.endpoint, subprotocol=link.subprotocol, headers=link.headers, first=first
            )
        )
        if not first:
            assert close is not None
            self._emit(
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
        for waiter in self._ready:
            _wake(waiter)
        live.deliver_to(self.inbox)
        if self.inbox.paused:
            link.pause()
        self.sender.attach(writer, pinger, confirming=self.config.confirms)

    async def _decide(self, failure: Failure, lost_at: float | None) -> Decision:
        assert self.loop is not None
        if self.config.fail_fast and not self.totals["opens"]:
            return Decision(stop=True, rule="fail_fast: the first connection failed")
        decide = self.config.reconnect.decide if self.config.reconnect is not None else None
        verdict: object = None
        if decide is not None:
            try:
                verdict = decide(failure)
                if isinstance(verdict, Awaitable):
                    async with asyncio.timeout(DECIDE_TIMEOUT):
                        verdict = await verdict
            except Stop as stop:
                verdict = stop
            except Exception as error:  # noqa: BLE001 - the program's code must not end the client
                self.failed("decide", error)
                verdict = None
        decision = self.retry.failed(failure, self.loop.time(), verdict, lost_at=lost_at)
        for where, error in decision.errors:
            self.failed(where, error)
        return decision

    async def _back_off(self, delay: float) -> None:
        assert self.loop is not None
        until = self.loop.time() + delay
        await self._sleep(until, lambda: self._interrupted or self._hurried)
        if self._hurried and not self._interrupted:
            earliest = self.loop.time() + self.retry.redial_in(self.loop.time())
            await self._sleep(min(until, earliest), lambda: self._interrupted)
        self._hurried = False
        if not self._interrupted:
            self._step(Fact.DIALED)

    async def _sleep(self, until: float | None, done: Callable[[], bool]) -> None:
        """Waits for the clock or for what `_wake` announces."""
        assert self.loop is not None
        while not done() and (until is None or self.loop.time() < until):
            self._waker = waker = self.loop.create_future()
            timer = self.loop.call_at(until, _wake, waker) if until is not None else None
            try:
                await waker
            finally:
                self._waker = None
                if timer is not None:
                    timer.cancel()

    def _wake(self) -> None:
        if self._waker is not None:
            _wake(self._waker)

    # ------------------------------------------------------------------------------------------ ends

    async def _shut_down(self) -> None:
        """`close()` was called: says goodbye on a connection that is open, and ends."""
        assert self._closing is not None
        closing, live = self._closing, self.live
        ending: Ending | None = None
        if live is not None:
            link, pinger = live.link, live.pinger
            assert link is not None
            assert pinger is not None
            await self._sleep(closing.handshake_until, lambda: live.end is not None or self.sender.is_written)
            if live.end is None:
                pinger.farewell()
                live.discard()
                link.close(closing.code, closing.reason)
                await self._sleep(closing.handshake_until, lambda: live.end is not None)
            if live.end is None:
                live.ended(End(code=None, origin=CloseOrigin.LOCAL, sent_code=closing.code))
            ending, self._ending = self._ending, None
        self._finish(ending)

    def _finish(self, ending: Ending | None) -> None:
        """The end that `close()` asked for."""
        rule = "close() was called"
        if ending is None:
            final = CloseEvent(code=CloseCode.ABNORMAL_CLOSURE, synthesized=True, origin=CloseOrigin.LOCAL)
        else:
            final = close_event(attrs.evolve(ending, origin=CloseOrigin.LOCAL))
        self._end(attrs.evolve(final, rule=rule, final=True), ending)

    def _give_up(self, failure: Failure, decision: Decision, ending: Ending | None) -> None:
        """A rule said stop, of a connection that has ended or of an attempt that has failed."""
        assert self.loop is not None
        text = f"the client has ended: {decision.rule}"
        if decision.exhausted:
            stopped: ClientClosed = RetriesExhausted(
                text, attempts=self.retry.attempt, elapsed=self.retry.elapsed(self.loop.time())
            )
        else:
            stopped = ClientStopped(text)
        cause = failure.error if failure.error is not None else describe_end(failure.close)
        self._stop(stopped, cause, decision.rule, ending, failure)

    def _stop(
        self,
        stopped: ClientClosed,
        cause: BaseException | None,
        rule: str,
        ending: Ending | None = None,
        failure: Failure | None = None,
    ) -> None:
        stopped.__cause__ = cause
        if self._closing is None:
            self.cause = stopped
        if ending is not None:
            final = close_event(ending)
        elif failure is not None and failure.close is not None:
            final = attrs.evolve(failure.close, opened_for=None)
        else:
            final = CloseEvent(
                code=CloseCode.ABNORMAL_CLOSURE,
                synthesized=True,
                origin=CloseOrigin.SETUP if failure is not None and is_setup(failure) else CloseOrigin.NETWORK,
                cause=cause,
            )
        if self.live is not None:
            self.live.cut()
            self.live = None
        self._end(attrs.evolve(final, rule=rule, will_retry=False, final=True), ending)

    def _end(self, final: CloseEvent, ending: Ending | None) -> None:
        """Nothing follows: tells the fate of what is left, and ends with the final event."""
        unsent = self.sender.queue.waiting
        if ending is not None:
            for entry in ending.uncertain:
                self._undelivered(entry, Fate.UNCERTAIN)
        abandoned, uncertain = self.sender.close()
        for entry in abandoned:
            self._undelivered(entry, Fate.ABANDONED)
        for entry in uncertain:
            self._undelivered(entry, Fate.UNCERTAIN)
        final = attrs.evolve(final, unsent=unsent if ending is None else final.unsent, unread=len(self.inbox))
        self.last_close = final
        self.lifecycle.apply(Fact.ENDED)
        if self._pause_timer is not None:
            self._pause_timer.cancel()
        self._emit(final)
        self.dispatcher.end()
        self.inbox.end()
        for waiter in self._ready:
            _wake(waiter)
        _wake(self._closed_future)

    async def _finish_lanes(self) -> None:
        """Gives the callbacks their time, then ends them."""
        assert self.loop is not None
        limit = self.config.close_timeout
        until = self._closing.callbacks_until if self._closing is not None else None
        if until is None and limit is not None:
            until = self.loop.time() + limit
        lanes = self.dispatcher.lanes
        if lanes:
            left = None if until is None else max(0.0, until - self.loop.time())
            await asyncio.wait(lanes, timeout=left)
        late = self.dispatcher.lanes
        for lane in late:
            lane.cancel()
        if late:
            _, deaf = await asyncio.wait(late, timeout=0.1)
            if deaf:
                log.error("a callback swallows cancellation and is left behind")
        if self._finished is not None:
            _wake(self._finished)

    def _terminate(self) -> None:
        """The last resort: whatever is still there ends now, without waiting."""
        if self.state is not State.CLOSED and self.lifecycle.allows(Fact.CLOSE_ASKED):
            self.lifecycle.apply(Fact.CLOSE_ASKED)
        if self.live is not None and self.live.end is None:
            self.live.ended(End(code=None, origin=CloseOrigin.LOCAL))
        if self.state is not State.CLOSED:
            ending, self._ending = self._ending, None
            self._finish(ending)
        for future in (self._closed, self._finished):
            if future is not None:
                _wake(future)

    # ------------------------------------------------------------------------------------------ what connections tell

    def connection_ended(self, live: Live, end: End) -> None:
        """A link has ended, or a heartbeat gave it up."""
        if live is not self.live:
            if self._opener is not None:
                self._opener.ended(live)
            return
        assert self.loop is not None
        now = self.loop.time()
        self.live = None
        self.latency = live.pinger.latency if live.pinger is not None else None
        self._lost_at = now
        self._resent = 0
        unconfirmed = self.sender.queue.unconfirmed
        loss = self.sender.detach(poison=is_poison(end))
        self._resent = loss.resent
        self.closes[end.origin] += 1
        for name in ("received", "bytes_received", "discarded"):
            self.totals[name] += getattr(live, name)
        if live.writer is not None:
            self.totals["sent"] += live.writer.sent
            self.totals["bytes_sent"] += live.writer.bytes_sent
        self._ending = Ending(
            end=end,
            origin=end.origin,
            endpoint=live.link.endpoint if live.link is not None else None,
            at=now,
            opened_for=now - live.opened_at,
            silent_for=live.silent_for,
            unsent=self.sender.queue.waiting - loss.resent,
            unconfirmed=unconfirmed,
            unread=len(self.inbox),
            uncertain=loss.uncertain,
            hint=live.hint,
        )
        self._step(Fact.LOST)
        self._wake()

    def failed(self, where: str, error: BaseException) -> None:
        """Code of the program raised, beside any call of its own."""
        log.error("%s raised %s", where, type(error).__name__, exc_info=error)
        self._emit(ErrorEvent(where=where, exception=error))

    # ------------------------------------------------------------------------------------------ telling

    def _step(self, fact: Fact) -> None:
        """Takes a step of the lifecycle; while closing, what happens changes the state no more."""
        if not self.lifecycle.is_over:
            self.lifecycle.apply(fact)

    def _state_changed(self, old: State, new: State) -> None:
        self._emit(StateEvent(old=old, new=new))

    def _tell_retry(self, failure: Failure, decision: Decision, ending: Ending | None) -> None:
        if ending is not None:
            rule = decision.rule if ending.hint is None else f"{decision.rule}; {ending.hint}"
            self.last_close = attrs.evolve(
                close_event(ending), will_retry=True, retry_in=decision.delay, rule=rule
            )
            self._last_failure = failure
            self._emit(self.last_close)
            for entry in ending.uncertain:
                self._undelivered(entry, Fate.UNCERTAIN)
        cause = failure.error if failure.error is not None else describe_end(failure.close)
        self._emit(RetryEvent(attempt=self.retry.failures, delay=decision.delay, cause=cause, rule=decision.rule))

    def _undelivered(self, entry: Entry, fate: Fate) -> None:
        now = self.loop.time() if self.loop is not None else entry.accepted_at
        age = max(0.0, now - entry.accepted_at)
        event = UndeliveredEvent(
            message=entry.message, fate=fate, accepted_at=time.time() - age, age=age
        )
        if self.lifecycle.is_over or fate in (Fate.ABANDONED,):
            self.undelivered.append(event)
        self._emit(event)

    def _emit(self, event: Event) -> None:
        self.timeline.note(event)
        if isinstance(event, OpenEvent | CloseEvent | RetryEvent):
            quiet = isinstance(event, OpenEvent) or (isinstance(event, CloseEvent) and event.was_clean)
            log.log(logging.INFO if quiet else logging.WARNING, "%s: %s", self.config.addresses.shown, told(event))
        self.dispatcher.emit(event)

    # ------------------------------------------------------------------------------------------ the inbox

    def _inbox_full(self) -> None:
        loop = asyncio.get_running_loop()
        if self.live is not None and self.live.link is not None:
            self.live.link.pause()
        loop.call_soon(self.sender.pump)
        if self._pause_timer is None:
            self._pause_timer = loop.call_later(PAUSE_NOTICE, self._notice_pause)

    def _inbox_relaxed(self) -> None:
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._pause_timer = None
        if self.live is not None and self.live.link is not None:
            self.live.link.resume()

    def _notice_pause(self) -> None:
        self._pause_timer = None
        now = asyncio.get_running_loop().time()
        if now - self._noticed_at < PAUSE_NOTICE_EVERY:
            return
        self._noticed_at = now
        error = InboxFull(
            f"reading has been paused for {PAUSE_NOTICE:g} s: the inbox holds {len(self.inbox)} messages that the "
            f"program does not take. Ways out: take them faster, a larger Inbox, or Inbox(overflow='drop_oldest')"
        )
        log.warning("%s", error)
        self._emit(ErrorEvent(where="inbox", exception=error))

    def _stuck(self) -> None:
        self.sender.stuck()
        if self.live is not None:
            self.live.fail_requests(
                InboxFull("the awaited answer stands behind received messages that the program does not take")
            )


class LiveWatcher:
    """What the heartbeat of one connection tells, bound to that connection."""

    def __init__(self, engine: Engine, live: Live) -> None:
        self._engine = engine
        self._live = live

    def dead(self, cause: str, hint: str | None, /) -> None:
        """The verdict."""
        from resilient_ws.errors import ConnectionLost  # noqa: PLC0415

        self._live.hint = hint
        self._live.ended(End(code=None, origin=CloseOrigin.HEARTBEAT, cause=ConnectionLost(cause)))

    def confirmed(self, entries: Sequence[Entry], /) -> None:
        """A PONG covered what had been written."""
        self._engine.sender.confirmed(entries)

    def failed(self, where: str, error: BaseException, /) -> None:
        """Code of the program raised."""
        self._engine.failed(where, error)


def is_setup(failure: Failure) -> bool:
    """Whether an attempt failed in its set-up."""
    from resilient_ws.errors import SetupFailed, SetupTimeout  # noqa: PLC0415

    return isinstance(failure.error, SetupFailed | SetupTimeout)


async def _call(function: Callable[[], Awaitable[None]]) -> None:
    await function()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
