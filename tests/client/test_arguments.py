"""Bad arguments are refused where they are given, by name, with the range."""

import ssl
from datetime import timedelta

import pytest
from yarl import URL

from resilient_ws import (
    Endpoint,
    Heartbeat,
    Inbox,
    InvalidURL,
    Outbox,
    ReconnectPolicy,
    State,
    WebSocketClient,
)
from resilient_ws.testing import FakeTransport
from tests.client.kit import settle, stage

WS = "ws://peer.test"


def make(url=WS, **options):
    return WebSocketClient(url, **{"transport": FakeTransport(), **options})


@pytest.mark.parametrize(
    "options,error,complaint",
    [
        ({"url": 5}, TypeError, "url must be a str.*got int"),
        ({"url": None}, TypeError, "url must be"),
        ({"url": b"ws://x"}, TypeError, "url must be"),
        ({"url": "http://x"}, InvalidURL, "url must begin with ws:// or wss://"),
        ({"url": "x"}, InvalidURL, "url"),
        ({"url": "ws://"}, InvalidURL, "host"),
        ({"url": []}, ValueError, "url must be 1 to"),
        ({"url": [WS, 5]}, TypeError, "str, yarl.URL or Endpoint, got int"),
        ({"url": [WS, "http://x"]}, InvalidURL, "ws://"),
        ({"setup": 5}, TypeError, "setup must be callable, got int"),
        ({"headers": [("a", "b")]}, TypeError, "headers must be a mapping, got list"),
        ({"headers": {"a": 5}}, TypeError, "headers must map str to str"),
        ({"headers": {"a": "b\r\nc: d"}}, ValueError, "CR, LF and NUL"),
        ({"headers": {"a b": "c"}}, ValueError, "header name"),
        ({"subprotocols": "chat"}, TypeError, "subprotocols must be a sequence of str, got str"),
        ({"subprotocols": ["a", "a"]}, ValueError, "must not repeat"),
        ({"subprotocols": ["a b"]}, ValueError, "token"),
        ({"heartbeat": "5"}, TypeError, "heartbeat must be a Heartbeat, seconds or None, got str"),
        ({"heartbeat": True}, TypeError, "heartbeat must be"),
        ({"heartbeat": 0}, ValueError, "heartbeat must be more than 0"),
        ({"heartbeat": float("nan")}, ValueError, "heartbeat must be more than 0 and finite, got nan"),
        ({"reconnect": None}, TypeError, "reconnect must be a ReconnectPolicy or a bool, got NoneType"),
        ({"reconnect": 5}, TypeError, "reconnect must be"),
        ({"outbox": 5}, TypeError, "outbox must be an Outbox, got int"),
        ({"inbox": None}, TypeError, "inbox must be an Inbox, got NoneType"),
        ({"open_timeout": 0}, ValueError, "open_timeout must be more than 0"),
        ({"open_timeout": "1"}, TypeError, "open_timeout must be seconds"),
        ({"setup_timeout": -1}, ValueError, "setup_timeout must be more than 0"),
        ({"close_timeout": float("inf")}, ValueError, "close_timeout must be"),
        ({"close_timeout": True}, TypeError, "close_timeout must be"),
        ({"max_message_size": 0}, ValueError, "max_message_size must be 1 or more, got 0"),
        ({"max_message_size": 1.5}, TypeError, "max_message_size must be an int"),
        ({"compression": "gzip"}, ValueError, "compression must be one of 'deflate', got 'gzip'"),
        ({"compression": True}, TypeError, "compression"),
        ({"fail_fast": 1}, TypeError, "fail_fast must be True or False"),
        ({"transport": "ws", "url": WS}, ValueError, "transport must be one of"),
        ({"transport": None}, TypeError, "transport must be"),
        ({"transport": "aiohttp", "ssl": 5}, TypeError, "ssl must be"),
        ({"transport": "aiohttp", "proxy": "socks4://x"}, ValueError, "proxy must be"),
        ({"transport": "aiohttp", "proxy": 5}, TypeError, "proxy must be"),
        ({"transport": "aiohttp", "session": 5}, TypeError, "session must be"),
    ],
)
def test_the_constructor_names_field_value_and_range(options, error, complaint):
    with pytest.raises(error, match=complaint):
        make(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"url": URL(WS)},
        {"url": Endpoint(WS, {"a": "b"}, ["chat"])},
        {"url": (WS, URL("wss://two.test/x?y=z"))},
        {"url": lambda attempt: WS},
        {"heartbeat": 5},
        {"heartbeat": timedelta(seconds=5)},
        {"heartbeat": None},
        {"heartbeat": Heartbeat.expect(timedelta(minutes=1))},
        {"reconnect": True},
        {"reconnect": False},
        {"reconnect": ReconnectPolicy()},
        {"open_timeout": None, "setup_timeout": None, "close_timeout": None},
        {"open_timeout": timedelta(seconds=1)},
        {"outbox": Outbox(ttl=timedelta(seconds=1)), "inbox": Inbox()},
        {"max_message_size": 1},
        {"compression": "deflate"},
        {"subprotocols": ("a", "b")},
        {"transport": "aiohttp", "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
        {"transport": "aiohttp", "ssl": False, "proxy": "http://user:pw@proxy.test:3128"},
        {"transport": "aiohttp", "proxy": "env"},
    ],
)
def test_what_is_allowed_needs_no_loop(options):
    client = make(**options)
    assert client.state is State.IDLE
    assert client.latency is None
    assert client.close_event is None
    assert client.stats.attempts == 0
    assert client.explain().endswith("idle")


