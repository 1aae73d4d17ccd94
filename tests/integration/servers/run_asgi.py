"""The little protocol as an ASGI application, on uvicorn (two WebSocket implementations) or on hypercorn."""

import asyncio
import signal
import socket
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import little_protocol
import uvicorn


class Peer:
    def __init__(self, scope: Any, send: Any, subprotocol: str | None) -> None:
        self.scope = scope
        self.send = send
        self.chosen = subprotocol

    async def send_text(self, text: str) -> None:
        await self.send({"type": "websocket.send", "text": text})

    async def send_binary(self, data: bytes) -> None:
        await self.send({"type": "websocket.send", "bytes": data})

    async def send_fragments(self, parts: tuple[str, ...]) -> None:
        raise NotImplementedError("ASGI has no fragments")

    async def close(self, code: int, reason: str) -> None:
        await self.send({"type": "websocket.close", "code": code, "reason": reason})

    def abort(self) -> None:
        little_protocol.drop_connection(tuple(self.scope["client"]))

    def subprotocol(self) -> str | None:
        return self.chosen

    def headers(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    assert (await receive())["type"] == "websocket.connect"
    refusal = little_protocol.refusal(scope["path"])
    if refusal is not None:
        status, _, headers = refusal
        fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        fields.append((b"content-length", b"0"))
        await send({"type": "websocket.http.response.start", "status": int(status), "headers": fields})
        await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})
        return
    offered = scope["subprotocols"]
    chosen = next((name for name in little_protocol.SUBPROTOCOLS if name in offered), None)
    await send({"type": "websocket.accept", "subprotocol": chosen})
    peer = Peer(scope, send, chosen)
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if not await little_protocol.answer(peer, bytes(event["bytes"]) if text is None else text):
            break
    while event["type"] != "websocket.disconnect":
        event = await receive()


async def serve_uvicorn(listening: socket.socket, implementation: Any) -> None:
    config = uvicorn.Config(
        application,
        ws=implementation,
        ws_max_size=little_protocol.MAX_MESSAGE_SIZE,
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    await uvicorn.Server(config).serve(sockets=[listening])


async def serve_hypercorn(listening: socket.socket) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.websocket_max_message_size = little_protocol.MAX_MESSAGE_SIZE
    config.graceful_timeout = 1
    await hypercorn.asyncio.serve(application, config, shutdown_trigger=stop.wait)


async def main() -> None:
    arguments = little_protocol.read_arguments("server")
    listening = little_protocol.listening_socket(arguments)
    little_protocol.report_ready(
        listening
    )  # it listens: who connects before the library accepts waits its turn
    if arguments.server == "hypercorn":
        await serve_hypercorn(listening)
    else:
        await serve_uvicorn(listening, arguments.server)


asyncio.run(main())
