"""The little protocol on the server of ``websockets``."""

import asyncio
import signal
from collections.abc import Sequence

import little_protocol
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol


class Peer:
    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def send_text(self, text: str) -> None:
        await self.connection.send(text)

    async def send_binary(self, data: bytes) -> None:
        await self.connection.send(data)

    async def send_fragments(self, parts: tuple[str, ...]) -> None:
        await self.connection.send(parts)

    async def close(self, code: int, reason: str) -> None:
        await self.connection.close(code, reason)

    def abort(self) -> None:
        self.connection.transport.abort()

    def subprotocol(self) -> str | None:
        return self.connection.subprotocol

    def headers(self) -> dict[str, str]:
        assert self.connection.request is not None
        return dict(self.connection.request.headers.raw_items())


async def talk(connection: ServerConnection) -> None:
    peer = Peer(connection)
    try:
        async for message in connection:
            if not await little_protocol.answer(peer, message):
                return
    except ConnectionClosed:
        return


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    refusal = little_protocol.refusal(request.path)
    if refusal is None:
        return None
    status, phrase, headers = refusal
    return Response(status, phrase, Headers(headers | {"Content-Length": "0"}))


def choose(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((Subprotocol(name) for name in little_protocol.SUBPROTOCOLS if name in offered), None)


async def main() -> None:
    arguments = little_protocol.read_arguments()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listening = little_protocol.listening_socket(arguments)
    async with serve(
        talk,
        sock=listening,
        select_subprotocol=choose,
        process_request=refuse,
        max_size=little_protocol.MAX_MESSAGE_SIZE,
        compression="deflate",
    ):
        little_protocol.report_ready(listening)
        await stop.wait()


asyncio.run(main())
