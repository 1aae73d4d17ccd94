"""Where to connect: what an address, a header and a subprotocol may be, and what of them is shown."""

import enum

import pytest
from multidict import CIMultiDict
from yarl import URL

from resilient_ws.api.endpoints import Endpoint, parse_url, public_url
from resilient_ws.api.errors import InvalidURL

HOME = Endpoint("wss://host/path")

Place = enum.Enum("Place", {"HOST": "wss://host/p"}, type=str)


# ------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "given,url",
    [
        ("ws://host", "ws://host"),
        ("wss://host:8443/a/b?x=1", "wss://host:8443/a/b?x=1"),
        ("WSS://HOST/Path", "wss://host/Path"),
        ("ws://host/p#part", "ws://host/p"),
        ("ws://[::1]:9000/p", "ws://[::1]:9000/p"),
        (URL("wss://host/p"), "wss://host/p"),
        (Place.HOST, "wss://host/p"),
    ],
)
def test_an_address_is_parsed(given, url):
    assert str(parse_url(given)) == url


@pytest.mark.parametrize(
    "given,message",
    [
        ("http://host", "url must begin with ws:// or wss://, its scheme is http://"),
        ("", "url must begin with ws:// or wss://, its scheme is none"),
        ("//host/path", "its scheme is none"),
        ("ws://", "url must have a host"),
        ("wss:///path", "url must have a host"),
        ("ws://host:0/", "url must have a port from 1 to 65535, got 0"),
        ("ws://host:65536/", "url cannot be parsed as a URL"),
        ("ws://host:port/", "url cannot be parsed as a URL"),
        ("ws://[host/", "url cannot be parsed as a URL"),
    ],
)
def test_what_is_no_address_is_refused(given, message):
    with pytest.raises(InvalidURL, match=message):
        parse_url(given)


@pytest.mark.promise("P12")
def test_a_parse_failure_shows_nothing_of_the_address():
    with pytest.raises(InvalidURL) as caught:
        parse_url("ws://user:secret@host:port/?token=secret")
    assert "secret" not in str(caught.value)
    assert caught.value.foreign == "ValueError"
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("given", [None, b"ws://host", 1])
def test_an_address_is_text_or_a_url(given):
    with pytest.raises(TypeError, match=r"url must be a str or yarl\.URL, got "):
        parse_url(given)


@pytest.mark.promise("P12")
@pytest.mark.parametrize(
    "url,shown",
    [
        ("wss://user:secret@host:1/path?token=secret#secret", "wss://host:1/path"),
        ("ws://[::1]:5/p?q", "ws://[::1]:5/p"),
        ("ws://host", "ws://host/"),
        ("/relative", ":///relative"),
    ],
)
def test_only_the_harmless_parts_of_an_address_are_shown(url, shown):
    assert public_url(URL(url)) == shown


def test_an_address_that_cannot_be_taken_apart_is_not_shown():
    assert public_url(URL("ws://secret:99999/", encoded=True)) == "(an address that cannot be shown)"


# ------------------------------------------------------------------------------------------------- endpoints


@pytest.mark.promise("P12")
def test_an_endpoint_shows_no_secret():
    endpoint = Endpoint("wss://u:secret@host/p?token=secret", {"X-Key": "secret"}, ["chat"])
    assert repr(endpoint) == "Endpoint(url=wss://host/p)"
    assert str(endpoint) == "wss://host/p"
    assert endpoint.url == URL("wss://u:secret@host/p?token=secret")
    assert dict(endpoint.headers) == {"X-Key": "secret"}


def test_an_endpoint_needs_only_an_address():
    assert dict(HOME.headers) == {}
    assert HOME.subprotocols == ()
    with pytest.raises(TypeError):
        HOME.headers["A"] = "b"
    assert Endpoint("ws://h", None).headers == HOME.headers
    with pytest.raises(InvalidURL):
        Endpoint("http://host")


def test_headers_of_any_mapping_are_kept():
    headers = CIMultiDict([("A", "1"), ("A", "2")])
    assert Endpoint("ws://h", headers).headers.getall("a") == ["1", "2"]


