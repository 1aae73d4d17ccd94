"""One WebSocket connection on aiohttp, through its public API only.

Facts about aiohttp 3.14 that shape this file, each with a test in `tests/integration/test_aiohttp_facts.py`:
`receive(timeout=)` and a cancelled `receive()` poison `close_code`, so one reader runs until the end and there are no
receive timeouts; with `autoclose` an empty CLOSE frame blocks it, so CLOSE is answered here; a `send_*` whose frame is
not compressed has handed it to the socket before its first suspension; `close()` can take for ever, so a dead
connection is aborted.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Final

import attrs
from aiohttp import ClientError, ClientResponse, ClientWebSocketResponse, WebSocketError, WSMsgType

from resilient_ws.closing import CloseCode, CloseOrigin
from resilient_ws.errors import ConnectionLost
from resilient_ws.events import Endpoint, Message
from resilient_ws.heartbeat import Reading
from resilient_ws.inbox import size_of
from resilient_ws.transports import kernel
from resilient_ws.transports.base import End, Receiver, all_of

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_NEVER_ON_THE_WIRE: Final = frozenset({1004, 1005, 1006, 1015})

FAREWELL: Final = 1.0
"""Seconds that our CLOSE, in answer to the peer's or to a breach, may take to leave before the end is told anyway."""

MAX_PONGS_HELD: Final = 64
"""PONGs that may stand in our buffer while the peer does not read; of further PINGs the last one is answered."""

_LOOK_AGAIN: Final = 0.005
_LOOK_AGAIN_FOR_PONG: Final = 0.05

LOST: Final = (ClientError, OSError, RuntimeError)
"""What aiohttp raises from a send on a connection that is gone, a builtin `ConnectionError` among them."""


class _Rest(Awaitable[None]):
    """The rest of a send whose first step has been taken already."""

    __slots__ = ("_coroutine", "_step")

    def __init__(self, coroutine: Coroutine[Any, Any, None], step: object) -> None:
        self._coroutine = coroutine
        self._step = step

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._step
        except BaseException as error:  # noqa: BLE001 - whatever is thrown in is for the send
            self._coroutine.throw(error)
        yield from self._coroutine.__await__()


