"""The ways that lead to a server: proxies of each kind, Unix sockets, a local address, several addresses of a name."""

import asyncio
import contextlib
import re
import shutil
import socket
import sys

import pytest

from resilient_ws import (
    ClientStopped,
    ConnectError,
    Governor,
    ProxyRejected,
    ReconnectPolicy,
    WebSocketClient,
)
from resilient_ws.testing import FaultServer, Redirect, Refuse
from tests.integration import tls
from tests.integration.forwarding import ForwardProxy, pump
from tests.integration.listening import SOON, Told
from tests.integration.socks import SocksProxy

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture(params=["ws", "wss"])
def server(request):
    return FaultServer(ssl=tls.good() if request.param == "wss" else None)


async def check_echo(client):
    async with client:
        for message in ("x", "y" * 300_000):
            await client.send(message)
            assert await client.recv() == message


async def failure_of(url, **options):
    with pytest.raises((ConnectError, ClientStopped)) as caught:
        async with WebSocketClient(url, fail_fast=True, **options):
            pytest.fail("it must not open")
    error = caught.value
    return error.__cause__ if isinstance(error, ClientStopped) else error


class TestHTTP:
    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_both_kinds_of_address_are_tunnelled(self, server, scheme):
        context = tls.good() if scheme == "https" else None
        async with server, ForwardProxy(tls=context) as proxy:
            url = f"{scheme}://u:p%E2%82%AC@{proxy.address}"
            await check_echo(WebSocketClient(server.url, proxy=url, ssl=tls.trusting()))
            assert proxy.requests[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
            assert proxy.header("Proxy-Authorization") == "Basic dTpw4oKs"
            assert server.attempts[0].headers.get("Proxy-Authorization") is None

    async def test_what_is_lost_behind_a_proxy_with_tls_is_noticed(self, server):
        async with server, ForwardProxy(tls=tls.good()) as proxy:
            client = WebSocketClient(
                server.url, proxy=f"https://{proxy.address}", ssl=tls.trusting(), reconnect=SOON
            )
            told = Told(client)
            async with client:
                (await server.connection()).rst()
                await told.reconnect()
            assert len(proxy.requests) == 2

    @pytest.mark.promise("P10")
    @pytest.mark.parametrize(
        "answer, text, retryable",
        [
            (b"HTTP/1.1 405 No\r\n\r\n", "does not tunnel: it answered CONNECT with HTTP 405", False),
            (b"HTTP/1.1 501 No\r\n\r\n", "does not tunnel: it answered CONNECT with HTTP 501", False),
            (
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
                "does not tunnel: it answered CONNECT with HTTP 200 and a page",
                False,
            ),
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", "does not tunnel: .* and a page", False),
            (b"SSH-2.0-x\r\n", "does not tunnel: its answer to CONNECT is not HTTP", False),
            (b"HTTP/1.1 403 No\r\n\r\n", "answered CONNECT with HTTP 403", False),
            (b"HTTP/1.1 407 No\r\n\r\n", "answered CONNECT with HTTP 407; it wants another login", False),
            (b"HTTP/1.1 502 No\r\n\r\n", "answered CONNECT with HTTP 502", True),
            (b"HTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\n", "answered CONNECT with HTTP 503", True),
            (b"HTTP/1.1 429 No\r\n\r\n", "answered CONNECT with HTTP 429", True),
            (b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 403 No\r\n\r\n", "CONNECT with HTTP 403", False),
            (b"", "closed the connection instead of answering CONNECT", True),
            (b"HTTP/1.1 2", "closed the connection instead of answering CONNECT", True),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "the answer of the proxy .* is too large", True),
        ],
    )
    async def test_one_that_fails_is_named(self, answer, text, retryable):
        async def serve(reader, writer):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
                await reader.read()
            writer.close()

        proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        async with proxy:
            error = await failure_of(
                "ws://name.example/?token=sesame", proxy=f"http://u:sesame@127.0.0.1:{port}"
            )
        assert error.retryable == retryable, error
        assert isinstance(error, ProxyRejected) or retryable
        assert re.search(text, str(error)), error
        assert f"the proxy http://127.0.0.1:{port}" in str(error)
        assert "sesame" not in repr(error)
        assert error.retry_after == (7 if b"Retry-After" in answer else None)

    @pytest.mark.promise("P10")
    async def test_one_that_does_not_tunnel_any_more_does_not_end_a_client_that_had_been_open(self, server):
        async with server, ForwardProxy() as proxy:
            client = WebSocketClient(
                server.url, proxy=f"http://{proxy.address}", ssl=tls.trusting(), reconnect=SOON
            )
            told = Told(client)
            async with client:
                proxy.status = 405
                (await server.connection()).rst()
                retry = await told.retry(2)
                assert retry.rule_id == "proxy"
                proxy.status = None
                await told.reconnect()


class TestSOCKS:
    @pytest.mark.parametrize("login", [None, (b"me:too", "p\u20ac".encode())])
    async def test_names_are_looked_up_there_or_here(self, server, login, monkeypatch):
        real = socket.getaddrinfo

        def look_up(host, *args, **kwargs):
            assert host != "remote.example"
            return real("127.0.0.1" if host == "name.example" else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        user = "me%3Atoo:p%E2%82%AC@" if login else ""
        async with server, SocksProxy(login=login, names={"remote.example": "127.0.0.1"}) as proxy:
            for scheme, host in (("socks5", "name.example"), ("socks5h", "remote.example")):
                url = server.url.replace("127.0.0.1", host)
                client = WebSocketClient(
                    url, proxy=f"{scheme}://{user}127.0.0.1:{proxy.port}", ssl=False, compression=None
                )
                await check_echo(client)
            assert proxy.asked == [("127.0.0.1", server.port), ("remote.example", server.port)]

    @pytest.mark.parametrize(
        "options, text, retryable",
        [
            ({"reply": 5}, "could not reach 127.0.0.1:9: connection refused", True),
            ({"reply": 3}, "could not reach 127.0.0.1:9: network is unreachable", True),
            ({"reply": 2}, "could not reach 127.0.0.1:9: not allowed by its rules", False),
            ({"reply": 99}, "could not reach 127.0.0.1:9: reply 99", True),
            ({"version": 4}, "does not speak SOCKS 5", False),
            ({"login": (b"other", b"x")}, "refused the login", False),
        ],
    )
    async def test_one_that_fails_is_named(self, options, text, retryable):
        async with SocksProxy(**options) as proxy:
            login = "u:sesame@" if "login" in options else ""
            error = await failure_of("ws://127.0.0.1:9/", proxy=f"socks5://{login}127.0.0.1:{proxy.port}")
            assert str(error) == f"the proxy socks5://127.0.0.1:{proxy.port} {text}"
            assert error.retryable == retryable

    async def test_one_that_wants_a_login_says_so(self):
        async with SocksProxy(login=(b"u", b"p")) as proxy:
            error = await failure_of("ws://127.0.0.1:9/", proxy=f"socks5h://127.0.0.1:{proxy.port}")
        assert str(error).endswith("wants a login")

    async def test_an_http_proxy_is_none(self):
        async with ForwardProxy() as proxy:
            error = await failure_of("ws://127.0.0.1:9/", proxy=f"socks5://{proxy.address}", open_timeout=0.3)
        assert "the proxy socks5://" in str(error)


REAL = {
    "tinyproxy": "Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nLogLevel Critical\nMaxClients 10\n",
    "privoxy": "listen-address 127.0.0.1:{port}\ntoggle 0\nlogfile /dev/null\n",
    "squid": (
        "http_port 127.0.0.1:{port}\nhttp_access allow localhost\nhttp_access deny all\nacl SSL_ports port 1-65535\n"
        "access_log none\ncache_log /dev/null\ncache deny all\npid_filename none\npinger_enable off\n"
        "coredump_dir {folder}\nshutdown_lifetime 0 seconds\nlogfile_rotate 0\n"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*REAL, "microsocks"])
async def test_real_proxies(kind, server, tmp_path):
    program = shutil.which(kind, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    if program is None:
        pytest.skip(f"{kind} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "config"
    if kind in REAL:
        config.write_text(REAL[kind].format(port=port, folder=tmp_path))
    arguments = {
        "tinyproxy": ["-d", "-c", str(config)],
        "privoxy": ["--no-daemon", str(config)],
        "squid": ["-N", "-f", str(config)],
        "microsocks": ["-i", "127.0.0.1", "-p", str(port)],
    }[kind]
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20), server:
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await writer.wait_closed()
                    break
                assert process.returncode is None, f"{kind} has ended"
                await asyncio.sleep(0.05)
            scheme = "socks5h" if kind == "microsocks" else "http"
            await check_echo(
                WebSocketClient(server.url, proxy=f"{scheme}://127.0.0.1:{port}", ssl=tls.trusting())
            )
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
class TestUnixSocket:
    @pytest.fixture
    async def forwarded(self, tmp_path):
        """A Unix socket that leads to a server on TCP."""
        path = tmp_path / "s"
        target = {}

        async def serve(reader, writer):
            to, out = await asyncio.open_connection("127.0.0.1", target["port"])

            with contextlib.suppress(OSError):
                await asyncio.gather(pump(reader, out), pump(to, writer))
            out.close()
            writer.close()

        unix = await asyncio.start_unix_server(serve, path)
        yield path, target
        unix.close()
        await unix.wait_closed()
        await asyncio.sleep(0.05)

    async def test_it_is_dialed_instead_of_the_host(self, server, forwarded):
        path, target = forwarded
        async with server:
            target["port"] = server.port
            url = server.url.replace("127.0.0.1", "localhost").replace(str(server.port), "9")
            await check_echo(WebSocketClient(url, unix_socket=path, ssl=tls.trusting()))
            assert server.attempts[0].headers["Host"] == "localhost:9"

    async def test_it_survives_a_loss(self, forwarded):
        path, target = forwarded
        async with FaultServer() as server:
            target["port"] = server.port
            client = WebSocketClient("ws://localhost/", unix_socket=str(path), reconnect=SOON)
            told = Told(client)
            async with client:
                (await server.connection()).fin()
                await told.reconnect()

    async def test_one_that_is_not_there(self, tmp_path):
        error = await failure_of("ws://h/", unix_socket=tmp_path / "none")
        assert str(error) == (
            f"the Unix socket {str(tmp_path / 'none')!r} could not be reached: no such file or directory"
        )
        assert error.retryable

    @pytest.mark.promise("P12")
    async def test_a_redirect_to_another_origin_is_not_followed(self, forwarded):
        path, target = forwarded
        async with FaultServer(default=Redirect("ws://other.example/")) as server:
            target["port"] = server.port
            error = await failure_of("ws://localhost/", unix_socket=path)
        assert "where unix_socket does not lead" in str(error)


class TestLocalAddress:
    @pytest.fixture
    async def from_where(self):
        """A port that leads to a server, and who has dialed it."""
        seen = []
        target = {}

        async def serve(reader, writer):
            seen.append(writer.get_extra_info("peername"))
            to, out = await asyncio.open_connection("127.0.0.1", target["port"])
            with contextlib.suppress(OSError):
                await asyncio.gather(pump(reader, out), pump(to, writer))
            out.close()
            writer.close()

        front = await asyncio.start_server(serve, "127.0.0.1", 0)
        target["front"] = front.sockets[0].getsockname()[1]
        yield seen, target
        front.close()
        await front.wait_closed()
        await asyncio.sleep(0.05)

    async def test_it_is_bound_to(self, server, from_where):
        seen, target = from_where
        async with server:
            target["port"] = server.port
            url = server.url.replace(str(server.port), str(target["front"]))
            await check_echo(WebSocketClient(url, local_address=("127.0.0.7", 0), ssl=tls.trusting()))
            assert seen[0][0] == "127.0.0.7"

    async def test_a_port_is_used_again_after_a_loss(self, from_where):
        seen, target = from_where
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        async with FaultServer() as server:
            target["port"] = server.port
            client = WebSocketClient(
                f"ws://127.0.0.1:{target['front']}/", local_address=("127.0.0.1", port), reconnect=SOON
            )
            told = Told(client)
            async with client:
                (await server.connection()).close(1011)
                await told.reconnect()
            assert {address[1] for address in seen} == {port}

    async def test_one_that_is_not_ours(self):
        async with FaultServer() as server:
            error = await failure_of(server.url, local_address=("192.0.2.1", 0))
        assert "local_address cannot be bound to: cannot assign requested address" in str(error)

    async def test_one_of_another_family(self):
        error = await failure_of("ws://127.0.0.1:9/", local_address=("::1", 0))
        assert "it has no address of the kind of local_address (::1)" in str(error)


class TestSeveralAddresses:
    """A name with two addresses, of which the first accepts and then fails in one way or another."""

    @pytest.fixture
    def names(self, monkeypatch):
        real = socket.getaddrinfo

        def look_up(host, port, *args, **kwargs):
            if host == "name.example":
                return [
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
                    for ip in ("127.0.0.1", "127.0.0.2")
                ]
            return real(host, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    @pytest.mark.promise("P10")
    @pytest.mark.parametrize("kind", ["503", "mute", "1011", "hangs up", "refuses"])
    async def test_the_second_is_reached(self, names, kind):
        async def sick(reader, writer):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if kind == "mute":
                    await reader.read(-1)
                elif kind == "503":
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
            writer.close()

        async with FaultServer(host="127.0.0.2") as well, contextlib.AsyncExitStack() as stack:
            if kind == "1011":
                first = await stack.enter_async_context(FaultServer(host="127.0.0.1", port=well.port))
            elif kind != "refuses":
                await stack.enter_async_context(await asyncio.start_server(sick, "127.0.0.1", well.port))
            client = WebSocketClient(
                f"ws://name.example:{well.port}/", open_timeout=0.4, reconnect=SOON, heartbeat=None
            )
            client.start()
            if kind == "1011":
                (await first.connection()).close(1011)
            async with asyncio.timeout(5):
                while not well.attempts:
                    await asyncio.sleep(0.01)
            await client.close()

    async def test_one_that_was_stable_is_dialed_again(self, names):
        policy = ReconnectPolicy(first_delay=0.01, min_delay=0.01, max_delay=0.02, min_uptime=0.01)
        async with (
            FaultServer(host="127.0.0.2") as second,
            FaultServer(host="127.0.0.1", port=second.port, default=Refuse(503)) as first,
        ):
            client = WebSocketClient(f"ws://name.example:{second.port}/", reconnect=policy)
            told = Told(client)
            async with client:
                await asyncio.sleep(0.1)
                (await second.connection()).rst()
                await told.reconnect()
            assert (first.attempt_count, second.attempt_count) == (1, 2)


@pytest.mark.promise("P12")
async def test_the_governor_counts_the_dial_that_a_redirect_leads_to():
    async with FaultServer() as target, FaultServer(default=Redirect(target.url)) as server:
        governor = Governor(max_dials=1)
        dials = governor.dials(asyncio.get_running_loop())
        blocker = dials.ask(
            target.url.rstrip("/"), asyncio.get_running_loop().time(), wake=lambda: None, spread=lambda: 0.0
        )
        client = WebSocketClient(server.url, governor=governor, open_timeout=0.3)
        client.start()
        async with asyncio.timeout(5):
            while not dials.waiting(target.url.rstrip("/")):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # longer than open_timeout, of which the turn is no part
        assert target.attempt_count == 0
        dials.leave(blocker, asyncio.get_running_loop().time())
        await client.ready(5)
        await client.close()
        assert (server.attempt_count, target.attempt_count) == (1, 1)


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    "location",
    [
        "http://portal.example:0/login",
        "http://h:99999/",
        "http://",
        "",
        "mailto:x@y",
        "http://[::1",
        "http:// a/",
        "?",
    ],
)
async def test_an_odd_redirect_does_not_end_a_client_that_had_been_open(location):
    async with FaultServer() as server:
        client = WebSocketClient(server.url, reconnect=SOON)
        told = Told(client)
        async with client:
            server.next(Redirect(location))
            (await server.connection()).rst()
            await told.reconnect()
        assert server.attempt_count >= 3
