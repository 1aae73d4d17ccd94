"""From an address to a connection: time limits, one TCP connection per attempt, and handshakes that are none."""

import asyncio
import base64
import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import attrs
import pytest
from yarl import URL

from resilient_ws import (
    ClientStopped,
    ConnectError,
    Endpoint,
    HandshakeRejected,
    OpenTimeout,
    ReconnectPolicy,
    RetriesExhausted,
    State,
    WebSocketClient,
)
from resilient_ws.testing import (
    Accept,
    ChaosProxy,
    Deflate,
    Drip,
    FaultServer,
    Garbage,
    Hangup,
    MissingHeader,
    NeverAnswer,
    Refuse,
    WrongAcceptKey,
    WrongSubprotocol,
)
from tests.conftest import open_sockets
from tests.integration import tls
from tests.integration.listening import SOON, Told, until_freed

pytestmark = pytest.mark.usefixtures("transport")

THREE = ReconnectPolicy(first_delay=0, min_delay=0, max_delay=0, max_attempts=3)


@attrs.frozen(kw_only=True)
class Spoiled(Accept):
    """Accept, with a header that a function has changed."""

    spoil: Callable = attrs.field()

    def _spoil(self, headers):
        return self.spoil(headers)


@attrs.frozen(kw_only=True)
class Rewritten(Accept):
    """Accept, with an answer whose bytes a function has changed."""

    rewrite: Callable = attrs.field()

    def answer(self, request):
        answer = super().answer(request)
        return attrs.evolve(answer, data=self.rewrite(answer.data))


def replaced(name, value):
    return Spoiled(spoil=lambda headers: [(n, value if n == name else v) for n, v in headers])


def added(*pairs):
    return Spoiled(spoil=lambda headers: [*headers, *pairs])


async def failure_of(server, **options):
    """Return why the first attempt failed, and check that it was one TCP connection and has left none."""
    client = WebSocketClient(options.pop("url", server.url), fail_fast=True, **options)
    with pytest.raises(ConnectError) as caught:
        async with client:
            pytest.fail("it must not open")
    assert server.attempt_count == 1
    await until_freed(lambda: all(not visit.link.is_made for visit in server.visits) or not server.visits, 2)
    return caught.value


