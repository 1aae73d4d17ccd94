"""The interfaces of the current connection that delivery uses."""

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
        """Write now; raise `ConnectionLost` where nothing was written."""

    def hold(self, message: Message, size: int) -> None:
        """Keep a message for the next `flush`."""

    def flush(self) -> None:
        """Write what is held."""

    def fail(self, error: BaseException) -> None:
        """End the connection: writing raised something else than `ConnectionLost`."""


class Confirmer(Protocol):
    """Asks the peer what it has read. Implemented by `resilient_ws.connection.pinger.Pinger`."""

    def opened(self) -> None:
        """Ask a new peer whether it answers pings at all."""

    def want(self) -> None:
        """Ask for a confirmation, which a call waits for."""

    def wrote(self) -> None:
        """Something was written, so a confirmation is due in a while."""
