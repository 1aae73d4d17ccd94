"""Many clients of one process on real sockets: what an idle one holds, and how they come back after a restart."""

import asyncio
import contextlib
import gc
import ssl
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import resilient_ws
from resilient_ws import ClientClosed, Governor, Heartbeat, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import Accept, Deflate, FaultServer, Hangup, Redirect, Refuse
from resilient_ws.transports.aiohttp import transport as aiohttp_transport
from resilient_ws.transports.aiohttp.probe import is_supported
from tests.conftest import left_tasks, left_timers
from tests.integration.tls import good

CLIENTS = 50


@contextlib.asynccontextmanager
async def crowd(count, url, transport, **options):
    """Clients that are open at the beginning."""
    async with contextlib.AsyncExitStack() as stack:
        made = [WebSocketClient(url, transport=transport, **options) for _ in range(count)]
        for client in made:
            stack.push_async_callback(client.close)
            client.start()
        for client in made:
            await client.ready(30)
        yield made


def ours(names):
    """Those of the client and of what it stands on, not of the server, which is in the same loop."""
    return [
        name
        for name in names
        if name.startswith(("resilient_ws", "aiohttp", "picows")) and ".testing" not in name
    ]


def set_timers():
    return ours(timer._callback.__module__ for timer in left_timers(asyncio.get_running_loop()))


def running_tasks():
    return ours(task.get_name() for task in left_tasks())


@pytest.fixture(params=["aiohttp", "picows"])
def transport(request):
    return request.param


def tasks_of_one(transport):
    """Through its public API only, aiohttp needs a task that reads."""
    return 1 if transport == "picows" or is_supported() else 2


async def test_an_idle_client_has_one_timer_and_one_task(transport):
    async with FaultServer() as server:
        async with crowd(CLIENTS, server.url, transport, heartbeat=Heartbeat(0.2, 0.2)):
            await asyncio.sleep(0.5)  # each has pinged more than once
            assert len(set_timers()) == CLIENTS
            assert len(running_tasks()) == CLIENTS * tasks_of_one(transport)


async def test_without_a_heartbeat_it_has_none(transport):
    async with FaultServer() as server:
        async with crowd(CLIENTS, server.url, transport, heartbeat=None):
            await asyncio.sleep(0.05)
            assert set_timers() == []
            assert len(running_tasks()) == CLIENTS * tasks_of_one(transport)


async def test_no_message_has_a_timer_or_a_task(transport):
    async with FaultServer() as server:
        async with crowd(2, server.url, transport) as clients:
            await asyncio.sleep(0.05)
            for number in range(1000):
                await clients[0].send(str(number))
                if number % 100 == 0:
                    assert len(set_timers()) <= 2
                    assert len(running_tasks()) <= 2 * tasks_of_one(transport)
            for number in range(1000):
                assert await clients[0].recv() == str(number)
            assert len(set_timers()) <= 2


async def test_all_clients_share_one_tls_context(transport, monkeypatch):
    made = []
    real = ssl.SSLContext.load_default_certs

    def counted(self, *args):
        made.append(self)
        return real(self, *args)

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", counted)
    async with FaultServer(ssl=good()) as server:
        for verified in (True, False):
            clients = [
                WebSocketClient(server.url, transport=transport, ssl=verified, reconnect=False)
                for _ in range(5)
            ]
            for client in clients:
                client.start()
            for client in clients:
                with contextlib.suppress(Exception):
                    await client.ready(10)  # verified, the certificate of the test is refused
            assert len(made) <= 2, "one that verifies, one that does not"
            for client in clients:
                await client.close()


@pytest.mark.promise("P10")
@pytest.mark.slow
async def test_after_a_restart_no_more_than_max_dials_are_in_their_handshake(transport):
    policy = ReconnectPolicy(first_delay=0.05, min_delay=0.05, max_delay=0.2)
    options = {"governor": Governor(max_dials=16), "reconnect": policy}
    async with FaultServer(default=Accept(delay=0.03)) as server:
        async with crowd(200, server.url, transport, **options) as clients:
            await server.stop("rst")
            await server.until(lambda: not server.visits)
            most = 0

            def all_back():
                nonlocal most
                there = len(server.open_connections)
                most = max(most, len(server.visits) - there)
                return there == len(clients)

            await server.start()
            await server.until(all_back, 30)
            assert 8 <= most <= 16
            assert clients[0].stats.dials_waiting == 0


