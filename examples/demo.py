"""One client against an unfriendly server, in about 20 seconds: `make demo`.

Everything printed is measured while it happens, and the messages are counted at the end. The exit code is 0 if every
numbered message arrived in both directions, else 1. To check that the count is honest, let the server discard a
message: `make demo ARGS="--swallow 50"`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable

from resilient_ws import (
    CloseEvent,
    CloseOrigin,
    ConnectError,
    Connection,
    Heartbeat,
    OpenEvent,
    Outbox,
    ReconnectEvent,
    ReconnectPolicy,
    RetryEvent,
    WebSocketClient,
)
from resilient_ws.testing import FaultConnection, FaultServer, NeverAnswer, Refuse, Report, report_numbers

EVERY = 0.05
"""Seconds between two messages, in each direction."""

HEARTBEAT = Heartbeat(interval=1, timeout=1)
"""Short, so that the demo is quick. The defaults are 15 and 10 seconds."""

POLICY = ReconnectPolicy(first_delay=0.5, min_delay=0.2, max_delay=1, min_uptime=1)

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


# ------------------------------------------------------------------------------------------------ what is printed


class Screen:
    """Prints lines with the time. Uses colours only on a terminal, and never if NO_COLOR is set."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._coloured = (
            sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )

    def coloured(self, text: str, colour: str) -> str:
        """Returns `text`, in `colour` if colours are on."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self._coloured else text

    def line(self, text: str = "") -> None:
        """Prints immediately, also into a pipe."""
        print(text, flush=True)

    def at(self, text: str) -> None:
        """Prints `text` after the time."""
        elapsed = f"{time.monotonic() - self._began:5.1f} s"
        self.line(f"{self.coloured(elapsed, 'dim')}  {text}")

    def step(self, word: str, colour: str, text: str) -> None:
        """Prints a detail of the current scene."""
        self.at(f"  {self.coloured(f'{word:<8}', colour)}  {text}")


# ------------------------------------------------------------------------------------------------ the server's side


class Station:
    """The application behind the unfriendly server: it counts what it receives, and sends numbers.

    The client starts each connection with the first number that it needs, so it misses nothing that the server sent to
    a dead connection.
    """

    def __init__(self, swallow: int | None) -> None:
        self.numbers: list[int] = []
        self._swallow = swallow
        self._began = time.monotonic()
        self._stopped_at: int | None = None

    @property
    def made(self) -> int:
        """How many numbers it has made for the client so far."""
        if self._stopped_at is not None:
            return self._stopped_at
        return int((time.monotonic() - self._began) / EVERY)

    def stop(self) -> None:
        """Stops making numbers."""
        self._stopped_at = self.made

    async def serve(self, connection: FaultConnection) -> None:
        """Serves one client until its connection ends."""
        wanted = int(await connection.recv())
        feed = asyncio.create_task(self._feed(connection, wanted))
        try:
            async for message in connection:
                number = int(message)
                if number != self._swallow:
                    self.numbers.append(number)
        finally:
            feed.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionResetError):
                await feed

    async def _feed(self, connection: FaultConnection, number: int) -> None:
        while True:
            while number < self.made:
                await connection.send(str(number))
                number += 1
            await asyncio.sleep(EVERY / 2)


# ------------------------------------------------------------------------------------------------ the client's side


class Traffic:
    """The client application: it sends a number every `EVERY` seconds, and receives those of the server."""

    def __init__(self, url: str) -> None:
        self.sent = 0
        self.received: list[int] = []
        self._news = asyncio.Event()
        self.most_waiting = 0
        """The highest number of pending messages since the last call of `begin_outage`."""
        self.client = WebSocketClient(
            url,
            setup=self._resume,
            heartbeat=HEARTBEAT,
            reconnect=POLICY,
            outbox=Outbox(on_uncertain="resend"),
            open_timeout=2,
        )

    async def _resume(self, connection: Connection) -> None:
        """Tells the server the first number that the client needs, on each new connection before pending messages."""
        await connection.send(str(self.received[-1] + 1 if self.received else 0))

    async def send(self) -> None:
        """Sends the numbers, whether there is a connection or not."""
        while True:
            await self.client.send(str(self.sent))
            self.sent += 1
            self.look()
            await asyncio.sleep(EVERY)

    async def receive(self) -> None:
        """Receives numbers until the client is closed."""
        async for message in self.client:  # one loop, across every outage
            self.received.append(int(message))
            self._news.set()

    async def has(self, count: int) -> None:
        """Waits until `count` numbers have arrived."""
        while len(self.received) < count:
            self._news.clear()
            await self._news.wait()

    def look(self) -> None:
        """Records how many messages are pending now."""
        self.most_waiting = max(self.most_waiting, self.client.stats.waiting)

    def begin_outage(self) -> None:
        """Resets the highest number of pending messages."""
        self.most_waiting = 0


# ------------------------------------------------------------------------------------------------ what goes wrong


Mishap = Callable[[FaultServer], Awaitable[None]]


async def restart(server: FaultServer) -> None:
    """Sends CLOSE 1012, and does not listen on the port for a second."""
    for connection in server.open_connections:
        connection.close(1012, "back in a second")
    await server.stop("fin")
    await asyncio.sleep(1)
    await server.start()


async def reset(server: FaultServer) -> None:
    """Sends TCP RST."""
    server.drop_all("rst")


async def fall_silent(server: FaultServer) -> None:
    """Keeps the socket open, sends nothing, and discards what arrives."""
    for connection in server.open_connections:
        connection.go_silent(discard=True)


async def hang_up(server: FaultServer) -> None:
    """Sends TCP FIN without a CLOSE frame."""
    server.drop_all("fin")


async def refuse(server: FaultServer) -> None:
    """Answers the next handshake with 503."""
    server.next(Refuse(503, retry_after=2))
    server.drop_all("rst")


async def say_nothing(server: FaultServer) -> None:
    """Never answers the next handshake."""
    server.next(NeverAnswer())
    server.drop_all("fin")


MISHAPS: list[tuple[str, Mishap]] = [
    ("The server restarts: it sends a CLOSE, and for a second it does not listen.", restart),
    ("The connection is reset (TCP RST), as by a crash or a firewall.", reset),
    ("The server falls silent: no CLOSE, no error, and everything sent to it vanishes.", fall_silent),
    ("The connection ends without a CLOSE frame (TCP FIN), as by a proxy's idle timeout.", hang_up),
    ("The server is overloaded: it drops the client, then refuses it with HTTP 503, Retry-After: 2.", refuse),
    (
        "The server drops the client again, accepts the next connection, and never answers the handshake.",
        say_nothing,
    ),
]


# ------------------------------------------------------------------------------------------------ the story


class Story:
    """Causes one fault after the other, and prints how the client reacts."""

    def __init__(self, screen: Screen, server: FaultServer, traffic: Traffic) -> None:
        self.outages = 0
        self.detected: list[float] = []
        self._screen = screen
        self._server = server
        self._traffic = traffic
        self._events = traffic.client.events()
        self._broken_at = 0.0
        self._is_back = asyncio.Event()

    async def go_wrong(self, title: str, mishap: Mishap) -> None:
        """Causes one fault, and waits until the client is back."""
        self._is_back.clear()
        self._traffic.begin_outage()
        self._screen.line()
        self._screen.at(self._screen.coloured(title, "bold"))
        self._broken_at = time.monotonic()
        await mishap(self._server)
        async with asyncio.timeout(15):
            await self._is_back.wait()

    async def narrate(self) -> None:
        """Describes the client's events in words."""
        async for event in self._events:
            if isinstance(event, OpenEvent) and event.first:
                self._screen.at("Connected.")
                self._is_back.set()
            elif isinstance(event, CloseEvent) and not event.final:
                self._tell_close(event)
            elif isinstance(event, RetryEvent):
                self._tell_retry(event)
            elif isinstance(event, ReconnectEvent):
                self._tell_back(event)

    def _tell_close(self, event: CloseEvent) -> None:
        after = time.monotonic() - self._broken_at
        self._traffic.look()
        self.outages += 1
        self.detected.append(after)
        if event.origin is CloseOrigin.PEER:
            how = f'the server sent CLOSE {event.code}, "{event.reason}"'
        elif event.origin is CloseOrigin.HEARTBEAT:
            how = f"no CLOSE, no reset: the heartbeat noticed: {event.cause}"
        else:
            how = f"the network reported it: {event.cause}"
        self._screen.step("noticed", "yellow", f"after {after:.3f} s: {how}")
        if event.synthesized:
            self._screen.step(
                "", "yellow", f"no CLOSE from the server: the close event has code {event.code}"
            )

    def _tell_retry(self, event: RetryEvent) -> None:
        if isinstance(event.cause, ConnectError):
            self._screen.step("failed", "yellow", f"{event.cause}")
        self._screen.step("", "yellow", f"next attempt in {event.delay:.1f} s")

    def _tell_back(self, event: ReconnectEvent) -> None:
        attempts = "attempt" if event.attempts == 1 else "attempts"
        self._screen.step("back", "green", f"after {event.downtime:.1f} s and {event.attempts} {attempts}")
        waited = self._traffic.most_waiting
        self._screen.step("", "green", f"{waited} pending messages are sent in order")
        if event.resent:
            text = f"{event.resent} of them were in flight when the connection dropped, and are sent again"
            self._screen.step("", "green", text)
        self._is_back.set()


