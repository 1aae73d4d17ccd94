"""The test servers themselves, seen by a plain aiohttp client: what the other tests stand on."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.integration.servers import DEFLATE, FRAGMENTS, Server

StartServer = Callable[[str], Server]
StartNginx = Callable[..., Server]


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


async def test_echoes_text_and_binary(server, session):
    async with session.ws_connect(server.url) as ws:
        await ws.send_str("grüße 🚀")
        assert await ws.receive_str(timeout=5) == "grüße 🚀"
        await ws.send_bytes(b"\x00\xff")
        assert await ws.receive_bytes(timeout=5) == b"\x00\xff"
        await ws.send_str("")
        assert await ws.receive_str(timeout=5) == ""


@pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going away"), (4321, "why not, ümlaut")])
async def test_closes_as_told(server, session, code, reason):
    async with session.ws_connect(server.url, autoclose=False) as ws:
        await ws.send_str(f"!close {code} {reason}")
        message = await ws.receive(timeout=5)
        assert (message.type, message.data, message.extra or "") == (aiohttp.WSMsgType.CLOSE, code, reason)
        await ws.close()


async def test_counts(server, session):
    async with session.ws_connect(server.url) as ws:
        await ws.send_str("!count 100")
        assert [await ws.receive_str(timeout=5) for _ in range(100)] == [str(n) for n in range(100)]


async def test_drops_tcp_without_a_close_frame(server, session):
    async with session.ws_connect(server.url, autoclose=False) as ws:
        await ws.send_str("!abort")
        message = await ws.receive(timeout=5)
        assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
        assert ws.close_code == 1006


@pytest.mark.parametrize("offered, chosen", [((), ""), (("chat.v1",), "chat.v1"), (("other",), "")])
async def test_negotiates_a_subprotocol(server, session, offered, chosen):
    async with session.ws_connect(server.url, protocols=offered) as ws:
        assert (ws.protocol or "") == chosen
        await ws.send_str("!subprotocol")
        assert await ws.receive_str(timeout=5) == chosen


async def test_tells_a_request_header(server, session):
    async with session.ws_connect(server.url, headers={"X-Token": "abc 123"}) as ws:
        await ws.send_str("!headers x-token")
        assert await ws.receive_str(timeout=5) == "abc 123"
        await ws.send_str("!headers x-absent")
        assert await ws.receive_str(timeout=5) == ""


async def test_sends_a_big_message(server, session):
    async with session.ws_connect(server.url) as ws:
        await ws.send_str("!big 1000000")
        assert await ws.receive_str(timeout=5) == "x" * 1_000_000


async def test_takes_a_big_message(server, session):
    async with session.ws_connect(server.url, max_msg_size=2**25) as ws:
        await ws.send_bytes(b"y" * 5_000_000)
        assert await ws.receive_bytes(timeout=10) == b"y" * 5_000_000


async def test_sends_fragments_where_its_library_can(server, session):
    async with session.ws_connect(server.url) as ws:
        if FRAGMENTS in server.features:
            await ws.send_str("!fragment")
            assert await ws.receive_str(timeout=5) == "fragmented"


async def test_accepts_compression_where_its_library_can(server, session):
    async with session.ws_connect(server.url, compress=15) as ws:
        assert bool(ws.compress) == (DEFLATE in server.features)
        await ws.send_str("a" * 100_000)
        assert await ws.receive_str(timeout=5) == "a" * 100_000


@pytest.mark.parametrize("status, retry_after", [(401, None), (429, "7"), (503, "7")])
async def test_refuses_the_handshake(server, session, status, retry_after):
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(f"{server.url}/refuse/{status}")
    assert caught.value.status == status
    assert caught.value.headers is not None
    assert caught.value.headers.get("Retry-After") == retry_after


async def test_answers_pings(server, session):
    async with session.ws_connect(server.url, autoping=False) as ws:
        await ws.ping(b"tag")
        message = await ws.receive(timeout=5)
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"tag")


async def test_stops_and_starts_on_the_same_port(server, session):
    async with session.ws_connect(server.url) as ws:
        pid, port = server.pid, server.port
        stopping = asyncio.create_task(server.async_stop())
        message = await ws.receive(timeout=5)
        assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
        await stopping
    assert not server.is_running
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.ws_connect(server.url)
    await server.async_start()
    assert (server.pid != pid, server.port) == (True, port)
    async with session.ws_connect(server.url) as ws:
        await ws.send_str("back")
        assert await ws.receive_str(timeout=5) == "back"


def test_restart_gives_a_new_process_on_the_same_port(start_server):
    server = start_server("websockets")
    pid, port = server.pid, server.port
    server.restart()
    assert (server.pid != pid, server.port) == (True, port)


async def test_dies_without_a_word_when_killed(server, session):
    async with session.ws_connect(server.url, autoclose=False) as ws:
        await ws.send_str("ready")
        assert await ws.receive_str(timeout=5) == "ready"
        server.kill()
        message = await ws.receive(timeout=5)
        assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
        assert ws.close_code == 1006


async def test_is_silent_while_suspended(server, session):
    async with session.ws_connect(server.url) as ws:
        server.suspend()
        await ws.send_str("anybody there?")
        with pytest.raises(TimeoutError):
            await ws.receive_str(timeout=0.3)
        server.resume()
        assert await ws.receive_str(timeout=5) == "anybody there?"


async def test_nginx_hangs_up_on_a_silent_server(start_server, start_nginx, session):
    upstream = start_server("aiohttp")
    proxy = start_nginx(upstream, read_timeout=0.5)
    async with session.ws_connect(proxy.url, autoclose=False) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str(timeout=5) == "hello"
        message = await ws.receive(timeout=5)
        assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
        assert ws.close_code == 1006


async def test_nginx_says_502_while_its_server_is_down(start_server, start_nginx, session):
    upstream = start_server("websockets")
    proxy = start_nginx(upstream)
    upstream.stop()
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(proxy.url)
    assert caught.value.status == 502
    upstream.start()
    async with session.ws_connect(proxy.url) as ws:
        await ws.send_str("!headers upgrade")
        assert await ws.receive_str(timeout=5) == "websocket"


def test_two_servers_have_their_own_ports(start_server):
    first, second = start_server("websockets"), start_server("websockets")
    assert first.port != second.port
    assert first.pid != second.pid
    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+", first.url)


def test_a_closed_server_leaves_no_process(start_server):
    server = start_server("websockets")
    pid = server.pid
    server.close()
    assert not server.is_running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_cannot_start_says_why():
    server = Server("broken", lambda listen, port: ["python3", "-c", "raise SystemExit('no such thing')"])
    try:
        with pytest.raises(RuntimeError, match="broken ended at once: no such thing"):
            server.start()
    finally:
        server.close()


def test_the_config_of_nginx_names_no_place_outside_its_folder():
    text = (Path(__file__).parent / "servers" / "nginx.conf").read_text()
    paths = re.findall(r"^\s*(?:pid|\w+_temp_path)\s+(\S+);", text, re.MULTILINE)
    assert len(paths) == 6
    assert all(path.startswith("FOLDER/") for path in paths)
