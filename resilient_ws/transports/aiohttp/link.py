"""One WebSocket connection through the public API of aiohttp.

Facts about aiohttp 3.14 that shape this file, each with a test in `tests/integration/test_aiohttp_facts.py`:
`receive(timeout=)` and a cancelled `receive()` poison `close_code`, so one reader runs until the end and there are no
receive timeouts; with `autoclose` an empty CLOSE frame blocks it, so CLOSE is answered here; a `send_*` whose frame is
not compressed has handed it to the socket before its first suspension; `close()` can take for ever, so a dead
connection is aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Final

from aiohttp import ClientError, ClientWebSocketResponse, WebSocketError, WSMsgType
from aiohttp.connector import Connection

from resilient_ws.api.close_codes import CloseCode, CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.message import Message, size_of
from resilient_ws.core.endings import End
from resilient_ws.transports.seam import Receiver, all_of
from resilient_ws.transports.shared.carriers import carried_by
from resilient_ws.transports.shared.frame_writer import random_bits
from resilient_ws.transports.shared.tcp_link import SocketLink

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
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
        except BaseException as error:  # noqa: BLE001 - any exception belongs to the send
            self._coroutine.throw(error)
        yield from self._coroutine.__await__()


class AiohttpLink(SocketLink):
    """A `Link` on a `ClientWebSocketResponse`."""

    __slots__ = ("_connection", "_resumed", "_socket")

    def __init__(
        self,
        socket: ClientWebSocketResponse,
        connection: Connection,
        transport: asyncio.Transport,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        max_message_size: int,
    ) -> None:
        super().__init__(
            transport,
            receiver,
            endpoint,
            subprotocol=socket.protocol,
            headers=headers,
            max_message_size=max_message_size,
        )
        # aiohttp makes masking keys of a Mersenne Twister, which a peer can predict and a forked child has in common with its
        # parent (RFC 6455 10.3). The writer has no public name.
        writer: Any = getattr(socket, "_writer", None)
        if hasattr(writer, "get_random_bits"):
            writer.get_random_bits = random_bits
        self._socket = socket
        self._connection = connection
        self._resumed: asyncio.Future[None] | None = None

    @property
    def transport(self) -> str:
        """What carries the connection, in words."""
        return carried_by(self._transport, direct=False)

    # --- out ---

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hand one message to the socket."""
        self._check_open()
        socket = self._socket
        coroutine = socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message)
        self._written += len(message)
        return self._step(coroutine)

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hand several messages to the socket, one after the other."""
        rests = [self.write(messages[0])]
        try:
            rests += map(self.write, messages[1:])
        except ConnectionLost:
            return None  # some are written: `read` tells the end
        return all_of(rests)

    def _control(self, payload: bytes, opcode: int) -> None:
        """Write a control frame; whether the buffer has room afterwards is of no interest."""
        coroutine = self._socket.send_frame(payload, WSMsgType(opcode))
        self._written += len(payload) + 6
        try:
            self._step(coroutine)
        except ConnectionLost:
            return  # `read` tells it
        finally:
            coroutine.close()

    @staticmethod
    def _step(coroutine: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
        """Run a send up to its first suspension: without compression the frame has been written by then."""
        try:
            step = coroutine.send(None)
        except StopIteration:
            return None
        except LOST as error:
            raise ConnectionLost("the connection is gone") from error
        return _Rest(coroutine, step)

    def abort(self) -> None:
        """Free the socket now."""
        super().abort()
        self._connection.close()
        self.resume()

    # --- in ---

    def pause(self) -> None:
        """Stop reading after the current message."""
        if self._resumed is None:
            self._resumed = self._loop.create_future()

    def resume(self) -> None:
        """Go on reading."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            self._resumed_at = self._loop.time()
            if not resumed.done():
                resumed.set_result(None)

    def read(self) -> Awaitable[None] | None:
        """Tell the receiver what comes in, until the end."""
        return self._tell()

    async def _tell(self) -> None:
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
                    return self._too_big(size)
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

    def _broken(self, error: object) -> End:
        if isinstance(error, LOST):
            return self._lost(f"the connection was lost ({type(error).__name__})")
        # What is not aiohttp's comes from unpacking, and has its type from whichever zlib is in use.
        code, why = int(CloseCode.NORMAL_CLOSURE), f"compressed data that cannot be unpacked ({error})"
        if isinstance(error, WebSocketError):
            code, why = int(error.code), str(error)
        # aiohttp has written the CLOSE already: with the code of its error, with 1000 for one that is not its own.
        if self._sent_code is None:
            self._sent_code = code
        return End(
            code=None,
            origin=CloseOrigin.PROTOCOL,
            sent_code=self._sent_code,
            cause=ConnectionLost(f"the peer broke the protocol: {why}"),
        )
