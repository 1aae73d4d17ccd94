"""The reading half of the client: `recv`, iteration, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, Self, TypeVar, cast

from resilient_ws.api.errors import ConcurrencyError, NotConnected
from resilient_ws.api.events import Gap, Lost
from resilient_ws.api.message import Message
from resilient_ws.delivery.inbox import Ended, Inbox
from resilient_ws.runtime.supervisor import Supervisor


class Consumer:
    """Takes messages from the inbox of one client."""

    __slots__ = ("_inbox", "_supervisor")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._inbox = supervisor.inbox

    async def recv(self) -> Message:
        """Return the next message; at the end, raise the reason why the client ended."""
        self.check()
        try:
            return await self._inbox.get()
        except Ended:
            error = self._supervisor.ended_error()
        raise error  # out of the handler, so that it keeps its own cause

    def wait(self) -> asyncio.Future[None] | None:
        """Check who may receive, and begin to wait; see `Inbox.wait`."""
        return self._inbox.wait(self.check())

    async def step(self) -> Message:
        """Return the next message of an iteration."""
        while isinstance(item := await self.step_with_marks(), Gap | Lost):
            pass
        return item

    async def step_with_marks(self) -> Message | Gap | Lost:
        """Return the next message, gap or loss of an iteration, which ends quietly only when we closed."""
        self.check()
        try:
            return await self._inbox.get_with_marks()
        except Ended:
            error = self.end_of_iteration()
        raise error

    def end_of_iteration(self) -> Exception:
        """Return what ends an iteration."""
        return StopAsyncIteration() if self._supervisor.life.cause is None else self._supervisor.ended_error()

    def check(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; raise if receiving is not possible now."""
        supervisor = self._supervisor
        if self._inbox.claimed:
            raise ConcurrencyError("on_message callbacks are the consumer of this client")
        loop = asyncio.get_running_loop()
        if supervisor.loop is None:
            if not supervisor.inbox and not supervisor.life.is_over:
                raise NotConnected("call start() before receiving")
        elif supervisor.loop is not loop:
            raise ConcurrencyError.other_loop()
        return loop


Item = TypeVar("Item", covariant=True)  # noqa: PLC0105 - a name that reads well in an error of a type checker


class WithGaps(Generic[Item]):
    """The iterator of `WebSocketClient.with_gaps`."""

    __slots__ = ("_consumer", "_inbox", "_lost")

    def __init__(self, consumer: Consumer, inbox: Inbox, *, lost: bool) -> None:
        self._consumer = consumer
        self._inbox = inbox
        self._lost = lost
        if lost:
            inbox.tell_losses()

    @property
    def is_current(self) -> bool:
        """Whether a connection is open, and what was taken last came from it or is followed by nothing missing.

        False from the instant in which a connection ends, also while messages of it have not been taken yet, until
        the `Gap` before the messages of the next connection has been taken.
        """
        return self._inbox.is_current

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while True:
            item = await self._consumer.step_with_marks()
            if self._lost or not isinstance(item, Lost):
                return cast("Item", item)


class Batches:
    """The iterator of `WebSocketClient.batches`; a generator would be over once a step of it was cancelled."""

    __slots__ = ("_consumer", "_inbox", "_messages")

    def __init__(self, messages: AsyncIterator[Message], consumer: Consumer, inbox: Inbox) -> None:
        self._messages = messages
        self._consumer = consumer
        self._inbox = inbox

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Message]:
        self._consumer.check()
        return [await self._messages.__anext__(), *self._inbox.take_messages()]
