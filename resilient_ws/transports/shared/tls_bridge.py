"""TLS to a proxy, presented as a plain socket, so that the code that dials through it needs no changes.

Bytes are passed on between the TLS connection and one end of a pair of sockets. When the other end is closed, what was
written to it before still leaves, unless it was closed so that nothing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from resilient_ws.transports.shared import tcp_info as kernel

_CHUNK: Final = 256 * 1024


class Near(socket.socket):
    """Our end: it says when it is closed, and whether what was written is to be thrown away."""

    hung_up: Callable[[bool], None] | None = None

    def close(self) -> None:
        """Close it."""
        told, self.hung_up = self.hung_up, None
        thrown = False
        if told is not None:
            thrown = kernel.forgets_unsent(self)
        super().close()
        if told is not None:
            told(thrown)

    def connect(self, address: Any, /) -> None:
        """Do nothing: it is connected; what is given a socket may want to do that itself."""


class _Far(asyncio.Protocol):
    """The TLS connection to the proxy."""

    def __init__(self, pair: socket.socket) -> None:
        self.pair = pair
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.inward: Any = None  # the transport of the pair's other end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.inward is not None:
            self.inward.write(data)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it
        if self.inward is not None:
            self.inward.close()
        else:
            self.pair.close()

    def pause_writing(self) -> None:
        if self.inward is not None and not self.inward.is_closing():
            self.inward.pause_reading()

    def resume_writing(self) -> None:
        if self.inward is not None and not self.inward.is_closing():
            self.inward.resume_reading()


class _Inward(asyncio.Protocol):
    """The other end of the pair."""

    def __init__(self, far: _Far) -> None:
        self.far = far

    def data_received(self, data: bytes) -> None:
        self.far.transport.write(data)

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        if not self.far.transport.is_closing():
            self.far.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.far.transport.is_closing():
            self.far.transport.resume_reading()


async def bridge(sock: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    """Return a socket of which the bytes go through TLS on `sock`, which belongs to it from now on.

    Raises:
        OSError: The TLS handshake failed.
    """
    loop = asyncio.get_running_loop()
    near, other = socket.socketpair()
    far = _Far(other)
    near = Near(near.family, near.type, near.proto, fileno=near.detach())
    near.setblocking(False)  # noqa: FBT003 - its name says it
    other.setblocking(False)  # noqa: FBT003
    try:
        await loop.create_connection(lambda: far, sock=sock, ssl=context, server_hostname=host.rstrip("."))
        far.inward, _ = await loop.create_connection(lambda: _Inward(far), sock=other)
    except BaseException:
        near.close()
        other.close()
        if far.transport is not None:
            far.transport.abort()
        raise

    def hung_up(thrown: bool) -> None:
        if loop.is_closed():
            return
        if not thrown:
            with contextlib.suppress(OSError, ValueError):
                while data := other.recv(_CHUNK):
                    far.transport.write(data)
        else:
            kernel.forget_unsent(far.transport.get_extra_info("socket"))
        far.inward.abort()
        far.transport.abort()  # what it has handed to the kernel still leaves

    near.hung_up = hung_up
    return near