def link_local():
    """An address of this machine that means something on one of its interfaces only, with its zone."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for digits, _, _, scope, _, name in map(str.split, lines):
        if scope == "20":
            return f"{ipaddress.IPv6Address(int(digits, 16))}%{name}"
    return None


class TestAddresses:
    @pytest.mark.parametrize(
        "user, pair",
        [
            ("us%C3%A9r:p%40ss%3A%C3%A9@", "usér:p@ss:é"),
            ("u:%E2%82%AC@", "u:€"),
            (":secret@", ":secret"),
            ("u@", "u:"),
        ],
    )
    async def test_user_and_password_are_sent_as_utf_8(self, user, pair):
        async with FaultServer() as server, WebSocketClient(f"ws://{user}127.0.0.1:{server.port}/"):
            sent = server.attempts[0].headers["Authorization"]
            assert base64.b64decode(sent.removeprefix("Basic ")).decode() == pair

    async def test_an_encoded_one_is_sent_as_it_is(self):
        query = "/a%2fb?Signature=AKIA%2F20%3D"
        async with FaultServer() as server:
            address = f"{server.url.rstrip('/')}{query}"
            async with WebSocketClient(URL(address, encoded=True)), WebSocketClient(address):
                assert [attempt.request.path for attempt in server.attempts] == [
                    query,
                    "/a%2Fb?Signature=AKIA/20%3D",
                ]

    async def test_the_zone_of_an_address_stays_on_this_machine(self):
        host = link_local()
        if host is None:
            pytest.skip("no interface has a link-local address")
        async with FaultServer(host="::") as server:
            async with WebSocketClient(f"ws://[{host}]:{server.port}/", reconnect=False):
                expected = f"[{host.partition('%')[0]}]:{server.port}"
                assert server.attempts[0].headers["Host"] == expected
            async with WebSocketClient(
                f"ws://[{host}]:{server.port}/", headers={"Host": "h"}, reconnect=False
            ):
                assert server.attempts[1].headers["Host"] == "h"

    async def test_several_are_tried_in_turn(self):
        async with FaultServer(default=Refuse(503)) as first, FaultServer() as second:
            client = WebSocketClient([first.url, second.url], reconnect=SOON)
            told = Told(client)
            async with client:
                assert (first.attempt_count, second.attempt_count) == (1, 1)
                assert told.opens[0].endpoint.url.port == second.port

    async def test_all_of_a_round_have_to_say_stop(self):
        async with FaultServer(default=Refuse(404)) as first, FaultServer(default=Refuse(403)) as second:
            client = WebSocketClient([first.url, second.url], reconnect=SOON)
            with pytest.raises(ClientStopped, match="all 2 addresses"):
                async with client:
                    pytest.fail("it must not open")
            assert (first.attempt_count, second.attempt_count) == (1, 1)

    async def test_a_provider_is_asked_for_each_attempt(self):
        attempts = []

        async def provide(attempt):
            attempts.append(attempt)
            return Endpoint(
                f"{server.url}?token={len(attempts)}", {"x-key": f"key {len(attempts)}"}, ["chat"]
            )

        async with FaultServer([Refuse(503), Accept()]) as server:
            client = WebSocketClient(provide, headers={"X-Key": "old"}, reconnect=SOON)
            told = Told(client)
            async with client:
                (await server.connection()).rst()
                await told.reconnect()
                request = (await server.connection()).request
        assert [attempt.number for attempt in attempts] == [1, 2, 3]
        assert [attempt.last_failure.status for attempt in attempts[1:2]] == [503]
        assert attempts[0].last_failure is attempts[0].last_close is None
        assert attempts[2].last_close.code == 1006
        assert request.path == "/?token=3"
        assert request.headers.get_all("X-Key") == ["key 3"]
        assert request.subprotocols == ["chat"]

    @pytest.mark.promise("P10")
    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_provider_gets_one_more_try_with_a_fresh_token(self, status):
        async def provide(attempt):
            return server.url

        async with FaultServer(default=Refuse(status)) as server:
            with pytest.raises(ClientStopped, match=f"HTTP {status}"):
                async with WebSocketClient(provide, reconnect=SOON):
                    pytest.fail("it must not open")
            assert server.attempt_count == 2


@pytest.mark.promise("P2")
class TestOpenTimeout:
    LIMIT = 0.3

    async def check(self, url, waits_for, **options):
        client = WebSocketClient(url, open_timeout=self.LIMIT, reconnect=SOON, **options)
        told = Told(client)
        since = time.monotonic()
        client.start()
        retry = await told.retry()
        assert isinstance(retry.cause, OpenTimeout)
        text = rf"no connection within open_timeout={self.LIMIT} s: waited for {waits_for}"
        assert re.fullmatch(text, str(retry.cause)), str(retry.cause)
        assert self.LIMIT <= time.monotonic() - since < self.LIMIT + 1.0  # on a busy machine, too
        await told.retry(2)
        await client.close()
        told.check_order()

    @pytest.mark.parametrize(
        "behaviour",
        [
            NeverAnswer(),
            Drip(0.02, of=Accept(headers=[("X-Padding", "x" * 200)])),
            Drip(0.0, 50, stop_after=100),
            Hangup("silent", when="connect"),
            Accept(delay=5),
        ],
        ids=["never answered", "dripped", "half an answer", "never read", "late"],
    )
    async def test_of_a_handshake(self, behaviour):
        async with FaultServer(default=behaviour) as server:
            await self.check(server.url, r"the answer of (localhost|127\.0\.0\.1) to the handshake")

    async def test_of_a_tls_handshake(self):
        async with FaultServer(default=Hangup("silent", when="connect")) as server:
            await self.check(server.url.replace("ws://", "wss://"), r"the TLS handshake with 127\.0\.0\.1")

    async def test_of_a_handshake_in_tls(self):
        async with FaultServer(default=NeverAnswer(), ssl=tls.good(), host="localhost") as server:
            await self.check(
                server.url, r"the answer of (localhost|127\.0\.0\.1) to the handshake", ssl=tls.trusting()
            )

    async def test_of_a_provider(self):
        async def provide(attempt):
            await asyncio.sleep(3600)

        await self.check(provide, "the URL provider")

    async def test_of_redirects_together(self):
        async with FaultServer(default=slow_redirect(0.15)) as server:
            await self.check(server.url, r"the answer of (localhost|127\.0\.0\.1) to the handshake")

    async def test_of_a_name(self, monkeypatch):
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        asked = []

        def look_up(*args, **kwargs):
            asked.append(args)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)
            raise OSError

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        try:
            await self.check("ws://name.example:1234/", r"the DNS lookup of name\.example")
            assert len(asked) == 1, "a look-up that hangs is joined, not repeated"
        finally:
            release.set()
            await asyncio.sleep(0.05)


def slow_redirect(delay):
    @attrs.frozen
    class Slow(Accept):
        def answer(self, request):
            refusal = Refuse(302, headers=[("Location", "/again")]).answer(request)
            return attrs.evolve(refusal, delay=delay)

    return Slow()


class TestNames:
    @pytest.fixture
    def addresses(self, monkeypatch):
        """What each name leads to; a function is called on the look-up's thread."""
        addresses = {}

        def getaddrinfo(host, port, **_):
            asked.append(host)
            address = addresses[host]
            if isinstance(address, Exception):
                raise address
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (one, port)) for one in address
            ]

        asked = addresses["asked"] = []
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return addresses

    async def test_each_attempt_looks_its_name_up_anew(self, addresses):
        async with FaultServer() as old, FaultServer(host="127.0.0.2", port=old.port) as new:
            addresses["name.example"] = ["127.0.0.1"]
            client = WebSocketClient(f"ws://name.example:{old.port}/", reconnect=SOON)
            told = Told(client)
            async with client:
                addresses["name.example"] = ["127.0.0.2"]
                (await old.connection()).rst()
                await told.reconnect()
                assert (old.attempt_count, new.attempt_count) == (1, 1)
        assert addresses["asked"] == ["name.example"] * 2

    async def test_a_name_that_is_unknown_for_a_while(self, addresses):
        async with FaultServer() as server:
            addresses["name.example"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            client = WebSocketClient(f"ws://name.example:{server.port}/", reconnect=SOON)
            told = Told(client)
            client.start()
            retry = await told.retry()
            assert isinstance(retry.cause, ConnectError)
            expected = "the name name.example could not be resolved: name or service not known"
            assert str(retry.cause) == expected
            assert isinstance(retry.cause.__cause__, socket.gaierror)
            addresses["name.example"] = ["127.0.0.1"]
            await client.ready(5)
            await client.close()

    async def test_a_name_with_a_dead_address_and_a_live_one(self, addresses):
        async with FaultServer() as server:
            addresses["name.example"] = ["127.0.0.3", "127.0.0.1"]
            async with WebSocketClient(f"ws://name.example:{server.port}/") as client:
                assert client.stats.attempts == server.attempt_count == 1


@pytest.mark.promise("P10")
class TestOneConnectionPerAttempt:
    @pytest.mark.parametrize("drop", ["fin", "rst"])
    @pytest.mark.parametrize("when", ["connect", "request"])
    async def test_a_lost_handshake_is_not_silently_repeated(self, drop, when):
        async with FaultServer(default=Hangup(drop, when)) as server:
            client = WebSocketClient(server.url, reconnect=THREE)
            with pytest.raises(RetriesExhausted) as caught:
                async with client:
                    pytest.fail("it must not open")
            assert server.attempt_count == client.stats.attempts == caught.value.attempts == 3
            assert isinstance(caught.value.__cause__, ConnectError)

    async def test_nor_with_a_lent_session(self):
        async with FaultServer(default=Hangup("fin")) as server, aiohttp.ClientSession() as session:
            client = WebSocketClient(server.url, reconnect=THREE, session=session)
            with pytest.raises(RetriesExhausted):
                async with client:
                    pytest.fail("it must not open")
            assert server.attempt_count == 3

    async def test_nor_a_refused_one(self):
        async with FaultServer(default=Refuse(500)) as server:
            client = WebSocketClient(server.url, reconnect=THREE)
            with pytest.raises(RetriesExhausted):
                async with client:
                    pytest.fail("it must not open")
            assert server.attempt_count == 3

    async def test_a_refused_port_is_said_to_be_one(self):
        async with FaultServer() as server:
            await server.stop()
            client = WebSocketClient(server.url, fail_fast=True)
            with pytest.raises(
                ConnectError, match=rf"^127\.0\.0\.1 port {server.port} could not be reached: "
            ):
                await client.__aenter__()


class TestInvalidHandshakes:
    @pytest.mark.parametrize(
        "behaviour, text",
        [
            (WrongAcceptKey(), "its Sec-WebSocket-Accept does not belong to our key"),
            (WrongAcceptKey(value="nonsense"), "its Sec-WebSocket-Accept does not belong to our key"),
            (MissingHeader("Sec-WebSocket-Accept"), "its Sec-WebSocket-Accept does not belong to our key"),
            (MissingHeader("Upgrade"), "its Upgrade header is not websocket"),
            (replaced("Upgrade", "h2c"), "its Upgrade header is not websocket"),
            (MissingHeader("Connection"), "its Connection header does not say Upgrade"),
            (replaced("Connection", "close"), "its Connection header does not say Upgrade"),
            (WrongSubprotocol("other"), "it chose the subprotocol 'other', which was not offered"),
            (
                added(("Sec-WebSocket-Extensions", "permessage-deflate")),
                "it uses an extension that was not offered",
            ),
            (
                Rewritten(rewrite=lambda data: data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)),
                r"it is HTTP/1\.0, which cannot be upgraded",
            ),
        ],
    )
    async def test_are_refused_with_a_text_of_their_own(self, behaviour, text):
        async with FaultServer(default=behaviour) as server:
            error = await failure_of(server, subprotocols=["chat"])
        assert isinstance(error, HandshakeRejected)
        assert (error.status, error.retryable) == (101, False)
        assert re.match(f"the server's handshake is invalid: {text}", str(error))

    async def test_an_unknown_extension_beside_the_one_we_offered(self):
        behaviour = added(("Sec-WebSocket-Extensions", "x-unheard-of"))
        async with FaultServer(default=behaviour) as server:
            error = await failure_of(server, compression="deflate")
        assert isinstance(error, HandshakeRejected)
        assert "it uses an extension that was not offered" in str(error)

    @pytest.mark.parametrize(
        "parameters", ["; client_max_window_bits=88", "; x=1", "; server_max_window_bits=y"]
    )
    async def test_parameters_that_make_no_sense(self, parameters):
        behaviour = added(("Sec-WebSocket-Extensions", f"permessage-deflate{parameters}"))
        async with FaultServer(default=behaviour) as server:
            error = await failure_of(server, compression="deflate")
        assert isinstance(error, HandshakeRejected)
        assert (error.status, error.retryable, str(error)) == (
            101,
            False,
            "the server's handshake is invalid",
        )

    async def test_a_window_that_zlib_cannot_compress_with_is_refused_with_what_to_do(self):
        behaviour = added(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits=8"))
        async with FaultServer(default=behaviour) as server:
            error = await failure_of(server, compression="deflate")
        assert (error.status, error.retryable) == (101, False)
        assert str(error) == (
            "the server's handshake is invalid: it wants messages compressed with a window of 8 bits, which zlib "
            "cannot do; use compression=None"
        )

    @pytest.mark.parametrize(
        "behaviour",
        [
            Garbage(),
            Garbage(b"HTTP/1.1 one hundred and one\r\n\r\n"),
            Garbage(b"SSH-2.0-OpenSSH_9.2\r\n"),
            added(("X-Huge", "x" * 100_000)),
            added(*((f"X-{number}", "x") for number in range(1_000))),
        ],
        ids=["bytes", "no number", "ssh", "a huge header", "a thousand headers"],
    )
    async def test_what_is_not_http(self, behaviour):
        async with FaultServer(default=behaviour) as server:
            error = await failure_of(server)
        assert error.retryable
        assert error.status is None
        assert error.__cause__ is None

    async def test_garbage_is_retried(self):
        async with FaultServer([Garbage(), Accept()]) as server:
            async with WebSocketClient(server.url, reconnect=SOON):
                assert server.attempt_count == 2

    @pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 426])
    async def test_any_other_answer_ends_a_client_that_was_never_open(self, status):
        async with FaultServer(default=Refuse(status)) as server:
            client = WebSocketClient(server.url)
            with pytest.raises(ClientStopped, match=f"HTTP {status} before the client was ever open"):
                async with client:
                    pytest.fail("it must not open")
            assert server.attempt_count == 1

    async def test_a_redirect_without_a_target_is_an_answer_like_any_other(self):
        async with FaultServer(default=Refuse(302)) as server:
            error = await failure_of(server)
        assert error.status == 302


