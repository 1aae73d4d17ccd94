import asyncio
import datetime as dt
import email.utils

import aiohttp
import pytest
import websockets

from resilient_ws.testing import (
    Accept,
    Behaviour,
    Deflate,
    Drip,
    FaultServer,
    Garbage,
    Hangup,
    MissingHeader,
    NeverAnswer,
    Redirect,
    Refuse,
    WrongAcceptKey,
    WrongSubprotocol,
)
from resilient_ws.testing.server.handshake import Headers, accept_key, encode_response, parse_request
from tests.testing.raw import KEY, RawClient


def test_the_accept_key_of_rfc_6455_section_1_3():
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_headers_compare_without_case_and_keep_repetitions():
    headers = Headers([("X-A", "1"), ("x-a", "2"), ("B", "3")])
    assert headers["X-a"] == "1, 2"
    assert headers.get_all("x-A") == ["1", "2"]
    assert "b" in headers
    assert 5 not in headers
    assert len(headers) == 2
    assert repr(headers) == "Headers(['x-a', 'b'])"


@pytest.mark.parametrize("head", [b"GET /", b"GET / HTTP/2", b"GET / HTTP/1.1\r\nno colon"])
def test_what_is_no_request_is_refused(head: bytes):
    with pytest.raises(ValueError, match="line"):
        parse_request(head)


def test_a_response_may_have_a_status_that_nobody_knows():
    assert encode_response(499, {}).startswith(b"HTTP/1.1 499 Unassigned\r\n")
    assert encode_response(499, {}, b"", "Mine") == b"HTTP/1.1 499 Mine\r\n\r\n"


async def test_the_script_is_consumed_by_connection_then_comes_the_default():
    async with FaultServer([Refuse(500), Refuse(404)], default=Refuse(418)) as server:
        statuses = []
        for _ in range(3):
            async with RawClient(server.port) as client:
                await client.request()
                statuses.append(await client.response())
        assert statuses == [500, 404, 418]
        assert [record.outcome for record in server.attempts] == ["refused 500", "refused 404", "refused 418"]


async def test_the_next_behaviours_go_before_the_script_and_the_default_can_change():
    async with FaultServer([Refuse(500)]) as server:
        server.next(Refuse(401), Refuse(402))
        server.default = Refuse(403)
        statuses = []
        for _ in range(4):
            async with RawClient(server.port) as client:
                await client.request()
                statuses.append(await client.response())
        assert statuses == [401, 402, 500, 403]


async def test_an_attempt_is_recorded_with_what_it_asked_and_when():
    async with FaultServer([Refuse(503, retry_after=2)]) as server:
        before = asyncio.get_running_loop().time()
        async with RawClient(server.port) as client:
            await client.request("X-Token: one", path="/a?b=c")
            assert await client.response() == 503
            assert client.headers["Retry-After"] == "2"
            assert await client.reader.read() == b""
        async with RawClient(server.port):
            await server.until(lambda: server.attempt_count == 2)
        record, silent = server.attempts
        assert (record.number, record.path, record.headers["x-token"]) == (1, "/a?b=c", "one")
        assert before <= record.connected_at <= record.requested_at
        assert record.connection is None
        assert (silent.path, silent.requested_at, silent.outcome, dict(silent.headers)) == (
            None,
            None,
            "no request",
            {},
        )


async def test_retry_after_may_be_a_date_or_any_text():
    when = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    async with FaultServer([Refuse(429, retry_after=when), Refuse(429, retry_after="soon")]) as server:
        async with RawClient(server.port) as client:
            await client.request()
            await client.response()
            assert client.headers["Retry-After"] == "Wed, 02 Jan 2030 01:04:05 GMT"
            assert email.utils.parsedate_to_datetime(client.headers["Retry-After"]) == when
        async with RawClient(server.port) as client:
            await client.request()
            await client.response()
            assert client.headers["Retry-After"] == "soon"


