"""One attempt to connect: URL provider, dial, handshake, `setup`, subscriptions.

An attempt always ends within its time limits, and frees everything when it fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, cast

import attrs

from resilient_ws.aio.user_code import called_apart, must_pass
from resilient_ws.api.close_codes import CloseCode
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectError, OpenTimeout, SetupFailed, SetupTimeout
from resilient_ws.api.events import Attempt, Stop
from resilient_ws.api.message import Message
from resilient_ws.api.options import Heartbeat, Inbox, Outbox
from resilient_ws.api.record import Record
from resilient_ws.connection.active import ActiveConnection, Confirmations, Host, Spawn
from resilient_ws.connection.pinger import Answerers
from resilient_ws.connection.setup import Connection, checked
from resilient_ws.core.delivery import DeliveryQueue
from resilient_ws.core.endings import AttemptFailed, told_end
from resilient_ws.core.governor import Origin
from resilient_ws.runtime.addresses import Addresses, NotAwaitable
from resilient_ws.runtime.dial_slots import Turns, origin_of
from resilient_ws.transports.seam import Transport
from resilient_ws.transports.shared.retry_after import retry_after

Setup = Callable[[Connection], Awaitable[object]]

LAST_WORDS: Final = 1.0
"""Seconds for a `setup` hook to read what a server said before it closed: it may be why."""

log = logging.getLogger("resilient_ws")


@attrs.frozen(eq=False, repr=False)
class Subscription(Record):
    """An intent declared with `subscribe`.

    Attributes:
        message: What declares it on each connection, or a function that makes it.
        unsubscribe: What takes it back, or `None`.
    """

    message: Message | Callable[[], object] = attrs.field(repr=False)
    unsubscribe: Message | None = attrs.field(default=None, repr=False)

    def render(self, limit: int) -> Message:
        """Return the message to send now."""
        made: object = self.message() if callable(self.message) else self.message
        return checked(made, limit)[0]


class Interrupted(Exception):  # noqa: N818 - a turn of the owner, not an error
    """The client is closing, so the attempt was given up."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OpeningOptions(Record):
    """What each attempt is told."""

    addresses: Addresses
    transport: Transport
    setup: Setup | None
    heartbeat: Heartbeat | None
    outbox: Outbox
    inbox: Inbox
    open_timeout: float | None
    setup_timeout: float | None


