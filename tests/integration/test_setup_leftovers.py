"""What arrives during the set-up and is not taken by it reaches the program: all of it, in order (P4)."""

import asyncio

import attrs
import pytest

from resilient_ws import Inbox, WebSocketClient
from resilient_ws.testing import Accept, FaultServer, Opcode, encode_frame

pytestmark = pytest.mark.usefixtures("transport")

MESSAGES = [str(number) for number in range(60)]
FRAMES = [encode_frame(Opcode.TEXT, message.encode()) for message in MESSAGES]


class Eager(Accept):
    """The messages stand in the same packet as the answer to the handshake."""

    def answer(self, request):
        answer = super().answer(request)
        return attrs.evolve(answer, data=answer.data + b"".join(FRAMES))


@pytest.mark.promise("P4")
@pytest.mark.parametrize("bound", [1, 10, 59, 60, 4096])
@pytest.mark.parametrize("taken", [0, 1, 7])
async def test_more_than_the_inbox_holds(bound, taken):
    async def setup(conn):
        got.extend([await conn.recv() for _ in range(taken)])
        await asyncio.sleep(0)

    got = []
    async with (
        FaultServer(default=Eager(echo=False)) as server,
        WebSocketClient(server.url, setup=setup, inbox=Inbox(max_messages=bound)) as client,
    ):
        connection = await server.connection()
        await connection.send("later")
        async with asyncio.timeout(5):
            async for message in client:
                got.append(message)
                if message == "later":
                    break
        stats = client.stats
        assert got == [*MESSAGES, "later"]
        assert (stats.received, stats.discarded, stats.unread) == (61, 0, 0)
        assert stats.bytes_received == len("".join(got))
