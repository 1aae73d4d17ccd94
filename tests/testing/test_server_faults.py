"""The faults of servers that are alive but wrong: floods, odd frames, odd answers, rules of their own."""

import asyncio
import datetime as dt

import pytest

from resilient_ws.testing import (
    Accept,
    CloseAfter,
    CloseOn,
    CloseOver,
    Drip,
    FaultConnection,
    FaultServer,
    Interim,
    NeverAnswer,
    Opcode,
    Redirect,
    Refuse,
)
from tests.testing.raw import RawClient


@pytest.fixture
async def server():
    async with FaultServer() as server:
        yield server


@pytest.fixture
async def client(server):
    async with RawClient(server.port) as client:
        yield client


@pytest.fixture
async def conn(server, client) -> FaultConnection:
    await client.open()
    return await server.connection()


class TestPingFloods:
    async def test_of_the_shortest_pings_in_one_piece(self, client, conn):
        assert await conn.ping_flood(60_000, b"", burst=60_000) == 60_000
        assert await client.reader.readexactly(120_000) == b"\x89\x00" * 60_000

    async def test_each_ping_can_tell_its_number(self, client, conn):
        await conn.ping_flood(7, lambda number: b"%d" % number, burst=3)
        assert [(await client.frame()).payload for _ in range(7)] == [b"%d" % number for number in range(7)]

    async def test_for_some_time(self, client, conn):
        flood = asyncio.create_task(conn.ping_flood(seconds=0.05))
        seen = 0
        while not await client.quiet(0.1):
            seen += 1
        assert seen == await flood > 0

    async def test_ends_with_the_connection(self, conn):
        flood = asyncio.create_task(conn.ping_flood(seconds=30))
        await asyncio.sleep(0.01)
        conn.rst()
        assert await flood > 0

    async def test_needs_an_end(self, conn):
        with pytest.raises(ValueError, match="count"):
            await conn.ping_flood()
        with pytest.raises(ValueError, match="burst"):
            await conn.ping_flood(1, burst=0)


class TestMaskedFrames:
    @pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG, Opcode.CLOSE])
    async def test_one_of_any_kind(self, client, conn, opcode):
        conn.masked_frame(b"\x03\xe8", opcode=opcode)
        frame = await client.frame()
        assert (frame.opcode, frame.payload, frame.masked) == (opcode, b"\x03\xe8", True)

    async def test_all_from_now_on_until_told_otherwise(self, client, conn):
        conn.mask_frames()
        client.text("echo")
        client.send(Opcode.PING, b"ping")
        conn.ping(b"mine")
        frames = [await client.frame() for _ in range(3)]
        assert all(frame.masked for frame in frames)
        assert {frame.payload for frame in frames} == {b"echo", b"ping", b"mine"}
        conn.mask_frames(False)
        conn.close(1000)
        assert not (await client.frame()).masked


class TestDribbledFrames:
    async def test_come_a_byte_at_a_time(self, client, conn):
        started = asyncio.get_running_loop().time()
        await conn.dribble("hello", interval=0.01)
        assert asyncio.get_running_loop().time() - started >= 6 * 0.01 * 0.9
        assert (await client.frame()).payload == b"hello"

    async def test_hold_back_what_the_server_says_meanwhile(self, client, conn):
        dribble = asyncio.create_task(conn.dribble("slow", interval=0.01))
        await asyncio.sleep(0.015)
        client.send(Opcode.PING, b"tag")
        client.text("echo")
        conn.ping(b"mine")
        payloads = [(await client.frame()).payload for _ in range(4)]
        await dribble
        assert payloads[0] == b"slow"
        assert set(payloads[1:]) == {b"tag", b"echo", b"mine"}

    async def test_may_never_be_finished(self, server, client, conn):
        await conn.dribble("never", interval=0, stop_after=3)
        client.send(Opcode.PING, b"tag")
        await server.until(lambda: len(conn.pings) == 1)
        assert await client.quiet()
        assert client.parser.pending == 3
        with pytest.raises(RuntimeError, match="unfinished"):
            await conn.dribble("another")
        conn.raw(b"ever")  # a test may finish it by hand
        assert (await client.frame()).payload == b"never"

    async def test_end_with_the_connection(self, client, conn):
        dribble = asyncio.create_task(conn.dribble("x" * 100, interval=0.005))
        await asyncio.sleep(0.01)
        conn.rst()
        with pytest.raises(ConnectionResetError):
            await dribble


