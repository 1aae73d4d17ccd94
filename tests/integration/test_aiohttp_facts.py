"""What this package relies on in aiohttp: each test fails when a newer aiohttp does it differently.

The links and the transport are shaped by these facts; should one change, look there before changing the test.
"""

import asyncio
import gc
import inspect
import socket
import time
import warnings

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import (
    ClientResponse,
    ClientSession,
    ClientWSTimeout,
    DummyCookieJar,
    TCPConnector,
    WSMsgType,
    connector,
)

from resilient_ws.testing import (
    Accept,
    ChaosProxy,
    Deflate,
    FaultServer,
    Hangup,
    NeverAnswer,
    Opcode,
    Redirect,
    Refuse,
)
from tests.conftest import open_sockets
from tests.integration import tls
from tests.integration.listening import until_freed
from tests.integration.test_connecting import replaced

NO_TIMEOUT = ClientWSTimeout(ws_receive=None, ws_close=0.001)
LIMIT = 10_000


@pytest_asyncio.fixture
async def server():
    async with FaultServer(default=Accept(echo=False, deflate=Deflate())) as server:
        yield server


@pytest_asyncio.fixture
async def session():
    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        yield session


async def connect(session, server, **options):
    """Connect as the transport does; return both ends."""
    options = {"timeout": NO_TIMEOUT, "autoclose": False, "autoping": False, "max_msg_size": LIMIT, **options}
    ws = await session.ws_connect(server.url, **options)
    return ws, await server.connection()


def step(coroutine):
    """Run a coroutine to its first suspension; return whether it has ended."""
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    return False


