"""One connection and how it ends: CLOSE frames good and bad, broken frames, sizes, pings, and freed sockets.

Each test runs four ways: where aiohttp parses, the same over aiofastnet, through aiohttp's public API, and on picows.
"""

import asyncio
import gc
import os
import socket
import time
from typing import ClassVar

import pytest

from resilient_ws import ClientStopped, CloseOrigin, Heartbeat, Inbox, Outbox, State, WebSocketClient
from resilient_ws.runtime import config
from resilient_ws.testing import Accept, Deflate, FaultServer, Opcode, encode_frame
from resilient_ws.transports import make_transport
from resilient_ws.transports.aiohttp import transport
from resilient_ws.transports.shared import stream_link
from resilient_ws.transports.shared import tcp_info as kernel
from tests.conftest import open_sockets
from tests.fastnet import use_aiofastnet
from tests.integration import tls
from tests.integration.listening import SOON, Told, until_freed

PING_FLOOD = 20_000
# More than a TLS server of asyncio takes in although it does not read.
SMALL = Outbox(max_bytes=600_000)


@pytest.fixture(params=["direct", "fastnet", "public", "picows"], autouse=True)
def way(request, monkeypatch):
    if request.param == "fastnet":
        use_aiofastnet(monkeypatch)
    if request.param == "public":
        monkeypatch.setattr(transport, "is_supported", lambda: False)
    if request.param == "picows":
        deflates = getattr(request.node, "callspec", None) and request.node.callspec.params.get("deflate")
        if deflates or "decompression" in request.node.name:
            pytest.skip("picows does not compress")
        monkeypatch.setattr(config, "make_transport", lambda _, options: make_transport("picows", options))
    if request.param in {"direct", "fastnet"}:
        return "public" if os.environ.get("RESILIENT_WS_PLAIN") else "direct"
    return request.param


class Pair:
    """A client and the server's end of its first connection."""

    def __init__(self, accept=None, *, server_options=None, **options):
        self.server = FaultServer(default=accept or Accept(echo=False), **(server_options or {}))
        self.options = {"reconnect": SOON, **options}

    async def __aenter__(self):
        await self.server.start()
        self.client = WebSocketClient(self.server.url, **self.options)
        self.told = Told(self.client)
        try:
            await self.client.__aenter__()
            self.peer = await self.server.connection()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        await self.client.close()
        await self.server.aclose()

    async def goes_on(self):
        """The next connection works."""
        await self.told.reconnect()
        peer = await self.server.connection()
        await peer.send("on we go")
        assert await self.client.recv() == "on we go"


