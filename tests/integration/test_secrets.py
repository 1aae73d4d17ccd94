"""No secret of an address, a header, a cookie or a proxy shows in anything that is logged, printed or raised."""

import asyncio
import gc
import io
import logging
import traceback

import aiohttp
import pytest
from yarl import URL

from resilient_ws import (
    CloseEvent,
    ConnectError,
    Endpoint,
    Failure,
    InvalidURL,
    OpenEvent,
    ReconnectPolicy,
    ResilientWSError,
    WebSocketClient,
)
from resilient_ws.testing import (
    Accept,
    Drip,
    FaultServer,
    Garbage,
    Hangup,
    NeverAnswer,
    Redirect,
    Refuse,
    WrongAcceptKey,
    WrongSubprotocol,
)
from tests.integration import tls
from tests.integration.forwarding import ForwardProxy
from tests.integration.listening import Told

pytestmark = pytest.mark.usefixtures("transport")

TOKEN = "s3same"
HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "X-Api-Key": TOKEN,
    "Cookie": f"id={TOKEN}",
    "Proxy-Authorization": TOKEN,
}
ANSWERED = [("Set-Cookie", f"id={TOKEN}"), ("X-Session", TOKEN)]


@pytest.fixture
def logged():
    """Everything that is logged by anybody, with tracebacks, at the lowest level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(taskName)s %(message)s", defaults={"taskName": ""}))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    asyncio_level = logging.getLogger("asyncio").level
    logging.getLogger("asyncio").setLevel(logging.DEBUG)
    yield stream
    logging.getLogger("asyncio").setLevel(asyncio_level)
    root.removeHandler(handler)
    root.setLevel(level)


def chain(error):
    """The exception and everything that is chained to it, also where it is not shown."""
    seen, todo = [], [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in seen:
            seen.append(one)
            todo += [one.__cause__, one.__context__]
    return seen


def said_by(error):
    """Whatever of an exception may reach a screen."""
    texts = traceback.format_exception(error)
    for one in chain(error):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            # Tools that print local variables would find headers and addresses there.
            assert not any(
                part in frame.f_code.co_filename for part in ("/transports/", "/aiohttp/", "asyncio/s")
            )
        texts += [str(one), repr(one), str(one.args), *getattr(one, "__notes__", [])]
    return texts


def shown(client, told, errors):
    """All texts that a program or a person gets to see."""
    texts = [repr(client), client.explain(), repr(client.stats), repr(client.close_event), repr(client.state)]
    texts += [task.get_name() + repr(task) for task in asyncio.all_tasks()]
    for event in told.events:
        texts += [repr(event), str(event)]
        for name in ("cause", "exception"):
            if isinstance(error := getattr(event, name, None), BaseException):
                texts += said_by(error)
        if isinstance(event, OpenEvent):
            texts += [repr(event.endpoint), str(event.endpoint)]
        if isinstance(event, CloseEvent):
            texts += [event.rule]
    for error in errors:
        texts += said_by(error)
    return texts


async def run(url, **options):
    """Run a client until it ends or for a while; return what it showed."""
    errors, failures = [], []

    def decide(failure):
        failures.append(failure)

    policy = ReconnectPolicy(first_delay=0, min_delay=0, max_delay=0, max_attempts=2, decide=decide)
    client = WebSocketClient(url, reconnect=policy, open_timeout=0.15, **options)
    told = Told(client)
    try:
        async with client:
            texts = shown(client, told, [])
            await client.send("x")
            client.reconnect_now()
            await told.close()
    except ResilientWSError as error:
        errors.append(error)
        texts = []
    try:
        await client.send("late")
    except ResilientWSError as error:
        errors.append(error)
    for failure in failures:
        texts += [repr(failure), str(failure)]
        if failure.error is not None:
            errors.append(failure.error)
    return "\n".join(texts + shown(client, told, errors)), errors


def check(texts, logged):
    gc.collect()
    for text in (texts, logged.getvalue()):
        lines = [line for line in text.splitlines() if TOKEN in line]
        assert lines == []


def secret_url(server, scheme=None):
    url = URL(server.url).with_user("user").with_password(TOKEN).with_query(token=TOKEN)
    return str(url.with_scheme(scheme) if scheme else url)


@pytest.mark.promise("P12")
class TestNothingShows:
    @pytest.mark.parametrize(
        "behaviour",
        [
            Accept(headers=ANSWERED),
            Refuse(401, headers=ANSWERED),
            Refuse(503, headers=ANSWERED, retry_after="0"),
            Refuse(200, headers=ANSWERED, body=TOKEN.encode()),
            Redirect(f"/there?token={TOKEN}"),
            Redirect(f"http://user:{TOKEN}@127.0.0.1:1/?token={TOKEN}"),
            Redirect(f"mailto:{TOKEN}"),
            Redirect(f"http://[{TOKEN}"),
            WrongAcceptKey(headers=ANSWERED),
            WrongSubprotocol("other", headers=ANSWERED),
            Garbage(f"HTTP/1.1 {TOKEN}\r\n\r\n".encode()),
            Garbage(f"{TOKEN}\r\n\r\n".encode()),
            Hangup("fin"),
            Hangup("rst"),
            NeverAnswer(),
            Drip(0.01, of=Accept(headers=[*ANSWERED, ("X-Padding", "x" * 300)])),
        ],
        ids=lambda behaviour: type(behaviour).__name__,
    )
    @pytest.mark.parametrize("lent", [False, True], ids=["own", "lent"])
    async def test_whatever_the_server_does(self, logged, behaviour, lent):
        named = {name: value for name, value in HEADERS.items() if name != "Authorization"}
        async with (
            FaultServer(default=behaviour) as server,
            aiohttp.ClientSession(headers=HEADERS, cookies={"c": TOKEN}) as session,
        ):
            for url, headers in ((secret_url(server), named), (f"{server.url}?token={TOKEN}", HEADERS)):
                texts, _ = await run(url, headers=headers, session=session if lent else None)
                assert f"127.0.0.1:{server.port}" in texts
                check(texts, logged)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_where_nobody_listens(self, logged, host):
        async with FaultServer(host=host) as server:
            url = secret_url(server)
            await server.stop()
            texts, errors = await run(url, headers={"X-Key": TOKEN})
        assert errors
        check(texts, logged)

    async def test_where_the_name_is_unknown(self, logged):
        texts, errors = await run(f"ws://user:{TOKEN}@name.invalid/?token={TOKEN}", headers={"X-Key": TOKEN})
        assert errors
        check(texts, logged)

    @pytest.mark.parametrize("context", [tls.self_signed, tls.expired, tls.elsewhere])
    async def test_where_the_certificate_is_bad(self, logged, context):
        async with FaultServer(ssl=context(), host="localhost") as server:
            texts, errors = await run(secret_url(server), headers={"X-Key": TOKEN}, ssl=tls.trusting())
        assert any("certificate" in str(one) for error in errors for one in chain(error))
        check(texts, logged)

    async def test_where_tls_fails(self, logged):
        async with FaultServer(default=Garbage()) as server:
            texts, errors = await run(secret_url(server, "wss"), headers={"X-Key": TOKEN})
        assert errors
        check(texts, logged)

    @pytest.mark.parametrize("status", [None, 403, 407, 502])
    @pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
    async def test_through_a_proxy(self, logged, status, encrypted):
        context = tls.good() if encrypted else None
        answer = tuple(f"{name}: {value}" for name, value in ANSWERED)
        async with FaultServer(ssl=context) as server, ForwardProxy(status=status, headers=answer) as proxy:
            texts, _ = await run(
                secret_url(server),
                headers={"X-Key": TOKEN},
                proxy=f"http://user:{TOKEN}@{proxy.address}",
                ssl=tls.trusting(),
            )
            assert proxy.requests
        check(texts, logged)

    async def test_where_the_proxy_is_not_there(self, logged):
        async with FaultServer() as server:
            async with ForwardProxy() as proxy:
                address = proxy.address
            texts, errors = await run(secret_url(server), proxy=f"http://user:{TOKEN}@{address}")
        assert errors
        check(texts, logged)

    @pytest.mark.parametrize(
        "value",
        [
            "http://user:{}@127.0.0.1:1",
            "socks5://user:{}@127.0.0.1:1",
            "socks4://user:{}@127.0.0.1:1",
            "http://[{}",
        ],
    )
    async def test_of_the_environment(self, logged, monkeypatch, value):
        monkeypatch.setenv("http_proxy", value.format(TOKEN))
        monkeypatch.delenv("no_proxy", raising=False)
        texts, errors = await run(f"ws://127.0.0.1:9/?token={TOKEN}", proxy="env")
        assert errors
        check(texts, logged)

    async def test_of_a_provider(self, logged):
        async def provide(attempt):
            assert TOKEN not in repr(attempt)
            return Endpoint(f"{server.url}?token={TOKEN}", {"X-Key": TOKEN})

        async with FaultServer([Refuse(401), Refuse(401)]) as server:
            texts, errors = await run(provide)
        assert errors
        check(texts, logged)

    @pytest.mark.parametrize(
        "given", [f"http://u:{TOKEN}@h/?t={TOKEN}", f"ws://[{TOKEN}", f"ws://h:{TOKEN}/"]
    )
    async def test_of_a_provider_that_returns_nonsense(self, logged, given):
        async def provide(attempt):
            return given

        texts, errors = await run(provide)
        assert errors
        check(texts, logged)

    async def test_while_connecting(self, logged):
        async with FaultServer(default=NeverAnswer()) as server:
            client = WebSocketClient(secret_url(server), headers={"X-Key": TOKEN})
            told = Told(client)
            client.start()
            await server.until(lambda: server.attempt_count == 1)
            texts = "\n".join(shown(client, told, []))
            await client.close()
        assert "resilient_ws:127.0.0.1:owner" in texts
        check(texts, logged)


@pytest.mark.promise("P12")
class TestRefusedAtTheDoor:
    @pytest.mark.parametrize(
        "url",
        [
            f"http://user:{TOKEN}@h/?token={TOKEN}",
            f"user:{TOKEN}@h",
            f"ws://[{TOKEN}",
            f"ws://user:pass@h:{TOKEN}/",
            f"ws://user:{TOKEN}@/",
            f"{TOKEN}",
        ],
    )
    def test_a_bad_address_is_not_repeated(self, url):
        with pytest.raises(InvalidURL) as caught:
            WebSocketClient(url)
        assert [text for text in said_by(caught.value) if TOKEN in text and "test_secrets" not in text] == []

    @pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\nX-Injected: 1"])
    def test_a_header_cannot_smuggle_another(self, bad):
        for headers in ({"X-Key": f"{TOKEN}{bad}"}, {f"X-Key{bad}": TOKEN}):
            with pytest.raises(ValueError, match="CR, LF and NUL are not allowed in a header") as caught:
                WebSocketClient("ws://h", headers=headers)
            assert TOKEN not in str(caught.value)

    async def test_nor_can_one_of_a_provider(self):
        async def provide(attempt):
            return Endpoint(server.url, {"X-Key": f"{TOKEN}\r\nX-Injected: 1"})

        async with FaultServer() as server:
            client = WebSocketClient(provide, fail_fast=True)
            with pytest.raises(ConnectError, match="^the URL provider raised ValueError$"):
                await client.__aenter__()
            assert server.attempt_count == 0

    @pytest.mark.parametrize("value", [f"socks4://user:{TOKEN}@h", f"http://[{TOKEN}", f"user:{TOKEN}@h:1"])
    def test_a_bad_proxy_is_not_repeated(self, value):
        with pytest.raises(ValueError, match="^proxy must be") as caught:
            WebSocketClient("ws://h", proxy=value)
        assert TOKEN not in str(caught.value)


@pytest.mark.promise("P12")
def test_options_are_not_shown():
    client = WebSocketClient(
        f"ws://user:{TOKEN}@h/?t={TOKEN}", headers={"X-Key": TOKEN}, proxy=f"http://user:{TOKEN}@p"
    )
    config = client._supervisor.config
    for part in (client, config, config.addresses, config.transport):
        assert TOKEN not in repr(part) + str(part)
    failure = Failure(headers={"X": TOKEN}, endpoint=Endpoint(f"ws://h?t={TOKEN}", {"X": TOKEN}))
    assert TOKEN not in repr(failure)
