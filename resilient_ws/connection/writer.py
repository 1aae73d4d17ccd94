"""Writes messages to one link, one at a time, in order; urgent ones are kept until the link has room.

Knows nothing of accounting: it writes, says whether the link is busy, and tells when it is not any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.message import Message, size_of
from resilient_ws.core.in_flight import FastLane
from resilient_ws.delivery.ports import Feed
from resilient_ws.transports.seam import Link

CROWD: Final = 100
"""Messages that wait for room and go before all others, from which on no more are kept than are needed."""


class Writer:
    """The way out of one connection.

    Args:
        link: Where it leads.
        spawn: Starts a child of the supervisor task; called only when the link has to be waited for.
        idle: Called when the link has room again after it had none.
    """

    __slots__ = (
        "_bytes_sent",
        "_feed",
        "_first",
        "_idle",
        "_link",
        "_sent",
        "_spawn",
        "_task",
        "_waiters",
        "broken",
        "busy",
        "closed",
        "lane",
    )

    def __init__(
        self,
        link: Link,
        *,
        spawn: Callable[[str, Callable[[], Awaitable[None]]], asyncio.Task[None] | None],
        idle: Callable[[], None],
    ) -> None:
        self._link = link
        self._spawn = spawn
        self._idle = idle
        self._first: dict[object, tuple[Message, Callable[[], None] | None]] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._sent = 0
        self._bytes_sent = 0
        self.busy = False
        self.closed = False
        self.lane = FastLane()
        self._feed: Feed | None = None
        self.broken: Callable[[BaseException], None] = lambda _: None
        """Called with what the link raised, unless that was `ConnectionLost`: the connection is to end."""

    def serve(self, feed: Feed) -> None:
        """Take over the lane whose messages `flush` writes, once, when the connection is open."""
        assert not self.lane.held, "what is held goes first"
        self._feed, self.lane = feed, feed.lane

    @property
    def sent(self) -> int:
        """How many messages were written."""
        return self._sent + len(self.lane.held)

    @property
    def bytes_sent(self) -> int:
        """How many bytes those have."""
        return self._bytes_sent + self._held_bytes

    @property
    def _held_bytes(self) -> int:
        return sum(map(len, self.lane.held)) + self.lane.extra

    def write(self, message: Message, size: int) -> None:
        """Write now; the link must not be busy, and nothing must be held.

        Raises:
            ConnectionLost: Nothing was written.
        """
        assert not self.lane.held, "what is held goes first"
        rest = self._link.write(message)
        self._sent += 1
        self._bytes_sent += size
        if rest is not None:
            self._wait_for(rest)

    def flush(self) -> None:
        """Close the lane and hand over what it holds."""
        lane, feed = self.lane, self._feed
        lane.limit = -1
        if not lane.held or feed is None:
            return
        size = self._held_bytes
        held = lane.take()
        try:
            rest = self._link.write_all(held)
        except ConnectionLost:
            feed.refused(held)
            return
        except BaseException as error:  # noqa: BLE001 - `fail` raises what must pass
            feed.doubted(held)
            self.fail(error)
            return
        self._sent += len(held)
        self._bytes_sent += size
        if rest is not None:
            self._wait_for(rest)

    def fail(self, error: BaseException) -> None:
        """End the connection: the link raised something unexpected, so a part of a frame may have been written.

        Raises:
            BaseException: `error`, unless it is an `Exception`.
        """
        self.broken(error)
        if not isinstance(error, Exception):
            raise error

    def _wait_for(self, rest: Awaitable[None]) -> None:
        self.busy = True
        self._task = self._spawn("writer", lambda: self._finish(rest))

    def post(
        self, message: Message, written: Callable[[], None] | None = None, *, name: object = None
    ) -> None:
        """Write before anything that waits elsewhere, now or as soon as the link has room; then call `written`.

        Args:
            message: What to write.
            written: What to call then.
            name: A message with the same name (hashable) that still waits for room is replaced by this one; `None` = it has
                none.
        """
        if self.closed:
            return
        self.flush()
        if not (self.busy or self._first):
            self._write_first(message, written)
        else:
            self._first[object() if name is None else name] = (message, written)

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits for room that what is not needed should not."""
        return len(self._first) >= CROWD

    def waits(self, name: object) -> bool:
        """Return whether a message of that name waits for room."""
        return name in self._first

    def withdraw(self, name: object) -> bool:
        """Take back the message of that name, if it still waits for room; whether it did."""
        return self._first.pop(name, None) is not None

    def _write_first(self, message: Message, written: Callable[[], None] | None) -> None:
        try:
            self.write(message, size_of(message))
        except ConnectionLost:
            return  # the link tells its end itself
        except BaseException as error:  # noqa: BLE001 - `fail` raises what must pass
            self.fail(error)
            return
        if written is not None:
            written()

    async def send(self, message: Message) -> None:
        """Write when the link has room; a cancelled call has written nothing.

        Raises:
            ConnectionLost: The connection has ended.
        """
        await self.room()
        self.write(message, size_of(message))

    async def room(self, answer: asyncio.Future[Message] | None = None) -> None:
        """Wait until the link has room and nothing must go first, or until `answer` is known not to come.

        Raises:
            ConnectionLost: The connection has ended.
        """
        if answer is not None:
            answer.add_done_callback(self._look_again)
        try:
            while (self.busy or self._first) and not self.closed and (answer is None or not answer.done()):
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.remove(waiter)
        finally:
            if answer is not None:
                answer.remove_done_callback(self._look_again)
        if self.closed:
            raise ConnectionLost("the connection has ended")

    def _look_again(self, answer: asyncio.Future[Message]) -> None:
        answer.exception()  # retrieved, in case the call has ended otherwise
        self._wake()

    def close(self) -> None:
        """Write nothing more and wake the waiters."""
        self.closed = True
        self.busy = True
        held = self.lane.take()
        if held and self._feed is not None:
            self._feed.refused(held)
        self._first.clear()
        if self._task is not None:
            self._task.cancel()
        self._wake()

    async def _finish(self, rest: Awaitable[None]) -> None:
        try:
            await rest
        except (ConnectionLost, OSError):
            return  # the reader tells how the connection ended
        except Exception as error:  # noqa: BLE001 - any exception ends the connection
            if not self.closed:
                self.fail(error)
            return
        self._became_idle()

    def _became_idle(self) -> None:
        if self.closed:
            return
        self.busy = False
        while self._first and not self.busy:
            message, written = self._first.pop(next(iter(self._first)))
            self._write_first(message, written)
        if not self.busy:
            self._wake()
            self._idle()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
