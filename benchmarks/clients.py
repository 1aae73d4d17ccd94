"""The clients that are compared: each moves messages its own fastest documented way, in the same process and loop.

A client is a class with `receive`, `send` and `echo`; `Timed` counts only what lies between connecting and closing.
Here are what they have in common, raw aiohttp, and ours; the others are in `benchmarks.others`.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from resilient_ws import Outbox, WebSocketClient

WARM = 200
Tls = ssl.SSLContext | None


class Timed:
    """CPU and wall time between two moments."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def start(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        self.cpu = time.process_time() - self._cpu
        self.wall = time.perf_counter() - self._wall


class Client:
    """`recv` waits for one message; `send` sends one.

    Attributes:
        slowness: About how many times the time of raw aiohttp it takes: it is given so many messages fewer.
        uvloop: Whether it runs on uvloop.
        zlib_ng: Whether aiohttp is given zlib-ng meanwhile.
    """

    name = ""
    slowness = 1
    uvloop = False
    zlib_ng = False

    def open(self, url: str, tls: Tls, *, deflate: bool) -> Any:
        raise NotImplementedError

    async def receive(self, url: str, count: int, *, tls: Tls = None, deflate: bool = False) -> Timed:
        timed = Timed()
        async with self.open(url, tls, deflate=deflate) as connection:
            await self.take(connection, WARM)
            timed.start()
            taken = await self.take(connection, count)
            timed.stop()
        timed.cpu *= count / taken
        timed.wall *= count / taken
        return timed

    async def take(self, connection: Any, count: int) -> int:
        """Takes at least so many; returns how many that were."""
        recv = self.recv(connection)
        for _ in range(count):
            await recv()
        return count

    async def iterate(self, connection: Any, count: int) -> int:
        """As `take`, with `async for`."""
        taken = 0
        async for _ in connection:
            taken += 1
            if taken == count:
                break
        return taken

    def recv(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        return connection.recv  # type: ignore[no-any-return]

    def sender(self, connection: Any) -> Callable[[Any], Awaitable[Any]]:
        return connection.send  # type: ignore[no-any-return]

    async def send(self, url: str, message: str, count: int) -> Timed:
        timed = Timed()
        async with self.open(url, None, deflate=False) as connection:
            send = self.sender(connection)
            timed.start()
            for _ in range(count):
                await send(message)
            timed.stop()
        return timed

    async def echo(self, url: str, message: str, count: int, outstanding: int) -> tuple[Timed, list[float]]:
        """Round trips; each takes one from those that are outstanding."""
        timed = Timed()
        took: list[float] = []
        async with self.open(url, None, deflate=False) as connection:
            send, recv = self.sender(connection), self.recv(connection)
            sent: list[float] = []
            for _ in range(outstanding):
                sent.append(time.perf_counter())
                await send(message)
            timed.start()
            for number in range(count):
                await recv()
                now = time.perf_counter()
                took.append(now - sent[number])
                sent.append(now)
                await send(message)
            timed.stop()
        return timed, took


class Aiohttp(Client):
    name = "aiohttp receive()"

    @asynccontextmanager
    async def open(self, url: str, tls: Tls, *, deflate: bool) -> AsyncIterator[Any]:
        async with aiohttp.ClientSession() as session:
            opened = await session.ws_connect(url, ssl=tls or True, compress=15 if deflate else 0)
            yield opened
            # `close()` would wait for what the server still sends.
            opened._response.connection.transport.abort()

    def recv(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        return connection.receive  # type: ignore[no-any-return]

    def sender(self, connection: Any) -> Callable[[Any], Awaitable[Any]]:
        return connection.send_str  # type: ignore[no-any-return]


class Ours(Client):
    name = "resilient_ws"
    transport = "aiohttp"
    outbox = Outbox()

    @asynccontextmanager
    async def open(self, url: str, tls: Tls, *, deflate: bool) -> AsyncIterator[Any]:
        if deflate and self.transport == "picows":
            raise NotImplementedError
        client = WebSocketClient(
            url,
            ssl=tls or True,
            transport=self.transport,  # type: ignore[arg-type]
            compression="deflate" if deflate else None,
            outbox=self.outbox,
            close_timeout=0.2,
        )
        async with client:
            yield client

    async def take(self, connection: Any, count: int) -> int:
        return await self.iterate(connection, count)

    def recv(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        return connection.__anext__  # type: ignore[no-any-return]


class OursInBatches(Ours):
    name = "resilient_ws, batches"

    async def take(self, connection: Any, count: int) -> int:
        taken = 0
        async for batch in connection.batches():
            taken += len(batch)
            if taken >= count:
                break
        return taken


class OursByCallback(Ours):
    name = "resilient_ws, on_message"

    async def take(self, connection: Any, count: int) -> int:
        enough = asyncio.get_running_loop().create_future()
        taken = 0

        def message(_: Any) -> None:
            nonlocal taken
            taken += 1
            if taken >= count and not enough.done():
                enough.set_result(None)

        handle = connection.on_message(message)
        await enough
        handle.remove()
        return taken


class OursUnconfirmed(Ours):
    name = "resilient_ws, confirm=False"
    outbox = Outbox(confirm=False)


class OursOnPicows(Ours):
    name = "resilient_ws on picows"
    transport = "picows"


class OursOnPicowsInBatches(OursInBatches):
    name = "resilient_ws on picows, batches"
    transport = "picows"


def on_uvloop(client: type[Client]) -> type[Client]:
    """The same client in the other event loop."""
    return type(f"{client.__name__}OnUvloop", (client,), {"name": f"{client.name}, uvloop", "uvloop": True})


def with_zlib_ng(client: type[Client]) -> type[Client]:
    """The same client with a faster zlib."""
    return type(f"{client.__name__}Zlib", (client,), {"name": f"{client.name}, zlib-ng", "zlib_ng": True})