class TestPingMessages:
    async def test_are_sent_until_the_connection_ends(self, client, conn):
        pings = conn.app_pings(lambda number: f"ping {number}", every=0.01)
        assert [(await client.frame()).payload for _ in range(3)] == [b"ping 0", b"ping 1", b"ping 2"]
        client.close()
        while (await client.frame()).opcode != Opcode.CLOSE:
            pass
        assert not pings.is_running

    async def test_count_their_answers_which_are_no_other_messages(self, server, client, conn):
        pings = conn.app_pings("ping", every=0.02, answer="pong", within=0.5)
        for _ in range(3):
            assert (await client.frame()).payload == b"ping"
            client.text("pong")
        await server.until(lambda: pings.answered == 3)
        assert pings.sent >= 3
        assert repr(pings) == f"<AppPings {pings.sent} sent, 3 answered>"
        assert [received.message for received in server.received] == ["pong"] * 3

    async def test_close_the_connection_where_nobody_answers(self, client, conn):
        conn.app_pings(b"\x00", every=10, answer=lambda message: message == "pong", within=0.03, code=4004)
        assert (await client.frame()).payload == b"\x00"
        client.text("something else")
        assert (await client.frame()).payload == b"something else"
        frame = await client.frame()
        assert (frame.opcode, frame.payload) == (Opcode.CLOSE, b"\x0f\xa4no answer to a ping")
        client.close(4004)

    async def test_can_be_stopped(self, client, conn):
        pings = conn.app_pings("ping", every=0.01, answer="pong", within=0.03)
        await client.frame()
        pings.stop()
        assert await client.quiet(0.06)
        assert (conn.is_open, pings.is_running, conn.close_sent) == (True, False, False)

    async def test_what_is_asked_must_make_sense(self, conn):
        with pytest.raises(ValueError, match="every"):
            conn.app_pings(every=0)
        with pytest.raises(ValueError, match="within"):
            conn.app_pings(answer="pong", within=0)
        with pytest.raises(ValueError, match="answer"):
            conn.app_pings(within=1)


class TestPoison:
    @pytest.mark.parametrize("match", ["poison", lambda message: message.startswith("poi")])
    async def test_closes_and_what_is_behind_it_is_not_read(self, match):
        behaviour = CloseOn(match=match, code=1003, reason="not that")
        async with FaultServer(default=behaviour) as server:
            for _ in range(2):
                async with RawClient(server.port) as client:
                    await client.open()
                    for text in "before", "poison", "behind":
                        client.text(text)
                    assert (await client.frame()).payload == b"before"
                    assert (await client.frame()).payload == b"\x03\xebnot that"
                    client.close(1003)
                    assert await client.frame() is None
            assert [received.message for received in server.received] == ["before", "poison"] * 2
            assert server.violations == []

    async def test_may_drop_the_socket_too(self):
        async with FaultServer(default=CloseOn(match=b"\xff", drop="fin")) as server:
            async with RawClient(server.port) as client:
                await client.open()
                client.send(Opcode.BINARY, b"\xff")
                assert (await client.frame()).payload == b"\x03\xea"
                assert await client.frame() is None

    async def test_goes_along_with_a_handler(self):
        async def handler(conn: FaultConnection):
            async for message in conn:
                await conn.send(f"got {message}")

        async with FaultServer(default=CloseOn(match="poison"), handler=handler) as server:
            async with RawClient(server.port) as client:
                await client.open()
                client.text("food")
                assert (await client.frame()).payload == b"got food"
                client.text("poison")
                assert (await client.frame()).opcode == Opcode.CLOSE


class TestRateLimits:
    async def test_close_over_the_limit_and_only_there(self):
        async with (
            FaultServer(default=CloseOver(messages=3, per=0.2)) as server,
            RawClient(server.port) as client,
        ):
            await client.open()
            for text in "one", "two", "three":
                client.text(text)
                assert (await client.frame()).payload == text.encode()
            await asyncio.sleep(0.25)
            for _ in range(5):
                client.text("burst")
            payloads = [(await client.frame()).payload for _ in range(4)]
            assert payloads == [b"burst"] * 3 + [b"\x03\xf0too many messages"]
            client.close(1008)
            await server.until(lambda: not server.open_connections)
            assert server.received_count == 7

    async def test_of_a_connection(self, client, conn):
        conn.close_over(0, code=1013, reason="")
        client.text("one")
        assert (await client.frame()).payload == b"\x03\xf5"


class TestClosesInBursts:
    async def test_right_behind_the_101(self):
        async with FaultServer(default=CloseAfter(code=4001, reason="later")) as server:
            for _ in range(3):
                async with RawClient(server.port) as client:
                    await client.open()
                    assert (await client.frame()).payload == b"\x0f\xa1later"
            assert [conn.sent_close for conn in server.connections] == [4001] * 3

    async def test_after_so_many_messages(self):
        async with FaultServer(default=CloseAfter(messages=2, code=None, drop="rst")) as server:
            async with RawClient(server.port) as client:
                await client.open()
                client.text("one")
                assert (await client.frame()).payload == b"one"
                client.text("two")
                with pytest.raises(ConnectionResetError):
                    while await client.frame():
                        pass
            assert server.received_count == 2

    async def test_after_some_time(self):
        async with FaultServer(default=CloseAfter(seconds=0.03, code=1001)) as server:
            async with RawClient(server.port) as client:
                await client.open()
                assert await client.quiet(0.01)
                assert (await client.frame()).payload == b"\x03\xe9"
        with pytest.raises(ValueError, match="messages"):
            CloseAfter(messages=0)

    async def test_on_all_that_are_open_once(self, server, client, conn):
        async with RawClient(server.port) as other:
            await other.open()
            await server.connection()
            assert server.close_all(1012, "restart") == 2
            assert server.close_all() == 0
            for each in client, other:
                assert (await each.frame()).payload == b"\x03\xf4restart"

    async def test_a_later_close_leaves_an_earlier_one_alone(self, client, conn):
        conn.close_later(0.02, 4000)
        conn.close(1000)
        assert (await client.frame()).payload == b"\x03\xe8"
        assert await client.quiet(0.05)


