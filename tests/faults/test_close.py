"""`close()` ends in time, whatever it is called into: it wakes who is blocked, and leaves nothing (P7)."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_ws import (
    ClientClosed,
    CloseEvent,
    CloseOrigin,
    Fate,
    Heartbeat,
    Inbox,
    Outbox,
    ReconnectPolicy,
    State,
    WebSocketClient,
)
from resilient_ws.testing import (
    Accept,
    ChaosProxy,
    FaultConnection,
    FaultServer,
    NeverAnswer,
    Refuse,
    leading_number,
)
from tests.conftest import left_tasks, left_timers, open_sockets, until
from tests.faults.watch import PATIENCE, TOLERANCE, TRANSPORTS, Watch, ended, watching

CLOSE_TIMEOUT = 0.5
SLOW_HEARTBEAT = Heartbeat(interval=30)

pytestmark = pytest.mark.promise("P7")


def client_of(url: object, **options: Any) -> WebSocketClient:
    """Return a client whose heartbeat does not end the test before `close()` does."""
    return WebSocketClient(url, **{"heartbeat": SLOW_HEARTBEAT, "close_timeout": CLOSE_TIMEOUT} | options)


async def assert_closes(
    watch: Watch,
    port: int,
    *blocked: Awaitable[Any],
    within: float = CLOSE_TIMEOUT,
    drain: float | None = None,
) -> CloseEvent:
    """`close()` takes no longer than it may; who is blocked ends at once; no task, timer or socket is left."""
    client = watch.client
    ended_at: dict[int, float] = {}
    tasks = [asyncio.ensure_future(call) for call in blocked]
    await asyncio.sleep(0.05)
    for number, task in enumerate(tasks):
        assert not task.done(), f"call {number} is not blocked: {task!r}"
        task.add_done_callback(lambda _, number=number: ended_at.setdefault(number, time.monotonic()))
    since = time.monotonic()
    await client.close(drain=drain)
    took = time.monotonic() - since
    watch.record("closed after", took)
    assert took <= watch.bound(within, since)
    assert client.state is State.CLOSED
    for number, task in enumerate(tasks):
        with pytest.raises(ClientClosed):
            await asyncio.wait_for(task, TOLERANCE)
        watch.record(f"call {number} woken after", ended_at[number] - since)
        assert ended_at[number] - since <= watch.bound(0, since), f"call {number} was not woken at once"
    await until(lambda: not sockets_to(port))
    assert sockets_to(port) == []
    left = [task for task in left_tasks() if task.get_name().startswith("resilient_ws")]
    if left:
        await asyncio.wait(left, timeout=TOLERANCE)
    assert [task for task in left if not task.done()] == []
    assert [
        timer for timer in left_timers(asyncio.get_running_loop()) if "resilient_ws/" in repr(timer)
    ] == []
    final = client.close_event
    assert final is not None
    assert final.final
    assert [told.event for told in watch.of(CloseEvent)][-1] is final
    return final


def sockets_to(port: int) -> list[str]:
    """Return this process's TCP sockets that are connected, or connecting, to a port."""
    inodes = {shown.partition("[")[2].rstrip("]") for shown in open_sockets()}
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [
        f"{row[1]} to {row[2]}, state {row[3]}"
        for row in rows
        if int(row[2].rpartition(":")[2], 16) == port and row[9] in inodes
    ]


async def fill(client: WebSocketClient) -> None:
    """Send until that blocks, and then for ever."""
    while True:
        await client.send(b"x" * 65_536)


async def standing_still(count: Callable[[], int]) -> None:
    """Wait until a number has stopped growing."""
    async with asyncio.timeout(PATIENCE):
        before = -1
        while count() != before or not count():
            before = count()
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def connected(
    server: FaultServer, client: WebSocketClient
) -> AsyncIterator[tuple[Watch, FaultConnection]]:
    """Run both sides of one connection."""
    async with watching(client) as watch:
        yield watch, await server.connection()


