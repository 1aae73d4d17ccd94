"""The way of a message from `send` to the socket: admission, order, back-pressure, and who waits for what.

The accounting is `resilient_ws.outbox`; this module adds only waiting, and the writing to the connection of the
moment. Decisions are taken between two awaits, never across one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final

from resilient_ws.confirming import Confirmations, Token, fail, off, succeed
from resilient_ws.errors import (
    ClientClosed,
    ConnectionLost,
    DeliveryUncertain,
    MessageTooBig,
    NotConnected,
    OutboxFull,
)
from resilient_ws.events import Fate, Message
from resilient_ws.inbox import Inbox
from resilient_ws.line import Line
from resilient_ws.options import Outbox
from resilient_ws.outbox import DeliveryQueue, Entry, Loss
from resilient_ws.patience import Patience
from resilient_ws.pinger import Pinger
from resilient_ws.writer import Writer

TURN_MESSAGES: Final = 512
"""Messages that may be sent without the event loop having had its turn; then `send` yields once."""

INLINE_COMPRESSION: Final = 16 * 1024
"""Bytes up to which a compressed message is handed over whole at once (aiohttp compresses larger ones in a thread)."""


class Sender:
    """The outgoing side of a client, over all its connections.

    Args:
        options: The bounds and rules.
        inbox: Through which the answers to waiting calls must come.
        tell: Called with an entry and its fate, when a message is expired or evicted.
        ended: Returns the exception for a call that comes when, or is blocked until, the client ends.
        compresses: Whether the transport compresses.
    """

    def __init__(
        self,
        options: Outbox,
        inbox: Inbox,
        *,
        tell: Callable[[Entry, Fate], None],
        ended: Callable[[], ClientClosed],
        compresses: bool,
    ) -> None:
        self.queue = DeliveryQueue(options)
        self._options = options
        self._drops = options.overflow in {"drop_oldest", "drop_newest"}
        self._inbox = inbox
        self._tell = tell
        self._ended = ended
        self._inline = INLINE_COMPRESSION if compresses else math.inf
        self._writer: Writer | None = None
        self._pinger: Pinger | None = None
        self._started = False
        self._over = False
        self._line = Line()
        self._watch: Callable[[], None] | None = None
        self.patience = Patience(inbox, self._want)
        self._confirmations = Confirmations(self.queue, self.patience)
        self._turn_open = False
        self._turn_left = TURN_MESSAGES
        self._now = 0.0
        self._expiry: asyncio.TimerHandle | None = None

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
        """Accepts one message; see `WebSocketClient.send`."""
        if size > self._options.max_bytes:
            raise MessageTooBig(
                f"the message has {size} bytes, outbox.max_bytes is {self._options.max_bytes}",
                size=size,
                limit=self._options.max_bytes,
            )
        loop = asyncio.get_running_loop()
        await self._admission(size, queue, key)
        now = loop.time()
        token = self._token(confirm)
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
            self._enqueue(entry)
            self._arm_expiry()
        else:
            self._write_unqueued(entry)
        if token is not None:
            await self._confirmations.of(token)

    async def admit_unqueued(self, size: int) -> None:
        """Waits until a message that must not wait may be written."""
        await self._admission(size, queue=False, key=None)

    def write_unqueued(self, message: Message, size: int) -> None:
        """Writes it; `admit_unqueued` has returned in this same step.

        Raises:
            NotConnected: The connection is gone.
        """
        self._write_unqueued(Entry(message, size, asyncio.get_running_loop().time(), resend=False))

    def _enqueue(self, entry: Entry) -> None:
        for evicted in self.queue.accept(entry):
            self._settle(evicted, Fate.EVICTED)
        self._turn_left -= 1
        self._open_turn()
        self.pump()

    def _write_unqueued(self, entry: Entry) -> None:
        self._enqueue(entry)
        if self.queue.waiting:  # the link is dead and has not said so yet; nothing else waited
            self.queue.withdraw(entry)
            raise NotConnected("the connection has just ended, and queue=False asks for one")

    def send_now(self, message: Message, size: int) -> bool:
        """Sends a plain message without any waiting, where nothing stands in its way; returns whether it did."""
        writer = self._writer
        if (
            writer is None
            or writer.busy
            or self._line
            or self._over
            or self._turn_left <= 0
            or size > self._inline
        ):
            return False
        if not self._turn_open:
            self._open_turn()
        if not self.queue.write_through(message, size, self._now):
            return False
        try:
            writer.write(message, size)
        except ConnectionLost:
            self.queue.retract(size)
            return False
        self._turn_left -= 1
        return True

    def _open_turn(self) -> None:
        """What belongs to a loop turn in which something is sent: one clock reading, and one look afterwards."""
        if not self._turn_open:
            loop = asyncio.get_running_loop()
            self._turn_open = True
            self._now = loop.time()
            loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_open = False
        self._turn_left = TURN_MESSAGES
        if self.patience.asks or self._watch is not None:
            self._want()
        if self._pinger is not None:
            self._pinger.wrote()
        self._line.wake_next()

    def _want(self) -> None:
        if self._pinger is not None:
            self._pinger.want()

    async def _admission(self, size: int, queue: bool, key: str | None) -> None:
        """Waits until a message may be accepted, in the order of the calls."""
        await self._line.wait(lambda first: self._admits(size, queue, key, first))

    def _admits(self, size: int, queue: bool, key: str | None, first: bool) -> bool:
        """Whether it may be accepted now; raises where waiting would be wrong."""
        self._refuse_if_over()
        if self._writer is not None and (self._turn_left <= 0 or not (first or self._drops)):
            # A loop of sends must not starve the rest of the program, nor overtake those who wait.
            return False
        if not queue:
            return self._admits_unqueued(size)
        if self._drops:
            return True
        if first and self.queue.has_room(size, key):
            return True
        if self._writer is None and self._options.overflow == "raise":
            raise OutboxFull(
                f"no connection is open and the outbox is full: {self.queue.waiting} messages, "
                f"{self.queue.waiting_bytes} bytes wait"
            )
        if not self._started:
            raise NotConnected("the outbox is full and the client has not been started")
        if first and self._is_stuck:
            self.pump()
            if self._is_stuck:
                raise _deaf()
        return first and self.queue.has_room(size, key)

    def _admits_unqueued(self, size: int) -> bool:
        if self._writer is None:
            raise NotConnected("there is no open connection, and queue=False asks for one")
        if self._writer.busy or self.queue.waiting:
            return False
        if self.queue.fits(size):
            return True
        if self._inbox.paused and not self._let_go(size):
            raise _deaf()
        return self.queue.fits(size)

    def _refuse_if_over(self) -> None:
        if self._over:
            raise self._ended()

    def _token(self, confirm: bool) -> Token | None:
        if not confirm:
            return None
        if not self._started:
            raise NotConnected("confirm=True waits, and the client has not been started")
        if self._writer is not None and not self.queue.confirming:
            raise off()
        return asyncio.get_running_loop().create_future()

    # --- flushing ---

    async def flush(self) -> None:
        """Waits until each message accepted before has its end; see `WebSocketClient.flush`."""
        self._refuse_if_over()
        position = self.queue.barrier()
        if self.queue.is_settled(position):
            return
        if not self._started:
            raise NotConnected("flush waits, and the client has not been started")
        await self._confirmations.behind(position)

    @property
    def is_written(self) -> bool:
        """Whether nothing waits to be written, or to be handed over whole."""
        return not self.queue.waiting and not self.queue.has_hand

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits and nothing is unconfirmed."""
        return not self.queue.waiting and not self.queue.unconfirmed

    def watch(self, call: Callable[[], None] | None) -> None:
        """Calls `call` whenever something was written, confirmed or given up; meanwhile confirmations are asked for."""
        self._watch = call
        if call is not None:
            self._want()
            call()

    # --- the connection of the moment ---

    def start(self) -> None:
        """From now on waiting makes sense."""
        self._started = True

    def attach(self, writer: Writer, pinger: Pinger, *, confirming: bool) -> None:
        """A connection is open: what waits is written, and later messages at once."""
        self.queue.connected(confirming=confirming)
        self._writer = writer
        self._pinger = pinger
        if not confirming:
            self._fail_tokens_of_waiting()
        self.pump()
        self._open_turn()
        if self.patience.asks:
            pinger.want()

    def detach(self, *, poison: bool) -> Loss:
        """That connection has ended; returns what it took with it. The caller tells of the uncertain ones."""
        self._writer = self._pinger = None
        loss = self.queue.lost(poison=poison)
        fail(
            loss.uncertain,
            lambda: DeliveryUncertain("the connection ended before the peer confirmed the message"),
        )
        self._confirmations.hold(held=bool(loss.uncertain))
        self._progress()
        self._line.wake_all()
        return loss

    def fates_told(self) -> None:
        """What the end of the last connection made uncertain has been reported."""
        self._confirmations.hold(held=False)
        self._progress()

    def pump(self) -> None:
        """Writes what waits, as far as the connection takes it."""
        queue, writer = self.queue, self._writer
        if writer is None:
            return
        now = asyncio.get_running_loop().time()
        for expired in queue.expire(now):
            self._settle(expired, Fate.EXPIRED)
        while not writer.busy:
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
            if writer.busy and entry.size > self._inline:
                break  # it is in hand until it has been compressed
            self._written()
        if queue.waiting and not writer.busy:
            self._want()
        self._progress()
        self._line.wake_next()

    def idle(self) -> None:
        """The connection has room again."""
        if self.queue.has_hand:
            self._written()
        self._open_turn()
        self.pump()

    def confirmed(self, entries: Iterable[Entry]) -> None:
        """A PONG has covered what was written, `entries` among it."""
        succeed(entries)
        self.pump()

    def _written(self) -> None:
        entry = self.queue.written()
        if entry is not None:
            fail((entry,), off)

    @property
    def _is_stuck(self) -> bool:
        """Whether what waits needs a PONG that cannot come, since our own full inbox keeps us from reading."""
        writer, queue = self._writer, self.queue
        if not self._inbox.paused or writer is None or writer.busy:
            return False
        return queue.waiting > 0 and not queue.fits(queue.next_size)

    def _let_go(self, size: int) -> bool:
        """Gives up confirmations that cannot come; returns whether `size` bytes may be written now."""
        fail(
            self.queue.let_go(size),
            lambda: DeliveryUncertain("unverified: the program does not read, so the PONG cannot come"),
        )
        return self.queue.fits(size)

    def confirmation_off(self, entries: Iterable[Entry]) -> None:
        """The peer answers no ping; `entries` were written and somebody waits for their confirmation."""
        fail(entries, off)
        self._fail_tokens_of_waiting()
        self.pump()

    def _fail_tokens_of_waiting(self) -> None:
        fail(self.queue.watched_waiting(), off)

    # --- fates and ends ---

    def _settle(self, entry: Entry, fate: Fate) -> None:
        fail((entry,), lambda: DeliveryUncertain(f"the message is {fate.value}: it was never written"))
        self._tell(entry, fate)

    def _arm_expiry(self) -> None:
        due = self.queue.next_expiry
        if due is None or (self._expiry is not None and self._expiry.when() <= due):
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        for entry in self.queue.expire(asyncio.get_running_loop().time()):
            self._settle(entry, Fate.EXPIRED)
        self._progress()
        self._line.wake_next()
        self._arm_expiry()

    def refuse(self, *, keep_waiters: bool) -> None:
        """The client is closing: nothing more is accepted, and blocked calls end.

        Args:
            keep_waiters: Whether calls that wait for confirmations may go on, since `close(drain=)` does so too.
        """
        self._over = True
        self._line.fail(self._ended)
        if not keep_waiters:
            self.patience.fail(self._ended)

    def close(self) -> tuple[list[Entry], list[Entry]]:
        """The client has ended; returns the abandoned and the uncertain."""
        self._over = True
        self._writer = self._pinger = None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        remains = self.queue.close()
        self.refuse(keep_waiters=False)
        fail((*remains.abandoned, *remains.uncertain), self._ended)
        return remains.abandoned, remains.uncertain

    # --- waking ---

    def _progress(self) -> None:
        """Something was written, confirmed or given up: whoever waits for that looks again."""
        self._confirmations.progress()
        if self._watch is not None:
            self._watch()


def _deaf() -> OutboxFull:
    return OutboxFull("the outbox is full, and no PONG can come while the program does not read")