class TestValidHandshakes:
    @pytest.mark.parametrize(
        "behaviour",
        [
            replaced("Connection", "keep-alive, Upgrade"),
            replaced("Connection", "upgrade , x"),
            replaced("Upgrade", "WebSocket"),
            added(("Connection", "keep-alive")),
            Spoiled(spoil=lambda headers: [("Connection", "keep-alive"), *headers]),
            Rewritten(rewrite=lambda data: b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + data),
            Drip(0.0, 7),
        ],
        ids=[
            "options",
            "options after",
            "case",
            "two fields",
            "two fields before",
            "early hints",
            "in pieces",
        ],
    )
    async def test_are_taken(self, behaviour):
        async with FaultServer(default=behaviour) as server:
            async with WebSocketClient(server.url) as client:
                await client.send("x")
                assert await client.recv() == "x"
            assert server.attempt_count == 1

    @pytest.mark.parametrize(
        "written",
        [
            'permessage-deflate; client_max_window_bits="12"',
            "permessage-deflate ; server_no_context_takeover",
            "permessage-deflate;server_no_context_takeover ;client_no_context_takeover",
            "Permessage-Deflate; Server_No_Context_Takeover",
            "permessage-deflate; server_max_window_bits=8",
        ],
    )
    async def test_compression_may_be_agreed_in_any_spelling(self, written):
        def spoil(headers):
            return [(n, written if n == "Sec-WebSocket-Extensions" else v) for n, v in headers]

        accept = Spoiled(spoil=spoil, deflate=Deflate())
        async with FaultServer(default=accept) as server:
            async with WebSocketClient(server.url, compression="deflate", reconnect=False) as client:
                await client.send("hello" * 100)
                assert await client.recv() == "hello" * 100
            assert (server.attempt_count, server.violations) == (1, [])

    async def test_the_first_message_may_come_with_the_answer(self):
        rewrite = Rewritten(rewrite=lambda data: data + b"\x81\x05hello\x81\x05world")
        async with FaultServer(default=rewrite) as server:
            async with WebSocketClient(server.url) as client:
                assert [await client.recv(), await client.recv()] == ["hello", "world"]

    async def test_a_close_may_come_with_the_answer(self):
        rewrite = Rewritten(rewrite=lambda data: data + b"\x88\x02\x03\xe9")
        async with FaultServer([rewrite, Accept()]) as server:
            client = WebSocketClient(server.url, reconnect=SOON)
            told = Told(client)
            async with client:
                await told.until(lambda: server.attempt_count == 2 and client.state is State.OPEN)
            told.check_order()


