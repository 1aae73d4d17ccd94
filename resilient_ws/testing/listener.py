"""A listening socket that can close and reopen on the same port, for the servers and proxies of the kit.

Knows nothing of what is done with an accepted socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

_BACKLOG: Final = 1024
_RETRY_ACCEPT: Final = 0.05
"""Seconds after an accept that failed, for instance because the process has no descriptor left."""


class Listener:
    """Accepts TCP connections on one port; while stopped the port stays taken and refuses them.

    Args:
        host: The address or name to listen on; one with a colon is IPv6.
        port: The port; `0`: any free one, the same again after `stop` and `start`.
        receive_buffer: `SO_RCVBUF` of the accepted sockets in bytes; `None`: as the system has it.
    """

    def __init__(self, host: str, port: int, receive_buffer: int | None = None) -> None:
        self.host = host
        self.port = port
        self._receive_buffer = receive_buffer
        self._listening: socket.socket | None = None
        self._placeholder: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_listening(self) -> bool:
        """Whether connections are accepted."""
        return self._listening is not None

    def start(self, accepted: Callable[[socket.socket], None]) -> None:
        """Accept connections from now on; does nothing while listening.

        Args:
            accepted: Called with each accepted socket, which it then owns.

        Raises:
            OSError: The port is taken.
        """
        if self._listening is not None:
            return
        sock = self._placeholder or self._bind()
        self._placeholder = None
        sock.listen(_BACKLOG)
        self._listening = sock
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(sock, _accept_waiting, sock, accepted)
        except NotImplementedError:  # the proactor loop of Windows
            self._accepting = loop.create_task(_accept_all(sock, accepted), name=f"Listener:{self.port}")

    async def stop(self) -> None:
        """Refuse connections until `start`: the port is bound and not listening, the kernel answers with RST."""
        await self._end()
        if self._placeholder is None:
            self._placeholder = self._bind()

    async def close(self) -> None:
        """Give the port back."""
        await self._end()
        if self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None

    async def _end(self) -> None:
        if self._listening is None:
            return
        if self._accepting is None:
            _ = asyncio.get_running_loop().remove_reader(self._listening)
        else:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        self._listening.close()
        self._listening = None

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            sock.bind((self.host, self.port))
        except BaseException:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        return sock


def _accept_waiting(listening: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
    """Accept what waits. Without an await in between no accepted socket is lost when the listener stops."""
    for _ in range(_BACKLOG):
        try:
            sock, _address = listening.accept()
        except OSError:  # nothing waits any more, it has left already, or there is no descriptor for it
            return
        _prepare(sock)
        accepted(sock)


async def _accept_all(listening: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
    """Accept one after the other, where the loop cannot watch a socket."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock, _ = await loop.sock_accept(listening)
        except OSError:
            await asyncio.sleep(_RETRY_ACCEPT)
            continue
        _prepare(sock)
        accepted(sock)


def _prepare(sock: socket.socket) -> None:
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
