"""The cause of a close event says what the socket said."""

import asyncio
import os

import pytest
from aiohttp.client_proto import ResponseHandler

from resilient_ws import ClientStopped, CloseOrigin, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import FaultServer

pytestmark = pytest.mark.usefixtures("transport")

QUICK = ReconnectPolicy(first_delay=0.01, min_delay=0.01, max_delay=0.05)


@pytest.mark.parametrize(
    "how, said", [("rst", "reset by peer"), ("fin", "without a CLOSE frame|no CLOSE frame")]
)
async def test_a_reset_and_an_end_of_stream_are_told_apart(how, said, transport):
    async with FaultServer() as server, WebSocketClient(server.url, reconnect=QUICK) as client:
        events = client.events()
        server.drop_all(how)
        async for event in events:
            if hasattr(event, "was_clean"):
                break
        assert event.origin is CloseOrigin.NETWORK
        assert event.synthesized
        if transport == "aiohttp" and os.environ.get("RESILIENT_WS_PLAIN"):
            said = "ended without a CLOSE frame"  # all that aiohttp's public API tells
        with pytest.raises(Exception, match=said):
            raise event.cause


async def test_a_server_that_speaks_and_hangs_up_at_once_was_open_and_is_heard():
    async def greet(connection):
        await connection.send("hello")
        connection.close(1000, "bye")

    async with FaultServer(handler=greet) as server, WebSocketClient(server.url, reconnect=False) as client:
        assert await client.recv() == "hello"
        with pytest.raises(ClientStopped):
            await client.recv()


async def test_aiohttp_itself_hears_of_a_loss_behind_the_program(transport, monkeypatch):
    if transport != "aiohttp" or os.environ.get("RESILIENT_WS_PLAIN"):
        pytest.skip("where nothing stands between the socket and aiohttp, it hears first")
    heard = []
    lost = ResponseHandler.connection_lost
    monkeypatch.setattr(
        ResponseHandler, "connection_lost", lambda http, error: heard.append("aiohttp") or lost(http, error)
    )
    async with FaultServer() as server, WebSocketClient(server.url, reconnect=QUICK) as client:
        client.on_close(lambda _: heard.append("on_close"))
        reconnected = asyncio.Event()
        client.on_reconnect(lambda _: reconnected.set())
        server.drop_all("rst")
        await asyncio.wait_for(reconnected.wait(), 5)
        assert heard == ["on_close", "aiohttp"]
