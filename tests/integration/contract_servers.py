"""Little servers of other libraries in the loop of the test, for the checks of the contract."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve


@asynccontextmanager
async def websockets_server(handler, **options) -> AsyncIterator[str]:
    """Serve with the library `websockets`, and give the address."""
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/chat"


async def echo(connection: ServerConnection) -> None:
    """Send back what comes."""
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def aiohttp_server(handler) -> AsyncIterator[str]:
    """Serve with aiohttp, and give the address."""
    app = web.Application()
    app.router.add_get("/ws", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
    finally:
        await runner.cleanup()


async def aiohttp_echo(request):
    """Send back what comes."""
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await (ws.send_str if message.type.name == "TEXT" else ws.send_bytes)(message.data)
    return ws
