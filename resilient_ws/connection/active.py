"""One connection from its dial to its end: where each thing that comes in belongs.

A message goes to the `request` it answers, to the heartbeat it answers, or to the inbox: that of the set-up at first,
that of the program once the connection is open. After its end a connection says nothing any more, so nothing of an
abandoned one can act on its successor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from resilient_ws.api import options
from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.errors import ConnectionLost, DeliveryUncertain, ResilientWSError
from resilient_ws.api.events import Gap, Lost
from resilient_ws.api.message import Message, size_of
from resilient_ws.connection.pinger import Answerers, Pinger
from resilient_ws.connection.writer import Writer
from resilient_ws.core.delivery import DeliveryQueue, Entry
from resilient_ws.core.endings import End, told_end
from resilient_ws.delivery.inbox import Inbox
from resilient_ws.delivery.reply_waiters import Patience
from resilient_ws.transports.seam import Link

Match = Callable[[Message], bool]
Spawn = Callable[[str, Callable[[], Awaitable[None]]], asyncio.Task[None] | None]

ON_THE_WAY: Final = 1024 * 1024
"""Bytes beyond a full inbox that are still delivered in `close()`: more than a link holds, unless it unpacks them."""


class _Nobody:
    """Keeps an inbox into which nothing comes."""

    def inbox_full(self) -> None:
        pass

    def inbox_relaxed(self) -> None:
        pass

    def inbox_stuck(self) -> None:
        pass


_SPENT: Final = Inbox(options.Inbox(), _Nobody())
"""Takes the place of the inbox of a set-up that is over: an idle client is to hold little."""
_NOBODY: Final = Patience(_SPENT, lambda: None)


class Put(Protocol):
    """Takes a message, as `Receiver.message`."""

    def __call__(self, message: Message, size: int, /) -> None:
        """Take it."""


class Burst(Protocol):
    """Takes what came in one read, as `Receiver.burst`."""

    def __call__(self, messages: list[Message], size: int, /, *, wakes: bool = True) -> None:
        """Take it."""


class Wake(Protocol):
    """Resume the waiters, as `Receiver.wake`."""

    def __call__(self) -> None:
        """Let them."""


class Host(Protocol):
    """What a connection tells its supervisor."""

    def connection_ended(self, active: ActiveConnection, end: End, /, *, wakes: bool) -> None:
        """Note that it ended; called once. Without `wakes`, a call of `wake` follows."""

    def wake(self) -> None:
        """Resume the task that waits for the end, within this call."""

    def confirmation_changed(self, *, is_on: bool) -> None:
        """Report that the peer answers no pings, or that it answers them after all."""

    def failed(self, where: str, error: BaseException, /) -> None:
        """Report that user code raised."""


class Confirmations(Protocol):
    """Takes what the peer is known to have read. Implemented by the owner of the accepted messages."""

    def confirmed(self, entries: Sequence[Entry], /) -> None:
        """Settle `entries`: a PONG has covered them."""

    def answered(self, written: int, /) -> None:
        """Settle all that was written up to a request, since the peer has answered it."""

    def confirmation_off(self, entries: Sequence[Entry], /) -> None:
        """Stop confirming: the peer answers no pings. `entries` were written and have callers that wait."""

    def confirmation_on(self) -> None:
        """Confirm again: the peer has answered a ping after all."""


class ActiveConnection:
    """The owner of all that dies with a socket: link, writer, pinger, requests and the inbox of the setup.

    It receives what the link reads, carries out the verdicts of the heartbeat, and hands confirmations to `delivery`.

    Args:
        host: Is told of the end.
        delivery: Is told what the peer has read.
        bounds: The bounds of the setup's inbox.
    """

    __slots__ = (
        "_allowed",
        "_bytes_elsewhere",
        "_delivery",
        "_discards",
        "_host",
        "_inbox",
        "_received",
        "_requests",
        "_watches",
        "burst",
        "discarded",
        "end",
        "hint",
        "link",
        "message",
        "opened_at",
        "patience",
        "pinger",
        "setup_inbox",
        "silent_for",
        "tried",
        "wake",
        "write_failed",
        "writer",
    )

    def __init__(self, host: Host, delivery: Confirmations, bounds: options.Inbox) -> None:
        self._host = host
        self._delivery = delivery
        self.setup_inbox = Inbox(bounds, self)
        self.patience = Patience(self.setup_inbox, lambda: None)
        self._inbox = self.setup_inbox
        self._requests: list[tuple[Match, asyncio.Future[Message], int | None]] = []
        self._watches = False
        self._discards = False
        self._allowed: int | None = None  # bytes that are still delivered, once the client closes
        self.link: Link | None = None
        self.writer: Writer | None = None
        self.pinger: Pinger | None = None
        self.end: End | None = None
        self.opened_at = 0.0  # in boot time
        self.tried = 0  # messages that came while a request was waiting for its answer
        self.message: Put = self.setup_inbox.put
        """Where a message goes that has arrived; swapped, so that the usual way costs no question."""
        self.burst: Burst = self.setup_inbox.extend
        """The same for all that came in one read."""
        self.wake: Wake = self.setup_inbox.wake
        self._received = 0
        self._bytes_elsewhere = 0
        self.discarded = 0
        self.silent_for = 0.0
        self.hint: str | None = None
        self.write_failed = False

    def is_paused(self) -> bool:
        """Return whether a full inbox has stopped the reading of this connection: only the one it delivers to can.

        During the set-up the program's inbox may be full of what an earlier connection has brought; that pauses nothing.
        """
        return self._inbox.paused

    def counts(self) -> dict[str, int]:
        """Return the counters of this connection, by the names of `Stats`, without the bytes in the inbox."""
        writer = self.writer
        return {
            "received": self._received if self.link is None or self.end is not None else self._messages,
            "bytes_received": self._bytes_elsewhere,
            "discarded": self.discarded + self.setup_inbox.dropped,
            "sent": writer.sent if writer is not None else 0,
            "bytes_sent": writer.bytes_sent if writer is not None else 0,
        }

    def begin(self, spawn: Spawn) -> None:
        """Begin to read the link; one that needs a task for it gets one."""
        if self.link is None or self.end is not None:
            return
        try:
            reading = self.link.read()
        except Exception as error:  # noqa: BLE001 - a defect in a transport must not stay unnoticed
            self._failed(error)
            return
        if reading is not None:
            spawn("reader", lambda: self._read(reading))

    async def _read(self, reading: Awaitable[None]) -> None:
        try:
            await reading
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._break("the reader failed", error)

    def _write_failed(self, error: BaseException) -> None:
        self.write_failed = True
        self._break("a write failed", error)

    def _break(self, what: str, error: BaseException) -> None:
        lost = ConnectionLost(f"{what}: {type(error).__name__}")
        lost.__cause__ = error
        self.ended(End(code=None, origin=CloseOrigin.NETWORK, cause=lost))

    def equip(
        self,
        queue: DeliveryQueue,
        answerers: Answerers,
        *,
        heartbeat: options.Heartbeat | None,
        confirm_interval: float,
        spawn: Spawn,
        idle: Callable[[], None],
    ) -> None:
        """Create the writer and the pinger of the link, which has just opened.

        Args:
            queue: Whose written messages a PONG confirms.
            answerers: Remembers which peers answer pings.
            heartbeat: `None` for no pings and no verdicts.
            confirm_interval: Seconds between two pings for confirmation.
            spawn: Starts a child of the supervisor task.
            idle: Called when the link has room again.
        """
        assert self.link is not None
        self.writer = writer = Writer(self.link, spawn=spawn, idle=idle)
        writer.broken = self._write_failed
        self.pinger = Pinger(
            self.link,
            writer,
            queue,
            heartbeat=heartbeat,
            confirm_interval=confirm_interval,
            is_paused=self.is_paused,
            answerers=answerers,
            watcher=self,
        )
        if self.pinger.takes_messages:
            self.watch_replies()

    def watch_replies(self) -> None:
        """Messages may answer pings of the application's own protocol, or be such pings."""
        self._watches = True
        self._choose_way()

    def _choose_way(self) -> None:
        routed = self._watches or self._discards or self._requests or self._allowed is not None
        self.message = self._route if routed else self._inbox.put
        self.burst = self._route_all if routed else self._inbox.extend
        self.wake = self._inbox.wake

    def deliver_to(self, inbox: Inbox) -> None:
        """From now on messages go to `inbox`; those that the set-up left go first. Whether reading goes on is the caller's."""
        left, self.setup_inbox, self.patience = self.setup_inbox, _SPENT, _NOBODY
        self._inbox = inbox
        self._choose_way()
        self._bytes_elsewhere += left.bytes_received
        for item in left.take_all():
            if isinstance(item, Gap):
                inbox.gap(item)
            elif not isinstance(item, Lost):
                size = size_of(item)
                self._bytes_elsewhere -= size
                inbox.put(item, size)
        self.discarded += left.dropped

    def discard(self) -> None:
        """From now on messages are thrown away and counted: our CLOSE has been sent."""
        if self.link is not None and self.end is None:
            self._allowed = ON_THE_WAY  # a read of compressed data holds a thousand times what it seems to
            self._choose_way()
            self.link.resume()  # the peer's CLOSE stands behind what a full inbox has kept us from reading
        self._discards = True
        self._choose_way()

    # --- what the link tells ---

    def _route(self, message: Message, size: int, *, wakes: bool = True) -> None:
        """Handle a message that may be a reply, and not one for the inbox."""
        if self._belongs_elsewhere(message):
            self._bytes_elsewhere += size
            return
        if self._allowed is not None:
            self._allowed -= size
            self._discards = self._allowed <= 0
        self._inbox.extend([message], size, wakes=wakes)

    def _route_all(self, messages: list[Message], _: int, /, *, wakes: bool = True) -> None:
        for message in messages:
            self._route(message, size_of(message), wakes=wakes)

    @property
    def received(self) -> int:
        """Messages received until now."""
        return self._messages if self.end is None else self._received

    @property
    def _messages(self) -> int:
        return self.link.look(paused=False).messages if self.link is not None else 0

    def pong(self, payload: bytes, /) -> None:
        """Handle a PONG."""
        if self.end is None and self.pinger is not None:
            self.pinger.pong(payload)

    def ended(self, end: End, /, *, wakes: bool = True) -> None:
        """Handle the end of the connection."""
        if self.end is None:
            self._finish(end)
            if not wakes:
                self.wake = self._wake_all
            self._host.connection_ended(self, end, wakes=wakes)

    def _wake_all(self) -> None:
        self._inbox.wake()
        self._host.wake()

    def cut(self) -> None:
        """End it without telling the client, who knows already."""
        if self.end is None:
            self._finish(End(code=None, origin=CloseOrigin.LOCAL))
        self._bytes_elsewhere += self.setup_inbox.bytes_received
        self.discarded += self.setup_inbox.clear()

    def _finish(self, end: End) -> None:
        self.end = end
        if self.pinger is not None:
            self.silent_for = self.pinger.silent_for
            self.pinger.stop()
        if self.writer is not None:
            self.writer.close()
        if self.link is not None:
            self.link.abort()
            self._received = self._messages
        self.setup_inbox.end()
        if self._requests:
            lost = DeliveryUncertain(f"the connection ended before the answer came: {told_end(end)}")
            lost.__cause__ = end.cause
            self.fail_requests(lost)

    # --- what the heartbeat tells ---

    def dead(self, cause: str, hint: str | None, rule_id: str, /) -> None:
        """Give up the connection."""
        self.hint = hint
        lost = ConnectionLost(cause, rule_id=rule_id)
        self.ended(End(code=None, origin=CloseOrigin.HEARTBEAT, cause=lost))

    def broken(self, error: BaseException, /) -> None:
        """End the connection after the heartbeat failed, since a dead peer would no longer be detected."""
        try:
            self._host.failed("heartbeat", error)
        finally:
            self._break("the heartbeat failed", error)

    def confirmed(self, entries: Sequence[Entry], /) -> None:
        """Report messages confirmed by a PONG."""
        self._delivery.confirmed(entries)

    def confirmation_off(self, entries: Sequence[Entry], /) -> None:
        """No ping is answered."""
        self._delivery.confirmation_off(entries)
        self._host.confirmation_changed(is_on=False)

    def confirmation_on(self) -> None:
        """Report that a ping was answered after all."""
        self._delivery.confirmation_on()
        self._host.confirmation_changed(is_on=True)

    def failed(self, where: str, error: BaseException, /) -> None:
        """Code of the program raised."""
        self._host.failed(where, error)

    # --- requests ---

    async def answer(
        self, answer: asyncio.Future[Message], match: Match, written: int | None = None
    ) -> Message:
        """Return the first message from now on for which `match` is true, as soon as `answer` holds it.

        Args:
            answer: Made by the caller.
            match: Asked for each message.
            written: What the delivery is told when the request is answered; `None` for nothing.

        Raises:
            DeliveryUncertain: The connection ended first.
        """
        if self.end is not None and not answer.done():
            raise DeliveryUncertain("the connection ended before the answer came")
        mine = (match, answer, written)
        self._requests.append(mine)
        self._choose_way()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._give_back(answer.result())
            raise
        finally:
            self._requests.remove(mine)
            self._choose_way()

    def _give_back(self, message: Message) -> None:
        """Deliver a reply that arrived just as its call was cancelled, as an ordinary message."""
        size = size_of(message)
        if self._discards:
            self.discarded += 1
        elif self._inbox.put_late(message, size, ended=self.end is not None):
            self._bytes_elsewhere -= size
        else:
            self.discarded += 1

    def fail_requests(self, error: ResilientWSError) -> None:
        """End every request with `error`."""
        for _, answer, _ in self._requests:
            if not answer.done():
                answer.set_exception(error)

    def _belongs_elsewhere(self, message: Message) -> bool:
        if self._discards:
            self.discarded += 1
            return True
        pinger = self.pinger
        if pinger is not None and pinger.answers(message):
            return True  # before any request: a `match` that is true for everything must not keep it from the server
        if self._requests:
            self.tried += 1
        for mine in self._requests:
            match, answer, written = mine
            if answer.done():
                continue
            try:
                if not match(message):
                    continue
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it fails its own call only
                answer.set_exception(_bearable(error))
                continue
            answer.set_result(message)
            if pinger is not None:
                pinger.note_data()
            if written is not None:
                self._delivery.answered(written)
            return True
        return pinger is not None and pinger.is_reply(message)

    # --- the bounds of the set-up ---

    def inbox_full(self) -> None:
        """Pause reading."""
        if self.link is not None:
            self.link.pause()

    def inbox_relaxed(self) -> None:
        """Resume reading."""
        # What the link holds is told within the call, and must not come before what a set-up that is over has left.
        if self.link is not None and self.end is None and self.setup_inbox is not _SPENT:
            self.link.resume()

    def inbox_stuck(self) -> None:
        """Fail the requests of the setup: their replies cannot arrive."""
        self.patience.stuck()


def _bearable(error: BaseException) -> BaseException:
    """Return what a future takes: instead of a `StopIteration` what a coroutine would raise (PEP 479)."""
    if not isinstance(error, StopIteration):
        return error
    instead = RuntimeError("match raised StopIteration")
    instead.__cause__ = error
    return instead
