"""`WebSocketClient`: one object for the whole life of a program, whatever becomes of its connections."""

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
    """A WebSocket connection that is kept, for as long as the program wants it.

    It connects, finds out when a connection is dead even though the network says nothing, tells the program, connects
    again without storming the server, sets the session up anew, and goes on: the same `async for` continues, and what
    was sent in the meantime leaves in order.

    The constructor needs no running event loop. A client belongs to the loop in which it is started.

    Args:
        url: A `ws` or `wss` address, `str` or `yarl.URL`; a sequence of them, tried in turn; or an async function
            that is called with an `Attempt` before each attempt and returns one (a fresh token, a fail-over).
        setup: `async (Connection) -> None`, run on each new connection before anything that waits is sent; any callable
            that returns an awaitable will do.
        headers: Sent with the handshake; never shown in a `repr` or a log.
        subprotocols: Offered with the handshake, the preferred one first.
        heartbeat: A `Heartbeat`, or its interval in seconds; `None` = off.
        reconnect: A `ReconnectPolicy`; `False` = the first end is the end; `True` = the default policy.
        governor: Paces the dials of many clients to one origin; `None` = nothing does. All clients of a process share
            one by default, which a client alone does not notice.
        outbox: What is kept of accepted messages.
        inbox: What is kept of received messages.
        open_timeout: Seconds for provider, name look-up, TCP, TLS and handshake of one attempt; `None` = no limit.
        setup_timeout: Seconds for `setup` and the declared subscriptions; `None` = no limit.
        close_timeout: Seconds for the whole of `close()`; `None` = no limit.
        max_message_size: Bytes of the largest message that is received, 1 or more, inclusive. For a larger one we
            close with 1009, and connect again.
        compression: `"deflate"` offers permessage-deflate; `None` does not.
        ssl: As aiohttp takes it: `True`, an `ssl.SSLContext`, an `aiohttp.Fingerprint`, or `False` = unverified.
        proxy: An `http`, `https`, `socks5` or `socks5h` URL, with user and password where it wants them; `"env"` =
            what the environment names (`https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`); `None` = none. Both `wss`
            and `ws` connections are tunnelled (CONNECT). `socks5` looks the name up here, `socks5h` at the proxy.
        unix_socket: The path of a Unix socket to dial instead of TCP to the host of `url`, which still says what the
            `Host` header and the certificate name; `None` = TCP.
        local_address: Host and port to bind to before dialing, as `("192.0.2.7", 0)`; port 0 = any; `None` = the
            system chooses.
        session: An `aiohttp.ClientSession` that lends its connector, cookie jar, default headers and its other settings;
            one that cannot be honoured is a `ValueError`. Never closed.
        transport: Which library moves the frames, `"aiohttp"` or `"picows"`; or an object that moves them, such as
            `resilient_ws.testing.FakeTransport`.
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
        engine: Supervisor | None = getattr(self, "_engine", None)  # the constructor may have raised
        left = engine.left_open() if engine is not None else None
        if left is not None:
            _warn(f"{self!r} {left}", ResourceWarning, source=self)

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
        """Begin connecting, in the background. A second call does nothing.

        Raises:
            ClientClosed: The client has ended; make a new one.
            RuntimeError: No event loop is running.
            ConcurrencyError: It was started in another event loop.
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
            timeout: Seconds or `timedelta`, 0 or more; `None` = no limit.

        Raises:
            TimeoutError: It took longer; the client goes on trying.
            ClientStopped, RetriesExhausted: The client has ended by itself; `__cause__` says why.
            ClientClosed: `close()` was called.
            ConnectError: With `fail_fast`, why the first attempt failed.
            NotConnected: It has not been started.
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
        """End the client, from any state and any task, within `drain` + `close_timeout`.

        It refuses further sends, wakes everything that is blocked, writes what waits if a connection is open, sends a
        CLOSE, reads to the peer's CLOSE, and returns after the callbacks have run. What was received before is still
        delivered. What an outbox file holds for the next client is left in it. Called from a callback, or from a task
        that one waits for, it does not wait for the callbacks. A second call waits for the first one, and ends its
        draining where it has none or less. Cancel-safe: the client goes on closing.

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
        if engine.is_finished:
            return
        if engine.loop is not None:
            self._check_loop()
        engine.request_close(checked_code, checked_reason, limit)
        await engine.wait_closed()

    async def run(self, *, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
        """Start the client and return when it is closed: the main function of a program made of callbacks.

        A cancelled call closes the client first; cancelled while that is under way, it does not wait for the end of it.

        Args:
            signals: Which ones close the client. Only in the main thread, and only where the handler is the default
                one. The first signal restores the earlier handlers, so a second one acts as it would without this
                client: Ctrl-C twice ends a program whose `close()` takes too long.

        Raises:
            ClientStopped, RetriesExhausted: The client has ended by itself; `__cause__` says why.
            ClientClosed: It had been closed before.
            TypeError, ValueError: One of `signals` is not a signal.
        """
        engine = self._engine
        closing = ClosingSignals(signals, lambda: engine.request_close(1000, "", None))
        self.start()
        with closing:
            try:
                await asyncio.shield(engine.finished)
            except asyncio.CancelledError:
                if engine.life.closing is None:  # else this is the second signal, or somebody else in a hurry
                    await self.close()
                raise
        if engine.life.cause is not None:
            raise engine.ended_error()

    def reconnect_now(self, code: int = 1000, reason: str = "") -> None:
        """End the current backoff, or replace the open connection; never sooner than `min_delay` after the last dial.

        The old connection is sent a CLOSE with `code` and `reason`. Some gateways drop the session on 1000 and 1001,
        and keep it to be resumed on another code, such as 4000. Without an open connection nothing is sent.

        Args:
            code: 1000, 1001 or 3000-4999.
            reason: At most 123 bytes of UTF-8.

        Raises:
            ClientClosed: The client has ended.
            NotConnected: It has not been started.
            TypeError, ValueError: An argument has the wrong type or is out of its range.
        """
        checked_code, checked_reason = check_close(code, reason)
        if self._engine.life.is_over:
            raise self._engine.ended_error()
        self._check_started("reconnect_now()")
        self._engine.reconnect_now(checked_code, checked_reason)

    # ------------------------------------------------------------------------------------------ receiving

    async def recv(self) -> Message:
        """Wait for the next message, across reconnects, and take it: `str` for TEXT, `bytes` for BINARY.

        Cancel-safe: a cancelled call takes nothing.

        Raises:
            ClientClosed: Nothing is left and nothing will come; a subclass says what ended the client.
            ConcurrencyError: Another consumer is waiting, or `on_message` callbacks are the consumer.
            NotConnected: Nothing is there and the client has not been started.
        """
        return await self._consumer.recv()

    def __aiter__(self) -> Self:
        self._check_loop()
        return self

    async def __anext__(self) -> Message:
        # No other coroutine for a message that is there, nor for one that is waited for: each costs 0.1 to 0.2 us.
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
        return await self._consumer.step()  # gaps, room for more, the end

    def batches(self) -> AsyncIterator[list[Message]]:
        """The same iteration in lists: each holds everything that has arrived, one message at least.

        Cheaper than message by message where many come at once. It ends as `async for message in client` does.
        Cancel-safe: a step that was cancelled has taken nothing, and the next one goes on.
        """
        return Batches(self, self._consumer, self._inbox)

    @overload
    def with_gaps(self, *, lost: Literal[False] = ...) -> WithGaps[Message | Gap]: ...
    @overload
    def with_gaps(self, *, lost: Literal[True]) -> WithGaps[Message | Gap | Lost]: ...
    @overload
    def with_gaps(self, *, lost: bool) -> WithGaps[Message | Gap | Lost]: ...
    def with_gaps(self, *, lost: bool = False) -> WithGaps[Message | Gap | Lost]:
        """The same iteration, with a `Gap` wherever messages may be missing. Cancel-safe.

        The iterator has `is_current`: whether a connection is open and nothing is missing between what was taken last
        and what that connection brings. It is `False` from the instant in which a connection ends, however far behind
        the program is.

        Args:
            lost: Whether to yield `Lost(close)` where a connection was lost, as soon as the messages before it are
                taken; no message of that connection follows. The `Gap` then comes when the next connection is open,
                not with its first message.

        Raises:
            TypeError: `lost` is not a bool.
        """
        if not isinstance(lost, bool):
            raise TypeError(f"lost must be True or False, got {type(lost).__name__}")
        if lost:
            self._check_loop()
        return WithGaps(self._consumer, self._inbox, lost=lost)

    def events(self) -> AsyncIterator[Event]:
        """Every event from this call on, until after the final `CloseEvent`.

        The iterator holds 1,000 events; then the oldest go, and an `ErrorEvent` says how many. To wait for one in another
        event loop than that of the client raises `ConcurrencyError`.
        """
        return self._engine.dispatcher.subscribe()

    # ------------------------------------------------------------------------------------------ what is known

    @property
    def state(self) -> State:
        """Where the client is in its life, at this instant."""
        return self._engine.state

    @property
    def latency(self) -> float | None:
        """The last round trip of a ping, in seconds, to the microsecond on every event loop; `None` before the first one."""
        return self._engine.latency

    @property
    def silent_for(self) -> float | None:
        """Seconds since the last byte of the peer, 0 or more; `None` while the state is not `OPEN`.

        Made to be asked before each decision: it takes less than a microsecond, but for two system calls while a full
        inbox pauses the reading. A healthy connection is silent for up to the heartbeat's `interval` and a round trip.
        """
        engine = self._engine
        live, loop = engine.live, engine.loop
        if live is None or live.link is None or loop is None or engine.life.closing is not None:
            return None
        if self._inbox.paused and live.pinger is not None:
            return live.pinger.silent_for  # the kernel knows of bytes that have not been read
        silent = loop.time() - live.link.heard_at
        return silent if silent > 0 else 0.0

    @property
    def stats(self) -> Stats:
        """The numbers of this client, at this instant."""
        return self._engine.stats()

    @property
    def close_event(self) -> CloseEvent | None:
        """How the last connection, or the client, ended; `None` before."""
        return self._engine.life.last_close

    def explain(self) -> str:
        """The state and the recent past, in words; holds no secrets."""
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
