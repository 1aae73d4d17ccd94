"""The other clients: websockets, picows, jetsocket and websocket-client, as their own documentation uses them."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import picows
import picows.websockets
import websockets

from benchmarks.clients import WARM, Client, Timed, Tls
from benchmarks.server import BURST


class NotInstalledError(Exception):
    """Says which package is missing."""


def load(package: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise NotInstalledError(f"pip install {package}") from None


class Websockets(Client):
    name = "websockets"
    slowness = 4

    @asynccontextmanager
    async def open(self, url: str, tls: Tls, *, deflate: bool) -> AsyncIterator[Any]:
        connection = await websockets.connect(
            url, ssl=tls, compression="deflate" if deflate else None, close_timeout=0.2, proxy=None
        )
        yield connection
        connection.transport.abort()


class WebsocketsReconnecting(Websockets):
    name = "websockets, reconnecting"

    @asynccontextmanager
    async def open(self, url: str, tls: Tls, *, deflate: bool) -> AsyncIterator[Any]:
        async for connection in websockets.connect(
            url, ssl=tls, compression="deflate" if deflate else None, close_timeout=0.2, proxy=None
        ):
            yield connection
            connection.transport.abort()
            break

    async def take(self, connection: Any, count: int) -> int:
        return await self.iterate(connection, count)


class PicowsWebsockets(Websockets):
    name = "picows, websockets API"
    slowness = 1

    @asynccontextmanager
    async def open(self, url: str, tls: Tls, *, deflate: bool) -> AsyncIterator[Any]:
        connection = await picows.websockets.connect(
            url, ssl=tls, compression="deflate" if deflate else None, close_timeout=0.2
        )
        yield connection
        await connection.close()


class _Counting(picows.WSListener):  # type: ignore[misc]
    """Copies each message, or makes text of it."""

    def __init__(self, *, text: bool) -> None:
        super().__init__()
        self.text = text
        self.arrived = self.wanted = 0
        self.enough: asyncio.Future[None] | None = None

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:  # noqa: ARG002
        if self.text:
            frame.get_payload_as_utf8_text()
        else:
            frame.get_payload_as_bytes()
        self.arrived += 1
        if self.arrived == self.wanted and self.enough is not None:
            self.enough.set_result(None)
            self.enough = None

    async def take(self, count: int) -> None:
        """Waits until so many more have arrived than were taken before."""
        self.wanted += count
        if self.arrived < self.wanted:
            self.enough = asyncio.get_running_loop().create_future()
            await self.enough


class PicowsCore(Client):
    name = "picows core"
    text = False

    @asynccontextmanager
    async def open(self, url: str, tls: Tls, *, deflate: bool) -> AsyncIterator[Any]:
        if deflate:
            raise NotImplementedError
        listener = _Counting(text=self.text)
        transport, _ = await picows.ws_connect(lambda: listener, url, ssl_context=tls)
        yield transport, listener
        transport.disconnect(graceful=False)

    async def take(self, connection: Any, count: int) -> int:
        _, listener = connection
        await listener.take(count)
        return count

    def recv(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: connection[1].take(1)

    def sender(self, connection: Any) -> Callable[[Any], Awaitable[Any]]:
        transport, _ = connection

        async def send(message: str) -> None:
            transport.send(picows.WSMsgType.TEXT, message.encode())

        return send


class PicowsCoreText(PicowsCore):
    """Hands over what every other client does where the messages are text."""

    name = "picows core, as text"
    text = True


class Jetsocket(Client):
    """Reads on before the program gets its turn, as long as there is something to read: so it is sent a fixed amount."""

    name = "jetsocket"
    slowness = 8

    async def receive(self, url: str, count: int, *, tls: Tls = None, deflate: bool = False) -> Timed:
        if "/paced" in url:
            return await super().receive(url, count, tls=tls, deflate=deflate)
        size = int(dict(parse_qsl(urlsplit(url).query))["size"])
        bursts = 1 + count * size // BURST
        taken = bursts * max(1, BURST // (size + 4))
        timed = Timed()
        async with self.open(f"{url}&bursts={bursts}", tls, deflate=deflate) as connection:
            timed.start()
            await self.take(connection, taken)
            timed.stop()
        timed.cpu *= count / taken
        return timed

    @asynccontextmanager
    async def open(self, url: str, tls: Tls, *, deflate: bool) -> AsyncIterator[Any]:
        jetsocket = load("jetsocket", "jetsocket")
        connection = jetsocket.WebSocket(
            url,
            ssl_context=tls,
            compress=deflate,
            reconnect=False,
            close_timeout=0.2,
            serializer=str.encode,
            deserializer=bytes.decode,
        )
        await connection.connect()
        socket = connection._transport._asyncio_transport
        yield connection
        socket.abort()  # `close()` waits for ever while something comes in
        with contextlib.suppress(Exception):
            async with asyncio.timeout(0.5):
                await connection.close()

    async def take(self, connection: Any, count: int) -> int:
        return await self.iterate(connection, count)


class WebsocketClient(Client):
    """Blocks; so it is measured without the event loop."""

    name = "websocket-client"
    slowness = 30

    def connect(self, url: str, tls: Tls, *, deflate: bool = False) -> Any:
        if deflate:
            raise NotImplementedError
        websocket = load("websocket-client", "websocket")
        return websocket.create_connection(url, sslopt={"context": tls} if tls else None)

    async def receive(self, url: str, count: int, *, tls: Tls = None, deflate: bool = False) -> Timed:
        connection = self.connect(url, tls, deflate=deflate)
        for _ in range(WARM):
            connection.recv()
        timed = Timed()
        timed.start()
        for _ in range(count):
            connection.recv()
        timed.stop()
        connection.shutdown()
        return timed

    async def send(self, url: str, message: str, count: int) -> Timed:
        connection = self.connect(url, None)
        timed = Timed()
        timed.start()
        for _ in range(count):
            connection.send(message)
        timed.stop()
        connection.shutdown()
        return timed

    async def echo(self, url: str, message: str, count: int, outstanding: int) -> tuple[Timed, list[float]]:
        connection = self.connect(url, None)
        timed, took, sent = Timed(), [], []
        for _ in range(outstanding):
            sent.append(time.perf_counter())
            connection.send(message)
        timed.start()
        for number in range(count):
            connection.recv()
            now = time.perf_counter()
            took.append(now - sent[number])
            sent.append(now)
            connection.send(message)
        timed.stop()
        connection.shutdown()
        return timed, took
