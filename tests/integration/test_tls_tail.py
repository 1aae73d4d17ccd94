"""What stands before the peer's end of stream reaches the program, also with TLS and while the loop was busy.

asyncio and uvloop give a TLS protocol what fits into its buffer, and the rest later; what an end of stream overtakes is lost.
"""

import asyncio
import base64
import hashlib
import ssl
import threading
import time
from socket import SO_SNDBUF, SOL_SOCKET, create_server

import pytest
import uvloop

from resilient_ws import Inbox, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import Opcode, encode_frame
from tests.integration import tls

WARM = encode_frame(Opcode.TEXT, b"w" * 1000) * 8000
"""After that the kernel takes in much at once."""
LARGE = encode_frame(Opcode.BINARY, b"x" * 220_000)
SMALL = encode_frame(Opcode.TEXT, b"z" * 1000)
ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n{}\r\n"
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


class Server(threading.Thread):
    """Sends each part when it may, then says goodbye at once."""

    def __init__(self, parts, *, compression):
        super().__init__()
        self.listener = create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.listener.setsockopt(SOL_SOCKET, SO_SNDBUF, 4 << 20)
        self.url = f"wss://localhost:{self.listener.getsockname()[1]}"
        self.extensions = DEFLATE if compression else ""
        self.parts = [(part, threading.Event()) for part in parts]

    def run(self):
        accepted, _ = self.listener.accept()
        accepted.settimeout(20)
        with tls.good().wrap_socket(accepted, server_side=True) as peer:
            head = b""
            while b"\r\n\r\n" not in head:
                head += peer.recv(4096)
            key = next(
                line.split(b":")[1].strip()
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"sec-websocket-key")
            )
            accept = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False)
            peer.sendall(ANSWER.format(base64.b64encode(accept.digest()).decode(), self.extensions).encode())
            for part, may in self.parts:
                may.wait(20)
                peer.sendall(part)
            peer.settimeout(0.05)
            try:
                peer.unwrap()
            except (OSError, ssl.SSLError):
                pass  # it has said so, which is all

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        for _, may in self.parts:
            may.set()
        self.join(25)
        self.listener.close()


async def receive(server, count, **options):
    """Takes what comes; the loop stands still while the server sends and ends."""
    async with WebSocketClient(
        server.url,
        ssl=tls.trusting(),
        inbox=Inbox(max_messages=100_000, max_bytes=1 << 26),
        reconnect=ReconnectPolicy(first_delay=9, min_delay=9),
        **options,
    ) as client:
        closed = asyncio.Event()
        client.on_close(lambda _: closed.set())
        server.parts[0][1].set()
        async with asyncio.timeout(20):
            while client.stats.received < 8000:
                await asyncio.sleep(0.01)
            for _, may in server.parts[1:]:
                may.set()
                time.sleep(0.2)  # that is what is tried
                if may is not server.parts[-1][1]:
                    await asyncio.sleep(0.05)
            await closed.wait()
        return client.stats.received - 8000, count


@pytest.mark.promise("P3")
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    "transport, compression", [("aiohttp", None), ("aiohttp", "deflate"), ("picows", None)]
)
@pytest.mark.parametrize(
    "parts, count",
    [
        ([LARGE[:100], LARGE[100:]], 1),
        ([LARGE], 1),
        ([LARGE[:5000], LARGE[5000:] + SMALL], 2),
        ([SMALL * 250], 250),
    ],
)
def test_nothing_is_lost_of_what_came_before_the_end(parts, count, transport, compression, loop):
    with (
        Server([WARM, *parts], compression=compression) as server,
        asyncio.Runner(loop_factory=loop) as runner,
    ):
        received, sent = runner.run(receive(server, count, transport=transport, compression=compression))
    assert received == sent
