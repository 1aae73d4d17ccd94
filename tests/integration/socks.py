"""A small SOCKS 5 proxy on loopback; it keeps what it was asked."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.integration.forwarding import pump


class SocksProxy:
    """A proxy.

    Args:
        login: User and password that it wants; ``None``: none.
        reply: what each request is answered with instead of being served; 0: it is served.
        version: what it says that it speaks.
        names: what names lead to.
    """

    def __init__(
        self,
        *,
        login: tuple[bytes, bytes] | None = None,
        reply: int = 0,
        version: int = 5,
        names: dict[str, str] | None = None,
    ) -> None:
        self.login, self.reply, self.version, self.names = login, reply, version, names or {}
        self.asked: list[tuple[str, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 2 if self.login is not None else 0
        writer.write(bytes([self.version, method if method in methods else 255]))
        if method not in methods or self.version != 5:
            await writer.drain()
            return
        if self.login is not None:
            _, size = await reader.readexactly(2)
            user = await reader.readexactly(size)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            good = (user, password) == self.login
            writer.write(bytes([1, 0 if good else 1]))
            if not good:
                await writer.drain()
                return
        _, _, _, kind = await reader.readexactly(4)
        if kind == 1:
            host = ".".join(str(byte) for byte in await reader.readexactly(4))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        port = int.from_bytes(await reader.readexactly(2))
        self.asked.append((host, port))
        writer.write(bytes([5, self.reply, 0, 1, 0, 0, 0, 0, 0, 0]))
        await writer.drain()
        if self.reply:
            return
        to, out = await asyncio.open_connection(self.names.get(host, host), port)
        try:
            await asyncio.gather(pump(reader, out), pump(to, writer))
        finally:
            out.transport.abort()
