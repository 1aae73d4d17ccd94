"""The way of a message from `send` into the outbox: admission, order, back-pressure.

Writing is `resilient_ws.delivery.pump`. Decisions are taken between two awaits, never across one.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from resilient_ws.api.errors import (
    ConnectionLost,
    MessageTooBig,
    NotConnected,
    OutboxFull,
)
from resilient_ws.api.events import Fate
from resilient_ws.api.message import Message
from resilient_ws.core.delivery import Entry
from resilient_ws.core.in_flight import Lane
from resilient_ws.delivery.confirmations import Token, fail, refused
from resilient_ws.delivery.pump import Outflow

if TYPE_CHECKING:
    from resilient_ws.delivery.durable.store import Persistence


class Sender(Outflow):
    """The outgoing side of a client, over all its connections."""

    __slots__ = ()

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
            self._arm_expiry()
        else:
            self._write_unqueued(entry)
        if token is not None:
            await self._confirmations.of(token)

    async def admit_unqueued(self, size: int, answer: asyncio.Future[Message]) -> None:
        """Waits until a message that must not wait may be written, or until its `answer` is known not to come."""
        answer.add_done_callback(self._look_again)
        try:
            if not self._admits(size, queue=False, key=None, first=not self._line):
                await self._line.join(
                    lambda first: answer.done() or self._admits(size, queue=False, key=None, first=first)
                )
        finally:
            answer.remove_done_callback(self._look_again)

    def _look_again(self, answer: asyncio.Future[Message]) -> None:
        answer.exception()  # also where the call has ended by something else, and nobody looks at it
        self._line.wake_all()

    def write_unqueued(self, message: Message, size: int) -> int:
        """Writes it; `admit_unqueued` has returned in this same step.

        Returns:
            For `answered`.

        Raises:
            NotConnected: The connection is gone.
        """
        self._write_unqueued(Entry(message, size, self.clock(), resend=False))
        return self.queue.written_so_far

    def answered(self, written: int) -> None:
        """The peer has answered what `write_unqueued` wrote, so it has read that and all that was written before."""
        self._close_lane()
        entries = self.queue.confirm_first(written)
        self.confirmed(entries)

    def send_now(self, message: Message, size: int) -> bool:
        """Sends a plain message without any waiting, where nothing stands in its way; returns whether it did.

        The first one of a turn leaves at once; the others leave together, at the end of the turn or with the next ping.
        Where the first one answers what has woken the program, the second one leaves at once, too.
        """
        writer, lane = self._writer, self.lane
        counted = lane.counted
        if writer is not None and lane.left and counted.size + size <= lane.limit:
            counted.size += size
            counted.items.append(message)
            writer.hold(message, size)
            lane.left -= 1
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
            writer.hold(message, size)
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
        """Stores a message, which is accepted then; the order of the calls is that in which they return."""
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
            self._settle(evicted, Fate.EVICTED)
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
        """Waits until a message may be accepted, in the order of the calls."""
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
        """Whether it may be accepted now; raises where waiting would be wrong."""
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
        """Whether the outbox file, if there is one, has been read; raises where waiting for that would be wrong."""
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
        """Waits until each message accepted before has its end; see `WebSocketClient.flush`."""
        if not self._is_loaded:
            await self._line.wait(lambda _: self._is_loaded)
        self._close_lane()  # if the link is dead, what was held is accepted anew
        position = self.queue.barrier()
        if self.queue.is_settled(position) and not self._confirmations.held:
            return
        if not self._started:
            raise NotConnected("call start() before flush()")
        await self._confirmations.behind(position)

    # --- the life of the client ---

    def start(self) -> None:
        """From now on waiting makes sense, and this is the event loop."""
        self._started = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._arm_expiry()

    def refuse(self, *, keep_waiters: bool) -> None:
        """The client is closing: nothing more is accepted, and blocked calls end.

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
        """Begins to close the file, if there is one."""
        if self._store is not None:
            self._store.end()

    async def close_file(self) -> None:
        """Closes the file, if there is one, and returns when it is free for others."""
        if self._store is not None:
            await self._store.close()

    def close(self) -> tuple[list[Entry], list[Entry]]:
        """The client has ended; returns the abandoned and the uncertain."""
        self._over = True
        for batch in self._decided:
            self._tell_decided(batch)
        self._close_lane()
        self._writer = self._pinger = None
        self.lane = Lane()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        remains = self.queue.close(keep=self._store is not None)
        self.refuse(keep_waiters=False)
        left = self.queue.watched_waiting()
        fail((*remains.abandoned, *remains.uncertain, *left), self._ended)
        if self._store is not None:
            self._store.align(left)
        self._untold = [*self._untold, *remains.uncertain]
        return remains.abandoned, remains.uncertain


def _deaf() -> OutboxFull:
    return OutboxFull("the outbox is full, and no PONG can come while the program does not read")
