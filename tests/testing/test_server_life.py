import asyncio
import contextlib
import socket

import pytest

from resilient_ws.testing import Accept, ChaosProxy, FaultServer, NeverAnswer, numbered
from tests.testing.raw import RawClient


async def test_a_stopped_server_refuses_and_comes_back_on_its_port():
    async with FaultServer() as server:
        port = server.port
        async with RawClient(port) as client:
            await client.open()
            await server.stop("fin")
            assert await client.frame() is None
        assert not server.is_listening
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await RawClient(port).__aenter__()
        await server.start()
        assert (server.port, server.is_listening) == (port, True)
        async with RawClient(port) as client:
            await client.open()
        assert server.attempt_count == 2


async def test_a_stopped_server_can_keep_its_connections():
    async with FaultServer() as server, RawClient(server.port) as client:
        await client.open()
        await server.stop(None)
        client.text("still here")
        assert (await client.frame()).payload == b"still here"


async def test_starting_and_stopping_twice_does_nothing():
    server = FaultServer()
    await server.stop()
    await server.start()
    await server.start()
    await server.stop()
    await server.stop()
    await server.aclose()
    await server.aclose()


async def test_a_port_of_ones_own_and_one_that_is_taken():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(OSError, match="in use"):
            await FaultServer(port=sock.getsockname()[1]).start()
        free = sock.getsockname()[1]
    async with FaultServer(port=free) as server:
        assert server.url == f"ws://127.0.0.1:{free}/"
        assert repr(server) == f"<FaultServer ws://127.0.0.1:{free}/ listening, 0 accepted of 0>"


async def test_nobody_else_gets_the_port_meanwhile():
    async with FaultServer() as server:
        await server.stop()
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", server.port))


@pytest.mark.parametrize("make", [FaultServer, lambda: ChaosProxy("127.0.0.1:1")])
async def test_leaving_before_an_accepted_connection_had_its_turn(make):
    async with make() as one:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        ours.settimeout(0)
        one._accepted(ours)
    with theirs:
        assert theirs.recv(1) == b""
    assert ours.fileno() == -1


@pytest.mark.parametrize("turns", range(6))
async def test_leaving_with_a_connection_that_was_just_accepted(turns):
    async with FaultServer() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(turns):
            await asyncio.sleep(0)
    writer.transport.abort()


def test_a_loop_that_cannot_watch_sockets_accepts_too():
    class Blind(asyncio.SelectorEventLoop):
        def add_reader(self, *_):
            raise NotImplementedError

    async def main():
        async with FaultServer() as server:
            async with RawClient(server.port) as client:
                await client.open()
            await server.stop()
            await server.start()
            async with RawClient(server.port) as client:
                await client.open()

    with asyncio.Runner(loop_factory=Blind) as runner:
        runner.run(main())


async def test_ipv6():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    async with FaultServer(host="::1") as server, RawClient(server.port, host="::1") as client:
        assert server.url == f"ws://[::1]:{server.port}/"
        await client.open()


@pytest.mark.parametrize("drop", ["fin", "rst", "silent"])
async def test_everything_is_dropped_handshakes_included(drop):
    async with (
        FaultServer([NeverAnswer(), Accept()]) as server,
        RawClient(server.port) as waiting,
        RawClient(server.port) as client,
    ):
        await waiting.request()
        await server.until(lambda: server.attempts and server.attempts[0].outcome == "never answered")
        await client.open()
        assert server.drop_all(drop) == 2
        for one in (waiting, client):
            if drop == "fin":
                assert await one.frame() is None
            elif drop == "rst":
                with pytest.raises(ConnectionResetError):
                    await one.frame()
            else:
                one.text("anyone?")
                assert await one.quiet()


async def test_connections_are_handed_out_once_in_order_and_stay_listed():
    async with FaultServer() as server:
        async with RawClient(server.port) as client:
            await client.open()
        async with RawClient(server.port) as client:
            await client.open()
            first, second = await server.connection(), await server.connection()
            assert [first.number, second.number] == [1, 2]
            assert server.connections == [first, second]
            await first.wait_ended()
            assert server.open_connections == [second]
            with pytest.raises(
                TimeoutError, match=r"not within 0.01 s; .* last attempts: \['accepted', 'accepted'\]"
            ):
                await server.connection(0.01)


async def test_a_report_spans_connections():
    async with FaultServer() as server:
        for numbers in ([0, 1, 2], [2, 4]):
            async with RawClient(server.port) as client:
                await client.open()
                for number in numbers:
                    client.text(numbered(number, 10))
                    await client.frame()
        report = server.report(5)
        assert (report.lost, report.duplicated, report.total) == ((3,), (2,), 5)
        assert [number for number, _ in server.received] == [1, 1, 1, 2, 2]


async def test_records_are_bounded_and_the_report_still_knows_all():
    async with FaultServer(keep=3, keep_bytes=8) as server, RawClient(server.port) as client:
        await client.open()
        for number in range(10):
            client.text(str(number))
            await client.frame()
        assert [message for _, message in server.received] == ["7", "8", "9"]
        client.text("10 .....")
        await client.frame()
        assert [message for _, message in server.received] == ["10 ....."]
        client.text("11 ...... too long alone")
        await client.frame()
        assert len(server.received) == 1
        assert server.received_count == 12
        assert server.report(12).ok


async def test_without_numbers_there_is_no_report_and_nothing_grows():
    async with FaultServer(number=None, keep=1) as server, RawClient(server.port) as client:
        await client.open()
        for number in range(3):
            client.text(str(number))
            await client.frame()
        assert (server.received_count, server.received) == (3, [(1, "2")])
        with pytest.raises(RuntimeError, match="this server was made with number=None"):
            server.report(3)


async def test_no_more_connections_are_remembered_than_asked_for():
    async with FaultServer(keep=2) as server:
        for _ in range(3):
            async with RawClient(server.port) as client:
                await client.open()
        assert [connection.number for connection in server.connections] == [2, 3]
        assert (await server.connection()).number == 2
        assert server.attempt_count == 3
        assert len(server.attempts) == 2


async def test_a_thousand_connections_leave_nothing():
    async with FaultServer(default=Accept(then=lambda c: c.drop(["fin", "rst"][c.number % 2]))) as server:
        for _ in range(20):
            clients = [RawClient(server.port) for _ in range(50)]
            for client in clients:
                await client.__aenter__()
                await client.request()
            for client in clients:
                with contextlib.suppress(ConnectionResetError):
                    await client.reader.read()
                await client.__aexit__(None, None, None)
        await server.until(lambda: not server.visits)
        assert server.attempt_count == 1000
        assert not [
            task
            for task in asyncio.all_tasks()
            if "FaultServer" in task.get_name() and "accept" not in task.get_name()
        ]
