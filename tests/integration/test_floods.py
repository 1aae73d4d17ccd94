"""A peer that sends as many frames as it can does not hold the event loop, however many such peers there are."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time

import pytest

from resilient_ws import ResilientWSError, WebSocketClient

SERVER = """
import socket, sys, threading
from resilient_ws.testing import Opcode, encode_frame
from resilient_ws.transports.shared.handshake import accept_for

FRAMES = {
    "PINGs": encode_frame(Opcode.PING),
    "PONGs": encode_frame(Opcode.PONG),
    "empty": encode_frame(Opcode.TEXT),
    "tiny": encode_frame(Opcode.TEXT, b"1"),
    "fragments": encode_frame(Opcode.TEXT, fin=False) + encode_frame(Opcode.CONTINUATION),
    "packed": encode_frame(Opcode.TEXT, bytes(1), rsv=4),
    "mixed": encode_frame(Opcode.PING) + encode_frame(Opcode.TEXT) + encode_frame(Opcode.PONG),
}
data = FRAMES[sys.argv[1]] * 50_000
more = "Sec-WebSocket-Extensions: permessage-deflate\\r\\n" if sys.argv[1] == "packed" else ""

def drain(peer):
    try:
        while peer.recv(65536):
            pass
    except OSError:
        pass

def serve(peer):
    request = b""
    while b"\\r\\n\\r\\n" not in request:
        request += peer.recv(4096)
    key = next(line for line in request.split(b"\\r\\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = accept_for(key.split(b":")[1].strip().decode())
    answer = "HTTP/1.1 101 x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    peer.sendall((answer + more + f"Sec-WebSocket-Accept: {accept}\\r\\n\\r\\n").encode())
    threading.Thread(target=drain, args=(peer,), daemon=True).start()
    try:
        while True:
            peer.sendall(data)
    except OSError:
        pass

listening = socket.create_server(("127.0.0.1", 0), backlog=200)
print(listening.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""


@contextlib.contextmanager
def flooding(what):
    with subprocess.Popen([sys.executable, "-c", SERVER, what], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"ws://127.0.0.1:{int(server.stdout.readline())}/"
        finally:
            server.kill()


async def use(client, way):
    with contextlib.suppress(ResilientWSError, TimeoutError):
        if way == "request":
            await client.request("x", lambda message: bool(message) and json.loads(message) == 2, timeout=5)
        async for _ in client:
            pass


@pytest.mark.promise("P2")
@pytest.mark.skipif("os.environ.get('RESILIENT_WS_PLAIN')", reason="it is aiohttp that reads")
@pytest.mark.parametrize("way, count", [("iterate", 1), ("request", 1), ("iterate", 30)])
@pytest.mark.parametrize("what", ["PINGs", "PONGs", "empty", "tiny", "fragments", "packed", "mixed"])
@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
async def test_each_turn_of_the_loop_is_short(transport, what, way, count):
    """Measured in time of the processor, since the machine may be busy."""
    compression = "deflate" if what == "packed" else None
    if compression and transport == "picows":
        pytest.skip("picows does not compress")
    with flooding(what) as url:
        clients = [
            WebSocketClient(url, transport=transport, compression=compression, close_timeout=0.1)
            for _ in range(count)
        ]
        for client in clients:
            client.start()
        async with asyncio.timeout(20):
            await asyncio.gather(*(client.ready() for client in clients))
        using = [asyncio.create_task(use(client, way)) for client in clients]
        turns, until = [], time.monotonic() + 0.25
        while time.monotonic() < until or len(turns) < 20:
            since = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - since)
        await asyncio.gather(*(client.close() for client in clients))
        await asyncio.gather(*using)
    # One turn may read each of the connections for the first time.
    slow = [turn for turn in turns if turn > 0.02]
    assert len(slow) <= (count > 1) * 3, slow
