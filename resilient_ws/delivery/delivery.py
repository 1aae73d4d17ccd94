"""Delivery of outgoing messages: what outlives a connection, from `send` to the end of each message.

`resilient_ws.core.delivery` keeps the books. This module admits messages, writes them to the current connection, and wakes the
calls that wait for their end. It takes each decision between two awaits, never across one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from resilient_ws.aio.clocks import SteadyClock, boot_clock
from resilient_ws.aio.waiters import Line
from resilient_ws.api.errors import (
    ClientClosed,
    ConnectionLost,
    DeliveryUncertain,
    MessageTooBig,
    NotConnected,
    OutboxFull,
)
from resilient_ws.api.events import Fate
from resilient_ws.api.message import Message
from resilient_ws.api.options import Outbox
from resilient_ws.core.delivery import DeliveryQueue, Entry, Loss
from resilient_ws.core.in_flight import FastLane
from resilient_ws.delivery.confirmations import Confirmations, Token, fail, off, refused, succeed
from resilient_ws.delivery.expiry import Expiry
from resilient_ws.delivery.fates import Fates
from resilient_ws.delivery.inbox import Inbox
from resilient_ws.delivery.ports import Confirmer, Feed, Outlet
from resilient_ws.delivery.reply_waiters import Patience

if TYPE_CHECKING:
    from resilient_ws.delivery.durable.store import Persistence

TURN_MESSAGES: Final = 512
"""Messages that may be sent without the event loop having had its turn; then `send` yields once."""

TURN_BYTES: Final = 64 * 1024
"""Bytes of plain messages that are held back for one system call; more are handed over before the turn ends."""

INLINE_COMPRESSION: Final = 16 * 1024
"""Bytes up to which a compressed message is handed over whole at once; larger ones may take several turns of the loop."""


class Delivery:
    """The outgoing side of a client, over all its connections.

    Args:
        options: The bounds and rules.
        store: Keeps messages in a file; `None` = in memory only.
        inbox: Through which the answers to waiting calls must come.
        clock: Tells the time that entries have.
        tell: Called with an entry and its fate, when a message is expired or evicted.
        after: Calls a function when the program has heard of the fates told until now.
        ended: Returns the exception for a call that comes when, or is blocked until, the client ends.
        compresses: Whether the transport compresses.
    """

    __slots__ = (
        "_boot",
        "_confirmations",
        "_confirms",
        "_direct",
        "_drops",
        "_ended",
        "_expiry",
        "_fates",
        "_fresh",
        "_inbox",
        "_inline",
        "_joined",
        "_line",
        "_lined_up",
        "_loop",
        "_now",
        "_options",
        "_over",
        "_pinger",
        "_silent",
        "_started",
        "_store",
        "_turn_open",
        "_wakes",
        "_watch",
        "_writer",
        "clock",
        "lane",
        "patience",
        "queue",
    )

    def __init__(
        self,
        options: Outbox,
        store: Persistence | None,
        inbox: Inbox,
        *,
        clock: SteadyClock,
        tell: Callable[[Entry, Fate], None],
        after: Callable[[Callable[[], None]], None],
        ended: Callable[[], ClientClosed],
        compresses: bool,
    ) -> None:
        self.queue = DeliveryQueue(options)
        self._options = options
        self._drops = options.overflow in {"drop_oldest", "drop_newest"}
        self._inbox = inbox
        self._ended = ended
        self._inline = INLINE_COMPRESSION if compresses else math.inf
        self._joined = int(min(TURN_BYTES, self._inline))
        self._direct = self._inline if store is None else -1  # up to which size a message needs no `Entry`
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None  # known from the first connection on
        self._writer: Outlet | None = None
        self._pinger: Confirmer | None = None
        self._started = False
        self._over = False
        self._confirms = False  # regardless of the options, a message is resent if lost
        self._silent = False  # the peer answers no pings, as far as is known
        self._line = Line()
        self._lined_up = 0  # how many in it bring messages that may wait in the outbox
        self._watch: Callable[[], None] | None = None
        self.patience = Patience(inbox, self._want)
        self._confirmations = Confirmations(self.queue, self.patience)
        self._fates = Fates(store, self._confirmations, tell=tell, after=after, progress=self._progress)
        self._turn_open = False
        self._fresh = True  # nothing plain has been sent in this turn
        self._wakes = 0  # of the inbox, when a message was last sent alone
        self.lane = FastLane(TURN_MESSAGES)
        self._now = 0.0
        self.clock = clock
        self._boot: Callable[[], float] = clock  # the same, read more cheaply
        self._expiry = Expiry(self.queue, clock, self._expire)

    # --- sending ---

    async def send(
        self,
        message: Message,
        size: int,
        *,
        ttl: float | None,
        confirm: bool,
        queue: bool,
        resend: bool,
        key: str | None,
        priority: int,
    ) -> None:
        """Accept one message; see `WebSocketClient.send`."""
        if size > self._options.max_bytes:
            raise MessageTooBig(
                f"the message has {size} bytes, outbox.max_bytes is {self._options.max_bytes}",
                size=size,
                limit=self._options.max_bytes,
            )
        await self._admission(size, queue, key)
        now = self.clock()
        token = self._token(confirm)
        if resend and queue and not self._confirms:
            self._confirms = True
            self._turn_on()
        entry = Entry(
            message,
            size,
            now,
            resend and queue,
            expires_at=math.inf if ttl is None else now + ttl,
            priority=priority,
            key=key,
            token=token,
        )
        if queue:
            if self._store is not None:
                await self._keep(self._store, entry)
            self._enqueue(entry)
            self._expiry.arm()
        else:
            self._write_unqueued(entry)
        if token is not None:
            await self._confirmations.of(token)

    async def admit_unqueued(self, size: int, answer: asyncio.Future[Message]) -> None:
        """Wait until a message that must not wait may be written, or until its `answer` is known not to come."""
        answer.add_done_callback(self._look_again)
        try:
            if not self._admits(size, queue=False, key=None, first=not self._line):
                await self._line.join(
                    lambda first: answer.done() or self._admits(size, queue=False, key=None, first=first)
                )
        finally:
            answer.remove_done_callback(self._look_again)

    def _look_again(self, answer: asyncio.Future[Message]) -> None:
        answer.exception()  # retrieved, in case the call has ended otherwise
        self._line.wake_all()

    def write_unqueued(self, message: Message, size: int) -> int:
        """Write it; `admit_unqueued` has returned in this same step.

        Returns:
            For `answered`.

        Raises:
            NotConnected: The connection is gone.
        """
        self._write_unqueued(Entry(message, size, self.clock(), resend=False))
        return self.queue.written_so_far

    def answered(self, written: int) -> None:
        """Confirm a message of `write_unqueued` that was answered, and everything written before it."""
        self._close_lane()
        entries = self.queue.confirm_first(written)
        self.confirmed(entries)

    def send_now(self, message: Message, size: int) -> bool:
        """Send a plain message without any waiting, where nothing stands in its way; return whether it did.

        The first one of a turn leaves at once; the others leave together, at the end of the turn or with the next ping.
        Where the first one answers what has woken the program, the second one leaves at once, too.
        """
        writer, lane = self._writer, self.lane
        if lane.put(message, size):
            return True
        if writer is None or writer.busy or self._line or self._over or lane.left <= 0 or size > self._direct:
            return False
        if lane.held:
            writer.flush()
            if writer.busy:
                return False
        lane.limit = -1
        alone = not self._turn_open and self._begin_alone()
        if not (alone or self._turn_open):
            self._open_turn()
        if not self.queue.write_through(message, size, self._now):
            return False
        lane.left -= 1
        if not self._fresh:
            lane.hold(message, size)
            self.queue.open(lane, self._now, self._joined)
            return True
        try:
            writer.write(message, size)
        except ConnectionLost:
            lane.left += 1
            self.queue.retract(size)
            return False
        except BaseException as error:  # noqa: BLE001 - `fail` raises what must pass
            # Some of it may have been written: it stays unconfirmed, and becomes uncertain with the connection.
            if not self.queue.confirming:
                self.queue.doubt([message], self._now)
            writer.fail(error)
            return True
        if alone:
            self._note_writing()
        else:
            self._fresh = False
        return True

    async def _keep(self, store: Persistence, entry: Entry) -> None:
        """Store a message, which is accepted then; the order of the calls is that in which they return."""
        self.queue.reserve(entry.size)
        try:
            await store.keep(entry, flagged=self._writer is not None)
        finally:
            self.queue.release(entry.size)
            self._line.wake_next()
        if self._over:
            store.forget((entry,))
            raise self._ended()
        if entry.flagged and self._writer is None:
            store.align((entry,))

    def _enqueue(self, entry: Entry) -> None:
        self._close_lane()  # before it gets its place: if the link is dead, what was held waits in front of it
        for evicted in self.queue.accept(entry):
            if self._store is not None and evicted is not entry and evicted.position == entry.position:
                self._store.take_place(entry, evicted)
            self._fates.settle(evicted, Fate.EVICTED)
        self.lane.left -= 1
        self._open_turn()
        self.pump()

    def _write_unqueued(self, entry: Entry) -> None:
        self._close_lane()
        if not self.queue.waiting:
            self._enqueue(entry)
            if not self.queue.waits(entry):
                return
            self.queue.withdraw(entry)
        # Nothing waited when it was admitted: the link is dead and has not said so yet.
        raise NotConnected("the connection has just ended, and queue=False asks for one")

    # --- admission ---

    async def _admission(self, size: int, queue: bool, key: str | None) -> None:
        """Wait until a message may be accepted, in the order of the calls."""
        # Where the oldest or the newest is dropped, a message that may wait in the outbox does not wait for one that may not.
        drops = self._drops and queue
        if self._admits(size, queue, key, first=not self._line or (drops and not self._lined_up)):
            return
        self._lined_up += queue
        try:
            await self._line.join(lambda first: self._admits(size, queue, key, first or drops))
        finally:
            self._lined_up -= queue

    def _admits(self, size: int, queue: bool, key: str | None, first: bool) -> bool:
        """Return whether it may be accepted now; raise where waiting would be wrong."""
        self._refuse_if_over()
        if self._writer is not None and (self.lane.left <= 0 or not first):
            # A loop of sends must not starve the rest of the program, nor overtake those who wait.
            return False
        if not queue:
            return self._admits_unqueued(size)
        if self._store is not None and not (first and self._is_loaded):
            return False
        if self._drops:
            return True
        if first and self.queue.has_room(size, key):
            return True
        self._end_expired()  # the machine may have slept, and the timer with it
        if first and self.queue.has_room(size, key):
            return True
        if self._writer is None and self._options.overflow == "raise":
            raise OutboxFull(
                f"no connection is open and the outbox is full: {self.queue.waiting} messages, "
                f"{self.queue.waiting_bytes} bytes wait"
            )
        if not self._started:
            raise NotConnected("the outbox is full: call start() before sending more")
        if first and self._is_stuck:
            self.pump()
            if self._is_stuck:
                raise _deaf()
        return first and self.queue.has_room(size, key)

    def _admits_unqueued(self, size: int) -> bool:
        if self._writer is None:
            raise NotConnected("there is no open connection, and queue=False asks for one")
        if self._writer.busy or self.queue.waiting or self.queue.is_reserved:
            return False
        if self.queue.fits(size):
            return True
        if self._inbox.paused and not self._let_go(size):
            raise _deaf()
        return self.queue.fits(size)

    @property
    def _is_loaded(self) -> bool:
        """Whether the outbox file, if there is one, has been read; raise where waiting for that would be wrong."""
        self._refuse_if_over()
        if self._store is None or self._store.is_open:
            return True
        if not self._started:
            raise NotConnected("the outbox file is opened when the client is started, and it has not been")
        return False

    def _refuse_if_over(self) -> None:
        if self._over:
            raise self._ended()

    def _token(self, confirm: bool) -> Token | None:
        if not confirm:
            return None
        if not self._started:
            raise NotConnected("call start() before send(confirm=True)")
        if self._writer is not None and not self.queue.confirming:
            raise refused()
        return asyncio.get_running_loop().create_future()

    # --- waiting for the end of messages ---

    async def flush(self) -> None:
        """Wait until each message accepted before has its end; see `WebSocketClient.flush`."""
        if not self._is_loaded:
            await self._line.wait(lambda _: self._is_loaded)
        self._close_lane()  # if the link is dead, what was held is accepted anew
        position = self.queue.barrier()
        if self.queue.is_settled(position) and not self._confirmations.held:
            return
        if not self._started:
            raise NotConnected("call start() before flush()")
        await self._confirmations.behind(position)

    # --- the turn of the loop ---

    def _open_turn(self) -> None:
        """Prepare an iteration of the loop in which messages are sent: read the clock once, and flush at its end."""
        if not self._turn_open:
            loop = self._loop or asyncio.get_running_loop()
            self._turn_open = True
            self._now = self._boot()
            loop.call_soon(self._end_turn)

    def _begin_alone(self) -> bool:
        """Return whether a message needs no end of the turn, which is a step of the loop: it answers one that woke the program.

        What is sent behind it before another one wakes the program opens the turn as ever. Who waits for confirmations
        has asked for them already.
        """
        wakes = self._inbox.wakes
        if self._wakes == wakes or self._loop is None:
            return False
        self._wakes = wakes
        self._now = self._boot()
        self.lane.left = TURN_MESSAGES
        return True

    def _end_turn(self) -> None:
        self._turn_open = False
        self._fresh = True
        self._close_lane()
        self.lane.left = TURN_MESSAGES
        if self.patience.asks or self._watch is not None:
            self._want()
        self._note_writing()
        if self._drops and self._lined_up:
            self._line.wake_all()  # the first one may be a message that must not wait in the outbox, and stay where it is
        else:
            self._line.wake_next()

    def _note_writing(self) -> None:
        if self._pinger is not None:
            self._pinger.wrote()

    def _want(self) -> None:
        if self._pinger is not None:
            self._pinger.want()

    def _close_lane(self) -> None:
        """Hand over what was held back, and ask again before the next message."""
        if self._writer is not None:
            self._writer.flush()
        self.queue.settle()

    def _refused(self, messages: list[Message]) -> None:
        """Make messages pending again: the link was dead before it received them."""
        for evicted in self.queue.take_back(messages, self._now):
            self._fates.settle(evicted, Fate.EVICTED)
        self._expiry.arm()

    def _doubted(self, messages: list[Message]) -> None:
        """Handle a failed write, after which some of the messages may have been written; the connection ends."""
        self.queue.settle()
        if not self.queue.confirming:
            self.queue.doubt(messages, self._now)

    # --- the current connection ---

    def attach(self, writer: Outlet, pinger: Confirmer, *, confirming: bool) -> None:
        """Attach an open connection: pending messages are written, and later ones at once."""
        confirming = self._confirms = confirming or self._confirms
        self._silent = False
        self.queue.connected(confirming=confirming)
        self._loop = asyncio.get_running_loop()
        self._boot = boot_clock()
        self._writer = writer
        self._pinger = pinger
        writer.serve(Feed(self.lane, self._refused, self._doubted))
        if not confirming:
            self._fail_tokens_of_waiting()
        if self._store is not None:
            self._store.flag(self.queue.watched_waiting(), self._flagged)
        pinger.opened()  # before what waits, which would make the round trip longer
        self.pump()
        self._open_turn()
        if self.patience.asks:
            pinger.want()

    def detach(self, *, poison: bool, suspect: bool, how: Callable[[], str]) -> Loss:
        """Detach a connection that ended and return its loss; the caller reports the uncertain messages.

        Args:
            poison: Whether the peer said that it cannot take what was sent.
            suspect: Whether a message may have ended it.
            how: Returns how the connection ended, in words.
        """
        self._close_lane()
        self._writer = self._pinger = None
        self.lane = FastLane(self.lane.left)
        loss = self.queue.lost(poison=poison, suspect=suspect)
        fail(
            loss.uncertain,
            lambda: DeliveryUncertain(f"the connection ended before the peer confirmed the message: {how()}"),
        )
        self._fates.untold = loss.uncertain
        if self._store is not None and loss.resent:
            self._store.count(self.queue.resent())
        if self._store is not None:
            self._store.align(self.queue.watched_waiting())
        self._confirmations.hold("losses", held=bool(loss.uncertain))
        self._progress()
        self._line.wake_all()
        return loss

    async def load(self) -> list[tuple[Entry, Fate]]:
        """Read what an earlier client left in the file; return what has an end, for the caller to tell.

        `fates_told` follows.

        Raises:
            OutboxFileError: The file cannot be used.
        """
        if self._store is None:
            return []
        ends = self.queue.restore(await self._store.open())
        for entry, fate in ends:
            if fate is not Fate.UNCERTAIN and entry.fate is None:
                self._store.decide(entry, fate.value)
        for entry in self.queue.watched_waiting():
            self._store.keep_place(entry)
        self._fates.untold = [entry for entry, _ in ends]
        self._expiry.arm()
        self._line.wake_next()
        return ends

    @property
    def stepped_back(self) -> float:
        """Seconds by which the time of day is behind what the outbox file knows; 0 = it is not."""
        return self._store.stepped_back if self._store is not None else 0.0

    def fates_told(self) -> None:
        """Note that the uncertain messages of the last connection, process or client have been reported."""
        self._fates.told()

    # --- writing ---

    def pump(self) -> None:
        """Write what waits, as far as the connection takes it."""
        queue, writer = self.queue, self._writer
        if writer is None:
            return
        self._close_lane()
        self._end_expired()
        while not writer.busy and self._may_write_next():
            entry = queue.take()
            if entry is None:
                if self._is_stuck and self._let_go(queue.next_size):
                    continue
                break
            try:
                writer.write(entry.message, entry.size)
            except ConnectionLost:
                queue.untake()
                return
            except BaseException as error:  # noqa: BLE001 - `fail` raises what must pass
                writer.fail(error)  # it is in hand, so it becomes uncertain with the connection
                return
            if writer.busy and entry.size > self._inline:
                break  # it is in hand until it has been compressed
            self._written()
        if queue.waiting and not writer.busy:
            self._want()
        self._progress()
        self._line.wake_next()

    def _may_write_next(self) -> bool:
        """Return whether the next message may be handed to the socket; if not, the file is told first."""
        store, entry = self._store, self.queue.next
        if store is None or entry is None or store.may_write(entry):
            return True
        store.flag(self.queue.watched_waiting(), self._flagged)
        return False

    def _flagged(self) -> None:
        """Write the messages that the file now flags as written."""
        if self._writer is None and self._store is not None:
            self._store.align(self.queue.watched_waiting())
        else:
            self._open_turn()
            self.pump()

    def idle(self) -> None:
        """Continue writing: the connection has room again."""
        if self.queue.has_hand:
            self._written()
        self._open_turn()
        self.pump()

    def _written(self) -> None:
        entry = self.queue.written()
        if entry is not None:
            fail((entry,), off)
            self._forget((entry,))

    @property
    def _is_stuck(self) -> bool:
        """Whether what waits needs a PONG that cannot come, since our own full inbox keeps us from reading."""
        writer, queue = self._writer, self.queue
        if not self._inbox.paused or writer is None or writer.busy:
            return False
        return queue.waiting > 0 and not queue.fits(queue.next_size)

    def _let_go(self, size: int) -> bool:
        """Give up confirmations that cannot come; return whether `size` bytes may be written now."""
        gone = self.queue.let_go(size)
        fail(
            gone,
            lambda: DeliveryUncertain("unverified: the program does not read, so the PONG cannot come"),
        )
        self._forget(gone)
        return self.queue.fits(size)

    # --- ends ---

    def confirmed(self, entries: Sequence[Entry]) -> None:
        """Handle confirmed messages, `entries` among them."""
        succeed(entries)
        self._forget(entries)
        self.pump()

    def confirmation_off(self, entries: Sequence[Entry]) -> None:
        """Turn confirmation off: the peer answers no ping; `entries` have waiters."""
        self._silent = True
        fail(entries, off)
        self._forget(entries)
        self._fail_tokens_of_waiting()
        self.pump()

    def confirmation_on(self) -> None:
        """Turn confirmation on again: the peer has answered a ping after all."""
        self._silent = False
        self._turn_on()

    def _turn_on(self) -> None:
        if self._writer is None or self._silent or not self._confirms or self.queue.confirming:
            return
        self._close_lane()
        self.queue.connected(confirming=True)

    def _fail_tokens_of_waiting(self) -> None:
        fail(self.queue.watched_waiting(), off)

    def _forget(self, entries: Sequence[Entry]) -> None:
        if self._store is not None:
            self._store.forget(entries)

    def _expire(self, early: float) -> None:
        self._end_expired(early)
        self._progress()
        self._line.wake_next()

    def _end_expired(self, early: float = 0.0) -> None:
        due = self.queue.next_expiry
        if due is None:
            return
        for entry in self.queue.expire(self.clock() + early):
            self._fates.settle(entry, Fate.EXPIRED)

    # --- progress ---

    @property
    def is_written(self) -> bool:
        """Whether nothing waits to be written, or to be handed over whole."""
        return not self.queue.waiting and not self.queue.has_hand

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits, nothing is unconfirmed, and nothing is in a file that has not been read yet."""
        if self._store is not None and self._started and not self._store.is_open:
            return False
        return not self.queue.waiting and not self.queue.unconfirmed

    def watch(self, call: Callable[[], None] | None) -> None:
        """Call `call` whenever something was written, confirmed or given up; meanwhile confirmations are asked for."""
        self._watch = call
        if call is not None:
            self._want()
            call()

    def _progress(self) -> None:
        """Something was written, confirmed or given up: whoever waits for that looks again."""
        self._confirmations.progress()
        if self._watch is not None:
            self._watch()

    # --- the life of the client ---

    def start(self) -> None:
        """From now on waiting makes sense, and this is the event loop."""
        self._started = True
        self._expiry.cancel()
        self._expiry.arm()

    def refuse(self, *, keep_waiters: bool) -> None:
        """Refuse further messages and end blocked calls: the client is closing.

        Args:
            keep_waiters: Whether calls that wait for confirmations may go on, since `close(drain=)` does so too.
        """
        self._close_lane()
        self._over = True
        self._line.fail(self._ended)
        if self._store is not None:
            self._store.refuse(self._ended)
        if not keep_waiters:
            self.patience.fail(self._ended)

    def end_file(self) -> None:
        """Begin to close the file, if there is one."""
        if self._store is not None:
            self._store.end()

    async def close_file(self) -> None:
        """Close the file, if there is one, and return when it is free for others."""
        if self._store is not None:
            await self._store.close()

    def close(self) -> tuple[list[Entry], list[Entry]]:
        """End the outbox; return the abandoned and the uncertain messages."""
        self._over = True
        self._fates.tell_decided()
        self._close_lane()
        self._writer = self._pinger = None
        self.lane = FastLane()
        self._expiry.cancel()
        remains = self.queue.close(keep=self._store is not None)
        self.refuse(keep_waiters=False)
        left = self.queue.watched_waiting()
        fail((*remains.abandoned, *remains.uncertain, *left), self._ended)
        if self._store is not None:
            self._store.align(left)
        self._fates.untold = [*self._fates.untold, *remains.uncertain]
        return remains.abandoned, remains.uncertain


def _deaf() -> OutboxFull:
    return OutboxFull("the outbox is full, and no PONG can come while the program does not read")
