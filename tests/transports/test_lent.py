"""A lent session: each parameter that aiohttp knows is accounted for, and what cannot be honoured is refused."""

import inspect
import json

import aiohttp
import pytest
from aiohttp import ClientSession

from resilient_ws import OpenTimeout, WebSocketClient
from resilient_ws.testing import FaultServer, NeverAnswer
from resilient_ws.transports.aiohttp import lent_session as lent


def parameters(kind):
    return {name for name in inspect.signature(kind).parameters if name not in {"self", "kwargs"}}


def test_each_parameter_of_a_session_is_accounted_for():
    tables = (lent.HONOURED, lent.WITHOUT_EFFECT, lent.REFUSED)
    assert sum(map(len, tables)) == len(frozenset().union(*tables))
    known = frozenset().union(*tables)
    assert parameters(ClientSession) <= known, "what becomes of a new parameter?"


def test_each_parameter_of_a_connector_is_accounted_for():
    for kind in (aiohttp.BaseConnector, aiohttp.TCPConnector):
        assert parameters(kind) <= lent.CONNECTOR, "what becomes of a new parameter?"


class OtherResponse(aiohttp.ClientResponse):
    pass


class OtherRequest(aiohttp.ClientRequest):
    pass


class OtherSocket(aiohttp.ClientWebSocketResponse):
    pass


async def check(response):
    pass


@pytest.mark.parametrize(
    "options",
    [
        {"response_class": OtherResponse},
        {"request_class": OtherRequest},
        {"ws_response_class": OtherSocket},
        {"raise_for_status": check},
        {"version": aiohttp.HttpVersion10},
    ],
)
async def test_what_cannot_be_honoured_is_refused(options):
    async with ClientSession(**options) as session:
        with pytest.raises(ValueError, match=f"session .*{next(iter(options))}"):
            WebSocketClient("ws://h", session=session)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"proxy": "socks4://u:sesame@p"}, "session: its proxy must be an http://"),
        ({"proxy": "http://a%3Ab:sesame@p"}, "session: its proxy: a user with a colon"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_refused(options, text):
    async with ClientSession(**options) as session:
        with pytest.raises(ValueError, match=text) as caught:
            WebSocketClient("ws://h", session=session)
        assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("limit", ["limit", "limit_per_host"])
async def test_limits_are_refused_where_we_dial(limit):
    connector = aiohttp.TCPConnector(**{limit: 3})
    async with ClientSession(connector=connector) as session:
        WebSocketClient("ws://h", session=session)
        with pytest.raises(ValueError, match=f"{limit}=3"):
            WebSocketClient("ws://h", session=session, proxy="http://p")


@pytest.mark.parametrize(
    "options",
    [{"unix_socket": "/s"}, {"local_address": ("127.0.0.1", 0)}],
    ids=["unix_socket", "local_address"],
)
async def test_what_its_connector_decides_is_refused_beside_it(options):
    async with ClientSession() as session:
        with pytest.raises(ValueError, match=f"{next(iter(options))} and session exclude each other"):
            WebSocketClient("ws://h", session=session, **options)


async def test_a_connector_of_its_own_kind_is_used_and_takes_no_proxy():
    async with ClientSession(connector=aiohttp.UnixConnector("/s")) as session:
        WebSocketClient("ws://h", session=session)
        with pytest.raises(ValueError, match="connector of its own kind"):
            WebSocketClient("ws://h", session=session, proxy="http://p")


async def test_what_has_no_effect_is_taken():
    async with ClientSession(
        json_serialize=json.dumps, auto_decompress=False, raise_for_status=True
    ) as session:
        WebSocketClient("ws://h", session=session)


@pytest.mark.parametrize("skipped", [(), ("User-Agent",)])
async def test_what_it_applies_to_the_handshake(skipped):
    seen = []

    async def middleware(request, handler):
        seen.append("middleware")
        return await handler(request)

    async def traced(*_):
        seen.append("trace")

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(traced)
    options = {"headers": {"X-Key": "v"}, "cookies": {"id": "7"}, "skip_auto_headers": skipped}
    async with (
        FaultServer() as server,
        ClientSession(middlewares=(middleware,), trace_configs=[tracing], **options) as session,
    ):
        async with WebSocketClient(f"ws://localhost:{server.port}/", session=session, fail_fast=True):
            headers = server.attempts[0].headers
            assert headers["X-Key"] == "v"
            assert headers["Cookie"] == "id=7"
            assert ("User-Agent" in headers) is not bool(skipped)
    assert seen == ["trace", "middleware"]


async def test_its_timeout_applies():
    timeout = aiohttp.ClientTimeout(total=0.2)
    async with FaultServer(default=NeverAnswer()) as server, ClientSession(timeout=timeout) as session:
        with pytest.raises(OpenTimeout, match="within the timeout of the lent session"):
            async with WebSocketClient(server.url, session=session, fail_fast=True):
                pytest.fail("it must not open")


async def test_its_limit_applies():
    connector = aiohttp.TCPConnector(limit=1)
    async with FaultServer() as server, ClientSession(connector=connector) as session:
        async with WebSocketClient(server.url, session=session):
            with pytest.raises(OpenTimeout, match="waited for the connector of the lent session"):
                async with WebSocketClient(server.url, session=session, fail_fast=True, open_timeout=0.2):
                    pytest.fail("it must not open")
        assert server.attempt_count == 1
