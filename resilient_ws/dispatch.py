"""Events to callbacks and subscribers: in order, one at a time, isolated from each other and from the client.

Two lanes, each serial: events, and messages while an `on_message` callback is registered. A callback that raises is
reported and the next one runs; one that is slow delays its own lane and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol, cast

from resilient_ws.errors import ClientClosed, ConcurrencyError
from resilient_ws.events import CloseEvent, ErrorEvent, Event, Message, RetryEvent, StateEvent
from resilient_ws.handle import CALLBACK_OF, Callback, Handle
from resilient_ws.inbox import Dismissed, Ended, Inbox
from resilient_ws.program import (
    called,
    enter,
    go_on,
    is_being_cancelled,
    is_waited_for_by,
    must_pass,
    wait_in,
)
from resilient_ws.stream import Subscription
from resilient_ws.wake import at_once

MAX_EVENTS_WAITING: Final = 10_000
"""Events that may wait for slow callbacks; beyond, state and retry events go first, counted."""

TURN: Final = 0.005
"""Seconds for which callbacks run without a break; then whatever else is ready runs once."""

_DISPENSABLE: Final = (StateEvent, RetryEvent)

log = logging.getLogger("resilient_ws")


class Host(Protocol):
    """Whose callbacks they are."""

    @property
    def is_ending(self) -> bool:
        """Whether somebody cancels the owner task."""
        ...

    def spawn(self, name: str, function: Callable[[], Any], /) -> asyncio.Task[None] | None:
        """Starts a lane, a child of the owner task; called when there is something to do and no lane runs."""


class Dispatcher:
    """The callbacks and subscribers of one client, and the two lanes that serve them.

    Args:
        inbox: Where the message lane takes its messages.
        host: The client.
    """

    __slots__ = (
        "_callbacks",
        "_calls",
        "_due",
        "_event_lane",
        "_host",
        "_inbox",
        "_loop",
        "_message_lane",
        "_over",
        "_stepping",
        "_stopped",
        "_subscriptions",
        "_waiting",
        "dropped",
    )

    def __init__(self, inbox: Inbox, host: Host) -> None:
        self._inbox = inbox
        self._host = host
        self._callbacks: dict[str, list[Handle[Any]]] = {}
        self._subscriptions: weakref.WeakSet[Subscription] | None = None  # one nobody iterates over goes
        self._waiting: list[tuple[Event | Callable[[], None], tuple[Handle[Any], ...]]] = []
        self._calls: list[tuple[Handle[Any], Event]] = []  # of the event whose callbacks are being called
        self._loop: asyncio.AbstractEventLoop | None = None  # once lanes may run
        self._due = False  # a step of the event lane is
        self._stepping = False
        self._event_lane: asyncio.Task[None] | None = None
        self._message_lane: asyncio.Task[None] | None = None
        self._over = False
        self._stopped = False
        self.dropped: Counter[str] = Counter()

    def register(self, name: str, function: Callback[Any]) -> Handle[Any]:
        """Adds a callback; it sees what happens from now on."""
        if not callable(function):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")
        if name == "on_message":
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
        if name == "on_message":
            self._check_loop()
        handles.remove(handle)
        if name != "on_message" or handles:
            return
        self._inbox.claim(claimed=False)
        self._inbox.dismiss()  # the lane, if it waits; a callback that runs is not disturbed

    def _check_loop(self) -> None:
        """Raises in another loop, or in another thread than the loop's: what follows sets a task of the client going."""
        home, here = self._loop, _running_loop()
        if home is None or home is here or self._over:
            return
        if here is not None or home.is_running():
            raise ConcurrencyError.other_loop()

    @property
    def consumes_messages(self) -> bool:
        """Whether callbacks are the consumer of the inbox."""
        return bool(self._callbacks.get("on_message"))

    def subscribe(self) -> Subscription:
        """Returns an iterator over the events from now on."""
        subscription = Subscription(self._over, lambda: self._loop)
        if not self._over:
            if self._subscriptions is None:
                self._subscriptions = weakref.WeakSet()
            self._subscriptions.add(subscription)
        return subscription

    def emit(self, event: Event) -> None:
        """Hands `event` to every subscriber and queues it for the callbacks."""
        for subscription in self._subscriptions or ():
            subscription.push(event)
        handles = tuple(self._callbacks.get(CALLBACK_OF[type(event)], ()))
        if not handles:
            return
        if len(self._waiting) >= MAX_EVENTS_WAITING and not self._make_room(event):
            return
        self._waiting.append((event, handles))
        self._start()

    def hears(self, kind: type[Event]) -> bool:
        """Whether somebody would get an event of this kind."""
        return bool(self._callbacks.get(CALLBACK_OF[kind]) or self._subscriptions)

    def serve_at_once(self, emits: Callable[[], None]) -> None:
        """Calls `emits`, and then the callbacks for its events: the last thing that a callback of the loop does."""
        self._due = True
        emits()
        at_once(self._step)

    def after(self, call: Callable[[], None]) -> None:
        """Calls `call` when the callbacks have taken what was emitted until now; never, if they do not."""
        if self._is_due or self._stepping or self._is_running(self._event_lane):
            self._waiting.append((call, ()))
        else:
            call()

    def _make_room(self, event: Event) -> bool:
        """Drops one event that can be spared; whether there is a place for `event` now."""
        for index, (waiting, _) in enumerate(self._waiting):
            if isinstance(waiting, _DISPENSABLE):
                del self._waiting[index]
                self.dropped[type(waiting).__name__] += 1
                return True
        if isinstance(event, CloseEvent) and event.final:
            return True
        self.dropped[type(event).__name__] += 1
        return False

    def serve(self) -> None:
        """Starts the lanes for which there is something to do."""
        self._loop = asyncio.get_running_loop()
        self.serve_messages()
        if self._waiting:
            self._start()

    def serve_messages(self) -> None:
        """Starts the message lane, if there is a callback for it and none runs."""
        if self.consumes_messages and not self._is_running(self._message_lane):
            self._message_lane = self._host.spawn("messages", self._serve_messages)

    def _start(self) -> None:
        """Starts the event lane, unless it runs.

        With a call, which costs a third of a task; with a task at the end, when lanes are waited for.
        """
        if self._is_running(self._event_lane):
            return
        if self._over:
            self._event_lane = self._host.spawn("events", self._serve_events)
        elif self._loop is not None and not self._due:
            self._due = True
            self._loop.call_soon(self._step)

    @property
    def _is_due(self) -> bool:
        """Whether callbacks are to be told of events."""
        return bool(self._waiting or self._calls)

    @staticmethod
    def _is_running(lane: asyncio.Task[None] | None) -> bool:
        return lane is not None and not lane.done()

    @property
    def inside(self) -> bool:
        """Whether the caller is part of a callback that a lane waits for."""
        return is_waited_for_by(self._event_lane) or is_waited_for_by(self._message_lane)

    @property
    def lanes(self) -> list[asyncio.Task[None]]:
        """The lanes that still run."""
        both = (self._event_lane, self._message_lane)
        return [lane for lane in both if lane is not None and not lane.done()]

    def end(self) -> None:
        """No event comes any more: the iterators end after what they hold."""
        self._over = True
        for subscription in self._subscriptions or ():
            subscription.end()
        self._subscriptions = None
        if self._is_due:
            self._start()

    def stop(self) -> None:
        """A lane that is cancelled from now on ends; before, code of the program has cancelled it, and it goes on."""
        self._stopped = True

    def _step(self) -> None:
        """Calls the callbacks that are due; the first one that has to be awaited makes the rest a task."""
        self._due = False
        if self._over or self._is_running(self._event_lane):
            return
        assert self._loop is not None
        until = self._loop.time() + TURN
        enter()
        self._stepping = True
        try:
            while (call := self._next_call()) is not None:
                rest = self._call(*call)
                if rest is not None:
                    self._event_lane = self._host.spawn("events", partial(self._serve_events, rest))
                    wait_in(self._event_lane)
                    return
                if self._is_due and self._loop.time() >= until:
                    self._due = True
                    self._loop.call_soon(self._step)
                    return
        finally:
            self._stepping = False

    async def _serve_events(self, rest: Awaitable[None] | None = None) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + TURN
        if rest is None:
            enter()
        else:
            await rest
        while (call := self._next_call()) is not None:
            rest = self._call(*call)
            if rest is not None:
                await rest
            if self._is_due and clock() >= until:
                await self._give_way(call[0])
                until = clock() + TURN

    def _next_call(self) -> tuple[str, Handle[Any], Event] | None:
        while not self._calls:
            if not self._waiting:
                return None
            event, handles = self._waiting.pop(0)
            if isinstance(event, Event):
                self._calls = [(handle, event) for handle in handles]
            else:
                event()
        handle, event = self._calls.pop(0)
        return CALLBACK_OF[type(event)], handle, event

    async def _serve_messages(self) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + TURN
        enter()
        while self.consumes_messages:
            if self._inbox.items and clock() >= until:
                await self._give_way("on_message")
                until = clock() + TURN
            try:
                message = await self._inbox.get()
            except Dismissed:
                continue
            except Ended:
                return
            except asyncio.CancelledError as error:
                self._survive("on_message", error)
                continue
            for handle in tuple(self._callbacks["on_message"]):
                rest = self._call("on_message", handle, message)
                if rest is not None:
                    await rest

    def _call(self, name: str, handle: Handle[Any], argument: Event | Message) -> Awaitable[None] | None:
        """Calls one callback; returns what is to be awaited of it, `None` if it is done."""
        if handle not in self._callbacks[name]:
            return None  # removed meanwhile
        try:
            result = handle.function(argument)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError) and must_pass(error):
                raise
            self._report(name, error, argument)
            return None
        if isinstance(result, Awaitable):
            return self._await(name, cast("Awaitable[object]", result), argument)
        return None

    async def _await(self, name: str, pending: Awaitable[object], argument: Event | Message) -> None:
        try:
            await called(pending)
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
        """Lets the loop turn once."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            self._survive(name, error)
        if not self._stopped:
            go_on()

    def _survive(
        self, name: str, error: asyncio.CancelledError, argument: Event | Message | None = None
    ) -> None:
        """Raises `error` where the client ends the lane; else a callback raised it, or had its own task cancelled."""
        if is_being_cancelled() and (self._stopped or self._host.is_ending):
            raise error
        self._report(name, error, argument)
        go_on()

    def _report(self, name: str, error: BaseException, argument: object) -> None:
        if isinstance(error, ClientClosed):
            log.info("callback %s used the client after its end", name)  # an orderly shutdown, not an error
        else:
            log.error("callback %s raised %s", name, type(error).__name__, exc_info=error)
        if name != "on_error":
            self.emit(ErrorEvent(where=name, exception=error, event=argument))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
