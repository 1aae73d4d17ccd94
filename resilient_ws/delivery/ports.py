"""What delivery needs of the current connection, so that it need not know one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from resilient_ws.api.message import Message
from resilient_ws.core.in_flight import Lane


class Outlet(Protocol):
    """Takes messages, in order. Implemented by `resilient_ws.connection.writer.Writer`."""

    busy: bool
    lane: Lane
    refused: Callable[[list[Message]], None]
    doubted: Callable[[list[Message]], None]

    def write(self, message: Message, size: int) -> None:
        """Writes now; raises `ConnectionLost` where nothing was written."""

    def hold(self, message: Message, size: int) -> None:
        """Keeps a message for the next `flush`."""

    def flush(self) -> None:
        """Writes what is held."""

    def fail(self, error: BaseException) -> None:
        """Ends the connection: writing raised something else than `ConnectionLost`."""


class Confirmer(Protocol):
    """Asks the peer what it has read. Implemented by `resilient_ws.connection.pinger.Pinger`."""

    def opened(self) -> None:
        """The connection is open: asks whether the peer answers pings at all."""

    def want(self) -> None:
        """A confirmation is waited for."""

    def wrote(self) -> None:
        """Something was written, so a confirmation is due in a while."""
