"""The direct link on aiohttp: it parses and writes frames itself, without aiohttp's queues and tasks.

It is used where `resilient_ws.transports.aiohttp.probe` finds that aiohttp has what it needs. Measured with
`python -m benchmarks`; the figures are in `docs/performance.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp.connector import Connection

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.transports.aiohttp.response import DirectResponse
from resilient_ws.transports.seam import Receiver
from resilient_ws.transports.shared.carriers import carried_by
from resilient_ws.transports.shared.frame_cutter import Cutter
from resilient_ws.transports.shared.outlet import Outlet, mask
from resilient_ws.transports.shared.read_buffers import READ, scratch
from resilient_ws.transports.shared.stream_link import StreamLink

NARROW: Final = 32 * 1024
"""Bytes that one read takes in at most where messages are unpacked: that may take a thousand times as long."""


class _Between(asyncio.BufferedProtocol):
    """Stands between the socket and aiohttp's protocol, to know where a read begins and ends, and how it all ends.

    All connections read into one buffer. asyncio would make one of 256 KiB for each read, and a C library may ask the system
    for each. With TLS all that has been decrypted has to fit into the buffer: of what does not, asyncio and uvloop lose what
    has come before an end of the stream. They say how much that is; without TLS their hint means nothing.
    """

    __slots__ = ("_http", "_link", "_outlet")

    def __init__(self, link: DirectLink, http: Any, outlet: Outlet) -> None:
        self._link = link
        self._outlet = outlet
        self._http = http

    def pause_writing(self) -> None:
        self._outlet.fill()
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._outlet.drain()
        self._http.resume_writing()

    def eof_received(self) -> bool | None:
        self._http.eof_received()
        # asyncio would first wait for the send buffer, which may never drain.
        self._link.lost(None, wakes=False)
        self._link.wake()
        return self._link.keeps_socket

    def connection_lost(self, exc: Exception | None) -> None:
        self._outlet.drain()
        self._link.lost(exc, wakes=False)
        asyncio.get_running_loop().call_soon(self._http.connection_lost, exc)  # the program is told first
        self._link.wake()


class _Wire(_Between):
    """Takes messages as they are."""

    __slots__ = ("_began", "_buffer", "_cutter", "_ended", "_scratch")

    def __init__(self, link: DirectLink, cutter: Cutter, http: Any, outlet: Outlet) -> None:
        super().__init__(link, http, outlet)
        self._cutter = cutter
        self._buffer = self._scratch = scratch(READ)
        self._began, self._ended = link.read_begins, link.read_ends

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = self._cutter.room(sizehint, self._scratch)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._began()
        buffer, self._buffer = self._buffer, self._scratch  # an idle connection is to hold little
        self._cutter.read(buffer, nbytes)
        self._ended()


class _NarrowWire(_Between):
    """Takes so little in one read that to unpack it does not hold up the event loop."""

    __slots__ = ("_began", "_buffer", "_cutter", "_ended", "_is_tls", "_scratch")

    def __init__(self, link: DirectLink, cutter: Cutter, http: Any, outlet: Outlet) -> None:
        super().__init__(link, http, outlet)
        self._cutter = cutter
        self._buffer = self._scratch = scratch(NARROW)
        self._is_tls = link.is_tls
        self._began, self._ended = link.read_begins, link.read_ends

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = self._cutter.room(sizehint if self._is_tls else 0, self._scratch)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._began()
        data, self._buffer = bytes(self._buffer[:nbytes]), self._scratch
        self._cutter.feed(data)
        self._ended()


class DirectLink(StreamLink):
    """A `Link` that needs no reader task."""

    __slots__ = ("_connection",)

    def __init__(
        self,
        socket: DirectResponse,
        connection: Connection,
        transport: asyncio.Transport,
        receiver: Receiver,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        max_message_size: int,
    ) -> None:
        front = socket.front
        assert front is not None
        self._connection = connection
        super().__init__(
            transport,
            front.cutter,
            front.intake,
            receiver,
            endpoint,
            outlet=Outlet(transport, mask),
            packer=socket.packer,
            subprotocol=socket.protocol,
            headers=headers,
            max_message_size=max_message_size,
        )
        wire = _Wire if socket.packer is None else _NarrowWire
        transport.set_protocol(wire(self, front.cutter, socket.http, self._outlet))
        socket.forget_handshake()
        if front.ended:
            self.lost(None)

    @property
    def transport(self) -> str:
        """What carries the connection, in words."""
        return carried_by(self._transport, direct=True)

    def abort(self) -> None:
        """Free the socket now. Messages that were read before are still reported."""
        super().abort()
        self._connection.close()
