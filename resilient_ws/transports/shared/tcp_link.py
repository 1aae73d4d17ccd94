"""The common part of all links on a real socket.

How it looks to the heartbeat, how PINGs are answered, and how it ends. A subclass writes frames and reads them.
"""

from __future__ import annotations

import asyncio
import math
import struct
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import attrs

from resilient_ws.api.close_codes import CloseCode, CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.core.endings import End
from resilient_ws.core.heartbeat import Reading
from resilient_ws.transports.seam import Receiver
from resilient_ws.transports.shared import tcp_info as kernel
from resilient_ws.transports.shared.frame_cutter import too_big
from resilient_ws.transports.shared.frame_writer import CLOSE, PING, PONG

_NEVER_ON_THE_WIRE: Final = frozenset({1004, 1005, 1006, 1015})

FAREWELL: Final = 1.0
"""Seconds that our CLOSE, in answer to the peer's or to a breach, may take to leave before the end is told anyway."""

ACKNOWLEDGED: Final = 0.2
"""Seconds that the peer may take to acknowledge what stands before our CLOSE, in answer to its own, before the end is told."""

CLOSE_HEAD: Final = 6
"""Bytes of our CLOSE besides its payload: head and key (RFC 6455 5.2)."""

LAST_ANSWERS: Final = 0.01
"""Seconds between the moment the peer breaks the protocol and our CLOSE: the program may answer what came before."""

MAX_PONGS_HELD: Final = 64
"""PONGs that may stand in our buffer while the peer does not read; of further PINGs the last one is answered."""

_LOOK_AGAIN: Final = 0.005
_LOOK_AGAIN_FOR_PONG: Final = 0.05


