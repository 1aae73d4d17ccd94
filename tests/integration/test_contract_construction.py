"""What the constructor takes and refuses at once."""

from datetime import timedelta

import pytest

from resilient_ws import (
    ConnectError,
    Endpoint,
    Heartbeat,
    Inbox,
    InvalidURL,
    OpenEvent,
    Outbox,
    ReconnectPolicy,
    Retry,
    Stop,
    WebSocketClient,
)

NOWHERE = "ws://127.0.0.1:9/"


def test_everything_but_the_url_is_keyword_only():
    with pytest.raises(TypeError):
        WebSocketClient(NOWHERE, None)


@pytest.mark.parametrize(
    "url", ["http://example.com", "example.com", "", "ws://", [], "ws://host:99999/", "ws://two words/"]
)
def test_an_address_that_is_no_websocket_address_is_refused_at_once(url):
    with pytest.raises(ValueError) as error:
        WebSocketClient(url)
    if url != []:
        assert isinstance(error.value, InvalidURL)
        assert isinstance(error.value, ConnectError)


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat": 0},
        {"heartbeat": -1},
        {"heartbeat": float("nan")},
        {"open_timeout": 0},
        {"setup_timeout": -1},
        {"close_timeout": float("inf")},
        {"max_message_size": 0},
        {"compression": "gzip"},
        {"transport": "carrier-pigeon"},
        {"subprotocols": ["a b"]},
        {"headers": {"X": "a\r\nb: c"}},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_named(options):
    (field,) = options
    with pytest.raises(ValueError, match=field.rstrip("s")):
        WebSocketClient(NOWHERE, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat": "15"},
        {"open_timeout": "10"},
        {"reconnect": 3},
        {"outbox": 10},
        {"inbox": 10},
        {"setup": 1},
        {"on_open": "no"},
        {"fail_fast": "yes"},
        {"max_message_size": 1.5},
        {"subprotocols": "chat"},
        {"session": "aiohttp"},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_named(options):
    (field,) = options
    with pytest.raises(TypeError, match=field):
        WebSocketClient(NOWHERE, **options)


def test_options_take_their_fields_by_position():
    assert (Heartbeat(5, 2).interval, Heartbeat(5, 2).timeout) == (5, 2)
    assert Heartbeat(5, 2, 30).pong_timeout == 30
    assert Outbox(10).max_messages == 10
    assert Inbox(10).max_messages == 10
    assert Retry(3).after == 3
    assert Retry().after is None
    assert Stop("enough").reason == "enough"
    assert isinstance(Stop("enough"), Exception)
    endpoint = Endpoint("ws://h/p", {"A": "b"}, ["chat"])
    assert (str(endpoint.url), dict(endpoint.headers), list(endpoint.subprotocols)) == (
        "ws://h/p",
        {"A": "b"},
        ["chat"],
    )
    assert ReconnectPolicy(2, 1).min_delay == 1
    Heartbeat.expect(60)
    Heartbeat.app("ping", lambda message: message == "pong", 5, 2)


def test_a_duration_may_be_a_timedelta_everywhere():
    second = timedelta(seconds=1)
    WebSocketClient(
        NOWHERE,
        open_timeout=second,
        setup_timeout=second,
        close_timeout=second,
        heartbeat=second,
        outbox=Outbox(ttl=second, confirm_interval=second),
        reconnect=ReconnectPolicy(second, second, 2 * second, max_elapsed=second, min_uptime=second),
    )
    assert Heartbeat(5 * second, 2 * second, 9 * second, idle_timeout=second).interval == 5.0
    Heartbeat.expect(second)
    Heartbeat.app("a", bool, second, second)
    assert Retry(second).after == 1.0


def test_nothing_secret_is_in_a_repr():
    client = WebSocketClient(
        "ws://127.0.0.1:9/path?token=hunter2#hunter2",
        headers={"Authorization": "hunter2"},
        subprotocols=["hunter2"],
        proxy="http://user:hunter2@127.0.0.1:1",
    )
    assert "hunter2" not in repr(client) + client.explain() + repr(
        Endpoint("ws://h/?t=hunter2", {"a": "hunter2"})
    )
    endpoint = Endpoint("ws://hunter2@h/?t=hunter2", {"a": "hunter2"}, ["hunter2"])
    assert "hunter2" not in str(endpoint) + repr(endpoint)
    opened = OpenEvent(
        attempt=1, endpoint=endpoint, subprotocol="hunter2", headers={"a": "hunter2"}, first=True
    )
    assert "hunter2" not in repr(opened)