@pytest.mark.promise("P1")
class TestCloseOfThePeer:
    @pytest.mark.parametrize(
        "code", [1000, 1001, 1002, 1007, 1009, 1011, 1012, 1014, 3000, 4999, 5000, 65535]
    )
    async def test_it_is_answered_with_its_own_code(self, code):
        async with Pair() as pair:
            pair.peer.close(code, "réason")
            event = await pair.told.close()
            assert (event.code, event.reason, event.sent_code) == (code, "réason", code)
            assert (event.was_clean, event.synthesized, event.origin) == (True, False, CloseOrigin.PEER)
            await pair.peer.wait_ended()
            assert (pair.peer.close_received, pair.peer.close_code, pair.peer.close_reason) == (
                True,
                code,
                "",
            )
            await pair.goes_on()
        assert pair.server.violations == []

    async def test_an_empty_one_is_1005_and_answered_with_1000(self):
        async with Pair() as pair:
            pair.peer.close(None)
            event = await pair.told.close()
            assert (event.code, event.reason, event.sent_code) == (1005, "", 1000)
            assert (event.was_clean, event.synthesized, event.origin) == (True, False, CloseOrigin.PEER)
            await pair.peer.wait_ended()
            assert pair.peer.close_code == 1000

    async def test_the_socket_is_freed_though_the_peer_keeps_its_end(self):
        async with Pair() as pair:
            pair.peer.close(1000, then="hold")
            await pair.told.close()
            await pair.server.until(lambda: pair.peer.ended_by == "fin" or pair.peer.close_received)
            await pair.goes_on()
            await until_freed(lambda: len(pair.server.open_connections) >= 1)

    @pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999])
    async def test_a_code_that_is_not_for_the_wire_breaks_the_protocol(self, code):
        async with Pair() as pair:
            pair.peer.close(code, "x")
            await self.check_broken(pair, 1002)

    @pytest.mark.parametrize(
        "payload, sent", [(b"\x03", 1002), (b"\x03\xe8\xc3\x28", 1007), (b"\x03\xe8" + b"x" * 124, 1002)]
    )
    async def test_a_malformed_one_breaks_the_protocol(self, payload, sent):
        async with Pair() as pair:
            pair.peer.frame(Opcode.CLOSE, payload)
            await self.check_broken(pair, sent)

    @staticmethod
    async def check_broken(pair, sent):
        event = await pair.told.close()
        assert (event.code, event.synthesized, event.was_clean) == (1006, True, False)
        assert (event.origin, event.sent_code) == (CloseOrigin.PROTOCOL, sent)
        assert event.cause is not None
        await pair.peer.wait_ended()
        assert pair.peer.close_code == sent
        await pair.goes_on()

    async def test_what_follows_it_is_ignored(self):
        async with Pair() as pair:
            pair.peer.raw(encode_frame(Opcode.CLOSE, b"\x03\xe8") + encode_frame(Opcode.TEXT, b"late"))
            await pair.told.close()
            await pair.goes_on()
            assert pair.client.stats.received == 1

    async def test_what_came_before_it_is_delivered(self):
        async with Pair() as pair:
            pair.peer.raw(encode_frame(Opcode.TEXT, b"early") + encode_frame(Opcode.CLOSE, b"\x03\xe8"))
            event = await pair.told.close()
            assert event.unread == 1
            assert await pair.client.recv() == "early"

    async def test_our_answer_waits_for_an_upload_that_the_peer_still_reads(self):
        async with Pair(server_options={"receive_buffer": 8192}, outbox=SMALL) as pair:
            pair.peer.stop_reading()
            await fill(pair.client)
            pair.peer.close(1001, "bye")
            await asyncio.sleep(0.05)
            pair.peer.start_reading()
            event = await pair.told.close()
            assert (event.code, event.sent_code, event.was_clean) == (1001, 1001, True)
            await pair.peer.wait_ended()
            assert pair.peer.close_code == 1001
            assert pair.server.violations == []

    async def test_a_peer_that_has_stopped_reading_delays_the_end_by_a_second_at_most(self):
        async with Pair(server_options={"receive_buffer": 8192}, outbox=SMALL) as pair:
            pair.peer.stop_reading()
            await fill(pair.client)
            since = time.monotonic()
            pair.peer.close(1001, "bye")
            event = await pair.told.close()
            assert time.monotonic() - since < 2
            assert (event.code, event.sent_code, event.was_clean) == (1001, None, False)
            assert event.unsent + event.uncertain > 0
            await pair.told.reconnect()


@pytest.mark.promise("P1")
class TestOurClose:
    @pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "bye"), (3999, "ü" * 61), (4000, "x" * 123)])
    async def test_it_says_what_it_was_told_to(self, code, reason):
        async with Pair() as pair:
            await pair.client.close(code, reason)
            await pair.peer.wait_ended()
            assert (pair.peer.close_code, pair.peer.close_reason) == (code, reason)
        event = pair.told.closes[-1]
        assert (event.code, event.sent_code, event.was_clean) == (code, code, True)
        assert (event.origin, event.final) == (CloseOrigin.LOCAL, True)
        pair.told.check_order()

    @pytest.mark.promise("P7")
    async def test_a_peer_that_does_not_answer_it(self):
        async with Pair(Accept(echo=False, answer_close=False), close_timeout=0.5) as pair:
            since = time.monotonic()
            await pair.client.close()
            assert time.monotonic() - since < 0.7
        event = pair.told.closes[-1]
        assert (event.code, event.sent_code, event.was_clean, event.synthesized) == (1006, 1000, False, True)

    async def test_one_that_crosses_the_peers(self):
        async with Pair(Accept(echo=False, answer_close=False)) as pair:
            pair.peer.close(4001, "theirs")
            await pair.client.close(4002, "ours")
        event = pair.told.closes[-1]
        assert (event.code, event.reason, event.was_clean) == (4001, "theirs", True)
        assert event.sent_code in {4001, 4002}


