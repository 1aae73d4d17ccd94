"""One WebSocket connection of the fault server, and its controls.

Left alone it is a correct server: it answers pings and CLOSE, checks what the client sends and, unless told
otherwise, echoes. Each method breaks one thing from then on. Exactly those methods are coroutines that may have to
wait for the client to read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Literal

from resilient_ws.testing.checks import check_range
from resilient_ws.testing.server.ledger import numbered
from resilient_ws.testing.server.script import Drop
from resilient_ws.testing.server.session import Session
from resilient_ws.testing.server.wire import RSV1, Message, Opcode, encode_close, encode_frame

_MASK = b"\x01\x02\x03\x04"


class AppPings:
    """The ping messages that `FaultConnection.app_pings` sends.

    Attributes:
        sent: How many pings went out.
        answered: How many answers came.
    """

    def __init__(self, connection: FaultConnection) -> None:
        self.sent = 0
        self.answered = 0
        self._connection = connection
        self._stopped = False

    def __repr__(self) -> str:
        return f"<AppPings {self.sent} sent, {self.answered} answered>"

    @property
    def is_running(self) -> bool:
        """Whether pings still go out: not after `stop`, and not on a connection that is being ended."""
        return not self._stopped and self._connection.is_open and not self._connection.close_sent

    def stop(self) -> None:
        """Send no more, and expect no answer."""
        self._stopped = True


def _matches(wanted: Message | Callable[[Message], bool], message: Message) -> bool:
    return wanted(message) if callable(wanted) else wanted == message


class FaultConnection(Session):
    """A connection that the server has accepted; made by `FaultServer`.

    Attributes:
        number: 1 for the first one accepted.
        request: The handshake request.
        subprotocol: The subprotocol that the response named, or `None`.
        opened_at: When the response was written, seconds by the clock of the loop.
        close_received: Whether the client's CLOSE has come.
        close_code: What it said; `None` before, and where it was empty.
        close_reason: What it said; `""` before, and where it was empty.
        sent_close: The code of the CLOSE that was sent; `None` for none or an empty one.
        ended_by: `"fin"` or `"rst"` by the client, `"server"`, or `None` while the socket is there.
        pings: Each PING that came, with its time.
        pongs: Each PONG that came, with its time.
        received: How many messages have come.
        unread_dropped: How many of them `recv` can no longer return.
    """

    # ---- messages

    async def send(self, message: Message) -> None:
        """Send one message, compressed where that was agreed; wait while the client does not read.

        Raises:
            ConnectionResetError: The connection is over.
        """
        await self._write(self._encode_message(message))

    async def recv(self) -> Message:
        """Return the next message from the client; ping, pong and CLOSE are not messages.

        Raises:
            ConnectionResetError: The connection is over, or the client has sent CLOSE, and all was returned.
        """
        while not self._unread:
            if not self.is_open or self.close_received:
                raise ConnectionResetError(f"connection {self.number} is over")
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield each message until the connection is over."""
        try:
            while True:
                yield await self.recv()
        except ConnectionResetError:
            return

    async def flood(
        self, count: int | None = None, *, seconds: float | None = None, size: int = 0, start: int = 0
    ) -> int:
        """Send numbered text messages as fast as the client takes them; return how many.

        Args:
            count: How many; `None`: no limit.
            seconds: For how long; `None`: no limit. At least one of the two is needed.
            size: The least length of each, in characters.
            start: The first number.

        Raises:
            ValueError: Neither `count` nor `seconds` is given.
        """
        if count is None and seconds is None:
            raise ValueError("flood needs count (messages) or seconds, both are None")
        end = None if seconds is None else self._loop.time() + seconds
        sent = 0
        while self.is_open and (count is None or sent < count):
            if end is not None and self._loop.time() >= end:
                break
            try:
                await self.send(numbered(start + sent, size))
            except ConnectionResetError:
                break
            sent += 1
            if sent % 64 == 0:
                await asyncio.sleep(0)
        return sent

    async def fragmented(
        self, message: Message, *, parts: int = 3, between: Iterable[bytes] = (), pause: float = 0.0
    ) -> None:
        """Send one message in several frames, uncompressed.

        Args:
            message: The message.
            parts: How many frames, at least 1; some are empty where the message is too short.
            between: A PING with each of these payloads goes after the first frame, the second, and so on.
            pause: Seconds between two frames.
        """
        opcode, data = (
            (Opcode.TEXT, message.encode()) if isinstance(message, str) else (Opcode.BINARY, message)
        )
        if parts < 1:
            raise ValueError(f"parts must be at least 1, not {parts}")
        pings = iter(between)
        step = -(-len(data) // parts)
        for part in range(parts):
            piece = data[part * step : (part + 1) * step]
            kind = opcode if part == 0 else Opcode.CONTINUATION
            await self._write(self._encode(kind, piece, fin=part == parts - 1))
            ping = next(pings, None)
            if ping is not None:
                self.ping(ping)
            if pause and part < parts - 1:
                await asyncio.sleep(pause)

    # ---- control frames

    def ping(self, payload: bytes = b"") -> None:
        """Send a PING; over 125 bytes it is an invalid one."""
        self._write_now(self._encode(Opcode.PING, payload))

    def pong(self, payload: bytes = b"") -> None:
        """Send an unsolicited PONG."""
        self._write_now(self._encode(Opcode.PONG, payload))

    async def ping_flood(
        self,
        count: int | None = None,
        payload: bytes | Callable[[int], bytes] = b"flood",
        *,
        seconds: float | None = None,
        burst: int = 100,
    ) -> int:
        """Send PINGs as fast as the client takes them; return how many.

        A client may answer only the last PING of those that it has read (RFC 6455 section 5.5.3).

        Args:
            count: How many; `None`: no limit.
            payload: The payload of each, or a function of its number, from 0 on. `b""` makes the shortest PINGs,
                two bytes each.
            seconds: For how long; `None`: no limit. At least one of the two is needed.
            burst: How many are written at once, at least 1: 60,000 empty ones fill a read of 120 KiB.

        Raises:
            ValueError: Neither `count` nor `seconds` is given, or `burst` is below 1.
        """
        if count is None and seconds is None:
            raise ValueError("ping_flood needs count (PINGs) or seconds, both are None")
        check_range("burst", burst, 1)
        end = None if seconds is None else self._loop.time() + seconds
        sent = 0
        while self.is_open and (count is None or sent < count) and (end is None or self._loop.time() < end):
            size = burst if count is None else min(burst, count - sent)
            if isinstance(payload, bytes):
                block = self._encode(Opcode.PING, payload) * size
            else:
                block = b"".join(self._encode(Opcode.PING, payload(sent + i)) for i in range(size))
            try:
                await self._write(block)
            except ConnectionResetError:
                break
            sent += size
            await asyncio.sleep(0)
        return sent

    def answer_pings(self) -> None:
        """Answer each PING at once, as RFC 6455 section 5.5.2 wants; the default."""
        self._pong, self._pong_delay = self._answer_ping, 0.0

    def stop_answering_pings(self) -> None:
        """Answer no PING from now on."""
        self._pong = self._ignore_ping

    def delay_pongs(self, seconds: float) -> None:
        """Answer each PING `seconds` after it came."""
        self._pong, self._pong_delay = self._answer_ping, seconds

    def wrong_pongs(self, payload: bytes = b"not yours") -> None:
        """Answer each PING with a PONG that has another payload."""
        self._pong = lambda _: self._write_auto(self._encode(Opcode.PONG, payload))

    def pong_only_last(self, every: float = 0.05) -> None:
        """Answer only the last PING of each `every` seconds, as RFC 6455 section 5.5.3 allows."""
        self._pong, self._pong_delay = self._answer_last_ping, every

    # ---- faults in what is sent

    def raw(self, data: bytes) -> None:
        """Write any bytes, even into an unfinished frame."""
        self._link.write(data)

    def frame(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        mask: bytes | None = None,
        declared: int | None = None,
    ) -> None:
        """Write any frame; the arguments are those of `encode_frame`."""
        self._write_now(encode_frame(opcode, payload, fin=fin, rsv=rsv, mask=mask, declared=declared))

    def invalid_utf8(self) -> None:
        """Send a TEXT message that is not UTF-8."""
        self.frame(Opcode.TEXT, b"before \xc3\x28 after")

    def reserved_bits(self, rsv: int = 7) -> None:
        """Send a TEXT frame with reserved bits set that no extension defines."""
        self.frame(Opcode.TEXT, b"reserved", rsv=rsv)

    def reserved_opcode(self, opcode: int = 3) -> None:
        """Send a frame with an opcode that is not assigned: 3 to 7 or 11 to 15."""
        self.frame(opcode, b"opcode")

    def masked_frame(self, payload: bytes = b"masked", *, opcode: int = Opcode.TEXT) -> None:
        """Send one masked frame, which a server must not (RFC 6455 section 5.1)."""
        self.frame(opcode, payload, mask=_MASK)

    def mask_frames(self, mask: bool = True) -> None:
        """Mask each frame sent from now on, also echoes, PONGs and CLOSE, which a server must not."""
        self._mask = _MASK if mask else None

    async def dribble(
        self,
        message: Message,
        *,
        interval: float = 0.02,
        chunk: int = 1,
        stop_after: int | None = None,
    ) -> None:
        """Send one message a few bytes at a time, each piece a TCP segment of its own.

        No other frame fits into an unfinished one: what the server writes meanwhile, PONGs included, waits until the
        frame is complete. A frame that is never finished holds it back for good.

        Args:
            message: The message.
            interval: Seconds between two pieces.
            chunk: Bytes per piece, at least 1; the header counts.
            stop_after: Bytes after which nothing more comes, the socket stays; `None`: the whole frame.

        Raises:
            ConnectionResetError: The connection is over.
            RuntimeError: Another frame is unfinished.
            ValueError: `interval` or `stop_after` is negative, or `chunk` is below 1.
        """
        check_range("interval", interval, 0)
        check_range("chunk", chunk, 1)
        data = self._encode_message(message)
        whole = len(data)
        if stop_after is not None:
            check_range("stop_after", stop_after, 0)
            data = data[:stop_after]
        if self._unfinished:
            raise RuntimeError("a frame is unfinished on this connection: no second one can begin")
        self._unfinished = bool(data)
        for start in range(0, len(data), chunk):
            if start:
                await asyncio.sleep(interval)
            if not self.is_open:
                raise ConnectionResetError(f"connection {self.number} is over")
            self._link.write(data[start : start + chunk])
            await self._link.drain()
        if len(data) == whole:
            self._finish_frame()

    async def oversize(self, size: int, *, header_only: bool = False, parts: int = 1) -> None:
        """Send a BINARY message of `size` bytes, to be over the client's limit.

        Args:
            size: Its length in bytes.
            header_only: Announce it and send nothing of it.
            parts: In how many frames, at least 1: each may be below a limit that the message is above.

        Raises:
            ConnectionResetError: The connection is over.
            ValueError: `parts` is below 1.
        """
        if header_only:
            self.frame(Opcode.BINARY, declared=size)
            return
        check_range("parts", parts, 1)
        step = -(-size // parts)
        for part in range(parts):
            length = max(0, min(step, size - part * step))
            opcode = Opcode.CONTINUATION if part else Opcode.BINARY
            head = encode_frame(opcode, fin=part == parts - 1, declared=length)
            await self._write(head + bytes(min(65536, length)))
            for start in range(65536, length, 65536):
                await self._write(bytes(min(65536, length - start)))

    async def decompression_bomb(self, size: int = 64 << 20) -> int:
        """Send a BINARY message that is small on the wire and `size` bytes decompressed; return its wire size.

        Raises:
            RuntimeError: permessage-deflate was not agreed on this connection.
        """
        if self._codec is None:
            raise RuntimeError(
                "a decompression bomb needs permessage-deflate: Accept(deflate=Deflate()), offered"
            )
        parts: list[bytes] = []
        for part in self._codec.compress_zeros(size):
            parts.append(part)
            await asyncio.sleep(0)
        payload = b"".join(parts)
        await self._write(encode_frame(Opcode.BINARY, payload, rsv=RSV1))
        return len(payload)

    def close_mid_frame(self, drop: Drop = "fin") -> None:
        """Send the first half of a frame, then lose the connection."""
        self.frame(Opcode.TEXT, b"half a fra", declared=20)
        self.drop(drop)

    # ---- a server with rules of its own

    def app_pings(
        self,
        message: Message | Callable[[int], Message] = "ping",
        *,
        every: float = 1.0,
        answer: Message | Callable[[Message], bool] | None = None,
        within: float | None = None,
        code: int | None = 4000,
        reason: str = "no answer to a ping",
    ) -> AppPings:
        """Send ping *messages* of the server's own, and close where they are not answered.

        The pings stop with the connection, or with `AppPings.stop`.

        Args:
            message: The message, or a function of the number of the ping, from 0 on.
            every: Seconds between two pings, above 0; the first one goes out at once.
            answer: The message that answers a ping, or a predicate. `None`: answers are not looked for. Answers
                are recorded as messages and not echoed.
            within: Seconds in which the answer must come; then the connection is closed. `None`: no limit.
            code: The code of that CLOSE.
            reason: Its reason.

        Raises:
            ValueError: `every` or `within` is not above 0, or `within` is given without `answer`.
        """
        check_range("every", every, 0.001)
        if within is not None:
            check_range("within", within, 0.001)
            if answer is None:
                raise ValueError("within needs answer: the message that answers a ping, or a predicate")
        pings = AppPings(self)
        missed: deque[asyncio.TimerHandle] = deque()

        def ask() -> None:
            if not pings.is_running:
                return
            self._write_auto(self._encode_message(message(pings.sent) if callable(message) else message))
            pings.sent += 1
            if within is not None:
                missed.append(self._later(within, miss))
            self._later(every, ask)

        def miss() -> None:
            if pings.is_running:
                self.close(code, reason)

        def hear(got: Message) -> bool:
            if not pings.is_running or answer is None or not _matches(answer, got):
                return False
            pings.answered += 1
            if missed:
                self._cancel(missed.popleft())
            return True

        self._triggers.append(hear)
        ask()
        return pings

    def close_on(
        self,
        match: Message | Callable[[Message], bool],
        code: int | None = 1002,
        reason: str = "",
        *,
        then: Literal["wait", "fin", "rst", "hold"] = "wait",
    ) -> None:
        """Close as soon as a certain message arrives: a message that the server cannot bear.

        That message is recorded, what comes behind it is not: the server has stopped reading messages.

        Args:
            match: The message, or a predicate.
            code: The code of the CLOSE, as for `close`.
            reason: Its reason.
            then: As for `close`.
        """

        def trigger(message: Message) -> bool:
            if not _matches(match, message):
                return False
            self._refuse(code, reason, then)
            return True

        self._triggers.append(trigger)

    def close_over(
        self, messages: int, per: float = 1.0, *, code: int | None = 1008, reason: str = "too many messages"
    ) -> None:
        """Close as soon as more messages than allowed have come: a server with a rate limit.

        The message over the limit is recorded, what comes behind it is not.

        Args:
            messages: How many are allowed in any `per` seconds, at least 0.
            per: Seconds, above 0.
            code: The code of the CLOSE.
            reason: Its reason.

        Raises:
            ValueError: `messages` or `per` is out of range.
        """
        check_range("messages", messages, 0)
        check_range("per", per, 0.001)
        times: deque[float] = deque()

        def trigger(message: Message) -> bool:
            del message
            now = self._loop.time()
            times.append(now)
            while times[0] <= now - per:
                times.popleft()
            if len(times) <= messages:
                return False
            self._refuse(code, reason, "wait")
            return True

        self._triggers.append(trigger)

    def _refuse(self, code: int | None, reason: str, then: Literal["wait", "fin", "rst", "hold"]) -> None:
        self._refusing = True
        self.close(code, reason, then=then)

    # ---- ending

    def close(
        self,
        code: int | None = 1000,
        reason: str | bytes = "",
        *,
        then: Literal["wait", "fin", "rst", "hold"] = "wait",
    ) -> None:
        """Send a CLOSE frame.

        Args:
            code: 0 to 65,535, valid or not; `None`: an empty CLOSE frame.
            reason: As bytes it may be no UTF-8; over 123 bytes the frame is an invalid one.
            then: `"wait"`: close the socket when the client has answered; `"fin"` or `"rst"`: lose it at
                once; `"hold"`: keep it even after the client's answer, so that the client has to close it.
        """
        self._send_close(code, encode_close(code, reason))
        if then in ("fin", "rst"):
            self.drop("fin" if then == "fin" else "rst")
        elif then == "hold":
            self._keep_socket = self._link.keep_after_eof = True
        elif self.close_received:
            self._link.fin()

    def close_later(
        self,
        seconds: float,
        code: int | None = 1000,
        reason: str = "",
        *,
        then: Literal["wait", "fin", "rst", "hold"] = "wait",
    ) -> None:
        """Send a CLOSE frame after so many seconds, unless one was sent by then; the rest is as for `close`."""
        check_range("seconds", seconds, 0)

        def act() -> None:
            if self.is_open and not self._close_sent:
                self.close(code, reason, then=then)

        self._later(seconds, act)

    def drop(self, drop: Drop) -> None:
        """Lose the connection without a CLOSE frame: `fin`, `rst` or `go_silent`."""
        {"fin": self.fin, "rst": self.rst, "silent": self.go_silent}[drop]()

    def fin(self) -> None:
        """End TCP in order, without a CLOSE frame; what was written before still goes out."""
        self._link.fin()
        self._news.set()

    def half_close(self) -> None:
        """Send FIN and go on reading: nothing can be sent any more."""
        self._link.half_close()

    def rst(self) -> None:
        """Reset the TCP connection; what was written and not sent is gone."""
        self._link.rst()
        self._news.set()

    def go_silent(self, *, discard: bool = False) -> None:
        """Send nothing more, not even a PONG, a CLOSE or a FIN; the kernel still acknowledges.

        Args:
            discard: Whether what arrives from now on is also thrown away instead of recorded.
        """
        self._link.muted = True
        self._discarding = discard

    def wake(self) -> None:
        """End `go_silent`; what was to be sent meanwhile is not made up for."""
        self._link.muted = self._discarding = False

    def stop_reading(self) -> None:
        """Leave what arrives in the kernel, so that the client's writes come to a halt."""
        self._link.set_reading(False)

    def start_reading(self) -> None:
        """End `stop_reading`."""
        self._link.set_reading(True)

    def ignore_close(self, ignore: bool = True) -> None:
        """Answer no CLOSE frame and no FIN of the client; keep the socket."""
        self._answer_close = not ignore
        self._link.keep_after_eof = ignore