@pytest.mark.promise("P6")
async def test_what_an_idle_client_allocates_in_this_package_fits_into_twelve_kilobytes():
    async with FaultServer() as server:
        async with crowd(2, server.url, "aiohttp"):  # what is made once for all is not counted
            await asyncio.sleep(0.05)
        gc.collect()
        tracemalloc.start()
        try:
            async with crowd(CLIENTS, server.url, "aiohttp"):
                await asyncio.sleep(0.05)
                gc.collect()
                taken = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
    own = Path(resilient_ws.__file__).parent
    mine = [
        tracemalloc.Filter(True, str(own / "*.py")),
        tracemalloc.Filter(False, str(own / "testing" / "*.py")),
    ]
    size = sum(one.size for one in taken.filter_traces(mine).statistics("filename"))
    assert 4 * 1024 < size / CLIENTS < 12 * 1024


async def test_no_connection_holds_a_parser_of_aiohttp():
    if not is_supported():
        pytest.skip("through its public API aiohttp has one from the beginning")

    def parsers():
        return sum(type(one).__name__ == "WebSocketReader" for one in gc.get_objects())

    async with FaultServer() as server, WebSocketClient(server.url, heartbeat=Heartbeat(0.01, 5)) as client:
        peer = await server.connection()
        before = parsers()  # that of the server
        await peer.send("whole")
        assert await client.recv() == "whole"
        await peer.fragmented("in two", parts=2)
        assert await client.recv() == "in two"
        assert parsers() == before


@pytest.mark.promise("P6")
async def test_an_open_client_keeps_nothing_of_its_handshake():
    """Answer, request and HTTP parser of aiohttp would be five kilobytes of an idle connection."""
    if not is_supported():
        pytest.skip("through its public API aiohttp keeps them")

    def kept():
        names = {
            "ClientResponse",
            "_Answer",
            "RequestInfo",
            "ClientRequest",
            "DirectResponse",
            "HttpResponseParser",
        }
        gc.collect()
        return [name for one in gc.get_objects() if (name := type(one).__name__) in names]

    before = kept()
    async with FaultServer() as server:
        async with crowd(2, server.url, "aiohttp") as clients:
            assert kept() == before
            await clients[0].send("hello")
            assert await asyncio.wait_for(clients[0].recv(), 5) == "hello"


async def test_clients_that_dial_at_the_same_moment_get_what_each_of_them_asked_for():
    async with FaultServer(default=Accept(deflate=Deflate())) as server, contextlib.AsyncExitStack() as stack:
        options = [
            {"max_message_size": 1000 * (n + 1), "compression": "deflate" if n % 2 else None}
            for n in range(6)
        ]
        clients = [WebSocketClient(server.url, reconnect=False, **one) for one in options]
        await asyncio.gather(*(stack.enter_async_context(client) for client in clients))
        for client, one in zip(clients, options, strict=True):
            assert ("sec-websocket-extensions" in client._supervisor.active.link.headers) == bool(
                one["compression"]
            )
            await client.send("x" * one["max_message_size"])
            assert len(await asyncio.wait_for(client.recv(), 10)) == one["max_message_size"]
            await client.send("x" * (one["max_message_size"] + 1))
            with pytest.raises(ClientClosed):
                await asyncio.wait_for(client.recv(), 10)


async def test_the_shared_session_holds_what_is_open_and_goes_with_the_last_client():
    loop = asyncio.get_running_loop()
    policy = ReconnectPolicy(first_delay=0.002, min_delay=0, max_delay=0.005)
    async with FaultServer() as server:
        async with crowd(3, server.url, "aiohttp", reconnect=policy) as clients:
            session = aiohttp_transport._shared[loop].session
            for number in range(30):
                server.next((Refuse(503), Hangup("fin"), Redirect("/on"))[number % 3])
                server.drop_all(("rst", "fin")[number % 2])
                await server.until(lambda: len(server.open_connections) == 3, 20)
            for client in clients:
                await client.ready(10)
            assert len(session.connector._acquired) == 3
        assert not session.connector._acquired
        del clients, client
    gc.collect()
    assert loop not in aiohttp_transport._shared
    assert session.closed  # else it would warn


KEPT_FOR_EVER = """
import asyncio
from resilient_ws import WebSocketClient
from resilient_ws.testing import FaultServer

kept = []

async def main():
    async with FaultServer() as server, WebSocketClient(server.url) as client:
        kept.append(client)
        await client.send("hello")
        print(await client.recv())

asyncio.run(main())
"""


def test_a_program_may_end_with_a_closed_client_in_hand():
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", KEPT_FOR_EVER], capture_output=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"hello\n", b"")
