"""The peer of a fake connection, controlled by a test, including the network between."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.message import Message, size_of
from resilient_ws.testing.checks import check_range
from resilient_ws.testing.fake.link import FRAME_HEAD, FakeLink, Frame, frame
from resilient_ws.transports.seam import Link, Receiver

RECORDS: Final = 100_000
"""Messages, pings, dials and so on that are remembered of each kind; then the oldest go."""

COMPRESSED_AT_ONCE: Final = 16 * 1024
"""Bytes up to which aiohttp compresses a message at once, and not in a thread."""


class PingAnswers(enum.Enum):
    """Which PINGs a peer answers."""

    ALL = "all"
    LATEST = "latest"
    """Only the last one of those that came within `pong_delay`, as RFC 6455 5.5.3 allows."""
    WRONG = "wrong"
    """Answer each ping, but with a wrong payload."""
    NONE = "none"


class FakePeer:
    """The other end of one connection.

    Attributes:
        endpoint: Where the client wanted to go, with the headers it sent.
        received: The messages that reached it, in order.
        pings: The payloads of the PINGs that reached it.
        pongs: The payloads of the PONGs that reached it.
        close_code: The code of the client's CLOSE; `None` until one came.
        close_reason: Its reason.
        answers_pings: Which PINGs it answers.
        pong_delay: Seconds until it does.
        answers_close: Whether it answers a CLOSE.
        on_message: Called soon after each message that reached the peer, for peers that answer; `None` for none.
        write_delay: Seconds that the client's library needs to write a message of more than 16 KiB, as if it
            compressed in a thread: a connection that ends meanwhile has not taken it. `None` = it writes at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        receiver: Receiver,
        *,
        subprotocol: str | None,
        headers: Mapping[str, str],
        limit: int,
        latency: float,
        kernel: bool,
        buffer: int,
    ) -> None:
        self.endpoint = endpoint
        self.received: deque[Message] = deque(maxlen=RECORDS)
        self.pings: deque[bytes] = deque(maxlen=RECORDS)
        self.pongs: deque[bytes] = deque(maxlen=RECORDS)
        self.close_code: int | None = None
        self.close_reason = ""
        self.answers_pings = PingAnswers.ALL
        self.pong_delay = 0.0
        self.answers_close = True
        self.on_message: Callable[[Message], object] | None = None
        self.write_delay: float | None = None
        self._loop = asyncio.get_running_loop()
        self._latency = latency
        self._buffer = buffer
        self._link = FakeLink(
            self, receiver, endpoint, subprotocol=subprotocol, headers=headers, limit=limit, kernel=kernel
        )
        self._timers: set[asyncio.Handle] = set()
        self._coming: deque[tuple[float, Frame]] = deque()  # sent, and when it arrives
        self._arrival: asyncio.TimerHandle | None = None
        self._held: deque[Frame] = deque()  # sent, and kept by a network that brings nothing
        self._going: deque[Frame] = deque()  # written by the client, not gone
        self._stands = 0  # the bytes of those
        self._writers: deque[asyncio.Future[None]] = deque()
        self._asked: deque[tuple[int, bytes]] = deque()  # PINGs not answered yet, with their numbers
        self._untaken: deque[Message] = deque(maxlen=RECORDS)
        self._takers: deque[asyncio.Future[None]] = deque()
        self._deaf = self._mute = self._congested = False
        self._sent_close = self._gone = False

    def __repr__(self) -> str:
        return f"<FakePeer at {self.endpoint}{'' if self.is_open else ', over'}>"

    @property
    def link(self) -> Link:
        """The client's end."""
        return self._link

    @property
    def is_open(self) -> bool:
        """Whether the client still holds the connection, and neither side has ended it."""
        return not (self._link.over or self._gone or self._sent_close)

    @property
    def paused(self) -> bool:
        """Whether the client has stopped reading."""
        return self._link.paused

    @property
    def unread(self) -> int:
        """Frames that arrived at the client while it had stopped reading."""
        return self._link.unread

    # --- what a peer does ---

    def send(self, *messages: Message) -> None:
        """Send messages, `str` as TEXT and `bytes` as BINARY."""
        for message in messages:
            self._send(frame("message", message))

    async def recv(self) -> Message:
        """Wait for the next message that reached it and was not returned before."""
        while not self._untaken:
            taker: asyncio.Future[None] = self._loop.create_future()
            self._takers.append(taker)
            try:
                await taker
            finally:
                self._takers.remove(taker)
        return self._untaken.popleft()

    def ping(self, payload: bytes = b"") -> None:
        """Send a PING."""
        self._send(frame("ping", payload))

    def pong(self, payload: bytes = b"") -> None:
        """Send a PONG, whether asked for or not."""
        self._send(frame("pong", payload))

    def trickle(self, size: int = 1) -> None:
        """Send `size` bytes of a message that is never whole."""
        check_range("size", size, 1)
        self._send(Frame("part", size=size))

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send CLOSE and stop reading; `None` sends it without a code."""
        if not self._sent_close:
            self._send(Frame("close", "", code, reason, size=FRAME_HEAD + 2 + len(reason.encode())))
            self._sent_close = True

    def drop(self, cause: BaseException | None = None) -> None:
        """End the connection without a CLOSE. What is on its way arrives, what the network kept is lost.

        Args:
            cause: What the client sees; `None` = that the connection ended without a CLOSE frame.
        """
        if not self._gone:
            self._lose()
            why = cause or ConnectionLost("the connection ended without a CLOSE frame")
            self._bring(Frame("end", cause=why, size=0))

    # --- what a network does ---

    def go_silent(self) -> None:
        """Stop all traffic in both directions, silently. Data stays pending until `recover`."""
        self._deaf = self._mute = True

    def go_deaf(self) -> None:
        """Drop everything that the client writes from now on."""
        self._deaf = True

    def go_mute(self) -> None:
        """Drop everything that this peer sends from now on."""
        self._mute = True

    def congest(self) -> None:
        """Stop taking data while the kernel lives: each write of the client stays pending."""
        self._congested = True

    def recover(self) -> None:
        """End the effects of `go_silent`, `go_deaf`, `go_mute` and `congest`; pending data arrives in order."""
        self._deaf = self._mute = self._congested = False
        while self._held:
            self._bring(self._held.popleft())
        while self._going and not self._gone:
            gone = self._going.popleft()
            self._stands -= gone.size
            self._hear(gone)
        self._release(None)

    def take(self, frames: int = 1) -> None:
        """Let the first pending frame arrive, as a slow line does; the others stay pending."""
        check_range("frames", frames, 1)
        for _ in range(min(frames, len(self._going))):
            gone = self._going.popleft()
            self._stands -= gone.size
            self._hear(gone)
        if not self._going or (self._stands <= self._buffer and not self._congested):
            self._release(None)

    # --- the wire of the link ---

    def carry(self, sent: Frame, /) -> Awaitable[None] | None:
        """Take what the client writes."""
        if self._gone:
            return None
        if not (self._deaf or self._congested):
            self._hear(sent)
            return None
        self._going.append(sent)
        self._stands += sent.size
        if not self._congested and self._stands <= self._buffer:
            return None
        room = self._loop.create_future()
        self._writers.append(room)
        return room

    def delayed(self, message: Message, /) -> Awaitable[None] | None:
        """Take a message whose writing takes time; `None` where it does not."""
        if self.write_delay is None or size_of(message) <= COMPRESSED_AT_ONCE:
            return None
        written = self._loop.create_future()
        self._later(self.write_delay, lambda: self._hand_over(message, written))
        return written

    def pending(self) -> tuple[int, int | None]:
        """Bytes that stand, and how many of them are in flight."""
        return self._stands, 0 if self._congested and not self._deaf else self._stands

    def aborted(self) -> None:
        """Note that the client has freed its socket."""
        self._lose()
        self._coming.clear()
        if self._arrival is not None:
            self._arrival.cancel()

    def _hand_over(self, message: Message, written: asyncio.Future[None]) -> None:
        if written.done():
            return
        try:
            rest = self._link.hand_over(message)
        except ConnectionLost as error:
            written.set_exception(error)
            return
        if rest is None:
            written.set_result(None)
        else:
            self._writers[-1] = written

    def _lose(self) -> None:
        self._gone = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._held.clear()
        self._going.clear()
        self._release(ConnectionLost("the connection is gone"))

    def _release(self, error: Exception | None) -> None:
        writers, self._writers = self._writers, deque()
        for room in writers:
            if room.done():
                continue
            if error is None:
                room.set_result(None)
            else:
                room.set_exception(error)
                room.exception()  # retrieved, in case there is no waiter

    # --- hearing and sending ---

    def _hear(self, sent: Frame) -> None:
        if self._sent_close and sent.kind != "close":
            return
        if sent.kind == "message":
            self.received.append(sent.payload)
            self._untaken.append(sent.payload)
            for taker in self._takers:
                if not taker.done():
                    taker.set_result(None)
            if self.on_message is not None:
                self._later(0, lambda: self._tell(sent.payload))
        elif sent.kind == "close":
            self.close_code, self.close_reason = sent.code, sent.reason
            if self.answers_close:
                self.close(sent.code, sent.reason)
        else:
            assert isinstance(sent.payload, bytes)
            (self.pings if sent.kind == "ping" else self.pongs).append(sent.payload)
            if sent.kind == "ping" and self.answers_pings is not PingAnswers.NONE:
                self._answer(sent.payload)

    def _tell(self, message: Message) -> None:
        if self.on_message is not None:
            self.on_message(message)

    def _answer(self, payload: bytes) -> None:
        self._asked.append((len(self.pings), payload))
        if self.pong_delay:
            self._later(self.pong_delay, self._answer_oldest)
        else:
            self._answer_oldest()

    def _answer_oldest(self) -> None:
        number, payload = self._asked.popleft()
        rule = self.answers_pings
        if rule is PingAnswers.WRONG:
            self.pong(b"nobody sent this")
        elif rule is PingAnswers.ALL or (rule is PingAnswers.LATEST and number == len(self.pings)):
            self.pong(payload)

    def _send(self, sent: Frame) -> None:
        if self._gone or self._sent_close:
            return
        if self._mute:
            self._held.append(sent)
        else:
            self._bring(sent)

    def _bring(self, sent: Frame) -> None:
        """Let a frame arrive at the client, after those sent before."""
        due = self._loop.time() + self._latency
        self._coming.append((due, sent))
        if len(self._coming) == 1:
            self._arrival = self._loop.call_at(due, self._arrive)

    def _arrive(self) -> None:
        due = self._coming[0][0]
        frames: list[Frame] = []
        while self._coming and self._coming[0][0] <= due:
            frames.append(self._coming.popleft()[1])
        if self._coming:
            self._arrival = self._loop.call_at(self._coming[0][0], self._arrive)
        self._link.arrived(frames)

    def _later(self, delay: float, call: Callable[[], object]) -> None:
        """Call back unless the connection ends first."""

        def fire() -> None:
            self._timers.discard(timer)
            call()

        timer = self._loop.call_later(delay, fire) if delay else self._loop.call_soon(fire)
        self._timers.add(timer)
