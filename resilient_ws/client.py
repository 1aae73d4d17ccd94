"""`WebSocketClient`, the public class."""

from __future__ import annotations

import asyncio
import signal
import time
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from os import PathLike
from threading import get_ident
from types import TracebackType
from typing import Any, Literal, Self, overload

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
from resilient_ws.api.handle import CALLBACKS, Callback, MessageCallback
from resilient_ws.api.message import Message
from resilient_ws.api.options import (
    Duration,
    Heartbeat,
    Inbox,
    Outbox,
    ReconnectPolicy,
    seconds,
)
from resilient_ws.api.stats import Stats
from resilient_ws.core.governor import SHARED, Governor
from resilient_ws.runtime.addresses import Provider
from resilient_ws.runtime.attempt import Setup
from resilient_ws.runtime.config import make_config
from resilient_ws.runtime.consumer import Batches, Consumer, WithGaps
from resilient_ws.runtime.outgoing import Outgoing
from resilient_ws.runtime.registration import Callbacks
from resilient_ws.runtime.supervisor import Supervisor
from resilient_ws.transports.seam import Transport

Address = str | URL | Endpoint


class WebSocketClient(Callbacks, Outgoing):
    """A WebSocket client that keeps one logical connection alive for as long as your program runs.

    The client connects, detects dead connections, and reconnects with randomised exponential backoff. After a reconnect
    it runs `setup` and sends the subscriptions again. `async for` continues across reconnects, and messages sent during
    an outage leave in order.

    The constructor does not need a running event loop. A client belongs to the loop in which it is started.

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
        engine = Supervisor(config)
        Callbacks.__init__(self, engine.dispatcher)
        Outgoing.__init__(self, engine)
        self._consumer = Consumer(engine)
        self._inbox = engine.inbox
        given = (on_open, on_close, on_reconnect, on_retry, on_undelivered, on_error, on_state, on_message)
        for name, callback in zip(CALLBACKS, given, strict=True):
            if callback is not None:
                self._engine.dispatcher.register(name, callback)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        engine: Supervisor | None = getattr(self, "_engine", None)  # unset if the constructor raised
        left = engine.left_open() if engine is not None else None
        if left is not None:
            _warn(f"{self!r} {left}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        engine = self._engine
        return f"<WebSocketClient {engine.config.addresses.shown} {engine.state.value}>"

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
        engine = self._engine
        if engine.life.is_over:
            raise engine.ended_error()
        if engine.loop is not None:
            self._check_loop()
            return
        engine.start()
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
                await self._engine.ready()
        except TimeoutError:
            if not scope.expired():
                raise
            raise TimeoutError(f"not open within timeout={limit:g} s: {self._engine.standing()}") from None

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
        engine = self._engine
        if engine.is_finished:
            return
        if engine.loop is not None:
            self._check_loop()
        engine.request_close(checked_code, checked_reason, limit)
        await engine.wait_closed()

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
        engine = self._engine
        closing = ClosingSignals(signals, lambda: engine.request_close(1000, "", None))
        self.start()
        with closing:
            try:
                await asyncio.shield(engine.finished)
            except asyncio.CancelledError:
                if engine.life.closing is None:  # otherwise the second signal, or a second cancellation
                    await self.close()
                raise
        if engine.life.cause is not None:
            raise engine.ended_error()

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
        if self._engine.life.is_over:
            raise self._engine.ended_error()
        self._check_started("reconnect_now()")
        self._engine.reconnect_now(checked_code, checked_reason)

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
        if not isinstance(lost, bool):
            raise TypeError(f"lost must be True or False, got {type(lost).__name__}")
        if lost:
            self._check_loop()
        return WithGaps(self._consumer, self._inbox, lost=lost)

    def events(self) -> AsyncIterator[Event]:
        """Iterate over the events from this call on, up to and including the final `CloseEvent`. Cancel-safe.

        The iterator buffers 1,000 events. After that the oldest are dropped, and an `ErrorEvent` says how many. Waiting for
        an event in another event loop raises `ConcurrencyError`.
        """
        return self._engine.dispatcher.subscribe()

    # ------------------------------------------------------------------------------------------ state

    @property
    def state(self) -> State:
        """The current state."""
        return self._engine.state

    @property
    def latency(self) -> float | None:
        """The last round-trip time of a ping, in seconds, with microsecond resolution; `None` before the first one."""
        return self._engine.latency

    @property
    def silent_for(self) -> float | None:
        """Seconds since the last byte from the peer, 0 or more; `None` if the state is not `OPEN`.

        Reading it takes less than a microsecond, or two system calls while a full inbox pauses reading. A healthy
        connection is silent for up to the `interval` of the heartbeat plus a round trip.
        """
        engine = self._engine
        live, loop = engine.live, engine.loop
        if live is None or live.link is None or loop is None or engine.life.closing is not None:
            return None
        if self._inbox.paused and live.pinger is not None:
            return live.pinger.silent_for  # the kernel may hold unread bytes
        silent = loop.time() - live.link.heard_at
        return silent if silent > 0 else 0.0

    @property
    def stats(self) -> Stats:
        """The current statistics."""
        return self._engine.stats()

    @property
    def close_event(self) -> CloseEvent | None:
        """The `CloseEvent` of the last connection, or of the client; `None` before the first."""
        return self._engine.life.last_close

    def explain(self) -> str:
        """Return the state and the recent events as text, without secrets."""
        lines = self._engine.teller.timeline.lines(
            lambda when: time.strftime("%H:%M:%S", time.localtime(when))
        )
        head = f"{self._engine.config.addresses.shown}: {self.state.value}"
        waits = self._engine.waiting_for
        if waits:
            head += f", waiting for {waits}"
        return "\n".join([head, *lines])

    # ------------------------------------------------------------------------------------------ checks

    def _check_started(self, what: str) -> None:
        if self._engine.loop is None and not self._engine.life.is_over:
            raise NotConnected(f"call start() before {what}")
        self._check_loop()