@pytest.mark.parametrize(
    "headers,error,message",
    [
        ([("A", "b")], TypeError, "headers must be a mapping, got list"),
        ({1: "b"}, TypeError, "headers must map str to str"),
        ({"A": 1}, TypeError, "headers must map str to str"),
        ({"A": b"b"}, TypeError, "headers must map str to str"),
        ({"A": "b\r"}, ValueError, "header 'A': CR, LF and NUL"),
        ({"A": "b\nC: d"}, ValueError, "header 'A': CR, LF and NUL"),
        ({"A": "b\0"}, ValueError, "header 'A': CR, LF and NUL"),
        ({"A": "b\x01"}, ValueError, "header 'A': control characters and lone surrogates"),
        ({"A": "b\x7f"}, ValueError, "header 'A': control characters"),
        ({"A": "b\ud800"}, ValueError, "header 'A': control characters"),
        ({"A\r\n": "b"}, ValueError, "CR, LF and NUL"),
        ({"": "b"}, ValueError, "header '': a header name is one or more token characters"),
        ({"A b": "b"}, ValueError, "header 'A b': a header name"),
        ({"A:": "b"}, ValueError, "header 'A:': a header name"),
        ({"Ä": "b"}, ValueError, "header 'Ä': a header name"),
    ],
)
@pytest.mark.promise("P12")
def test_headers_that_could_smuggle_are_refused(headers, error, message):
    with pytest.raises(error, match=message):
        Endpoint("ws://h", headers)


@pytest.mark.promise("P12")
def test_a_refused_header_does_not_show_its_value():
    with pytest.raises(ValueError, match="header 'A'") as caught:
        Endpoint("ws://h", {"A": "secret\r\n"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name,hint",
    [
        ("Connection", ""),
        ("upgrade", ""),
        ("Content-Length", ""),
        ("Transfer-Encoding", ""),
        ("Sec-WebSocket-Key", ""),
        ("SEC-WEBSOCKET-VERSION", ""),
        ("Sec-WebSocket-Protocol", "; use subprotocols="),
        ("sec-websocket-extensions", "; use compression="),
    ],
)
def test_headers_of_the_handshake_are_not_for_programs(name, hint):
    with pytest.raises(ValueError, match="belongs to the handshake") as caught:
        Endpoint("ws://h", {name: "x"})
    assert str(caught.value) == f"header {name!r} belongs to the handshake itself (RFC 6455 4.1){hint}"


@pytest.mark.parametrize("url", ["ws://user@host", "ws://user:secret@host", "ws://:secret@host"])
def test_an_address_with_a_user_takes_no_other_authorization(url):
    with pytest.raises(ValueError, match="^url and headers: .* exclude each other$") as caught:
        Endpoint(url, {"authorization": "secret"})
    assert "secret" not in str(caught.value)
    assert Endpoint(url, {"X-Key": "k"}).url == URL(url)
    assert Endpoint("ws://host", {"Authorization": "token"}).headers == {"Authorization": "token"}


def test_header_values_may_be_empty_or_beyond_ascii():
    assert Endpoint("ws://h", {"A-b_9!": "", "B": "ü\t€"}).headers == {"A-b_9!": "", "B": "ü\t€"}


@pytest.mark.parametrize(
    "names,error,message",
    [
        ("chat", TypeError, "subprotocols must be a sequence of str, got str"),
        (b"chat", TypeError, "subprotocols must be a sequence of str, got bytes"),
        ({"chat"}, TypeError, "subprotocols must be a sequence of str, got set"),
        (None, TypeError, "subprotocols must be a sequence of str, got NoneType"),
        (["a", 1], TypeError, "subprotocols must be a sequence of str, one is int"),
        (["a", ""], ValueError, "subprotocol '' must be"),
        (["a b"], ValueError, "subprotocol 'a b' must be"),
        (["a,b"], ValueError, "subprotocol 'a,b' must be"),
        (["a", "b", "a"], ValueError, "subprotocols must not repeat a name"),
    ],
)
def test_subprotocols_are_unique_tokens(names, error, message):
    with pytest.raises(error, match=message):
        Endpoint("ws://h", subprotocols=names)


def test_subprotocols_keep_their_order():
    assert Endpoint("ws://h", subprotocols=["v2.chat", "v1.chat"]).subprotocols == ("v2.chat", "v1.chat")
