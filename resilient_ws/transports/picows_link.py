"""One WebSocket connection on picows, which parses frames; messages, and what breaks the protocol, are our business.

picows checks lengths, opcodes and the shape of control frames, and closes by itself where they are wrong. Reserved
bits, fragments, text that is not UTF-8 and the size of a whole message it leaves to us.
"""

# The types that picows states are partial.
# pyright: reportIncompatibleMethodOverride=false, reportUnnecessaryComparison=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, cast

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from resilient_ws.closing import CloseCode, CloseOrigin
from resilient_ws.endpoints import Endpoint
from resilient_ws.errors import ConnectionLost
from resilient_ws.events import Message
from resilient_ws.inbox import size_of
from resilient_ws.transports.base import End, Receiver
from resilient_ws.transports.frames import CLOSE, PING, PONG, TEXT, Mask, frame, message_frames
from resilient_ws.transports.socket_link import SocketLink

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY

READ: Final = 128 * 1024
"""Bytes that one read takes in at most."""


class PicowsListener(WSListener):
    """What picows tells: whole messages are gathered for the read of the moment, the rest is passed on."""

    def __init__(self) -> None:
        super().__init__()
        self.link: PicowsLink | None = None
        self.batch: list[Message] = []  # of the read of the moment
        self.append = self.batch.append
        self.early: list[tuple[int, bytes, bool, bool]] = []
        self.direct = False  # until there is a link that reads, and while a message is not whole

    def on_ws_frame(self, _: WSTransport, frame: WSFrame) -> None:
        """A frame has come."""
        if self.direct and frame.fin and not (frame.rsv1 or frame.rsv2 or frame.rsv3):
            kind = frame.msg_type
            if kind is _TEXT:
                try:
                    self.append(frame.get_payload_as_utf8_text())
                except UnicodeDecodeError:
                    pass  # the slow way says what is wrong
                else:
                    return
            elif kind is _BINARY:
                self.append(frame.get_payload_as_bytes())
                return
        if self.link is not None:
            self.link.take(*_copy(frame))
        else:
            self.early.append(_copy(frame))

    def pause_writing(self) -> None:
        """The send buffer is fuller than it should be."""
        if self.link is not None:
            self.link.fill()

    def resume_writing(self) -> None:
        """It has room again."""
        if self.link is not None:
            self.link.drain()


