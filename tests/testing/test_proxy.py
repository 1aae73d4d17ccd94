import asyncio
import contextlib

import pytest
import websockets

from resilient_ws.testing import ChaosProxy, FaultServer


class Peer:
    """A plain TCP server that keeps its side of each connection."""

    def __init__(self) -> None:
        self.pairs: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.accepted, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def accepted(self, reader, writer):
        self.writers.append(writer)
        await self.pairs.put((reader, writer))


@pytest.fixture
async def peer():
    async with Peer() as peer:
        yield peer


@contextlib.asynccontextmanager
async def through(proxy, peer):
    """A client's and the server's end of one connection through the proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        theirs = await asyncio.wait_for(peer.pairs.get(), 2)
        yield (reader, writer), theirs
    finally:
        writer.transport.abort()


async def quiet(reader, seconds=0.05):
    try:
        await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return True
    return False


async def test_left_alone_it_passes_everything_both_ways(peer):
    lines = []
    async with ChaosProxy(("127.0.0.1", peer.port), log=lines.append) as proxy:
        async with through(proxy, peer) as (client, server):
            for (_, writer), (reader, _) in ((client, server), (server, client)):
                writer.write(bytes(3_000_000))
                assert await reader.readexactly(3_000_000) == bytes(3_000_000)
            (connection,) = proxy.open_connections
            assert (connection.bytes_up, connection.bytes_down) == (3_000_000, 3_000_000)
            assert repr(connection) == "<ProxiedConnection 1 open, 3000000 B up, 3000000 B down>"
            client[1].write_eof()
            assert await server[0].read() == b""
            server[1].write(b"still")
            assert await client[0].readexactly(5) == b"still"
            server[1].write_eof()
            assert await client[0].read() == b""
            await connection.wait_closed()
        assert proxy.open_connections == []
        assert proxy.connections == [connection]
    assert lines == ["connection 1: accepted", "connection 1: closed, 3000000 B up, 3000005 B down"]


async def test_websocket_through_the_proxy_by_url():
    async with FaultServer() as server, ChaosProxy(server.url) as proxy:
        assert proxy.url == f"ws://127.0.0.1:{proxy.port}/"
        async with websockets.connect(proxy.url) as client:
            await client.send("hello")
            assert await client.recv() == "hello"


@pytest.mark.parametrize(
    "target,url",
    [
        ("ws://example.org/a?b=1", "ws://127.0.0.1:0/a?b=1"),
        ("wss://example.org:444", "wss://127.0.0.1:0"),
        ("example.org:80", "ws://127.0.0.1:0/"),
        (("example.org", 80), "ws://127.0.0.1:0/"),
    ],
)
def test_the_url_of_the_proxy_is_that_of_the_target_at_another_address(target, url):
    assert ChaosProxy(target).url == url


@pytest.mark.parametrize(
    "make,complaint",
    [
        (lambda: ChaosProxy("nowhere"), "an address is host:port"),
        (lambda: ChaosProxy("ws:///x"), "target must be a URL with a host"),
        (lambda: ChaosProxy("a:1", latency=-1), "latency must be at least 0, not -1"),
        (lambda: ChaosProxy("a:1", jitter=-1), "jitter must be at least 0, not -1"),
        (lambda: ChaosProxy("a:1", bandwidth=0), "bandwidth must be at least 1, not 0"),
        (lambda: ChaosProxy("a:1", accept_delay=-1), "accept_delay must be at least 0, not -1"),
        (lambda: ChaosProxy("a:1", cut_after=-1), "cut_after must be at least 0, not -1"),
        (lambda: ChaosProxy("a:1", cut_after=(5, 4)), "the end of cut_after must be at least 5, not 4"),
        (lambda: ChaosProxy("a:1", blackhole="left"), "direction must be 'up', 'down' or 'both', not 'left'"),
    ],
)
def test_what_is_out_of_range_is_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


async def test_latency_delays_and_keeps_the_order_under_jitter(peer):
    async with ChaosProxy(("127.0.0.1", peer.port), latency=0.05, jitter=0.02, seed=1) as proxy:
        assert (proxy.latency, proxy.jitter) == (0.05, 0.02)
        loop = asyncio.get_running_loop()
        async with through(proxy, peer) as ((_, writer), (reader, _)):
            started = loop.time()
            for number in range(50):
                writer.write(bytes([number]))
                await asyncio.sleep(0)
            assert await reader.readexactly(50) == bytes(range(50))
            assert 0.05 <= loop.time() - started < 0.5


async def test_conditions_can_be_changed_for_one_direction_while_it_runs(peer):
    async with ChaosProxy(("127.0.0.1", peer.port)) as proxy:
        loop = asyncio.get_running_loop()
        async with through(proxy, peer) as (client, server):
            proxy.down.latency = 0.1
            assert repr(proxy.down) == "<Conditions 0.1 s + 0 s>"
            started = loop.time()
            client[1].write(b"x")
            await server[0].readexactly(1)
            assert loop.time() - started < 0.09
            started = loop.time()
            server[1].write(b"x")
            await client[0].readexactly(1)
            assert loop.time() - started >= 0.099
            proxy.restore("latency")
            assert proxy.latency == 0


async def test_bandwidth_is_kept(peer):
    async with ChaosProxy(("127.0.0.1", peer.port), bandwidth=1_000_000) as proxy:
        assert proxy.bandwidth == 1_000_000
        loop = asyncio.get_running_loop()
        async with through(proxy, peer) as ((_, writer), (reader, _)):
            started = loop.time()
            writer.write(bytes(200_000))
            await reader.readexactly(200_000)
            assert 0.19 <= loop.time() - started < 1


async def test_a_black_hole_keeps_what_it_gets_and_passes_it_when_healed(peer):
    async with (
        ChaosProxy(("127.0.0.1", peer.port)) as proxy,
        through(proxy, peer) as (client, server),
    ):
        proxy.blackhole("up")
        assert "black hole" in repr(proxy.up)
        client[1].write(b"lost?")
        server[1].write(b"heard")
        assert await client[0].readexactly(5) == b"heard"
        assert await quiet(server[0])
        proxy.heal()
        assert await server[0].readexactly(5) == b"lost?"


async def test_no_end_passes_a_black_hole_and_the_sender_comes_to_a_halt(peer):
    async with (
        ChaosProxy(("127.0.0.1", peer.port), blackhole="both") as proxy,
        through(proxy, peer) as (client, server),
    ):
        client[1].write(bytes(20_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client[1].drain(), 0.1)
        server[1].write_eof()
        assert await quiet(client[0])


async def test_a_sink_that_does_not_read_stops_the_source_with_bounded_memory(peer):
    async with (
        ChaosProxy(("127.0.0.1", peer.port)) as proxy,
        through(proxy, peer) as (client, server),
    ):
        server[1].transport.pause_reading()
        client[1].write(bytes(40_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client[1].drain(), 0.2)
        assert 500_000 < proxy.connections[0].bytes_waiting < 2_000_000
        server[1].transport.resume_reading()
        assert len(await server[0].readexactly(40_000_000)) == 40_000_000


@pytest.mark.parametrize("drop", ["rst", "fin", "silent"])
async def test_every_connection_can_be_lost(peer, drop):
    async with (
        ChaosProxy(("127.0.0.1", peer.port)) as proxy,
        through(proxy, peer) as (client, server),
    ):
        client[1].write(b"x")
        await server[0].readexactly(1)
        assert proxy.drop_all(drop) == 1
        for reader in client[0], server[0]:
            if drop == "rst":
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            elif drop == "fin":
                assert await reader.read() == b""
            else:
                client[1].write(b"x")
                assert await quiet(reader)


async def test_a_reset_by_one_end_reaches_the_other(peer):
    async with (
        ChaosProxy(("127.0.0.1", peer.port)) as proxy,
        through(proxy, peer) as (client, server),
    ):
        client[1].get_extra_info("socket").setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")
        client[1].transport.abort()
        with pytest.raises(ConnectionResetError):
            await server[0].read()


async def test_half_close_ends_one_direction(peer):
    async with (
        ChaosProxy(("127.0.0.1", peer.port)) as proxy,
        through(proxy, peer) as (client, server),
    ):
        server[1].write(b"last")
        assert await client[0].readexactly(4) == b"last"
        assert proxy.half_close_all("down") == 1
        assert await client[0].read() == b""
        server[1].write(b"into the void")
        client[1].write(b"up still works")
        assert await server[0].readexactly(14) == b"up still works"


@pytest.mark.parametrize("cut", ["rst", "fin", "silent"])
async def test_a_connection_is_cut_after_so_many_bytes(peer, cut):
    async with ChaosProxy(("127.0.0.1", peer.port), cut_after=1000, cut=cut) as proxy:
        assert proxy.cut_after == 1000
        async with through(proxy, peer) as ((_, writer), (reader, _)):
            writer.write(bytes(600))
            await reader.readexactly(600)
            writer.write(bytes(600))
            if cut == "rst":
                with contextlib.suppress(ConnectionResetError):
                    assert len(await reader.read()) <= 400
            else:
                assert len(await reader.readexactly(400)) == 400
                if cut == "fin":
                    assert await reader.read() == b""
                else:
                    assert await quiet(reader)
            assert proxy.connections[0].bytes_up == 1000


async def test_where_connections_are_cut_is_the_same_for_the_same_seed(peer):
    async def cuts(seed):
        async with ChaosProxy(("127.0.0.1", peer.port), cut_after=(0, 10**6), seed=seed) as proxy:
            for _ in range(5):
                async with through(proxy, peer):
                    pass
            return [connection.cut_after for connection in proxy.connections]

    first = await cuts(7)
    assert await cuts(7) == first
    assert await cuts(8) != first
    assert len(set(first)) == 5
    assert ChaosProxy("a:1").seed != ChaosProxy("a:1").seed


async def test_refusing_and_coming_back_on_the_same_port(peer):
    async with ChaosProxy(("127.0.0.1", peer.port)) as proxy:
        port = proxy.port
        async with through(proxy, peer) as ((_, writer), (reader, _)):
            await proxy.refuse()
            await proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"goes on")
            await reader.readexactly(7)
        proxy.start()
        proxy.start()
        assert proxy.port == port
        async with through(proxy, peer):
            pass


async def test_a_slow_accept_holds_everything_back(peer):
    async with ChaosProxy(("127.0.0.1", peer.port), accept_delay=0.1) as proxy:
        loop = asyncio.get_running_loop()
        started = loop.time()
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert loop.time() - started < 0.09
        writer.write(b"early")
        theirs, _ = await peer.pairs.get()
        assert loop.time() - started >= 0.099
        assert await theirs.readexactly(5) == b"early"
        writer.transport.abort()


async def test_a_target_that_refuses_resets_the_client(peer):
    lines = []
    peer.server.close()
    async with ChaosProxy(("127.0.0.1", peer.port), log=lines.append) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await proxy.connections[0].wait_closed()
        writer.close()
        assert lines[1:] == [
            "connection 1: the target was not reached (ConnectionRefusedError)",
            "connection 1: closed, 0 B up, 0 B down",
        ]
        assert (
            repr(proxy)
            == f"<ChaosProxy 127.0.0.1:{proxy.port} to 127.0.0.1:{peer.port}, 0 open, seed {proxy.seed}>"
        )


async def test_leaving_with_a_connection_that_was_just_accepted(peer):
    for turns in range(6):
        async with ChaosProxy(("127.0.0.1", peer.port), accept_delay=1) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            for _ in range(turns):
                await asyncio.sleep(0)
        writer.transport.abort()


async def test_what_can_be_done_before_the_target_is_dialed(peer):
    async with ChaosProxy(("127.0.0.1", peer.port), accept_delay=30) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        while not proxy.connections:
            await asyncio.sleep(0.01)
        assert (proxy.host, proxy.authority) == ("127.0.0.1", f"127.0.0.1:{proxy.port}")
        (connection,) = proxy.connections
        connection.half_close()
        connection.go_silent()
        assert (connection.bytes_up, connection.bytes_down) == (0, 0)
        connection.rst()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_connection_that_is_lost_before_the_target_is_dialed_leaves_nothing(peer):
    async with ChaosProxy(("127.0.0.1", peer.port), accept_delay=0.05) as proxy:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        while not proxy.connections:
            await asyncio.sleep(0.01)
        proxy.drop_all("rst")
        reader, theirs = await asyncio.wait_for(peer.pairs.get(), 2)
        assert await reader.read() == b""
        await proxy.connections[0].wait_closed()
        assert proxy.open_connections == []
        theirs.close()
        writer.transport.abort()


async def test_waiting_for_a_close_that_does_not_come(peer):
    async with ChaosProxy(("127.0.0.1", peer.port)) as proxy, through(proxy, peer):
        with pytest.raises(TimeoutError):
            await proxy.connections[0].wait_closed(0.01)
