"""`WebSocketClient`, the public class."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import warnings
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from os import PathLike
from threading import get_ident
from types import TracebackType
from typing import Any, Literal, Self, cast, overload

from yarl import URL

from resilient_ws.aio.signals import ClosingSignals
from resilient_ws.api.close_codes import check_close
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import NotConnected
from resilient_ws.api.events import (
    CloseEvent,
    ErrorEvent,
    Event,
    Gap,
    Lost,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    State,
    StateEvent,
    UndeliveredEvent,
)
from resilient_ws.api.handle import CALLBACKS, Callback, Handle, MessageCallback
from resilient_ws.api.message import Message
from resilient_ws.api.options import (
    RESEND_UNCONFIRMED,
    Duration,
    Heartbeat,
    Inbox,
    OnUncertain,
    Outbox,
    ReconnectPolicy,
    function,
    one_of,
    seconds,
)
from resilient_ws.api.stats import Stats
from resilient_ws.connection.setup import checked
from resilient_ws.connection.writer import Writer
from resilient_ws.core.governor import SHARED, Governor
from resilient_ws.runtime.addresses import Provider
from resilient_ws.runtime.attempt import Setup, Subscription
from resilient_ws.runtime.callbacks import check_loop
from resilient_ws.runtime.config import make_config
from resilient_ws.runtime.consumer import Batches, Consumer, WithGaps
from resilient_ws.runtime.supervisor import Supervisor
from resilient_ws.transports.seam import Transport

Address = str | URL | Endpoint
Sendable = Message | bytearray | memoryview

# The frames of one subscription that can be pending in the writer: the first declaration, a repeated one, the
# unsubscribe message, and a declaration made after that message.
_NEW, _AGAIN, _FAREWELL, _LAST = "new", "again", "farewell", "last"


class WebSocketClient:
    """A WebSocket client that keeps one logical connection alive for as long as your program runs.

    The client connects, detects dead connections, and reconnects with randomised exponential backoff. After a reconnect
    it runs `setup` and sends the subscriptions again. `async for` continues across reconnects, and messages sent during
    an outage leave in order.

    The constructor does not need a running event loop. A client belongs to the loop in which it is started.

    Callbacks are registered with the `on_...` methods. Each can be used as a decorator and returns a handle with
    `.remove()`. A callback may be sync or async. Sync callbacks run on the event loop and must not block it. Callbacks
    run one at a time, in the order of the events. If one raises, the exception is reported to `on_error` and the next
    one runs. Callbacks may call `close()`.

    Args:
        url: A `ws` or `wss` URL, `str` or `yarl.URL`; a sequence of them, tried in turn; or an async function that is
            called with an `Attempt` before each attempt and returns one (for a fresh token or a failover).
        setup: `async (Connection) -> None`, run on each new connection before pending messages are sent; any callable that
            returns an awaitable is accepted. `None` means no setup.
        headers: Headers for the handshake; never shown in a `repr` or a log. `None` means none.
        subprotocols: Subprotocols to offer in the handshake, in order of preference.
        heartbeat: A `Heartbeat`, or its interval in seconds or as a `timedelta`; `None` turns it off.
        reconnect: A `ReconnectPolicy`; `True` uses the default policy; `False` ends the client at the first drop or
            failure.
        governor: Limits how fast many clients dial the same origin; `None` means no limit. By default all clients of a
            process share one governor. It does not slow down a single client.
        outbox: Bounds and rules for accepted messages.
        inbox: Bounds for received messages.
        open_timeout: Seconds or `timedelta`, more than 0, for one attempt: URL provider, DNS, TCP, TLS and handshake;
            `None` means no limit.
        setup_timeout: Seconds or `timedelta`, more than 0, for `setup` and the subscriptions; `None` means no limit.
        close_timeout: Seconds or `timedelta`, more than 0, for all of `close()`; `None` means no limit.
        max_message_size: The size of the largest message to receive, in bytes, 1 or more. A larger one closes the
            connection with 1009, and the client reconnects.
        compression: `"deflate"` offers permessage-deflate; `None` does not.
        ssl: `True`, `False` (unverified), an `ssl.SSLContext` or an `aiohttp.Fingerprint`, as for aiohttp.
        proxy: An `http`, `https`, `socks5` or `socks5h` URL, with user and password if required; `"env"` uses
            `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` of the environment; `None` means no proxy. Both `wss`
            and `ws` connections use a CONNECT tunnel. `socks5` resolves host names locally, `socks5h` at the proxy.
        unix_socket: The path of a Unix socket to dial instead of the host of `url`. The `Host` header and the certificate
            check still use `url`. `None` means TCP.
        local_address: The local host and port to bind to, such as `("192.0.2.7", 0)`; port 0 means any port. `None` lets
            the system choose.
        session: An `aiohttp.ClientSession` whose connector, cookie jar, default headers and other settings are used; a
            setting that is not supported is a `ValueError`. The client never closes it. `None` means no session.
        transport: The library that moves the frames, `"aiohttp"` or `"picows"`; or a transport object, such as
            `resilient_ws.testing.FakeTransport`.
        fail_fast: Whether a failure of the first attempt ends the client; `ready()` then raises that failure.
        on_open, on_close, on_reconnect, on_retry, on_message, on_undelivered, on_error, on_state: Callbacks, as for the
            methods of the same names; `None` means none.

    Raises:
        InvalidURL: A URL is not a `ws` or `wss` URL.
        TypeError, ValueError: An argument has the wrong type or is out of range; the text names it.
    """

    def __init__(
        self,
        url: Address | Sequence[Address] | Provider,
        *,
        setup: Setup | None = None,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        heartbeat: Heartbeat | Duration | None = Heartbeat(),  # noqa: B008 - frozen
        reconnect: ReconnectPolicy | bool = True,
        governor: Governor | None = SHARED,
        outbox: Outbox = Outbox(),  # noqa: B008 - frozen
        inbox: Inbox = Inbox(),  # noqa: B008 - frozen
        open_timeout: Duration | None = 10,
        setup_timeout: Duration | None = 10,
        close_timeout: Duration | None = 5,
        max_message_size: int = 4 * 1024 * 1024,
        compression: Literal["deflate"] | None = None,
        ssl: Any = True,
        proxy: str | URL | None = None,
        unix_socket: str | PathLike[str] | None = None,
        local_address: tuple[str, int] | None = None,
        session: Any = None,
        transport: Literal["aiohttp", "picows"] | Transport = "aiohttp",
        fail_fast: bool = False,
        on_open: Callback[OpenEvent] | None = None,
        on_close: Callback[CloseEvent] | None = None,
        on_reconnect: Callback[ReconnectEvent] | None = None,
        on_retry: Callback[RetryEvent] | None = None,
        on_message: MessageCallback | None = None,
        on_undelivered: Callback[UndeliveredEvent] | None = None,
        on_error: Callback[ErrorEvent] | None = None,
        on_state: Callback[StateEvent] | None = None,
    ) -> None:
        config = make_config(
            url,
            setup=setup,
            headers=headers,
            subprotocols=subprotocols,
            heartbeat=heartbeat,
            reconnect=reconnect,
            governor=governor,
            outbox=outbox,
            inbox=inbox,
            open_timeout=open_timeout,
            setup_timeout=setup_timeout,
            close_timeout=close_timeout,
            max_message_size=max_message_size,
            compression=compression,
            ssl=ssl,
            proxy=proxy,
            unix_socket=unix_socket,
            local_address=local_address,
            session=session,
            transport=transport,
            fail_fast=fail_fast,
        )
        self._supervisor = supervisor = Supervisor(config)
        self._sender = supervisor.sender
        self._max_bytes = supervisor.config.outbox.max_bytes
        self._thread: int | None = None  # the thread that started the client
        self._consumer = Consumer(supervisor)
        self._inbox = supervisor.inbox
        given = (on_open, on_close, on_reconnect, on_retry, on_undelivered, on_error, on_state, on_message)
        for name, callback in zip(CALLBACKS, given, strict=True):
            if callback is not None:
                supervisor.dispatcher.register(name, callback)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        supervisor: Supervisor | None = getattr(self, "_supervisor", None)  # unset if the constructor raised
        left = supervisor.left_open() if supervisor is not None else None
        if left is not None:
            _warn(f"{self!r} {left}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        supervisor = self._supervisor
        return f"<WebSocketClient {supervisor.config.addresses.shown} {supervisor.state.value}>"

    # ------------------------------------------------------------------------------------------ lifecycle

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Start connecting in the background. A second call does nothing.

        Raises:
            ClientClosed: The client has ended; create a new one.
            RuntimeError: No event loop is running.
            ConcurrencyError: The client was started in another event loop.
        """
        supervisor = self._supervisor
        if supervisor.life.is_over:
            raise supervisor.ended_error()
        if supervisor.loop is not None:
            self._check_loop()
            return
        supervisor.start()
        self._thread = get_ident()

    async def ready(self, timeout: Duration | None = None) -> None:
        """Wait until the state is `OPEN`. Cancel-safe.

        Args:
            timeout: Seconds or `timedelta`, 0 or more; `None` means no limit.

        Raises:
            TimeoutError: `timeout` elapsed first. The client keeps trying.
            ClientStopped, RetriesExhausted: The client has stopped; `__cause__` is the reason.
            ClientClosed: `close()` was called.
            ConnectError: With `fail_fast`, the first attempt failed.
            NotConnected: `start()` has not been called.
        """
        self._check_started("ready()")
        limit = seconds("timeout", timeout, zero=True, none=True)
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                await self._supervisor.ready()
        except TimeoutError:
            if not scope.expired():
                raise
            raise TimeoutError(
                f"not open within timeout={limit:g} s: {self._supervisor.standing()}"
            ) from None

    async def close(self, code: int = 1000, reason: str = "", drain: Duration | None = None) -> None:
        """Close the client, from any state and any task, within `drain` + `close_timeout`.

        `close` refuses further sends and wakes all blocked calls. If a connection is open, it writes the pending messages,
        sends CLOSE and reads until the peer's CLOSE. It returns after the callbacks have run. Messages received before are
        still delivered. Messages in an outbox file stay there for the next client.

        If called from a callback, or from a task that a callback waits for, `close` does not wait for the callbacks. A
        second call waits for the first one; with no `drain`, or a shorter one, it cuts the first one's drain short.
        Cancel-safe: the client continues to close.

        Args:
            code: 1000, 1001 or 3000-4999.
            reason: At most 123 bytes of UTF-8.
            drain: Seconds or `timedelta`, 0 or more, to wait until all accepted messages are confirmed, reconnecting if
                necessary; `None` does not wait.

        Raises:
            ConcurrencyError: The client was started in another event loop.
            TypeError, ValueError: An argument has the wrong type or is out of range.
        """
        checked_code, checked_reason = check_close(code, reason)
        limit = seconds("drain", drain, zero=True, none=True)
        supervisor = self._supervisor
        if supervisor.is_finished:
            return
        if supervisor.loop is not None:
            self._check_loop()
        supervisor.request_close(checked_code, checked_reason, limit)
        await supervisor.wait_closed()

    async def run(self, *, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
        """Start the client and wait until it is closed: the main function of a program made of callbacks.

        If cancelled, `run` closes the client first; a second cancellation does not wait for that.

        Args:
            signals: The signals that close the client. They are handled only in the main thread, and only if the current
                handler is the default one. The first signal restores the earlier handlers, so a second one has its usual
                effect: pressing Ctrl-C twice ends a program whose `close()` takes too long.

        Raises:
            ClientStopped, RetriesExhausted: The client has stopped; `__cause__` is the reason.
            ClientClosed: The client was closed before.
            TypeError, ValueError: One of `signals` is not a signal.
        """
        supervisor = self._supervisor
        closing = ClosingSignals(signals, lambda: supervisor.request_close(1000, "", None))
        self.start()
        with closing:
            try:
                await asyncio.shield(supervisor.finished)
            except asyncio.CancelledError:
                if supervisor.life.closing is None:  # otherwise the second signal, or a second cancellation
                    await self.close()
                raise
        if supervisor.life.cause is not None:
            raise supervisor.ended_error()

    def reconnect_now(self, code: int = 1000, reason: str = "") -> None:
        """End the current backoff, or replace the open connection, `min_delay` after the last dial at the earliest.

        The old connection is closed with `code` and `reason`. Some gateways end the session on 1000 and 1001, and let the
        client resume it after another code, such as 4000. If no connection is open, nothing is sent.

        Args:
            code: 1000, 1001 or 3000-4999.
            reason: At most 123 bytes of UTF-8.

        Raises:
            ClientClosed: The client has ended.
            NotConnected: `start()` has not been called.
            ConcurrencyError: The client was started in another event loop.
            TypeError, ValueError: An argument has the wrong type or is out of range.
        """
        checked_code, checked_reason = check_close(code, reason)
        if self._supervisor.life.is_over:
            raise self._supervisor.ended_error()
        self._check_started("reconnect_now()")
        self._supervisor.reconnect_now(checked_code, checked_reason)

    # ------------------------------------------------------------------------------------------ sending

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
        # The fast path: `FastLane.put` written out, to save calls per message; its invariant stands there. The length
        # of these messages is their size in bytes. Comparing threads replaces `get_running_loop()`, which costs half as
        # much as this whole block.
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
        supervisor = self._supervisor
        _check_options(confirm, queue, key, priority)
        outbox = supervisor.config.outbox
        if on_uncertain is not None:
            one_of("on_uncertain", on_uncertain, ("report", "resend"))
            if on_uncertain == "resend" and outbox.confirm is False:
                raise ValueError(RESEND_UNCONFIRMED)
        await supervisor.sender.send(
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
                await self._supervisor.sender.flush()
        except TimeoutError:
            if not scope.expired():
                raise
            queue = self._supervisor.sender.queue
            left = f"{queue.waiting} messages are pending and {queue.unconfirmed} are not confirmed"
            raise TimeoutError(
                f"not flushed within timeout={limit:g} s: {left}; {self._supervisor.standing()}"
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
        active, tried = None, 0
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                sender = self._sender
                answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
                with sender.patience.waiting(answer, asks=False):
                    await sender.admit_unqueued(size, answer)
                    if answer.done():
                        return answer.result()  # raises: it failed while waiting for room
                    active = self._supervisor.active
                    assert active is not None
                    written = sender.write_unqueued(plain, size)
                    tried = active.tried
                    return await active.answer(answer, match, written)
        except TimeoutError:
            if not scope.expired():
                raise
            what = (
                f"{active.tried - tried} messages arrived and none matched"
                if active is not None
                else "the request is pending and has not been written"
            )
            raise TimeoutError(
                f"no reply within timeout={limit:g} s: {what}; {self._supervisor.standing()}"
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
        supervisor = self._supervisor
        before = supervisor.subscriptions.get(key)
        supervisor.subscriptions[key] = subscription = Subscription(message, farewell)
        active = supervisor.active
        if active is None or active.writer is None:
            return
        try:
            now = subscription.render(self._max_bytes)
        except Exception as error:  # noqa: BLE001 - reported as on later connections
            supervisor.failed("subscribe", error)
            return
        active.writer.post(now, name=_name_of_declaration(active.writer, key, is_new=before is None))

    def unsubscribe(self, key: Hashable) -> None:
        """Remove a subscription; an unknown key is ignored.

        If a connection is open, the `unsubscribe` message of the subscription is sent.

        Raises:
            ClientClosed: The client has ended.
        """
        self._check_not_over()
        active = self._supervisor.active
        gone = self._supervisor.subscriptions.pop(key, None)
        if gone is None or active is None or active.writer is None:
            return
        writer = active.writer
        if writer.withdraw((_LAST, key)):
            return  # the unsubscribe message of the earlier declaration is pending already
        if writer.is_crowded:
            if writer.withdraw((_NEW, key)):
                return  # never written, so there is nothing to unsubscribe
            writer.withdraw((_AGAIN, key))
        if gone.unsubscribe is not None and not writer.waits((_FAREWELL, key)):
            writer.post(gone.unsubscribe, name=(_FAREWELL, key))

    # ------------------------------------------------------------------------------------------ receiving

    async def recv(self) -> Message:
        """Return the next message, across reconnects: `str` for TEXT, `bytes` for BINARY.

        Cancel-safe: a cancelled call consumes no message.

        Raises:
            ClientClosed: The client has ended and all messages are read; a subclass says why it ended.
            ConcurrencyError: Another consumer is waiting, `on_message` callbacks are registered, or the client was started
                in another event loop.
            NotConnected: No message is left and `start()` has not been called.
        """
        return await self._consumer.recv()

    def __aiter__(self) -> Self:
        self._check_loop()
        return self

    async def __anext__(self) -> Message:
        # The common cases are handled here: another coroutine costs 0.1 to 0.2 us per message.
        inbox = self._inbox
        messages = inbox.messages
        if len(messages) > inbox.floor:
            return messages.popleft()
        waiter = self._consumer.wait()
        if waiter is not None:
            try:
                await waiter
            finally:
                inbox.stop_waiting(waiter)
            messages = inbox.messages
            if len(messages) > inbox.floor:
                return messages.popleft()
        return await self._consumer.step()  # a gap, a paused reader, or the end

    def batches(self) -> AsyncIterator[list[Message]]:
        """Iterate over lists of messages; each list has all unread messages, at least one.

        This is faster than `async for message in client` if many messages arrive at once, and ends in the same way.
        Cancel-safe: a cancelled step consumes no message, and iteration can continue.
        """
        return Batches(self, self._consumer, self._inbox)

    @overload
    def with_gaps(self, *, lost: Literal[False] = ...) -> WithGaps[Message | Gap]: ...
    @overload
    def with_gaps(self, *, lost: Literal[True]) -> WithGaps[Message | Gap | Lost]: ...
    @overload
    def with_gaps(self, *, lost: bool) -> WithGaps[Message | Gap | Lost]: ...
    def with_gaps(self, *, lost: bool = False) -> WithGaps[Message | Gap | Lost]:
        """Iterate over messages, with a `Gap` wherever messages may be missing. Cancel-safe.

        The iterator has the attribute `is_current`: whether a connection is open and no message is missing since the last
        one read. It becomes `False` as soon as the connection ends, even if unread messages remain.

        Args:
            lost: Whether to yield `Lost(close)` where a connection was lost, as soon as the messages before it are read. No
                message of that connection follows. The `Gap` is then yielded when the next connection is open, not with
                its first message.

        Raises:
            TypeError: `lost` is not a bool.
        """
        given = cast("object", lost)
        if not isinstance(given, bool):
            raise TypeError(f"lost must be True or False, got {type(given).__name__}")
        if lost:
            self._check_loop()
        return WithGaps(self._consumer, self._inbox, lost=lost)

    def events(self) -> AsyncIterator[Event]:
        """Iterate over the events from this call on, up to and including the final `CloseEvent`. Cancel-safe.

        The iterator buffers 1,000 events. After that the oldest are dropped, and an `ErrorEvent` says how many. Waiting for
        an event in another event loop raises `ConcurrencyError`.
        """
        return self._supervisor.dispatcher.subscribe()

    # ------------------------------------------------------------------------------------------ callbacks

    def on_open(self, function: Callback[OpenEvent]) -> Handle[OpenEvent]:
        """Call `function` when a connection is open."""
        return self._supervisor.dispatcher.register("on_open", function)

    def on_close(self, function: Callback[CloseEvent]) -> Handle[CloseEvent]:
        """Call `function` when a connection has ended, with or without a CLOSE frame from the peer (`synthesized`)."""
        return self._supervisor.dispatcher.register("on_close", function)

    def on_reconnect(self, function: Callback[ReconnectEvent]) -> Handle[ReconnectEvent]:
        """Call `function` when a connection is open again after an outage or handover."""
        return self._supervisor.dispatcher.register("on_reconnect", function)

    def on_retry(self, function: Callback[RetryEvent]) -> Handle[RetryEvent]:
        """Call `function` when an attempt has failed and the next one is scheduled."""
        return self._supervisor.dispatcher.register("on_retry", function)

    def on_message(self, function: MessageCallback) -> Handle[Any]:
        """Call `function` for each message, one at a time.

        While a message callback is registered, `recv()` and iteration are not available.

        Raises:
            ConcurrencyError: A `recv()` or an iteration is waiting, or the client runs in another thread.
        """
        return self._supervisor.dispatcher.register("on_message", function)

    def on_undelivered(self, function: Callback[UndeliveredEvent]) -> Handle[UndeliveredEvent]:
        """Call `function` when an accepted message was not delivered, or may not have been."""
        return self._supervisor.dispatcher.register("on_undelivered", function)

    def on_error(self, function: Callback[ErrorEvent]) -> Handle[ErrorEvent]:
        """Call `function` when a callback raises, the inbox stays full, or events are dropped."""
        return self._supervisor.dispatcher.register("on_error", function)

    def on_state(self, function: Callback[StateEvent]) -> Handle[StateEvent]:
        """Call `function` each time `state` changes."""
        return self._supervisor.dispatcher.register("on_state", function)

    # ------------------------------------------------------------------------------------------ state

    @property
    def state(self) -> State:
        """The current state."""
        return self._supervisor.state

    @property
    def latency(self) -> float | None:
        """The last round-trip time of a ping, in seconds, with microsecond resolution; `None` before the first one."""
        return self._supervisor.latency

    @property
    def silent_for(self) -> float | None:
        """Seconds since the last byte from the peer, 0 or more; `None` if the state is not `OPEN`.

        Reading it takes less than a microsecond, or two system calls while a full inbox pauses reading. A healthy
        connection is silent for up to the `interval` of the heartbeat plus a round trip.
        """
        supervisor = self._supervisor
        active, loop = supervisor.active, supervisor.loop
        if active is None or active.link is None or loop is None or supervisor.life.closing is not None:
            return None
        if self._inbox.paused and active.pinger is not None:
            return active.pinger.silent_for  # the kernel may hold unread bytes
        silent = loop.time() - active.link.heard_at
        return silent if silent > 0 else 0.0

    @property
    def stats(self) -> Stats:
        """The current statistics."""
        return self._supervisor.stats()

    @property
    def close_event(self) -> CloseEvent | None:
        """The `CloseEvent` of the last connection, or of the client; `None` before the first."""
        return self._supervisor.life.last_close

    def explain(self) -> str:
        """Return the state and the recent events as text, without secrets."""
        lines = self._supervisor.teller.timeline.lines(
            lambda when: time.strftime("%H:%M:%S", time.localtime(when))
        )
        head = f"{self._supervisor.config.addresses.shown}: {self.state.value}"
        waits = self._supervisor.waiting_for
        if waits:
            head += f", waiting for {waits}"
        return "\n".join([head, *lines])

    # ------------------------------------------------------------------------------------------ checks

    def _check_started(self, what: str) -> None:
        if self._supervisor.loop is None and not self._supervisor.life.is_over:
            raise NotConnected(f"call start() before {what}")
        self._check_loop()

    def _check_not_over(self) -> None:
        self._check_loop()
        if self._supervisor.life.is_over:
            raise self._supervisor.ended_error()

    def _check_loop(self) -> None:
        check_loop(self._supervisor.loop)


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