class Opener:
    """Makes the attempts of one client, one at a time.

    Args:
        options: What each one is told.
        turns: When it may dial.
        host: Whom a connection tells of its end.
        delivery: Whom a connection tells what the peer has read.
        given_up: Called with a connection that ended before it was open.
        queue: Whose messages its PONGs confirm.
        subscriptions: The declared intents, alive: what is declared during an attempt is part of it.
        spawn: Starts a child of the supervisor task.
        idle: Called when a connection has room again.
    """

    __slots__ = (
        "_active",
        "_answerers",
        "_delivery",
        "_given_up",
        "_host",
        "_idle",
        "_interrupted",
        "_options",
        "_queue",
        "_scope",
        "_since",
        "_spawn",
        "_step",
        "_subscriptions",
        "_turns",
    )

    def __init__(
        self,
        options: OpeningOptions,
        turns: Turns,
        *,
        host: Host,
        delivery: Confirmations,
        given_up: Callable[[ActiveConnection], None],
        queue: DeliveryQueue,
        subscriptions: dict[Hashable, Subscription],
        spawn: Spawn,
        idle: Callable[[], None],
    ) -> None:
        self._options = options
        self._turns = turns
        self._host = host
        self._delivery = delivery
        self._given_up = given_up
        self._queue = queue
        self._subscriptions = subscriptions
        self._spawn = spawn
        self._idle = idle
        self._answerers = Answerers()
        self._scope: asyncio.Timeout | None = None
        self._interrupted = False
        self._active: ActiveConnection | None = None
        self._step = ""  # what is waited for now
        self._since = 0.0
        transport: Any = options.transport
        if hasattr(transport, "on_redirect"):
            transport.on_redirect = self._redirected

    def interrupt(self) -> None:
        """Give up the current attempt, and every later one at once."""
        self._interrupted = True
        self._cut_short()

    def waits_for(self) -> str:
        """Return in words what the attempt that is under way waits for; empty where none is."""
        turn = self._turns.waits_for()
        if turn or not self._step:
            return turn
        step = self._step
        if step.startswith("a connection to "):  # the transport knows at which stage that is
            step = getattr(self._options.transport, "waits_for", "") or step
        return f"{step} (for {asyncio.get_running_loop().time() - self._since:.1f} s now)"

    def _waiting(self, step: str) -> None:
        self._step, self._since = step, asyncio.get_running_loop().time()

    def abandon(self) -> None:
        """Free the socket of the current attempt, even while user code uses it."""
        if self._active is not None:
            self._active.cut()

    def ended(self, active: ActiveConnection) -> None:
        """Note that a connection ended during its setup; only its cleanup is left to wait for."""
        if active is self._active:
            self._cut_short(LAST_WORDS if len(active.setup_inbox) else 0.0)

    def _cut_short(self, grace: float = 0.0) -> None:
        scope = self._scope
        if scope is not None and not scope.expired():
            until, limit = asyncio.get_running_loop().time() + grace, scope.when()
            scope.reschedule(until if limit is None else min(until, limit))

    async def open(self, index: int, attempt: Attempt, *, first: bool) -> ActiveConnection:
        """Return a connection that is set up.

        Args:
            index: Which of several addresses.
            attempt: What the URL provider is told.
            first: Whether the client has never been open.

        Raises:
            AttemptFailed: It could not be opened or set up.
            Interrupted: `interrupt` was called.
        """
        active = self._active = ActiveConnection(self._host, self._delivery, self._options.inbox)
        try:
            endpoint = await self._dial(active, index, attempt)
            await self._set_up(active, endpoint, attempt.number, first)
        except BaseException:
            if active.link is not None:
                active.link.close(CloseCode.NORMAL_CLOSURE, "")
            active.cut()
            self._given_up(active)
            raise
        finally:
            self._active = None
            self._step = ""
        return active

    async def _dial(self, active: ActiveConnection, index: int, attempt: Attempt) -> Endpoint:
        options, turns = self._options, self._turns
        endpoint: Endpoint | None = None
        opened = False
        try:
            await self._take_turn(turns.expected(index))
            limit = options.open_timeout
            endpoint = options.addresses.fixed(index)
            if endpoint is None:
                turns.lend()
                self._waiting("the URL provider")
                began = asyncio.get_running_loop().time()
                async with self._begin(limit):
                    endpoint = await options.addresses.next(index, attempt)
                if limit is not None:
                    limit = max(0.0, limit - (asyncio.get_running_loop().time() - began))
                await self._take_turn(origin_of(endpoint))
            self._waiting(f"a connection to {endpoint}")
            async with self._begin(limit):
                # The connection owns the link at once, so that any failure from here on frees it.
                active.link = await options.transport.open(endpoint, active)
            opened = True
        except Interrupted:
            raise
        except (ConnectError, Stop, NotAwaitable) as error:
            self._check()
            _read_retry_after(error)
            if endpoint is not None:
                _forget_frames(error)
            raise AttemptFailed(error, endpoint) from None
        except TimeoutError:
            self._check()
            late = OpenTimeout(
                _late(
                    options.open_timeout,
                    endpoint,
                    getattr(options.transport, "waits_for", "") or f"a connection to {endpoint}",
                )
            )
            raise AttemptFailed(late, endpoint) from None
        except Exception as error:  # noqa: BLE001 - what no transport should raise ends the attempt, not the client
            name = type(error).__name__
            log.error("the transport raised %s", name)  # noqa: TRY400 - the text may hold a secret
            failed = ConnectError(f"the transport failed ({name})", foreign=name)
            raise AttemptFailed(failed, endpoint) from None
        finally:
            self._scope = None
            turns.leave(opened=opened)
        active.equip(
            self._queue,
            self._answerers,
            heartbeat=options.heartbeat,
            confirm_interval=options.outbox.confirm_interval,
            spawn=self._spawn,
            idle=self._idle,
        )
        # Behind the step that makes it OPEN: what came with the handshake comes after the `OpenEvent`.
        asyncio.get_running_loop().call_soon(active.begin, self._spawn)
        return endpoint

    async def _redirected(self, endpoint: Endpoint) -> None:
        """Wait for a slot at the origin of a redirect; this time is not part of `open_timeout`."""
        scope, loop = self._scope, asyncio.get_running_loop()
        limit = scope.when() if scope is not None else None
        if scope is not None and not scope.expired():
            scope.reschedule(None)
        began = loop.time()
        try:
            await self._take_turn(origin_of(endpoint), passing=True)
        finally:
            self._scope = scope
            if scope is not None and not scope.expired():
                scope.reschedule(None if limit is None else limit + loop.time() - began)

    async def _take_turn(self, origin: Origin | None, *, passing: bool = False) -> None:
        """Wait until the governor lets this client dial; what that takes is not part of `open_timeout`."""
        self._check()
        if self._turns.ask(origin, passing=passing):
            return  # without a scope: the five of an attempt took 6 us each
        try:
            async with self._begin(self._turns.time_left):
                await self._turns.come()
        except TimeoutError:
            self._check()
            raise ConnectError(f"no dial slot for {origin} within max_elapsed") from None

    async def _set_up(self, active: ActiveConnection, endpoint: Endpoint, number: int, first: bool) -> None:
        options = self._options
        assert active.link is not None
        if options.setup is None and not self._subscriptions:
            self._settle(active, endpoint, None)
            return
        connection = Connection(
            active,
            first=first,
            attempt=number,
            heartbeat=options.heartbeat,
            max_bytes=options.outbox.max_bytes,
        )
        failure: Exception | None = None
        step = "setup"
        self._waiting("setup" if options.setup is not None else "the subscriptions to be written")
        scope = self._begin(options.setup_timeout)
        try:
            async with scope:
                if options.setup is not None:
                    pending = cast("object", options.setup(connection))
                    if not isinstance(pending, Awaitable):
                        raise NotAwaitable("setup", options.setup, pending)
                    await called_apart(cast("Awaitable[object]", pending))
                step = "a subscription"
                await self._declare(active)
        except (Stop, NotAwaitable) as error:
            failure = error
        except BaseException as error:
            # Any exception of user code fails the attempt.
            if must_pass(error):
                raise
            if isinstance(error, TimeoutError) and scope.expired():
                failure = SetupTimeout(
                    f"{step} took longer than setup_timeout={options.setup_timeout} s; the server sent "
                    f"{active.received} messages meanwhile, and {len(active.setup_inbox)} of them were not taken"
                )
            else:
                failure = SetupFailed(f"{step} raised {type(error).__name__}")
                failure.__cause__ = error
        finally:
            self._scope = None
            connection.retire()
        self._settle(active, endpoint, failure)

    def _settle(self, active: ActiveConnection, endpoint: Endpoint, failure: Exception | None) -> None:
        """Finish the setup; raise if it, or something else, ended the attempt."""
        self._check()
        if isinstance(failure, Stop | NotAwaitable):
            raise AttemptFailed(failure, endpoint)
        if active.end is not None:
            # The code of the peer's CLOSE decides, not what the hook raised in consequence.
            lost = ConnectError(f"the connection ended during its setup: {told_end(active.end)}")
            lost.__cause__ = active.end.cause
            raise AttemptFailed(lost, endpoint, active.end)
        if failure is not None:
            raise AttemptFailed(failure, endpoint)

    async def _declare(self, active: ActiveConnection) -> None:
        """Write the declared subscriptions, with what is declared and taken back meanwhile."""
        assert active.writer is not None
        wanted = self._subscriptions
        written: dict[Hashable, Subscription] = {}
        while True:
            due = [(key, one) for key, one in wanted.items() if written.get(key) is not one]
            gone = [key for key in written if key not in wanted]
            if not due and not gone:
                return
            for key in gone:  # taken back meanwhile, so from the peer too
                farewell = written.pop(key).unsubscribe
                if farewell is not None:
                    await active.writer.send(farewell)
            for key, one in due:
                if wanted.get(key) is one:
                    await active.writer.send(one.render(self._options.outbox.max_bytes))
                    written[key] = one

    def _check(self) -> None:
        if self._interrupted:
            raise Interrupted

    def _begin(self, limit: float | None) -> asyncio.Timeout:
        """Return the scope of one step, which `interrupt` can end early."""
        self._check()
        self._scope = asyncio.timeout(limit)
        return self._scope


def _read_retry_after(error: Exception) -> None:
    """See to it that a `Retry-After` is never lost, whichever answer to the handshake it came with."""
    if isinstance(error, ConnectError) and error.retry_after is None and error.headers is not None:
        error.retry_after = retry_after(error.headers)


def _late(limit: float | None, endpoint: Endpoint | None, waits_for: str) -> str:
    """Return that an attempt took too long, and for what it waited."""
    text = f"no connection within open_timeout={limit} s"
    if endpoint is None:
        return f"{text}: waited for the URL provider"
    return f"{text}: waited for {waits_for}" if waits_for else text


def _forget_frames(error: BaseException) -> None:
    """Let go of the frames through which a transport's exception came.

    They hold headers and addresses, which tools that print local variables would show, and a whole connection for as
    long as a program keeps the event.
    """
    error.__traceback__ = None
    if error.__cause__ is not None:
        error.__cause__.__traceback__ = None
