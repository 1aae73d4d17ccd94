"""The network that can be broken, seen by plain sockets: what the other fault tests stand on."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.faults.netns import Network, ip, namespaces, require_namespaces
from tests.integration.servers import Server

pytestmark = pytest.mark.netns
SILENCE = 0.3
# TCP sends again after 0.2 s, 0.4 s, 0.8 s ...: what was held up for SILENCE arrives well within this.
PATIENCE = 10


def echo_command(listen: str, port: int) -> Sequence[str]:
    return [
        sys.executable,
        str(Path(__file__).parent / "run_tcp_echo.py"),
        "--host",
        listen,
        "--port",
        str(port),
    ]


@pytest.fixture
def echo(network: Network) -> Server:
    return network.start_command("tcp-echo", echo_command)


class Line:
    """A TCP connection that knows whether what it sends comes back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def comes_back(self, text: bytes, within: float = PATIENCE) -> bool:
        self.writer.write(text)
        return await self.arrives(text, within)

    async def arrives(self, text: bytes, within: float = PATIENCE) -> bool:
        try:
            async with asyncio.timeout(within):
                return await self.reader.readexactly(len(text)) == text
        except TimeoutError:
            return False


@asynccontextmanager
async def dial(server: Server) -> AsyncIterator[Line]:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


async def test_echoes(network, echo):
    async with dial(echo) as line:
        assert line.writer.get_extra_info("peername") == (network.server_address, echo.port)
        assert line.writer.get_extra_info("sockname")[0] == network.client_address
        assert await line.comes_back(b"hello")


@pytest.mark.parametrize("direction", ["to_server", "to_client", "both"])
async def test_dropped_packets_are_silence_and_come_later(network, echo, direction):
    async with dial(echo) as line:
        assert await line.comes_back(b"before")
        network.drop(direction)
        assert not await line.comes_back(b"lost", within=SILENCE)
        network.undrop(direction)
        assert await line.arrives(b"lost")


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_data_may_vanish_where_tcp_itself_goes_on(network, echo, direction):
    network.drop_data(direction)
    async with dial(echo) as line:
        assert not await line.comes_back(b"lost", within=SILENCE)
        network.undrop(direction)
        assert await line.arrives(b"lost")


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_slow_line_takes_its_time(network, echo, direction):
    network.limit_rate(100_000, direction)
    async with dial(echo) as line:
        assert not await line.comes_back(b"x" * 60_000, within=SILENCE)
        assert await line.arrives(b"x" * 60_000)


async def test_one_direction_may_be_restored_alone(network, echo):
    async with dial(echo) as line:
        network.drop("both")
        network.undrop("to_server")
        assert not await line.comes_back(b"lost", within=SILENCE)
        network.undrop("to_client")
        assert await line.arrives(b"lost")


async def test_a_dropped_dial_is_never_answered(network, echo):
    network.drop("to_server")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE):
            await asyncio.open_connection(echo.host, echo.port)


async def test_a_rejected_connection_is_reset_with_its_next_packet(network, echo):
    async with dial(echo) as line:
        assert await line.comes_back(b"before")
        network.reject_with_rst()
        line.writer.write(b"after")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(line.reader.read(1), PATIENCE)
    with pytest.raises(ConnectionRefusedError):
        async with dial(echo):
            pass
    network.undrop()
    async with dial(echo) as line:
        assert await line.comes_back(b"again")


async def test_a_cable_unplugged_at_the_server_is_silence(network, echo):
    async with dial(echo) as line:
        assert await line.comes_back(b"before")
        network.link_down("server")
        assert not await line.comes_back(b"lost", within=SILENCE)
        network.link_up("server")
        assert await line.arrives(b"lost")


async def test_a_cable_unplugged_at_the_client_is_known_to_its_kernel(network, echo):
    async with dial(echo) as line:
        assert await line.comes_back(b"before")
        network.link_down("client")
        with pytest.raises(OSError, match=r"unreachable|No route"):
            async with dial(echo):
                pass
        assert not await line.comes_back(b"lost", within=SILENCE)
        network.link_up("client")
        assert await line.arrives(b"lost")


