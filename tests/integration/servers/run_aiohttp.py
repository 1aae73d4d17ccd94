"""The little protocol on the server of aiohttp."""

import asyncio
import signal

import little_protocol
from aiohttp import WSCloseCode, WSMsgType, web

connections: set[web.WebSocketResponse] = set()


class Peer:
    def __init__(self, request: web.Request, response: web.WebSocketResponse) -> None:
        self.request = request
        self.response = response

    async def send_text(self, text: str) -> None:
        await self.response.send_str(text)

    async def send_binary(self, data: bytes) -> None:
        await self.response.send_bytes(data)

    async def send_fragments(self, parts: tuple[str, ...]) -> None:
        raise NotImplementedError("aiohttp sends no fragments")

    async def close(self, code: int, reason: str) -> None:
        await self.response.close(code=code, message=reason.encode())

    def abort(self) -> None:
        assert self.request.transport is not None
        self.request.transport.abort()

    def subprotocol(self) -> str | None:
        return self.response.ws_protocol

    def headers(self) -> dict[str, str]:
        return dict(self.request.headers)


async def handle(request: web.Request) -> web.StreamResponse:
    refusal = little_protocol.refusal(request.path)
    if refusal is not None:
        status, phrase, headers = refusal
        return web.Response(status=status, reason=phrase, headers=headers)
    response = web.WebSocketResponse(
        protocols=little_protocol.SUBPROTOCOLS, max_msg_size=little_protocol.MAX_MESSAGE_SIZE, compress=True
    )
    await response.prepare(request)
    connections.add(response)
    peer = Peer(request, response)
    try:
        async for message in response:
            is_data = message.type in {WSMsgType.TEXT, WSMsgType.BINARY}
            if is_data and not await little_protocol.answer(peer, message.data):
                break
    finally:
        connections.discard(response)
    return response


async def say_goodbye(app: web.Application) -> None:
    for response in list(connections):
        await response.close(code=WSCloseCode.GOING_AWAY, message=b"server shutdown")


async def main() -> None:
    arguments = little_protocol.read_arguments()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    app.on_shutdown.append(say_goodbye)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    listening = little_protocol.listening_socket(arguments)
    await web.SockSite(runner, listening).start()
    little_protocol.report_ready(listening)
    await stop.wait()
    await runner.cleanup()


asyncio.run(main())
