"""The peer of every measurement: a process of its own, on the core that the clients do not use.

    python benchmarks/server.py [--cpu 1] [--cert FILE]

It prints one line, its ports as JSON. What it sends was made before, so that it is never the bottleneck:

    /blast?size=125&kind=text&deflate=0    messages as fast as they are taken; bursts=3 sends three bursts of 256 KiB
    /paced?size=125&interval=0.0001        one message after the other, by the clock
    /sink?size=125                         takes messages of this size, answers pings
    /echo                                  sends back what comes (picows)
    /reset                                 resets the connection a moment after it was opened, and counts
"""

import argparse
import asyncio
import base64
import hashlib
import itertools
import json
import logging
import os
import random
import signal
import socket
import ssl
import struct
import sys
import time
import zlib
from urllib.parse import parse_qsl, urlsplit

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

BURST = 256 * 1024
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TAIL = b"\x00\x00\xff\xff"


def payload(size: int, number: int = 0) -> bytes:
    """ASCII of exactly this size, like the ticker of an exchange: about as compressible as the real thing."""
    rng = random.Random(number)
    made = b""
    while len(made) < size:
        made += json.dumps(
            {
                "e": "trade",
                "s": rng.choice(["BTCUSDT", "ETHUSDT", "SOLUSDT"]),
                "p": f"{rng.uniform(10, 99999):.2f}",
                "q": f"{rng.random():.6f}",
                "t": 1_760_000_000_000 + rng.randrange(10**9),
                "m": rng.random() < 0.5,
            },
            separators=(",", ":"),
        ).encode()
    return made[:size]


def frame(data: bytes, *, kind: str = "text", compressed: bool = False) -> bytes:
    first = (0x81 if kind == "text" else 0x82) | (0x40 if compressed else 0)
    if len(data) < 126:
        return bytes([first, len(data)]) + data
    if len(data) < 65536:
        return struct.pack("!BBH", first, 126, len(data)) + data
    return struct.pack("!BBQ", first, 127, len(data)) + data


def burst(size: int, kind: str, *, deflate: bool, count: int) -> bytes:
    """Frames that may be sent again and again: the first of them refers to nothing before it."""
    compressor = zlib.compressobj(level=6, wbits=-15) if deflate else None
    frames: list[bytes] = []
    for number in range(count):
        data = payload(size, number)
        if compressor is not None:
            data = (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
        frames.append(frame(data, kind=kind, compressed=deflate))
    return b"".join(frames)


def accepted(head: bytes, *, deflate: bool) -> bytes:
    key = next(
        line.split(b": ", 1)[1]
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    extension = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + extension + b"\r\n"
    )


async def serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`/blast`, `/paced` and `/reset`; what the client sends is not looked at."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        url = urlsplit(head.split(b" ", 2)[1].decode())
        options = dict(parse_qsl(url.query))
        size, kind = int(options.get("size", "125")), options.get("kind", "text")
        deflate = options.get("deflate") == "1"
        count = max(1, BURST // (size + 4)) if url.path == "/blast" else 1
        data = burst(size, kind, deflate=deflate, count=count)
        writer.write(accepted(head, deflate=deflate))
        if url.path == "/blast":
            await blast(writer, data, float(options.get("bursts", "inf")))
        elif url.path == "/paced":
            await pace(writer, data, float(options.get("interval", "0.0001")))
        elif url.path == "/sink":
            writer.transport.pause_reading()
            await Sink(writer.transport, size).ended
        elif url.path == "/reset":
            await asyncio.sleep(float(options.get("after", "0.02")))
            writer.write(frame(struct.pack("!d", time.monotonic()), kind="binary"))
            reset(writer)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def blast(writer: asyncio.StreamWriter, data: bytes, bursts: float) -> None:
    for number in itertools.count():
        if writer.transport.is_closing():
            return
        if number >= bursts:
            await asyncio.sleep(0.01)
            continue
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0)  # a write that is taken at once does not suspend


async def pace(writer: asyncio.StreamWriter, data: bytes, interval: float) -> None:
    """Spins between two messages: the sleep of an event loop is not exact enough."""
    due = time.perf_counter()
    for number in itertools.count(1):
        if writer.transport.is_closing():
            return
        due = max(
            due + interval, time.perf_counter()
        )  # who was late does not catch up: that would be a burst
        while time.perf_counter() < due:
            pass
        writer.write(data)
        if number % 20 == 0:
            await writer.drain()
            await asyncio.sleep(0)


class Sink(asyncio.BufferedProtocol):
    """Takes masked messages that all have one size: whole strides of them are looked at by their first bytes."""

    def __init__(self, transport: asyncio.WriteTransport, size: int) -> None:
        self.transport = transport
        self.stride = size + 4 + (2 if size < 126 else 4 if size < 65536 else 10)
        self.skip = 0
        self.rest = b""
        self.buffer = memoryview(bytearray(2**20))
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_protocol(self)
        transport.resume_reading()  # type: ignore[attr-defined]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self.buffer[:nbytes])
        if self.rest:
            data, self.rest = self.rest + data, b""
        position = self.skip
        while position < len(data):
            firsts = data[position :: self.stride]
            position += (len(firsts) - len(firsts.lstrip(b"\x81\x82"))) * self.stride
            if position >= len(data):
                break
            end = position + 6 + (data[position + 1] & 0x7F) if position + 1 < len(data) else len(data) + 1
            if end > len(data):
                self.rest, self.skip = data[position:], 0
                return
            self.answer(data[position:end])
            position = end
        self.skip = position - len(data)

    def answer(self, control: bytes) -> None:
        content = bytes(byte ^ control[2 + index % 4] for index, byte in enumerate(control[6:]))
        kind = control[0] & 0x0F
        if kind == 9:
            self.transport.write(bytes([0x8A, len(content)]) + content)
        elif kind == 8:
            self.transport.write(bytes([0x88, len(content)]) + content)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.ended.done():
            self.ended.set_result(None)


class Echo(WSListener):  # type: ignore[misc]
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--cert")
    args = parser.parse_args()
    if args.cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {args.cpu})
    tls = None
    if args.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.cert)
    loop = asyncio.get_running_loop()
    logging.disable()  # of what comes after a client has gone
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    loop.add_reader(sys.stdin, done.set)  # the one who started it has gone
    stream = await asyncio.start_server(serve_stream, "127.0.0.1", 0, backlog=4096, limit=2**20)
    secure = await asyncio.start_server(serve_stream, "127.0.0.1", 0, ssl=tls, backlog=4096) if tls else None
    echo = await ws_create_server(lambda _: Echo(), "127.0.0.1", 0, backlog=4096)
    ports = {
        "stream": stream.sockets[0].getsockname()[1],
        "echo": echo.sockets[0].getsockname()[1],
        "secure": secure.sockets[0].getsockname()[1] if secure else None,
    }
    print(json.dumps(ports), flush=True)
    await done.wait()
    os._exit(0)  # what is still connected is of no interest


if __name__ == "__main__":
    asyncio.run(main())
