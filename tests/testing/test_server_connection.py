import asyncio
import contextlib
import socket
import ssl
import struct

import pytest
import trustme
import websockets

from resilient_ws.testing import Accept, Deflate, FaultConnection, FaultServer, Opcode, report_messages
from resilient_ws.testing.server.deflate import Codec
from tests.testing.raw import KEY, RawClient


async def opened(server: FaultServer, client: RawClient, *extra: str) -> FaultConnection:
    await client.open(*extra)
    return await server.connection()


@pytest.fixture
async def server():
    async with FaultServer() as server:
        yield server


@pytest.fixture
async def client(server):
    async with RawClient(server.port) as client:
        yield client


async def test_left_alone_it_echoes_and_records(server, client):
    conn = await opened(server, client)
    client.text("one")
    client.send(Opcode.BINARY, b"\xff")
    frames = [await client.frame(), await client.frame()]
    assert [(f.opcode, f.payload, f.masked) for f in frames] == [(1, b"one", False), (2, b"\xff", False)]
    assert server.received == [(1, "one"), (1, b"\xff")]
    assert (conn.received, server.received_count) == (2, 2)
    assert server.received[0].connection == conn.number


class TestPings:
    async def test_are_answered_at_once(self, server, client):
        conn = await opened(server, client)
        client.send(Opcode.PING, b"tag")
        frame = await client.frame()
        assert (frame.opcode, frame.payload) == (Opcode.PONG, b"tag")
        assert [ping.payload for ping in conn.pings] == [b"tag"]

    async def test_may_stay_unanswered_and_be_answered_again(self, server, client):
        conn = await opened(server, client)
        conn.stop_answering_pings()
        client.send(Opcode.PING, b"1")
        await server.until(lambda: len(conn.pings) == 1)
        conn.answer_pings()
        client.send(Opcode.PING, b"2")
        assert (await client.frame()).payload == b"2"

    async def test_may_stay_unanswered_from_the_start(self):
        async with FaultServer([Accept(answer_pings=False)]) as server, RawClient(server.port) as client:
            conn = await opened(server, client)
            client.send(Opcode.PING, b"1")
            client.text("after")
            assert (await client.frame()).payload == b"after"
            assert len(conn.pings) == 1

    async def test_may_be_answered_late(self, server, client):
        conn = await opened(server, client)
        conn.delay_pongs(0.05)
        started = asyncio.get_running_loop().time()
        client.send(Opcode.PING, b"1")
        client.text("first")
        assert (await client.frame()).payload == b"first"
        assert (await client.frame()).payload == b"1"
        assert asyncio.get_running_loop().time() - started >= 0.049

    async def test_a_late_answer_dies_with_the_connection(self, server, client):
        conn = await opened(server, client)
        conn.delay_pongs(30)
        client.send(Opcode.PING, b"1")
        await server.until(lambda: len(conn.pings) == 1)

    async def test_may_be_answered_wrongly(self, server, client):
        (await opened(server, client)).wrong_pongs(b"other")
        client.send(Opcode.PING, b"1")
        frame = await client.frame()
        assert (frame.opcode, frame.payload) == (Opcode.PONG, b"other")

    async def test_may_be_answered_for_the_last_one_only(self, server, client):
        (await opened(server, client)).pong_only_last(0.03)
        for tag in b"1", b"2", b"3":
            client.send(Opcode.PING, tag)
        assert (await client.frame()).payload == b"3"
        client.send(Opcode.PING, b"4")
        assert (await client.frame()).payload == b"4"
        assert await client.quiet()

    async def test_of_the_server_and_what_the_client_answers(self, server, client):
        conn = await opened(server, client)
        conn.ping(b"hello")
        conn.pong(b"unasked")
        first, second = await client.frame(), await client.frame()
        assert [(f.opcode, f.payload) for f in (first, second)] == [(9, b"hello"), (10, b"unasked")]
        client.send(Opcode.PONG, b"hello")
        await server.until(lambda: len(conn.pongs) == 1)
        assert conn.pongs[0].payload == b"hello"

    async def test_flood(self, server, client):
        conn = await opened(server, client)
        flood = asyncio.create_task(conn.ping_flood(1234))
        for _ in range(1234):
            assert (await client.frame()).opcode == Opcode.PING
        await flood
        assert await client.quiet()


