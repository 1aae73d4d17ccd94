"""One WebSocket connection on picows, which parses frames; messages, and what breaks the protocol, are our business.

picows checks lengths, opcodes and the shape of control frames. Reserved bits, fragments, text that is not UTF-8 and the
size of a whole message it leaves to us.
"""

# The types that picows states are partial.
# pyright: reportIncompatibleMethodOverride=false, reportUnnecessaryComparison=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from picows import WSTransport

from resilient_ws.closing import CloseCode
from resilient_ws.endpoints import Endpoint
from resilient_ws.errors import ConnectionLost
from resilient_ws.events import Message
from resilient_ws.transports import frames
from resilient_ws.transports.base import End, Receiver
from resilient_ws.transports.frames import CLOSE, PING, PONG, Mask, frame, message_frame, message_frames
from resilient_ws.transports.picows_listener import PicowsListener
from resilient_ws.transports.socket_link import LAST_ANSWERS, SocketLink


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
        mask: Masks payloads.
    """

    # As in the base class: with more than 30 attributes an object would have a dictionary of 1.6 kB.
    __slots__ = (
        "_finishing",
        "_fragments",
        "_full",
        "_is_text",
        "_listener",
        "_mask",
        "_parser",
        "_paused",
        "_room",
        "broken",
    )

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
        mask: Mask,
    ) -> None:
        super().__init__(
            connection.underlying_transport,
            receiver,
            endpoint,
            subprotocol=subprotocol,
            headers=headers,
            max_message_size=max_message_size,
        )
        # It holds request and answer, four kilobytes, and has no way to let go of them.
        listener.connection = None
        self._listener = listener
        self._mask = mask
        self._fragments: bytearray | None = None  # of a message that is not whole
        self._is_text = False
        self._paused = False
        self._full = False
        self._room: asyncio.Future[None] | None = None
        self._finishing = False
        self.broken = False  # by the peer: nothing more is read
        assert listener.parser is not None
        self._parser = listener.parser
        _take_notice(connection)
        _take_notice(self._parser)

    # --- out ---

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hands one message to the socket."""
        self._check_writable()
        # picows draws its masking keys from rand(), which can be predicted (RFC 6455 10.3).
        data = message_frame(message, self._mask)
        self._transport.write(data)
        self._written += len(data)
        return self._wait()

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hands several messages to the socket at once."""
        self._check_writable()
        data = message_frames(messages, self._mask)
        self._transport.write(data)
        self._written += len(data)
        return self._wait()

    def _control(self, payload: bytes, opcode: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(frame(opcode, payload, self._mask))
        self._written += len(payload) + 6

    def _check_writable(self) -> None:
        self._check_open()
        if self._transport.is_closing():
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

    def read(self) -> None:
        """Begins to tell; picows calls from then on."""
        listener = self._listener
        listener.link = self
        self.read_begins()
        listener.direct = True
        for early in listener.early:
            self.take(*early)
        listener.early.clear()
        self.read_ends()
        if listener.is_gone:
            self.lost(listener.gone_with)

    def read_begins(self) -> None:
        """Bytes have come: one clock reading for all that is in them."""
        self._frames += 1
        self._received_at = self._loop.time()

    def read_ends(self) -> None:
        """They have been parsed."""
        if self._listener.link is None:
            return
        self._tell_batch(wakes=False)
        if self._parser.is_close_frame_sent:  # to the stub: the peer has broken the protocol
            handshake: Any = self._parser.close_handshake
            self._break(int(handshake.sent.code), "the peer broke the protocol")
        self._receiver.wake()

    def take(self, kind: int, payload: bytes, fin: bool, reserved: bool) -> None:
        """A frame that is more than a whole message."""
        if self._over or self._finishing or self.broken:
            return
        if reserved:
            self._break(CloseCode.PROTOCOL_ERROR, "a frame has reserved bits (RFC 6455 5.2)")
        elif kind >= CLOSE:
            self._take_control(kind, payload)
        elif (kind == 0) != (self._fragments is not None):
            self._break(CloseCode.PROTOCOL_ERROR, "fragments are out of order (RFC 6455 5.4)")
        else:
            self._take_data(kind, payload, fin=fin)

    def _take_data(self, kind: int, payload: bytes, *, fin: bool) -> None:
        """A frame of a message that may consist of several."""
        if self._fragments is None:
            self._fragments, self._is_text = bytearray(), kind == frames.TEXT
            self._listener.direct = False
        self._fragments += payload
        if len(self._fragments) > self._max_message_size:
            self._break(CloseCode.MESSAGE_TOO_BIG, f"a message is larger than {self._max_message_size} bytes")
        elif fin:
            whole, self._fragments = bytes(self._fragments), None
            self._listener.direct = True
            self._listener.bytes += len(whole)
            try:
                self._listener.append(whole.decode() if self._is_text else whole)
            except UnicodeDecodeError:
                self._break(CloseCode.INVALID_DATA, "a text message is not UTF-8 (RFC 6455 8.1)")

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
            self._break(CloseCode.PROTOCOL_ERROR, "the peer sent the code 0 (RFC 6455 7.4.2)")
            return
        # picows has checked that the reason is UTF-8.
        self._finish(self._closed(code, payload[2:].decode()))

    def _break(self, code: int, why: str) -> None:
        """Reads no more, and tells the end when the program has had a moment to answer what came before."""
        if self._over or self._finishing or self.broken:
            return
        self._tell_batch()
        self.broken = True
        self._listener.direct = False
        self._leaving = self._loop.call_later(LAST_ANSWERS, self._give_up, code, why)

    def _give_up(self, code: int, why: str) -> None:
        self._leaving = None
        self._finish(self._refuse(CloseCode(code), why))

    def _tell_batch(self, *, wakes: bool = True) -> None:
        """Tells all messages that have come since the last call."""
        batch = self._listener.batch
        if not batch or self._over or self._finishing or self.broken:
            batch.clear()
            return
        self._messages += len(batch)
        self._message_at = self._received_at
        size, self._listener.bytes = self._listener.bytes, 0
        try:
            self._receiver.burst(batch, size, wakes=wakes)
        finally:
            batch.clear()  # whatever it raises must not come again at the end

    def pause(self) -> None:
        """Stops reading; what has been read already is told."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Goes on reading."""
        if self._paused:
            self._paused = False
            self._resumed_at = self._loop.time()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def lost(self, error: Exception | None, *, wakes: bool = True) -> None:
        """The socket is gone; without `wakes` `wake` follows."""
        self.drain()
        if self.broken:
            return  # which is how it ended, whatever becomes of the socket
        self._finish(self._lost_with(error), wakes=wakes)

    def _finish(self, end: End, *, wakes: bool = True) -> None:
        """Tells the end, after what came before."""
        self._tell_batch()
        if not (self._over or self._finishing):
            self._finishing = True
            self._end(end, wakes=wakes)

    def abort(self) -> None:
        """Frees the socket now. Messages that were read before are told."""
        if not self._over:
            self._tell_batch()
        super().abort()
        self.drain()


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
