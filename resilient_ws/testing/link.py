"""One TCP connection of the fault kit: write, pause, and ways to lose it.

Knows bytes only, no HTTP and no frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from typing import Any, Protocol, cast

LINGER_ZERO = struct.pack("ii", 1, 0)


class LinkOwner(Protocol):
    """Who is told what happens on a `Link`."""

    def link_made(self) -> None:
        """Handle a connection that can be used."""

    def link_received(self, data: bytes) -> None:
        """Handle received bytes."""

    def link_eof(self) -> None:
        """Handle a FIN of the peer."""

    def link_writable(self) -> None:
        """Continue writing: the peer has taken enough of the data."""

    def link_ended(self, by_peer: str | None) -> None:
        """Handle the end; `by_peer` is `"fin"` or `"rst"` if the peer caused it."""


class Link(asyncio.Protocol):
    """The bytes of one connection.

    Args:
        sock: The connected socket; the transport owns it, the link only sets options on it.
        linger: Seconds that a connection which was ended with FIN waits for the peer's FIN.
    """

    def __init__(self, sock: socket.socket, owner: LinkOwner, *, linger: float) -> None:
        self._sock = sock
        self._owner = owner
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self._by_peer: str | None = None
        self._got_eof = False
        self._reading = True
        self._held = False
        self._deaf = False
        self.muted = False
        self._half_closed = False
        self.keep_after_eof = False
        self.ending = False
        self.lost = asyncio.Event()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; close it where the end has come before."""
        self._transport = cast(asyncio.Transport, transport)
        self._owner.link_made()
        if self.ending:
            self._transport.abort()
        self._apply_reading()

    def data_received(self, data: bytes) -> None:
        """Hand the bytes on, unless the connection is being ended."""
        if not self._deaf:
            self._owner.link_received(data)

    def eof_received(self) -> bool:
        """Keep the socket where the peer's FIN is to stay unanswered, else close it."""
        self._got_eof = True
        if not self.ending:
            self._by_peer = self._by_peer or "fin"
            self._owner.link_eof()
        encrypted = self._transport is not None and self._transport.get_extra_info("sslcontext") is not None
        return (self.muted or self.keep_after_eof) and not encrypted

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits, and tell the owner."""
        if exc is not None and not self.ending:
            self._by_peer = "rst"
        self.ending = True
        if self._timer is not None:
            self._timer.cancel()
        self.lost.set()
        self._writable.set()
        self._owner.link_ended(self._by_peer)

    def pause_writing(self) -> None:
        """Note that the peer reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Wake whoever waits for room; read on if reading was held back."""
        self._writable.set()
        if self._held:
            self._held = False
            self._apply_reading()
        self._owner.link_writable()

    @property
    def is_made(self) -> bool:
        """Whether the link has a transport, or has had one."""
        return self._transport is not None

    # ---- writing

    @property
    def congested(self) -> bool:
        """Whether the write buffer is above its limit."""
        return not self._writable.is_set()

    @property
    def buffered(self) -> int:
        """The number of bytes that are written and not yet taken by the kernel."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write without waiting; nothing while muted, half-closed or ending."""
        if self._transport is not None and not (self.muted or self._half_closed or self.ending):
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the write buffer is below its limit or the connection is over."""
        await self._writable.wait()

    # ---- reading

    def hold_reading(self) -> None:
        """Read nothing until the peer has taken what is written to it."""
        if self.congested and not self._held:
            self._held = True
            self._apply_reading()

    def set_reading(self, reading: bool) -> None:
        """Stop taking bytes from the kernel, or go on."""
        self._reading = reading
        self._apply_reading()

    def _apply_reading(self) -> None:
        if self._transport is None or self._got_eof or self._transport.is_closing():
            return
        if self._reading and not self._held:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # ---- ending

    def fin(self) -> None:
        """Send what is written, then FIN; reset if the peer has not answered it after `linger` seconds."""
        if self.ending:
            return
        self._begin_end()
        self.half_close()
        self.keep_after_eof = False
        self._reading, self._held = True, False
        self._apply_reading()
        if self._got_eof and self._transport is not None:
            self._transport.close()
        else:
            self._timer = self._loop.call_later(self._linger, self.abort)

    def half_close(self) -> None:
        """Send what is written, then FIN, and go on reading."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self.keep_after_eof = self._half_closed = True
        with contextlib.suppress(OSError):  # reset by the peer, not noticed yet
            if transport.can_write_eof():
                transport.write_eof()
            else:  # TLS has no half-close: a FIN below it, without close_notify
                self._sock.shutdown(socket.SHUT_WR)

    def rst(self) -> None:
        """Throw away what is not sent and reset the connection."""
        self._begin_end()
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self.abort()

    def abort(self) -> None:
        """Close the socket now."""
        self._begin_end()
        if self._transport is not None:
            self._transport.abort()

    def _begin_end(self) -> None:
        self.ending = self._deaf = True


async def attach(link: Link, transport: Coroutine[Any, Any, object], *, slow: bool = False) -> None:
    """Put a link on the transport that a coroutine of the loop makes; a cancellation waits until it is there.

    A loop whose coroutine is cancelled half-way may close the socket and never say so (uvloop 0.23 does).

    Args:
        link: The link.
        transport: What makes its transport, not yet started.
        slow: Whether the transport has to wait for the peer, as with TLS: then a cancellation is passed on before.
    """
    task = asyncio.ensure_future(transport)
    try:
        _ = await asyncio.shield(task)
    except asyncio.CancelledError:
        if slow and not link.is_made:
            task.cancel()
        await asyncio.wait([task])
        raise
