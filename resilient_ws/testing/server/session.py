"""The automatic behaviour of a fault-server connection: read frames, answer, echo, record.

Knows the link beneath it and the recorder that keeps what it got; nothing of handshakes or scripts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from resilient_ws.testing.link import Link
from resilient_ws.testing.server.deflate import Codec
from resilient_ws.testing.server.handshake import Request
from resilient_ws.testing.server.ledger import Ping
from resilient_ws.testing.server.script import Accept, Answer
from resilient_ws.testing.server.wire import (
    RSV1,
    Assembler,
    Frame,
    FrameParser,
    Message,
    Opcode,
    WireError,
    check_client_frame,
    decode_close,
    encode_close,
    encode_frame,
)

UNREAD_LIMIT = 10_000
"""How many messages wait for `recv`; beyond it the oldest go and `unread_dropped` counts them."""


class Recorder(Protocol):
    """Who keeps what the connections got."""

    max_message_size: int
    keep: int

    def record_message(self, connection: int, message: Message) -> None:
        """Keep one message."""

    def record_violation(self, connection: int, text: str) -> None:
        """Keep one breach of the protocol by the client."""

    def notify(self) -> None:
        """Something has changed that a test may be waiting for."""


class Session:
    """The automatic half of `FaultConnection`."""

    def __init__(
        self,
        number: int,
        request: Request,
        answer: Answer,
        accept: Accept,
        link: Link,
        recorder: Recorder,
        echo: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.number = number
        self.request = request
        self.subprotocol = answer.subprotocol
        self.opened_at = self._loop.time()
        self.close_received = False
        self.close_code: int | None = None
        self.close_reason = ""
        self.sent_close: int | None = None
        self.ended_by: Literal["fin", "rst", "server"] | None = None
        self.pings: deque[Ping] = deque(maxlen=recorder.keep)
        self.pongs: deque[Ping] = deque(maxlen=recorder.keep)
        self.received = 0
        self.unread_dropped = 0
        self._link = link
        self._recorder = recorder
        self._codec = None if answer.agreement is None else Codec(answer.agreement)
        self._parser = FrameParser(recorder.max_message_size)
        self._assembler = Assembler(recorder.max_message_size, self._codec)
        self._unread: deque[Message] = deque()
        self._news = asyncio.Event()
        self._echo = echo
        self._answer_close = accept.answer_close
        link.keep_after_eof = not accept.answer_close
        self._pong: Callable[[bytes], None] = self._answer_ping if accept.answer_pings else self._ignore_ping
        self._pong_delay = 0.0
        self._last_ping: bytes | None = None
        self._close_sent = False
        self._keep_socket = False
        self._discarding = False
        self._refusing = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._mask: bytes | None = None
        self._unfinished = False
        self._behind: list[bytes] = []
        self._triggers: list[Callable[[Message], bool]] = []

    def __repr__(self) -> str:
        state = "open" if self.is_open else f"ended by {self.ended_by}"
        return f"<{type(self).__name__} {self.number} {state}, {self.received} received>"

    # ---- state

    @property
    def is_open(self) -> bool:
        """Whether TCP is connected and the server has not begun to end it."""
        return not self._link.ending

    @property
    def close_sent(self) -> bool:
        """Whether the server has sent a CLOSE, with or without a code."""
        return self._close_sent

    @property
    def compressed(self) -> bool:
        """Whether permessage-deflate was agreed."""
        return self._codec is not None

    @property
    def buffered(self) -> int:
        """The bytes written by the server that its kernel has not taken yet."""
        return self._link.buffered

    async def wait_ended(self, timeout: float | None = 5.0) -> None:
        """Wait until the socket is closed.

        Args:
            timeout: Seconds; `None`: no limit.

        Raises:
            TimeoutError: It is still there after `timeout`.
        """
        async with asyncio.timeout(timeout):
            await self._link.lost.wait()

    # ---- what the link tells

    def link_received(self, data: bytes) -> None:
        """Take what arrived."""
        if self._discarding:
            return
        try:
            for frame in self._parser.feed(data):
                self._take(frame)
        except WireError as error:
            self._recorder.record_violation(self.number, str(error))
            self._discarding = True
            self._close_for(error)
        self._news.set()
        self._recorder.notify()

    def link_ended(self, by_peer: str | None) -> None:
        """Note the end and stop every timer."""
        self.ended_by = "fin" if by_peer == "fin" else "rst" if by_peer == "rst" else "server"
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._behind.clear()
        self._news.set()
        self._recorder.notify()

    # ---- frames

    def _take(self, frame: Frame) -> None:
        check_client_frame(frame)
        if frame.opcode == Opcode.PING:
            self.pings.append(Ping(self._loop.time(), frame.payload))
            self._pong(frame.payload)
        elif frame.opcode == Opcode.PONG:
            self.pongs.append(Ping(self._loop.time(), frame.payload))
        elif frame.opcode == Opcode.CLOSE:
            self._take_close(frame.payload)
        elif self.close_received:
            raise WireError(1002, "a data frame after CLOSE")
        else:
            message = self._assembler.add(frame)
            if message is not None:
                self._take_message(message)

    def _take_message(self, message: Message) -> None:
        if self._refusing:
            return
        self.received += 1
        self._recorder.record_message(self.number, message)
        if any(trigger(message) for trigger in self._triggers):
            return
        if self._echo:
            if not self._close_sent:
                self._write_auto(self._encode_message(message))
            return
        if len(self._unread) >= UNREAD_LIMIT:
            self._unread.popleft()
            self.unread_dropped += 1
        self._unread.append(message)

    def _take_close(self, payload: bytes) -> None:
        if self.close_received:
            raise WireError(1002, "a second CLOSE")
        self.close_code, self.close_reason = decode_close(payload)
        self.close_received = True
        if self._answer_close and not self._close_sent:
            self._send_close(self.close_code, encode_close(self.close_code))
        if self._close_sent and not self._keep_socket and not self._link.muted:
            self._link.fin()

    def _close_for(self, error: WireError) -> None:
        if self._answer_close and not self._link.muted:
            if not self._close_sent:
                self._send_close(error.code, encode_close(error.code, error.reason))
            self._link.fin()

    # ---- pings

    def _ignore_ping(self, payload: bytes) -> None:
        del payload

    def _answer_ping(self, payload: bytes) -> None:
        frame = self._encode(Opcode.PONG, payload)
        if self._pong_delay:
            self._later(self._pong_delay, lambda: self._write_auto(frame))
        else:
            self._write_auto(frame)

    def _answer_last_ping(self, payload: bytes) -> None:
        if self._last_ping is None:
            self._later(self._pong_delay, self._flush_last_ping)
        self._last_ping = payload

    def _flush_last_ping(self) -> None:
        if self._last_ping is not None:
            self._write_auto(self._encode(Opcode.PONG, self._last_ping))
            self._last_ping = None

    # ---- writing

    def _encode_message(self, message: Message) -> bytes:
        text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else bytes(message)
        opcode = Opcode.TEXT if text else Opcode.BINARY
        if self._codec is None:
            return self._encode(opcode, data)
        return self._encode(opcode, self._codec.compress(data), rsv=RSV1)

    def _encode(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
        return encode_frame(opcode, payload, fin=fin, rsv=rsv, mask=self._mask)

    def _write_auto(self, data: bytes) -> None:
        self._write_now(data)
        self._link.hold_reading()

    def _write_now(self, data: bytes) -> None:
        if self._unfinished:
            self._behind.append(data)
        else:
            self._link.write(data)

    async def _write(self, data: bytes) -> None:
        if self.is_open:
            self._write_now(data)
            await self._link.drain()
        if not self.is_open:
            raise ConnectionResetError(f"connection {self.number} is over")

    def _send_close(self, code: int | None, payload: bytes) -> None:
        self._write_now(self._encode(Opcode.CLOSE, payload))
        self._close_sent = True
        self.sent_close = code

    def _finish_frame(self) -> None:
        self._unfinished = False
        behind, self._behind = self._behind, []
        for data in behind:
            self._link.write(data)

    def _later(self, delay: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        def fire() -> None:
            self._timers.discard(timer)
            act()

        timer = self._loop.call_later(delay, fire)
        self._timers.add(timer)
        return timer

    def _cancel(self, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._timers.discard(timer)