class TestBrokenFrames:
    BROKEN: ClassVar = {
        "text that is not UTF-8": (lambda peer: peer.invalid_utf8(), 1007),
        "reserved bits": (lambda peer: peer.reserved_bits(), 1002),
        "the bit of an extension that was not agreed": (lambda peer: peer.reserved_bits(4), 1002),
        "a reserved opcode": (lambda peer: peer.reserved_opcode(3), 1002),
        "a reserved control opcode": (lambda peer: peer.reserved_opcode(11), 1002),
        "a continuation of nothing": (lambda peer: peer.frame(Opcode.CONTINUATION, b"x"), 1002),
        "a message inside of a message": (
            lambda peer: peer.raw(encode_frame(1, b"a", fin=False) + encode_frame(1, b"b")),
            1002,
        ),
        "a fragmented ping": (lambda peer: peer.frame(Opcode.PING, b"x", fin=False), 1002),
        "a long ping": (lambda peer: peer.ping(b"x" * 126), 1002),
    }

    @pytest.mark.parametrize("what", BROKEN)
    async def test_they_end_the_connection_and_not_the_client(self, what):
        breach, sent = self.BROKEN[what]
        async with Pair() as pair:
            await pair.peer.send("before")
            breach(pair.peer)
            event = await pair.told.close()
            assert (event.code, event.synthesized, event.was_clean) == (1006, True, False)
            assert (event.origin, event.sent_code) == (CloseOrigin.PROTOCOL, sent)
            assert await pair.client.recv() == "before"
            await pair.peer.wait_ended()
            assert pair.peer.close_code == sent
            await pair.goes_on()

    @pytest.mark.parametrize("what", BROKEN)
    async def test_the_program_can_still_answer_what_came_before(self, what, way):
        if way == "public":
            pytest.skip("through its public API aiohttp closes by itself, at once")
        breach, sent = self.BROKEN[what]

        def then(peer):  # right behind the answer to the handshake
            peer.raw(encode_frame(Opcode.TEXT, b"a question"))
            breach(peer)
            peer.raw(encode_frame(Opcode.TEXT, b"nobody hears this") + encode_frame(Opcode.CLOSE))

        async with FaultServer(default=Accept(echo=False, then=then)) as server:
            client = WebSocketClient(server.url, reconnect=False)
            with pytest.raises(ClientStopped):
                async with client:
                    async for message in client:
                        await client.send(f"the answer to {message}")
            peer = server.connections[0]
            await peer.wait_ended()
            assert server.received == [(1, "the answer to a question")]
            assert (peer.close_code, client.close_event.sent_code) == (sent, sent)
        assert server.violations == []

    async def test_a_program_has_a_moment_to_answer(self, way, monkeypatch):
        if way == "public":
            pytest.skip("through its public API aiohttp closes by itself, at once")
        monkeypatch.setattr(stream_link, "LAST_ANSWERS", 0.5)

        def then(peer):
            peer.raw(encode_frame(Opcode.TEXT, b"a question") + encode_frame(3))

        async with FaultServer(default=Accept(echo=False, then=then)) as server:
            client = WebSocketClient(server.url, reconnect=False)
            with pytest.raises(ClientStopped):
                async with client:
                    async for message in client:
                        await asyncio.sleep(0.05)  # it thinks
                        await client.send(f"the answer to {message}")
            await server.connections[0].wait_ended()
            assert server.received == [(1, "the answer to a question")]

    async def test_a_second_close_is_not_answered(self):
        def then(peer):
            peer.raw(encode_frame(Opcode.CLOSE, b"\x03\xe8") * 2)

        async with FaultServer(default=Accept(echo=False, then=then)) as server:
            client = WebSocketClient(server.url, reconnect=False)
            told = Told(client)
            client.start()
            assert (await told.close()).code == 1000
            await server.connections[0].wait_ended()
            assert server.connections[0].close_code == 1000
        assert server.violations == []

    @pytest.mark.promise("P10")
    async def test_the_third_in_a_row_ends_the_client(self):
        async with FaultServer(default=Accept(then=lambda peer: peer.reserved_bits())) as server:
            client = WebSocketClient(server.url, reconnect=SOON)
            told = Told(client)
            client.start()
            await told.until(lambda: client.state is State.CLOSED)
            assert server.attempt_count == 3
        event = told.closes[-1]
        assert (event.final, event.sent_code) == (True, 1002)
        assert "number 3 of 3" in event.rule

    async def test_half_a_frame_is_a_loss(self):
        async with Pair() as pair:
            pair.peer.close_mid_frame("fin")
            event = await pair.told.close()
            assert (event.code, event.origin, event.synthesized) == (1006, CloseOrigin.NETWORK, True)
            assert pair.client.stats.received == 0
            await pair.goes_on()