class TestMessagesOverTheLimit:
    async def test_in_frames_that_are_below_it(self, client, conn):
        await conn.oversize(100_001, parts=3)
        frames = [await client.frame() for _ in range(3)]
        assert [(frame.opcode, len(frame.payload), frame.fin) for frame in frames] == [
            (Opcode.BINARY, 33_334, False),
            (Opcode.CONTINUATION, 33_334, False),
            (Opcode.CONTINUATION, 33_333, True),
        ]

    @pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 200_000])
    async def test_in_one_frame(self, client, conn, size):
        await conn.oversize(size)
        frame = await client.frame()
        assert (len(frame.payload), frame.fin) == (size, True)


class TestInterimResponses:
    @pytest.mark.parametrize("pause", [0, 0.02])
    async def test_go_before_the_101(self, pause):
        behaviour = Interim([100, 102, 103], headers={"Link": "</a>"}, pause=pause)
        async with FaultServer([behaviour]) as server, RawClient(server.port) as client:
            started = asyncio.get_running_loop().time()
            await client.request()
            assert [await client.response() for _ in range(3)] == [100, 102, 103]
            assert client.headers["Link"] == "</a>"
            assert await client.response() == 101
            assert asyncio.get_running_loop().time() - started >= 3 * pause * 0.9
            client.text("hi")
            assert (await client.frame()).payload == b"hi"
            assert server.attempts[0].outcome == "accepted after interim 100 102 103"

    async def test_go_before_any_other_answer(self):
        async with FaultServer([Interim([103], of=Refuse(418, retry_after=3))]) as server:
            async with RawClient(server.port) as client:
                await client.request()
                assert [await client.response(), await client.response()] == [103, 418]
                assert client.headers["Retry-After"] == "3"

    async def test_may_be_all_that_comes(self):
        async with (
            FaultServer([Interim([102], of=NeverAnswer())]) as server,
            RawClient(server.port) as client,
        ):
            await client.request()
            assert await client.response() == 102
            assert await client.quiet()
            assert server.attempts[0].outcome == "interim 102, never answered"

    async def test_may_be_dripped(self):
        async with (
            FaultServer([Drip(0.0005, 5, of=Interim([103]))]) as server,
            RawClient(server.port) as client,
        ):
            await client.request()
            assert [await client.response(), await client.response()] == [103, 101]

    @pytest.mark.parametrize("status", [99, 200])
    def test_are_1xx(self, status):
        with pytest.raises(ValueError, match="statuses"):
            Interim([status])


class TestOddRedirects:
    @pytest.mark.parametrize(
        "location, raw",
        [
            ("ws://127.0.0.1:0/", b"ws://127.0.0.1:0/"),
            ("/x?sig=a%2Fb%2fc+d%20e&t='()", b"/x?sig=a%2Fb%2fc+d%20e&t='()"),
            ("/na\u00efve", b"/na\xefve"),
            ("/\u20ac", b"/\xe2\x82\xac"),
            (b"/\xff\x00\x01", b"/\xff\x00\x01"),
            ("", b""),
            ("http://[::1", b"http://[::1"),
        ],
    )
    async def test_the_location_is_written_byte_for_byte(self, location, raw):
        async with FaultServer([Redirect(location)]) as server, RawClient(server.port) as client:
            await client.request()
            head = await client.reader.read()
            assert b"\r\nLocation: " + raw + b"\r\n" in head

    async def test_may_ask_for_time(self):
        when = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
        async with FaultServer([Redirect("/", 307, retry_after=when, headers={"X-A": "b"})]) as server:
            async with RawClient(server.port) as client:
                await client.request()
                assert await client.response() == 307
                assert client.headers["Retry-After"] == "Wed, 02 Jan 2030 03:04:05 GMT"
                assert client.headers["X-A"] == "b"


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("retry_after", [0, 1.5, dt.datetime(2030, 1, 1, tzinfo=dt.UTC), "a while"])
async def test_retry_after_goes_with_any_status(status, retry_after):
    async with FaultServer([Refuse(status, retry_after=retry_after)]) as server:
        async with RawClient(server.port) as client:
            await client.request()
            assert await client.response() == status
            expected = {0: "0", 1.5: "1.5", "a while": "a while"}.get(
                retry_after, "Tue, 01 Jan 2030 00:00:00 GMT"
            )
            assert client.headers["Retry-After"] == expected


async def test_a_behaviour_of_your_own_may_prepare_the_connection():
    class Hello(Accept):
        def begin(self, connection: FaultConnection) -> None:
            connection.ping(b"hello")

    async with FaultServer([Hello()]) as server, RawClient(server.port) as client:
        await client.open()
        assert (await client.frame()).payload == b"hello"