@pytest.fixture
def server_tls(authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


# ---- a connection that is open


async def test_the_ordinary_case_is_quick_and_clean():
    async with (
        FaultServer() as server,
        connected(server, client_of(server.url, close_timeout=5)) as (watch, conn),
    ):
        since = time.monotonic()
        final = await assert_closes(watch, server.port, watch.client.recv())
        assert time.monotonic() - since <= watch.bound(1.0, since)  # no timeout was waited for
        assert (final.code, final.was_clean, final.origin) == (1000, True, CloseOrigin.LOCAL)
        assert conn.close_code == 1000


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_full_send_buffer_and_a_peer_that_does_not_read(secure, server_tls, trusting, transport):
    async with FaultServer(receive_buffer=4096, ssl=server_tls if secure else None) as server:
        outbox = Outbox(max_messages=10, max_bytes=64 << 20)
        client = client_of(server.url, ssl=trusting, outbox=outbox, transport=transport)
        async with connected(server, client) as (watch, conn):
            conn.stop_reading()
            filling = asyncio.create_task(fill(client))
            await standing_still(lambda: client.stats.sent)
            assert client.stats.waiting == 10
            final = await assert_closes(watch, server.port, filling, client.flush(), client.recv())
            assert (final.code, final.sent_code, final.unsent) == (1006, 1000, 10)
            fates = [told.event.fate for told in watch.told if hasattr(told.event, "fate")]
            assert fates.count(Fate.ABANDONED) == 10
            assert fates.count(Fate.UNCERTAIN) == client.stats.uncertain == final.uncertain > 0


async def test_a_mute_peer():
    async with FaultServer() as server, connected(server, client_of(server.url)) as (watch, conn):
        conn.go_silent()
        client = watch.client
        await client.send("unanswered")
        blocked = (
            client.recv(),
            client.flush(),
            client.send("confirmed?", confirm=True),
            client.request("?", lambda _: True, None),
        )
        final = await assert_closes(watch, server.port, *blocked)
        assert (final.code, final.synthesized, final.sent_code) == (1006, True, 1000)
        assert final.uncertain == 3


async def test_a_chatty_peer_that_never_answers_a_close():
    async with FaultServer() as server, connected(server, client_of(server.url)) as (watch, conn):
        conn.ignore_close()
        flooding = asyncio.create_task(conn.flood(seconds=PATIENCE, size=1000))
        await asyncio.sleep(0.05)
        final = await assert_closes(watch, server.port)
        assert final.code == 1006
        assert watch.client.stats.discarded > 0
        await ended(flooding)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_full_inbox_does_not_keep_the_goodbye_from_coming(transport):
    async with FaultServer(default=Accept(echo=False)) as server:
        client = client_of(server.url, inbox=Inbox(max_messages=5), transport=transport)
        async with connected(server, client) as (watch, conn):
            await client.send("unconfirmed")
            flooding = asyncio.create_task(conn.flood(20_000, size=1000))
            await standing_still(lambda: client.stats.received)
            final = await assert_closes(watch, server.port)
            assert (final.code, final.was_clean, final.uncertain) == (1000, True, 0)
            await flooding
            left = [leading_number(message) async for message in client]
            assert left == list(range(len(left)))
            assert len(left) == final.unread >= 5
            assert client.stats.discarded > 0


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("direction", ["up", "down", "both"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_black_hole(secure, direction, server_tls, trusting, transport):
    async with FaultServer(ssl=server_tls if secure else None) as server, ChaosProxy(server.url) as proxy:
        async with watching(client_of(proxy.url, ssl=trusting, transport=transport)) as watch:
            proxy.blackhole(direction)
            final = await assert_closes(watch, proxy.port, watch.client.recv())
            assert (final.code, final.sent_code) == (1006, 1000)


async def test_a_drain_that_comes_to_nothing_is_bounded_by_both_limits():
    async with FaultServer() as server, connected(server, client_of(server.url)) as (watch, conn):
        conn.go_silent()
        await watch.client.send("unanswered")
        since = time.monotonic()
        final = await assert_closes(watch, server.port, drain=0.3, within=0.3 + CLOSE_TIMEOUT)
        assert time.monotonic() - since >= 0.3
        assert final.uncertain == 1


async def test_a_drain_across_a_reconnect():
    async with FaultServer() as server:
        client = client_of(
            server.url, reconnect=ReconnectPolicy(0, 0, 0), outbox=Outbox(on_uncertain="resend")
        )
        async with connected(server, client) as (_, conn):
            conn.go_silent()
            await client.send("late")
            closing = asyncio.create_task(client.close(drain=PATIENCE))
            await asyncio.sleep(0.05)
            assert not closing.done()
            conn.rst()
            await asyncio.wait_for(closing, PATIENCE)
            assert client.stats.confirmed == 1
            assert [message for _, message in server.received][-1] == "late"
            assert client.close_event.was_clean


# ---- no connection


@pytest.mark.parametrize("secure", [False, True], ids=["http", "tls"])
async def test_in_a_handshake_that_is_never_answered(secure, trusting):
    async with FaultServer(default=NeverAnswer()) as server:
        url = server.url.replace("ws:", "wss:") if secure else server.url
        async with watching(client_of(url, ssl=trusting), ready=False) as watch:
            await server.until(lambda: server.attempt_count == 1)
            final = await assert_closes(watch, server.port, watch.client.ready(), watch.client.recv())
            assert (final.code, final.opened_for) == (1006, None)


async def test_in_a_dial_whose_packets_are_dropped(network, peer):
    network.drop()
    async with watching(client_of(peer.url), ready=False) as watch:
        await assert_closes(watch, peer.port, watch.client.ready())


async def test_in_a_back_off_with_the_outbox_full():
    async with FaultServer(default=Refuse(503, retry_after=60)) as server:
        client = client_of(server.url, outbox=Outbox(max_messages=1, overflow="wait"))
        async with watching(client, ready=False) as watch:
            assert (await watch.retried()).event.delay >= 60
            await client.send("waits")
            blocked = (client.ready(), client.send("blocked"), client.flush(), client.recv())
            final = await assert_closes(watch, server.port, *blocked)
            assert (final.opened_for, final.unsent) == (None, 1)
            fates = [
                (told.event.message, told.event.fate) for told in watch.told if hasattr(told.event, "fate")
            ]
            assert fates == [("waits", Fate.ABANDONED)]


@pytest.mark.parametrize("waits_in", ["recv", "send", "sleep"])
async def test_in_the_setup(waits_in):
    async def set_up(connection):
        entered.set()
        if waits_in == "recv":
            await connection.recv()
        elif waits_in == "sleep":
            await asyncio.sleep(60)
        while True:
            await connection.send(b"x" * 65_536)

    entered = asyncio.Event()
    deaf = Accept(then=FaultConnection.stop_reading)
    async with FaultServer(default=deaf, receive_buffer=4096) as server:
        async with watching(client_of(server.url, setup=set_up), ready=False) as watch:
            await entered.wait()
            await asyncio.sleep(0.2)
            final = await assert_closes(watch, server.port, watch.client.ready())
            assert final.opened_for is None


async def test_in_a_look_up_that_hangs(monkeypatch):
    answer = threading.Event()
    real = socket.getaddrinfo

    def look_up(host, *arguments, **options):
        if host == "hangs.test":
            answer.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with watching(client_of("ws://hangs.test:9"), ready=False) as watch:
        await assert_closes(watch, 9, watch.client.ready())
    answer.set()


# ---- code of the program that takes its time


async def test_in_a_provider_that_hangs():
    async def where(attempt):
        await asyncio.sleep(60)

    async with watching(client_of(where), ready=False) as watch:
        await assert_closes(watch, 9, watch.client.ready())


async def test_in_a_decision_that_hangs():
    async def decide(failure):
        entered.set()
        await asyncio.sleep(60)

    entered = asyncio.Event()
    async with FaultServer() as server:
        client = client_of(server.url, reconnect=ReconnectPolicy(decide=decide))
        async with connected(server, client) as (watch, conn):
            conn.rst()
            await entered.wait()
            await assert_closes(watch, server.port, client.recv())


@pytest.mark.parametrize("callback", ["on_message", "on_open", "on_close"])
async def test_in_a_callback_that_takes_its_time(callback):
    async def slow(_):
        await asyncio.sleep(60)

    async with FaultServer() as server:
        async with connected(server, client_of(server.url, **{callback: slow})) as (watch, conn):
            await conn.send("to the callback")
            await assert_closes_while_events_wait(watch, server.port)


async def assert_closes_while_events_wait(watch: Watch, port: int) -> None:
    """As `assert_closes`, where a callback keeps the watch from hearing everything."""
    since = time.monotonic()
    await watch.client.close()
    assert time.monotonic() - since <= watch.bound(CLOSE_TIMEOUT, since)
    assert watch.client.state is State.CLOSED
    await until(lambda: not sockets_to(port))
    assert sockets_to(port) == []


async def test_called_from_many_tasks_and_cancelled_in_one():
    async with FaultServer() as server, connected(server, client_of(server.url)) as (watch, conn):
        conn.go_silent()
        closings = [asyncio.create_task(watch.client.close()) for _ in range(5)]
        await asyncio.sleep(0.05)
        closings[0].cancel()
        await assert_closes(watch, server.port, within=CLOSE_TIMEOUT - 0.05)
        with pytest.raises(asyncio.CancelledError):
            await closings[0]
        await asyncio.gather(*closings[1:])


# ---- another loop


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_a_black_hole_under_uvloop(uvloop_runner, secure, server_tls, trusting):
    uvloop_runner.run(test_a_black_hole(secure, "both", server_tls, trusting, "aiohttp"))


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_a_full_send_buffer_under_uvloop(uvloop_runner, secure, server_tls, trusting):
    full = test_a_full_send_buffer_and_a_peer_that_does_not_read(secure, server_tls, trusting, "aiohttp")
    uvloop_runner.run(full)


@pytest.fixture
def uvloop_runner() -> Iterator[asyncio.Runner]:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner
