"""Where the next attempt goes, and with which headers."""

import enum
from functools import partial

import pytest
from multidict import CIMultiDict
from yarl import URL

from resilient_ws import Attempt, ConnectError, Endpoint, InvalidURL, Stop
from resilient_ws.runtime.addresses import MAX_ADDRESSES, Addresses

ATTEMPT = Attempt(number=1)


async def endpoint_of(url, headers=None, subprotocols=(), index=0):
    return await Addresses(url, headers, subprotocols).next(index, ATTEMPT)


async def test_one_address():
    addresses = Addresses("ws://u:p@h/p?t=1#part", {"A": "1"}, ["x"])
    assert (addresses.count, addresses.is_provided, addresses.shown, addresses.host) == (
        1,
        False,
        "ws://h/p",
        "h",
    )
    endpoint = await addresses.next(0, ATTEMPT)
    assert endpoint.url == URL("ws://u:p@h/p?t=1")
    assert (dict(endpoint.headers), endpoint.subprotocols) == ({"A": "1"}, ("x",))


async def test_several_addresses():
    addresses = Addresses(["ws://a", URL("ws://b"), Endpoint("ws://c", {"B": "2"}, ["y"])], {"A": "1"}, ["x"])
    assert (addresses.count, addresses.shown) == (3, "ws://a/")
    endpoints = [await addresses.next(index, ATTEMPT) for index in range(3)]
    assert [endpoint.url.host for endpoint in endpoints] == ["a", "b", "c"]
    assert [dict(endpoint.headers) for endpoint in endpoints] == [
        {"A": "1"},
        {"A": "1"},
        {"A": "1", "B": "2"},
    ]
    assert [endpoint.subprotocols for endpoint in endpoints] == [("x",), ("x",), ("y",)]


async def test_the_headers_of_an_endpoint_win_whatever_their_case():
    endpoint = await endpoint_of(
        Endpoint("ws://h", {"x-key": "own", "B": "2"}), {"X-Key": "default", "C": "3"}
    )
    assert sorted(endpoint.headers.items()) == [("B", "2"), ("C", "3"), ("x-key", "own")]


async def test_repeated_headers_stay_repeated():
    defaults = CIMultiDict([("A", "1"), ("A", "2"), ("B", "3")])
    endpoint = await endpoint_of(Endpoint("ws://h", CIMultiDict([("b", "4"), ("b", "5")])), defaults)
    assert endpoint.headers.getall("A") == ["1", "2"]
    assert endpoint.headers.getall("B") == ["4", "5"]


async def test_a_header_is_what_its_value_holds_and_not_what_that_says_of_itself():
    word = enum.Enum("Word", {"KEY": "secret"}, type=str).KEY
    for endpoint in (
        await endpoint_of("ws://h", {"A": word}),
        await endpoint_of(Endpoint("ws://h", {"A": word})),
    ):
        assert f"{endpoint.headers['A']}" == "secret"
        assert type(endpoint.headers["A"]) is str


async def test_headers_that_change_later_change_nothing():
    headers = {"A": "1"}
    addresses = Addresses("ws://h", headers, ())
    headers["A"] = "2"
    assert dict((await addresses.next(0, ATTEMPT)).headers) == {"A": "1"}


