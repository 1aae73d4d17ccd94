"""Which hosts `no_proxy` excepts, as curl reads it."""

import pytest

from resilient_ws.transports.shared.proxies import is_excepted, parse_proxy


@pytest.mark.parametrize(
    "no_proxy, host, port, expected",
    [
        ("", "h.example", 80, False),
        ("*", "h.example", 80, True),
        (" * ", "::1", 80, True),
        ("h.example", "h.example", 80, True),
        ("h.example", "H.EXAMPLE", 80, True),
        ("H.Example", "h.example.", 80, True),
        ("h.example.", "h.example", 80, True),
        ("example", "h.example", 80, True),
        (".example", "h.example", 80, True),
        (".example", "example", 80, True),
        ("*.example", "h.example", 80, True),
        ("ample", "h.example", 80, False),
        ("h.example", "not-h.example", 80, False),
        ("h.example", "example", 80, False),
        ("a,b h.example\tc", "h.example", 80, True),
        ("h.example:81", "h.example", 81, True),
        ("h.example:81", "h.example", 80, False),
        (",,", "h.example", 80, False),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("127.0.0.1:81", "127.0.0.1", 80, False),
        ("0.0.1", "127.0.0.1", 80, False),
        ("10.0.0.0/8,127.0.0.0/8", "127.0.0.1", 80, True),
        ("10.0.0.0/8", "10.255.255.255", 80, True),
        ("10.0.0.0/8", "11.0.0.0", 80, False),
        ("10.0.0.1/8", "10.2.0.0", 80, True),
        ("10.0.0.0/33", "10.0.0.0", 80, False),
        ("10.0.0.0/x", "10.0.0.0", 80, False),
        ("0.0.0.0/0", "h.example", 80, False),
        ("10.0.0.0/8", "::1", 80, False),
        ("::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:81", "::1", 81, True),
        ("[::1]:81", "::1", 80, False),
        ("0:0::1", "::1", 80, True),
        ("fe80::/10", "fe80::1%eth0", 80, True),
        ("[fe80::]/10", "fe80::1", 80, True),
        ("2001:db8::/32", "2001:db9::", 80, False),
        ("127.0.0.1", "::ffff:127.0.0.1", 80, True),
    ],
)
def test_what_is_excepted(no_proxy, host, port, expected):
    assert is_excepted(no_proxy, host, port) is expected


@pytest.mark.promise("P12")
@pytest.mark.parametrize(
    "url, text",
    [
        ("http://a%3Ab:sesame@p", "a user with a colon cannot be sent"),
        ("http://a:ses%0Aame@p", "control characters in user or password"),
        (f"socks5://u:{'sesame' * 50}@p", "a password of at most 255"),
        ("socks5://:sesame@p", "a user of 1 to 255 bytes"),
        ("socks4://u:sesame@p", "proxy must be an http://"),
        ("ftp://u:sesame@p", "proxy must be an http://"),
        ("http://u:sesame@p:0", "proxy must be an http://"),
        ("http://u:sesame@p:99999", "proxy must be an http://"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_the_door(url, text):
    with pytest.raises(ValueError, match=text) as caught:
        parse_proxy(url)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "url, user, password",
    [
        ("http://p", None, b""),
        ("http://me%40corp:p%40ss%3Aw%2Frd%25@p", b"me@corp", b"p@ss:w/rd%"),
        ("http://u:%E2%82%ACuro@p", b"u", "€uro".encode()),
        ("http://ü:ß@p", "ü".encode(), "ß".encode()),
        ("http://u:%FF@p", b"u", b"\xff"),
        ("http://u@p", b"u", b""),
    ],
)
def test_a_login_is_sent_byte_for_byte(url, user, password):
    proxy = parse_proxy(url)
    assert (proxy.user, proxy.password) == (user, password)
    assert proxy.shown == "http://p:80"
    assert "user" not in repr(proxy)
    assert "password" not in repr(proxy)