class TestWhatIsSent:
    async def test_messages(self, server, client):
        conn = await opened(server, client)
        await conn.send("text")
        await conn.send(b"bytes")
        frames = [await client.frame(), await client.frame()]
        assert [(f.opcode, f.payload) for f in frames] == [(1, b"text"), (2, b"bytes")]

    async def test_a_flood_waits_for_the_client_to_read(self, server, client):
        conn = await opened(server, client)
        client.writer.transport.pause_reading()
        flood = asyncio.create_task(conn.flood(20_000, size=1000))
        await asyncio.sleep(0.2)
        assert not flood.done()
        assert conn.buffered < 1_000_000
        client.writer.transport.resume_reading()
        got = [(await client.frame()).payload for _ in range(20_000)]
        assert await flood == 20_000
        assert report_messages(got, 20_000).ok
        assert len(got[7]) == 1000

    async def test_a_flood_of_some_time(self, server, client):
        conn = await opened(server, client)
        sent = await conn.flood(seconds=0.05, start=5)
        assert sent > 10
        assert (await client.frame()).payload == b"5"

    async def test_a_flood_ends_with_the_connection(self, server, client):
        conn = await opened(server, client)
        client.writer.transport.pause_reading()
        flood = asyncio.create_task(conn.flood(seconds=30, size=100_000))
        while not conn.buffered:
            await asyncio.sleep(0.01)
        conn.rst()
        assert await asyncio.wait_for(flood, 1) > 0

    async def test_a_flood_without_an_end_is_refused(self, server, client):
        conn = await opened(server, client)
        with pytest.raises(ValueError, match=r"count .* or seconds, both are None"):
            await conn.flood()

    async def test_a_message_in_fragments_with_pings_in_between(self, server, client):
        conn = await opened(server, client)
        await conn.fragmented("hello", parts=3, between=[b"a", b"b"], pause=0.001)
        frames = [await client.frame() for _ in range(5)]
        assert [(f.opcode, f.payload, f.fin) for f in frames] == [
            (1, b"he", False),
            (9, b"a", True),
            (0, b"ll", False),
            (9, b"b", True),
            (0, b"o", True),
        ]
        await conn.fragmented(b"x", parts=1)
        assert (await client.frame()).opcode == Opcode.BINARY
        with pytest.raises(ValueError, match="parts must be at least 1, not 0"):
            await conn.fragmented("x", parts=0)

    async def test_what_no_server_may_send(self, server, client):
        conn = await opened(server, client)
        conn.invalid_utf8()
        with pytest.raises(UnicodeDecodeError):
            (await client.frame()).payload.decode()
        conn.reserved_bits()
        assert (await client.frame()).rsv == 7
        conn.reserved_opcode(11)
        assert (await client.frame()).opcode == 11
        conn.masked_frame(b"m")
        frame = await client.frame()
        assert (frame.masked, frame.payload) == (True, b"m")
        conn.frame(Opcode.PING, bytes(200), fin=False)
        frame = await client.frame()
        assert (len(frame.payload), frame.fin) == (200, False)
        conn.raw(b"\x81\x01!")
        assert (await client.frame()).payload == b"!"

    async def test_oversize_messages_announced_or_sent(self, server, client):
        conn = await opened(server, client)
        sending = asyncio.create_task(conn.oversize(3_000_000))
        assert len((await client.frame()).payload) == 3_000_000
        await sending
        await conn.oversize(2**40, header_only=True)
        assert await client.reader.readexactly(10) == b"\x82\x7f" + (2**40).to_bytes(8, "big")

    async def test_a_frame_that_ends_in_the_middle(self, server, client):
        (await opened(server, client)).close_mid_frame()
        assert await client.frame() is None
        assert client.parser.pending > 2

    async def test_a_decompression_bomb(self):
        offer = "Sec-WebSocket-Extensions: permessage-deflate"
        async with FaultServer(default=Accept(deflate=Deflate())) as server, RawClient(server.port) as client:
            conn = await opened(server, client, offer)
            assert client.headers["Sec-WebSocket-Extensions"] == "permessage-deflate"
            wire = await conn.decompression_bomb(8 << 20)
            frame = await client.frame()
            assert (frame.opcode, frame.rsv, len(frame.payload)) == (2, 4, wire)
            assert wire < 10_000
            agreement = Deflate().agree("permessage-deflate")
            assert Codec(agreement).decompress(frame.payload, 8 << 20) == bytes(8 << 20)

    async def test_a_bomb_needs_deflate(self, server, client):
        conn = await opened(server, client)
        with pytest.raises(RuntimeError, match="needs permessage-deflate"):
            await conn.decompression_bomb()