class TestSizes:
    LIMIT = 10_000

    async def sized(self, send, *, deflate=False):
        accept = Accept(echo=False, deflate=Deflate() if deflate else None)
        async with Pair(
            accept, max_message_size=self.LIMIT, compression="deflate" if deflate else None
        ) as pair:
            await send(pair.peer, self.LIMIT)
            assert len(await pair.client.recv()) == self.LIMIT
            await pair.peer.send("small")
            await send(pair.peer, self.LIMIT + 1)
            event = await pair.told.close()
            assert (event.origin, event.sent_code, event.code) == (CloseOrigin.PROTOCOL, 1009, 1006)
            assert await pair.client.recv() == "small"
            await pair.peer.wait_ended()
            assert pair.peer.close_code == 1009
            assert event.will_retry
            await pair.goes_on()
            assert pair.client.stats.received == 3

    @pytest.mark.parametrize("deflate", [False, True])
    async def test_of_binary(self, deflate):
        await self.sized(lambda peer, size: peer.send(b"x" * size), deflate=deflate)

    @pytest.mark.parametrize("deflate", [False, True])
    async def test_of_text_count_as_bytes(self, deflate):
        async def send(peer, size):
            await peer.send("ü" * (size // 2) + "x" * (size % 2))

        async with Pair(
            Accept(echo=False, deflate=Deflate() if deflate else None),
            max_message_size=self.LIMIT,
            compression="deflate" if deflate else None,
        ) as pair:
            await send(pair.peer, self.LIMIT)
            assert len((await pair.client.recv()).encode()) == self.LIMIT
            await send(pair.peer, self.LIMIT + 1)
            event = await pair.told.close()
            assert (event.origin, event.sent_code) == (CloseOrigin.PROTOCOL, 1009)

    async def test_of_fragments_count_together(self):
        await self.sized(lambda peer, size: peer.fragmented(b"x" * size, parts=7))

    @pytest.mark.promise("P6")
    async def test_an_announced_giant_is_refused_before_it_comes(self):
        async with Pair() as pair:
            await pair.peer.oversize(1 << 40, header_only=True)
            event = await pair.told.close()
            assert (event.origin, event.sent_code) == (CloseOrigin.PROTOCOL, 1009)
            await pair.goes_on()

    @pytest.mark.promise("P6")
    async def test_a_decompression_bomb_is_refused(self):
        async with Pair(Accept(echo=False, deflate=Deflate()), compression="deflate") as pair:
            wire = await pair.peer.decompression_bomb(64 << 20)
            assert wire < 100_000
            event = await pair.told.close()
            assert (event.origin, event.sent_code) == (CloseOrigin.PROTOCOL, 1009)
            await pair.goes_on()

    async def test_the_smallest_limit(self):
        async with Pair(max_message_size=1) as pair:
            await pair.peer.send("x")
            await pair.peer.send("")
            assert [await pair.client.recv(), await pair.client.recv()] == ["x", ""]
            await pair.peer.send("xy")
            assert (await pair.told.close()).sent_code == 1009


class TestPings:
    async def test_those_of_the_server_are_answered_while_nobody_receives(self):
        async with Pair() as pair:
            await pair.peer.send("nobody takes this")
            for count, payload in enumerate((b"", b"tag", b"x" * 125), 1):
                pair.peer.ping(payload)
                await pair.server.until(lambda count=count: len(pair.peer.pongs) == count)
            assert [pong.payload for pong in pair.peer.pongs] == [b"", b"tag", b"x" * 125]
            assert pair.told.closes == []

    async def test_one_between_fragments_is_answered(self):
        async with Pair() as pair:
            await pair.peer.fragmented("in three parts", parts=3, between=[b"1", b"2"])
            assert await pair.client.recv() == "in three parts"
            await pair.server.until(lambda: bool(pair.peer.pongs) and pair.peer.pongs[-1].payload == b"2")

    async def test_of_a_flood_the_last_one_of_each_read_is_answered(self, way):
        async with Pair() as pair:
            pair.peer.raw(encode_frame(Opcode.PING) * 10_000 + encode_frame(Opcode.PING, b"last"))
            await pair.peer.send("after")
            assert await pair.client.recv() == "after"
            await pair.server.until(lambda: bool(pair.peer.pongs) and pair.peer.pongs[-1].payload == b"last")
            if way != "public":  # aiohttp tells each by itself
                assert len(pair.peer.pongs) <= 5

    @pytest.mark.promise("P6")
    async def test_answers_that_the_peer_does_not_read_do_not_pile_up(self):
        async with Pair(server_options={"receive_buffer": 8192}, outbox=SMALL) as pair:
            pair.peer.stop_reading()
            await fill(pair.client)
            link = pair.client._supervisor.active.link
            buffered = link._transport.get_write_buffer_size()
            for _ in range(50):
                await pair.peer.ping_flood(PING_FLOOD // 50, b"f" * 100)
            pair.peer.ping(b"last")
            await pair.peer.send("after")
            assert await pair.client.recv() == "after"
            assert link._transport.get_write_buffer_size() < buffered + 64 * 110
            pair.peer.start_reading()
            await pair.server.until(lambda: bool(pair.peer.pongs) and pair.peer.pongs[-1].payload == b"last")
            assert len(pair.peer.pongs) < 1_000

    async def test_pongs_that_nobody_asked_for_mean_nothing(self):
        async with Pair() as pair:
            pair.peer.stop_answering_pings()
            await pair.client.send("x")
            for payload in (b"", b"guess", bytes(8), bytes(12), b"x" * 125):
                pair.peer.pong(payload)
            await pair.peer.send("after")
            assert await pair.client.recv() == "after"
            assert (pair.client.stats.confirmed, pair.client.latency) == (0, None)

    @pytest.mark.promise("P5")
    async def test_wrong_pongs_confirm_nothing(self):
        async with Pair() as pair:
            pair.peer.wrong_pongs()
            await pair.client.send("x")
            with pytest.raises(TimeoutError):
                await pair.client.flush(timeout=0.2)
            assert pair.client.stats.unconfirmed == 1
            pair.peer.answer_pings()


async def fill(client):
    """Send until the peer, which does not read, blocks it."""
    link = client._supervisor.active.link
    link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    async def send():
        while True:
            await client.send(bytes(50_000))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await send()
    facts = kernel.read(link._sock)
    assert facts is None or facts.queued > 0


@pytest.mark.promise("P7")
class TestFreedSockets:
    """The file descriptor of a connection goes with it, whatever the peer does with its own end."""

    @pytest.fixture(params=["tcp", "tls"])
    def options(self, request):
        if request.param == "tcp":
            return {}
        return {"server_options": {"ssl": tls.good(), "host": "localhost"}, "ssl": tls.trusting()}

    async def ours(self, pair):
        """The client's end of the connection, as a file descriptor of this process."""
        return next(
            text
            for text in open_sockets()
            if text.startswith(f"fd {pair.client._supervisor.active.link._sock.fileno()} ")
        )

    async def check(self, pair, descriptor):
        await pair.told.close()
        await until_freed(lambda: descriptor not in open_sockets(), within=0.2)

    @pytest.mark.parametrize("drop", ["fin", "rst"])
    async def test_after_a_loss(self, options, drop):
        async with Pair(**options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.drop(drop)
            await self.check(pair, descriptor)

    @pytest.mark.parametrize("then", ["wait", "hold"])
    async def test_after_a_close_of_the_peer(self, options, then):
        async with Pair(**options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.close(1001, then=then)
            await self.check(pair, descriptor)

    async def test_after_a_breach(self, options):
        async with Pair(**options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.ignore_close()
            pair.peer.reserved_bits()
            await self.check(pair, descriptor)

    async def test_after_a_giant(self, options):
        async with Pair(**options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.ignore_close()
            await pair.peer.oversize(1 << 30, header_only=True)
            await self.check(pair, descriptor)

    async def test_after_silence(self, options):
        async with Pair(heartbeat=Heartbeat(0.1, 0.1), **options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.go_silent()
            await self.check(pair, descriptor)

    async def test_after_silence_with_a_full_send_buffer(self, options):
        options.setdefault("server_options", {})["receive_buffer"] = 8192
        async with Pair(heartbeat=Heartbeat(0.3, 0.3), outbox=SMALL, **options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.go_silent()
            pair.peer.stop_reading()
            await fill(pair.client)
            await self.check(pair, descriptor)

    async def test_when_it_is_replaced(self, options):
        async with Pair(**options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.ignore_close()
            pair.client.reconnect_now()
            await self.check(pair, descriptor)

    async def test_when_the_client_closes_and_the_peer_is_mute(self, options):
        async with Pair(close_timeout=0.3, **options) as pair:
            descriptor = await self.ours(pair)
            pair.peer.go_silent()
            pair.peer.stop_reading()
            await fill(pair.client)
            await pair.client.close()
            await until_freed(lambda: descriptor not in open_sockets(), within=0.2)

    async def test_when_reading_is_paused(self, options):
        async with Pair(inbox=Inbox(max_messages=1), close_timeout=0.3, **options) as pair:
            descriptor = await self.ours(pair)
            await pair.peer.flood(100, size=1_000)
            pair.peer.ignore_close()
            await pair.client.close()
            await until_freed(lambda: descriptor not in open_sockets(), within=0.2)
            gc.collect()
