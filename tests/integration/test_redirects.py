"""Redirects are followed by our rules: where they may lead, and what may go along."""

import base64

import aiohttp
import pytest

from resilient_ws import ClientStopped, HandshakeRejected, WebSocketClient
from resilient_ws.testing import Accept, FaultServer, Redirect, Refuse
from tests.integration import tls
from tests.integration.listening import SOON, Told

pytestmark = pytest.mark.usefixtures("transport")

SECRETS = {
    "X-Api-Key": "sesame",
    "Authorization": "Bearer sesame",
    "Cookie": "id=sesame",
    "x-anything": "sesame",
}


async def failure_of(url, **options):
    client = WebSocketClient(url, **options)
    with pytest.raises(ClientStopped) as caught:
        async with client:
            pytest.fail("it must not open")
    assert client.stats.attempts == 1
    return caught.value.__cause__


def sent(request, names=SECRETS):
    """Which of these headers the request carried."""
    return {name for name in names if name in request.headers}


@pytest.mark.promise("P12")
class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize(
        "location", ["/there?x=1", "there?x=1", "http://{}/there?x=1", "ws://{}/there?x=1"]
    )
    async def test_within_an_origin_everything_goes_along(self, status, location):
        async with FaultServer() as server:
            server.next(Redirect(location.format(f"127.0.0.1:{server.port}"), status))
            client = WebSocketClient(f"{server.url}here?token=t", headers=SECRETS, subprotocols=["chat"])
            told = Told(client)
            async with client:
                await client.send("x")
                assert await client.recv() == "x"
            assert [attempt.path for attempt in server.attempts] == ["/here?token=t", "/there?x=1"]
            second = server.attempts[1].request
            assert sent(second) == set(SECRETS)
            assert second.subprotocols == ["chat"]
            assert client.stats.attempts == 1
            assert told.opens[0].endpoint.url.path == "/there"
            assert told.opens[0].subprotocol == "chat"

    async def test_the_next_attempt_begins_at_the_start(self):
        async with FaultServer() as server:
            server.next(Redirect("/there"), Accept(), Redirect("/elsewhere"))
            client = WebSocketClient(f"{server.url}here", reconnect=SOON)
            told = Told(client)
            async with client:
                (await server.connection()).rst()
                await told.reconnect()
            assert [attempt.path for attempt in server.attempts] == ["/here", "/there", "/here", "/elsewhere"]

    async def test_another_origin_gets_none_of_our_headers(self):
        async with FaultServer() as target, FaultServer() as server:
            server.next(Redirect(f"{target.url}there"))
            client = WebSocketClient(server.url, headers=SECRETS, subprotocols=["chat"])
            told = Told(client)
            async with client:
                await client.send("x")
                assert await client.recv() == "x"
            assert sent(server.attempts[0].request) == set(SECRETS)
            request = target.attempts[0].request
            assert sent(request) == set()
            assert "sesame" not in str(request.headers.pairs)
            assert request.subprotocols == []  # a subprotocol may be a token
            assert told.opens[0].endpoint.url.port == target.port
            assert dict(told.opens[0].endpoint.headers) == {}

    async def test_nor_on_the_way_back(self):
        async with FaultServer() as server, FaultServer() as other:
            server.next(Redirect(other.url), Accept())
            other.next(Redirect(f"{server.url}back"))
            async with WebSocketClient(server.url, headers=SECRETS):
                assert [attempt.path for attempt in server.attempts] == ["/", "/back"]
            assert sent(server.attempts[1].request) == set()

    async def test_another_origin_gets_no_defaults_of_a_lent_session(self):
        async with (
            FaultServer() as target,
            FaultServer() as server,
            aiohttp.ClientSession(headers={**SECRETS, "User-Agent": "sesame"}) as session,
        ):
            server.next(Redirect(target.url))
            async with WebSocketClient(server.url, session=session):
                assert sent(server.attempts[0].request) == set(SECRETS)
            assert "sesame" not in str(target.attempts[0].request.headers.pairs)

    async def test_user_and_password_of_the_address_stay_with_its_origin(self):
        expected = "Basic " + base64.b64encode(b"user:sesame").decode()
        async with FaultServer() as target, FaultServer() as server:
            address = f"ws://user:sesame@127.0.0.1:{server.port}/"
            server.next(
                Redirect("/one"),
                Redirect(f"http://127.0.0.1:{server.port}/two"),
                Redirect(f"{target.url}three"),
            )
            async with WebSocketClient(address):
                pass
            assert [attempt.headers.get("Authorization") for attempt in server.attempts] == [expected] * 3
            assert target.attempts[0].headers.get("Authorization") is None

    async def test_from_ws_to_wss(self):
        async with FaultServer(ssl=tls.good()) as target, FaultServer() as server:
            server.next(Redirect(f"https://127.0.0.1:{target.port}/"))
            async with WebSocketClient(server.url, ssl=tls.trusting()) as client:
                await client.send("x")
                assert await client.recv() == "x"

    async def test_not_from_wss_to_ws(self):
        async with FaultServer() as target, FaultServer(ssl=tls.good()) as server:
            server.next(Redirect(f"http://127.0.0.1:{target.port}/"))
            error = await failure_of(server.url, ssl=tls.trusting())
            assert isinstance(error, HandshakeRejected)
            assert str(error) == "the server redirected from wss to ws, which would drop the encryption"
            assert error.status == 302
            assert target.attempt_count == 0

    @pytest.mark.parametrize(
        "location", ["mailto:x@example.com", "http://[::1", "ftp://127.0.0.1/", "http://"]
    )
    async def test_not_to_garbage(self, location):
        async with FaultServer(default=Redirect(location, 307)) as server:
            error = await failure_of(server.url)
            assert str(error) == "the server redirected to something that is not a WebSocket address"
            assert error.status == 307
            assert server.attempt_count == 1

    async def test_five_in_a_row_are_followed(self):
        async with FaultServer([*[Redirect("/on")] * 5, Accept()]) as server:
            async with WebSocketClient(server.url):
                assert server.attempt_count == 6

    async def test_six_are_a_loop(self):
        async with FaultServer(default=Redirect("/on")) as server:
            error = await failure_of(server.url)
            assert isinstance(error, HandshakeRejected)
            assert str(error) == "the server redirected more than 5 times"
            assert error.status == 302
            assert server.attempt_count == 6

    async def test_a_login_page_at_the_end_is_no_open_connection(self):
        async with FaultServer([Redirect("/login"), Refuse(200, body=b"<form>")]) as server:
            error = await failure_of(server.url)
            assert (error.status, error.retryable) == (200, False)

    async def test_a_loop_later_is_given_time(self):
        """A deploy or a portal may redirect everybody for a while; it is tried again, slowly."""
        async with FaultServer([Accept()], default=Redirect("/on")) as server:
            client = WebSocketClient(server.url)
            told = Told(client)
            async with client:
                (await server.connection()).rst()
                await told.until(lambda: any("number 1 of 10" in retry.rule for retry in told.retries))
                assert "within 0.5 to 30 s" in told.retries[-1].rule

    async def test_cookies_of_a_redirect_go_into_a_lent_jar(self):
        jar = aiohttp.CookieJar(unsafe=True)
        async with FaultServer() as server, aiohttp.ClientSession(cookie_jar=jar) as session:
            server.next(
                Refuse(302, headers=[("Location", "/there"), ("Set-Cookie", "id=7")]),
            )
            async with WebSocketClient(server.url, session=session):
                pass
            assert [attempt.headers.get("Cookie") for attempt in server.attempts] == [None, "id=7"]

    async def test_cookies_are_not_kept_otherwise(self):
        async with FaultServer() as server:
            server.next(
                Refuse(302, headers=[("Location", "/there"), ("Set-Cookie", "id=7")]),
                Accept(headers=[("Set-Cookie", "node=3")]),
            )
            client = WebSocketClient(server.url, reconnect=SOON)
            told = Told(client)
            async with client:
                (await server.connection()).rst()
                await told.reconnect()
            assert [attempt.headers.get("Cookie") for attempt in server.attempts] == [None] * 3
