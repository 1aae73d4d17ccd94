"""A chat gateway bot: a fresh token for each attempt, identify after the hello, the gateway's own heartbeat.

Such gateways announce the heartbeat interval in their first message. They answer only that heartbeat, not the pings of the
WebSocket protocol:

- The URL comes from a provider, which is called **before each attempt**. An expired token is replaced without further code.
- `setup` runs on each new connection. It reads the hello, sets the heartbeat to the announced interval, identifies, and
  waits for the reply. Messages that the program sends meanwhile are pending until it is done.
- `Heartbeat.app` defines the heartbeat message and recognises its replies, which are not delivered.
- When the gateway asks for it, `reconnect_now(code=4000)` makes a new connection. On 1000, the gateway would drop the
  session.

Run it with `python examples/chat_gateway.py [URL] [--seconds 5]`. Without a URL, it starts its own gateway. With a URL, it
reads the token from the environment variable CHAT_TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from resilient_ws import (
    Attempt,
    CloseEvent,
    Connection,
    Endpoint,
    Heartbeat,
    Message,
    ReconnectPolicy,
    Stop,
    WebSocketClient,
)
from resilient_ws.testing import Accept, Answer, Behaviour, FaultConnection, FaultServer, Refuse, Request

TokenSource = Callable[[], Awaitable[str]]


# ------------------------------------------------------------------------------------------------ the bot


def is_ack(message: Message) -> bool:
    """Whether a message is the reply to a heartbeat."""
    return message == '{"op":"heartbeat_ack"}'


async def identify(connection: Connection) -> None:
    """Sets up one connection. Any exception fails the attempt, and `Stop` ends the client."""
    hello = json.loads(await connection.recv())
    connection.heartbeat(interval=hello["heartbeat_interval"])
    await connection.send(json.dumps({"op": "identify", "intents": ["messages"]}))
    answer = json.loads(await connection.recv())
    if answer["op"] == "invalid_session":
        raise Stop("the gateway rejected the session")
    print(f"ready as {answer['user']}, a heartbeat every {hello['heartbeat_interval']} s")


async def chat(url: str, fetch_token: TokenSource, seconds: float) -> None:
    """Answers messages until the time is up."""

    async def address(attempt: Attempt) -> Endpoint:
        print(f"attempt {attempt.number}: fetching a fresh token")
        return Endpoint(url, headers={"Authorization": f"Bearer {await fetch_token()}"})

    def lost(event: CloseEvent) -> None:
        if not event.final:
            print(f"{event}; retry in {event.retry_in:.2f} s")

    client = WebSocketClient(
        address,
        setup=identify,
        heartbeat=Heartbeat.app('{"op":"heartbeat"}', is_ack, interval=40, timeout=10),
        reconnect=ReconnectPolicy(first_delay=0.5),
        on_close=lost,
    )
    answered = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), client:
            async for message in client:
                event = json.loads(message)
                if event["op"] == "reconnect":
                    client.reconnect_now(code=4000, reason="as asked")  # 1000 would drop the session
                    continue
                await client.send_json({"op": "say", "text": f"you said {event['text']}"})
                answered += 1
    print(f"answered {answered} messages on {client.stats.opens} connections")


# ------------------------------------------------------------------------------------------------ a gateway


class Gateway(Behaviour):
    """The gateway used without a URL. It is strict about tokens and heartbeats, and drops connections."""

    interval = 0.2

    def __init__(self) -> None:
        self._tokens: set[str] = set()

    async def issue(self) -> str:
        """Returns a token that is valid for one connection."""
        token = secrets.token_hex(8)
        self._tokens.add(token)
        return token

    def answer(self, request: Request) -> Answer | None:
        """Accepts clients with an unused token."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self._tokens:
            return Refuse(401).answer(request)
        self._tokens.remove(token)
        return Accept(then=self._talk, answer_pings=False).answer(request)

    async def _talk(self, connection: FaultConnection) -> None:
        await self._say(connection, op="hello", heartbeat_interval=self.interval)
        if json.loads(await connection.recv())["op"] != "identify":
            connection.close(4003, "not authenticated")
            return
        await self._say(connection, op="ready", user="bot-1")
        hearts = 0
        for number in range(4):
            await self._say(connection, op="message", text=f"hello {number}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.interval * 1.5):
                    while json.loads(await connection.recv())["op"] != "heartbeat":
                        pass
                    hearts += 1
                    await self._say(connection, op="heartbeat_ack")
        if hearts < 3:
            connection.close(4009, "no heartbeat, session timed out")
        else:
            await self._say(connection, op="reconnect")
            with contextlib.suppress(ConnectionError):
                while True:
                    await connection.recv()

    async def _say(self, connection: FaultConnection, **message: Any) -> None:
        await connection.send(json.dumps(message, separators=(",", ":")))


@contextlib.asynccontextmanager
async def a_gateway(url: str | None) -> AsyncIterator[tuple[str, TokenSource]]:
    """Yields a URL and a token source: the given URL, or a gateway that runs as long as this block."""

    async def from_environment() -> str:
        return os.environ["CHAT_TOKEN"]

    if url is not None:
        yield url, from_environment
        return
    gateway = Gateway()
    async with FaultServer(default=gateway) as server:
        yield server.url, gateway.issue


async def main() -> None:
    """Reads the command line and runs the bot."""
    parser = argparse.ArgumentParser(description="Run a chat gateway bot.")
    parser.add_argument("url", nargs="?", help="the gateway; default: start one")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    async with a_gateway(options.url) as (url, fetch_token):
        await chat(url, fetch_token, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
