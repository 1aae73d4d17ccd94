"""One WebSocket connection of the fault server, and what it can be told to do.

Left alone it is a correct server: it answers pings and CLOSE, checks what the client sends and, unless told
otherwise, echoes. Each method breaks one thing from then on. Exactly those methods are coroutines that may have to
wait for the client to read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Literal

from .ledger import numbered
from .script import Drop
from .session import Session
from .wire import RSV1, Message, Opcode, encode_close, encode_frame


class FaultConnection(Session):
    """A connection that the server has accepted; made by `FaultServer`.

    Attributes:
        number: 1 for the first one accepted.
        request: The handshake request.
        subprotocol: The subprotocol that the response named, or ``None``.
        opened_at: When the response was written, seconds by the clock of the loop.
        close_received: Whether the client's CLOSE has come.
        close_code: What it said; ``None`` before, and where it was empty.
        close_reason: What it said; ``""`` before, and where it was empty.
        sent_close: The code of the CLOSE that was sent; ``None`` for none or an empty one.
        ended_by: ``"fin"`` or ``"rst"`` by the client, ``"server"``, or ``None`` while the socket is there.
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
            count: How many; ``None``: no limit.
            seconds: For how long; ``None``: no limit. At least one of the two is needed.
            size: The least length of each, in characters.
            start: The first number.

        Raises:
            ValueError: Neither ``count`` nor ``seconds`` is given.
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
            await self._write(encode_frame(kind, piece, fin=part == parts - 1))
            ping = next(pings, None)
            if ping is not None:
                self.ping(ping)
            if pause and part < parts - 1:
                await asyncio.sleep(pause)

    # ---- control frames

    def ping(self, payload: bytes = b"") -> None:
        """Send a PING; over 125 bytes it is an invalid one."""
        self._write_now(encode_frame(Opcode.PING, payload))

    def pong(self, payload: bytes = b"") -> None:
        """Send a PONG that nobody asked for."""
        self._write_now(encode_frame(Opcode.PONG, payload))

    async def ping_flood(self, count: int, payload: bytes = b"flood") -> None:
        """Send ``count`` PINGs as fast as the client takes them."""
        block = encode_frame(Opcode.PING, payload) * min(count, 100)
        for _ in range(count // 100):
            await self._write(block)
        await self._write(encode_frame(Opcode.PING, payload) * (count % 100))

    def answer_pings(self) -> None:
        """Answer each PING at once, as RFC 6455 section 5.5.2 wants; the default."""
        self._pong, self._pong_delay = self._answer_ping, 0.0

    def stop_answering_pings(self) -> None:
        """Answer no PING from now on."""
        self._pong = self._ignore_ping

    def delay_pongs(self, seconds: float) -> None:
        """Answer each PING ``seconds`` after it came."""
        self._pong, self._pong_delay = self._answer_ping, seconds

    def wrong_pongs(self, payload: bytes = b"not yours") -> None:
        """Answer each PING with a PONG that has another payload."""
        self._pong = lambda _: self._write_auto(encode_frame(Opcode.PONG, payload))

    def pong_only_last(self, every: float = 0.05) -> None:
        """Answer only the last PING of each ``every`` seconds, as RFC 6455 section 5.5.3 allows."""
        self._pong, self._pong_delay = self._answer_last_ping, every

    # ---- faults in what is sent

    def raw(self, data: bytes) -> None:
        """Write any bytes."""
        self._write_now(data)

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

    def masked_frame(self, payload: bytes = b"masked") -> None:
        """Send a masked TEXT frame, which a server must not."""
        self.frame(Opcode.TEXT, payload, mask=b"\x01\x02\x03\x04")

    async def oversize(self, size: int, *, header_only: bool = False) -> None:
        """Send a BINARY message of ``size`` bytes; with ``header_only`` announce it and send nothing of it."""
        if header_only:
            self.frame(Opcode.BINARY, declared=size)
            return
        await self._write(encode_frame(Opcode.BINARY, declared=size))
        for start in range(0, size, 65536):
            await self._write(bytes(min(65536, size - start)))

    async def decompression_bomb(self, size: int = 64 << 20) -> int:
        """Send a BINARY message that is small on the wire and ``size`` bytes decompressed; return its wire size.

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
            code: 0 to 65,535, valid or not; ``None``: an empty CLOSE frame.
            reason: As bytes it may be no UTF-8; over 123 bytes the frame is an invalid one.
            then: ``"wait"``: close the socket when the client has answered; ``"fin"`` or ``"rst"``: lose it at
                once; ``"hold"``: keep it even after the client's answer, so that the client has to close it.
        """
        self._send_close(code, encode_close(code, reason))
        if then in ("fin", "rst"):
            self.drop("fin" if then == "fin" else "rst")
        elif then == "hold":
            self._keep_socket = self._link.keep_after_eof = True
        elif self.close_received:
            self._link.fin()

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
