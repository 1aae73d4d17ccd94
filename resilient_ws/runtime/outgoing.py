"""The sending methods of the client: the program's side of the outbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Hashable
from threading import get_ident
from typing import Any

from resilient_ws.api.message import Message
from resilient_ws.api.options import RESEND_UNCONFIRMED, Duration, OnUncertain, function, one_of, seconds
from resilient_ws.connection.setup import checked
from resilient_ws.connection.writer import Writer
from resilient_ws.runtime.attempt import Subscription
from resilient_ws.runtime.callbacks import check_loop
from resilient_ws.runtime.supervisor import Supervisor

# What may wait to be written of one intent: declared for the first time, once more, taken back, and declared after that.
_NEW, _AGAIN, _FAREWELL, _LAST = "new", "again", "farewell", "last"

Sendable = Message | bytearray | memoryview


class Outgoing:
    """Sends messages, asks, and declares intents."""

    def __init__(self, engine: Supervisor) -> None:
        self._engine = engine
        self._sender = engine.sender
        self._max_bytes = engine.config.outbox.max_bytes
        self._thread: int | None = None  # in which the client was started

    async def send(
        self,
        message: Sendable,
        *,
        ttl: Duration | None = None,
        confirm: bool = False,
        queue: bool = True,
        on_uncertain: OnUncertain | None = None,
        key: str | None = None,
        priority: int = 0,
    ) -> None:
        """Sends a message, now or as soon as there is a connection, in the order of the calls.

        It waits only before it accepts: when it has returned, the message is accepted; when it raised or was
        cancelled, it is not. What becomes of an accepted message is reported (`on_undelivered`) unless the peer has it.

        Args:
            message: `str` is sent as TEXT, bytes-like as BINARY (copied unless it is `bytes`).
            ttl: Seconds or `timedelta` after which it is dropped unless written; `None` = that of the outbox.
            confirm: Return only when the peer is known to have it. Cancelled while it waits for that, or ended by an
                exception, the message stays accepted.
            queue: `False` = only on a connection that is open now, and never sent again.
            on_uncertain: `"report"` or `"resend"`, for this message; `None` = that of the outbox. `"resend"` switches
                confirmation on, unless `Outbox(confirm=False)` rules it out.
            key: A waiting message with the same key is replaced by this one; `None` = replaces nothing.
            priority: What waits with a higher one leaves first.

        Raises:
            OutboxFull: No connection is open and the outbox is full, with `overflow="raise"`.
            ClientClosed: The client is closing or has ended.
            MessageTooBig: It is larger than `outbox.max_bytes`.
            NotConnected: With `queue=False`, no connection is open; or it would have to wait before `start()`.
            OutboxFileError: The outbox file could not take it: the disk is full or broken.
            DeliveryUncertain: With `confirm`, it was accepted and may or may not have arrived. Or confirmation is off on
                the connection of now: then it was not sent, as the text says.
            InboxFull: With `confirm`, the confirmation stands behind received messages that nobody takes.
            TypeError, ValueError: The message or an option has the wrong type or value.
        """
        # What `send_now` does, without a call for each message, while the lane is open. The thread is compared, not the
        # loop: to ask for the running loop takes half as long as all of this.
        if (
            ttl is None
            and on_uncertain is None
            and key is None
            and queue is True
            and not priority
            and not confirm
            and ((type(message) is str and message.isascii()) or type(message) is bytes)
        ):
            lane = self._sender.lane
            counted = lane.counted
            size = len(message)
            total = counted.size + size
            if total <= lane.limit and lane.left and get_ident() == self._thread:
                counted.size = total
                counted.items.append(message)
                lane.held.append(message)
                lane.left -= 1
                return
            self._check_loop()
            if size <= self._max_bytes and self._sender.send_now(message, size):
                return
        self._check_loop()
        plain, size = checked(message, self._max_bytes)
        is_plain = ttl is None and on_uncertain is None and key is None and queue is True
        if is_plain and not priority and not confirm and self._sender.send_now(plain, size):
            return
        engine = self._engine
        _check_options(confirm, queue, key, priority)
        outbox = engine.config.outbox
        if on_uncertain is not None:
            one_of("on_uncertain", on_uncertain, ("report", "resend"))
            if on_uncertain == "resend" and outbox.confirm is False:
                raise ValueError(RESEND_UNCONFIRMED)
        await engine.sender.send(
            plain,
            size,
            ttl=outbox.ttl if ttl is None else seconds("ttl", ttl),
            confirm=confirm,
            queue=queue,
            resend=(on_uncertain or outbox.on_uncertain) == "resend",
            key=key,
            priority=priority,
        )

    async def send_json(
        self,
        obj: Any,
        *,
        ttl: Duration | None = None,
        confirm: bool = False,
        queue: bool = True,
        on_uncertain: OnUncertain | None = None,
        key: str | None = None,
        priority: int = 0,
    ) -> None:
        """Sends `obj` as compact JSON text; everything else is as for `send`.

        Raises:
            TypeError, ValueError: `json.dumps` cannot encode it.
        """
        text = json.dumps(obj, separators=(",", ":"), ensure_ascii=False)
        await self.send(
            text, ttl=ttl, confirm=confirm, queue=queue, on_uncertain=on_uncertain, key=key, priority=priority
        )

    async def flush(self, timeout: Duration | None = None) -> None:
        """Waits until each message accepted before is confirmed or its fate reported. Cancel-safe.

        Args:
            timeout: Seconds or `timedelta`, 0 or more; `None` = no limit.

        Raises:
            TimeoutError: It took longer; nothing is withdrawn.
            ClientClosed: The client ended first.
            InboxFull: The confirmation stands behind received messages that nobody takes.
            NotConnected: It would have to wait and the client has not been started.
        """
        self._check_loop()
        limit = seconds("timeout", timeout, zero=True, none=True)
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                await self._engine.sender.flush()
        except TimeoutError:
            if not scope.expired():
                raise
            queue = self._engine.sender.queue
            left = f"{queue.waiting} messages are not written and {queue.unconfirmed} not confirmed"
            raise TimeoutError(
                f"not flushed within timeout={limit:g} s: {left}; {self._engine.standing()}"
            ) from None

    async def request(
        self,
        message: Sendable,
        match: Callable[[Message], bool],
        timeout: Duration | None = None,
    ) -> Message:
        """Sends a message with `queue=False`, and returns the first one received from then on that matches.

        The reply is consumed, everything else is delivered as usual. It proves that the peer has read the question and all
        that was sent before it, so those messages are confirmed. Cancel-safe.

        Args:
            message: As for `send`.
            match: Asked for each message on its arrival; must not block. If it raises, so does this call.
            timeout: Seconds or `timedelta`, 0 or more; `None` = no limit.

        Raises:
            NotConnected: No connection is open.
            DeliveryUncertain: The connection ended before the answer came.
            TimeoutError: No answer in time.
            InboxFull: The answer stands behind received messages that nobody takes.
            ClientClosed, MessageTooBig, TypeError, ValueError: As for `send`.
        """
        function("match", match, sync=True)
        plain, size = checked(message, self._max_bytes)
        self._check_loop()
        limit = seconds("timeout", timeout, zero=True, none=True)
        live, tried = None, 0
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                sender = self._sender
                answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
                with sender.patience.waiting(answer, asks=False):
                    await sender.admit_unqueued(size, answer)
                    if answer.done():
                        return answer.result()  # it has failed
                    live = self._engine.live
                    assert live is not None
                    written = sender.write_unqueued(plain, size)
                    tried = live.tried
                    return await live.answer(answer, match, written)
        except TimeoutError:
            if not scope.expired():
                raise
            what = (
                f"{live.tried - tried} messages came and none matched"
                if live is not None
                else "the message still waits for room and is not written"
            )
            raise TimeoutError(
                f"no reply within timeout={limit:g} s: {what}; {self._engine.standing()}"
            ) from None

    def subscribe(
        self,
        key: Hashable,
        message: Sendable | Callable[[], Sendable],
        unsubscribe: Sendable | None = None,
    ) -> None:
        """Declares an intent: sent now if a connection is open, and on each one after `setup`, before the outbox.

        Intents are sent in the order of their declaration; the same key replaces, also one that still waits for room.

        Args:
            key: What names it; any hashable.
            message: What to send, or a function that makes it anew each time (signed timestamps).
            unsubscribe: What `unsubscribe(key)` sends on an open connection; `None` = nothing.

        Raises:
            ClientClosed: The client has ended.
            TypeError, ValueError, MessageTooBig: As for `send`.
        """
        if callable(message):
            function("message", message, sync=True, takes=0)
        else:
            message = checked(message, self._max_bytes)[0]
        farewell = None if unsubscribe is None else checked(unsubscribe, self._max_bytes)[0]
        self._check_not_over()
        engine = self._engine
        before = engine.subscriptions.get(key)
        engine.subscriptions[key] = subscription = Subscription(message, farewell)
        live = engine.live
        if live is None or live.writer is None:
            return
        try:
            now = subscription.render(self._max_bytes)
        except Exception as error:  # noqa: BLE001 - as on a later connection, where nobody could catch it
            engine.failed("subscribe", error)
            return
        live.writer.post(now, name=_name_of_declaration(live.writer, key, is_new=before is None))

    def unsubscribe(self, key: Hashable) -> None:
        """Takes an intent back; an unknown key is of no consequence.

        Raises:
            ClientClosed: The client has ended.
        """
        self._check_not_over()
        live = self._engine.live
        gone = self._engine.subscriptions.pop(key, None)
        if gone is None or live is None or live.writer is None:
            return
        writer = live.writer
        if writer.withdraw((_LAST, key)):
            return  # what takes back the one before waits, too
        if writer.is_crowded:
            if writer.withdraw((_NEW, key)):
                return  # it leaves no trace
            writer.withdraw((_AGAIN, key))
        if gone.unsubscribe is not None and not writer.waits((_FAREWELL, key)):
            writer.post(gone.unsubscribe, name=(_FAREWELL, key))

    def _check_not_over(self) -> None:
        self._check_loop()
        if self._engine.life.is_over:
            raise self._engine.ended_error()

    def _check_loop(self) -> None:
        check_loop(self._engine.loop)


def _check_options(confirm: object, queue: object, key: object, priority: object) -> None:
    for name, value in (("confirm", confirm), ("queue", queue)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    if key is not None and not isinstance(key, str):
        raise TypeError(f"key must be a str or None, got {type(key).__name__}")
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority must be an int, got {type(priority).__name__}")


def _name_of_declaration(writer: Writer, key: Hashable, *, is_new: bool) -> tuple[str, Hashable]:
    """Returns by which name a declaration waits for room: so that few are kept for each key, in the right order."""
    if writer.waits((_FAREWELL, key)):
        if not writer.waits((_NEW, key)):
            return _LAST, key
        writer.withdraw(
            (_FAREWELL, key)
        )  # declared, taken back and declared once more, and nothing of it is written
        return _NEW, key
    if writer.waits((_NEW, key)) or (is_new and not writer.waits((_AGAIN, key))):
        return _NEW, key
    return _AGAIN, key
