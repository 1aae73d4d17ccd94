"""What an answer to the opening handshake must look like, and where a redirect may lead."""

import pytest
from multidict import CIMultiDict
from yarl import URL

from resilient_ws.api.errors import HandshakeRejected
from resilient_ws.transports.shared.handshake import (
    accept_for,
    host_without_zone,
    redirect,
    same_origin,
    verify,
)
from resilient_ws.transports.shared.retry_after import retry_after

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3


def answer(**changes):
    headers = CIMultiDict({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT})
    for argument, value in changes.items():
        name = argument.replace("_", "-")
        if value is None:
            del headers[name]
        else:
            headers[name] = value
    return headers


def check(headers, *, status=101, offered=(), extensions=False, version=(1, 1)):
    return verify(status, headers, key=KEY, offered=offered, extensions=extensions, version=version)


def test_the_accept_value_is_that_of_the_standard():
    assert accept_for(KEY) == ACCEPT


class TestVerify:
    @pytest.mark.parametrize(
        "headers",
        [
            answer(),
            answer(upgrade="WebSocket", connection="upgrade"),
            answer(connection="keep-alive, Upgrade"),
            answer(connection="upgrade,keep-alive"),
            answer(sec_websocket_accept=f" {ACCEPT} "),
        ],
    )
    def test_takes_what_the_standard_allows(self, headers):
        assert check(headers) is None

    def test_returns_the_subprotocol_that_was_chosen(self):
        assert check(answer(sec_websocket_protocol="b"), offered=("a", "b")) == "b"
        assert check(answer(), offered=("a", "b")) is None

    @pytest.mark.parametrize(
        "value", ["permessage-deflate", "Permessage-Deflate; server_no_context_takeover", ""]
    )
    def test_takes_an_extension_that_was_offered(self, value):
        assert check(answer(sec_websocket_extensions=value), extensions=True) is None

    @pytest.mark.parametrize(
        "value",
        [
            "x-unheard-of",
            "permessage-deflate, x-unheard-of",
            "permessage-deflate, permessage-deflate",
            "x-permessage-deflate",
        ],
    )
    def test_refuses_extensions_beside_it(self, value):
        with pytest.raises(HandshakeRejected, match="an extension that was not offered"):
            check(answer(sec_websocket_extensions=value), extensions=True)

    @pytest.mark.parametrize(
        "headers, text",
        [
            (answer(upgrade=None), "its Upgrade header is not websocket"),
            (answer(upgrade="h2c"), "its Upgrade header is not websocket"),
            (answer(connection=None), "its Connection header does not say Upgrade"),
            (answer(connection="close"), "its Connection header does not say Upgrade"),
            (answer(connection="not-upgrade"), "its Connection header does not say Upgrade"),
            (answer(sec_websocket_accept=None), "Sec-WebSocket-Accept does not belong to our key"),
            (answer(sec_websocket_accept=""), "Sec-WebSocket-Accept does not belong to our key"),
            (answer(sec_websocket_accept=ACCEPT.lower()), "Sec-WebSocket-Accept does not belong to our key"),
            (answer(sec_websocket_accept=f"{ACCEPT}, {ACCEPT}"), "Sec-WebSocket-Accept does not belong"),
            (answer(sec_websocket_extensions="permessage-deflate"), "an extension that was not offered"),
            (answer(sec_websocket_protocol="b"), "the subprotocol 'b', which was not offered"),
            # Its value is a token, never empty (RFC 6455 11.3.4).
            (answer(sec_websocket_protocol=""), "the subprotocol '', which was not offered"),
            (
                answer(sec_websocket_protocol="c" * 100),
                "the subprotocol '" + "c" * 64 + "', which was not offered",
            ),
        ],
    )
    def test_refuses_an_invalid_handshake(self, headers, text):
        with pytest.raises(HandshakeRejected, match=text) as caught:
            check(headers)
        assert (caught.value.status, caught.value.retryable, caught.value.headers) == (101, False, headers)

    def test_subprotocols_compare_with_case(self):
        with pytest.raises(HandshakeRejected, match="the subprotocol 'Chat'"):
            check(answer(sec_websocket_protocol="Chat"), offered=("chat",))

    def test_refuses_http_1_0(self):
        with pytest.raises(HandshakeRejected, match=r"it is HTTP/1\.0, which cannot be upgraded"):
            check(answer(), version=(1, 0))

    @pytest.mark.parametrize(
        "status, retryable",
        [
            (200, False),
            (302, False),
            (400, False),
            (401, False),
            (404, False),
            (408, True),
            (425, True),
            (429, True),
            (500, True),
            (503, True),
            (599, True),
        ],
    )
    def test_any_other_status_is_a_refusal(self, status, retryable):
        with pytest.raises(HandshakeRejected, match=f"answered the handshake with HTTP {status}") as caught:
            check(answer(retry_after="7"), status=status)
        assert (caught.value.status, caught.value.retryable) == (status, retryable)
        assert caught.value.retry_after == 7


