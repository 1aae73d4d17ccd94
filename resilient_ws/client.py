"""`WebSocketClient`: one object for the whole life of a program, whatever becomes of its connections."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self

from yarl import URL

from resilient_ws.closing import check_close
from resilient_ws.config import Config
from resilient_ws.connection import checked
from resilient_ws.dial import Addresses, Provider
from resilient_ws.dispatch import CALLBACKS, Callback, Handle
from resilient_ws.engine import Engine
from resilient_ws.errors import ConcurrencyError, NotConnected
from resilient_ws.events import (
    CloseEvent,
    Endpoint,
    ErrorEvent,
    Event,
    Gap,
    Message,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    State,
    StateEvent,
    UndeliveredEvent,
)
from resilient_ws.inbox import Ended
from resilient_ws.opening import Setup, Subscription
from resilient_ws.options import (
    Duration,
    Heartbeat,
    Inbox,
    OnUncertain,
    Outbox,
    ReconnectPolicy,
    function,
    one_of,
    seconds,
    whole,
)
from resilient_ws.stats import Stats
from resilient_ws.transports import make_transport
from resilient_ws.transports.options import TransportOptions

Sendable = Message | bytearray | memoryview
Address = str | URL | Endpoint


class WebSocketClient:
    """A WebSocket connection that is kept, for as long as the program wants it.

    It connects, finds out when a connection is dead even though the network says nothing, tells the program, connects
    again without storming the server, sets the session up anew, and goes on: the same `async for` continues, and what
    was sent in the meantime leaves in order.

    The constructor needs no running event loop. A client belongs to the loop in which it is started.

    Args:
        url: A `ws` or `wss` address, `str` or `yarl.URL`; a sequence of them, tried in turn; or an async function
            that is called with an `Attempt` before each attempt and returns one (a fresh token, a fail-over).
        setup: `async (Connection) -> None`, run on each new connection before anything that waits is sent.
        headers: Sent with the handshake; never shown in a `repr` or a log.
        subprotocols: Offered with the handshake, the preferred one first.
        heartbeat: A `Heartbeat`, or its interval in seconds; `None` = off.
        reconnect: A `ReconnectPolicy`; `False` = the first end is the end; `True` = the default policy.
        outbox: What is kept of accepted messages.
        inbox: What is kept of received messages.
        open_timeout: Seconds for provider, name look-up, TCP, TLS and handshake of one attempt; `None` = no limit.
        setup_timeout: Seconds for `setup` and the declared subscriptions; `None` = no limit.
        close_timeout: Seconds for the whole of `close()`; `None` = no limit.
        max_message_size: Bytes of the largest message that is received, 1 or more, inclusive. For a larger one we
            close with 1009, and connect again.
        compression: `"deflate"` offers permessage-deflate; `None` does not.
        ssl: As aiohttp takes it: `True`, an `ssl.SSLContext`, an `aiohttp.Fingerprint`, or `False` = unverified.
        proxy: An `http` or `https` URL; `"env"` = what the environment names; `None` = none.
        session: An `aiohttp.ClientSession` that lends its connector, cookie jar and default headers; never closed.
        transport: Which library moves the frames, `"aiohttp"` or `"picows"`.
        fail_fast: Whether the failure of the first attempt ends the client; `ready()` then raises that failure.
        on_open, on_close, on_reconnect, on_retry, on_message, on_undelivered, on_error, on_state: As the methods.

    Raises:
        InvalidURL: An address is not `ws` or `wss`.
        TypeError, ValueError: An argument has the wrong type or is out of its range; the text names it.
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
        outbox: Outbox = Outbox(),  # noqa: B008 - frozen
        inbox: Inbox = Inbox(),  # noqa: B008 - frozen
        open_timeout: Duration | None = 10,
        setup_timeout: Duration | None = 10,
        close_timeout: Duration | None = 5,
        max_message_size: int = 4 * 1024 * 1024,
        compression: Literal["deflate"] | None = None,
        ssl: Any = True,
        proxy: str | URL | None = None,
        session: Any = None,
        transport: Literal["aiohttp", "picows"] = "aiohttp",
        fail_fast: bool = False,
        on_open: Callback[OpenEvent] | None = None,
        on_close: Callback[CloseEvent] | None = None,
        on_reconnect: Callback[ReconnectEvent] | None = None,
        on_retry: Callback[RetryEvent] | None = None,
        on_message: Callback[Any] | None = None,
        on_undelivered: Callback[UndeliveredEvent] | None = None,
        on_error: Callback[ErrorEvent] | None = None,
        on_state: Callback[StateEvent] | None = None,
    ) -> None:
        if setup is not None:
            function("setup", setup)
        if isinstance(heartbeat, bool) or not isinstance(
            heartbeat, Heartbeat | int | float | timedelta | None
        ):
            raise TypeError(f"heartbeat must be a Heartbeat, seconds or None, got {type(heartbeat).__name__}")
        if not isinstance(reconnect, ReconnectPolicy | bool):
            raise TypeError(f"reconnect must be a ReconnectPolicy or a bool, got {type(reconnect).__name__}")
        if not isinstance(outbox, Outbox):
            raise TypeError(f"outbox must be an Outbox, got {type(outbox).__name__}")
        if not isinstance(inbox, Inbox):
            raise TypeError(f"inbox must be an Inbox, got {type(inbox).__name__}")
        if not isinstance(fail_fast, bool):
            raise TypeError(f"fail_fast must be True or False, got {type(fail_fast).__name__}")
        if compression is not None:
            one_of("compression", compression, ("deflate",))
        one_of("transport", transport, ("aiohttp", "picows"))
        policy = (
            reconnect if isinstance(reconnect, ReconnectPolicy) else ReconnectPolicy() if reconnect else None
        )
        config = Config(
            addresses=Addresses(url, headers, subprotocols),
            transport=make_transport(
                transport,
                TransportOptions(
                    ssl=True if ssl is None else ssl,
                    proxy=proxy,
                    session=session,
                    compression=compression,
                    max_message_size=whole("max_message_size", max_message_size),
                ),
            ),
            setup=setup,
            heartbeat=heartbeat if isinstance(heartbeat, Heartbeat | None) else Heartbeat(heartbeat),
            reconnect=policy,
            outbox=outbox,
            inbox=inbox,
            open_timeout=seconds("open_timeout", open_timeout, none=True),
            setup_timeout=seconds("setup_timeout", setup_timeout, none=True),
            close_timeout=seconds("close_timeout", close_timeout, none=True),
            compresses=compression is not None,
            fail_fast=fail_fast,
        )
        self._engine = Engine(config)
        self._max_bytes = outbox.max_bytes
        given = (on_open, on_close, on_reconnect, on_retry, on_undelivered, on_error, on_state, on_message)
        for name, callback in zip(CALLBACKS, given, strict=True):
            if callback is not None:
                self._engine.dispatcher.register(name, callback)

    def __repr__(self) -> str:
        engine = self._engine
        return f"<WebSocketClient {engine.config.addresses.shown} {engine.state.value}>"

    # ------------------------------------------------------------------------------------------ its life

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
        """Begins connecting, in the background. A second call does nothing.

        Raises:
            ClientClosed: The client has ended; make a new one.
            RuntimeError: No event loop is running.
            ConcurrencyError: It was started in another event loop.
        """
        engine = self._engine
        if engine.lifecycle.is_over:
            raise engine.ended_error()
        if engine.loop is not None:
            self._check_loop()
            return
        engine.start()

    async def ready(self, timeout: Duration | None = None) -> None:  # noqa: ASYNC109 - the contract's name
        """Waits until the state is `OPEN`. Cancel-safe.

        Args:
            timeout: Seconds or `timedelta`, 0 or more; `None` = no limit.

        Raises:
            TimeoutError: It took longer; the client goes on trying.
            ClientStopped, RetriesExhausted: The client has ended by itself; `__cause__` says why.
            ClientClosed: `close()` was called.
            ConnectError: With `fail_fast`, why the first attempt failed.
            NotConnected: It has not been started.
        """
        self._check_started("ready()")
        async with asyncio.timeout(seconds("timeout", timeout, zero=True, none=True)):
            await self._engine.ready()

    async def close(self, code: int = 1000, reason: str = "", drain: Duration | None = None) -> None:
        """Ends the client, from any state and any task, within `drain` + `close_timeout`.

        It refuses further sends, wakes everything that is blocked, writes what waits if a connection is open, sends a
        CLOSE, reads to the peer's CLOSE, and returns after the callbacks have run. What was received before is still
        delivered. Called from a callback it does not wait for the callbacks. A second call waits for the first one.
        Cancel-safe: the client goes on closing.

        Args:
            code: 1000, 1001 or 3000-4999.
            reason: At most 123 bytes of UTF-8.
            drain: Seconds or `timedelta` to wait first until everything accepted is confirmed, connecting again if
                need be; `None` = no waiting.

        Raises:
            TypeError, ValueError: An argument has the wrong type or is out of its range.
        """
        checked_code, checked_reason = check_close(code, reason)
        limit = seconds("drain", drain, zero=True, none=True)
        engine = self._engine
        if engine.loop is not None:
            self._check_loop()
        inside = engine.is_inside
        engine.request_close(checked_code, checked_reason, limit)
        await engine.wait_closed(inside=inside)

    async def run(self, *, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
        """Starts the client and returns when it is closed: the main function of a program made of callbacks.

        A cancelled call closes the client first.

        Args:
            signals: Which ones close the client. Only in the main thread, and only where the handler is the default
                one; restored afterwards.

        Raises:
            ClientStopped, RetriesExhausted: The client has ended by itself; `__cause__` says why.
            ClientClosed: It had been closed before.
        """
        engine = self._engine
        self.start()
        with _Signals(signals, self):
            assert engine.owner is not None
            try:
                await asyncio.shield(engine.owner.finished)
            except asyncio.CancelledError:
                await self.close()
                raise
        if engine.cause is not None:
            raise engine.ended_error()

    def reconnect_now(self) -> None:
        """Ends a back-off wait, or replaces the connection that is open; never sooner than `min_delay` after the last dial.

        Raises:
            ClientClosed: The client has ended.
            NotConnected: It has not been started.
        """
        if self._engine.lifecycle.is_over:
            raise self._engine.ended_error()
        self._check_started("reconnect_now()")
        self._engine.reconnect_now()

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
        """Sends a message, now or as soon as there is a connection, in the order of the calls.

        It waits only before it accepts: when it has returned, the message is accepted; when it raised or was
        cancelled, it is not. What becomes of an accepted message is reported (`on_undelivered`) unless the peer has it.

        Args:
            message: `str` is sent as TEXT, bytes-like as BINARY (copied unless it is `bytes`).
            ttl: Seconds or `timedelta` after which it is dropped unless written; `None` = that of the outbox.
            confirm: Return only when the peer is known to have it. Cancelled then, the message stays accepted.
            queue: `False` = only on a connection that is open now, and never sent again.
            on_uncertain: `"report"` or `"resend"`, for this message; `None` = that of the outbox.
            key: A waiting message with the same key is replaced by this one; `None` = replaces nothing.
            priority: What waits with a higher one leaves first.

        Raises:
            OutboxFull: No connection is open and the outbox is full, with `overflow="raise"`.
            ClientClosed: The client is closing or has ended.
            MessageTooBig: It is larger than `outbox.max_bytes`.
            NotConnected: With `queue=False`, no connection is open; or it would have to wait before `start()`.
            DeliveryUncertain: With `confirm`, it may or may not have arrived, or confirmation is off.
            InboxFull: With `confirm`, the confirmation stands behind received messages that nobody takes.
            TypeError, ValueError: The message or an option has the wrong type or value.
        """
        plain, size = checked(message, self._max_bytes)
        engine = self._engine
        if (
            ttl is None
            and on_uncertain is None
            and key is None
            and queue
            and not priority
            and not confirm
            and engine.sender.send_now(plain, size)
        ):
            return
        self._check_loop()
        outbox = engine.config.outbox
        await engine.sender.send(
            plain,
            size,
            ttl=outbox.ttl if ttl is None else seconds("ttl", ttl),
            confirm=confirm,
            queue=queue,
            resend=(
                outbox.on_uncertain
                if on_uncertain is None
                else one_of("on_uncertain", on_uncertain, ("report", "resend"))
            )
            == "resend",
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

    async def flush(self, timeout: Duration | None = None) -> None:  # noqa: ASYNC109 - the contract's name
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
        async with asyncio.timeout(seconds("timeout", timeout, zero=True, none=True)):
            await self._engine.sender.flush()

    async def request(
        self,
        message: Sendable,
        match: Callable[[Message], bool],
        timeout: Duration | None,  # noqa: ASYNC109 - the contract's name
    ) -> Message:
        """Sends a message with `queue=False`, and returns the first one received from then on that matches.

        The reply is consumed, everything else is delivered as usual. Cancel-safe.

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
        function("match", match)
        plain, size = checked(message, self._max_bytes)
        self._check_loop()
        async with asyncio.timeout(seconds("timeout", timeout, zero=True, none=True)):
            return await self._engine.request(plain, size, match)

    def subscribe(
        self,
        key: Hashable,
        message: Sendable | Callable[[], Sendable],
        unsubscribe: Sendable | None = None,
    ) -> None:
        """Declares an intent: sent now if a connection is open, and on each one after `setup`, before the outbox.

        Intents are sent in the order of their declaration; the same key replaces.

        Args:
            key: What names it; any hashable.
            message: What to send, or a function that makes it anew each time (signed timestamps).
            unsubscribe: What `unsubscribe(key)` sends on an open connection; `None` = nothing.

        Raises:
            ClientClosed: The client has ended.
            TypeError, ValueError, MessageTooBig: As for `send`.
        """
        if not callable(message):
            message = checked(message, self._max_bytes)[0]
        farewell = None if unsubscribe is None else checked(unsubscribe, self._max_bytes)[0]
        if self._engine.loop is not None:
            self._check_loop()
        self._engine.subscribe(key, Subscription(message, farewell))

    def unsubscribe(self, key: Hashable) -> None:
        """Takes an intent back; an unknown key is of no consequence.

        Raises:
            ClientClosed: The client has ended.
        """
        if self._engine.loop is not None:
            self._check_loop()
        self._engine.unsubscribe(key)

    # ------------------------------------------------------------------------------------------ receiving

    async def recv(self) -> Message:
        """Waits for the next message, across reconnects, and takes it: `str` for TEXT, `bytes` for BINARY.

        Cancel-safe: a cancelled call takes nothing.

        Raises:
            ClientClosed: Nothing is left and nothing will come; a subclass says what ended the client.
            ConcurrencyError: Another consumer is waiting, or `on_message` callbacks are the consumer.
            NotConnected: Nothing is there and the client has not been started.
        """
        self._check_consumer()
        try:
            return await self._engine.inbox.get()
        except Ended:
            raise self._engine.ended_error() from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        self._check_consumer()
        try:
            return await self._engine.inbox.get()
        except Ended:
            if self._engine.cause is None:
                raise StopAsyncIteration from None
            raise self._engine.ended_error() from None

    def with_gaps(self) -> AsyncIterator[Message | Gap]:
        """The same iteration, with a `Gap` wherever messages may be missing."""
        return _WithGaps(self)

    def events(self) -> AsyncIterator[Event]:
        """Every event from this call on, until after the final `CloseEvent`.

        The iterator holds 1,000 events; then the oldest go, and an `ErrorEvent` says how many.
        """
        return self._engine.dispatcher.subscribe()

    # ------------------------------------------------------------------------------------------ callbacks

    def on_open(self, function: Callback[OpenEvent]) -> Handle[OpenEvent]:
        """Calls `function`, sync or async, when a connection is open. Usable as a decorator."""
        return self._engine.dispatcher.register("on_open", function)

    def on_close(self, function: Callback[CloseEvent]) -> Handle[CloseEvent]:
        """Calls `function` when a connection has ended, also where the network said nothing (`synthesized`)."""
        return self._engine.dispatcher.register("on_close", function)

    def on_reconnect(self, function: Callback[ReconnectEvent]) -> Handle[ReconnectEvent]:
        """Calls `function` when a connection is open again."""
        return self._engine.dispatcher.register("on_reconnect", function)

    def on_retry(self, function: Callback[RetryEvent]) -> Handle[RetryEvent]:
        """Calls `function` when another attempt is scheduled."""
        return self._engine.dispatcher.register("on_retry", function)

    def on_message(self, function: Callback[Any]) -> Handle[Any]:
        """Calls `function` for each message, one at a time; while registered, callbacks are the consumer."""
        return self._engine.dispatcher.register("on_message", function)

    def on_undelivered(self, function: Callback[UndeliveredEvent]) -> Handle[UndeliveredEvent]:
        """Calls `function` when it is known that an accepted message was not, or may not have been, delivered."""
        return self._engine.dispatcher.register("on_undelivered", function)

    def on_error(self, function: Callback[ErrorEvent]) -> Handle[ErrorEvent]:
        """Calls `function` when a callback raised, the inbox stands full, or events were dropped."""
        return self._engine.dispatcher.register("on_error", function)

    def on_state(self, function: Callback[StateEvent]) -> Handle[StateEvent]:
        """Calls `function` at each change of `state`."""
        return self._engine.dispatcher.register("on_state", function)

    # ------------------------------------------------------------------------------------------ what is known

    @property
    def state(self) -> State:
        """Where the client is in its life, at this instant."""
        return self._engine.state

    @property
    def latency(self) -> float | None:
        """The last round trip of a ping, in seconds; `None` before the first one."""
        return self._engine.latency

    @property
    def stats(self) -> Stats:
        """The numbers of this client, at this instant."""
        return self._engine.stats()

    @property
    def close_event(self) -> CloseEvent | None:
        """How the last connection, or the client, ended; `None` before."""
        return self._engine.last_close

    def explain(self) -> str:
        """The state and the recent past, in words; holds no secrets."""
        lines = self._engine.teller.timeline.lines(lambda when: time.strftime("%H:%M:%S", time.localtime(when)))
        head = f"{self._engine.config.addresses.shown}: {self.state.value}"
        return "\n".join([head, *lines])

    # ------------------------------------------------------------------------------------------ checks

    def _check_started(self, what: str) -> None:
        if self._engine.loop is None and not self._engine.lifecycle.is_over:
            raise NotConnected(f"{what} waits, and the client has not been started")
        self._check_loop()

    def _check_loop(self) -> None:
        loop = self._engine.loop
        if loop is not None and loop is not asyncio.get_running_loop():
            raise ConcurrencyError(
                "the client belongs to another event loop, the one in which it was started"
            )

    def _check_consumer(self) -> None:
        engine = self._engine
        if engine.dispatcher.consumes_messages:
            raise ConcurrencyError("on_message callbacks are the consumer of this client")
        if engine.loop is None and not engine.inbox and not engine.lifecycle.is_over:
            raise NotConnected("receiving waits, and the client has not been started")
        self._check_loop()


class _WithGaps:
    """The iterator of `with_gaps`."""

    def __init__(self, client: WebSocketClient) -> None:
        self._client = client

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message | Gap:
        client = self._client
        client._check_consumer()
        engine = client._engine
        try:
            return await engine.inbox.get_with_gaps()
        except Ended:
            if engine.cause is None:
                raise StopAsyncIteration from None
            raise engine.ended_error() from None


class _Signals:
    """While it is entered, signals close a client."""

    def __init__(self, signals: Sequence[signal.Signals], client: WebSocketClient) -> None:
        self._signals = signals
        self._client = client
        self._taken: list[signal.Signals] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in self._signals:
            if signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):
                continue
            try:
                loop.add_signal_handler(number, self._received)
            except (NotImplementedError, RuntimeError, ValueError):
                continue  # this loop or platform has no signal handlers
            self._taken.append(number)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._taken:
            loop.remove_signal_handler(number)

    def _received(self) -> None:
        self._client._engine.request_close(1000, "", None)
