"""A connection whose messages are compressed, while the program takes them slowly: order, ends, and what is held."""

import asyncio
import contextlib
import os
import random
from types import SimpleNamespace

import pytest

from resilient_ws import CloseOrigin, Inbox, Outbox, ResilientWSError, WebSocketClient
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.testing import Accept, Deflate, FaultServer, Opcode, encode_frame
from resilient_ws.testing.server.wire import RSV1
from resilient_ws.transports import make_transport
from resilient_ws.transports.aiohttp import transport
from resilient_ws.transports.options import TransportOptions
from tests.conftest import until
from tests.faults.fuzz_bytes import deflated
from tests.integration.listening import SOON, Told

MEBIBYTE = 1 << 20
LARGE = Outbox(max_bytes=64 * MEBIBYTE)


@pytest.fixture(params=["direct", "public"], autouse=True)
def way(request, monkeypatch):
    if request.param == "public":
        monkeypatch.setattr(transport, "is_supported", lambda: False)
    return "public" if os.environ.get("RESILIENT_WS_PLAIN") else request.param


def compressed(*messages):
    return b"".join(
        encode_frame(
            Opcode.TEXT if isinstance(message, str) else Opcode.BINARY,
            deflated(message.encode() if isinstance(message, str) else message),
            rsv=RSV1,
        )
        for message in messages
    )


def serving(then):
    """A server that does this as soon as the handshake is done."""
    return FaultServer(default=Accept(echo=False, deflate=Deflate(), then=then))


NUMBERS = [f"number {number}" for number in range(3_000)]


@pytest.mark.parametrize("room", [1, 10, 4096])
@pytest.mark.parametrize("end", ["close", "fin", "breach"])
async def test_a_slow_program_gets_all_in_order_and_then_the_end(room, end):
    def then(peer):
        peer.raw(compressed(*NUMBERS))
        if end == "close":
            peer.close(1001)
        elif end == "fin":
            peer.drop("fin")
        else:
            peer.raw(encode_frame(Opcode.TEXT, b"\x07", rsv=RSV1))

    async with serving(then) as server:
        client = WebSocketClient(
            server.url, reconnect=False, compression="deflate", inbox=Inbox(max_messages=room)
        )
        got = []
        with contextlib.suppress(ResilientWSError):
            async with client:
                async for message in client:
                    got.append(message)
                    if len(got) % 100 == 0:
                        await asyncio.sleep(0)
        assert got == NUMBERS
        origin = {"close": CloseOrigin.PEER, "fin": CloseOrigin.NETWORK, "breach": CloseOrigin.PROTOCOL}
        assert client.close_event.origin is origin[end]
        assert client.stats.received == len(NUMBERS)


async def test_of_pings_between_messages_that_wait_the_last_one_is_answered_when_its_turn_comes():
    pings = b"".join(compressed(text) + encode_frame(Opcode.PING, text.encode()) for text in NUMBERS[:50])
    async with serving(lambda peer: peer.raw(pings)) as server:
        async with WebSocketClient(server.url, compression="deflate", inbox=Inbox(max_messages=5)) as client:
            assert [await client.recv() for _ in range(50)] == NUMBERS[:50]
            peer = await server.connection()
            await server.until(lambda: bool(peer.pongs) and peer.pongs[-1].payload == NUMBERS[49].encode())
            assert len(peer.pongs) <= 50
        assert server.violations == []


async def test_of_what_waits_no_more_than_a_batch_is_told_when_the_connection_is_given_up(way):
    """As without compression, small messages that were read are not lost; and no more than that is unpacked."""
    if way == "public":
        pytest.skip("through its public API aiohttp gives up what it holds")

    async def received(messages):
        async with serving(lambda peer: peer.raw(compressed(*messages))) as server:
            client = WebSocketClient(
                server.url, reconnect=SOON, compression="deflate", inbox=Inbox(max_messages=1)
            )
            async with client:
                told = Told(client)
                await until(lambda: client.stats.unread >= 1)
                client.reconnect_now()
                await told.close()
                return client.stats.received

    assert await received(NUMBERS[:500]) == 500
    assert 1 < await received([bytes(100_000)] * 100) <= 6


@pytest.mark.promise("P6")
async def test_what_comes_behind_the_end_is_not_read_while_our_close_cannot_leave(way):
    """It would be held, for up to a second."""
    if way == "public":
        pytest.skip("through its public API aiohttp reads on and throws it away")
    end = encode_frame(Opcode.TEXT, b"\x07", rsv=RSV1)
    behind = encode_frame(Opcode.BINARY, bytes(60_000)) * 500

    def then(peer):
        peer.stop_reading()

    server = FaultServer(default=Accept(echo=False, deflate=Deflate(), then=then), receive_buffer=8192)
    async with (
        server,
        WebSocketClient(
            server.url, reconnect=SOON, compression="deflate", outbox=LARGE, close_timeout=0.1
        ) as client,
    ):
        peer = await server.connection()
        told = Told(client)
        for _ in range(100):
            await client.send(random.randbytes(100_000))
        link = client._supervisor.active.link
        await until(lambda: link._unsent() > 0)
        peer.raw(end + behind)
        received = 0
        while not told.closes:
            received = max(received, link.look(paused=False).received)
            await asyncio.sleep(0.01)
        assert told.closes[0].sent_code is None
        assert received < 16 * MEBIBYTE


@pytest.mark.promise("P6")
async def test_nothing_is_read_before_somebody_is_told():
    behind = encode_frame(Opcode.BINARY, bytes(60_000)) * 500
    heard = []
    receiver = SimpleNamespace(
        burst=lambda messages, _, wakes: heard.extend(messages),
        wake=lambda: None,
        message=lambda message, _: heard.append(message),
        ended=heard.append,
    )
    options = TransportOptions(compression="deflate")
    async with serving(lambda peer: peer.raw(compressed("first") + behind)) as server:
        link = await make_transport("aiohttp", options).open(Endpoint(server.url), receiver)
        before = -1
        while before != (received := link.look(paused=False).received):
            before = received
            await asyncio.sleep(0.1)
        assert received < 16 * MEBIBYTE
        reading = link.read()
        tasks = [] if reading is None else [asyncio.ensure_future(reading)]
        await until(lambda: len(heard) == 501)
        assert heard[0] == "first"
        link.abort()
        await asyncio.gather(*tasks)
