"""A server to break, in a process of its own: it echoes, streams, keeps a journal of numbers, and speaks TLS if asked.

Any message comes back as it is, except TEXT that begins with ``!``:

====================  ==========================================================================================
``!stream PAUSE N``     messages of N bytes that begin with 0, 1, 2, ...; PAUSE seconds between two, without an end
``!connections``        how many connections are open
``!close CODE``         a CLOSE with that code
``!abort``              a reset instead of a CLOSE
====================  ==========================================================================================

With ``--journal FILE`` a TEXT that begins with a digit does not come back: it is appended to the file, and answered
with the next number of the server's own, which goes on across its connections and its lives (``FILE.next``). Both
survive SIGKILL, since the kernel has them.
"""

import argparse
import asyncio
import contextlib
import json
import mmap
import os
import socket
import ssl
import struct
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

NEXT = struct.Struct("!Q")


class Journal:
    """The numbers that came, and the next one to go."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        counter = os.open(path.with_suffix(".next"), os.O_RDWR | os.O_CREAT)
        os.ftruncate(counter, NEXT.size)
        self.counter = mmap.mmap(counter, NEXT.size)

    def note(self, text: str) -> str:
        """Append what came, and return what is to go."""
        os.write(self.file, text.encode() + b"\n")
        (number,) = NEXT.unpack(self.counter[:])
        self.counter[:] = NEXT.pack(number + 1)
        return str(number)


class Peer:
    """All that the connections share."""

    def __init__(self, journal: Journal | None) -> None:
        self.journal = journal
        self.connections: set[ServerConnection] = set()

    async def serve(self, connection: ServerConnection) -> None:
        """Answer one connection until it ends."""
        self.connections.add(connection)
        streams: list[asyncio.Task[None]] = []
        try:
            async for message in connection:
                if isinstance(message, str) and message.startswith("!"):
                    command, *rest = message.split()
                    if command == "!stream":
                        streams.append(
                            asyncio.create_task(stream(connection, float(rest[0]), int(rest[1])))
                        )
                    elif command == "!connections":
                        await connection.send(str(len(self.connections)))
                    elif command == "!close":
                        await connection.close(int(rest[0]))
                    else:
                        reset(connection)
                elif self.journal is not None and isinstance(message, str):
                    await connection.send(self.journal.note(message))
                else:
                    await connection.send(message)
        except ConnectionClosed:
            return
        finally:
            self.connections.discard(connection)
            for task in streams:
                task.cancel()


async def stream(connection: ServerConnection, pause: float, size: int) -> None:
    """Send numbers until the connection ends."""
    number = 0
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send(f"{number} ".ljust(size, "."))
            number += 1
            await asyncio.sleep(pause)


def reset(connection: ServerConnection) -> None:
    """End the TCP connection with a reset."""
    sock = connection.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--certificate", type=Path)
    arguments = parser.parse_args()
    tls = None
    if arguments.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.certificate)
    peer = Peer(Journal(arguments.journal) if arguments.journal else None)
    async with serve(
        peer.serve,
        arguments.host,
        arguments.port,
        ssl=tls,
        compression=None,
        ping_interval=None,
        open_timeout=None,
        close_timeout=1,
        max_size=None,
    ) as server:
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)
        await server.serve_forever()


asyncio.run(main())
