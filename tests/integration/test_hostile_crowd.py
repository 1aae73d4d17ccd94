"""A healthy client's dead peer is noticed in time although the peers of many other clients flood the same event loop."""

import asyncio
import contextlib

import pytest

from resilient_ws import CloseOrigin, Heartbeat, WebSocketClient
from resilient_ws.testing import FakeTransport, FaultServer

HOSTILE = 100
BOUND = 3.0  # interval + 2 * timeout: one look that is late by less than half of the timeout asks anew
BUSY = 3.0  # a verdict takes three turns of the loop, and the floods are made in this same loop


@pytest.mark.promise("P2")
@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
async def test_floods_of_pings_on_other_connections_delay_no_verdict(transport):
    pytest.importorskip(transport)
    loop = asyncio.get_running_loop()
    async with FaultServer() as server, contextlib.AsyncExitStack() as crowd:
        for _ in range(HOSTILE):
            await crowd.enter_async_context(
                WebSocketClient(server.url, transport=transport, heartbeat=Heartbeat(60, 60), close_timeout=1)
            )
        quiet = FakeTransport()
        client = WebSocketClient("ws://quiet.test/", transport=quiet, heartbeat=Heartbeat(1, 1))
        noticed: asyncio.Future[CloseOrigin] = loop.create_future()
        client.on_close(lambda event: noticed.done() or noticed.set_result(event.origin))
        async with client:
            await client.send("x", confirm=True)
            floods = [
                asyncio.create_task(connection.ping_flood(seconds=30, burst=2_000))
                for connection in server.connections
            ]
            assert len(floods) == HOSTILE
            await asyncio.sleep(0)
            quiet.peer.go_silent()
            began = loop.time()
            try:
                async with asyncio.timeout(20):
                    assert await noticed is CloseOrigin.HEARTBEAT
                took = loop.time() - began
            finally:
                for flood in floods:
                    flood.cancel()
                await asyncio.gather(*floods, return_exceptions=True)
        assert took <= BOUND + BUSY
