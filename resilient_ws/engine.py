"""Everything of a client but its public face and its owner task: what is asked of it, and what happens to it.

All of it is synchronous or only waits. What happens (a link ends, a heartbeat gives up, `close()` is called) is noted
at once, so that the state is true at any instant, and wakes the owner task, which decides what follows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from resilient_ws.clocks import SteadyClock, boot_time
from resilient_ws.closing import CloseOrigin
from resilient_ws.config import RANDOM, Config
from resilient_ws.dispatch import Dispatcher
from resilient_ws.ending import (
    Closing,
    Ending,
    burst_hint,
    ended_error,
    failed_with,
    is_poison,
    is_suspect,
    told_end,
)
from resilient_ws.errors import ClientClosed, ConnectError, OutboxFileError
from resilient_ws.events import CloseEvent, Event, State
from resilient_ws.inbox import Inbox
from resilient_ws.lifecycle import Fact, Lifecycle
from resilient_ws.live import Live
from resilient_ws.opening import Opener, Subscription
from resilient_ws.outbox import Entry
from resilient_ws.owner import Owner
from resilient_ws.program import current_call
from resilient_ws.retry import RetryState
from resilient_ws.scrubbing import secrets_of
from resilient_ws.sender import Sender
from resilient_ws.stats import Stats
from resilient_ws.tally import Tally
from resilient_ws.telling import PauseNotice, Teller
from resilient_ws.transports.base import End
from resilient_ws.turns import Turns

if TYPE_CHECKING:
    from resilient_ws.persistence import Persistence


CLOCK_STEP: Final = 1.0
"""Seconds by which the time of day may be behind what the outbox file knows before that is told."""


class Engine:
    """The state of one client."""

    __slots__ = (
        "_drain",
        "_latency",
        "_pause_notice",
        "_ready",
        "cause",
        "closing",
        "config",
        "dispatcher",
        "ending",
        "first_error",
        "hurried",
        "inbox",
        "interrupted",
        "last_close",
        "lifecycle",
        "live",
        "loop",
        "lost_at",
        "opener",
        "owner",
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
        self.sender = Sender(
            config.outbox,
            self._store(clock),
            self.inbox,
            clock=clock,
            tell=self.teller.tell_fate,
            after=self.dispatcher.after,
            ended=self.ended_error,
            compresses=config.compresses,
        )
        self.lifecycle = Lifecycle(self.teller.tell_state)
        self.retry = RetryState(
            config.reconnect,
            RANDOM,
            endpoints=config.addresses.count,
            origins=config.addresses.origins,
            provider=config.addresses.is_provided,
        )
        self.tally = Tally(self.sender.queue, self.inbox, self.dispatcher)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.opener: Opener | None = None
        self.turns: Turns | None = None
        self.owner: Owner | None = None
        self.live: Live | None = None
        self.ending: Ending | None = None  # of a connection, until the owner has told of it
        self.lost_at: float | None = None  # in boot time
        self.last_close: CloseEvent | None = None
        self.closing: Closing | None = None
        self.interrupted = False  # `close()` was called, and what it waits for first is over
        self.hurried = False  # a back-off wait is to end
        self.cause: ClientClosed | None = None  # what ended the client, unless `close()` did
        self.first_error: Exception | None = None
        self._latency: float | None = None
        self._ready: list[asyncio.Future[bool]] = []
        self._drain: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------ its life

    @property
    def state(self) -> State:
        """The state now."""
        return self.lifecycle.state

    def now(self) -> float:
        """Seconds of the event loop."""
        return (self.loop or asyncio.get_running_loop()).time()

    def start(self) -> None:
        """Begins connecting."""
        self._begin()
        self.lifecycle.apply(Fact.STARTED)
        self.sender.start()

    def _begin(self) -> None:
        self.loop = asyncio.get_running_loop()
        config = self.config
        self.turns = Turns(config.governor, config.addresses, self.retry, self.teller.note)
        self.opener = Opener(
            config,
            self.turns,
            host=self,
            queue=self.sender.queue,
            subscriptions=self.subscriptions,
            spawn=self.spawn,
            idle=self.sender.idle,
        )
        self.retry.started(boot_time())
        self.owner = Owner(self, self.opener)
        self.owner.start(self.loop)

    async def ready(self) -> None:
        """Waits until the state is OPEN, if only for a moment; raises what ended the client."""
        if self.state is State.OPEN:
            return
        if not self.lifecycle.is_over:
            waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._ready.append(waiter)
            try:
                if await waiter:
                    return
            finally:
                self._ready.remove(waiter)
        error = self.first_error
        if self.config.fail_fast and isinstance(error, ConnectError) and not self.tally.opens:
            raise error
        raise self.ended_error()

    def answer_ready(self, *, is_open: bool) -> None:
        """Those who wait for OPEN are told that it was reached, or that it never will be."""
        for waiter in self._ready:
            if not waiter.done():
                waiter.set_result(is_open)

    def reconnect_now(self, code: int, reason: str) -> None:
        """Ends a back-off wait, or replaces the connection that is open, whose CLOSE says `code` and `reason`."""
        live = self.live
        if self.state is State.OPEN and live is not None and live.link is not None:
            live.link.close(code, reason)
            live.ended(End(code=None, origin=CloseOrigin.LOCAL, sent_code=code))
        elif self.state is State.BACKOFF:
            self.hurried = True
            self._wake()
        if self.turns is not None:
            self.turns.hurry(next_one=self.state is State.BACKOFF)

    def request_close(self, code: int, reason: str, drain: float | None) -> None:
        """Begins to close, once; a later call may only end the draining earlier than the first one said."""
        if self.lifecycle.is_over:
            self._shorten(drain)
            return
        if self.loop is None:
            self._begin()
        assert self.loop is not None
        self._bound(Closing.within(self.config.close_timeout, self.now() + (drain or 0.0), code, reason))
        self.lifecycle.apply(Fact.CLOSE_ASKED)
        drains = drain is not None and not self.sender.is_settled
        self.sender.refuse(keep_waiters=drains)
        self.answer_ready(is_open=False)
        if self.live is not None:
            self.live.fail_requests(self.ended_error())
        if drains and drain is not None:
            self._drain = self.loop.call_later(drain, self._interrupt)
            if self.turns is not None:
                self.turns.hurry(next_one=True)
            self.hurried = True
            self._wake()
            self.sender.watch(self._interrupt_when_settled)
        else:
            self._interrupt()

    def _bound(self, closing: Closing) -> None:
        """Sets the limits of `close()`; the last one holds whoever waits, also where nobody does."""
        assert self.owner is not None
        self.closing = closing
        self.owner.farewell.bind(closing.callbacks_until)

    def _shorten(self, drain: float | None) -> None:
        """`close()` was called once more."""
        until, closing = self.now() + (drain or 0.0), self.closing
        if self._drain is None or self.interrupted or closing is None or until >= self._drain.when():
            return
        self._bound(Closing.within(self.config.close_timeout, until, closing.code, closing.reason))
        self._drain.cancel()
        if drain and self.loop is not None:
            self._drain = self.loop.call_at(until, self._interrupt)
        else:
            self._interrupt()

    def _interrupt_when_settled(self) -> None:
        if self.sender.is_settled:
            self._interrupt()

    def _interrupt(self) -> None:
        """What is under way is given up: the owner goes to the end."""
        if self.interrupted:
            return
        self.interrupted = True
        if self._drain is not None:
            self._drain.cancel()
        self.sender.watch(None)
        self.inbox.end()
        if self.opener is not None:
            self.opener.interrupt()
        self._wake()

    @property
    def is_inside(self) -> bool:
        """Whether the caller is code that the owner task or a lane waits for."""
        return self.dispatcher.inside or (self.owner is not None and self.owner.is_running_here)

    async def wait_closed(self) -> None:
        """Waits until the client is closed and, unless called from inside of it, the callbacks have run."""
        owner, call = self.owner, current_call()
        assert owner is not None
        while not owner.farewell.finished.done():
            if self.is_inside:
                if not owner.is_running_here:
                    await asyncio.shield(owner.farewell.closed)
                return
            if call is None:
                await asyncio.shield(owner.farewell.finished)
                return
            # Code that runs at once (an eager task) runs before a task of ours begins to wait for it.
            with call.noticed(asyncio.get_running_loop()) as notice:
                await asyncio.wait((owner.farewell.finished, notice), return_when=asyncio.FIRST_COMPLETED)

    def ended_error(self) -> ClientClosed:
        """Returns the exception for a call that comes too late."""
        return ended_error(
            self.cause,
            is_closed=self.state is State.CLOSED,
            last_close=self.last_close,
            undelivered=self.teller.undelivered,
        )

    def spawn(self, name: str, function: Callable[[], Awaitable[None]]) -> asyncio.Task[None] | None:
        """Starts a child of the owner task; `None` while there is none."""
        return self.owner.spawn(name, function) if self.owner is not None else None

    @property
    def is_ending(self) -> bool:
        """Whether somebody cancels the owner task."""
        return self.owner is not None and self.owner.is_cancelled

    def step(self, fact: Fact) -> None:
        """Takes a step of the lifecycle; while closing, what happens changes the state no more."""
        if not self.lifecycle.is_over:
            self.lifecycle.apply(fact)

    def _wake(self) -> None:
        if self.owner is not None:
            self.owner.wake()

    def log_raised(self, what: str, error: BaseException, /) -> None:
        """Logs what user code has raised."""
        self.teller.log_raised(what, error)

    def _secrets(self) -> set[str]:
        """What must not be shown of the addresses, headers and subprotocols in use."""
        last = self.owner.last_endpoint if self.owner is not None else None
        endpoints = (*self.config.addresses.known, *((last,) if last is not None else ()))
        return set().union(*(secrets_of(endpoint) for endpoint in endpoints))

    # ------------------------------------------------------------------------------------------ what is known

    @property
    def latency(self) -> float | None:
        """The last round trip, in seconds."""
        live = self.live
        now = live.pinger.latency if live is not None and live.pinger is not None else None
        return now if now is not None else self._latency

    @property
    def waiting_for(self) -> str:
        """In words, what the client itself waits for; empty where nothing stands in its way."""
        state = self.state
        if state is State.OPEN:
            unread = f"the inbox holds {len(self.inbox)} messages that the program does not take"
            return f"the program: {unread}, so reading is paused" if self.inbox.paused else ""
        if self.owner is None or self.lifecycle.is_over:
            return ""
        return self.owner.waits_for()

    def standing(self) -> str:
        """Returns in words where the client stands and what stands in the way: for the text of a `TimeoutError`."""
        waits, failure = self.waiting_for, self.owner.last_failure if self.owner is not None else None
        text = f"the client is {self.state.value}"
        if self.state is not State.OPEN:
            text += f" (attempt {self.retry.attempt})"
        if waits:
            text += f" and waits for {waits}"
        if failure is not None and self.state is not State.OPEN:
            text += f"; the last failure: {failed_with(failure)}"
        return text

    def stats(self) -> Stats:
        """The numbers as of now."""
        numbers, turns, address = self.tally.stats(self.live), self.turns, self.retry.endpoint
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

    def connection_ended(self, live: Live, end: End, /, *, wakes: bool) -> None:
        """A link has ended, or a heartbeat gave it up."""
        if live is not self.live:
            if self.opener is not None:
                self.opener.ended(live)
            return
        now = boot_time()
        self._latency = self.latency
        self.live = None
        self.inbox.is_connected = False
        self.lost_at = now
        queue = self.sender.queue
        unsent, unconfirmed = queue.waiting, queue.unconfirmed
        suspect = is_suspect(end) or live.write_failed
        loss = self.sender.detach(poison=is_poison(end), suspect=suspect, how=lambda: told_end(end))
        self.tally.closes[CloseOrigin.LOCAL if self.interrupted else end.origin] += 1
        self.tally.add(live)
        self.ending = Ending(
            end=end,
            endpoint=live.link.endpoint if live.link is not None else None,
            at=now,
            opened_for=now - live.opened_at,
            silent_for=live.silent_for,
            unsent=unsent,
            unconfirmed=unconfirmed,
            unread=len(self.inbox),
            uncertain=loss.uncertain,
            resent=loss.resent,
            hint=live.hint or self._burst_hint(end, now - live.opened_at),
            excused=queue.suspects,
        )
        self.step(Fact.LOST)
        if wakes:
            self._wake()

    def _burst_hint(self, end: End, opened_for: float) -> str | None:
        policy = self.config.reconnect
        soon = opened_for < (policy.min_uptime if policy is not None else math.inf)
        return burst_hint(end, len(self.subscriptions)) if soon else None

    def wake(self) -> None:
        """The owner task tells of an end, and then the callbacks are called, within this call."""
        if self.owner is not None and self.ending is not None:
            self.dispatcher.serve_at_once(self.owner.go_on)

    def gave_up(self, live: Live, /) -> None:
        """A connection is over before it was open."""
        self.tally.add(live)

    def confirmed(self, entries: Sequence[Entry], /) -> None:
        """The peer has read what was written; somebody waits for these."""
        self.sender.confirmed(entries)

    def answered(self, written: int, /) -> None:
        """The peer has answered a request."""
        self.sender.answered(written)

    def confirmation_off(self, entries: Sequence[Entry], /) -> None:
        """The peer answers no ping; somebody waits for these."""
        self.sender.confirmation_off(entries)
        self.teller.tell_unconfirmed()

    def confirmation_on(self) -> None:
        """The peer has answered a ping after all."""
        self.sender.confirmation_on()
        self.teller.note("the peer has answered a ping after all: confirmation is on again")

    def failed(self, where: str, error: BaseException, /) -> None:
        """Code of the program raised, beside any call of its own."""
        self.teller.tell_failure(where, error)

    def tell(self, event: Event) -> None:
        """Says what happened."""
        self.teller.tell(event)

    # ------------------------------------------------------------------------------------------ the inbox

    def left_open(self) -> str | None:
        """Returns what is wrong with a client that is garbage now, in words; `None` = it was closed, or has done nothing."""
        queue, state = self.sender.queue, self.state
        count = queue.waiting + queue.unconfirmed
        if state is State.IDLE:
            return f"was never started: {_messages(count)} lost" if count else None
        if self.lifecycle.is_over:
            return None
        if self.config.outbox.path is not None:
            kept = "no accepted message is lost, they are in the outbox file"
            return f"was not closed: {kept}" if count else "was not closed"
        return f"was not closed: {_messages(count)} lost" if count else "was not closed"

    def tell_clock(self) -> None:
        """Says that the time of day was set back, if it was, so that the ages of messages in the file are guesses."""
        behind = self.sender.stepped_back
        if behind > CLOCK_STEP:
            error = OutboxFileError(
                Path(self.config.outbox.path or ""),
                f"was last used {behind:.0f} s later than it is now, so the clock was set back: messages with a ttl may be "
                "older than they seem",
            )
            self.teller.warn("outbox", error)

    def _store(self, clock: SteadyClock) -> Persistence | None:
        outbox = self.config.outbox
        if outbox.path is None or outbox.durability is None:
            return None
        from resilient_ws.persistence import Persistence  # loads SQLite, which not every Python has

        return Persistence(
            outbox.path,
            outbox.durability,
            clock=clock,
            drops=outbox.overflow in {"drop_oldest", "drop_newest"},
            failed=lambda error: self.teller.tell_failure("outbox", error),
        )

    def quiet(self) -> None:
        """The client has ended: no timer of its own stays."""
        self._pause_notice.end()
        if self._drain is not None:
            self._drain.cancel()

    def inbox_full(self) -> None:
        """Reading is to pause."""
        loop = asyncio.get_running_loop()
        if self.live is not None and self.live.link is not None:
            self.live.link.pause()
        loop.call_soon(self.sender.pump)
        if self.state is not State.CLOSED:
            self._pause_notice.begin(loop)

    def inbox_relaxed(self) -> None:
        """Reading may go on."""
        self._pause_notice.end()
        if self.live is not None and self.live.link is not None:
            self.live.link.resume()

    def inbox_stuck(self) -> None:
        """What somebody waits for cannot come."""
        self.sender.patience.stuck()


def _messages(count: int) -> str:
    return "1 accepted message is" if count == 1 else f"{count} accepted messages are"