class TestReceiving:
    async def test_an_empty_close_is_code_0_and_waits_for_nobody_without_autoclose(self, session, server):
        ws, peer = await connect(session, server)
        peer.close(None)
        async with asyncio.timeout(1):
            message = await ws.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 0, "")
        assert not peer.close_received
        await ws.close()

    async def test_a_close_has_its_reason_in_extra(self, session, server):
        ws, peer = await connect(session, server)
        peer.close(4001, "why")
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4001, "why")
        await ws.close()

    async def test_after_a_close_of_the_peer_a_close_can_still_be_sent(self, session, server):
        ws, peer = await connect(session, server)
        peer.close(4001, then="hold")
        await ws.receive()
        assert step(ws.send_frame(b"\x0f\xa1", WSMsgType.CLOSE))
        await server.until(lambda: peer.close_received)
        assert peer.close_code == 4001
        await ws.close()

    async def test_without_autoping_pings_and_pongs_are_messages(self, session, server):
        ws, peer = await connect(session, server)
        peer.ping(b"a")
        peer.pong(b"b")
        got = [await ws.receive(), await ws.receive()]
        assert [(one.type, bytes(one.data)) for one in got] == [
            (WSMsgType.PING, b"a"),
            (WSMsgType.PONG, b"b"),
        ]
        assert len(peer.pongs) == 0
        await ws.close()

    @pytest.mark.parametrize("size, fits", [(LIMIT - 1, True), (LIMIT, False)])
    async def test_the_limit_is_exclusive(self, session, server, size, fits):
        ws, peer = await connect(session, server)
        await peer.send(b"x" * size)
        message = await ws.receive()
        assert message.type is (WSMsgType.BINARY if fits else WSMsgType.ERROR)
        if not fits:
            assert message.data.code == 1009
        await ws.close()

    @pytest.mark.parametrize("size, fits", [(LIMIT, True), (LIMIT + 1, False)])
    async def test_the_limit_of_what_was_compressed_is_inclusive(self, session, server, size, fits):
        """One byte more than without compression, so the link looks at the size again."""
        ws, peer = await connect(session, server, compress=15)
        await peer.send(b"x" * size)
        message = await ws.receive()
        assert message.type is (WSMsgType.BINARY if fits else WSMsgType.ERROR)
        await ws.close()

    async def test_a_breach_is_an_error_message_and_the_close_is_written(self, session, server):
        ws, peer = await connect(session, server)
        peer.reserved_bits()
        message = await ws.receive()
        assert message.type is WSMsgType.ERROR
        assert (type(message.data), message.data.code) == (aiohttp.WebSocketError, 1002)
        await peer.wait_ended()
        assert peer.close_code == 1002

    async def test_masked_frames_of_a_server_are_taken(self, session, server):
        """RFC 6455 5.1 wants them refused; its parser does not tell."""
        ws, peer = await connect(session, server)
        peer.masked_frame(b"masked")
        assert (await ws.receive()).data == "masked"
        await ws.close()

    @pytest.mark.parametrize("code, taken", [(1006, True), (1004, False), (2999, False), (5000, True)])
    async def test_which_close_codes_it_lets_pass(self, session, server, code, taken):
        ws, peer = await connect(session, server)
        peer.close(code)
        assert ((await ws.receive()).type is WSMsgType.CLOSE) == taken
        await ws.close()

    async def test_after_a_shutdown_of_the_socket_it_is_closed_at_once(self, session, server):
        ws, _ = await connect(session, server)
        receiving = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        ws.get_extra_info("socket").shutdown(2)
        async with asyncio.timeout(1):
            assert (await receiving).type is WSMsgType.CLOSED

    async def test_after_an_abort_of_the_transport_it_is_closed_at_once(self, session, server):
        ws, _ = await connect(session, server)
        receiving = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        ws._response.connection.transport.abort()
        async with asyncio.timeout(1):
            assert (await receiving).type is WSMsgType.CLOSED

    @pytest.mark.parametrize("drop", ["fin", "rst"])
    async def test_what_came_before_a_loss_is_returned_first(self, session, server, drop):
        ws, peer = await connect(session, server)
        await peer.send("before")
        await asyncio.sleep(0.05)
        peer.drop(drop)
        await asyncio.sleep(0.05)
        assert (await ws.receive()).data == "before"
        assert (await ws.receive()).type is WSMsgType.CLOSED

    async def test_a_cancelled_receive_spoils_the_close_code(self, session, server):
        """Why there is one reader and no receive timeout."""
        ws, _ = await connect(session, server)
        with pytest.raises(TimeoutError):
            await ws.receive(timeout=0.01)
        assert ws.close_code == 1006
        assert not ws.closed
        await ws.close()

    async def test_the_parser_stops_when_half_a_mebibyte_waits(self, session, server):
        """This bounds what a peer can make us hold, also decompressed."""
        ws, peer = await connect(session, server, max_msg_size=0)
        sending = asyncio.create_task(peer.flood(100_000, size=10_000))
        await asyncio.sleep(0.3)
        assert ws._reader._size < 2 * (2 * 2**18 + 2**16)
        assert not sending.done()
        sending.cancel()
        ws._response.connection.transport.abort()
        await asyncio.wait([sending])


class TestSending:
    @pytest.mark.parametrize("size", [0, 10, 100_000])
    async def test_a_plain_frame_is_written_before_the_first_suspension(self, session, server, size):
        ws, peer = await connect(session, server)
        coroutine = ws.send_bytes(b"x" * size)
        step(coroutine)
        coroutine.close()
        assert await peer.recv() == b"x" * size
        await ws.close()

    @pytest.mark.parametrize("opcode", [WSMsgType.PING, WSMsgType.PONG])
    async def test_a_control_frame_is_written_at_once_though_compression_is_on(self, session, server, opcode):
        ws, peer = await connect(session, server, compress=15)
        big = asyncio.create_task(ws.send_bytes(bytes(1_000_000)))
        assert step(ws.send_frame(b"tag", opcode))
        await server.until(lambda: len(peer.pings) + len(peer.pongs) == 1)
        await big
        await ws.close()

    async def test_a_large_compressed_frame_is_not_written_at_once(self, session, server):
        """Why the link has to wait for it before the next one, and a ping does not cover it before."""
        ws, peer = await connect(session, server, compress=15)
        written = ws._writer.transport.get_write_buffer_size
        sending = asyncio.create_task(ws.send_bytes(b"x" * 100_000))
        await asyncio.sleep(0)
        assert not sending.done()
        assert written() == 0
        await sending
        assert await peer.recv() == b"x" * 100_000
        await ws.close()

    async def test_after_an_abort_it_raises_a_client_error_that_is_a_connection_reset(self, session, server):
        ws, _ = await connect(session, server)
        ws._response.connection.transport.abort()
        for send in (ws.send_str, ws.send_bytes):
            with pytest.raises(aiohttp.ClientConnectionResetError) as caught:
                await send("x" if send == ws.send_str else b"x")
            assert isinstance(caught.value, ConnectionResetError)
        ws._response.close()

    async def test_one_that_is_blocked_raises_a_builtin_error_when_the_connection_is_lost(self, session):
        async with FaultServer(receive_buffer=8192, default=Accept(echo=False)) as server:
            ws, peer = await connect(session, server)
            peer.stop_reading()

            async def send():
                while True:
                    await ws.send_bytes(bytes(200_000))

            sending = asyncio.create_task(send())
            await asyncio.sleep(0.2)
            assert not sending.done()
            peer.rst()
            with pytest.raises(ConnectionError) as caught:
                await sending
            assert not isinstance(caught.value, aiohttp.ClientError)
            ws._response.close()

    async def test_close_frames_of_ours_are_not_checked(self, session, server):
        """Why codes and reasons are checked at the door."""
        ws, peer = await connect(session, server)
        await ws.send_frame(b"\x03\xee", WSMsgType.CLOSE)
        await peer.wait_ended()
        assert peer.close_code == 1006
        await ws.close()