class TestClosing:
    async def test_a_close_of_the_client_is_answered_and_the_server_ends_tcp_first(self, server, client):
        conn = await opened(server, client)
        client.close(4001, "bye")
        frame = await client.frame()
        assert (frame.opcode, frame.payload) == (Opcode.CLOSE, b"\x0f\xa1")
        assert await client.frame() is None
        assert (conn.close_received, conn.close_code, conn.close_reason, conn.sent_close) == (
            True,
            4001,
            "bye",
            4001,
        )
        client.writer.close()
        await conn.wait_ended()
        assert conn.ended_by == "server"
        assert repr(conn) == "<FaultConnection 1 ended by server, 0 received>"

    async def test_an_empty_close_is_answered_by_an_empty_one(self, server, client):
        conn = await opened(server, client)
        client.close(None)
        assert (await client.frame()).payload == b""
        assert (conn.close_received, conn.close_code) == (True, None)

    async def test_a_close_of_the_server_waits_for_the_answer(self, server, client):
        conn = await opened(server, client)
        conn.close(1012, "restart")
        assert (await client.frame()).payload == b"\x03\xf4restart"
        assert await client.quiet()
        assert conn.is_open
        client.close(1012)
        assert await client.frame() is None
        assert conn.close_code == 1012

    @pytest.mark.parametrize("then", ["fin", "rst"])
    async def test_a_close_can_be_followed_by_the_loss_of_tcp(self, server, client, then):
        conn = await opened(server, client)
        conn.close(1001, then=then)
        if then == "fin":
            assert (await client.frame()).opcode == Opcode.CLOSE
            assert await client.frame() is None
        else:
            with pytest.raises(ConnectionResetError):
                while await client.frame():
                    pass

    async def test_a_held_socket_has_to_be_closed_by_the_client(self, server, client):
        conn = await opened(server, client)
        conn.close(1000, then="hold")
        await client.frame()
        client.close()
        assert await client.quiet()
        client.writer.write_eof()
        assert await client.quiet()
        assert conn.is_open

    async def test_a_close_of_the_client_can_be_ignored(self, server, client):
        conn = await opened(server, client)
        conn.ignore_close()
        client.close()
        await server.until(lambda: conn.close_received)
        assert await client.quiet()
        conn.close(1000)
        assert (await client.frame()).opcode == Opcode.CLOSE
        assert await client.frame() is None

    async def test_a_close_can_be_ignored_from_the_start(self):
        async with FaultServer([Accept(answer_close=False)]) as server, RawClient(server.port) as client:
            await opened(server, client)
            client.close()
            client.writer.write_eof()
            assert await client.quiet()

    async def test_codes_that_nobody_may_send(self, server, client):
        conn = await opened(server, client)
        conn.close(1006, b"\xff", then="hold")
        assert (await client.frame()).payload == b"\x03\xee\xff"

    async def test_after_a_close_of_the_server_nothing_is_echoed(self, server, client):
        conn = await opened(server, client)
        conn.close(1000)
        client.text("late")
        assert (await client.frame()).opcode == Opcode.CLOSE
        await server.until(lambda: conn.received == 1)
        assert await client.quiet()

    async def test_accept_then_close(self):
        async with (
            FaultServer([Accept(then=lambda c: c.close(1013, "later"))]) as server,
            websockets.connect(server.url) as client,
        ):
            with pytest.raises(websockets.ConnectionClosedError) as caught:
                await client.recv()
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1013, "later")


class TestLosing:
    async def test_fin_follows_what_was_written(self, server, client):
        conn = await opened(server, client)
        await conn.send("last")
        conn.fin()
        assert not conn.is_open
        assert (await client.frame()).payload == b"last"
        assert await client.frame() is None
        with pytest.raises(ConnectionResetError, match="connection 1 is over"):
            await conn.send("more")

    async def test_fin_after_a_reset_that_nobody_has_read_yet(self, server):
        client = socket.create_connection((server.host, server.port))
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY.encode() + b"\r\n\r\n"
        )
        conn = await server.connection()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        conn.fin()
        await conn.wait_ended()

    async def test_a_client_that_does_not_answer_fin_is_reset_after_the_linger(self):
        async with FaultServer(linger=0.05) as server, RawClient(server.port) as client:
            conn = await opened(server, client)
            conn.fin()
            assert await client.frame() is None
            await conn.wait_ended(1)

    async def test_rst(self, server, client):
        conn = await opened(server, client)
        conn.rst()
        with pytest.raises(ConnectionResetError):
            await client.frame()
        await conn.wait_ended()

    async def test_half_close_still_reads(self, server, client):
        conn = await opened(server, client)
        conn.half_close()
        assert await client.frame() is None
        client.text("heard")
        await server.until(lambda: conn.received == 1)
        assert conn.is_open

    async def test_silence_records_and_answers_nothing_until_it_wakes(self, server, client):
        conn = await opened(server, client)
        conn.go_silent()
        client.text("one")
        client.send(Opcode.PING, b"1")
        client.close()
        await server.until(lambda: conn.close_received)
        assert await client.quiet()
        assert (conn.received, len(conn.pings)) == (1, 1)
        conn.wake()
        conn.ping(b"awake")
        assert (await client.frame()).payload == b"awake"

    async def test_silence_can_swallow_what_arrives(self, server, client):
        conn = await opened(server, client)
        conn.go_silent(discard=True)
        client.text("one")
        client.writer.write_eof()
        assert await client.quiet()
        assert server.received == []
        assert conn.is_open

    async def test_stopped_reading_brings_the_client_to_a_halt(self):
        async with FaultServer(receive_buffer=4096) as server, RawClient(server.port) as client:
            conn = await opened(server, client)
            conn.stop_reading()
            client.send(Opcode.BINARY, bytes(8 << 20))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.writer.drain(), 0.1)
            assert conn.received == 0
            conn.start_reading()
            await server.until(lambda: conn.received == 1)

    async def test_a_client_that_does_not_read_its_echoes_is_not_read(self, server, client):
        conn = await opened(server, client)
        client.writer.transport.pause_reading()
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1000:
                client.send(Opcode.BINARY, bytes(100_000))
                await asyncio.wait_for(client.writer.drain(), 0.2)
                sent += 1
        assert conn.buffered < 2_000_000
        client.writer.transport.resume_reading()
        for _ in range(sent + 1):
            assert len((await client.frame()).payload) == 100_000

    async def test_how_a_connection_ended(self, server):
        async with RawClient(server.port) as client:
            conn = await opened(server, client)
            client.writer.write_eof()
            await conn.wait_ended()
            assert conn.ended_by == "fin"
        async with RawClient(server.port) as client:
            conn = await opened(server, client)
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")
            client.writer.transport.abort()
            await conn.wait_ended()
            assert conn.ended_by == "rst"

    async def test_waiting_for_an_end_that_does_not_come(self, server, client):
        conn = await opened(server, client)
        with pytest.raises(TimeoutError):
            await conn.wait_ended(0.01)


class TestBreachesByTheClient:
    @pytest.mark.parametrize(
        "breach,code,text",
        [
            (lambda c: c.send(Opcode.TEXT, b"x", mask=None), 1002, "not masked"),
            (lambda c: c.send(Opcode.TEXT, b"\xff"), 1007, "not UTF-8"),
            (lambda c: c.send(3), 1002, "opcode 3"),
            (lambda c: c.send(Opcode.CLOSE, b"x"), 1002, "one byte"),
            (lambda c: c.send(Opcode.BINARY, declared=1001), 1009, "1001 bytes"),
        ],
    )
    async def test_are_recorded_and_end_the_connection(self, breach, code, text):
        async with FaultServer(max_message_size=1000) as server, RawClient(server.port) as client:
            await opened(server, client)
            breach(client)
            frame = await client.frame()
            assert frame.opcode == Opcode.CLOSE
            assert int.from_bytes(frame.payload[:2], "big") == code
            assert await client.frame() is None
            ((number, complaint),) = server.violations
            assert number == 1
            assert text in complaint

    @pytest.mark.parametrize("then,complaint", [(Opcode.TEXT, "after CLOSE"), (Opcode.CLOSE, "second CLOSE")])
    async def test_nothing_may_follow_a_close(self, then, complaint):
        async with FaultServer([Accept(answer_close=False)]) as server, RawClient(server.port) as client:
            await opened(server, client)
            client.close()
            client.send(then)
            await server.until(lambda: bool(server.violations))
            assert complaint in server.violations[0][1]
            assert await client.quiet()