def summary(screen: Screen, story: Story, sent: int, there: Report, made: int, here: Report) -> bool:
    """Prints the summary, and returns whether nothing was lost."""
    lost = len(there.lost) + len(here.lost)
    order = "in order" if not (there.reordered or here.reordered) else "NOT in order"
    again = len(there.duplicated)
    bound = HEARTBEAT.interval + HEARTBEAT.timeout
    screen.line()
    screen.line(screen.coloured("Summary", "bold"))
    screen.line(f"  outages      {story.outages}")
    screen.line(f"  detected in  {', '.join(f'{after:.3f} s' for after in story.detected)}")
    screen.line(f"               (a silent server: at most interval + timeout = {bound:g} s)")
    screen.line(
        f"  sent         {sent} by the client, {sent - len(there.lost)} counted at the server, {order}"
    )
    screen.line(f"               ({again} of them arrived more than once because they were sent again)")
    screen.line(f"  received     {made} made by the server, {made - len(here.lost)} counted at the client")
    screen.line(f"  lost         {screen.coloured(str(lost), 'red' if lost else 'green')}")
    for name, report in (("client to server", there), ("server to client", here)):
        if report.lost:
            screen.line(f"               {name}: {', '.join(map(str, report.lost[:10]))}")
    return not (lost or there.reordered or here.reordered)


