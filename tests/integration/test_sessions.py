"""A session of the program's own: what it lends, and that it is never closed."""

import asyncio
import gc
import warnings

import aiohttp
import pytest
from aiohttp import web

from resilient_ws import ClientStopped, ConnectError, WebSocketClient
from resilient_ws.testing import Accept, FaultServer, Refuse
from tests.integration.listening import SOON, Told


async def check_echo(client):
    async with client:
        await client.send("x")
        assert await client.recv() == "x"


async def test_its_default_headers_are_sent_under_ours():
    defaults = {"X-Default": "1", "X-Key": "old", "Connection": "keep-alive", "User-Agent": "robot"}
    async with FaultServer() as server, aiohttp.ClientSession(headers=defaults) as session:
        await check_echo(WebSocketClient(server.url, headers={"x-key": "new"}, session=session))
        headers = server.attempts[0].request.headers
        assert headers.get_all("X-Key") == ["new"]
        assert (headers["X-Default"], headers["User-Agent"], headers["Connection"]) == (
            "1",
            "robot",
            "Upgrade",
        )


async def test_the_user_of_the_address_goes_before_its_authorization():
    async with FaultServer() as server, aiohttp.ClientSession(headers={"Authorization": "old"}) as session:
        await check_echo(WebSocketClient(f"ws://u:p@127.0.0.1:{server.port}/", session=session))
        assert server.attempts[0].headers["Authorization"] == "Basic dTpw"


async def test_its_cookie_jar_is_used_and_filled():
    jar = aiohttp.CookieJar(unsafe=True)
    async with FaultServer() as server, aiohttp.ClientSession(cookie_jar=jar, cookies={"a": "1"}) as session:
        server.next(Refuse(503, headers=[("Set-Cookie", "b=2")]), Accept(headers=[("Set-Cookie", "c=3")]))
        client = WebSocketClient(server.url, session=session, reconnect=SOON)
        told = Told(client)
        async with client:
            (await server.connection()).rst()
            await told.reconnect()
        cookies = [set(attempt.headers["Cookie"].split("; ")) for attempt in server.attempts]
        assert cookies == [{"a=1"}, {"a=1", "b=2"}, {"a=1", "b=2", "c=3"}]


async def test_its_connector_makes_the_connections():
    class Resolver(aiohttp.ThreadedResolver):
        async def resolve(self, host, port=0, family=0):
            asked.append(host)
            return await super().resolve("127.0.0.1", port, family)

    asked = []
    connector = aiohttp.TCPConnector(resolver=Resolver(), use_dns_cache=False)
    async with FaultServer() as server, aiohttp.ClientSession(connector=connector) as session:
        await check_echo(WebSocketClient(f"ws://anything.example:{server.port}/", session=session))
    assert asked == ["anything.example"]


async def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "socket")

    async def echo(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            client = WebSocketClient("ws://localhost/", session=session, heartbeat=0.05)
            async with client:
                await client.send("x")
                assert await client.recv() == "x"
                await client.flush(timeout=5)
                assert client.stats.confirmed == 1
    finally:
        await runner.cleanup()


async def test_it_is_not_closed_and_can_serve_several_clients():
    async with FaultServer() as server, aiohttp.ClientSession() as session:
        await asyncio.gather(*(check_echo(WebSocketClient(server.url, session=session)) for _ in range(3)))
        assert not session.closed
        assert not session.connector.closed
        assert len(session.connector._acquired) == 0


async def test_a_lost_connection_gives_its_place_back():
    """The connector counts what is open: an abandoned connection must not keep its place."""
    connector = aiohttp.TCPConnector(limit=1)
    async with FaultServer() as server, aiohttp.ClientSession(connector=connector) as session:
        client = WebSocketClient(server.url, session=session, reconnect=SOON)
        told = Told(client)
        async with client:
            for number, drop in enumerate(("rst", "fin", "silent"), 1):
                (await server.connection()).drop(drop)
                if drop == "silent":
                    client.reconnect_now()
                await told.reconnect(number)
        assert len(connector._acquired) == 0


async def test_a_refused_handshake_gives_its_place_back():
    connector = aiohttp.TCPConnector(limit=1)
    async with (
        FaultServer([Refuse(503)] * 3) as server,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        await check_echo(WebSocketClient(server.url, session=session, reconnect=SOON))
        assert server.attempt_count == 4


async def test_a_closed_one_ends_the_client_with_a_clear_text():
    async with FaultServer() as server:
        session = aiohttp.ClientSession()
        await session.close()
        client = WebSocketClient(server.url, session=session)
        with pytest.raises(ClientStopped) as caught:
            await client.__aenter__()
        error = caught.value.__cause__
        assert str(error) == "the session that was passed as session= is closed"
        assert (error.retryable, server.attempt_count) == (False, 0)


async def test_one_that_is_closed_later_ends_the_client_at_the_next_attempt():
    async with FaultServer() as server:
        session = aiohttp.ClientSession()
        client = WebSocketClient(server.url, session=session, reconnect=SOON)
        client.start()
        await client.ready(5)
        await session.close()
        with pytest.raises(ClientStopped, match="session= is closed"):
            async for _ in client:
                pytest.fail("there is no message")


def test_one_of_another_loop_ends_the_client_with_a_clear_text():
    async def make():
        return aiohttp.ClientSession()

    async def use():
        client = WebSocketClient("ws://127.0.0.1:9/", session=session)
        with pytest.raises(ClientStopped) as caught:
            await client.__aenter__()
        error = caught.value.__cause__
        assert isinstance(error, ConnectError)
        assert str(error) == "the session that was passed as session= belongs to another event loop"
        assert not error.retryable

    with asyncio.Runner() as other:
        session = other.run(make())
        with asyncio.Runner() as runner:
            runner.run(use())
        other.run(session.close())


def test_what_is_no_session_is_refused():
    with pytest.raises(TypeError, match="^session must be an aiohttp.ClientSession or None, got str$"):
        WebSocketClient("ws://h", session="session")


async def test_a_private_one_leaves_no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with FaultServer([Refuse(503), Accept()]) as server:
            await check_echo(WebSocketClient(server.url, reconnect=SOON))
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
