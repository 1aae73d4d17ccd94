"""A service made of callbacks: `run()` is its main function, and SIGTERM ends it in order.

`run()` returns when the client is closed, by a signal or by `close()`, and raises what ended it otherwise: a service
manager then sees an exit code that is not 0.

Run it: `python examples/service.py [URL] [--seconds 5]`; without a URL it talks to a server of its own. The log goes
to standard error, one line for each step of a connection's life.
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
    """Returns the client with everything that it does."""
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
    """Runs the service until a signal comes, or for so long."""
    client = make_client(url)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await client.run()
    stats = client.stats
    print(
        f"received {stats.received}, sent {stats.sent}, confirmed {stats.confirmed} in {stats.opens} connections"
    )


async def give_work(connection: FaultConnection) -> None:
    """The server that is used when none is given: twenty jobs, then it hangs up without a word."""
    for number in range(20):
        await connection.send(f"job {number}")
        await connection.recv()
        await asyncio.sleep(0.1)
    connection.fin()


@contextlib.asynccontextmanager
async def a_server(url: str | None) -> AsyncIterator[str]:
    """Yields the address of a server: the one that was given, or one that lives as long as this block."""
    if url is not None:
        yield url
        return
    async with FaultServer(handler=give_work) as server:
        yield server.url


async def main() -> None:
    """Reads the command line and runs the service."""
    parser = argparse.ArgumentParser(description="A service made of callbacks.")
    parser.add_argument("url", nargs="?", help="where the work comes from; default: a server of our own")
    parser.add_argument("--seconds", type=float, help="end after so long; default: when a signal comes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    async with a_server(options.url) as url:
        await serve(url, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