class TestHandlers:
    async def test_a_handler_has_the_connection_and_its_end_closes_it(self):
        async def handler(conn: FaultConnection) -> None:
            async for message in conn:
                await conn.send(f"got {message!r}")
                if message == "end":
                    return

        async with FaultServer(handler=handler) as server, websockets.connect(server.url) as client:
            for message in ("a", b"b", "end"):
                await client.send(message)
                assert await client.recv() == f"got {message!r}"
            with pytest.raises(websockets.ConnectionClosedOK):
                await client.recv()

    async def test_a_handler_that_raises_closes_with_1011_and_is_heard_of(self):
        async def handler(conn: FaultConnection) -> None:
            raise LookupError("in the handler")

        with pytest.raises(LookupError, match="in the handler"):
            async with FaultServer(handler=handler) as server, RawClient(server.port) as client:
                await opened(server, client)
                assert (await client.frame()).payload == b"\x03\xf3"
                assert repr(server.errors) == "[LookupError('in the handler')]"

    async def test_an_error_of_the_test_goes_before_that_of_a_handler(self):
        def then(conn: FaultConnection) -> None:
            raise LookupError("in then")

        with pytest.raises(KeyError):
            async with FaultServer([Accept(then=then)]) as server, RawClient(server.port) as client:
                await opened(server, client)
                await server.until(lambda: bool(server.errors))
                raise KeyError

    async def test_a_handler_ends_quietly_when_its_client_is_gone(self):
        ended = []

        async def handler(conn: FaultConnection) -> None:
            try:
                await conn.recv()
            finally:
                ended.append(conn.number)

        async with FaultServer(handler=handler) as server:
            async with RawClient(server.port) as client:
                await opened(server, client)
            await server.until(lambda: ended == [1])
        assert server.errors == []

    async def test_a_handler_that_waits_is_cancelled_with_the_server(self):
        async def handler(conn: FaultConnection) -> None:
            await asyncio.Event().wait()

        async with FaultServer(handler=handler) as server, RawClient(server.port) as client:
            await opened(server, client)

    async def test_then_goes_before_the_handler_and_may_be_a_coroutine(self):
        async def greet(conn: FaultConnection) -> None:
            await conn.send("hello " + await conn.recv())

        async with (
            FaultServer([Accept(then=greet)], handler=greet) as server,
            RawClient(server.port) as client,
        ):
            conn = await opened(server, client)
            client.text("you")
            assert (await client.frame()).payload == b"hello you"
            assert conn.is_open

    async def test_unread_messages_are_bounded_and_the_loss_is_counted(self):
        async with FaultServer([Accept(echo=False)]) as server, RawClient(server.port) as client:
            conn = await opened(server, client)
            for number in range(10_002):
                client.text(str(number))
            await server.until(lambda: conn.received == 10_002)
            assert conn.unread_dropped == 2
            assert await conn.recv() == "2"

    async def test_receiving_ends_with_a_close_after_all_was_returned(self):
        async with FaultServer([Accept(echo=False)]) as server, RawClient(server.port) as client:
            conn = await opened(server, client)
            client.text("last")
            client.close()
            assert [message async for message in conn] == ["last"]


async def test_compressed_messages_go_both_ways_and_a_bomb_of_the_client_is_refused():
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    async with (
        FaultServer(default=Accept(deflate=Deflate()), max_message_size=100_000) as server,
        RawClient(server.port) as client,
    ):
        conn = await opened(server, client, offer)
        codec = Codec(Deflate().agree("permessage-deflate"))
        client.send(Opcode.TEXT, codec.compress(b"packed"), rsv=4)
        frame = await client.frame()
        assert frame.rsv == 4
        assert codec.decompress(frame.payload, 100) == b"packed"
        assert server.received == [(1, "packed")]
        client.send(Opcode.BINARY, b"".join(codec.compress_zeros(1_000_000)), rsv=4)
        assert (await client.frame()).payload[:2] == b"\x03\xf1"
        assert conn.received == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class TestTLS:
    @pytest.fixture
    def contexts(self, authority):
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(ours)
        theirs = ssl.create_default_context()
        authority.configure_trust(theirs)
        return ours, theirs

    async def test_messages_and_a_close(self, contexts):
        ours, theirs = contexts
        async with FaultServer(ssl=ours) as server:
            assert server.url == f"wss://127.0.0.1:{server.port}/"
            async with websockets.connect(server.url, ssl=theirs) as client:
                await client.send("secret")
                assert await client.recv() == "secret"
            conn = await server.connection()
            assert conn.close_code == 1000

    @pytest.mark.parametrize("drop", ["fin", "rst"])
    async def test_losing(self, contexts, drop):
        ours, theirs = contexts
        async with FaultServer(ssl=ours) as server, RawClient(server.port, ssl=theirs) as client:
            conn = await opened(server, client)
            conn.drop(drop)
            with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                assert await client.frame() is None
            await conn.wait_ended()

    async def test_a_client_that_speaks_no_tls_is_recorded(self, contexts):
        ours, _ = contexts
        async with FaultServer(ssl=ours) as server, RawClient(server.port) as client:
            await client.request()
            await server.until(lambda: server.attempts and server.attempts[0].outcome.startswith("no TLS: "))

    async def test_leaving_in_the_middle_of_a_tls_handshake(self, contexts):
        ours, _ = contexts
        async with FaultServer(ssl=ours) as server, RawClient(server.port) as client:
            client.writer.write(b"\x16\x03\x01")
            await server.until(lambda: server.attempt_count == 1)
