"""Both transports meet the same situations: what they send, how they fail and what they say is the same."""

import asyncio
import contextlib
import re
import socket
import ssl

import pytest
from yarl import URL

from resilient_ws import ClientStopped, ConnectError, WebSocketClient
from resilient_ws.api.version import VERSION
from resilient_ws.transports.shared.handshake import accept_for
from tests.integration import tls

ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"


class Peer:
    """Answers each request with the same bytes, `%b` for its key, and keeps what it was sent.

    With ``ends=False`` it stays connected until the client says something, that is, until its CLOSE.
    """

    def __init__(self, answer, *, context=None, ends=True):
        self.answer, self.context, self.ends = answer, context, ends
        self.requests = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()
        await asyncio.sleep(0.05)

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)[1].decode()
            writer.write(self.answer.replace(b"%b", accept_for(key).encode()))
            await writer.drain()
            if self.ends and writer.can_write_eof():
                writer.write_eof()
            await reader.read() if self.ends else await reader.read(100)
        writer.close()


def normal(text, port):
    return str(text).replace(str(port), "PORT")


async def outcome(transport, answer, **options):
    """What becomes of a dial: its class, its text, its fields."""
    async with Peer(answer) as peer:
        client = WebSocketClient(
            f"ws://127.0.0.1:{peer.port}/", transport=transport, fail_fast=True, **options
        )
        try:
            async with client:
                return ("open",)
        except (ConnectError, ClientStopped) as caught:
            error = caught.__cause__ if isinstance(caught, ClientStopped) else caught
            return (
                type(error).__name__,
                normal(error, peer.port),
                error.status,
                error.retryable,
                error.retry_after,
                error.__cause__,
            )


SITUATIONS = {
    "right": ACCEPT + b"\r\n",
    "100 before": b"HTTP/1.1 100 Continue\r\n\r\n" + ACCEPT + b"\r\n",
    "102 and 103 before": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    + ACCEPT
    + b"\r\n",
    "ten before": b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" * 10 + ACCEPT + b"\r\n",
    "keep-alive too": ACCEPT.replace(b"Connection: ", b"Connection: keep-alive, ") + b"\r\n",
    "103 and nothing": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "a banner": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an smtp banner": b"220 mail.example ESMTP\r\n",
    "binary": bytes(range(256)),
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "nothing": b"",
    "half a line": b"HTTP/1.1 1",
    "half an answer": ACCEPT,
    "no number": b"HTTP/1.1 one\r\n\r\n",
    "a huge header": ACCEPT + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "a large header": ACCEPT + b"X: " + b"x" * 30_000 + b"\r\n\r\n",
    "many headers": ACCEPT + b"X: y\r\n" * 1000 + b"\r\n",
    "200": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "404": b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    "302 without": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
    "302 to port 0": b"HTTP/1.1 302 Found\r\nLocation: http://h:0/\r\nContent-Length: 0\r\n\r\n",
    "302 to mail": b"HTTP/1.1 302 Found\r\nLocation: mailto:x@y\r\nContent-Length: 0\r\n\r\n",
    "302 to nothing": b"HTTP/1.1 302 Found\r\nLocation: \r\nContent-Length: 0\r\n\r\n",
    "302 for ever": b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
    "wrong accept": ACCEPT.replace(b"%b", b"nonsense") + b"\r\n",
    "no upgrade": ACCEPT.replace(b"Upgrade: websocket\r\n", b"") + b"\r\n",
    "HTTP/1.0": ACCEPT.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n",
    "another subprotocol": ACCEPT + b"Sec-WebSocket-Protocol: other\r\n\r\n",
    "an extension": ACCEPT + b"Sec-WebSocket-Extensions: x-unheard-of\r\n\r\n",
}


@pytest.mark.promise("P10")
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_the_outcome(situation):
    first, second = [await outcome(each, SITUATIONS[situation]) for each in ("aiohttp", "picows")]
    assert first == second
    expected = {"right", "100 before", "102 and 103 before", "ten before", "keep-alive too", "a large header"}
    assert (first[0] == "open") == (situation in expected), first


