"""The cause of a close event says what the socket said."""

import os

import pytest

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
