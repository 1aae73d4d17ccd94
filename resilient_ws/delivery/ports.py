"""The interfaces of the current connection that delivery uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from resilient_ws.api.message import Message
from resilient_ws.core.in_flight import FastLane


class Feed(NamedTuple):
    """What delivery hands to the writer of a connection that is open.

    Attributes:
        lane: Holds messages until the writer flushes them.
        refused: Called with what was held and was not written, since the link is dead.
        doubted: Called with what was held when writing it failed: some of it may have been written.
    """

    lane: FastLane
    refused: Callable[[list[Message]], None]
    doubted: Callable[[list[Message]], None]


class Outlet(Protocol):
    """Takes messages, in order. Implemented by `resilient_ws.connection.writer.Writer`."""

    busy: bool

    def serve(self, feed: Feed) -> None:
        """Take over the lane whose messages `flush` writes, once, when the connection is open."""

    def write(self, message: Message, size: int) -> None:
        """Write now; raise `ConnectionLost` where nothing was written."""

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
