"""One WebSocket connection on a socket opened by picows."""

# The types that picows states are partial.
# pyright: reportIncompatibleMethodOverride=false, reportUnnecessaryComparison=false

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from picows import WSTransport

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.transports.picows.listener import PicowsListener
from resilient_ws.transports.picows.opening import real_transport
from resilient_ws.transports.seam import Receiver
from resilient_ws.transports.shared.frame_writer import Mask
from resilient_ws.transports.shared.outlet import Outlet
from resilient_ws.transports.shared.stream_link import StreamLink


class PicowsLink(StreamLink):
    """A `Link` that needs no reader task.

    Args:
        connection: What picows opened.
        listener: Whom it tells.
        receiver: Whom we tell.
        endpoint: Where it leads.
        subprotocol: What the server chose, or `None`.
        headers: Of the server's answer to the handshake.
        max_message_size: Bytes, inclusive.
        mask: Masks payloads.
    """

    __slots__ = ()

    @property
    def transport(self) -> str:
        """What carries the connection, in words."""
        return "picows"

    def __init__(
        self,
        connection: WSTransport,
        listener: PicowsListener,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        subprotocol: str | None,
        headers: Mapping[str, str],
        max_message_size: int,
        mask: Mask,
    ) -> None:
        transport = real_transport(connection.underlying_transport)
        super().__init__(
            transport,
            listener.cutter,
            listener.intake,
            receiver,
            endpoint,
            # picows draws its masking keys from rand(), which can be predicted (RFC 6455 10.3).
            outlet=Outlet(transport, mask),
            subprotocol=subprotocol,
            headers=headers,
            max_message_size=max_message_size,
        )
        # It holds request and answer, four kilobytes, and has no way to let go of them.
        listener.connection = None
        listener.link = self
        assert listener.parser is not None
        _take_notice(connection)
        _take_notice(listener.parser)
        listener.take_early()
        if listener.is_gone:
            self.lost(listener.gone_with)

    def fill(self) -> None:
        """Note that the send buffer is above its high-water mark."""
        self._outlet.fill()

    def drain(self) -> None:
        """Note that the send buffer has room again, or is no longer used."""
        self._outlet.drain()


def _take_notice(connection: WSTransport) -> None:
    """Retrieve the exception with which picows ends a connection, to avoid its warning."""
    waiting = connection.wait_disconnected()
    try:
        ended: asyncio.Future[None] = waiting.send(None)
    except Exception:  # noqa: BLE001 - it is over already
        return
    ended.add_done_callback(_look)
    waiting.close()


def _look(ended: asyncio.Future[None]) -> None:
    if not ended.cancelled():
        ended.exception()