class SocketLink:
    """The part of a `Link` that knows the socket.

    Args:
        transport: asyncio's, of the socket.
        receiver: What is told.
        endpoint: Where it leads.
        subprotocol: What the server chose, or `None`.
        headers: Of the server's answer to the handshake.
        max_message_size: Bytes, inclusive.
    """

    # With more than 30 attributes, those of a subclass among them, an object has a dictionary of 1.6 kB.
    __slots__ = (
        "_farewell",
        "_frames",
        "_leaving",
        "_loop",
        "_max_message_size",
        "_message_at",
        "_messages",
        "_over",
        "_owed",
        "_owing",
        "_pongs",
        "_received_at",
        "_receiver",
        "_resumed_at",
        "_sent_code",
        "_sock",
        "_transport",
        "_written",
        "endpoint",
        "headers",
        "subprotocol",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        subprotocol: str | None,
        headers: Mapping[str, str],
        max_message_size: int,
    ) -> None:
        self.endpoint = endpoint
        self.subprotocol = subprotocol
        self.headers = headers
        self._transport = transport
        self._receiver = receiver
        self._max_message_size = max_message_size
        self._loop = asyncio.get_running_loop()
        self._sock = transport.get_extra_info("socket")
        self._over = False
        self._sent_code: int | None = None
        self._farewell = 0  # bytes of our CLOSE
        self._resumed_at = -math.inf
        self._frames: int = 0
        self._messages: int = 0
        self._written: int = 0
        # Of the PONGs that may still be in our buffer: what had been written by then.
        self._pongs: list[int] = []
        self._owed: bytes | None = None  # the last PING that could not be answered yet
        self._owing: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._received_at = self._message_at = self._loop.time()

    @abstractmethod
    def _control(self, payload: bytes, opcode: int) -> None:
        """Write a control frame, and count it; do nothing on a dead link."""

    # --- out ---

    def _check_open(self) -> None:
        if self._sent_code is not None:
            # RFC 6455 5.5.1: no data after a CLOSE.
            raise ConnectionLost("a CLOSE has been sent")

    def ping(self, payload: bytes, /) -> None:
        """Write a PING."""
        self._control(payload, PING)

    def close(self, code: int, reason: str, /) -> None:
        """Write a CLOSE, once."""
        if self._sent_code is None:
            self._sent_code = code
            payload = struct.pack("!H", code) + reason.encode()
            self._farewell = CLOSE_HEAD + len(payload)
            self._control(payload, CLOSE)

    def abort(self) -> None:
        """Free the socket now; nothing but our CLOSE may arrive later."""
        self._over = True
        for timer in (self._owing, self._leaving):
            if timer is not None:
                timer.cancel()
        if not self._transport.is_closing() and not self._only_close_is_left():
            kernel.forget_unsent(self._sock)
        self._transport.abort()

    def _only_close_is_left(self) -> bool:
        """Return whether the peer's kernel has acknowledged all that was written before our CLOSE, which was sent."""
        if self._sent_code is None:
            return False
        left, buffered = kernel.unacknowledged(self._sock), self._transport.get_write_buffer_size()
        if left is None:  # the system does not tell; all that was written has at least left our buffer
            return not buffered
        tls = self._transport.get_extra_info("ssl_object")
        return left + buffered <= self._farewell + (0 if tls is None else _record_overhead(tls))

    # --- in ---

    @property
    def heard_at(self) -> float:
        """When bytes of the peer were last read."""
        return self._received_at

    def look(self, *, paused: bool) -> Reading:
        """Return what the connection shows now."""
        facts, buffered = None, 0
        if not self._transport.is_closing():  # then the number of the socket may belong to another one
            facts, buffered = kernel.read(self._sock), self._transport.get_write_buffer_size()
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

    @property
    def is_tls(self) -> bool:
        """Whether there is TLS between the socket and us."""
        return self._transport.get_extra_info("ssl_object") is not None

    @property
    def keeps_socket(self) -> bool:
        """Whether the socket stays open though the peer sends no more, because our CLOSE has yet to leave; TLS cannot."""
        return not self._over and not self.is_tls

    def _answer_ping(self, payload: bytes) -> None:
        """Answer as soon as is practical (RFC 6455 5.5.2); where the answers pile up, only the last one (5.5.3)."""
        unsent = self._unsent()
        while self._pongs and (not unsent or self._pongs[0] <= self._written - unsent):
            del self._pongs[0]
        if len(self._pongs) < MAX_PONGS_HELD:
            self._owed = None
            self._control(payload, PONG)
            self._pongs.append(self._written)
            return
        self._owed = payload
        if self._owing is None:
            self._owing = self._loop.call_later(_LOOK_AGAIN_FOR_PONG, self._pay)

    def _pay(self) -> None:
        self._owing = None
        if self._owed is not None and not self._over:
            self._answer_ping(self._owed)

    def _end(self, end: End, *, wakes: bool = True) -> None:
        """Tell the end, once our CLOSE has left our buffer: what is aborted before does not reach the peer."""
        if self._leaving is None:
            now = self._loop.time()
            self._leave(end, now + FAREWELL, now + ACKNOWLEDGED, wakes=wakes)

    def _leave(self, end: End, until: float, patient_until: float, *, wakes: bool = True) -> None:
        if self._over:
            return
        if end.sent_code is not None and not self._transport.is_closing():
            now, unsent = self._loop.time(), self._unsent()
            # Messages on their way behind which our CLOSE stands: a reset would take it along.
            if unsent:
                patient_until = now + ACKNOWLEDGED
            is_waiting = now < patient_until and not self._only_close_is_left()
            if now < until if unsent else is_waiting:
                self._leaving = self._loop.call_later(_LOOK_AGAIN, self._leave, end, until, patient_until)
                return
            if unsent:
                self._sent_code = None
                end = attrs.evolve(end, sent_code=None)
        self._over = True
        self._receiver.ended(end, wakes=wakes)

    def wake(self) -> None:
        """Whoever waits for what was told goes on; called last in what the socket has called."""
        self._receiver.wake()

    def _too_big(self, size: int) -> End:
        return self._refuse(CloseCode.MESSAGE_TOO_BIG, too_big(size, self._max_message_size))

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

    def _refuse(self, code: CloseCode, why: str) -> End:
        self.close(code, "")
        return End(
            code=None, origin=CloseOrigin.PROTOCOL, sent_code=self._sent_code, cause=ConnectionLost(why)
        )

    def _lost(self, why: str) -> End:
        return End(
            code=None, origin=CloseOrigin.NETWORK, sent_code=self._sent_code, cause=ConnectionLost(why)
        )

    def _lost_with(self, error: Exception | None) -> End:
        """Return how the socket ended: with an error, or with FIN."""
        why = "no CLOSE frame"
        if error is not None:
            why = str(error.args[-1]) if error.args else type(error).__name__
        return self._lost(f"the connection was lost: {why}")


def _record_overhead(tls: Any) -> int:
    """Return how many bytes TLS adds to a record, at least: those of AEAD ciphers (RFC 8446 5.2, RFC 5288, RFC 7905)."""
    if tls.version() == "TLSv1.3":
        return 22
    cipher = tls.cipher()
    return 29 if cipher is not None and "GCM" in cipher[0] else 21
