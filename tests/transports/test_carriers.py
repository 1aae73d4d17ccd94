"""What carries a connection of aiohttp: asyncio's transport, or aiofastnet's where it is there and does what is needed."""

import asyncio
import logging
import ssl

import aiofastnet
import aiohttp
import pytest
import trustme
import uvloop

from resilient_ws import OpenEvent, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import FakeTransport, FaultServer, Hangup, run_virtual
from resilient_ws.transports.aiohttp import transport
from resilient_ws.transports.shared import carriers
from tests.conftest import open_sockets
from tests.fastnet import use_aiofastnet

SOON = ReconnectPolicy(first_delay=0.01, min_delay=0.01, max_delay=0.02)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test tries anew, and sees aiohttp 3.15's way to connect."""
    monkeypatch.setattr(carriers._trials, "found", {})
    use_aiofastnet(monkeypatch)


@pytest.fixture
def tls():
    ca = trustme.CA()
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(serving)
    return serving, trusting


async def carrier(server: FaultServer, **options) -> str:
    told: list[OpenEvent] = []
    client = WebSocketClient(server.url, **options)
    client.on_open(told.append)
    async with client:
        await client.send("x" * 300_000)
        assert await client.recv() == "x" * 300_000
        text = client.explain()
    (event,) = told
    assert f"attempt 1, by {event.transport}" in text
    assert server.violations == []
    return event.transport


class TestNames:
    async def test_aiofastnet_is_used_where_it_works(self):
        async with FaultServer() as server:
            assert await carrier(server) == "aiohttp over aiofastnet"
            assert carriers._trials.found == {type(asyncio.get_running_loop()): True}

    def test_on_uvloop_too(self):
        async def ask():
            async with FaultServer() as server:
                return await carrier(server)

        assert uvloop.run(ask()) == "aiohttp over aiofastnet"
        assert carriers._trials.found == {uvloop.Loop: True}

    async def test_with_a_lent_session(self):
        async with FaultServer() as server, aiohttp.ClientSession() as session:
            assert await carrier(server, session=session) == "aiohttp over aiofastnet"

    async def test_through_the_public_api(self, monkeypatch):
        monkeypatch.setattr(transport, "is_supported", lambda: False)
        async with FaultServer() as server:
            assert await carrier(server) == "aiohttp over aiofastnet (public API)"

    async def test_without_aiofastnet(self, monkeypatch):
        monkeypatch.undo()
        async with FaultServer() as server:
            assert await carrier(server) == "aiohttp"
            monkeypatch.setattr(transport, "is_supported", lambda: False)
            assert await carrier(server) == "aiohttp (public API)"

    async def test_on_picows(self):
        async with FaultServer() as server:
            assert await carrier(server, transport="picows") == "picows"

    def test_on_the_fake_one(self):
        async def ask():
            fake = FakeTransport()
            told: list[OpenEvent] = []
            client = WebSocketClient("ws://test", transport=fake)
            client.on_open(told.append)
            async with client:
                await fake.next_peer()
            return told[0].transport

        assert run_virtual(ask()) == "FakeTransport"