def test_options_are_keywords():
    with pytest.raises(TypeError):
        WebSocketClient(WS, None)


@pytest.mark.promise("P12")
def test_no_repr_holds_a_secret():
    client = make(
        "ws://user:secret1@peer.test/path?token=secret2#secret3",
        headers={"x-token": "secret4"},
        outbox=Outbox(),
    )
    shown = repr(client) + client.explain() + repr(client.stats) + str(client)
    assert "secret" not in shown
    assert repr(client) == "<WebSocketClient ws://peer.test/path idle>"


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
async def test_time_limits_of_calls_are_checked(timeout):
    async with stage() as played:
        for call in (
            lambda: played.client.ready(timeout),
            lambda: played.client.flush(timeout),
            lambda: played.client.request("x", lambda _: True, timeout),
            lambda: played.client.close(drain=timeout),
        ):
            with pytest.raises((TypeError, ValueError), match="timeout must be|drain must be"):
                await call()
        assert played.client.state is State.OPEN


async def test_time_limits_may_be_timedeltas():
    async with stage() as played:
        await played.client.ready(timedelta(seconds=1))
        await played.client.flush(timedelta(seconds=1))
        await played.client.send("x", ttl=timedelta(seconds=1))
        with pytest.raises(TimeoutError):
            await played.client.request("x", lambda _: True, timedelta(seconds=1))
        await settle()
        await played.client.close(drain=timedelta(seconds=1))


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"unix_socket": 5}, TypeError, "unix_socket must be a str, a path or None, got int"),
        ({"unix_socket": b"/s"}, TypeError, "unix_socket must be"),
        ({"unix_socket": ""}, ValueError, "unix_socket must be a path of 1 to"),
        ({"unix_socket": "/" + "x" * 200}, ValueError, "unix_socket must be a path of 1 to .* got 201"),
        ({"unix_socket": "/a\0b"}, ValueError, "unix_socket must not have a NUL"),
        ({"unix_socket": "/s", "proxy": "http://p"}, ValueError, "unix_socket and proxy exclude each other"),
        ({"unix_socket": "/s", "proxy": "env"}, ValueError, "unix_socket and proxy exclude each other"),
        (
            {"unix_socket": "/s", "local_address": ("127.0.0.1", 0)},
            ValueError,
            "unix_socket and local_address exclude each other",
        ),
        ({"local_address": "127.0.0.1"}, TypeError, "local_address must be a pair"),
        ({"local_address": ("127.0.0.1",)}, TypeError, "local_address must be a pair"),
        ({"local_address": (1, 2)}, TypeError, "local_address must begin with a host as str, got int"),
        ({"local_address": ("h h", 2)}, ValueError, "local_address must begin with an address"),
        (
            {"local_address": ("127.0.0.1", "0")},
            TypeError,
            "local_address must end with a port as int, got str",
        ),
        ({"local_address": ("127.0.0.1", True)}, TypeError, "local_address must end with a port as int"),
        ({"local_address": ("127.0.0.1", -1)}, ValueError, "a port from 0 to 65535, got -1"),
        ({"local_address": ("127.0.0.1", 65536)}, ValueError, "a port from 0 to 65535, got 65536"),
    ],
)
@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
def test_where_to_dial_and_what_to_bind_to_are_checked(options, error, text, transport):
    with pytest.raises(error, match=text):
        WebSocketClient("ws://h", transport=transport, **options)


@pytest.mark.parametrize(
    "url", ["ws://h/a b", "ws://h/a\r\nX: y", "ws://h/\0", "ws://h/é", "ws://h/?a b", "ws://ü/"]
)
def test_an_encoded_address_that_cannot_be_sent_is_refused(url):
    with pytest.raises(InvalidURL):
        WebSocketClient(URL(url, encoded=True))