async def play(screen: Screen, scenes: int, swallow: int | None) -> bool:
    """Runs the demo, and returns whether nothing was lost."""
    station = Station(swallow)
    async with FaultServer(handler=station.serve) as server:
        screen.line(f"One client against an unfriendly server, on this machine: {server.url}")
        screen.line(
            f"Each sends the other {1 / EVERY:.0f} numbered messages a second. They are counted at the end."
        )
        screen.line()
        traffic = Traffic(server.url)
        story = Story(screen, server, traffic)
        telling = asyncio.create_task(story.narrate())
        async with traffic.client as client:
            sending = asyncio.create_task(traffic.send())
            receiving = asyncio.create_task(traffic.receive())
            for number, (title, mishap) in enumerate(MISHAPS[:scenes], start=1):
                await asyncio.sleep(1.2)
                await story.go_wrong(f"{number}. {title}", mishap)
            await asyncio.sleep(1)
            sending.cancel()
            station.stop()
            await client.flush(timeout=5)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await traffic.has(station.made)
        await asyncio.gather(telling, receiving)
    there = report_numbers(station.numbers, traffic.sent)
    here = report_numbers(traffic.received, station.made)
    return summary(screen, story, traffic.sent, there, station.made, here)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Run a client against an unfriendly server.")
    parser.add_argument(
        "--scenes", type=int, default=len(MISHAPS), metavar="N", help="run only the first N scenes"
    )
    parser.add_argument("--swallow", type=int, metavar="N", help="let the server discard message N")
    options = parser.parse_args()
    # The demo describes the events in its own words. A program would keep the log.
    logging.getLogger("resilient_ws").addHandler(logging.NullHandler())
    try:
        nothing_lost = asyncio.run(
            asyncio.wait_for(play(Screen(), options.scenes, options.swallow), timeout=60)
        )
    except TimeoutError:
        print("The demo did not finish in time.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if nothing_lost else 1


if __name__ == "__main__":
    sys.exit(main())