async def test_a_refusal_carries_body_headers_and_reason_after_its_delay():
    refusal = Refuse(403, headers={"X-Why": "because"}, body=b"no", reason="Go away", delay=0.05)
    async with FaultServer([refusal]) as server, RawClient(server.port) as client:
        started = asyncio.get_running_loop().time()
        await client.request()
        data = await client.reader.read()
        assert asyncio.get_running_loop().time() - started >= 0.049
        assert data.startswith(b"HTTP/1.1 403 Go away\r\n")
        assert b"X-Why: because\r\n" in data
        assert data.endswith(b"\r\n\r\nno")


async def test_a_redirect_says_whatever_it_is_told():
    async with FaultServer([Redirect("ws://elsewhere:1/", 307)]) as server, RawClient(server.port) as client:
        await client.request()
        assert await client.response() == 307
        assert client.headers["Location"] == "ws://elsewhere:1/"


async def test_never_answering_keeps_the_socket():
    async with FaultServer([NeverAnswer()]) as server, RawClient(server.port) as client:
        await client.request()
        await server.until(lambda: server.attempts and server.attempts[0].outcome == "never answered")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)


async def test_a_dripped_answer_comes_byte_by_byte_and_opens():
    async with FaultServer([Drip(0.001)]) as server, RawClient(server.port) as client:
        await client.request()
        await client.reader.read(20)
        assert server.attempts[0].outcome == "answering"
        await client.reader.readuntil(b"\r\n\r\n")
        client.text("hello")
        frame = await client.frame()
        assert frame is not None
        assert frame.payload == b"hello"
        assert server.attempts[0].outcome == "accepted, dripped"


async def test_a_drip_can_stop_for_good():
    async with FaultServer([Drip(0, chunk=7, stop_after=20)]) as server, RawClient(server.port) as client:
        await client.request()
        assert await client.reader.readexactly(20) == b"HTTP/1.1 101 Switchi"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)
        assert server.connections == []


async def test_a_client_that_leaves_during_a_drip_is_noted():
    async with FaultServer([Drip(10)]) as server:
        async with RawClient(server.port) as client:
            await client.request()
            await client.reader.readexactly(1)
        await server.until(
            lambda: server.attempts and server.attempts[0].outcome.startswith("left by the client")
        )


async def test_a_drip_of_no_answer_is_no_answer():
    async with FaultServer([Drip(0, of=NeverAnswer())]) as server, RawClient(server.port) as client:
        await client.request()
        await server.until(lambda: server.attempts and server.attempts[0].outcome == "never answered")


async def test_garbage_is_no_http():
    async with FaultServer([Garbage(b"SSH-2.0-x\r\n")]) as server, RawClient(server.port) as client:
        await client.request()
        assert await client.reader.read() == b"SSH-2.0-x\r\n"


async def test_a_wrong_accept_key_is_well_formed_and_wrong():
    async with FaultServer([WrongAcceptKey(), WrongAcceptKey(value="x")]) as server:
        values = []
        for _ in range(2):
            async with RawClient(server.port) as client:
                await client.request()
                assert await client.response() == 101
                values.append(client.headers["Sec-WebSocket-Accept"])
        assert len(values[0]) == len(accept_key(KEY))
        assert values[0] != accept_key(KEY)
        assert values[1] == "x"


@pytest.mark.parametrize("name", ["Upgrade", "Connection", "Sec-WebSocket-Accept"])
async def test_a_header_of_the_answer_can_be_missing(name: str):
    async with FaultServer([MissingHeader(name)]) as server, RawClient(server.port) as client:
        await client.request()
        assert await client.response() == 101
        assert name not in client.headers
        assert len(client.headers) == 2


@pytest.mark.parametrize(
    "behaviour,offer,chosen",
    [
        (Accept(), "a, b", "a"),
        (Accept(subprotocols=["b"]), "a, b", "b"),
        (Accept(subprotocols=["c"]), "a, b", None),
        (Accept(), "", None),
        (WrongSubprotocol("x"), "a, b", "x"),
        (WrongSubprotocol("x"), "", "x"),
    ],
)
async def test_which_subprotocol_is_chosen(behaviour: Behaviour, offer: str, chosen: str | None):
    async with FaultServer([behaviour]) as server, RawClient(server.port) as client:
        await client.open(*([f"Sec-WebSocket-Protocol: {offer}"] if offer else []))
        assert client.headers.get("Sec-WebSocket-Protocol") == chosen
        assert (await server.connection()).subprotocol == chosen


