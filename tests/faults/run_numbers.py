"""A server that keeps a journal of the texts that reach it, in a process of its own.

Each TEXT is appended to ``--journal FILE`` in the moment in which its frame is read, so before any later PING is
answered, and is answered with the next two numbers of the server's own, which go on across its connections and its lives
(``FILE.next``). Both survive SIGKILL, since the kernel has them. What still comes from an older connection is noted too,
and not answered, so that no number goes astray. ``!close CODE`` asks for a CLOSE, ``!reset`` for a reset.

With ``--chaos SECONDS`` a chaos proxy takes the port, and for so long breaks the network as ``--seed`` chooses.
"""

import argparse
import asyncio
import json
import mmap
import os
import struct
from pathlib import Path

from resilient_ws.testing import Accept, ChaosProxy, FaultConnection, FaultServer, Opcode
from resilient_ws.testing.proxy.schedule import random_schedule, run_schedule
from resilient_ws.testing.server.wire import Message

NEXT = struct.Struct("!Q")
ANSWERS = 2


class Journal:
    """What came, and the next number to go."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        counter = os.open(path.with_suffix(".next"), os.O_RDWR | os.O_CREAT)
        os.ftruncate(counter, NEXT.size)
        self.counter = mmap.mmap(counter, NEXT.size)

    def note(self, text: str) -> None:
        """Append what came."""
        os.write(self.file, text.encode() + b"\n")

    def next(self) -> str:
        """Return what is to go."""
        (number,) = NEXT.unpack(self.counter[:])
        self.counter[:] = NEXT.pack(number + 1)
        return str(number)


class NumbersServer(FaultServer):
    """Notes and answers each message while its frame is read."""

    def __init__(self, journal: Journal, host: str, port: int) -> None:
        super().__init__(default=Accept(echo=False), host=host, port=port)
        self.journal = journal

    def record_message(self, connection: int, message: Message) -> None:
        """Called with each message, in order."""
        assert isinstance(message, str)
        newest = self.connections[-1]
        if not message.startswith("!"):
            self.journal.note(message)
            if newest.number == connection and newest.sent_close is None:
                for _ in range(ANSWERS):
                    newest.frame(Opcode.TEXT, self.journal.next().encode())
        elif newest.number == connection:
            obey(newest, message)


def obey(connection: FaultConnection, command: str) -> None:
    """End the connection as asked."""
    if command == "!reset":
        connection.rst()
    else:
        connection.close(int(command.split()[1]))


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--chaos", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    port = 0 if arguments.chaos else arguments.port
    async with NumbersServer(Journal(arguments.journal), arguments.host, port) as server:
        print(json.dumps({"port": arguments.port, "pid": os.getpid()}), flush=True)
        if not arguments.chaos:
            await asyncio.Event().wait()
        listen = (arguments.host, arguments.port)
        async with ChaosProxy(server.url, listen=listen, seed=arguments.seed) as proxy:
            await run_schedule(proxy, random_schedule(arguments.seed, arguments.chaos, every=1.0))
            await asyncio.Event().wait()


asyncio.run(main())
