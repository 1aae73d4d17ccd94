"""A service built from callbacks. `run()` is its main function, and SIGTERM shuts it down cleanly.

`run()` returns when the client is closed, by a signal or by `close()`. Otherwise it raises the exception that ended the
client, so a service manager sees a non-zero exit code.

Run it with `python examples/service.py [URL] [--seconds 5]`. Without a URL, it starts its own server. The log goes to
standard error, one line for each change of the connection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from resilient_ws import CloseEvent, Message, ReconnectEvent, UndeliveredEvent, WebSocketClient
from resilient_ws.testing import FaultConnection, FaultServer


def make_client(url: str) -> WebSocketClient:
    """Returns the client with all its callbacks."""
    client = WebSocketClient(url)

    @client.on_message
    async def work(message: Message) -> None:
        await client.send(f"done: {message!s}")

    @client.on_close
    def closed(event: CloseEvent) -> None:
        print("stopped:" if event.final else "lost:", event)

    @client.on_reconnect
    def back(event: ReconnectEvent) -> None:
        print(f"back after {event.downtime:.2f} s")

    @client.on_undelivered
    def unknown(event: UndeliveredEvent) -> None:
        print(f"a message of {event.age:.1f} s is {event.fate}: {event.message!r}")

    return client


async def serve(url: str, seconds: float | None) -> None:
    """Runs the service until a signal arrives or the time is up."""
    client = make_client(url)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await client.run()
    stats = client.stats
    print(
        f"received {stats.received}, sent {stats.sent}, confirmed {stats.confirmed} in {stats.opens} connections"
    )


async def give_work(connection: FaultConnection) -> None:
    """The server used without a URL: it sends twenty jobs, then ends TCP without a CLOSE."""
    for number in range(20):
        await connection.send(f"job {number}")
        await connection.recv()
        await asyncio.sleep(0.1)
    connection.fin()


@contextlib.asynccontextmanager
async def a_server(url: str | None) -> AsyncIterator[str]:
    """Yields the URL of a server: the given one, or a server that runs as long as this block."""
    if url is not None:
        yield url
        return
    async with FaultServer(handler=give_work) as server:
        yield server.url


async def main() -> None:
    """Reads the command line and runs the service."""
    parser = argparse.ArgumentParser(description="A service built from callbacks.")
    parser.add_argument("url", nargs="?", help="the server that sends the jobs; default: start one")
    parser.add_argument(
        "--seconds", type=float, help="stop after this time; default: run until a signal arrives"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    async with a_server(options.url) as url:
        await serve(url, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