class TestProvider:
    @pytest.mark.parametrize("given", ["ws://h/p", URL("ws://h/p"), Endpoint("ws://h/p")])
    async def test_it_returns_an_address(self, given):
        async def provide(attempt):
            assert attempt is ATTEMPT
            return given

        addresses = Addresses(provide, {"A": "1"}, ["x"])
        assert (addresses.count, addresses.is_provided, addresses.shown) == (1, True, "(URL provider)")
        assert addresses.host == "provider"
        assert await addresses.next(0, ATTEMPT) == Endpoint("ws://h/p", CIMultiDict({"A": "1"}), ["x"])

    async def test_it_may_be_any_callable_that_returns_an_awaitable(self):
        async def provide(path, attempt):
            return f"ws://h/{path}{attempt.number}"

        for provider in (partial(provide, "p"), lambda attempt: provide("p", attempt)):
            assert (await endpoint_of(provider)).url == URL("ws://h/p1")

    @pytest.mark.parametrize("returned", [None, "ws://h/", URL("ws://h/"), 5])
    async def test_it_must_return_an_awaitable(self, returned):
        with pytest.raises(
            TypeError, match=r"the URL provider must return an awaitable.*<lambda>\(\) returned"
        ):
            await endpoint_of(lambda attempt: returned)

    @pytest.mark.parametrize("raises", [True, False])
    async def test_it_says_stop(self, raises):
        async def provide(attempt):
            if raises:
                raise Stop("no more")
            return Stop("no more")

        with pytest.raises(Stop, match="no more"):
            await endpoint_of(provide)

    async def test_a_bad_address_is_final(self):
        async def provide(attempt):
            return "http://u:secret@h/?t=secret"

        with pytest.raises(InvalidURL) as caught:
            await endpoint_of(provide)
        assert not caught.value.retryable
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        "given, cause",
        [(None, TypeError), (7, TypeError), (b"ws://h", TypeError)],
    )
    async def test_no_address_is_a_failed_attempt(self, given, cause):
        async def provide(attempt):
            return given

        with pytest.raises(ConnectError, match="the URL provider raised TypeError") as caught:
            await endpoint_of(provide)
        assert isinstance(caught.value.__cause__, cause)
        assert caught.value.retryable

    async def test_an_exception_is_a_failed_attempt(self):
        async def provide(attempt):
            raise OSError("the token service is down")

        with pytest.raises(ConnectError, match="the URL provider raised OSError") as caught:
            await endpoint_of(provide)
        assert str(caught.value.__cause__) == "the token service is down"


class TestRefused:
    @pytest.mark.parametrize(
        "url, error, text",
        [
            (
                None,
                TypeError,
                "url must be a str, yarl.URL, Endpoint, a sequence of them, or an async function",
            ),
            (b"ws://h", TypeError, "url must be .* got bytes"),
            (7, TypeError, "url must be .* got int"),
            ([], ValueError, f"url must be 1 to {MAX_ADDRESSES} addresses, got 0"),
            (["ws://h"] * (MAX_ADDRESSES + 1), ValueError, f"got {MAX_ADDRESSES + 1}"),
            (["ws://h", 7], TypeError, "an address must be a str, yarl.URL or Endpoint, got int"),
            ("h", InvalidURL, "must begin with ws:// or wss://"),
            (["ws://h", "http://h"], InvalidURL, "must begin with ws:// or wss://, its scheme is http://"),
        ],
    )
    def test_addresses(self, url, error, text):
        with pytest.raises(error, match=text):
            Addresses(url, None, ())

    @pytest.mark.promise("P12")
    @pytest.mark.parametrize(
        "name, text",
        [
            ("Connection", "belongs to the handshake itself"),
            ("UPGRADE", "belongs to the handshake itself"),
            ("Content-Length", "belongs to the handshake itself"),
            ("transfer-encoding", "belongs to the handshake itself"),
            ("Sec-WebSocket-Key", "belongs to the handshake itself"),
            ("sec-websocket-version", "belongs to the handshake itself"),
            ("Sec-WebSocket-Protocol", "belongs to the handshake itself .*; use subprotocols="),
            ("Sec-WebSocket-Extensions", "belongs to the handshake itself .*; use compression="),
        ],
    )
    def test_headers_of_the_handshake(self, name, text):
        with pytest.raises(ValueError, match=f"header '{name}' {text}"):
            Addresses("ws://h", {name: "x"}, ())
        with pytest.raises(ValueError, match=f"header '{name}' {text}"):
            Endpoint("ws://h", {name: "x"})

    @pytest.mark.parametrize(
        "name", ["Host", "Origin", "User-Agent", "Cookie", "Authorization", "X-Anything"]
    )
    def test_others_are_up_to_the_program(self, name):
        assert Endpoint("ws://h", {name: "x"}).headers[name] == "x"

    @pytest.mark.parametrize("url", ["ws://user@h", "ws://user:secret@h"])
    def test_two_ways_to_say_who_we_are(self, url):
        with pytest.raises(ValueError, match="a user in the address and an Authorization header") as caught:
            Addresses(url, {"authorization": "secret"}, ())
        assert "secret" not in str(caught.value)