class TestTls:
    async def test_is_left_to_asyncio(self, tls):
        serving, trusting = tls
        async with FaultServer(ssl=serving) as server:
            assert await carrier(server, ssl=trusting) == "aiohttp"

    async def test_of_a_lent_session_is_what_it_is_lent_for(self, tls):
        serving, trusting = tls
        async with FaultServer(ssl=serving) as server, aiohttp.ClientSession() as session:
            assert await carrier(server, ssl=trusting, session=session) == "aiohttp over aiofastnet"

    async def test_a_handshake_that_is_given_up_leaves_no_timer(self):
        async with FaultServer(default=Hangup("silent", when="connect")) as server:
            client = WebSocketClient(server.url.replace("ws://", "wss://"))
            client.start()
            await server.until(lambda: server.attempt_count == 1)
            await asyncio.sleep(0.05)
            await client.close()  # the leak check of all tests looks for the rest

    @pytest.mark.parametrize("drop", ["fin", "rst"])
    async def test_a_handshake_that_the_peer_ends_is_no_error_of_the_loop(self, drop):
        async with FaultServer(default=Hangup(drop, when="connect")) as server:
            client = WebSocketClient(server.url.replace("ws://", "wss://"), reconnect=SOON)
            client.start()
            await server.until(lambda: server.attempt_count >= 3)
            await client.close()

    async def test_a_bad_certificate_is_named_as_ever(self, tls):
        serving, _ = tls
        async with FaultServer(ssl=serving) as server:
            client = WebSocketClient(server.url, fail_fast=True)
            with pytest.raises(Exception, match="certificate") as caught:
                await client.__aenter__()
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)

    async def test_a_refused_port_is_named_as_ever(self):
        async with FaultServer() as server:
            await server.stop()
            client = WebSocketClient(server.url.replace("ws://", "wss://"), fail_fast=True)
            with pytest.raises(Exception, match="could not be reached") as caught:
                await client.__aenter__()
            assert isinstance(caught.value.__cause__, OSError)


class Bent:
    """aiofastnet's transport with one thing changed."""

    def __init__(self, real, **changed):
        self.real = real
        self.__dict__.update(changed)

    def __getattr__(self, name):
        return getattr(self.real, name)


def nothing(*_):
    return None


def fails(*_):
    raise TypeError("not supported any more")


BENT = {
    "does not pause": {"pause_reading": nothing},
    "cannot pause twice": {"pause_reading": fails},
    "keeps its protocol": {"set_protocol": nothing},
    "has no limit": {"set_write_buffer_limits": nothing, "get_write_buffer_size": lambda: 0},
    "has no socket": {"get_extra_info": nothing},
    "is not aborted": {"abort": nothing},
    "seems closed": {"is_closing": lambda: True},
}


@pytest.fixture(params=BENT)
def bent(request, monkeypatch):
    """aiofastnet is not what it was."""
    real, changed = aiofastnet.create_connection, BENT[request.param]
    monkeypatch.setattr(carriers, "_PATIENCE", 0.1)

    made = []

    async def create(*args, **options):
        one, protocol = await real(*args, **options)
        made.append(one)
        return Bent(one, **changed), protocol

    async def trial():
        monkeypatch.setattr(aiofastnet, "create_connection", create)
        await carriers.try_fastnet()
        monkeypatch.setattr(aiofastnet, "create_connection", real)
        while made:
            made.pop().abort()
        await asyncio.sleep(0)

    return trial


class TestTrial:
    async def test_it_leaves_nothing_behind(self):
        before = open_sockets()
        await carriers.try_fastnet()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert open_sockets() == before
        assert carriers._trials.found == {type(asyncio.get_running_loop()): True}

    async def test_where_aiofastnet_is_not_what_it_was_asyncio_carries(self, bent, caplog):
        with caplog.at_level(logging.WARNING, logger="resilient_ws"):
            await bent()
            await bent()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "asyncio's transport is used instead" in caplog.text
        async with FaultServer() as server:
            assert await carrier(server) == "aiohttp"

    async def test_and_a_lent_session_is_read_through_its_public_api(self, bent):
        await bent()
        async with FaultServer() as server, aiohttp.ClientSession() as session:
            assert await carrier(server, session=session) == "aiohttp over aiofastnet (public API)"

    async def test_nothing_is_tried_where_nobody_has_imported_it(self, monkeypatch):
        monkeypatch.setattr(carriers, "sys", type("sys", (), {"modules": {}}))
        await carriers.try_fastnet()
        assert carriers._trials.found == {}

    async def test_a_connector_that_aiohttp_calls_otherwise_is_left_to_aiohttp(self, monkeypatch):
        called = []

        async def other(self, *args, **options):
            called.append(options)
            return "made"

        monkeypatch.setattr(aiohttp.TCPConnector, "_wrap_create_connection", other)
        connector = carriers.Connector()
        assert await connector._wrap_create_connection(ssl=True, addresses=[]) == "made"
        await connector.close()
        assert called == [{"ssl": True, "addresses": []}]
