import asyncio
import socket
import sys
import threading

import pytest

from resilient_ws.testing import Accept, Hangup, Hosts, Refuse, SeveralAddresses
from tests.testing.raw import RawClient

needs_loopback = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has 127.0.0.1 only")


def addresses(name: str, *args, **options) -> list[str]:
    return [info[4][0] for info in socket.getaddrinfo(name, 80, *args, type=socket.SOCK_STREAM, **options)]


def test_a_name_leads_where_it_is_told_in_order_while_it_is_open():
    real = socket.getaddrinfo
    with Hosts({"Feed.test": ["127.0.0.2", "127.0.0.1"]}) as hosts:
        assert addresses("feed.TEST.") == addresses(b"feed.test") == ["127.0.0.2", "127.0.0.1"]
        hosts["feed.test"] = ["127.0.0.3"]
        assert addresses("feed.test", flags=socket.AI_ADDRCONFIG) == ["127.0.0.3"]
        assert hosts.lookups == ["feed.test"] * 3
        assert addresses("127.0.0.9") == ["127.0.0.9"]
        assert socket.getaddrinfo(None, 80, socket.AF_INET)
    assert socket.getaddrinfo is real


def test_the_family_asked_for_counts():
    with Hosts({"both.test": ["::1", "127.0.0.1"]}):
        assert addresses("both.test", socket.AF_INET) == ["127.0.0.1"]
        assert addresses("both.test") == ["::1", "127.0.0.1"]


@pytest.mark.parametrize("leads", [[], socket.gaierror(socket.EAI_AGAIN, "try again"), TimeoutError("slow")])
def test_a_look_up_may_fail(leads):
    with Hosts({"gone.test": leads}), pytest.raises(OSError) as caught:
        addresses("gone.test")
    if leads:
        assert caught.value is leads
    else:
        assert caught.value.errno == socket.EAI_NONAME


def test_the_inner_one_counts_and_the_outer_one_comes_back():
    with Hosts({"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]}):
        with Hosts({"a.test": ["127.0.0.2"]}):
            assert (addresses("a.test"), addresses("b.test")) == (["127.0.0.2"], ["127.0.0.1"])
        assert addresses("a.test") == ["127.0.0.1"]


def test_threads_may_open_and_close_them_at_once():
    real = socket.getaddrinfo
    wrong: list[object] = []

    def work(number: int) -> None:
        name = f"n{number}.test"
        for _ in range(200):
            with Hosts({name: [f"127.0.0.{number}"]}):
                if addresses(name) != [f"127.0.0.{number}"]:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert socket.getaddrinfo is real


@needs_loopback
class TestSeveralAddresses:
    async def test_each_has_a_server_of_its_own_on_one_port(self):
        async with SeveralAddresses(Refuse(503), Hangup("fin"), None, Accept(), name="feed.test") as name:
            port = name.servers[0].port
            assert name.url == f"ws://feed.test:{port}/"
            found = await asyncio.get_running_loop().getaddrinfo("feed.test", port, type=socket.SOCK_STREAM)
            assert [info[4] for info in found] == [(f"127.0.0.{number}", port) for number in (1, 2, 3, 4)]
            async with RawClient(port, host="127.0.0.1") as client:
                await client.request()
                assert await client.response() == 503
            async with RawClient(port, host="127.0.0.2") as client:
                await client.request()
                assert await client.reader.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.3", port)
            async with RawClient(port, host="127.0.0.4") as client:
                await client.open()
            assert [server.attempt_count for server in name.servers] == [1, 1, 0, 1]

    async def test_a_sick_one_may_get_well_and_a_refusing_one_come_back(self):
        async with SeveralAddresses(Hangup("silent", "connect"), None) as name:
            sick, away = name.servers
            async with RawClient(sick.port, host="127.0.0.1") as client:
                await client.request()
                assert await client.quiet()
            sick.default = Accept()
            await away.start()
            for server in name.servers:
                async with RawClient(server.port, host=server.host) as client:
                    await client.open()

    async def test_what_a_server_raised_is_raised_at_the_end(self):
        def fail(conn):
            raise LookupError("in the test")

        with pytest.raises(LookupError):
            async with SeveralAddresses(Accept(then=fail)) as name, RawClient(name.servers[0].port) as client:
                await client.open()
                await name.servers[0].until(lambda: bool(name.servers[0].errors))

    def test_there_is_at_least_one(self):
        with pytest.raises(ValueError, match="behaviours"):
            SeveralAddresses()