@pytest.mark.parametrize("what", ["refused", "unknown", "unix", "proxy", "socks"])
async def test_the_text_where_nothing_is_reached(what, tmp_path):
    url, options = {
        "refused": ("ws://127.0.0.1:9/", {}),
        "unknown": ("ws://name.invalid/", {}),
        "unix": ("ws://h/", {"unix_socket": str(tmp_path / "x")}),
        "proxy": ("ws://h/", {"proxy": "http://u:sesame@127.0.0.1:9"}),
        "socks": ("wss://h/", {"proxy": "socks5h://u:sesame@127.0.0.1:9"}),
    }[what]
    texts = set()
    for transport in ("aiohttp", "picows"):
        with pytest.raises(ConnectError) as caught:
            async with WebSocketClient(url, transport=transport, fail_fast=True, **options):
                pytest.fail("it must not open")
        texts.add((type(caught.value), str(caught.value)))
    ((_, text),) = texts
    assert {
        "refused": "127.0.0.1 port 9 could not be reached: connection refused",
        "unix": f"the Unix socket {str(tmp_path / 'x')!r} could not be reached: no such file or directory",
        "proxy": "the proxy http://127.0.0.1:9 could not be reached: connection refused",
        "socks": "the proxy socks5h://127.0.0.1:9 could not be reached: connection refused",
    }.get(what, text) == text
    if what == "unknown":
        assert text.startswith("the name name.invalid could not be resolved: ")


REQUESTS = {
    "plain": ("/", {}),
    "query": ("/a/b?x=1&y=%2F", {}),
    "encoded": (URL("/a%2fb%7e/?sig=A%2B/b==&x=a+b", encoded=True), {}),
    "login": ("/", {"login": "u:p%E2%82%AC@"}),
    "headers": ("/", {"headers": {"X-Key": "v", "Origin": "http://o.example", "User-Agent": "mine/1"}}),
    "subprotocols": ("/", {"subprotocols": ["a", "b"]}),
    "a final dot": ("/", {"host": "localhost."}),
}


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("which", REQUESTS)
async def test_the_request(which, encrypted, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **more: real("127.0.0.1" if host == "localhost." else host, *args, **more),
    )
    path, options = REQUESTS[which]
    options = dict(options)
    host, login = options.pop("host", "127.0.0.1"), options.pop("login", "")
    scheme = "wss" if encrypted else "ws"
    sent = []
    async with Peer(ACCEPT + b"\r\n", context=tls.good() if encrypted else None, ends=False) as peer:
        for transport in ("aiohttp", "picows"):
            url = URL(f"{scheme}://{login}{host}:{peer.port}{path}", encoded=True)
            async with WebSocketClient(
                url, transport=transport, ssl=tls.trusting(), fail_fast=True, **options
            ):
                pass
        for head in peer.requests:
            line, *fields = head.decode().rstrip("\r\n").split("\r\n")
            fields = [re.sub("(?i)^sec-websocket-key: .*", "key", field) for field in fields]
            sent.append((line, sorted(field.lower() for field in fields)))
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert sent[0][0] == f"GET {path} HTTP/1.1"
    agent = "mine/1" if which == "headers" else f"resilient-ws/{VERSION}"
    assert f"user-agent: {agent}" in sent[0][1]
    assert f"host: {host.rstrip('.')}:{peer.port}" in sent[0][1]


@pytest.mark.promise("P10")
async def test_a_choice_of_http_2_stops_with_what_to_do():

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.authority().issue_cert(*tls.HOSTS).configure_cert(context)
    context.set_alpn_protocols(["h2"])
    offering = ssl.create_default_context()
    tls.authority().configure_trust(offering)
    offering.set_alpn_protocols(["h2", "http/1.1"])
    texts = set()
    async with Peer(b"", context=context) as peer:
        for transport in ("aiohttp", "picows"):
            client = WebSocketClient(f"wss://127.0.0.1:{peer.port}/", transport=transport, ssl=offering)
            with pytest.raises(ClientStopped) as caught:
                async with client:
                    pytest.fail("it must not open")
            texts.add(str(caught.value.__cause__))
    (text,) = texts
    assert "'h2' (ALPN)" in text
    assert "set_alpn_protocols(['http/1.1'])" in text
