import asyncio
import base64
import contextlib
import ssl

import pytest
import trustme

from resilient_ws.testing import (
    Drip,
    FaultServer,
    ForwardProxy,
    Garbage,
    Hangup,
    Hosts,
    Interim,
    NeverAnswer,
    Refuse,
)
from tests.testing.raw import RawClient


def connect(server: FaultServer, *headers: str, host: str = "127.0.0.1") -> bytes:
    lines = [f"CONNECT {host}:{server.port} HTTP/1.1", f"Host: {host}:{server.port}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def basic(user: str, password: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
async def server():
    async with FaultServer() as server:
        yield server


async def ask(client: RawClient, data: bytes) -> int:
    client.writer.write(data)
    return await client.response()


async def test_it_tunnels_and_keeps_what_it_was_asked(server):
    async with ForwardProxy(headers={"Via": "kit"}) as proxy, RawClient(proxy.port) as client:
        assert await ask(client, connect(server, "X-Mine: 1")) == 200
        assert client.headers["Via"] == "kit"
        await client.open()
        client.text("through")
        assert (await client.frame()).payload == b"through"
        assert proxy.open_tunnels == 1
        (request,) = proxy.requests
        assert (request.method, request.target) == ("CONNECT", f"127.0.0.1:{server.port}")
        assert (request.headers["x-mine"], request.outcome) == ("1", "tunnelled")
        assert repr(proxy) == f"<ForwardProxy {proxy.authority}, 1 open>"
        assert proxy.url == f"http://127.0.0.1:{proxy.port}"


async def test_the_end_passes_too(server):
    async with ForwardProxy() as proxy, RawClient(proxy.port) as client:
        await ask(client, connect(server))
        await client.open()
        (await server.connection()).fin()
        assert await client.frame() is None


@pytest.mark.parametrize("drop", ["rst", "fin"])
async def test_tunnels_can_be_dropped(server, drop):
    async with ForwardProxy() as proxy, RawClient(proxy.port) as client:
        await ask(client, connect(server))
        await client.open()
        conn = await server.connection()
        assert proxy.drop_all(drop) == 1
        with pytest.raises(ConnectionResetError) if drop == "rst" else contextlib.nullcontext():
            assert await client.frame() is None
        await conn.wait_ended()
        assert conn.ended_by == drop


@pytest.mark.parametrize(
    "sent, status",
    [
        (None, 407),
        (basic("me", "wrong"), 407),
        ("Proxy-Authorization: Basic !!!", 407),
        ("Proxy-Authorization: Bearer " + base64.b64encode(b"me:p@:%/\xe2\x82\xac").decode(), 407),
        (basic("me", "p@:%/\u20ac"), 200),
    ],
)
async def test_it_may_want_a_password(server, sent, status):
    async with ForwardProxy(auth=("me", "p@:%/\u20ac")) as proxy, RawClient(proxy.port) as client:
        assert proxy.url == f"http://me:p%40%3A%25%2F%E2%82%AC@127.0.0.1:{proxy.port}"
        assert await ask(client, connect(server, *([sent] if sent else []))) == status
        assert ("Proxy-Authenticate" in client.headers) == (status == 407)
        assert proxy.requests[0].outcome == ("tunnelled" if status == 200 else "refused 407")


@pytest.mark.parametrize("absolute, status", [("refuse", 405), ("strip", 400), ("pass", 101)])
async def test_requests_in_absolute_form(server, absolute, status):
    async with ForwardProxy(absolute=absolute) as proxy, RawClient(proxy.port) as client:
        await client.request("Proxy-Connection: keep-alive", path=f"http://127.0.0.1:{server.port}/a?b=c")
        assert await client.response() == status
        if absolute == "refuse":
            assert client.headers["Allow"] == "CONNECT"
            assert server.attempts == []
        else:
            (attempt,) = server.attempts
            assert attempt.path == "/a?b=c"
            assert "Proxy-Connection" not in attempt.headers
            assert proxy.requests[0].outcome == "forwarded"
        if status == 101:
            client.text("hi")
            assert (await client.frame()).payload == b"hi"


async def test_names_may_lead_where_only_the_proxy_knows(server):
    hosts = {"feed.internal": "127.0.0.1", "other.internal": f"127.0.0.1:{server.port}"}
    async with ForwardProxy(hosts=hosts) as proxy:
        async with RawClient(proxy.port) as client:
            assert await ask(client, connect(server, host="feed.internal")) == 200
        async with RawClient(proxy.port) as client:
            assert await ask(client, b"CONNECT other.internal:1 HTTP/1.1\r\n\r\n") == 200


async def test_a_target_that_is_not_there_is_a_502():
    async with FaultServer() as server:
        await server.stop()
        async with ForwardProxy() as proxy, RawClient(proxy.port) as client:
            assert await ask(client, connect(server)) == 502
            assert proxy.requests[0].outcome == "not reached (ConnectionRefusedError)"


async def test_answers_come_from_the_script_then_it_works(server):
    script = [
        Refuse(403, body=b"no"),
        Interim([103], of=Refuse(503, retry_after=2)),
        None,
        Drip(0, 4, of=Refuse(504)),
    ]
    async with ForwardProxy(script=script) as proxy:
        for statuses in [403], [103, 503], [200], [504], [200]:
            async with RawClient(proxy.port) as client:
                client.writer.write(connect(server))
                assert [await client.response() for _ in statuses] == statuses
        assert [request.outcome for request in proxy.requests][0:2] == [
            "refused 403",
            "refused 503 after interim 103",
        ]


async def test_it_may_be_silent_or_nonsense_or_gone(server):
    script = [
        NeverAnswer(),
        Hangup("silent", "connect"),
        Garbage(b"\xff\xff"),
        Hangup("fin", "connect"),
        Hangup("rst"),
    ]
    async with ForwardProxy(script=script) as proxy:
        for expected in None, None, b"\xff\xff", b"", b"":
            async with RawClient(proxy.port) as client:
                client.writer.write(connect(server))
                try:
                    async with asyncio.timeout(0.1):
                        got = await client.reader.read()
                except TimeoutError:
                    got = None
                except ConnectionResetError:
                    got = b""
                assert got == expected


async def test_it_can_be_reached_by_tls(server):
    ca = trustme.CA()
    context = ssl.create_default_context()
    ca.configure_trust(context)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(serving)
    async with ForwardProxy(ssl=serving) as proxy:
        assert proxy.url.startswith("https://")
        async with RawClient(proxy.port, ssl=context) as client:
            assert await ask(client, connect(server)) == 200
            await client.open()
            client.text("hi")
            assert (await client.frame()).payload == b"hi"
        async with RawClient(proxy.port) as client:  # no TLS: it hangs up
            client.writer.write(connect(server))
            with contextlib.suppress(ConnectionResetError):
                await client.reader.read()


async def test_it_refuses_connections_when_told_and_comes_back(server):
    async with ForwardProxy() as proxy:
        port = proxy.port
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        proxy.start()
        async with RawClient(proxy.port) as client:
            assert await ask(client, connect(server)) == 200
        assert proxy.port == port


async def test_it_leaves_nothing_behind_in_any_state(server):
    async with ForwardProxy(delay=30) as proxy, contextlib.AsyncExitStack() as stack:
        for data in b"", b"CONN", connect(server):
            client = await stack.enter_async_context(RawClient(proxy.port))
            client.writer.write(data)
        await asyncio.sleep(0.02)
        await proxy.aclose()


def test_what_is_asked_must_make_sense():
    with pytest.raises(ValueError, match="absolute"):
        ForwardProxy(absolute="maybe")
    with pytest.raises(ValueError, match="delay"):
        ForwardProxy(delay=-1)
    with pytest.raises(ValueError, match="keep"):
        ForwardProxy(keep=0)


async def test_the_proxy_may_be_a_name(server):
    with Hosts({"proxy.test": ["127.0.0.1"]}):
        async with ForwardProxy() as proxy, RawClient(proxy.port, host="proxy.test") as client:
            assert await ask(client, connect(server)) == 200
