"""Through an HTTP proxy: of the program's own, or of the environment."""

import asyncio
import base64
import time

import pytest
from yarl import URL

from resilient_ws import ClientStopped, ConnectError, ProxyRejected, State, WebSocketClient
from resilient_ws.testing import ChaosProxy, FaultServer
from resilient_ws.transports.shared.proxies import proxy_from_environment
from tests.conftest import open_sockets
from tests.integration import tls
from tests.integration.forwarding import ForwardProxy
from tests.integration.listening import SOON, Told, until_freed

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy")
BASIC = "Basic " + base64.b64encode(b"user:sesame").decode()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxy of the machine that runs the tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture(params=["ws", "wss"])
def server(request):
    return FaultServer(ssl=tls.good() if request.param == "wss" else None)


async def check_echo(client):
    async with client:
        await client.send("x")
        assert await client.recv() == "x"


class TestOwn:
    async def test_without_a_password(self, server):
        async with server, ForwardProxy() as proxy:
            await check_echo(
                WebSocketClient(f"{server.url}p?q=1", proxy=f"http://{proxy.address}", ssl=tls.trusting())
            )
            assert len(proxy.requests) == 1
            assert proxy.requests[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
            assert proxy.header("Proxy-Authorization") is None
            assert server.attempts[0].path == "/p?q=1"

    async def test_with_a_password(self, server):
        async with server, ForwardProxy() as proxy:
            url = URL(f"http://user:sesame@{proxy.address}")
            await check_echo(WebSocketClient(server.url, proxy=url, ssl=tls.trusting()))
            assert proxy.header("Proxy-Authorization") == BASIC

    @pytest.mark.promise("P12")
    async def test_it_sees_no_header_of_ours_where_it_tunnels(self):
        async with FaultServer(ssl=tls.good()) as server, ForwardProxy() as proxy:
            client = WebSocketClient(
                f"wss://u:sesame@127.0.0.1:{server.port}/?token=sesame",
                headers={"X-Key": "sesame"},
                proxy=f"http://{proxy.address}",
                ssl=tls.trusting(),
            )
            await check_echo(client)
            assert "sesame" not in proxy.requests[0]
            assert server.attempts[0].headers["X-Key"] == "sesame"
            assert server.attempts[0].headers.get("Proxy-Authorization") is None

    async def test_over_tls_itself(self):
        async with FaultServer() as server, ForwardProxy(tls=tls.good()) as proxy:
            client = WebSocketClient(server.url, proxy=f"https://{proxy.address}", ssl=tls.trusting())
            await check_echo(client)
            assert len(proxy.requests) == 1

    async def test_it_is_used_again_after_a_loss(self, server):
        async with server, ForwardProxy() as proxy:
            client = WebSocketClient(
                server.url, proxy=f"http://{proxy.address}", ssl=tls.trusting(), reconnect=SOON
            )
            told = Told(client)
            async with client:
                (await server.connection()).fin()
                await told.reconnect()
            assert len(proxy.requests) == 2


class TestRefusedByIt:
    @pytest.mark.parametrize("status", [403, 407])
    async def test_for_good(self, server, status):
        async with server, ForwardProxy(status=status, headers=("Proxy-Authenticate: Basic",)) as proxy:
            client = WebSocketClient(server.url, proxy=f"http://{proxy.address}", ssl=tls.trusting())
            with pytest.raises(
                ClientStopped, match=rf"CONNECT with HTTP {status}.* before the client was ever open"
            ) as caught:
                await client.__aenter__()
            error = caught.value.__cause__
            assert isinstance(error, ProxyRejected)
            assert (error.status, error.retryable) == (status, False)
            assert error.headers["proxy-authenticate"] == "Basic"
            assert (server.attempt_count, len(proxy.requests)) == (0, 1)

    @pytest.mark.promise("P10")
    async def test_for_a_while(self, server):
        async with server, ForwardProxy(status=503, headers=("Retry-After: 7",)) as proxy:
            client = WebSocketClient(server.url, proxy=f"http://{proxy.address}", ssl=tls.trusting())
            told = Told(client)
            client.start()
            retry = await told.retry()
            assert 7 <= retry.delay <= 8
            assert client.state is State.BACKOFF
            await client.close()

    async def test_when_it_is_not_there(self, server):
        async with server:
            async with ForwardProxy() as proxy:
                address = proxy.address
            client = WebSocketClient(server.url, proxy=f"http://u:sesame@{address}", fail_fast=True)
            with pytest.raises(
                ConnectError,
                match=r"^the proxy http://127\.0\.0\.1:\d+ could not be reached: connection refused$",
            ) as caught:
                await client.__aenter__()
            assert caught.value.retryable


@pytest.mark.promise("P7")
class TestGivenUp:
    """A dial through a proxy that falls silent ends with the client, and its socket at once."""

    @pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
    async def test_while_it_does_not_answer(self, server, encrypted):
        context = tls.good() if encrypted else None
        async with (
            server,
            ForwardProxy(is_mute=True, tls=context) as proxy,
            ChaosProxy(proxy.address) as network,
        ):
            scheme = "https" if encrypted else "http"
            client = WebSocketClient(
                server.url, proxy=f"{scheme}://127.0.0.1:{network.port}", ssl=tls.trusting()
            )
            told = Told(client)
            before = open_sockets()
            client.start()
            async with asyncio.timeout(5):
                while not proxy.requests:
                    await asyncio.sleep(0.01)
            network.blackhole()
            # Ours, the two of the network between, and the proxy's; with TLS to the proxy a pair that leads there.
            assert len(open_sockets() - before) == (6 if encrypted else 4)
            since = time.monotonic()
            await client.close()
            assert time.monotonic() - since < 0.5
            await until_freed(lambda: len(open_sockets() - before) <= 3, within=0.3)
            told.check_order()


class TestOfTheEnvironment:
    async def test_it_is_used(self, server, environment):
        async with server, ForwardProxy() as proxy:
            name = "https_proxy" if server.url.startswith("wss") else "http_proxy"
            environment.setenv(name, f"http://user:sesame@{proxy.address}")
            await check_echo(WebSocketClient(server.url, proxy="env", ssl=tls.trusting()))
            assert len(proxy.requests) == 1
            assert proxy.header("Proxy-Authorization") == BASIC

    async def test_it_is_not_used_unless_asked_for(self, server, environment):
        async with server, ForwardProxy() as proxy:
            environment.setenv("all_proxy", f"http://{proxy.address}")
            await check_echo(WebSocketClient(server.url, ssl=tls.trusting()))
            assert proxy.requests == []

    async def test_some_hosts_are_excepted(self, server, environment):
        async with server, ForwardProxy() as proxy:
            environment.setenv("all_proxy", f"http://{proxy.address}")
            environment.setenv("no_proxy", "example.com,127.0.0.1")
            await check_echo(WebSocketClient(server.url, proxy="env", ssl=tls.trusting()))
            assert proxy.requests == []

    async def test_a_netrc_is_not_read(self, server, environment, tmp_path):
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password sesame\n")
        environment.setenv("NETRC", str(tmp_path / "netrc"))
        async with server:
            await check_echo(WebSocketClient(server.url, proxy="env", ssl=tls.trusting()))
            assert server.attempts[0].headers.get("Authorization") is None

    async def test_one_of_another_kind_is_a_failure_with_its_own_text(self, server, environment):
        environment.setenv("all_proxy", "socks4://u:sesame@127.0.0.1:1080")
        async with server:
            client = WebSocketClient(server.url, proxy="env")
            with pytest.raises(ClientStopped) as caught:
                await client.__aenter__()
            assert str(caught.value.__cause__) == (
                "the variable all_proxy of the environment: must be an http://, https://, socks5:// or socks5h:// "
                "URL with a host"
            )
            assert server.attempt_count == 0

    @pytest.mark.parametrize(
        "variables, url, proxy",
        [
            ({}, "ws://h", None),
            ({"http_proxy": "http://p:3128"}, "ws://h", "http://p:3128"),
            ({"http_proxy": "http://p:3128"}, "wss://h", None),
            ({"https_proxy": "http://p:3128"}, "wss://h", "http://p:3128"),
            ({"HTTPS_PROXY": "https://p:3128"}, "wss://h", "https://p:3128"),
            ({"all_proxy": "http://p"}, "wss://h", "http://p:80"),
            ({"http_proxy": "p:3128"}, "ws://h", "http://p:3128"),
            ({"http_proxy": " ", "all_proxy": "http://p"}, "ws://h", "http://p:80"),
            ({"all_proxy": "http://p", "no_proxy": "h"}, "ws://h", None),
            ({"all_proxy": "http://p", "no_proxy": ".example.com"}, "ws://a.example.com", None),
            ({"all_proxy": "http://p", "no_proxy": "h:81"}, "ws://h:81", None),
            ({"all_proxy": "http://p", "no_proxy": "h:81"}, "ws://h", "http://p:80"),
            ({"all_proxy": "http://p", "no_proxy": "*"}, "ws://h", None),
            ({"all_proxy": "http://p", "no_proxy": "other"}, "ws://h", "http://p:80"),
        ],
    )
    def test_the_variables(self, environment, variables, url, proxy):
        for name, value in variables.items():
            environment.setenv(name, value)
        found = proxy_from_environment(URL(url))
        assert (found.shown if found else None) == proxy


@pytest.mark.parametrize(
    "value", ["", "p:3128", "socks4://p", "http://", "http://:3128", "http://[::1", "http://p:0"]
)
def test_what_is_no_proxy_is_refused(value):
    with pytest.raises(
        ValueError,
        match="^proxy must be an http://, https://, socks5:// or socks5h:// URL with a host, or 'env'$",
    ):
        WebSocketClient("ws://h", proxy=value)


def test_what_is_no_address_is_refused():
    with pytest.raises(TypeError, match="^proxy must be a str, yarl.URL or None, got int$"):
        WebSocketClient("ws://h", proxy=3128)
