"""Pings and replies of the application protocol on one connection, including those of the server.

They are messages, so a ping waits where the link has no room; `resilient_ws.connection.pinger` tells the heartbeat what became of it.
User code is called here from a timer and from the socket's read callback: every exception or wrong result is reported.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Final, cast

from resilient_ws.api.message import Message
from resilient_ws.api.options import Heartbeat
from resilient_ws.connection.writer import Writer

MAX_REPLIES: Final = 64
"""Replies to pings of the server that are written in one turn of the loop, and that may wait for room; of further pings the
last one is answered, as RFC 6455 5.5.3 allows for protocol pings."""

PASSES: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What user code lets out that is not about that code: the process is to end."""


def plain(what: str, made: object) -> Message:
    """Return what user code has made as a message that can be sent, and that does not change any more.

    Raises:
        TypeError: It is neither `str` nor bytes-like.
        ValueError: It is text that UTF-8 cannot encode, or a view that was released.
    """
    if isinstance(made, str):
        made.encode()  # a lone surrogate is found here, not when it is written
        return made
    if isinstance(made, bytes | bytearray | memoryview):
        return bytes(cast("bytes", made))
    if inspect.iscoroutine(made):
        made.close()  # else Python warns that it was never awaited
    raise TypeError(f"{what} must return str or bytes-like, got {type(made).__name__}")


class AppPings:
    """Asks and recognises the answers, and answers what the server asks.

    Args:
        heartbeat: One of `Heartbeat.app` or with an `answer`; may be replaced.
        writer: The way out of the connection.
        clock: Seconds of the event loop.
        stopwatch: Seconds of the clock for round trips.
        told: Called when a ping has been handed to the link, and when one was asked for and waits.
        unable: Called when a ping was asked for, and the function that makes it has failed.
        failed: Called with where, and with what code of the program raised.

    Attributes:
        number: Of the last ping; 0 = there was none.
        stands: Whether that one still waits for room.
        written_at: When the last ping that had room was written, by `stopwatch`.
        data_at: When the last message came that is no reply; the beginning of the connection at first.
    """

    __slots__ = (
        "_clock",
        "_failed",
        "_last_reply",
        "_replies",
        "_standing",
        "_stopwatch",
        "_told",
        "_unable",
        "_writer",
        "data_at",
        "heartbeat",
        "number",
        "stands",
        "written_at",
    )

    def __init__(
        self,
        heartbeat: Heartbeat,
        writer: Writer,
        *,
        clock: Callable[[], float],
        stopwatch: Callable[[], float],
        told: Callable[[], None],
        unable: Callable[[], None],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        self.heartbeat = heartbeat
        self._writer = writer
        self._clock = clock
        self._stopwatch = stopwatch
        self._told = told
        self._unable = unable
        self._failed = failed
        self._replies = 0  # in this turn of the loop
        self._last_reply: Message | None = None  # the latest one beyond those
        self._standing = 0  # replies that wait for room
        self.number = 0
        self.stands = False
        self.written_at = 0.0
        self.data_at = clock()

    @property
    def answered(self) -> int:
        """The number of the newest ping that a reply can answer."""
        return self.number - self.stands

    def ask(self) -> None:
        """Write a ping now or as soon as there is room; one that waits for room already is enough."""
        if not self.stands:
            self._write()
        if self.stands:
            self._told()

    def _write(self) -> None:
        message = self.heartbeat.message
        try:
            made = plain("Heartbeat.app message", message() if callable(message) else message)
        except PASSES:
            raise
        except BaseException as error:  # noqa: BLE001 - user code must not end the timer
            self._failed("heartbeat", error)
            self._unable()
            return
        self.number += 1
        self.stands = True
        self._writer.post(made, self._has_left)

    def _has_left(self) -> None:
        self.stands = False
        self.written_at = self._stopwatch()
        self._told()

    def is_reply(self, message: Message) -> bool:
        """Return whether `message` answers a ping."""
        is_reply = self.heartbeat.is_reply
        try:
            if is_reply is not None:
                answer = is_reply(message)
                if answer is not False and inspect.iscoroutine(answer):
                    answer.close()
                    raise TypeError("is_reply must return a bool, got a coroutine")
                if answer:
                    return True
        except PASSES:
            raise
        except BaseException as error:  # noqa: BLE001 - user code must not end the reader
            self._failed("heartbeat", error)
        self.note_data()
        return False

    def answer(self, message: Message) -> bool:
        """Answer `message` if it is a ping of the server; return whether it was."""
        answer = self.heartbeat.answer
        if answer is None:
            return False
        try:
            made = answer(message)
            if made is None:
                return False
            reply = plain("Heartbeat answer", made)
        except PASSES:
            raise
        except BaseException as error:  # noqa: BLE001 - user code must not end the reader
            self._failed("heartbeat", error)
            return False
        if not self._replies:
            asyncio.get_running_loop().call_soon(self._turn_over)
        self._replies += 1
        if self._replies <= MAX_REPLIES:
            self._post(reply)
        else:
            self._last_reply = reply
        return True

    def _turn_over(self) -> None:
        self._replies = 0
        reply, self._last_reply = self._last_reply, None
        if reply is not None:
            self._post(reply)

    def _post(self, reply: Message) -> None:
        """Write a reply before all that waits elsewhere, as soon as the link has room."""
        if self._standing < MAX_REPLIES:
            self._standing += 1
            self._writer.post(reply, self._reply_has_left)
        else:
            self._writer.post(reply, name=self)

    def _reply_has_left(self) -> None:
        self._standing -= 1

    def note_data(self) -> None:
        """Handle a message that is not a reply."""
        self.data_at = self._clock()
