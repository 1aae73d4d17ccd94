"""What a connection that was given up has not delivered never arrives later, however it was given up."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator

import pytest

from resilient_ws import Outbox, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import Opcode, encode_frame
from resilient_ws.transports.shared.handshake import accept_for
from tests.integration import tls
from tests.integration.listening import Told

pytestmark = [pytest.mark.usefixtures("transport"), pytest.mark.promise("P4")]

SIZE = 10_000
COUNT = 60
AGAIN = ReconnectPolicy(first_delay=0, min_delay=0)


class Peer:
    """One connection of a server that reads only when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def shake_hands(self) -> None:
        request = await self.reader.readuntil(b"\r\n\r\n")
        key = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        accept = accept_for(key.split(b":")[1].strip().decode())
        answer = f"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        self.writer.write(answer.encode())
        await self.writer.drain()

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()

    async def rest(self) -> bytes:
        """All that still comes."""
        self.writer.transport.resume_reading()
        data = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                while part := await self.reader.read(1 << 20):
                    data += part
        return data


class Server:
    """Listens with a small receive buffer; `peers` are its connections."""

    def __init__(self) -> None:
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self.url = ""
        self._is_over = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._is_over:
            writer.transport.abort()
            return
        peer = Peer(reader, writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the client may close before
            await peer.shake_hands()
            self.peers.put_nowait(peer)

    @contextlib.asynccontextmanager
    async def listening(self, context: ssl.SSLContext | None) -> AsyncIterator["Server"]:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind(("127.0.0.1", 0))
        made = await asyncio.start_server(self.serve, sock=sock, ssl=context, limit=4096)
        self.url = f"{'ws' if context is None else 'wss'}://localhost:{sock.getsockname()[1]}/"
        try:
            yield self
        finally:
            made.close()
            self._is_over = True
            for writer in self._writers:
                writer.transport.abort()
            await made.wait_closed()
            for _ in range(5):
                await asyncio.sleep(0)  # what was accepted just now is served in one of the next turns


def made(server: Server) -> WebSocketClient:
    secure = server.url.startswith("wss")
    return WebSocketClient(
        server.url,
        heartbeat=None,
        ssl=tls.trusting() if secure else True,
        outbox=Outbox(confirm=True, max_bytes=64 << 20),
        reconnect=AGAIN,
        close_timeout=0.2,
    )


def reconnect_now(client: WebSocketClient, peer: Peer) -> None:
    client.reconnect_now()


def closes(client: WebSocketClient, peer: Peer) -> None:
    peer.writer.write(encode_frame(Opcode.CLOSE, struct.pack("!H", 1012)))


def breaks_the_protocol(client: WebSocketClient, peer: Peer) -> None:
    peer.writer.write(b"\xf3\x00")


def sends_too_much(client: WebSocketClient, peer: Peer) -> None:
    peer.writer.write(encode_frame(Opcode.TEXT, b"", declared=1 << 40))


def ends_its_side(client: WebSocketClient, peer: Peer) -> None:
    if not peer.writer.can_write_eof():
        pytest.skip("TLS of asyncio cannot end one side")
    peer.writer.write_eof()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    "give_up", [reconnect_now, closes, breaks_the_protocol, sends_too_much, ends_its_side]
)
async def test_nothing_of_the_old_connection_arrives_once_there_is_a_new_one(give_up, secure):
    async with Server().listening(tls.good() if secure else None) as server:
        client = made(server)
        async with client:
            old = await server.peers.get()
            old.stop_reading()
            for number in range(COUNT):
                await client.send(f"old {number:03} " + "x" * SIZE)
            await asyncio.sleep(0.1)
            give_up(client, old)
            async with asyncio.timeout(5):
                new = await server.peers.get()
            await client.ready()
            await client.send("new")
            await new.reader.readexactly(2 + 4 + 3)
            before = len(old.reader._buffer)
            rest = await old.rest()
            # What its kernel had by then, and what stood in the buffers of its own TLS.
            assert len(rest) - before < 0.6 * COUNT * SIZE


async def test_close_without_an_answer_leaves_nothing_on_its_way():
    async with Server().listening(None) as server:
        client = made(server)
        await client.__aenter__()
        told = Told(client)
        old = await server.peers.get()
        old.stop_reading()
        for _ in range(COUNT):
            await client.send("x" * SIZE)
        await asyncio.sleep(0.1)
        await client.close()
        assert len(told.undelivered) == COUNT
        rest = await old.rest()
        assert len(rest) < 0.6 * COUNT * SIZE
        assert isinstance(old.reader.exception(), ConnectionResetError)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_a_close_arrives_where_the_peer_has_all_that_stands_before_it(secure):
    async with Server().listening(tls.good() if secure else None) as server:
        async with made(server) as client:
            old = await server.peers.get()
            await client.send("x")
            assert len(await old.reader.readexactly(2 + 4 + 1)) == 7
            await asyncio.sleep(0.1)
            client.reconnect_now()
            rest = await old.rest()
            assert rest.count(b"\x88\x82") == 1
            assert old.reader.exception() is None