class _Wire(asyncio.BufferedProtocol):
    """Stands between the socket and picows, to know where a read begins and ends, and how it all ends."""

    def __init__(self, link: PicowsLink, inner: asyncio.BufferedProtocol) -> None:
        self._link = link
        self._inner = inner

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns a piece of the buffer of picows, which would take in megabytes at once."""
        return cast("memoryview", self._inner.get_buffer(sizehint))[:READ]

    def buffer_updated(self, nbytes: int) -> None:
        self._link.read_begins()
        self._inner.buffer_updated(nbytes)
        self._link.read_ends()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        self._link.lost(exc)


def _copy(frame: WSFrame) -> tuple[int, bytes, bool, bool]:
    reserved = bool(frame.rsv1 or frame.rsv2 or frame.rsv3)
    return int(cast("int", frame.msg_type)), frame.get_payload_as_bytes(), bool(frame.fin), reserved


class PicowsLink(SocketLink):
    """A `Link` that needs no reader task.

    Args:
        connection: What picows opened.
        listener: Whom it tells.
        receiver: Whom we tell.
        endpoint: Where it leads.
        subprotocol: What the server chose, or `None`.
        headers: Of the server's answer to the handshake.
        max_message_size: Bytes, inclusive.
        mask: Masks payloads where several messages are written at once; `None` = they are written one by one.
    """

    def __init__(
        self,
        connection: WSTransport,
        listener: PicowsListener,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        subprotocol: str | None,
        headers: Mapping[str, str],
        max_message_size: int,
        mask: Mask | None,
    ) -> None:
        super().__init__(
            connection.underlying_transport,
            receiver,
            endpoint,
            subprotocol=subprotocol,
            headers=headers,
            max_message_size=max_message_size,
        )
        self._connection = connection
        self._listener = listener
        self._mask = mask
        self._fragments: list[bytes] | None = None  # of a message that is not whole
        self._fragments_size = 0
        self._is_text = False
        self._paused = False
        self._full = False
        self._room: asyncio.Future[None] | None = None
        self._finishing = False
        _take_notice(connection)
        self._transport.set_protocol(
            _Wire(self, cast("asyncio.BufferedProtocol", self._transport.get_protocol()))
        )

    # --- out ---

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hands one message to the socket."""
        self._check_writable()
        self._connection.send(_TEXT if isinstance(message, str) else _BINARY, message)
        self._written += len(message) + 6
        return self._wait()

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hands several messages to the socket at once."""
        self._check_writable()
        if self._mask is None:
            for message in messages:
                self.write(message)
        else:
            data = message_frames(messages, self._mask)
            self._transport.write(data)
            self._written += len(data)
        return self._wait()

    def _control(self, payload: bytes, opcode: int) -> None:
        if self._is_gone:
            return
        if self._mask is None:
            self._connection.send(WSMsgType(opcode), payload)
        else:
            self._transport.write(frame(opcode, payload, self._mask))
        self._written += len(payload) + 6

    @property
    def _is_gone(self) -> bool:
        return self._connection.is_disconnected or self._transport.is_closing()

    def _check_writable(self) -> None:
        self._check_open()
        if self._is_gone or self._connection.is_close_frame_sent:
            raise ConnectionLost("the connection is gone")

    def _wait(self) -> Awaitable[None] | None:
        if not self._full:
            return None
        if self._room is None or self._room.done():
            self._room = self._loop.create_future()
        return self._room

    def fill(self) -> None:
        """The send buffer is fuller than it should be."""
        self._full = True

    def drain(self) -> None:
        """It has room again, or nothing will be kept in it any more."""
        self._full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # --- in ---

    async def read(self) -> None:
        """Begins to tell; picows calls from then on."""
        listener = self._listener
        listener.link = self
        self.read_begins()
        for early in listener.early:
            self.take(*early)
        listener.early.clear()
        listener.direct = self._fragments is None
        self.read_ends()

    def read_begins(self) -> None:
        """Bytes have come: one clock reading for all that is in them."""
        self._frames += 1
        self._received_at = self._loop.time()

    def read_ends(self) -> None:
        """They have been parsed."""
        if self._listener.link is None:
            return
        self._tell_batch()
        if self._connection.is_close_frame_sent:  # not by us: the peer has broken the protocol
            self._finish(self._breach())

    def take(self, kind: int, payload: bytes, fin: bool, reserved: bool) -> None:
        """A frame that is more than a whole message."""
        if self._over or self._finishing:
            return
        if reserved:
            self._finish(self._refuse(CloseCode.PROTOCOL_ERROR, "a frame has reserved bits (RFC 6455 5.2)"))
        elif kind >= CLOSE:
            self._take_control(kind, payload)
        elif (kind == 0) != (self._fragments is not None):
            self._finish(self._refuse(CloseCode.PROTOCOL_ERROR, "fragments are out of order (RFC 6455 5.4)"))
        else:
            self._take_data(kind, payload, fin=fin)

    def _take_data(self, kind: int, payload: bytes, *, fin: bool) -> None:
        """A frame of a message that may consist of several."""
        if self._fragments is None:
            self._fragments, self._fragments_size, self._is_text = [], 0, kind == TEXT
            self._listener.direct = False
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > self._max_message_size:
            self._finish(self._too_big())
        elif fin:
            whole = b"".join(self._fragments)
            self._fragments = None
            self._listener.direct = True
            try:
                self._listener.append(whole.decode() if self._is_text else whole)
            except UnicodeDecodeError:
                self._finish(self._invalid_text())

    def _invalid_text(self) -> End:
        return self._refuse(CloseCode.INVALID_DATA, "a text message is not UTF-8 (RFC 6455 8.1)")

    def _take_control(self, kind: int, payload: bytes) -> None:
        self._tell_batch()
        if kind == PING:
            self._answer_ping(payload)
        elif kind == PONG:
            self._receiver.pong(payload)
        else:
            self._take_close(payload)

    def _take_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2]) if payload else 0
        if payload and code == 0:
            self._finish(self._refuse(CloseCode.PROTOCOL_ERROR, "the peer sent the code 0 (RFC 6455 7.4.2)"))
            return
        # picows has checked that the reason is UTF-8.
        self._finish(self._closed(code, payload[2:].decode()))

    def _breach(self) -> End:
        """Returns how it ends when picows has closed because the peer broke the protocol."""
        handshake = self._connection.close_handshake
        if self._sent_code is None and handshake is not None and handshake.sent is not None:
            self._sent_code = int(cast("int", handshake.sent.code))
        return End(
            code=None,
            origin=CloseOrigin.PROTOCOL,
            sent_code=self._sent_code,
            cause=ConnectionLost("the peer broke the protocol"),
        )

    def _tell_batch(self) -> None:
        """Tells all messages that have come since the last call."""
        batch = self._listener.batch
        if not batch or self._over or self._finishing:
            batch.clear()
            return
        self._messages += len(batch)
        self._message_at = self._received_at
        self._receiver.burst(batch, _size_of_all(batch))
        batch.clear()

    def pause(self) -> None:
        """Stops reading; what has been read already is told."""
        if not self._paused and not self._is_gone:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Goes on reading."""
        if self._paused:
            self._paused = False
            self._resumed_at = self._loop.time()
            if not self._is_gone:
                self._transport.resume_reading()

    def lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self.drain()
        why = (
            "no CLOSE frame" if error is None else str(error.args[-1] if error.args else type(error).__name__)
        )
        self._finish(self._lost(f"the connection was lost: {why}"))

    def _finish(self, end: End) -> None:
        """Tells the end, after what came before."""
        self._tell_batch()
        if not (self._over or self._finishing):
            self._finishing = True
            self._end(end)

    def abort(self) -> None:
        """Frees the socket now. Messages that were read before are told."""
        if not self._over:
            self._tell_batch()
        super().abort()
        self.drain()


def _size_of_all(messages: list[Message]) -> int:
    """Returns their bytes on the wire; of many texts that are ASCII at hardly any cost."""
    try:
        joined = "".join(cast("list[str]", messages))
    except TypeError:
        return sum(map(size_of, messages))
    return size_of(joined)


def _take_notice(connection: WSTransport) -> None:
    """Takes notice of the exception by which picows ends a connection; it would complain if nobody did."""
    waiting = connection.wait_disconnected()
    try:
        ended: asyncio.Future[None] = waiting.send(None)
    except Exception:  # noqa: BLE001 - it is over already, for whatever reason
        return
    ended.add_done_callback(_look)
    waiting.close()


def _look(ended: asyncio.Future[None]) -> None:
    if not ended.cancelled():
        ended.exception()
