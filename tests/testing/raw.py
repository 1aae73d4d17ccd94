"""A client that shows the bytes: it keeps the rules only where a test wants it to."""

import asyncio
import contextlib
import ssl as ssl_module
from types import TracebackType
from typing import Self

from resilient_ws.testing.server.handshake import Headers, accept_key
from resilient_ws.testing.server.wire import Frame, FrameParser, Opcode, encode_close, encode_frame

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class RawClient:
    """A TCP connection to a WebSocket server, with as much of a handshake as asked for."""

    def __init__(
        self, port: int, *, ssl: ssl_module.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.port, self.host, self.ssl = port, host, ssl
        self.parser = FrameParser(1 << 30)
        self.frames: list[Frame] = []
        self.status = 0
        self.headers = Headers()

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            self.host, self.port, ssl=self.ssl, server_hostname="localhost" if self.ssl else None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def request(self, *extra: str, path: str = "/", version: str = "13") -> None:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Upgrade: websocket",
            "Connection: keep-alive, Upgrade",
            f"Sec-WebSocket-Key: {KEY}",
            f"Sec-WebSocket-Version: {version}",
            *extra,
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        await self.writer.drain()

    async def response(self) -> int:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.strip().split("\r\n")
        self.headers = Headers(
            (name, value.strip()) for name, _, value in (line.partition(":") for line in rest)
        )
        self.status = int(first.split(" ")[1])
        return self.status

    async def open(self, *extra: str, path: str = "/") -> Self:
        await self.request(*extra, path=path)
        assert await self.response() == 101
        assert self.headers["Sec-WebSocket-Accept"] == accept_key(KEY)
        return self

    def send(self, opcode: int, payload: bytes = b"", **options) -> None:
        self.writer.write(encode_frame(opcode, payload, **{"mask": b"\x11\x22\x33\x44", **options}))

    def text(self, text: str) -> None:
        self.send(Opcode.TEXT, text.encode())

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        self.send(Opcode.CLOSE, encode_close(code, reason))

    async def frame(self, timeout: float = 2.0) -> Frame | None:
        """Return the next frame, or None at the end of the stream; a reset raises."""
        async with asyncio.timeout(timeout):
            while not self.frames:
                data = await self.reader.read(65536)
                if not data:
                    return None
                self.frames += self.parser.feed(data)
        return self.frames.pop(0)

    async def quiet(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes for so long."""
        try:
            await self.frame(seconds)
        except TimeoutError:
            return True
        return False