async def test_nothing_for_the_namespace_leaves_by_another_way(network, echo):
    for break_it in (lambda: network.link_down("client"), lambda: ip("link", "del", network.client_link)):
        break_it()
        with pytest.raises(Exception, match=r"unreachable|No route"):
            ip("route", "get", network.server_address)


async def test_a_changed_client_address_mutes_old_connections_only(network, echo):
    async with dial(echo) as line:
        assert await line.comes_back(b"before")
        old = network.client_address
        network.change_client_address()
        assert network.client_address != old
        assert not await line.comes_back(b"lost", within=SILENCE)
        async with dial(echo) as fresh:
            assert fresh.writer.get_extra_info("sockname")[0] == network.client_address
            assert await fresh.comes_back(b"hello")


async def test_a_changed_server_address_mutes_old_connections_only(network, echo):
    async with dial(echo) as line:
        assert await line.comes_back(b"before")
        network.change_server_address()
        assert not await line.comes_back(b"lost", within=SILENCE)
        async with dial(echo) as fresh:
            assert fresh.writer.get_extra_info("peername")[0] == network.server_address == echo.host
            assert await fresh.comes_back(b"hello")


async def test_heal_undoes_all_faults_at_once(network, echo):
    network.drop()
    network.reject_with_rst()
    network.link_down("server")
    network.link_down("client")
    network.heal()
    async with dial(echo) as line:
        assert await line.comes_back(b"hello")


async def test_a_killed_server_hangs_up_and_comes_back(network, echo):
    async with dial(echo) as line:
        assert await line.comes_back(b"before")
        echo.kill()
        assert await asyncio.wait_for(line.reader.read(1), PATIENCE) == b""
    await echo.async_start()
    async with dial(echo) as line:
        assert await line.comes_back(b"after")


@pytest.mark.parametrize("kind", ["websockets", "aiohttp"])
async def test_the_servers_of_the_little_protocol_run_inside(network, kind):
    server = network.start_server(kind)
    async with aiohttp.ClientSession() as session, session.ws_connect(server.url) as ws:
        await ws.send_str("!headers host")
        assert await ws.receive_str(timeout=5) == f"{network.server_address}:{server.port}"


async def test_two_networks_do_not_meet(network, echo):
    with Network() as other:
        assert other.server_address != network.server_address
        other_echo = other.start_command("tcp-echo", echo_command)
        network.drop()
        async with dial(other_echo) as line:
            assert await line.comes_back(b"hello")


def traces_of(network: Network) -> list[str]:
    shown = ip("netns", "list") + ip("link", "show") + ip("route", "show")
    subnet = network.server_address.rpartition(".")[0]
    return [trace for trace in (network.namespace, network.client_link, f"{subnet}.") if trace in shown]


def test_nothing_is_left_behind_also_after_a_failure(namespaces_available):
    with pytest.raises(ZeroDivisionError), Network() as network:
        echo = network.start_command("tcp-echo", echo_command)
        pid = echo.pid
        assert len(traces_of(network)) == 3
        raise ZeroDivisionError
    assert traces_of(network) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_does_not_start_leaves_nothing_behind(namespaces_available):
    with pytest.raises(RuntimeError, match="ended at once"), Network() as network:
        network.start_command("broken", lambda listen, port: ["false"])
    assert traces_of(network) == []


def test_what_a_killed_run_left_is_removed_by_the_next(namespaces_available):
    script = """
import os, signal
from tests.faults.netns import Network
with Network() as network:
    print(network.namespace, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    left = killed.stdout.strip()
    assert left in namespaces()
    with Network() as network:
        assert left not in namespaces()
        assert network.namespace in namespaces()


def test_who_is_not_root_is_told_so(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="need root"):
        require_namespaces()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="need root"):
        require_namespaces()
