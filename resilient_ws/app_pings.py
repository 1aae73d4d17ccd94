"""The pings and replies of the application's own protocol on one connection (`Heartbeat.app`).

They are messages, so a ping waits where the link has no room; `resilient_ws.pinger` tells the heartbeat what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from resilient_ws.events import Message
from resilient_ws.options import Heartbeat
from resilient_ws.writer import Writer


class AppPings:
    """Asks, and recognises the answers.

    Args:
        heartbeat: One of `Heartbeat.app`; may be replaced.
        writer: The way out of the connection.
        clock: Seconds of the event loop.
        stopwatch: Seconds of the clock for round trips.
        told: Called when a ping has been handed to the link, and when one was asked for and waits.
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
        "_stopwatch",
        "_told",
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
        failed: Callable[[str, BaseException], None],
    ) -> None:
        self.heartbeat = heartbeat
        self._writer = writer
        self._clock = clock
        self._stopwatch = stopwatch
        self._told = told
        self._failed = failed
        self.number = 0
        self.stands = False
        self.written_at = 0.0
        self.data_at = clock()

    @property
    def answered(self) -> int:
        """The number of the newest ping that a reply can answer."""
        return self.number - self.stands

    def ask(self) -> None:
        """Writes a ping now or as soon as there is room; one that waits for room already is enough."""
        if not self.stands:
            self._write()
        if self.stands:
            self._told()

    def _write(self) -> None:
        message = self.heartbeat.message
        try:
            made = message() if callable(message) else message
            if not isinstance(made, str | bytes | bytearray | memoryview):
                raise TypeError(f"Heartbeat.app message must be str or bytes-like, got {type(made).__name__}")
            if isinstance(made, str):
                made.encode()  # a lone surrogate is found here, not when the ping is written
            else:
                made = bytes(made)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the program's code must not end the timer
            self._failed("heartbeat", error)
            return  # no ping has left, so nothing is owed; the monitor asks again
        self.number += 1
        self.stands = True
        self._writer.post(made, self._has_left)

    def _has_left(self) -> None:
        self.stands = False
        self.written_at = self._stopwatch()
        self._told()

    def is_reply(self, message: Message) -> bool:
        """Whether `message` answers a ping."""
        is_reply = self.heartbeat.is_reply
        try:
            if is_reply is not None and is_reply(message):
                return True
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the program's code must not end the reader
            self._failed("heartbeat", error)
        self.note_data()
        return False

    def note_data(self) -> None:
        """A message has come that is no reply."""
        self.data_at = self._clock()
