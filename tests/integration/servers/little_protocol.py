"""What every test server answers, whatever library it is made of.

Any message comes back as it is, TEXT as TEXT and BINARY as BINARY, except TEXT that begins with ``!``:

==================  =================================================================================
``!close C REASON``  the server closes with code C and the (possibly empty) reason
``!count N``         N text messages, ``0`` to ``N-1``
``!abort``           the TCP connection ends without a close frame
``!subprotocol``     the negotiated subprotocol, empty if none
``!headers NAME``    the value of the request header, empty if absent
``!big N``           one text message of N times ``x``
``!fragment``        the text ``fragmented`` in three frames
==================  =================================================================================

The server speaks the subprotocols ``chat.v2`` and ``chat.v1``. The path ``/refuse/STATUS`` is refused with that HTTP
status, and with ``Retry-After: 7`` where it is 429 or 503. What a server's library cannot do is missing from the
features in ``kinds.py``.

This file is imported by the servers, each its own process, and therefore imports nothing from the tests.
"""

import argparse
import json
import os
import socket
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

SUBPROTOCOLS = ("chat.v2", "chat.v1")
MAX_MESSAGE_SIZE = 64 * 2**20
FRAGMENTS = ("frag", "men", "ted")


class Peer(Protocol):
    """One connection, as the library of the server sees it."""

    async def send_text(self, text: str) -> None:
        """Send one TEXT message."""

    async def send_binary(self, data: bytes) -> None:
        """Send one BINARY message."""

    async def send_fragments(self, parts: tuple[str, ...]) -> None:
        """Send one TEXT message in as many frames as there are parts."""

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; the answers end here."""

    def abort(self) -> None:
        """End the TCP connection without a close frame; the answers end here."""

    def subprotocol(self) -> str | None:
        """Return what was negotiated."""

    def headers(self) -> Mapping[str, str]:
        """Return the request headers; names in any case."""


async def answer(peer: Peer, message: str | bytes) -> bool:
    """Answer one message; return whether the connection goes on."""
    if isinstance(message, bytes):
        await peer.send_binary(message)
        return True
    command, _, rest = message.partition(" ")
    match command:
        case "!close":
            code, _, reason = rest.partition(" ")
            await peer.close(int(code), reason)
            return False
        case "!abort":
            peer.abort()
            return False
        case "!count":
            for number in range(int(rest)):
                await peer.send_text(str(number))
        case "!subprotocol":
            await peer.send_text(peer.subprotocol() or "")
        case "!headers":
            wanted = rest.strip().lower()
            found = [value for name, value in peer.headers().items() if name.lower() == wanted]
            await peer.send_text(found[0] if found else "")
        case "!big":
            await peer.send_text("x" * int(rest))
        case "!fragment":
            await peer.send_fragments(FRAGMENTS)
        case _:
            await peer.send_text(message)
    return True


def refusal(path: str) -> tuple[int, str, dict[str, str]] | None:
    """Return status, reason phrase and headers where the path asks to be refused, else ``None``."""
    if not path.startswith("/refuse/"):
        return None
    status = HTTPStatus(int(path.removeprefix("/refuse/")))
    return status, status.phrase, {"Retry-After": "7"} if status in {429, 503} else {}


def drop_connection(peername: tuple[str, int]) -> None:
    """End the TCP connection with this peer below whatever library holds it: no close frame leaves any more."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            connection = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # not a socket, or closed meanwhile
            continue
        with connection:
            try:
                if connection.family == socket.AF_INET and connection.getpeername() == tuple(peername[:2]):
                    connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # listening, or closed meanwhile
                continue


def read_arguments(*names: str) -> argparse.Namespace:
    """Read ``--host``, ``--port`` and the named options from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    for name in names:
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


def listening_socket(arguments: argparse.Namespace) -> socket.socket:
    """Return a socket that listens there; port 0 is one that is free."""
    return socket.create_server((arguments.host, arguments.port), backlog=512)


def report_ready(listening: socket.socket) -> None:
    """Tell whoever started this process that connections are accepted from now on."""
    print(json.dumps({"port": listening.getsockname()[1], "pid": os.getpid()}), flush=True)
