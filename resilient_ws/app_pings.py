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
        written: Called when a ping has been handed to the link.
        failed: Called with where, and with what code of the program raised.

    Attributes:
        number: Of the last ping; 0 = there was none.
        stands: Whether that one still waits for room.
    """

    __slots__ = ("_failed", "_writer", "_written", "heartbeat", "number", "stands")

    def __init__(
        self,
        heartbeat: Heartbeat,
        writer: Writer,
        *,
        written: Callable[[], None],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        self.heartbeat = heartbeat
        self._writer = writer
        self._written = written
        self._failed = failed
        self.number = 0
        self.stands = False

    @property
    def answered(self) -> int:
        """The number of the newest ping that a reply can answer."""
        return self.number - self.stands

    def ask(self) -> None:
        """Writes a ping now or as soon as there is room; one that waits for room already is enough."""
        if self.stands:
            return
        message = self.heartbeat.message
        try:
            made = message() if callable(message) else message
            if not isinstance(made, str | bytes | bytearray | memoryview):
                raise TypeError(f"Heartbeat.app message must be str or bytes-like, got {type(made).__name__}")
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the program's code must not end the timer
            self._failed("heartbeat", error)
            return  # no ping has left, so nothing is owed; the monitor asks again
        self.number += 1
        self.stands = True
        self._writer.post(made if isinstance(made, str) else bytes(made), self._has_left)

    def _has_left(self) -> None:
        self.stands = False
        self._written()

    def is_reply(self, message: Message) -> bool:
        """Whether `message` answers a ping."""
        is_reply = self.heartbeat.is_reply
        try:
            return is_reply is not None and bool(is_reply(message))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the program's code must not end the reader
            self._failed("heartbeat", error)
            return False
