"""Hands messages to one link, one at a time, in order; what must go first is kept until the link has room.

Knows nothing of accounting: it writes, says whether the link is busy, and tells when it is not any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from resilient_ws.errors import ConnectionLost
from resilient_ws.events import Message
from resilient_ws.inbox import size_of
from resilient_ws.transports.base import Link


class Writer:
    """The way out of one connection.

    Args:
        link: Where it leads.
        spawn: Starts a child of the owner task; called only when the link has to be waited for.
        idle: Called when the link has room again after it had none.
    """

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
        self._first: deque[Message] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.busy = False
        self.closed = False
        self.sent = 0
        self.bytes_sent = 0

    def write(self, message: Message, size: int) -> None:
        """Writes now; the link must not be busy.

        Raises:
            ConnectionLost: Nothing was written.
        """
        rest = self._link.write(message)
        self.sent += 1
        self.bytes_sent += size
        if rest is not None:
            self.busy = True
            self._task = self._spawn("writer", lambda: self._finish(rest))

    def post(self, message: Message) -> None:
        """Writes before anything that waits elsewhere: now, or as soon as the link has room."""
        if self.closed:
            return
        if self.busy or self._first:
            self._first.append(message)
            return
        try:
            self.write(message, size_of(message))
        except ConnectionLost:
            return  # the link tells its end itself

    async def send(self, message: Message) -> None:
        """Writes when the link has room; a cancelled call has written nothing.

        Raises:
            ConnectionLost: The connection has ended.
        """
        await self.room()
        self.write(message, size_of(message))

    async def room(self) -> None:
        """Waits until the link has room and nothing must go first.

        Raises:
            ConnectionLost: The connection has ended.
        """
        while (self.busy or self._first) and not self.closed:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        if self.closed:
            raise ConnectionLost("the connection has ended")

    def close(self) -> None:
        """Writes nothing more and wakes who waits."""
        self.closed = True
        self.busy = True
        self._first.clear()
        if self._task is not None:
            self._task.cancel()
        self._wake()

    async def _finish(self, rest: Awaitable[None]) -> None:
        try:
            await rest
        except Exception:  # noqa: BLE001 - whatever it is, the reader tells how the connection ended
            return
        self._became_idle()

    def _became_idle(self) -> None:
        if self.closed:
            return
        self.busy = False
        while self._first and not self.busy:
            message = self._first.popleft()
            try:
                self.write(message, size_of(message))
            except ConnectionLost:
                return
        if not self.busy:
            self._wake()
            self._idle()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
