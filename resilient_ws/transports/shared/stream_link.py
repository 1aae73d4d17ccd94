"""A link that reads and writes frames itself, on a socket that a library opened.

One read of the socket is worked on for a moment only: a peer may send sixty thousand frames in it. What is left then waits
as it was read, nothing more is read, and the next turn of the event loop goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import Final
from weakref import WeakValueDictionary

from resilient_ws.aio.resume import let_nested_loop_read
from resilient_ws.api.close_codes import CloseCode
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.message import Message
from resilient_ws.core.endings import End
from resilient_ws.transports.seam import Receiver
from resilient_ws.transports.shared.frame_cutter import ANSWERED, Cutter
from resilient_ws.transports.shared.frame_writer import PING
from resilient_ws.transports.shared.inflate import Packer
from resilient_ws.transports.shared.outlet import Outlet
from resilient_ws.transports.shared.tcp_link import LAST_ANSWERS, SocketLink

TURN: Final = 0.002
"""Seconds of one turn of the event loop for what one connection has sent, or one portion of it."""

ROUND: Final = 0.005
"""Seconds of one turn of the event loop for all connections with something left."""

LAST_TURN: Final = 0.01
"""Seconds for messages that were read before the connection is aborted."""


class Intake:
    """What has been cut out of the reads of one connection.

    Slots, because they are found faster than the attributes of a dictionary.

    Attributes:
        direct: Whether anything is taken now.
        batch: The messages of the current read.
        append: Adds one.
        bytes: How many bytes those have.
        link: Who hears of all else; set before `direct`.
    """

    __slots__ = ("append", "batch", "bytes", "direct", "link")

    def __init__(self) -> None:
        self.direct = False
        self.batch: list[Message] = []
        self.append = self.batch.append
        self.bytes = 0
        self.link: StreamLink | None = None

    def control(self, opcode: int, payload: bytes, /) -> None:
        """Handle a PING or a PONG."""
        if self.link is not None:
            self.link.take_control(opcode, payload)

    def closed(self, payload: bytes, /) -> None:
        """Handle a CLOSE."""
        if self.link is not None:
            self.link.take_close(payload)

    def broken(self, code: int, why: str, /) -> None:
        """Handle a violation of the protocol or of a limit."""
        if self.link is not None:
            self.link.take_breach(code, why)


class _Rota:
    """The links of one event loop with something left of a read: they take turns, a few milliseconds in each turn of the loop."""

    __slots__ = ("__weakref__", "_is_due", "_links")

    def __init__(self) -> None:
        self._links: deque[StreamLink] = deque()
        self._is_due = False

    def join(self, link: StreamLink) -> None:
        """Call `go_on` of `link` when its turn comes, once."""
        self._links.append(link)
        self._arrange()

    def leave(self, link: StreamLink) -> None:
        """Its turn does not come any more."""
        with contextlib.suppress(ValueError):
            self._links.remove(link)

    def _arrange(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        loop = asyncio.get_running_loop()
        until = loop.time() + ROUND
        for _ in range(len(self._links)):
            if not self._links or loop.time() >= until:
                break
            link = self._links.popleft()
            if self._links:
                self._arrange()  # before the link wakes the program, which may raise, or run the loop
            link.go_on()
        if self._links:
            self._arrange()


_rotas: Final[WeakValueDictionary[asyncio.AbstractEventLoop, _Rota]] = WeakValueDictionary()


class _Packing(Awaitable[None]):
    """The rest of a write that takes more than one turn of the event loop; it ends nowhere but with its connection."""

    __slots__ = ("_link", "_steps")

    def __init__(self, link: StreamLink, steps: Generator[None]) -> None:
        self._link = link
        self._steps = steps

    def __await__(self) -> Generator[None, None, None]:
        yield
        while self._link.pack_on(self._steps):
            yield
        room = self._link.room
        if room is not None:
            yield from room.__await__()


class StreamLink(SocketLink):
    """A `Link` that needs no reader task.

    Args:
        transport: asyncio's, of the socket.
        cutter: Reads what comes in.
        intake: Takes what the cutter finds.
        receiver: Whom we tell.
        endpoint: Where it leads.
        outlet: Where our frames go.
        packer: Packs our messages; `None` = they are not compressed.
        subprotocol: What the server chose, or `None`.
        headers: Of the server's answer to the handshake.
        max_message_size: Bytes, inclusive.
    """

    __slots__ = (
        "_cutter",
        "_intake",
        "_is_next",
        "_is_tls",
        "_outlet",
        "_packer",
        "_paused",
        "_pending",
        "_pings",
        "_rota",
        "_stopped",
        "_telling",
        "_working",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        cutter: Cutter,
        intake: Intake,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        outlet: Outlet,
        packer: Packer | None = None,
        subprotocol: str | None,
        headers: Mapping[str, str],
        max_message_size: int,
    ) -> None:
        super().__init__(
            transport,
            receiver,
            endpoint,
            subprotocol=subprotocol,
            headers=headers,
            max_message_size=max_message_size,
        )
        self._cutter = cutter
        self._intake = intake
        self._outlet = outlet
        self._packer = packer
        self._is_tls = self.is_tls
        self._paused = False  # by the receiver
        self._stopped = False  # the transport does not read
        self._working = False  # on what was read
        self._telling = False
        self._rota = _rotas.get(self._loop) or _rotas.setdefault(self._loop, _Rota())
        self._is_next = False  # in the rota, to go on with what is left
        self._pings: list[bytes] | None = None  # of the current read, to be answered
        self._pending: End | None = None  # told when all that came before has been
        self._stop()  # what comes before `read` would wait without a bound

    # --- out ---

    def write(self, message: Message, /) -> Awaitable[None] | None:
        """Hand one message to the socket."""
        outlet = self._outlet
        if self._sent_code is not None:
            self._check_open()
        if self._packer is not None:
            return self._write_packed(self._packer, (message,))
        self._written += outlet.message(message)
        return outlet.room if outlet.full else None

    def write_all(self, messages: Sequence[Message], /) -> Awaitable[None] | None:
        """Hand several messages to the socket at once."""
        self._check_open()
        if self._packer is not None:
            return self._write_packed(self._packer, messages)
        self._written += self._outlet.messages(messages)
        return self._outlet.room

    def _write_packed(self, packer: Packer, messages: Sequence[Message]) -> Awaitable[None] | None:
        outlet = self._outlet
        outlet.check()
        steps = packer.steps(messages, outlet.mask, self._put)
        return _Packing(self, steps) if self.pack_on(steps) else outlet.room

    def pack_on(self, steps: Generator[None]) -> bool:
        """Take the next step; return whether there is another one.

        Raises:
            ConnectionLost: The connection has ended, or is about to: nothing may be written behind our CLOSE.
        """
        self._check_open()
        if self._over:
            raise ConnectionLost("the connection is gone")
        self._outlet.check()
        return next(steps, steps) is not steps

    @property
    def room(self) -> Awaitable[None] | None:
        """What ends when the send buffer has room again; `None` while it has."""
        return self._outlet.room

    def _put(self, data: bytes) -> None:
        self._written += self._outlet.put(data)

    def _control(self, payload: bytes, opcode: int) -> None:
        try:
            self._written += self._outlet.control(opcode, payload)
        except ConnectionLost:
            return  # `lost` tells it

    # --- in ---

    def read(self) -> None:
        """Begin to tell; the socket calls from then on."""
        self._intake.link = self
        self.read_begins()
        self._working = False
        self._let_go()
        self._receiver.wake()

    def read_begins(self) -> None:
        """Note the time of a read, once for all its frames."""
        self._frames += 1
        self._received_at = self._loop.time()
        self._working = True

    def read_ends(self) -> None:
        """They have been cut, as far as one portion goes."""
        self._tell_batch(wakes=False)
        if self._cutter.stalled:
            self._work(self._received_at + TURN)
        if self._pings is not None:
            self._answer_pings()
        self._working = False
        if self._is_tls:  # which begins to read anew by itself
            let_nested_loop_read(self._loop, self._sock.fileno())
        self._receiver.wake()

    def _work(self, until: float) -> None:
        """Go on with what is left, portion by portion; the next turn of the loop takes over at the time `until`."""
        cutter, intake = self._cutter, self._intake
        while cutter.stalled and intake.direct:
            if self._loop.time() >= until:
                self._stop()
                self._queue()
                return
            cutter.feed(b"")
            self._tell_batch(wakes=False)

    def _queue(self) -> None:
        if not self._is_next:
            self._is_next = True
            self._rota.join(self)

    def go_on(self) -> None:
        """Go on in a later turn of the loop."""
        self._is_next = False
        if self._over:
            return
        if self._paused and self._pending is not None:
            self._end_with(self._pending)
        self._let_go()
        self._receiver.wake()

    def _let_go(self) -> None:
        """Go on with what is left, and then with reading."""
        if self._working or self._over or self._paused or self._intake.link is None:
            return
        self._working = True
        self._intake.direct = True
        try:
            self._work(self._loop.time() + TURN)
            if self._pings is not None:
                self._answer_pings()
        finally:
            self._working = False
        if self._pending is not None and (self._paused or not self._cutter.stalled):
            self._end_with(self._pending)
        if self._cutter.stalled or self._paused or self._over:
            return
        if self._stopped and not self._transport.is_closing():
            self._stopped = False
            self._transport.resume_reading()
            let_nested_loop_read(self._loop, self._sock.fileno())

    def _tell_batch(self, *, wakes: bool = True) -> None:
        """Tell all messages that were cut out since the last call."""
        intake = self._intake
        batch = intake.batch
        if not batch or self._over or self._telling:
            return
        self._messages += len(batch)
        self._message_at = self._received_at
        size, intake.bytes = intake.bytes, 0
        self._telling = True
        try:
            self._receiver.burst(batch, size, wakes=wakes)
        finally:
            self._telling = False
            batch.clear()  # an exception must not be raised again at the end

    def pause(self) -> None:
        """Stop reading; what has been read already is held."""
        self._paused = True
        self._stop()

    def _stop(self) -> None:
        if self._paused:
            self._intake.direct = False
        if not self._stopped and not self._transport.is_closing():
            self._stopped = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading, with what is held first."""
        if self._paused:
            self._paused = False
            self._resumed_at = self._loop.time()
            if self._intake.link is None:
                return
            # Whoever takes a message may make room for the next ones again and again without ever giving up the loop.
            again, self._intake.direct = self._working or self._is_next, True
            self._queue()
            if not again:
                self._let_go()

    def abort(self) -> None:
        """Free the socket now. Messages that were read before are still reported."""
        if not self._over:
            self._tell_held()
            self._over = True
        self._intake.direct = False
        self._cutter.over = True
        if self._is_next:
            self._rota.leave(self)
        super().abort()
        self._outlet.drain()

    def _tell_held(self) -> None:
        """Report the held messages even if none is read; they are few, and at most one batch is decompressed."""
        self._tell_batch()
        intake, cutter = self._intake, self._cutter
        if intake.link is None or self._working:
            return
        paused, until = not intake.direct, self._loop.time() + LAST_TURN
        intake.direct = self._working = True
        while cutter.stalled and self._loop.time() < until:
            cutter.feed(b"")
            size = intake.bytes
            self._tell_batch()
            intake.direct = True  # to pause means nothing any more
            if paused and self._packer is not None and size:
                break  # what waits may be a thousand times as large
        self._working = False

    def take_control(self, opcode: int, payload: bytes) -> None:
        """Handle a PING or a PONG."""
        if self._over:
            return
        if opcode == PING:
            if self._pings is None or len(self._pings) == ANSWERED:
                self._pings = []
            self._pings.append(payload)
        else:
            self._tell_batch(wakes=False)
            self._receiver.pong(payload)

    def _answer_pings(self) -> None:
        """Answer the PINGs of a read, of many only the last ones (RFC 6455 5.5.3)."""
        if self._cutter.stalled and not self._paused:
            return  # there may be more
        pings, self._pings = self._pings, None
        for payload in pings or ():
            if not self._over:
                self._answer_ping(payload)

    def take_close(self, payload: bytes) -> None:
        """Handle a CLOSE; nothing is read after it."""
        if self._over:
            return
        if len(payload) == 1:
            self.take_breach(CloseCode.PROTOCOL_ERROR, "a CLOSE of one byte (RFC 6455 5.5.1)")
            return
        code = int.from_bytes(payload[:2])
        if payload and not is_code(code):
            why = f"the peer sent {code}, which is not for the wire (RFC 6455 7.4)"
            self.take_breach(CloseCode.PROTOCOL_ERROR, why)
            return
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            self.take_breach(CloseCode.INVALID_DATA, "the reason of a CLOSE is not UTF-8 (RFC 6455 5.5.1)")
            return
        self._answer_pings()
        self._finish(self._closed(code, reason), wakes=False)

    def take_breach(self, code: int, why: str) -> None:
        """Read no more, and tell the end when the program has had a moment to answer what came before."""
        if not self._over and self._leaving is None:
            if code != CloseCode.MESSAGE_TOO_BIG:  # which is a limit of ours
                why = f"the peer broke the protocol: {why}"
            self._leaving = self._loop.call_later(LAST_ANSWERS, self._give_up, code, why)

    def _give_up(self, code: int, why: str) -> None:
        self._leaving = None
        if not self._over:
            self._finish(self._refuse(CloseCode(code), why))
            self.wake()

    def lost(self, error: Exception | None, *, wakes: bool = True) -> None:
        """Handle the loss of the socket, after all data read before; without `wakes`, `wake` follows."""
        self._outlet.drain()
        if self._over or (self._cutter.over and self._leaving is not None):
            return  # a CLOSE or a violation already ended the connection
        end = self._lost_with(error)
        if self._intake.link is None or (self._cutter.stalled and self._intake.direct):
            self._pending = end  # what is left takes its turns first
        else:
            self._end_with(end, wakes=wakes)

    def _end_with(self, end: End, *, wakes: bool = False) -> None:
        """Tell what is held, and the end unless a CLOSE or a breach stands in that."""
        self._tell_held()
        self._finish(end, wakes=wakes)

    def _finish(self, end: End, *, wakes: bool = True) -> None:
        """Tell the end, after what came before."""
        self._tell_batch(wakes=wakes)
        self._pending = None
        if not self._over:
            self._stop()
            self._end(end, wakes=wakes)


def is_code(code: int) -> bool:
    """Return whether a CLOSE may carry `code` (RFC 6455 7.4; those from 3000 on are not ours to judge)."""
    return code >= 3000 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