@pytest.mark.promise("P7")
class TestGivenUp:
    """A dial that is cut short by `close()` leaves nothing, at whatever stage it was."""

    async def check(self, client, server, stage):
        told = Told(client)
        before = open_sockets()
        client.start()
        await server.until(stage)
        await asyncio.sleep(0.05)
        since = time.monotonic()
        await client.close()
        assert time.monotonic() - since < 0.5
        await until_freed(lambda: len(open_sockets() - before) <= len(server.visits), within=1.0)
        assert [event.opened_for for event in told.closes] == [None]
        told.check_order()

    @pytest.mark.parametrize(
        "behaviour",
        [NeverAnswer(), Hangup("silent", when="connect"), Drip(0.0, 20, stop_after=60), Accept(delay=5)],
        ids=["never answered", "never read", "half an answer", "late"],
    )
    async def test_in_the_handshake(self, behaviour):
        async with FaultServer(default=behaviour) as server:
            await self.check(WebSocketClient(server.url), server, lambda: server.attempt_count == 1)

    async def test_in_the_tls_handshake(self):
        async with FaultServer(default=Hangup("silent", when="connect")) as server:
            client = WebSocketClient(server.url.replace("ws://", "wss://"))
            await self.check(client, server, lambda: server.attempt_count == 1)

    @pytest.mark.parametrize("lent", [False, True], ids=["own", "lent"])
    async def test_in_the_handshake_within_tls_when_the_network_is_gone(self, lent):
        """Nobody answers the goodbye of TLS, so a socket that is merely closed would stay for half a minute."""
        async with (
            FaultServer(default=NeverAnswer(), ssl=tls.good()) as server,
            ChaosProxy(server.url) as network,
            aiohttp.ClientSession() as session,
        ):
            client = WebSocketClient(network.url, ssl=tls.trusting(), session=session if lent else None)
            told = Told(client)
            before = open_sockets()
            client.start()
            await server.until(lambda: server.attempts[-1:] and server.attempts[-1].request is not None)
            network.blackhole()
            ours = [text for text in open_sockets() - before if self.is_connected_to(text, network.port)]
            assert len(ours) == 1
            since = time.monotonic()
            await client.close()
            assert time.monotonic() - since < 0.5
            await until_freed(lambda: ours[0] not in open_sockets(), within=1.0)
            told.check_order()

    @staticmethod
    def is_connected_to(text, port):
        with socket.socket(fileno=os.dup(int(text.split()[1]))) as copy:
            try:
                return copy.getpeername()[1] == port
            except OSError:
                return False
