"""Messages on their way out: from what waits to the connection of the moment, to the end of each message.

The accounting is `resilient_ws.core.delivery`; this module writes, and tells those who wait what has become of a message.
What may come in, and when, is `resilient_ws.delivery.admission`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from resilient_ws.aio.clocks import SteadyClock, boot_clock
from resilient_ws.aio.waiters import Line
from resilient_ws.api.errors import ClientClosed, ConnectionLost, DeliveryUncertain
from resilient_ws.api.events import Fate
from resilient_ws.api.message import Message
from resilient_ws.api.options import Outbox
from resilient_ws.core.delivery import DeliveryQueue, Entry, Loss
from resilient_ws.core.in_flight import Lane
from resilient_ws.delivery.confirmations import Confirmations, fail, off, succeed
from resilient_ws.delivery.inbox import Inbox
from resilient_ws.delivery.ports import Confirmer, Outlet
from resilient_ws.delivery.reply_waiters import Patience

if TYPE_CHECKING:
    from resilient_ws.delivery.durable.store import Persistence

TURN_MESSAGES: Final = 512
"""Messages that may be sent without the event loop having had its turn; then `send` yields once."""

TURN_BYTES: Final = 64 * 1024
"""Bytes of plain messages that are held back for one system call; more are handed over before the turn ends."""

EXPIRY_LOOK: Final = 30.0
"""Seconds after which it is looked at the latest whether a message has expired."""

EARLY: Final = 0.001
"""Seconds by which a timer may fire too early: uvloop counts in milliseconds."""

UNHEARD: Final = 10_000
"""Messages that stay in the file until the program has heard of their fates."""

INLINE_COMPRESSION: Final = 16 * 1024
"""Bytes up to which a compressed message is handed over whole at once; larger ones may take several turns of the loop."""


class Outflow:
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
        "_after",
        "_boot",
        "_confirmations",
        "_confirms",
        "_decided",
        "_deciding",
        "_direct",
        "_drops",
        "_ended",
        "_expiry",
        "_expiry_due",
        "_fresh",
        "_hearing",
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
        "_tell",
        "_told",
        "_turn_open",
        "_untold",
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
        self._tell = tell
        self._after = after
        self._ended = ended
        self._inline = INLINE_COMPRESSION if compresses else math.inf
        self._joined = int(min(TURN_BYTES, self._inline))
        self._direct = self._inline if store is None else -1  # up to which size a message needs no `Entry`
        self._store = store
        self._untold: list[Entry] = []  # whose fate is about to be told, and which are kept until then
        self._decided: list[
            list[tuple[Entry, Fate]]
        ] = []  # fates that the file must know before they are told
        self._deciding: list[tuple[Entry, Fate]] | None = (
            None  # the last of these, in the turn in which it began
        )
        self._told: list[int] = []  # records whose fate was told since `_hearing` began
        self._hearing: list[int] | None = None  # records whose fate the program is about to hear
        self._loop: asyncio.AbstractEventLoop | None = None  # known from the first connection on
        self._writer: Outlet | None = None
        self._pinger: Confirmer | None = None
        self._started = False
        self._over = False
        self._confirms = False  # whatever the options say: a message is to be sent again if it gets lost
        self._silent = False  # the peer answers no pings, as far as is known
        self._line = Line()
        self._lined_up = 0  # how many in it bring messages that may wait in the outbox
        self._watch: Callable[[], None] | None = None
        self.patience = Patience(inbox, self._want)
        self._confirmations = Confirmations(self.queue, self.patience)
        self._turn_open = False
        self._fresh = True  # nothing plain has been sent in this turn
        self._wakes = 0  # of the inbox, when a message was last sent alone
        self.lane = Lane(TURN_MESSAGES)
        self._now = 0.0
        self.clock = clock
        self._boot: Callable[[], float] = clock  # the same, read more cheaply
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_due = math.inf

    # --- the turn of the loop ---

    def _open_turn(self) -> None:
        """What belongs to a loop turn in which something is sent: one clock reading, and one look afterwards."""
        if not self._turn_open:
            loop = self._loop or asyncio.get_running_loop()
            self._turn_open = True
            self._now = self._boot()
            loop.call_soon(self._end_turn)

    def _begin_alone(self) -> bool:
        """Whether a message needs no end of the turn, which is a step of the loop: it answers one that woke the program.

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
        """Hands over what was held back, and asks again before the next message."""
        if self._writer is not None:
            self._writer.flush()
        self.queue.settle()

    def _refused(self, messages: list[Message]) -> None:
        """The link was dead before it was handed these."""
        for evicted in self.queue.take_back(messages, self._now):
            self._settle(evicted, Fate.EVICTED)
        self._arm_expiry()

    def _doubted(self, messages: list[Message]) -> None:
        """Writing these failed, and some of them may have been written; the connection ends now."""
        self.queue.settle()
        if not self.queue.confirming:
            self.queue.doubt(messages, self._now)

    # --- the connection of the moment ---

    def attach(self, writer: Outlet, pinger: Confirmer, *, confirming: bool) -> None:
        """A connection is open: what waits is written, and later messages at once."""
        confirming = self._confirms = confirming or self._confirms
        self._silent = False
        self.queue.connected(confirming=confirming)
        self._loop = asyncio.get_running_loop()
        self._boot = boot_clock()
        self._writer = writer
        self._pinger = pinger
        writer.refused = self._refused
        writer.doubted = self._doubted
        writer.lane.left = self.lane.left
        self.lane = writer.lane
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
        """That connection has ended; returns what it took with it. The caller tells of the uncertain ones.

        Args:
            poison: Whether the peer said that it cannot take what was sent.
            suspect: Whether a message may have ended it.
            how: Returns how the connection ended, in words.
        """
        self._close_lane()
        self._writer = self._pinger = None
        self.lane = Lane(self.lane.left)
        loss = self.queue.lost(poison=poison, suspect=suspect)
        fail(
            loss.uncertain,
            lambda: DeliveryUncertain(f"the connection ended before the peer confirmed the message: {how()}"),
        )
        self._untold = loss.uncertain
        if self._store is not None and loss.resent:
            self._store.count(self.queue.resent())
        if self._store is not None:
            self._store.align(self.queue.watched_waiting())
        self._confirmations.hold("losses", held=bool(loss.uncertain))
        self._progress()
        self._line.wake_all()
        return loss

    async def load(self) -> list[tuple[Entry, Fate]]:
        """Reads what an earlier client left in the file; returns what has an end, for the caller to tell.

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
        self._untold = [entry for entry, _ in ends]
        self._arm_expiry()
        self._line.wake_next()
        return ends

    @property
    def stepped_back(self) -> float:
        """Seconds by which the time of day is behind what the outbox file knows; 0 = it is not."""
        return self._store.stepped_back if self._store is not None else 0.0

    def fates_told(self) -> None:
        """What the end of the last connection, process or client made uncertain has been reported."""
        self._forget_told(self._untold)
        self._untold = []
        self._confirmations.hold("losses", held=False)
        self._progress()

    # --- writing ---

    def pump(self) -> None:
        """Writes what waits, as far as the connection takes it."""
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
        """Whether the next message may be handed to the socket; if not, the file is told first."""
        store, entry = self._store, self.queue.next
        if store is None or entry is None or store.may_write(entry):
            return True
        store.flag(self.queue.watched_waiting(), self._flagged)
        return False

    def _flagged(self) -> None:
        """The file says of what waits that it may have been written."""
        if self._writer is None and self._store is not None:
            self._store.align(self.queue.watched_waiting())
        else:
            self._open_turn()
            self.pump()

    def idle(self) -> None:
        """The connection has room again."""
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
        """Gives up confirmations that cannot come; returns whether `size` bytes may be written now."""
        gone = self.queue.let_go(size)
        fail(
            gone,
            lambda: DeliveryUncertain("unverified: the program does not read, so the PONG cannot come"),
        )
        self._forget(gone)
        return self.queue.fits(size)

    # --- ends ---

    def confirmed(self, entries: Sequence[Entry]) -> None:
        """A PONG has covered what was written, `entries` among it."""
        succeed(entries)
        self._forget(entries)
        self.pump()

    def confirmation_off(self, entries: Sequence[Entry]) -> None:
        """The peer answers no ping; `entries` were written and somebody waits for their confirmation."""
        self._silent = True
        fail(entries, off)
        self._forget(entries)
        self._fail_tokens_of_waiting()
        self.pump()

    def confirmation_on(self) -> None:
        """The peer has answered a ping after all: what is written from now on is confirmed."""
        self._silent = False
        self._turn_on()

    def _turn_on(self) -> None:
        if self._writer is None or self._silent or not self._confirms or self.queue.confirming:
            return
        self._close_lane()
        self.queue.connected(confirming=True)

    def _fail_tokens_of_waiting(self) -> None:
        fail(self.queue.watched_waiting(), off)

    def _settle(self, entry: Entry, fate: Fate) -> None:
        fail((entry,), lambda: DeliveryUncertain(f"the message is {fate.value}: it was never written"))
        if self._store is None or entry.record is None:
            self._tell(entry, fate)
            return
        self._store.decide(entry, fate.value)
        if self._deciding is None:
            self._deciding = []
            self._decided.append(self._deciding)
            self._confirmations.hold("decisions", held=True)
            asyncio.get_running_loop().call_soon(self._store_decisions)
        self._deciding.append((entry, fate))

    def _store_decisions(self) -> None:
        """Tells the fates decided in this turn when they are in the file: told before, a later client could act otherwise."""
        batch, self._deciding = self._deciding, None
        if self._store is not None and batch is not None:
            self._store.when_stored(lambda: self._tell_decided(batch))

    def _tell_decided(self, batch: list[tuple[Entry, Fate]]) -> None:
        if not any(batch is other for other in self._decided):
            return  # told when the client ended
        self._decided = [other for other in self._decided if other is not batch]
        for entry, fate in batch:
            self._tell(entry, fate)
        self._forget_told([entry for entry, _ in batch])
        if not self._decided:
            self._confirmations.hold("decisions", held=False)
            self._progress()

    def _forget_told(self, entries: Sequence[Entry]) -> None:
        """Forgets messages whose fate was told, once the program has heard it: else a kill might hide it for ever."""
        if self._store is None:
            return
        self._told += [entry.record for entry in entries if entry.record is not None]
        spare = len(self._told) - UNHEARD
        if spare > 0:  # callbacks that take no events; as many of those wait at most
            self._store.forget_records(self._told[:spare])
            del self._told[:spare]
        self._hear()

    def _hear(self) -> None:
        if self._hearing is None and self._told:
            self._hearing, self._told = self._told, []
            self._after(self._heard)

    def _heard(self) -> None:
        if self._store is not None and self._hearing:
            self._store.forget_records(self._hearing)
        self._hearing = None
        self._hear()

    def _forget(self, entries: Sequence[Entry]) -> None:
        if self._store is not None:
            self._store.forget(entries)

    def _arm_expiry(self) -> None:
        due = self.queue.next_expiry
        if due is None or (self._expiry is not None and self._expiry_due <= due):
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_due = due
        # The clock of the loop stops while the machine is suspended, so a timer must not be far ahead.
        delay = min(max(0.0, due - self.clock()), EXPIRY_LOOK)
        self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        try:
            self._end_expired(EARLY)
            self._progress()
            self._line.wake_next()
        finally:
            self._arm_expiry()  # whatever went wrong, other messages expire

    def _end_expired(self, early: float = 0.0) -> None:
        due = self.queue.next_expiry
        if due is None:
            return
        for entry in self.queue.expire(self.clock() + early):
            self._settle(entry, Fate.EXPIRED)

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
        """Calls `call` whenever something was written, confirmed or given up; meanwhile confirmations are asked for."""
        self._watch = call
        if call is not None:
            self._want()
            call()

    def _progress(self) -> None:
        """Something was written, confirmed or given up: whoever waits for that looks again."""
        self._confirmations.progress()
        if self._watch is not None:
            self._watch()
