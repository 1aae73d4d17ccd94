"""What the kernel tells about real sockets on the loopback interface."""

import asyncio
import importlib.util
import socket
import struct
import sys
import time

import pytest

from resilient_ws.transports.shared import tcp_info as kernel

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname(), timeout=5)
        peer, _ = server.accept()
    with client, peer:
        yield client, peer


def eventually(condition, seconds=5.0):
    """Wait for the kernel's other half, in real time."""
    end = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.002)
    return seen


def greet(client, peer):
    """Both have said something, as both have on a WebSocket connection."""
    client.sendall(b"hello")
    peer.sendall(b"hi")
    return eventually(lambda: kernel.read(client))


def fill(sock):
    """Write until the kernel takes no more."""
    sock.setblocking(False)
    written = 0
    try:
        while True:
            written += sock.send(b"x" * 65_536)
    except BlockingIOError:
        return written


@linux
def test_bytes_that_nobody_has_read_count_as_received(pair):
    client, peer = pair
    assert greet(client, peer).bytes_received == 2
    peer.sendall(b"x" * 100)
    assert eventually(lambda: (facts := kernel.read(client)).bytes_received == 102 and facts)
    assert client.recv(1_000) == b"hi" + b"x" * 100


@linux
def test_the_syn_counts_as_one_acknowledged_byte(pair):
    client, peer = pair
    greet(client, peer)
    assert eventually(lambda: kernel.read(client).bytes_acked == 5 + 1)
    assert eventually(lambda: kernel.read(peer).bytes_acked == 2)


@linux
def test_what_the_peers_kernel_takes_is_acknowledged_though_its_program_does_not_read(pair):
    client, peer = pair
    before = greet(client, peer)
    client.sendall(b"x" * 1_000)
    acked = before.bytes_acked + 1_000
    # Not until `queued` is 0: that is asked second, and may be newer than the count.
    after = eventually(lambda: (facts := kernel.read(client)).bytes_acked == acked and facts)
    assert after.queued == 0
    assert after.in_flight == 0


@linux
def test_bytes_for_a_peer_without_room_are_queued_and_not_in_flight(pair):
    """Its kernel lives and owes us nothing: such bytes are no evidence against it."""
    client, peer = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    begun = greet(client, peer).bytes_acked
    written = fill(client)

    def look():
        facts = kernel.read(client)  # in two system calls, between which some may be acknowledged
        return facts.in_flight == 0 and facts.bytes_acked + facts.queued == begun + written and facts

    shut = eventually(look)
    assert shut.queued > 0
    peer.setblocking(False)

    def drained():
        try:
            peer.recv(1_000_000)
        except BlockingIOError:
            time.sleep(0.001)
        return kernel.read(client).queued == 0

    eventually(drained, 20.0)
    assert kernel.read(client).bytes_acked == begun + written


@linux
def test_the_time_of_the_last_arrival(pair):
    client, peer = pair
    greet(client, peer)
    time.sleep(0.06)
    assert 0.04 <= kernel.read(client).last_data_recv < 5.0
    peer.sendall(b"x")
    eventually(lambda: kernel.read(client).last_data_recv < 0.04)


@linux
def test_a_socket_that_has_not_said_and_heard_something_tells_nothing(pair):
    client, peer = pair
    assert kernel.read(client) is None
    peer.sendall(b"hi")
    assert eventually(lambda: kernel.read(client)).bytes_received == 2


def test_no_socket_and_no_tcp_socket_and_a_closed_socket_tell_nothing():
    assert kernel.read(None) is None
    left, right = socket.socketpair()
    with left, right:
        assert kernel.read(left) is None
    assert kernel.read(left) is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert kernel.read(datagrams) is None


@linux
def test_a_socket_that_is_closed_between_the_two_questions_tells_nothing(pair):
    client, peer = pair
    greet(client, peer)

    class Closing:
        def getsockopt(self, *arguments):
            return client.getsockopt(*arguments)

        def fileno(self):
            return -1

    assert kernel.read(Closing()) is None


@linux
def test_a_connection_that_was_reset_still_tells_or_says_nothing_but_never_raises(pair):
    client, peer = pair
    greet(client, peer)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    eventually(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)
    facts = kernel.read(client)
    assert facts is None or facts.bytes_received == 2


@linux
@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
def test_the_sockets_of_the_event_loops_can_be_asked(library):
    new_loop = pytest.importorskip(library).new_event_loop

    async def ask():
        async def answer(reader, writer):
            writer.write(await reader.readexactly(5))
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        await reader.readexactly(5)
        facts = kernel.read(writer.get_extra_info("socket"))
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return facts

    with asyncio.Runner(loop_factory=new_loop) as runner:
        facts = runner.run(ask())
    assert facts is not None
    assert (facts.bytes_received, facts.queued) == (5, 0)


def test_what_is_forgotten_is_not_sent_after_the_close_but_reset(pair):
    client, peer = pair
    fill(client)
    kernel.forget_unsent(client)
    client.close()
    peer.settimeout(5)
    with pytest.raises(ConnectionResetError):
        while peer.recv(1_000_000):
            pass


def test_there_is_nothing_to_forget_where_there_is_no_socket(pair):
    client, _ = pair
    kernel.forget_unsent(None)
    client.close()
    kernel.forget_unsent(client)


# --- taking the structure apart ---


def info(size=232, *, acked=7, received=9, last=1_500, unsent=0, window=65_535):
    whole = bytearray(256)
    struct.pack_into("=I", whole, 52, last)
    struct.pack_into("=QQ", whole, 120, acked, received)
    struct.pack_into("=I", whole, 144, unsent)
    struct.pack_into("=I", whole, 228, window)
    return bytes(whole[:size])


def test_all_that_is_told():
    assert kernel.facts(info(unsent=30), 100) == kernel.SocketFacts(
        bytes_received=9, bytes_acked=7, queued=100, in_flight=70, last_data_recv=1.5
    )


@pytest.mark.parametrize("size", [0, 104, 135])
def test_a_kernel_older_than_the_counts_of_bytes_tells_nothing(size):
    assert kernel.facts(info(size), 0) is None


@pytest.mark.parametrize("size", [136, 148, 231])
def test_a_kernel_older_than_the_window_does_not_tell_what_is_in_flight(size):
    facts = kernel.facts(info(size), 100)
    assert (facts.bytes_received, facts.in_flight) == (9, None)


@pytest.mark.parametrize("change", [{"acked": 0}, {"received": 0}])
def test_a_system_that_fills_the_structure_with_zeros_tells_nothing(change):
    assert kernel.facts(info(**change), 0) is None


def test_a_closed_window_lets_nothing_be_in_flight():
    assert kernel.facts(info(window=0), 100).in_flight == 0


def test_what_was_acknowledged_between_the_two_questions_makes_nothing_negative():
    assert kernel.facts(info(unsent=30), 20).in_flight == 0


@linux
def test_another_system_is_not_asked(monkeypatch, pair):
    client, peer = pair
    greet(client, peer)
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.find_spec("resilient_ws.transports.shared.tcp_info")
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    assert not hasattr(elsewhere, "fcntl")
    assert elsewhere.read(client) is None
