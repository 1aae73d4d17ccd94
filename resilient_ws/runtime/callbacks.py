"""Delivers events to callbacks and `events()` iterators, in order and isolated from each other.

Three lanes, each serial:

- *sync callbacks* are called as soon as their event has happened, by the loop itself; nothing that is awaited delays
  them;
- *async callbacks* are awaited one at a time by a task that exists while there is something to await;
- *messages*, while an `on_message` callback is registered, have a task of their own.

A callback that raises is reported and the next one runs. A slow one delays its own lane and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, cast

import attrs

from resilient_ws.aio.resume import at_once
from resilient_ws.aio.user_code import (
    Call,
    called,
    current_call,
    enter,
    go_on,
    is_being_cancelled,
    is_waited_for_by,
    must_pass,
)
from resilient_ws.api.errors import ClientClosed, ConcurrencyError
from resilient_ws.api.events import CloseEvent, ErrorEvent, Event
from resilient_ws.api.handle import CALLBACK_OF, Callback, Handle
from resilient_ws.api.message import Message
from resilient_ws.api.options import function as check_function
from resilient_ws.api.record import Record
from resilient_ws.delivery.inbox import MARKS, Dismissed, Ended, Inbox
from resilient_ws.runtime.event_queue import EventQueue, weight
from resilient_ws.runtime.event_stream import EventsDropped, Subscription

MAX_EVENTS_WAITING: Final = 10_000
"""Events that may wait for slow async callbacks; beyond, state and retry events go first, counted."""

MAX_EVENTS_DUE: Final = 100_000
"""Events that may be due for sync callbacks: more than all the messages whose fate one end can tell."""

TURN: Final = 0.005
"""Seconds for which callbacks run without a break; then everything else that is ready runs once."""

log = logging.getLogger("resilient_ws")


class Host(Protocol):
    """Whose callbacks they are."""

    @property
    def is_ending(self) -> bool:
        """Whether the supervisor task is being cancelled."""
        ...

    def log_raised(self, what: str, error: BaseException, /) -> None:
        """Log what user code has raised."""

    def spawn(self, name: str, function: Callable[[], Any], /) -> asyncio.Task[None] | None:
        """Start a lane, a child of the supervisor task; called when there is something to do and no lane runs."""


@attrs.frozen(eq=False, repr=False)
class _Begun(Record):
    """What a callback that was taken for a sync one has returned, and is to be awaited in its turn."""

    name: str
    pending: Awaitable[object]
    call: Call

    def drop(self) -> None:
        """Forget the awaitable: it will not be awaited."""
        pending: Any = self.pending
        if isinstance(pending, Coroutine):
            cast("Coroutine[Any, Any, object]", pending).close()
        elif isinstance(pending, asyncio.Future):
            cast("asyncio.Future[object]", pending).cancel()


class Dispatcher:
    """The callbacks and `events()` iterators of one client, and the lanes that serve them.

    Args:
        inbox: Where the message lane takes its messages.
        host: The client.
        max_bytes: How many bytes of messages the events of one queue may keep alive.
    """

    __slots__ = (
        "_after",
        "_async_at",
        "_async_lane",
        "_callbacks",
        "_due",
        "_host",
        "_inbox",
        "_loop",
        "_lost",
        "_max_bytes",
        "_message_lane",
        "_number",
        "_over",
        "_ready",
        "_stopped",
        "_subscriptions",
        "_sync_at",
        "_sync_lane",
        "_waiting",
        "dropped",
    )

    def __init__(self, inbox: Inbox, host: Host, max_bytes: int) -> None:
        self._inbox = inbox
        self._host = host
        self._max_bytes = max_bytes
        self._callbacks: dict[str, list[Handle[Any]]] = {}
        self._subscriptions: weakref.WeakSet[Subscription] | None = None  # an abandoned iterator goes
        self._number = 0  # of the last event
        self._ready = EventQueue(MAX_EVENTS_DUE, max_bytes)  # for sync callbacks
        self._waiting = EventQueue(MAX_EVENTS_WAITING, max_bytes)  # for async ones
        self._sync_at: int | None = None  # the number of the event that sync callbacks are being told of
        self._async_at: int | None = None  # of the one that async callbacks are being told of
        self._after: deque[tuple[int, Callable[[], None]]] | None = None  # what waits for events to be told
        self._lost = 0  # events dropped since the queue they were for was last empty
        self._loop: asyncio.AbstractEventLoop | None = None  # once lanes may run
        self._due = False  # a step of the sync lane is
        self._sync_lane: asyncio.Task[None] | None = None  # only at the end, when lanes are waited for
        self._async_lane: asyncio.Task[None] | None = None
        self._message_lane: asyncio.Task[None] | None = None
        self._over = False
        self._stopped = False
        self.dropped: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------ who is told

    def register(self, name: str, function: Callback[Any]) -> Handle[Any]:
        """Add a callback; it sees what happens from now on."""
        check_function(name, function)
        self._check_loop()
        if name == "on_message" and not self.consumes_messages and self._inbox.is_awaited:
            raise ConcurrencyError(
                "a recv() or iteration is waiting for a message, so on_message cannot take over"
            )
        handle: Handle[Any] = Handle(lambda made: self._remove(name, made), function)
        self._callbacks.setdefault(name, []).append(handle)
        if name == "on_message":
            self._inbox.claim(claimed=True)
            self.serve_messages()
        return handle

    def _remove(self, name: str, handle: Handle[Any]) -> None:
        handles = self._callbacks.get(name, [])
        if handle not in handles:
            return
        self._check_loop()
        handles.remove(handle)
        if name != "on_message" or handles:
            return
        self._inbox.claim(claimed=False)
        self._inbox.dismiss()  # the lane, if it waits; a callback that runs is not disturbed

    def _check_loop(self) -> None:
        """Raise where a callback cannot be added or removed now; after the end it can be anywhere."""
        if not self._over:
            check_loop(self._loop)

    @property
    def consumes_messages(self) -> bool:
        """Whether callbacks are the consumer of the inbox."""
        return bool(self._callbacks.get("on_message"))

    def subscribe(self) -> Subscription:
        """Return an iterator over the events from now on."""
        self._check_loop()
        subscription = Subscription(self._over, lambda: self._loop, self._max_bytes)
        if not self._over:
            if self._subscriptions is None:
                self._subscriptions = weakref.WeakSet()
            self._subscriptions.add(subscription)
        return subscription

    def hears(self, kind: type[Event]) -> bool:
        """Return whether an event of this kind would be told to a callback or an iterator."""
        return bool(self._callbacks.get(CALLBACK_OF[kind]) or self._subscriptions)

    # ------------------------------------------------------------------------------------------ what is told

    def emit(self, event: Event) -> None:
        """Hand `event` to every `events()` iterator and queue it for the callbacks."""
        subscriptions, handles = self._subscriptions, self._callbacks.get(CALLBACK_OF[type(event)])
        if not (handles or subscriptions):
            return
        size = weight(event)
        for subscription in subscriptions or ():
            subscription.push(event, size)
        if not handles:
            return
        self._number += 1
        if self._has_room(self._ready, event, size):
            self._ready.append(self._number, size, event, tuple(handles))
            self._start()

    def _has_room(self, queue: EventQueue, event: Event, size: int) -> bool:
        """Return whether `event` may be queued; drops one that can be spared where that makes room for it."""
        if queue.fits(size) or (isinstance(event, CloseEvent) and event.final):
            return True
        if not self._lost:
            log.warning("callbacks do not keep up, and events are dropped: stats.events_dropped counts them")
        self._lost += 1
        spared = queue.spare()
        self.dropped[type(spared if spared is not None else event).__name__] += 1
        if spared is None:
            return False
        return queue.fits(size)

    def after(self, call: Callable[[], None]) -> None:
        """Call `call` when the callbacks have been told of the events until now.

        That is never, if a callback never returns. More than 10,000 calls do not wait: beyond, `call` is called at once.
        """
        if self._is_told(self._number):
            call()
            return
        if self._after is None:
            self._after = deque()
        if len(self._after) >= MAX_EVENTS_WAITING:
            call()
        else:
            self._after.append((self._number, call))

    def _is_told(self, number: int) -> bool:
        """Return whether the callbacks have been told of the events up to `number`."""
        for at in (self._sync_at, self._async_at, self._ready.first, self._waiting.first):
            if at is not None and at <= number:
                return False
        return True

    def _call_after(self) -> None:
        """Call what has waited for the events that have been told."""
        after = self._after
        while after and self._is_told(after[0][0]):
            after.popleft()[1]()
        if not after:
            self._after = None
        if self._lost and not self._ready and not self._waiting:
            lost, self._lost = self._lost, 0
            if not self._over:
                self.emit(ErrorEvent(where="events", exception=EventsDropped(lost)))

    # ------------------------------------------------------------------------------------------ the lanes

    def serve_at_once(self, emits: Callable[[], None]) -> None:
        """Call `emits`, and then the sync callbacks for its events: the last thing that a callback of the loop does."""
        self._due = True
        emits()
        at_once(self._step)

    def serve(self) -> None:
        """Start the lanes for which there is something to do."""
        self._loop = asyncio.get_running_loop()
        self.serve_messages()
        self._start()

    def serve_messages(self) -> None:
        """Start the message lane, if there is a callback for it and none runs."""
        if self.consumes_messages and not _is_running(self._message_lane):
            self._message_lane = self._host.spawn("messages", self._serve_messages)

    def _start(self) -> None:
        """Start the lanes for events, unless they run.

        Sync callbacks are called by the loop, which costs a third of a task; by a task at the end, when lanes are waited
        for.
        """
        if self._ready and not _is_running(self._sync_lane):
            if self._over:
                self._sync_lane = self._host.spawn("events", self._serve_ready)
            elif self._loop is not None and not self._due:
                self._due = True
                self._loop.call_soon(self._step)
        if self._waiting and self._loop is not None and not _is_running(self._async_lane):
            self._async_lane = self._host.spawn("callbacks", self._serve_waiting)

    @property
    def inside(self) -> bool:
        """Whether the caller is part of a callback that a lane waits for."""
        return is_waited_for_by(self._async_lane) or is_waited_for_by(self._message_lane)

    @property
    def lanes(self) -> list[asyncio.Task[None]]:
        """The lanes that still run."""
        lanes = (self._sync_lane, self._async_lane, self._message_lane)
        return [lane for lane in lanes if lane is not None and not lane.done()]

    def end(self) -> None:
        """No more events will come: the iterators end after what they hold."""
        self._over = True
        for subscription in self._subscriptions or ():
            subscription.end()
        self._subscriptions = None
        self._start()

    def stop(self) -> None:
        """Let a cancellation end the lane from now on; before, only user code cancels it, and it goes on."""
        self._stopped = True

    def _step(self) -> None:
        """Call the sync callbacks that are due; what takes longer than a turn is left for the next one."""
        self._due = False
        if self._over or _is_running(self._sync_lane):
            return
        enter()
        try:
            self._call_ready()
        finally:
            self._start()

    async def _serve_ready(self) -> None:
        """Call the sync callbacks that are due at the end of the client."""
        enter()
        while self._ready:
            self._call_ready()
            if self._ready:
                await self._give_way("events")

    def _call_ready(self) -> None:
        """Call sync callbacks for one turn; pass async ones on to their lane."""
        assert self._loop is not None
        clock = self._loop.time
        until = clock() + TURN
        while (waiting := self._ready.take()) is not None:
            number, size, event, handles = waiting
            self._sync_at = number
            name = CALLBACK_OF[type(event)]
            later: list[Handle[Any] | _Begun] = []
            try:
                for index, handle in enumerate(handles):
                    if index and clock() >= until:
                        self._ready.put_back(number, size, event, handles[index:])
                        return
                    if handle.is_async:
                        later.append(handle)
                    elif (begun := self._call_sync(name, handle, event)) is not None:
                        later.append(begun)
            finally:
                if later:
                    self._leave(number, size, event, later)
                self._sync_at = None
                self._call_after()
            if clock() >= until:
                return

    def _call_sync(self, name: str, handle: Handle[Any], event: Event) -> _Begun | None:
        """Call one callback that was taken for a sync one; return what it turns out to want to be awaited."""
        pending = self._call(name, handle, event)
        if pending is None:
            return None
        handle.is_async = True
        call = current_call()
        assert call is not None
        enter()  # the next callback is another call
        return _Begun(name, pending, call)

    def _leave(self, number: int, size: int, event: Event, later: list[Handle[Any] | _Begun]) -> None:
        """Leave callbacks for one event to the async lane."""
        if not self._has_room(self._waiting, event, size):
            later = [one for one in later if isinstance(one, _Begun)]
            if not later:
                return
        self._waiting.append(number, size, event, later)
        self._start()
        for one in later:
            if isinstance(one, _Begun):
                one.call.is_awaited_by(self._async_lane)

    async def _serve_waiting(self) -> None:
        """Await the async callbacks, one at a time."""
        clock = asyncio.get_running_loop().time
        until = clock() + TURN
        enter()
        told: list[Handle[Any] | _Begun] = []
        try:
            while (waiting := self._waiting.take()) is not None:
                number, _, event, told = waiting
                self._async_at = number
                name = CALLBACK_OF[type(event)]
                while told:
                    one = told.pop(0)
                    if isinstance(one, _Begun):
                        await self._await(name, one.pending, event, one.call)
                    elif (pending := self._call(name, one, event)) is not None:
                        await self._await(name, pending, event)
                    if clock() >= until:
                        await self._give_way(name)
                        until = clock() + TURN
                self._async_at = None
                self._call_after()
        finally:
            self._async_at = None
            if self._stopped or self._host.is_ending:
                self._abandon(told)

    def _abandon(self, told: list[Handle[Any] | _Begun]) -> None:
        """Drop the pending calls of the async lane, which has ended."""
        for waiting in self._waiting.clear():
            told += waiting[3]
        for one in told:
            if isinstance(one, _Begun):
                one.drop()

    async def _serve_messages(self) -> None:
        clock, inbox = asyncio.get_running_loop().time, self._inbox
        until = clock() + TURN
        enter()
        while self.consumes_messages:
            if inbox.items and clock() >= until:
                await self._give_way("on_message")
                until = clock() + TURN
            try:
                message = inbox.take() if inbox.items else await inbox.get()
            except Dismissed:
                continue
            except Ended:
                return
            except asyncio.CancelledError as error:
                self._survive("on_message", error)
                continue
            if isinstance(message, MARKS):
                continue
            for handle in tuple(self._callbacks["on_message"]):
                pending = self._call("on_message", handle, message)
                if pending is not None:
                    await self._await("on_message", pending, message)

    def _call(self, name: str, handle: Handle[Any], argument: Event | Message) -> Awaitable[object] | None:
        """Call one callback; return what is to be awaited of it, `None` if it is done."""
        if handle not in self._callbacks[name]:
            return None  # removed meanwhile
        try:
            result = handle.function(argument)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError) and must_pass(error):
                raise
            self._report(name, error, argument)
            return None
        # Most return nothing, and to ask an abstract class takes as long as all else here.
        if result is not None and isinstance(result, Awaitable):
            return cast("Awaitable[object]", result)
        return None

    async def _await(
        self, name: str, pending: Awaitable[object], argument: Event | Message, call: Call | None = None
    ) -> None:
        """Await what a callback has returned; report what it raises."""
        try:
            await called(pending, call)
        except asyncio.CancelledError as error:
            self._survive(name, error, argument)
        except BaseException as error:
            if must_pass(error):
                raise
            self._report(name, error, argument)
        if is_being_cancelled():
            # It has cancelled its task and not waited since, or has kept that to itself.
            await self._give_way(name)

    async def _give_way(self, name: str) -> None:
        """Let the loop turn once."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            self._survive(name, error)
        if not self._stopped:
            go_on()

    def _survive(
        self, name: str, error: asyncio.CancelledError, argument: Event | Message | None = None
    ) -> None:
        """Raise `error` where the client ends the lane; else a callback raised it, or had its own task cancelled."""
        if is_being_cancelled() and (self._stopped or self._host.is_ending):
            raise error
        self._report(name, error, argument)
        go_on()

    def _report(self, name: str, error: BaseException, argument: object) -> None:
        if isinstance(error, ClientClosed):
            log.info("callback %s used the client after its end", name)  # an orderly shutdown, not an error
        else:
            self._host.log_raised(f"callback {name}", error)
        if name != "on_error":
            self.emit(ErrorEvent(where=name, exception=error, event=argument))


def _is_running(lane: asyncio.Task[None] | None) -> bool:
    return lane is not None and not lane.done()


def check_loop(home: asyncio.AbstractEventLoop | None) -> None:
    """Check that a client of the loop `home` may be used here; `None` = it may be anywhere.

    Raises:
        ConcurrencyError: In another loop, or in another thread while that loop runs; the text names the way out.
    """
    if home is None:
        return
    here = _running_loop()
    if home is not here and (here is not None or home.is_running()):
        raise ConcurrencyError.other_loop()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