class TestConnecting:
    @staticmethod
    def dial(session, server, **options):
        return session.ws_connect(server.url, timeout=NO_TIMEOUT, **options)

    async def test_without_our_middleware_a_lost_handshake_is_dialed_twice(self):
        async with FaultServer(default=Hangup("fin")) as server, ClientSession() as session:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await self.dial(session, server)
            assert server.attempt_count == 2

    async def test_an_exception_of_a_middleware_is_not_retried(self):
        class OurError(Exception):
            pass

        async def middleware(request, handler):
            try:
                return await handler(request)
            except aiohttp.ClientError:
                raise OurError from None

        async with (
            FaultServer(default=Hangup("fin")) as server,
            ClientSession(middlewares=(middleware,)) as session,
        ):
            with pytest.raises(OurError):
                await self.dial(session, server)
            assert server.attempt_count == 1

    async def test_a_middleware_sees_a_redirect_before_it_is_followed(self):
        class OurError(Exception):
            pass

        async def middleware(request, handler):
            response = await handler(request)
            assert request.headers["Sec-WebSocket-Key"]
            assert response.connection is None  # it had no body, so it has given its connection back
            raise OurError(response.status, response.headers["Location"])

        async with (
            FaultServer(default=Redirect("/there", 307)) as server,
            ClientSession(middlewares=(middleware,)) as session,
        ):
            with pytest.raises(OurError) as caught:
                await self.dial(session, server)
            assert caught.value.args == (307, "/there")
            assert server.attempt_count == 1

    async def test_it_wants_connection_to_be_one_word(self, session):
        """Why the answer is read by a class of our own: RFC 9110 7.6.1 allows a list."""
        async with FaultServer(default=replaced("Connection", "keep-alive, Upgrade")) as server:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="Invalid connection header"):
                await self.dial(session, server)

    async def test_the_classes_that_a_session_takes_are_only_called(self, server):
        """The transport gives it a function for the one, and a subclass with its own `start` for the other."""
        made = []

        class Answer(ClientResponse):
            async def start(self, connection):
                made.append(connection.transport)
                return await super().start(connection)

        def make(*args, **kwargs):
            made.append("ws")
            return aiohttp.ClientWebSocketResponse(*args, **kwargs)

        async with ClientSession(response_class=Answer, ws_response_class=make) as session:
            ws, _ = await connect(session, server)
            assert made[1:] == ["ws"]
            assert callable(made[0].abort)  # asyncio.Transport, or aiofastnet's, which is none
            await ws.close()
        assert inspect.iscoroutinefunction(ClientResponse.start)

    async def test_a_detached_session_leaves_its_connection_and_no_warning(self, server):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            session = ClientSession(connector=TCPConnector(force_close=True), connector_owner=False)
            ws, peer = await connect(session, server)
            session.detach()
            del session
            gc.collect()
            await peer.send("still here")
            assert (await ws.receive()).data == "still here"
            transport = ws._response.connection.transport
            transport.abort()
            ws._response.close()
            del ws
            await asyncio.sleep(0)
            gc.collect()
        assert [str(warning.message) for warning in caught] == []

    async def test_without_a_dns_cache_its_resolver_is_asked_each_time(self, server):
        class Resolver(aiohttp.abc.AbstractResolver):
            asked = 0

            async def resolve(self, host, port=0, family=0):
                self.asked += 1
                found = {
                    "hostname": host,
                    "host": "127.0.0.1",
                    "port": port,
                    "family": 2,
                    "proto": 0,
                    "flags": 0,
                }
                return [found]

            async def close(self):
                raise AssertionError("it is ours")

        resolver = Resolver()
        uncached = TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
        async with ClientSession(connector=uncached) as session:
            for _ in range(2):
                ws = await session.ws_connect(f"ws://name.example:{server.port}", timeout=NO_TIMEOUT)
                await ws.close()
        assert resolver.asked == 2

    async def test_a_socket_factory_makes_each_socket(self, server):
        made = []

        def make(info):
            made.append(socket.socket(info[0], info[1], info[2]))
            return made[-1]

        async with ClientSession(connector=TCPConnector(socket_factory=make)) as session:
            ws, _ = await connect(session, server)
            assert [one.fileno() for one in made] == [ws.get_extra_info("socket").fileno()]
            await ws.close()
            await until_freed(lambda: made[0].fileno() == -1)

    async def test_merely_closed_a_tls_socket_stays_where_nobody_answers(self, session):
        """Why a dial that is given up aborts its sockets."""
        async with (
            FaultServer(default=NeverAnswer(), ssl=tls.good()) as server,
            ChaosProxy(server.url) as network,
        ):
            dialing = asyncio.create_task(
                session.ws_connect(network.url, timeout=NO_TIMEOUT, ssl=tls.trusting()).__aenter__()
            )
            await server.until(lambda: server.attempts[-1:] and server.attempts[-1].request is not None)
            network.blackhole()
            before = open_sockets()
            dialing.cancel()
            await asyncio.wait([dialing])
            await asyncio.sleep(0.1)
            assert open_sockets() == before

    async def test_its_handshake_errors_show_the_query(self, session):
        """Why they are never chained."""
        async with FaultServer(default=Refuse(401)) as server:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"{server.url}?token=secret")
            assert "secret" in str(caught.value) + repr(caught.value)

    async def test_a_session_has_no_public_word_for_its_loop(self, session):
        assert session.connector._loop is asyncio.get_running_loop()

    async def test_verified_contexts_are_built_on_import(self):
        assert connector._SSL_CONTEXT_VERIFIED is not None
        assert connector._SSL_CONTEXT_UNVERIFIED is not None


