"""The program's code that is called while a read is parsed cannot break the connection (P9)."""

import asyncio

import pytest

from resilient_ws import DeliveryUncertain, State, WebSocketClient
from resilient_ws.testing import Accept, FaultServer, Opcode, encode_frame
from tests.integration.listening import SOON, Told

pytestmark = pytest.mark.usefixtures("transport")


class Grave(BaseException):
    """What no handler catches."""


def read_of(*messages):
    """Frames that come in one read."""
    return b"".join(encode_frame(Opcode.TEXT, message.encode()) for message in messages)


@pytest.mark.promise("P9")
async def test_match_that_raises_stop_iteration_loses_nothing():
    async with (
        FaultServer(default=Accept(echo=False)) as server,
        WebSocketClient(server.url, heartbeat=None, reconnect=SOON) as client,
    ):
        connection = await server.connection()
        request = asyncio.create_task(client.request("?", lambda message: next(iter(()))))
        await server.until(lambda: connection.received == 1)
        connection.raw(read_of("a", "b", "c"))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await request
        assert [await client.recv() for _ in range(3)] == ["a", "b", "c"]
        assert (client.state, client.stats.opens) == (State.OPEN, 1)


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
async def test_match_that_raises_what_nobody_catches_costs_one_connection():
    def match(message):
        raise Grave

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with (
        FaultServer(default=Accept(echo=False)) as server,
        WebSocketClient(server.url, heartbeat=None, reconnect=SOON) as client,
    ):
        told = Told(client)
        connection = await server.connection()
        request = asyncio.create_task(client.request("?", match))
        await server.until(lambda: connection.received == 1)
        connection.raw(read_of("a", "b", "c"))
        await told.reconnect()
        with pytest.raises(DeliveryUncertain):
            await request
        await (await server.connection()).send("on we go")
        assert await client.recv() == "on we go"
