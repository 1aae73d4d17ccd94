"""How a connection ends of which more was read than the program takes, or less was sent than it gave."""

import asyncio
import os

import attrs
import pytest

from resilient_ws import ClientStopped, CloseOrigin, Inbox, Outbox, OutboxFull, State, WebSocketClient
from resilient_ws.testing import Accept, Deflate, FaultServer, Opcode, encode_frame
from tests.conftest import until
from tests.integration import tls
from tests.integration.listening import SOON, Told
from tests.transports.test_aiohttp_deflate import Server

pytestmark = [
    pytest.mark.usefixtures("transport"),
    pytest.mark.skipif(
        bool(os.environ.get("RESILIENT_WS_PLAIN")), reason="aiohttp's public API tells an end to who reads on"
    ),
]

# More than a TLS server of asyncio takes in although it does not read.
SMALL = Outbox(max_bytes=600_000)
MANY = [encode_frame(Opcode.TEXT, b"%d" % number) for number in range(60)]
GOODBYE = encode_frame(Opcode.CLOSE, b"\x03\xe9see you")


@attrs.frozen
class Eager(Accept):
    """Says something in the same segment as its answer to the handshake."""

    says: bytes = b""

    def answer(self, request):
        answer = super().answer(request)
        return attrs.evolve(answer, data=answer.data + self.says)


async def talk(client):
    """Write until the connection is over: only who writes hears that a socket which is not read has been reset."""
    while client.state is State.OPEN:
        await client.send("x")
        await asyncio.sleep(0.001)


@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    "goodbye, expected",
    [(b"", (1006, CloseOrigin.NETWORK)), (GOODBYE, (1001, CloseOrigin.PEER))],
    ids=["no word", "a CLOSE"],
)
async def test_a_full_inbox_does_not_delay_that_a_loss_is_told(goodbye, expected):
    accept = Eager(echo=False, answer_pings=False, answer_close=False, says=b"".join(MANY) + goodbye)
    async with FaultServer(default=accept) as server:
        client = WebSocketClient(server.url, inbox=Inbox(max_messages=10), reconnect=False)
        told = Told(client)
        async with client:
            peer = await server.connection()
            peer.rst()
            async with asyncio.timeout(5):
                await talk(client)
            event = await told.close()
            assert (event.code, event.origin) == expected
            assert [await client.recv() for _ in MANY] == [str(number) for number in range(60)]
            assert client.stats.received == 60


@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    "goodbye, expected",
    [(b"", (1006, CloseOrigin.NETWORK)), (GOODBYE + MANY[0], (1001, CloseOrigin.PEER))],
    ids=["no word", "a CLOSE"],
)
async def test_nor_do_compressed_messages_that_nobody_has_unpacked(goodbye, expected):
    server = Server()
    packed = b"".join(server.message(b"%d" % number) for number in range(60))
    accept = Accept(echo=False, answer_pings=False, answer_close=False, deflate=Deflate())
    async with FaultServer(default=accept) as server:
        client = WebSocketClient(
            server.url, inbox=Inbox(max_messages=1), reconnect=False, compression="deflate"
        )
        told = Told(client)
        async with client:
            peer = await server.connection()
            peer.raw(MANY[0] + encode_frame(Opcode.PING) + packed + goodbye)
            await server.until(lambda: len(peer.pongs) == 1)
            peer.rst()
            async with asyncio.timeout(5):
                await talk(client)
            event = await told.close()
            assert (event.code, event.origin) == expected
            assert client.stats.received == 61


@pytest.mark.promise("P4")
@pytest.mark.parametrize("room", [10, 100])
async def test_what_came_with_the_handshake_decides_though_the_socket_is_lost_at_once(room):
    says = b"".join(MANY) + GOODBYE
    async with FaultServer(default=Eager(echo=False, says=says, then=lambda peer: peer.fin())) as server:
        client = WebSocketClient(server.url, inbox=Inbox(max_messages=room), reconnect=SOON)
        told = Told(client)
        async with client:
            for number in range(1, 21):
                event = await told.close(number)
                assert (event.code, event.origin) == (1001, CloseOrigin.PEER)
                assert [await client.recv() for _ in MANY] == [str(number) for number in range(60)]


@pytest.fixture(params=["tcp", "tls"])
def stuck(request):
    """Options of a server and of a client, of which one may stop reading and the other gives too much."""
    server, client = {"receive_buffer": 8192}, {"outbox": SMALL, "heartbeat": None, "reconnect": False}
    if request.param == "tls":
        server |= {"ssl": tls.good(), "host": "localhost"}
        client |= {"ssl": tls.trusting()}
    return server, client


async def fill(client):
    """Send until that blocks, for good."""
    while True:
        await client.send(bytes(50_000))


async def until_stuck(client):
    link = client._supervisor.active.link
    await until(lambda: link._unsent() > 0)
    before = None
    while before != (before := (client.stats.sent, link._unsent())):
        await asyncio.sleep(0.05)


@pytest.mark.promise("P2")
async def test_a_peer_that_has_ended_its_side_is_lost_though_our_send_buffer_is_full(stuck):
    options, own = stuck
    async with FaultServer(default=Accept(echo=False), **options) as server:
        client = WebSocketClient(server.url, **own)
        told = Told(client)
        async with client, asyncio.timeout(5):
            peer = await server.connection()
            await peer.send("the last")
            peer.stop_reading()
            filling = asyncio.create_task(fill(client))
            await until_stuck(client)
            peer.half_close()
            event = await told.close()
            assert (event.code, event.origin, event.synthesized) == (1006, CloseOrigin.NETWORK, True)
            with pytest.raises((ClientStopped, OutboxFull)):
                await filling
            assert await client.recv() == "the last"


@pytest.mark.promise("P1")
async def test_our_answer_reaches_a_peer_that_has_ended_its_side_and_reads_on():
    async with FaultServer(default=Accept(echo=False), receive_buffer=8192) as server:
        client = WebSocketClient(server.url, outbox=SMALL, heartbeat=None, reconnect=False)
        told = Told(client)
        async with client, asyncio.timeout(5):
            peer = await server.connection()
            peer.stop_reading()
            filling = asyncio.create_task(fill(client))
            await until_stuck(client)
            peer.raw(GOODBYE)
            peer.half_close()
            link = client._supervisor.active.link
            await until(lambda: link._sent_code is not None)
            await asyncio.sleep(0.05)  # in which our side is not to be ended, either
            peer.start_reading()
            event = await told.close()
            assert (event.code, event.sent_code, event.was_clean) == (1001, 1001, True)
            with pytest.raises((ClientStopped, OutboxFull)):
                await filling
            await peer.wait_ended()
            assert peer.close_code == 1001
