"""A small HTTP proxy: tunnels for CONNECT, and requests with an absolute URL passed on; it keeps what it was asked."""

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class ForwardProxy:
    """A proxy on loopback.

    Args:
        status: what each request is answered with instead of being served; ``None``: it is served.
        headers: further lines of that answer.
        is_mute: whether requests are read and never answered.
        tls: the context to serve with, ``None`` for plain HTTP.
    """

    def __init__(
        self,
        *,
        status: int | None = None,
        headers: tuple[str, ...] = (),
        is_mute: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.status, self.headers, self.is_mute, self.tls = status, headers, is_mute, tls
        self.requests: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def header(self, name: str, request: int = 0) -> str | None:
        """Return a header of a request."""
        for line in self.requests[request].split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            # Cancelled by `__aexit__`, which is the end of it: asyncio's server would log that as an error.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.requests.append(head)
        method, target, _ = head.split("\r\n")[0].split(" ")
        if self.is_mute:
            await asyncio.Event().wait()
        if self.status is not None:
            lines = [f"HTTP/1.1 {self.status} No", "Content-Length: 0", *self.headers, "", ""]
            writer.write("\r\n".join(lines).encode())
            await writer.drain()
            return
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        to, out = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                out.write(head.replace(target, path, 1).encode("latin-1"))
            await asyncio.gather(pump(reader, out), pump(to, writer))
        finally:
            out.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until the end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
