"""A server to break, in a process of its own: it echoes and streams, over TLS if asked.

Any message comes back as it is, except TEXT that begins with ``!``:

====================  ==========================================================================================
``!stream PAUSE N``     messages of N bytes that begin with 0, 1, 2, ...; PAUSE seconds between two, without an end
``!connections``        how many connections are open
====================  ==========================================================================================
"""

import argparse
import asyncio
import contextlib
import json
import os
import ssl
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


class Peer:
    """All that the connections share."""

    def __init__(self) -> None:
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
                        streams.append(asyncio.create_task(stream(connection, float(rest[0]), int(rest[1]))))
                    else:
                        await connection.send(str(len(self.connections)))
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


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", type=Path)
    arguments = parser.parse_args()
    tls = None
    if arguments.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.certificate)
    peer = Peer()
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
