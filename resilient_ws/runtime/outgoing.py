"""The sending half of the client: `send`, `flush`, `request` and subscriptions."""

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

# The frames of one subscription that can be pending in the writer: the first declaration, a repeated one, the
# unsubscribe message, and a declaration made after that message.
_NEW, _AGAIN, _FAREWELL, _LAST = "new", "again", "farewell", "last"

Sendable = Message | bytearray | memoryview


class Outgoing:
    """Send messages, make requests, and declare subscriptions."""

    def __init__(self, engine: Supervisor) -> None:
        self._engine = engine
        self._sender = engine.sender
        self._max_bytes = engine.config.outbox.max_bytes
        self._thread: int | None = None  # the thread that started the client

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
        """Send a message now, or as soon as a connection is open.

        Messages are sent in the order of the calls. `send` waits only until the message is accepted, for example for
        room in the outbox. If it returns, the message is accepted. If it raises or is cancelled, the message is not
        accepted and will not be sent; `confirm` is the exception. An accepted message that is not delivered, or may
        not have been, is reported to `on_undelivered`.

        Args:
            message: The message. A `str` is sent as TEXT, a bytes-like object as BINARY (copied unless it is `bytes`).
            ttl: Seconds (above 0) or `timedelta` after which the message is dropped if it has not been written;
                `None` uses `Outbox.ttl`.
            confirm: Wait until the peer is known to have received the message. If this wait is cancelled or raises,
                the message stays accepted.
            queue: `False` sends the message only if a connection is open now, and never resends it.
            on_uncertain: `"report"` or `"resend"` for this message; `None` uses `Outbox.on_uncertain`. `"resend"`
                enables confirmation; it is an error with `Outbox(confirm=False)`.
            key: Replace the pending message with the same key, if any; `None` replaces nothing.
            priority: Any `int`. Pending messages with a higher priority are sent first.

        Raises:
            OutboxFull: No connection is open and the outbox is full, with `overflow="raise"`.
            ClientClosed: The client is closing or has ended.
            MessageTooBig: The message is larger than `Outbox.max_bytes`.
            NotConnected: No connection is open, with `queue=False`; or `send` would have to wait and `start()` has not
                been called.
            OutboxFileError: The message could not be written to the outbox file: the disk is full or broken.
            DeliveryUncertain: With `confirm`, the message was accepted and may or may not have arrived. Also if
                confirmation is off on the current connection; then the text says that the message was not sent.
            InboxFull: With `confirm`, the confirmation is queued behind unread messages.
            TypeError, ValueError: The message or an option has the wrong type or value.
        """
        # The fast path: this is `send_now` written out, to save a call per message. Invariant: while `lane.left` is
        # above 0, nothing is pending ahead of this message, so appending it to `lane.held` keeps the order of the
        # calls. `lane.limit` bounds the bytes in flight. Comparing threads replaces `get_running_loop()`, which costs
        # half as much as this whole block.
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
        """Send `obj` as compact JSON in a TEXT message.

        The options, errors and cancel-safety are those of `send`.

        Raises:
            TypeError, ValueError: `json.dumps` cannot encode `obj`.
        """
        text = json.dumps(obj, separators=(",", ":"), ensure_ascii=False)
        await self.send(
            text, ttl=ttl, confirm=confirm, queue=queue, on_uncertain=on_uncertain, key=key, priority=priority
        )

    async def flush(self, timeout: Duration | None = None) -> None:
        """Wait until every message accepted so far is settled.

        A message is settled when it is confirmed or its fate has been reported to `on_undelivered`. Cancel-safe:
        cancelling `flush` changes nothing.

        Args:
            timeout: Seconds or `timedelta`, 0 or more; `None` means no limit.

        Raises:
            TimeoutError: `timeout` elapsed first. All messages stay accepted.
            ClientClosed: The client ended first.
            InboxFull: The confirmation is queued behind unread messages.
            NotConnected: `flush` would have to wait and `start()` has not been called.
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
            left = f"{queue.waiting} messages are pending and {queue.unconfirmed} are not confirmed"
            raise TimeoutError(
                f"not flushed within timeout={limit:g} s: {left}; {self._engine.standing()}"
            ) from None

    async def request(
        self,
        message: Sendable,
        match: Callable[[Message], bool],
        timeout: Duration | None = None,
    ) -> Message:
        """Send a message and return the first reply that matches.

        The message is sent as with `queue=False`. The reply is consumed; every other message is delivered as usual.
        The reply proves that the peer has read the request and everything sent before it, so those messages become
        confirmed. Cancel-safe: after a cancellation no reply is consumed; the request may have been sent.

        Args:
            message: The request, as for `send`.
            match: A function called with each message as it arrives; it must not block. If it raises, `request` raises
                the same exception.
            timeout: Seconds or `timedelta`, 0 or more; `None` means no limit.

        Raises:
            NotConnected: No connection is open.
            DeliveryUncertain: The connection ended before the reply arrived.
            TimeoutError: No reply matched within `timeout`.
            InboxFull: The reply is queued behind unread messages.
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
                        return answer.result()  # raises: it failed while waiting for room
                    live = self._engine.live
                    assert live is not None
                    written = sender.write_unqueued(plain, size)
                    tried = live.tried
                    return await live.answer(answer, match, written)
        except TimeoutError:
            if not scope.expired():
                raise
            what = (
                f"{live.tried - tried} messages arrived and none matched"
                if live is not None
                else "the request is pending and has not been written"
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
        """Declare a subscription, sent now and again on every new connection.

        If a connection is open, `message` is sent now. On each new connection it is sent after `setup` and before the
        outbox. Subscriptions are sent in the order of their declaration. Declaring a key again replaces the earlier
        subscription, even one that is still pending.

        Args:
            key: Any hashable that names the subscription.
            message: The message to send, or a function without arguments that returns it, called each time (for signed
                timestamps).
            unsubscribe: The message that `unsubscribe(key)` sends if a connection is open; `None` sends nothing.

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
        except Exception as error:  # noqa: BLE001 - reported as on later connections
            engine.failed("subscribe", error)
            return
        live.writer.post(now, name=_name_of_declaration(live.writer, key, is_new=before is None))

    def unsubscribe(self, key: Hashable) -> None:
        """Remove a subscription; an unknown key is ignored.

        If a connection is open, the `unsubscribe` message of the subscription is sent.

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
            return  # the unsubscribe message of the earlier declaration is pending already
        if writer.is_crowded:
            if writer.withdraw((_NEW, key)):
                return  # never written, so there is nothing to unsubscribe
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
    """Return the name of a pending declaration.

    A post replaces the pending frame of the same name, so each key keeps a bounded number of frames, in the right order.
    """
    if writer.waits((_FAREWELL, key)):
        if not writer.waits((_NEW, key)):
            return _LAST, key
        # Declared, unsubscribed and declared again, and nothing of it has been written.
        writer.withdraw((_FAREWELL, key))
        return _NEW, key
    if writer.waits((_NEW, key)) or (is_new and not writer.waits((_AGAIN, key))):
        return _NEW, key
    return _AGAIN, key