class TestRetryAfter:
    @pytest.mark.parametrize(
        "value, seconds",
        [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("9" * 30, 999999999999),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("1.5", 1.5),
            ("1e3", 1000),
            ("7 seconds", 7),
            ('"7"', 7),
            ("7, 60", 60),
            ("soon, 60", 60),
            ("1e999999", 999999999999),
            ("٣", None),
            ("Wed, 99 Foo 2026", None),
        ],
    )
    def test_seconds(self, value, seconds):
        assert retry_after({"Retry-After": value}) == seconds

    def test_absent(self):
        assert retry_after({}) is None

    @pytest.mark.parametrize(
        "value, seconds",
        [
            ("Wed, 21 Oct 2026 07:28:00 GMT", 60),
            ("Wed, 21 Oct 2026 09:28:00 +0200", 60),
            ("Wed, 21 Oct 2026 07:28:00 -0000", 60),
            ("Wednesday, 21-Oct-26 07:28:00 GMT", 60),
            ("Wed Oct 21 07:28:00 2026", 60),
            ("Wed, 21 Oct 2026 07:00:00 GMT", 0),
            ("Wed, 21 Oct 2026 07:28:00 GMT, 30", 60),
            ("Fri, 31 Dec 99999 23:59:59 GMT", 999999999999),
            ("Fri, 31 Dec 9999 23:59:59 -9999", 251610095519),
            ("Sat, 01 Jan 0001 00:00:00 +9999", 0),
        ],
    )
    def test_a_date_counts_from_the_date_of_the_answer(self, value, seconds):
        assert retry_after({"Retry-After": value, "Date": "Wed, 21 Oct 2026 07:27:00 GMT"}) == seconds

    @pytest.mark.parametrize("date", ["", "yesterday"])
    def test_a_date_counts_from_our_clock_where_the_answer_has_none(self, date):
        assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": date}) == 0
        assert retry_after({"Retry-After": "Wed, 21 Oct 2150 07:28:00 GMT", "Date": date}) > 1_000_000


@pytest.mark.promise("P12")
class TestRedirect:
    @pytest.mark.parametrize(
        "origin, location, target",
        [
            ("ws://h/a?t=1", "/b", "ws://h/b"),
            ("ws://h/a/b", "c", "ws://h/a/c"),
            ("ws://h/a", "?x=1", "ws://h/a?x=1"),
            ("ws://h/a", "//other/b", "ws://other/b"),
            ("ws://h/a", "http://h/b", "ws://h/b"),
            ("ws://h/a", "https://h/b", "wss://h/b"),
            ("ws://h/a", "ws://h:81/b", "ws://h:81/b"),
            ("wss://h/a", "https://h:444/b#part", "wss://h:444/b"),
            ("wss://h/a", "wss://other", "wss://other"),
            ("ws://u:p@h/a", "/b", "ws://u:p@h/b"),
            ("ws://u:p@h/a", "ws://h/b", "ws://u:p@h/b"),
            ("ws://u:p@h/a", "http://h:80/b", "ws://u:p@h:80/b"),
            ("ws://u:p@h/a", "ws://v:q@h/b", "ws://v:q@h/b"),
            ("ws://u:p@h/a", "ws://other/b", "ws://other/b"),
            ("ws://u:p@h/a", "ws://h:81/b", "ws://h:81/b"),
            ("ws://u:p@h/a", "wss://h/b", "wss://h/b"),
        ],
    )
    def test_leads_to(self, origin, location, target):
        assert redirect(URL(origin), location, 302, {}) == URL(target)

    @pytest.mark.parametrize(
        "location",
        [
            "mailto:x@y",
            "ftp://h/",
            "javascript:alert(1)",
            "http://",
            "http://[::1",
            "http://h:99999/",
            "http:///b",
        ],
    )
    def test_garbage_is_refused(self, location):
        with pytest.raises(
            HandshakeRejected, match="redirected to something that is not a WebSocket"
        ) as caught:
            redirect(URL("ws://h/a"), location, 307, {"Location": location})
        assert (caught.value.status, caught.value.retryable) == (307, False)
        assert caught.value.__cause__ is caught.value.__context__ is None

    @pytest.mark.parametrize("location", ["ws://h/a", "http://h/a", "ws://other/"])
    def test_wss_does_not_become_ws(self, location):
        with pytest.raises(
            HandshakeRejected, match="from wss to ws, which would drop the encryption"
        ) as caught:
            redirect(URL("wss://h/a"), location, 302, {})
        assert (caught.value.status, caught.value.retryable) == (302, False)

    @pytest.mark.parametrize(
        "one, other, same",
        [
            ("ws://h/a", "ws://h/b?c", True),
            ("ws://h", "ws://H:80", True),
            ("wss://h", "wss://h:443", True),
            ("ws://u@h", "ws://h", True),
            ("ws://h", "wss://h", False),
            ("ws://h", "ws://h:81", False),
            ("ws://h", "ws://h.example", False),
        ],
    )
    def test_same_origin(self, one, other, same):
        assert same_origin(URL(one), URL(other)) == same


@pytest.mark.parametrize(
    "url, host",
    [
        ("ws://[fe80::1%eth0]:8080/x", "[fe80::1]:8080"),
        ("ws://[fe80::1%eth0]/", "[fe80::1]"),
        ("wss://[fe80::1%eth0]:443/", "[fe80::1]"),
        ("ws://[fe80::1]:8080/", None),
        ("ws://stream.example/a%20b", None),
    ],
)
def test_the_zone_of_an_address_is_not_told(url, host):
    assert host_without_zone(URL(url)) == host