async def test_further_headers_and_delay_of_an_acceptance():
    async with (
        FaultServer([Accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], delay=0.02)]) as server,
        RawClient(server.port) as client,
    ):
        await client.open()
        assert client.headers.get_all("Set-Cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize("drop", ["fin", "rst"])
@pytest.mark.parametrize("when", ["connect", "request"])
async def test_hanging_up_before_the_answer(drop, when):
    async with FaultServer([Hangup(drop, when)]) as server, RawClient(server.port) as client:
        if when == "request":
            await client.request()
        if drop == "rst":
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
        else:
            assert await client.reader.read() == b""
        assert server.attempts[0].outcome.startswith("hung up")


async def test_silence_from_the_first_byte_on():
    async with FaultServer([Hangup("silent", "connect"), Hangup("silent")]) as server:
        for _ in range(2):
            async with RawClient(server.port) as client:
                await client.request()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.reader.read(1), 0.05)


@pytest.mark.parametrize(
    "request_text,status,outcome",
    [
        ("POST / HTTP/1.1\r\n\r\n", b"400", "400: the method is POST, not GET"),
        ("GET / HTTP/1.1\r\n\r\n", b"400", "400: Upgrade is not websocket"),
        ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", b"400", "400: Connection does not contain Upgrade"),
        (
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"400",
            "400: Sec-WebSocket-Version is not 13",
        ),
        (
            (
                "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: =\r\n\r\n"
            ),
            b"400",
            "400: Sec-WebSocket-Key is not 16 bytes in base64",
        ),
        ("nonsense\r\n\r\n", b"400", "400: the first line is not that of an HTTP/1.1 request"),
        ("GET / HTTP/1.1\r\nX: " + 70_000 * "x", b"431", "431: too long"),
    ],
)
async def test_what_is_no_handshake_is_refused_by_an_acceptance(
    request_text: str, status: bytes, outcome: str
):
    async with FaultServer() as server, RawClient(server.port) as client:
        client.writer.write(request_text.encode())
        assert (await client.reader.readline()).split(b" ")[1] == status
        assert server.attempts[0].outcome == outcome


async def test_a_frame_sent_with_the_request_is_not_lost():
    async with FaultServer([Accept(delay=0.02)]) as server, RawClient(server.port) as client:
        await client.request()
        client.text("early")
        assert await client.response() == 101
        frame = await client.frame()
        assert frame is not None
        assert frame.payload == b"early"


async def test_websockets_and_aiohttp_accept_the_answers():
    async with FaultServer(default=Accept(deflate=Deflate())) as server:
        async with websockets.connect(server.url, subprotocols=[websockets.Subprotocol("x")]) as client:
            await client.send("über " * 100)
            assert await client.recv() == "über " * 100
            assert client.subprotocol == "x"
            await client.send(b"")
            assert await client.recv() == b""
        async with aiohttp.ClientSession() as session, session.ws_connect(server.url, compress=15) as ws:
            assert ws.compress == 15
            for _ in range(3):
                await ws.send_str("again and again and again")
                assert (await ws.receive()).data == "again and again and again"
        assert [connection.compressed for connection in server.connections] == [True, True]
        assert server.violations == []


def test_a_behaviour_without_an_answer_says_so():
    with pytest.raises(NotImplementedError, match=r"Behaviour must define answer\(\)"):
        Behaviour().answer(parse_request(b"GET / HTTP/1.1"))


@pytest.mark.parametrize(
    "make,complaint",
    [
        (lambda: Refuse(99), "status must be 100 to 999, not 99"),
        (lambda: Redirect("/", 200), "status must be 300 to 399, not 200"),
        (lambda: Refuse(delay=-1), "delay must be at least 0, not -1"),
        (lambda: Drip(chunk=0), "chunk must be at least 1, not 0"),
        (lambda: Drip(float("nan")), "interval must be at least 0, not nan"),
        (lambda: FaultServer(keep=0), "keep must be at least 1, not 0"),
        (lambda: FaultServer(port=70000), "port must be 0 to 65535, not 70000"),
    ],
)
def test_numbers_out_of_range_are_refused(make, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        make()
