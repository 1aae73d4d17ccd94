"""A client that does not read, and a peer that therefore cannot write: both wait, and neither is dead."""

import asyncio

import pytest
import websockets

from resilient_ws import Heartbeat, Inbox, Outbox, State, WebSocketClient

MESSAGE = b"x" * 10_000
COUNT = 3_000


async def echo(socket):
    async for message in socket:
        await socket.send(message)


@pytest.mark.promise("P3")
@pytest.mark.slow
async def test_a_peer_that_waits_for_us_to_read_is_not_declared_dead():
    """Its window is closed and ours too: our pings stand in our own buffers, where no kernel can acknowledge them."""
    closes = []
    async with (
        websockets.serve(echo, "127.0.0.1", 0, ping_interval=None, max_queue=1, compression=None) as server,
        WebSocketClient(
            f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/",
            heartbeat=Heartbeat(0.3, 0.3),
            outbox=Outbox(max_messages=COUNT, max_bytes=COUNT * len(MESSAGE)),
            inbox=Inbox(max_messages=10),
            on_close=closes.append,
        ) as client,
    ):
        for _ in range(COUNT):
            await client.send(MESSAGE)
        await asyncio.sleep(2)  # of real time: the silence is what is tested
        assert client.state is State.OPEN
        assert client.stats.sent < COUNT  # the path is full
        for _ in range(COUNT):
            await client.recv()
        assert closes == []