class TestEnding:
    async def test_close_of_a_chatty_peer_does_not_keep_its_time(self, session):
        """Why a connection is ended by our own hand: the timeout counts anew for each message."""

        async def chat(peer):
            while True:
                await peer.send("blah")
                await asyncio.sleep(0.02)

        async with FaultServer(default=Accept(then=chat, answer_close=False)) as server:
            ws = await session.ws_connect(server.url, timeout=ClientWSTimeout(ws_close=0.1))
            since = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await ws.close()
            assert time.monotonic() - since >= 0.5

    async def test_the_default_close_timeout_is_gone_as_soon_as_another_is_named(self):
        assert ClientWSTimeout(ws_receive=5).ws_close is None

    async def test_a_close_written_by_hand_does_not_stop_data(self, session, server):
        """Why the link refuses data after a CLOSE by itself."""
        ws, peer = await connect(session, server)
        await ws.send_frame(b"\x03\xe8", WSMsgType.CLOSE)
        await ws.send_str("after")
        await server.until(lambda: peer.close_received)
        ws._response.connection.transport.abort()
        await peer.wait_ended()

    async def test_opcodes_are_what_the_links_take_them_for(self):
        assert [
            int(kind) for kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CLOSE, WSMsgType.PING)
        ] == [
            Opcode.TEXT,
            Opcode.BINARY,
            Opcode.CLOSE,
            Opcode.PING,
        ]
