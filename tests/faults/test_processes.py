"""Processes that are stopped, killed and started again: the server's, and the client's own."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from resilient_ws import CloseOrigin, Outbox, ReconnectEvent, WebSocketClient
from resilient_ws.testing import FaultServer
from tests.faults.watch import (
    HEARTBEAT,
    INTERVAL,
    PATIENCE,
    QUICK,
    TIMEOUT,
    TOLERANCE,
    eventually,
    watching,
)

HEARTBEAT_BOUND = INTERVAL + TIMEOUT


def client_of(url: str, **options: Any) -> WebSocketClient:
    given = {"heartbeat": HEARTBEAT, "reconnect": QUICK, "open_timeout": 0.5} | options
    return WebSocketClient(url, **given)


async def connections_at(client: WebSocketClient) -> int:
    """Return how many connections the server has, as it says itself."""
    return int(await client.request("!connections", lambda message: str(message).isdigit(), PATIENCE))


# ---- the server


@pytest.mark.slow
@pytest.mark.promise("P3")
@pytest.mark.parametrize("stopped_for", [0.3, 0.45])
async def test_a_server_stopped_for_less_than_the_heartbeat_keeps_its_connection(local_peer, stopped_for):
    async with watching(client_of(local_peer.url)) as watch:
        for _ in range(2):
            await watch.pong()  # the next ping comes when it has gone on again, or stands still before it
            await asyncio.sleep(INTERVAL / 2)
            local_peer.suspend()
            await watch.client.send("meanwhile")
            await asyncio.sleep(stopped_for)
            local_peer.resume()
            assert await watch.recv() == "meanwhile"
        watch.assert_never_closed()
        assert await connections_at(watch.client) == 1


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    "stopped_for", [2, pytest.param(5, marks=pytest.mark.soak), pytest.param(20, marks=pytest.mark.soak)]
)
async def test_a_server_stopped_for_longer_comes_back_without_a_second_connection(local_peer, stopped_for):
    client = client_of(local_peer.url, outbox=Outbox(on_uncertain="resend"))
    async with watching(client) as watch:
        await watch.pong()
        local_peer.suspend()
        since = time.monotonic()
        await client.send("meanwhile")
        closed = await watch.closed()
        assert closed.event.origin is CloseOrigin.HEARTBEAT
        watch.record("noticed after", closed.at - watch.heard_at)
        assert closed.at - watch.heard_at <= watch.bound(HEARTBEAT_BOUND, watch.heard_at)
        await asyncio.sleep(since + stopped_for - time.monotonic())
        local_peer.resume()
        await watch.nth(ReconnectEvent, 1)
        assert await watch.recv() == "meanwhile"

        async def only_one() -> bool:
            return await connections_at(client) == 1

        await eventually(only_one)
        assert len(watch.of(ReconnectEvent)) == 1


@pytest.mark.slow
@pytest.mark.promise("P2")
async def test_a_killed_server_is_noticed_at_once_and_found_again(local_peer):
    client = client_of(local_peer.url, outbox=Outbox(on_uncertain="resend"))
    async with watching(client) as watch:
        for round_number in range(1, 4):
            await client.send(f"before {round_number}", confirm=True)
            assert await watch.recv() == f"before {round_number}"
            since = time.monotonic()
            local_peer.kill()
            closed = await watch.closed(round_number)
            assert (closed.event.code, closed.event.origin) == (1006, CloseOrigin.NETWORK)
            watch.record("noticed after", closed.at - since)
            assert closed.at - since <= watch.bound(0, since)
            await client.send(f"meanwhile {round_number}")
            await local_peer.async_start()
            await watch.opened(round_number + 1)
            assert await watch.recv() == f"meanwhile {round_number}"
            assert await connections_at(client) == 1


@pytest.mark.slow
@pytest.mark.promise("P1")
async def test_a_server_that_ends_as_an_operator_ends_it(local_peer):
    async with watching(client_of(local_peer.url)) as watch:
        await local_peer.async_restart()
        closed = await watch.closed()
        assert closed.event.origin in {CloseOrigin.PEER, CloseOrigin.NETWORK}
        await watch.opened(2)
        assert await connections_at(watch.client) == 1


# ---- the client


class Child:
    """A client in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.told.append(json.loads(line))

    def names(self) -> list[str]:
        return [word["event"] for word in self.told]


@contextlib.asynccontextmanager
async def child_of(url: str) -> AsyncIterator[Child]:
    command = (sys.executable, "-m", "tests.faults.run_client", url)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    child = Child(process)
    reading = asyncio.create_task(child.read())
    try:
        yield child
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        await process.wait()
        await reading


async def pinged(conn: Any, after: int) -> None:
    """Wait until the server has got a PING beyond the first ``after``."""
    async with asyncio.timeout(PATIENCE):
        while len(conn.pings) <= after:
            await asyncio.sleep(0.002)


@pytest.mark.slow
@pytest.mark.promise("P3")
async def test_a_client_stopped_for_longer_than_its_heartbeat_probes_and_stays(record_property):
    async with FaultServer() as server, child_of(server.url) as child:
        conn = await server.connection(PATIENCE)
        await pinged(conn, 1)
        for stopped_for in (1.2 * HEARTBEAT_BOUND, 2.4 * HEARTBEAT_BOUND):
            os.kill(child.process.pid, signal.SIGSTOP)
            await asyncio.sleep(stopped_for)
            seen = len(conn.pings)
            woken_at = asyncio.get_running_loop().time()
            os.kill(child.process.pid, signal.SIGCONT)
            await pinged(conn, seen)
            record_property("probed after", conn.pings[seen].at - woken_at)
            assert conn.pings[seen].at - woken_at <= INTERVAL / 2, "the probe comes at once"
            await pinged(conn, seen + 2)
        assert child.names() == ["OpenEvent"]
        assert len(server.connections) == 1


@pytest.mark.slow
@pytest.mark.promise("P2")
async def test_a_client_whose_peer_vanished_while_it_was_stopped(record_property):
    async with FaultServer() as server, child_of(server.url) as child:
        conn = await server.connection(PATIENCE)
        await pinged(conn, 1)
        await asyncio.sleep(
            INTERVAL / 3
        )  # the answer has been read: one that is read later is life, and news
        os.kill(child.process.pid, signal.SIGSTOP)
        conn.go_silent()
        await asyncio.sleep(2 * HEARTBEAT_BOUND)
        woken_at = time.monotonic()
        os.kill(child.process.pid, signal.SIGCONT)
        await server.connection(PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while len(child.told) < 3:
                await asyncio.sleep(0.005)
        assert child.names() == ["OpenEvent", "CloseEvent", "OpenEvent"]
        closed = child.told[1]
        assert closed["origin"] == "heartbeat"
        record_property("noticed after", closed["at"] - woken_at)
        assert TIMEOUT - TOLERANCE <= closed["at"] - woken_at <= TIMEOUT + 2 * TOLERANCE
