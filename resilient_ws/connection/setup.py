"""What the `setup` hook is given: one new connection, before anything that waited is sent on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectionLost, MessageTooBig, NotConnected
from resilient_ws.api.message import Message
from resilient_ws.api.options import AppMessage, Heartbeat, function, seconds
from resilient_ws.connection.active import ActiveConnection
from resilient_ws.core.endings import told_end
from resilient_ws.delivery.inbox import Ended


class Connection:
    """A connection that is being set up; not usable afterwards.

    Attributes:
        first: Whether it is the first connection of this client.
        attempt: Its number, counted from 1 since the last stable connection.
        endpoint: Where it leads.
        subprotocol: What the server chose, or `None`.
        headers: Of the server's answer to the handshake.
    """

    def __init__(
        self,
        active: ActiveConnection,
        *,
        first: bool,
        attempt: int,
        heartbeat: Heartbeat | None,
        max_bytes: int,
    ) -> None:
        assert active.link is not None
        self.first = first
        self.attempt = attempt
        self.endpoint: Endpoint = active.link.endpoint
        self.subprotocol: str | None = active.link.subprotocol
        self.headers: Mapping[str, str] = active.link.headers
        self._active = active
        self._heartbeat = heartbeat
        self._max_bytes = max_bytes
        self._over = False

    def __repr__(self) -> str:
        return f"<Connection to {self.endpoint}, attempt {self.attempt}{', over' if self._over else ''}>"

    async def send(self, message: Message | bytearray | memoryview) -> None:
        """Send a message at once, before all pending messages. It is never sent on another connection.

        Cancel-safe: a cancelled call sends nothing.

        Args:
            message: A `str` is sent as TEXT, a bytes-like object as BINARY.

        Raises:
            ConnectionLost: The connection has ended.
            NotConnected: The setup is over.
            TypeError, ValueError, MessageTooBig: As for `WebSocketClient.send`.
        """
        self._check()
        plain, size = checked(message, self._max_bytes)
        writer = self._active.writer
        assert writer is not None
        await writer.room()
        self._check()
        writer.write(plain, size)

    async def recv(self) -> Message:
        """Return the next message of this connection, `str` for TEXT and `bytes` for BINARY.

        Messages that `setup` does not read are delivered afterwards, in order. Cancel-safe: a cancelled call consumes no
        message.

        Raises:
            ConnectionLost: The connection has ended.
            NotConnected: The setup is over.
            ConcurrencyError: Another `recv` is waiting.
        """
        self._check()
        try:
            return await self._active.setup_inbox.get()
        except Ended:
            self._check()
            end = self._active.end
            how = f": {told_end(end)}" if end is not None else ""
            raise ConnectionLost(f"the connection ended during its setup{how}") from None

    async def request(
        self,
        message: Message | bytearray | memoryview,
        match: Callable[[Message], bool],
        timeout: float | timedelta | None = None,
    ) -> Message:
        """Send a message and return the first reply that matches. Cancel-safe: a cancelled call consumes no reply.

        Args:
            message: As for `send`.
            match: A function called with each message as it arrives; it must not block. Other messages stay for `recv`.
            timeout: Seconds or `timedelta`, 0 or more; `None` means no limit but `setup_timeout`.

        Raises:
            TimeoutError: No reply matched within `timeout`.
            DeliveryUncertain: The connection ended before the reply arrived.
            InboxFull: The reply is queued behind unread messages.
            ConnectionLost, NotConnected, TypeError, ValueError, MessageTooBig: As for `send`.
        """
        self._check()
        plain, size = checked(message, self._max_bytes)
        function("match", match, sync=True)
        limit = seconds("timeout", timeout, zero=True, none=True)
        writer = self._active.writer
        assert writer is not None
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        tried: int | None = None
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                with self._active.patience.waiting(answer, asks=False):
                    await writer.room(answer)
                    self._check()
                    if answer.done():
                        return answer.result()  # raises: it failed while waiting for room
                    writer.write(plain, size)
                    tried = self._active.tried
                    return await self._active.answer(answer, match)
        except TimeoutError:
            if not scope.expired():
                raise
            what = (
                f"{self._active.tried - tried} messages arrived and none matched"
                if tried is not None
                else "the request is pending and has not been written"
            )
            paused = (
                ", and reading is paused, since the set-up does not take them"
                if self._active.is_paused()
                else ""
            )
            raise TimeoutError(
                f"no reply within timeout={limit:g} s during the set-up: {what}{paused}"
            ) from None

    def heartbeat(self, interval: float | timedelta | None = None, message: AppMessage | None = None) -> None:
        """Change the heartbeat of this connection, for gateways that send their interval in a hello message.

        Args:
            interval: Seconds or `timedelta`, more than 0; `None` leaves it unchanged.
            message: The ping message, as for `Heartbeat.app`; `None` leaves it unchanged. If the heartbeat of the client is
                not a `Heartbeat.app`, replies are not recognised and are delivered as ordinary messages.

        Raises:
            NotConnected: The setup is over.
            TypeError, ValueError: A value has the wrong type or is out of range.
        """
        self._check()
        pinger = self._active.pinger
        assert pinger is not None
        old = self._heartbeat if self._heartbeat is not None else Heartbeat()
        every = old.interval if interval is None else interval
        if message is None and old.kind == "app":
            message = old.message
        if message is not None:
            new = Heartbeat.app(
                message,
                old.is_reply or _is_never_reply,
                every,
                old.timeout,
                pong_timeout=old.pong_timeout,
                idle_timeout=old.idle_timeout,
                answer=old.answer,
            )
        elif old.kind == "expect":
            new = Heartbeat.expect(every, idle_timeout=old.idle_timeout, answer=old.answer)
        else:
            new = Heartbeat(
                every, old.timeout, old.pong_timeout, idle_timeout=old.idle_timeout, answer=old.answer
            )
        self._heartbeat = new
        pinger.use(new)
        if pinger.takes_messages:
            self._active.watch_replies()

    def retire(self) -> None:
        """End the setup: every later or blocked call raises."""
        self._over = True
        self._active.setup_inbox.end()
        self._active.fail_requests(_over())

    def _check(self) -> None:
        if self._over:
            raise _over()


def _over() -> NotConnected:
    return NotConnected("this Connection can only be used during setup")


def _is_never_reply(_: Message) -> bool:
    return False


def checked(message: object, limit: int) -> tuple[Message, int]:
    """Return a message as `str` or `bytes` that nobody can change, and its size in bytes.

    Raises:
        TypeError: It is neither `str` nor bytes-like.
        ValueError: It is text that UTF-8 cannot encode.
        MessageTooBig: It is larger than `limit`.
    """
    plain: Message
    if isinstance(message, str):
        # What it holds: an `Enum` that is a `str` says something else of itself.
        plain = text = message if type(message) is str else str.__str__(message)
        try:
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"message must be encodable as UTF-8: {error.reason}") from None
    elif isinstance(message, bytes | bytearray):
        plain = message if type(message) is bytes else memoryview(message).tobytes()
        size = len(plain)
    elif isinstance(message, memoryview):
        plain = message.tobytes()
        size = len(plain)
    else:
        raise TypeError(f"message must be str or bytes-like, got {type(message).__name__}")
    if size > limit:
        raise MessageTooBig(
            f"the message has {size} bytes, outbox.max_bytes is {limit}", size=size, limit=limit
        )
    return plain, size