class AiohttpLink:
    """A `Link` on a `ClientWebSocketResponse`."""

    def __init__(
        self,
        socket: ClientWebSocketResponse,
        response: ClientResponse,
        transport: asyncio.Transport,
        receiver: Receiver,
        endpoint: Endpoint,
        max_message_size: int,
    ) -> None:
        self.endpoint = endpoint
        self.subprotocol: str | None = socket.protocol
        self.headers: Mapping[str, str] = response.headers
        self._socket = socket
        self._response = response
        self._transport = transport
        self._receiver = receiver
        self._max_message_size = max_message_size
        self._loop = asyncio.get_running_loop()
        self._sock = transport.get_extra_info("socket")
        self._over = False
        self._sent_code: int | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._resumed_at = -math.inf
        self._frames = 0
        self._messages = 0
        self._written = 0
        self._pongs: deque[int] = (
            deque()
        )  # of those that may still be in our buffer, what had been written by then
        self._owed: bytes | None = None  # the last PING that could not be answered yet
        self._owing: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._received_at = self._message_at = self._loop.time()

    # --- out ---

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hands one message to the socket."""
        self._check_open()
        socket = self._socket
        coroutine = socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message)
        self._written += len(message)
        return self._step(coroutine)

    def _check_open(self) -> None:
        if self._sent_code is not None:
            # RFC 6455 5.5.1: no data after a CLOSE.
            raise ConnectionLost("a CLOSE has been sent")

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hands several messages to the socket, one after the other."""
        rests = [self.write(messages[0])]
        try:
            rests += map(self.write, messages[1:])
        except ConnectionLost:
            return None  # some are written: `read` tells the end
        return all_of(rests)

    def ping(self, payload: bytes, /) -> None:
        """Writes a PING."""
        self._control(payload, WSMsgType.PING)

    def close(self, code: int, reason: str, /) -> None:
        """Writes a CLOSE, once."""
        if self._sent_code is None:
            self._sent_code = code
            self._control(struct.pack("!H", code) + reason.encode(), WSMsgType.CLOSE)

    def _control(self, payload: bytes, opcode: WSMsgType) -> None:
        """Writes a control frame; whether the buffer has room afterwards is of no interest."""
        coroutine = self._socket.send_frame(payload, opcode)
        self._written += len(payload) + 6
        try:
            self._step(coroutine)
        except ConnectionLost:
            return  # `read` tells it
        finally:
            coroutine.close()

    @staticmethod
    def _step(coroutine: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
        """Runs a send up to its first suspension: without compression the frame has been written by then."""
        try:
            step = coroutine.send(None)
        except StopIteration:
            return None
        except LOST as error:
            raise ConnectionLost("the connection is gone") from error
        return _Rest(coroutine, step)

    def abort(self) -> None:
        """Frees the socket now."""
        self._over = True
        for timer in (self._owing, self._leaving):
            if timer is not None:
                timer.cancel()
        if self._sent_code is None and not self._transport.is_closing():
            kernel.forget_unsent(self._sock)  # a CLOSE that was sent is to arrive; nothing else is
        self._transport.abort()
        self._response.close()
        self.resume()

    # --- in ---

    def pause(self) -> None:
        """Stops reading after the message of the moment."""
        if self._resumed is None:
            self._resumed = self._loop.create_future()

    def resume(self) -> None:
        """Goes on reading."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            self._resumed_at = self._loop.time()
            if not resumed.done():
                resumed.set_result(None)

    def look(self, *, paused: bool) -> Reading:
        """Returns what the connection shows now."""
        buffered = self._unsent()
        # Once closed, the number of the socket may belong to another one.
        facts = None if self._transport.is_closing() else kernel.read(self._sock)
        if facts is None:
            return Reading(
                received=self._frames,
                received_at=self._received_at,
                message_at=self._message_at,
                messages=self._messages,
                left=self._written - min(buffered, self._written),
                pending=buffered,
                acknowledged=False,
                paused=paused,
                resumed_at=self._resumed_at,
            )
        return Reading(
            received=facts.bytes_received,
            received_at=max(self._received_at, self._loop.time() - facts.last_data_recv),
            message_at=self._message_at,
            messages=self._messages,
            left=facts.bytes_acked,
            pending=buffered + facts.queued,
            acknowledged=True,
            paused=paused,
            in_flight=facts.in_flight,
            resumed_at=self._resumed_at,
        )

    def _unsent(self) -> int:
        """Bytes in our own buffer; a TLS transport that is closed has none to ask for."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    async def read(self) -> None:
        """Tells the receiver what comes in, until the end."""
        self._end(await self._read())

    async def _read(self) -> End:
        receive = self._socket.receive
        receiver = self._receiver
        while True:
            while (resumed := self._resumed) is not None:
                await resumed
            try:
                kind, data, extra = await receive()
            except LOST as error:
                return self._lost(f"the connection was lost ({type(error).__name__})")
            if self._over:
                return self._lost("aborted")
            self._frames += 1
            self._received_at = self._loop.time()
            if kind is _TEXT or kind is _BINARY:
                size = size_of(data)
                if size > self._max_message_size:
                    return self._too_big()
                self._messages += 1
                self._message_at = self._received_at
                receiver.message(data, size)
            elif kind is WSMsgType.PING:
                self._answer_ping(data)
            elif kind is WSMsgType.PONG:
                receiver.pong(bytes(data))
            elif kind is WSMsgType.CLOSE:
                return self._closed(int(data), str(extra or ""))
            elif kind is WSMsgType.ERROR:
                return self._broken(data)
            else:
                return self._lost("the connection ended without a CLOSE frame")

    def _answer_ping(self, payload: bytes) -> None:
        """Answers as soon as is practical (RFC 6455 5.5.2); where the answers pile up, only the last one (5.5.3)."""
        unsent = self._unsent()
        while self._pongs and (not unsent or self._pongs[0] <= self._written - unsent):
            self._pongs.popleft()
        if len(self._pongs) < MAX_PONGS_HELD:
            self._owed = None
            self._control(payload, WSMsgType.PONG)
            self._pongs.append(self._written)
            return
        self._owed = payload
        if self._owing is None:
            self._owing = self._loop.call_later(_LOOK_AGAIN_FOR_PONG, self._pay)

    def _pay(self) -> None:
        self._owing = None
        if self._owed is not None and not self._over:
            self._answer_ping(self._owed)

    def _end(self, end: End) -> None:
        """Tells the end, once our CLOSE has left our buffer: what is aborted before does not reach the peer."""
        if self._leaving is None:
            self._leave(end, self._loop.time() + FAREWELL)

    def _leave(self, end: End, until: float) -> None:
        if self._over:
            return
        if end.sent_code is not None and self._unsent():
            if self._loop.time() < until:
                self._leaving = self._loop.call_later(_LOOK_AGAIN, self._leave, end, until)
                return
            self._sent_code = None
            end = attrs.evolve(end, sent_code=None)
        self._over = True
        self._receiver.ended(end)

    def _too_big(self) -> End:
        return self._refuse(
            CloseCode.MESSAGE_TOO_BIG, f"a message is larger than {self._max_message_size} bytes"
        )

    def _closed(self, code: int, reason: str) -> End:
        if code in _NEVER_ON_THE_WIRE:
            return self._refuse(
                CloseCode.PROTOCOL_ERROR, f"the peer sent {code}, which is not for the wire (RFC 6455 7.4.1)"
            )
        if self._sent_code is None:
            # RFC 6455 5.5.1: answer with the code received; an empty CLOSE is answered with 1000.
            self.close(code or CloseCode.NORMAL_CLOSURE, "")
        return End(
            code=code or CloseCode.NO_STATUS_RCVD,
            reason=reason,
            origin=CloseOrigin.PEER,
            sent_code=self._sent_code,
        )

    def _broken(self, error: object) -> End:
        if not isinstance(error, WebSocketError):
            return self._lost(f"the connection was lost ({type(error).__name__})")
        # aiohttp has written the CLOSE already, with this code.
        if self._sent_code is None:
            self._sent_code = int(error.code)
        return End(
            code=None,
            origin=CloseOrigin.PROTOCOL,
            sent_code=self._sent_code,
            cause=ConnectionLost(f"the peer broke the protocol: {error}"),
        )

    def _refuse(self, code: CloseCode, why: str) -> End:
        self.close(code, "")
        return End(
            code=None, origin=CloseOrigin.PROTOCOL, sent_code=self._sent_code, cause=ConnectionLost(why)
        )

    def _lost(self, why: str) -> End:
        return End(
            code=None, origin=CloseOrigin.NETWORK, sent_code=self._sent_code, cause=ConnectionLost(why)
        )
