"""How soon a program hears that its connection was reset, and how soon it has the next one.

The server writes the time of its own clock, which is that of this machine, and resets the connection in the same step.
"""

import asyncio
import contextlib
import statistics
import struct
import time
from typing import NamedTuple

import aiohttp
import websockets

from benchmarks.clients import Aiohttp, Client, Ours
from benchmarks.others import Websockets
from resilient_ws import ReconnectPolicy, WebSocketClient

AT_ONCE = ReconnectPolicy(first_delay=0, min_delay=0, max_delay=0)


class Reset(NamedTuple):
    """Seconds from one reset, medians of several."""

    told: float
    back: float


class Notes:
    def __init__(self, count: int) -> None:
        self.told: list[float] = []
        self.back: list[float] = []
        self.count = count
        self.reset_at: float | None = None

    def opened(self) -> None:
        if self.reset_at is not None:
            self.back.append(time.monotonic() - self.reset_at)
            self.reset_at = None

    def message(self, data: bytes) -> None:
        (self.reset_at,) = struct.unpack("!d", data)

    def ended(self) -> None:
        if self.reset_at is not None:
            self.told.append(time.monotonic() - self.reset_at)

    @property
    def enough(self) -> bool:
        return len(self.back) >= self.count

    def medians(self) -> Reset:
        return Reset(statistics.median(self.told), statistics.median(self.back))


async def raw_aiohttp(url: str, notes: Notes) -> None:
    async with aiohttp.ClientSession() as session:
        while not notes.enough:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.ws_connect(url) as connection:
                    notes.opened()
                    async for message in connection:
                        notes.message(message.data)
                    notes.ended()


async def raw_websockets(url: str, notes: Notes) -> None:
    while not notes.enough:
        with contextlib.suppress(OSError, websockets.WebSocketException):
            connection = await websockets.connect(url, proxy=None, compression=None, close_timeout=0.2)
            notes.opened()
            with contextlib.suppress(websockets.ConnectionClosed):
                async for message in connection:
                    notes.message(message)
            notes.ended()


async def ours(url: str, notes: Notes, transport: str) -> None:
    async with WebSocketClient(
        url,
        reconnect=AT_ONCE,
        transport=transport,  # type: ignore[arg-type]
        on_open=lambda _: notes.opened(),
        on_close=lambda _: notes.ended(),
    ) as client:
        async for message in client:
            notes.message(message)  # type: ignore[arg-type]
            if notes.enough:
                break


async def measure(client: Client, url: str, count: int) -> Reset:
    notes = Notes(count)
    async with asyncio.timeout(60):
        if isinstance(client, Aiohttp):
            await raw_aiohttp(url, notes)
        elif isinstance(client, Websockets):
            await raw_websockets(url, notes)
        elif isinstance(client, Ours):
            await ours(url, notes, client.transport)
        else:
            raise NotImplementedError
    return notes.medians()
