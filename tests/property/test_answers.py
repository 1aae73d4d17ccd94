"""Whatever a server answers, and wherever it redirects to: nothing crashes, and each failure is one of the server."""

import re

from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from resilient_ws.api.errors import HandshakeRejected
from resilient_ws.transports.shared.handshake import redirect, same_origin, verify
from resilient_ws.transports.shared.http_heads import joined, parse_head

ORIGIN = URL("wss://u:p@h.example/a/b?c=d")
PARTS = st.sampled_from(
    [
        *(
            "http:",
            "https:",
            "ws:",
            "wss:",
            "HTTPS:",
            "ftp:",
            "javascript:",
            "//",
            "/",
            "\\",
            "..",
            ".",
            "?",
            "#",
            "@",
            ":",
        ),
        *(
            "h.example",
            "other.example",
            "[::1]",
            "[::1",
            "[fe80::1%25eth0]",
            "bücher.example",
            "127.0.0.1",
            "0",
            ":0",
            ":443",
        ),
        *(
            ":65535",
            ":65536",
            ":-1",
            ":x",
            "u:p@",
            "%2F",
            "%2b",
            "%",
            "%zz",
            "%00",
            " ",
            "\t",
            "\r",
            "\n",
            "\0",
            "é",
            "\udce9",
        ),
        *("a", "b=c", "&", "+", "==", "~", "\x7f", "\U0001f600"),
    ]
)
LOCATIONS = st.one_of(
    st.lists(PARTS, max_size=8).map("".join),
    st.text(max_size=30),
    st.builds(
        "{}://{}{}/{}".format,
        st.sampled_from(["http", "https", "ws", "wss"]),
        st.sampled_from(["h.example", "other.example", "u:q@other.example", "[::1]"]),
        st.sampled_from(["", ":443", ":80", ":8080", ":0", ":"]),
        st.lists(PARTS, max_size=5).map("".join),
    ),
)


@given(LOCATIONS)
@example("https://h.example/?sig=A%2b/B%3D==&x=a+b~")
@example("https://other.example?x=1")
@example("//bücher.example/")
@example("?only=query")
@example("http://h:0/")
@example("")
def test_a_redirect_leads_somewhere_or_is_a_mistake_of_the_server(location):
    try:
        target = redirect(ORIGIN, location, 302, {})
    except HandshakeRejected as caught:
        refused = caught
    else:
        refused = None
    if refused is not None:
        assert (refused.status, refused.retryable) == (302, False)
        return
    assert target.scheme == "wss"
    assert target.host
    assert 1 <= target.port <= 65535
    assert re.fullmatch(r"[\x21-\x7e]+", str(target))
    assert target.raw_path_qs.startswith("/")
    if not same_origin(ORIGIN, target):
        assert (target.user, target.password) != ("u", "p") or "u:p@" in location
    sendable = re.fullmatch(r"https://(h\.example|other\.example)(/[\x21-\x22\x24-\x7e]*)", location)
    if sendable:
        assert target.raw_path_qs == sendable[2]  # byte for byte


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([
            "Upgrade", "connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions",
            "Location", "Retry-After", "X", "", "a b", "Content-Length",
        ]),
        st.one_of(
            st.sampled_from(["websocket", "Upgrade", "keep-alive, Upgrade", "chat", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", ""]),
            st.text(max_size=12),
        ),
    ),
    max_size=7,
)  # fmt: skip
LINES = st.one_of(
    st.integers(0, 1100).map("HTTP/1.1 {:03d} x".format),
    st.sampled_from(
        ["HTTP/1.1 101", "HTTP/1.1 101 ", "HTTP/2 200", "HTTP/1.0 101 OK", "SSH-2.0-x", "", "HTTP/1.1 one x"]
    ),
    st.text(max_size=12),
)
ANSWERS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda line, fields, end: (
            "\r\n".join([line, *(f"{name}: {value}" for name, value in fields)]) + end
        ).encode(errors="surrogatepass"),
        LINES,
        FIELDS,
        st.sampled_from(["\r\n\r\n", "\n\n", "\r\n", "", "\r\n\r\n\x81\x02hi"]),
    ),
)


@given(ANSWERS, st.integers(0, 40))
def test_an_answer_is_read_the_same_in_pieces_and_at_once(answer, cut):
    head, rest = parse_head(answer)
    first, _ = parse_head(answer[:cut])
    if first is not None:  # its end had come by then
        assert head is not None
        assert (first.status, list(first.headers.items())) == (head.status, list(head.headers.items()))
    if head is None:
        assert rest == answer
        return
    assert answer.endswith(rest)
    if not head.status:
        return
    headers = joined(head.headers)
    try:
        chosen = verify(
            head.status,
            headers,
            key="dGhlIHNhbXBsZSBub25jZQ==",
            offered=("chat",),
            extensions=False,
            version=head.version,
        )
    except HandshakeRejected as caught:
        refused, chosen = caught, None
    else:
        refused = None
    if refused is not None:
        assert refused.status == head.status
        assert not (head.status == 101 and refused.retryable)
        return
    assert head.status == 101
    assert head.version >= (1, 1)
    assert headers["Sec-WebSocket-Accept"].strip() == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert chosen in {None, "chat"}
