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
        """Sends a message at once, before everything that waits in the outbox; it is not kept for another connection.

        Cancel-safe: a cancelled call has sent nothing.

        Args:
            message: `str` is sent as TEXT, bytes-like as BINARY.

        Raises:
            ConnectionLost: The connection has ended.
            NotConnected: The set-up is over.
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
        """Waits for the next message on this connection, `str` for TEXT and `bytes` for BINARY, and takes it.

        What the set-up does not take reaches the program afterwards, in order. Cancel-safe: a cancelled call takes
        nothing.

        Raises:
            ConnectionLost: The connection has ended.
            NotConnected: The set-up is over.
            ConcurrencyError: Another `recv` is waiting.
        """
        self._check()
        try:
            return await self._active.setup_inbox.get()
        except Ended:
            self._check()
            end = self._active.end
            how = f": {told_end(end)}" if end is not None else ""
            raise ConnectionLost(f"the connection ended during its set-up{how}") from None

    async def request(
        self,
        message: Message | bytearray | memoryview,
        match: Callable[[Message], bool],
        timeout: float | timedelta | None = None,
    ) -> Message:
        """Sends a message and returns the first one from then on for which `match` is true.

        Args:
            message: As for `send`.
            match: Is asked for each message on its arrival, and must not block; all others stay for `recv`.
            timeout: Seconds or `timedelta`; `None` = until `setup_timeout`.

        Raises:
            TimeoutError: No answer in time.
            DeliveryUncertain: The connection ended first.
            InboxFull: The answer is queued behind unread messages that the set-up does not take.
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
                        return answer.result()  # it has failed
                    writer.write(plain, size)
                    tried = self._active.tried
                    return await self._active.answer(answer, match)
        except TimeoutError:
            if not scope.expired():
                raise
            what = (
                f"{self._active.tried - tried} messages arrived and none matched"
                if tried is not None
                else "the message still waits for room and is not written"
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
        """Changes the heartbeat of this connection: gateways tell their interval in a hello message.

        Args:
            interval: Seconds or `timedelta`; `None` = unchanged.
            message: What to send as `Heartbeat.app` does; `None` = unchanged. Where the client's heartbeat is not
                one of `Heartbeat.app`, replies are not recognised and reach the program as any message does.

        Raises:
            NotConnected: The set-up is over.
            TypeError, ValueError: A value has the wrong type or is out of its range.
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
        """The set-up is over: every later call raises, and so does one that still waits."""
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
    """Returns a message as `str` or `bytes` that nobody can change, and its size in bytes.

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
