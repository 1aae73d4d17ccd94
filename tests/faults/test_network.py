"""The client in networks that lose its packets: dead peers are noticed in time (P2), live ones never given up (P3)."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from resilient_ws import (
    CloseEvent,
    CloseOrigin,
    ConnectionLost,
    Gap,
    Heartbeat,
    Inbox,
    OpenEvent,
    OpenTimeout,
    Outbox,
    OutboxFull,
    SetupTimeout,
    State,
    WebSocketClient,
)
from tests.conftest import open_sockets
from tests.faults.netns import Network
from tests.faults.watch import (
    HEARTBEAT,
    INTERVAL,
    PATIENCE,
    PONG_TIMEOUT,
    QUICK,
    TICK,
    TIMEOUT,
    TOLERANCE,
    TRANSPORTS,
    Told,
    Watch,
    ended,
    eventually,
    watching,
)

OPEN_TIMEOUT = 0.5

aside = asyncio.to_thread
"""Faults happen beside the loop, which therefore has no excuse."""

BLOCKED = 80
"""Messages of 100 kB that are more than the buffers on the way hold, wherever they are."""

SILENCES: dict[str, Callable[[Network], None]] = {
    "both-directions": lambda network: network.drop("both"),
    "to-server": lambda network: network.drop("to_server"),
    "to-client": lambda network: network.drop("to_client"),
    "cable-at-server": lambda network: network.link_down("server"),
    "cable-at-client": lambda network: network.link_down("client"),
}


def client_of(url, **options) -> WebSocketClient:
    given = {"heartbeat": HEARTBEAT, "reconnect": QUICK, "open_timeout": OPEN_TIMEOUT} | options
    return WebSocketClient(url, **given)


def assert_silence(watch: Watch, told: Told) -> CloseEvent:
    """It is a synthesized close for a silence that was as long as promised, and no shorter than a peer is owed."""
    event: CloseEvent = told.event
    assert (event.code, event.reason, event.was_clean, event.synthesized) == (1006, "", False, True)
    assert event.origin is CloseOrigin.HEARTBEAT
    assert isinstance(event.cause, ConnectionLost)
    assert event.will_retry
    silent = told.at - watch.heard_at
    watch.record("noticed after", silent)
    seen_late = TICK + watch.stalled(watch.heard_at - TIMEOUT)
    assert TIMEOUT - seen_late <= silent <= watch.bound(INTERVAL + TIMEOUT, watch.heard_at)
    assert event.silent_for == pytest.approx(silent, abs=watch.bound(0, watch.heard_at))
    return event


async def echoes(watch: Watch, text: str = "echo") -> bool:
    """Whether what the program sends comes back, after whatever came before it."""
    await watch.client.send(text)
    async with asyncio.timeout(PATIENCE):
        while await watch.recv() != text:
            pass
    return True


# ---- silence


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("fault", SILENCES)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_silence_while_idle(network, peer, fault, transport):
    async with watching(client_of(peer.url, transport=transport)) as watch:
        await watch.pong()
        await aside(SILENCES[fault], network)
        assert_silence(watch, await watch.closed())
        await aside(network.heal)
        await watch.opened(2)
        assert await echoes(watch)


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("fault", ["both-directions", "cable-at-server"])
async def test_silence_while_idle_over_tls(network, tls_url, trusting, fault):
    before = open_sockets()
    held: list[set[str]] = []

    async def where(attempt):
        held.append(open_sockets() - before)
        return tls_url

    async with watching(client_of(where, ssl=trusting)) as watch:
        await watch.pong()
        await aside(SILENCES[fault], network)
        assert_silence(watch, await watch.closed())
        await watch.until(lambda: len(held) > 1)
        assert held[1] == set(), "the dead socket is gone before the next dial"
        await aside(network.heal)
        await watch.opened(2)
        assert await echoes(watch)


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("move", ["client", "server"])
async def test_a_changed_address_is_silence_and_the_next_dial_works(network, peer, move):
    async def where(attempt):
        return peer.url

    async with watching(client_of(where)) as watch:
        await watch.pong()
        await aside(network.change_client_address if move == "client" else network.change_server_address)
        closed = await watch.closed()
        assert_silence(watch, closed)
        opened = await watch.opened(2)
        watch.record("open again after", opened.at - closed.at)
        assert opened.at - closed.at <= watch.bound(0.2, closed.at), "no waiting for the dead socket"
        assert await echoes(watch)


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("fault", ["both-directions", "to-server", "to-client", "cable-at-client"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_silence_while_sending(network, peer, fault, transport):
    accepted = 0

    async def send(watch: Watch) -> None:
        nonlocal accepted
        while True:
            await watch.client.send(f"{accepted} ".ljust(500, "."))
            accepted += 1
            await asyncio.sleep(0.005)

    outbox = Outbox(max_messages=10_000, on_uncertain="resend")
    client = client_of(peer.url, outbox=outbox, transport=transport)
    async with watching(client) as watch:
        sending = asyncio.create_task(send(watch))
        # It takes all along: what was taken late would be heard late.
        taking = asyncio.create_task(watch.take_until_closed())
        await watch.pong()
        await aside(SILENCES[fault], network)
        assert_silence(watch, await taking)
        before = accepted
        await aside(network.heal)
        await watch.opened(2)
        assert accepted > before, "sending went on without a connection"
        await ended(sending)
        await client.flush(PATIENCE)
        assert client.stats.uncertain == 0
        assert client.stats.confirmed == accepted


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("overflow", ["raise", "wait"])
async def test_no_send_stays_blocked_on_a_dead_connection(request, network, trusting, overflow, secure):
    url = request.getfixturevalue("tls_url") if secure else request.getfixturevalue("peer").url
    ended_at: list[float] = []
    raised: list[Exception] = []

    async def send(watch: Watch) -> None:
        for _ in range(BLOCKED):
            try:
                await watch.client.send(b"x" * 100_000)
            except OutboxFull as error:
                raised.append(error)
                break
            finally:
                ended_at.append(time.monotonic())

    outbox = Outbox(max_messages=5, max_bytes=16 << 20, overflow=overflow)
    async with watching(client_of(url, outbox=outbox, ssl=trusting)) as watch:
        await watch.pong()
        await aside(network.drop)
        sending = asyncio.create_task(send(watch))
        closed = await watch.closed()
        assert_silence(watch, closed)
        assert closed.at - ended_at[-1] > TIMEOUT / 2 or ended_at[-1] >= closed.at - TOLERANCE
        blocked = len(ended_at)
        assert blocked < BLOCKED, "the sends were blocked"
        if overflow == "raise":
            await asyncio.wait_for(sending, PATIENCE)
            assert len(raised) == 1
            watch.record("woken after", ended_at[-1] - closed.at)
            assert abs(ended_at[-1] - closed.at) <= watch.bound(0, closed.at - TOLERANCE)
        else:
            assert not sending.done()
            await aside(network.undrop)
            await watch.opened(2)
            await asyncio.wait_for(sending, 30)
            assert len(ended_at) == BLOCKED


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("fault", ["both-directions", "to-client", "cable-at-server"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_silence_while_receiving_a_stream(network, peer, fault, transport):
    client = client_of(peer.url, transport=transport)
    client.subscribe("stream", "!stream 0.005 200")
    got: list[int | Gap] = []

    async def take(watch: Watch) -> None:
        async for item in client.with_gaps():
            got.append(item if isinstance(item, Gap) else int(item.split()[0]))
            watch.heard_at = time.monotonic()

    async with watching(client) as watch:
        taking = asyncio.create_task(take(watch))
        await watch.pong()
        await aside(SILENCES[fault], network)
        assert_silence(watch, await watch.closed())
        await aside(network.heal)
        await watch.opened(2)
        await watch.pong()
        async with asyncio.timeout(10):
            while not any(isinstance(item, Gap) for item in got[:-10]):
                await asyncio.sleep(0.01)
        await ended(taking)
    gap = next(index for index, item in enumerate(got) if isinstance(item, Gap))
    first, second = got[:gap], got[gap + 1 :]
    assert first == list(range(len(first)))
    assert second == list(range(len(second)))


# ---- one direction


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_peer_that_talks_and_hears_nothing_is_dead_too(request, network, trusting, secure, transport):
    url = request.getfixturevalue("tls_url") if secure else request.getfixturevalue("peer").url
    async with watching(client_of(url, ssl=trusting, transport=transport)) as watch:
        await watch.client.send("!stream 0.01 100")
        await watch.recv()
        await watch.pong()
        await aside(network.drop_data, "to_server")
        eaten_from = time.monotonic()
        closed = await watch.take_until_closed()
        event = closed.event
        assert (event.code, event.synthesized, event.origin) == (1006, True, CloseOrigin.HEARTBEAT)
        assert "though messages arrive" in str(event.cause)
        assert event.silent_for < TIMEOUT, "it talked to the end"
        watch.record("noticed after", closed.at - eaten_from)
        assert PONG_TIMEOUT <= closed.at - eaten_from <= watch.bound(INTERVAL + PONG_TIMEOUT, eaten_from)
        await aside(network.undrop)
        await watch.opened(2)
        assert await echoes(watch)


# ---- resets


@pytest.mark.promise("P2")
@pytest.mark.parametrize("talking", [False, True], ids=["idle", "sending"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_firewall_that_forgot_us_is_met_with_the_next_packet(network, peer, talking, transport):
    async with watching(client_of(peer.url, transport=transport)) as watch:
        await watch.pong()
        await aside(network.reject_with_rst)
        since = time.monotonic()
        if talking:
            await watch.client.send("meets it")
        closed = await watch.closed()
        event = closed.event
        assert (event.code, event.synthesized, event.was_clean) == (1006, True, False)
        assert event.origin is CloseOrigin.NETWORK
        watch.record("noticed after", closed.at - since)
        assert closed.at - since <= watch.bound(0 if talking else INTERVAL, since)
        refused = await watch.retried(3)
        assert "could not be reached" in str(refused.event.cause)
        await aside(network.undrop)
        await watch.opened(2)
        assert await echoes(watch)


# ---- before a connection is open


@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    "fault",
    [
        lambda network: network.drop("to_server"),
        lambda network: network.drop("to_client"),
        lambda network: network.drop_data("to_server"),
        lambda network: network.drop_data("to_client"),
    ],
    ids=["SYN-dropped", "SYN-ACK-dropped", "request-dropped", "answer-dropped"],
)
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_handshake_that_nobody_answers(request, network, trusting, fault, secure, transport):
    url = request.getfixturevalue("tls_url") if secure else request.getfixturevalue("peer").url
    client = client_of(url, ssl=trusting, transport=transport)  # which loads the transport
    fault(network)
    since = time.monotonic()
    async with watching(client, ready=False) as watch:
        for number in (1, 2):
            retried = await watch.retried(number)
            assert isinstance(retried.event.cause, OpenTimeout)
            watch.record("given up after", retried.at - since)
            assert retried.at - since <= watch.bound(OPEN_TIMEOUT, since)
            assert number == 2 or retried.at - since >= OPEN_TIMEOUT - TICK
            since = retried.at + retried.event.delay
        await aside(network.undrop)
        await watch.opened()
        assert watch.of(CloseEvent) == []
        assert await echoes(watch)


@pytest.mark.promise("P10")
async def test_a_network_that_is_away_makes_no_storm(network, peer):
    network.link_down("client")
    async with watching(client_of(peer.url), ready=False) as watch:
        retried = await watch.retried(5)
        assert "could not be reached" in str(retried.event.cause)
        delays = [told.event.delay for told in watch.of(type(retried.event))]
        assert all(delay >= QUICK.min_delay for delay in delays[1:])
        await aside(network.link_up, "client")
        await watch.opened()
        assert await echoes(watch)


@pytest.mark.slow
@pytest.mark.promise("P2")
async def test_silence_during_the_setup(network, peer):
    async def set_up(connection):
        if connection.first and not watch.of(OpenEvent) and not dropped:
            await aside(network.drop)
            dropped.append(time.monotonic())
        await connection.send("hello")
        assert await connection.recv() == "hello"

    dropped: list[float] = []
    async with watching(client_of(peer.url, setup=set_up), ready=False) as watch:
        retried = await watch.retried()
        assert isinstance(retried.event.cause.__cause__, ConnectionLost)
        watch.record("noticed after", retried.at - dropped[0])
        assert retried.at - dropped[0] <= watch.bound(INTERVAL + TIMEOUT, dropped[0])
        await aside(network.undrop)
        await watch.opened()
        assert watch.of(CloseEvent) == []


@pytest.mark.promise("P2")
async def test_silence_during_the_setup_is_bounded_by_its_own_timeout_too(network, peer):
    async def set_up(connection):
        if not dropped:
            await aside(network.drop)
            dropped.append(time.monotonic())
        await connection.send("hello")
        await connection.recv()

    dropped: list[float] = []
    async with watching(client_of(peer.url, setup=set_up, setup_timeout=0.3), ready=False) as watch:
        retried = await watch.retried()
        assert isinstance(retried.event.cause, SetupTimeout)
        assert retried.at - dropped[0] <= watch.bound(0.3, dropped[0])
        await aside(network.undrop)
        await watch.opened()


# ---- names


@pytest.mark.slow
@pytest.mark.promise("P2")
async def test_a_name_that_is_unknown_then_known_then_moves(network, peer, monkeypatch):
    real = socket.getaddrinfo
    known: dict[str, str] = {}

    def look_up(host, *arguments, **options):
        if host != "peer.test":
            return real(host, *arguments, **options)
        if host not in known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(known[host], *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with watching(client_of(f"ws://peer.test:{peer.port}"), ready=False) as watch:
        retried = await watch.retried(3)
        assert "peer.test could not be resolved" in str(retried.event.cause)
        known["peer.test"] = network.server_address
        await watch.opened()
        await watch.pong()
        await aside(network.change_server_address)
        assert_silence(watch, await watch.closed())
        await watch.retried(len(watch.of(type(retried.event))) + 1)
        known["peer.test"] = network.server_address
        await watch.opened(2)
        assert await echoes(watch)


@pytest.mark.promise("P2")
async def test_a_look_up_that_hangs_is_waited_for_and_not_repeated(local_peer, monkeypatch):
    real = socket.getaddrinfo
    asked: list[str] = []
    answer = threading.Event()

    def look_up(host, *arguments, **options):
        if host != "peer.test":
            return real(host, *arguments, **options)
        asked.append(host)
        answer.wait(PATIENCE)
        return real(local_peer.host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    client = client_of(f"ws://peer.test:{local_peer.port}", open_timeout=0.2)
    async with watching(client, ready=False) as watch:
        assert isinstance((await watch.retried(3)).event.cause, OpenTimeout)
        assert asked == ["peer.test"]
        answer.set()
        await watch.opened()
        assert await echoes(watch)


# ---- no false death


@pytest.mark.slow
@pytest.mark.promise("P3")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_consumer_that_reads_nothing_for_long(local_peer, transport):
    client = client_of(local_peer.url, inbox=Inbox(max_messages=50), transport=transport)
    async with watching(client) as watch:
        await client.send("!stream 0 1000")
        await asyncio.sleep(3 * (INTERVAL + TIMEOUT))
        numbers = [int((await watch.recv()).split()[0]) for _ in range(5_000)]
        assert numbers == list(range(5_000))
        watch.assert_never_closed()


@pytest.mark.slow
@pytest.mark.promise("P2")
async def test_a_peer_that_vanishes_while_nobody_reads(network, peer):
    client = client_of(peer.url, inbox=Inbox(max_messages=50))
    async with watching(client) as watch:
        await client.send("!stream 0 1000")
        await asyncio.sleep(INTERVAL + TIMEOUT)
        await aside(network.drop)
        since = time.monotonic()
        closed = await watch.closed()
        assert closed.event.origin is CloseOrigin.HEARTBEAT
        assert closed.at - since <= watch.bound(INTERVAL + TIMEOUT, since)
        assert closed.event.unread >= 50


@pytest.mark.slow
@pytest.mark.promise("P3")
@pytest.mark.parametrize("streaming", [False, True], ids=["idle", "streaming"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_blocked_loop_and_a_healthy_peer(local_peer, streaming, transport):
    async with watching(client_of(local_peer.url, transport=transport)) as watch:
        if streaming:
            await watch.client.send("!stream 0.01 100")
        for _ in range(2):
            await asyncio.sleep(INTERVAL * 0.9)
            time.sleep(1.2 * (INTERVAL + TIMEOUT))
        await asyncio.sleep(INTERVAL + TIMEOUT)
        watch.assert_never_closed()
        assert await echoes(watch)


@pytest.mark.slow
@pytest.mark.promise("P3")
async def test_a_loop_that_was_blocked_while_the_answer_got_lost(network, peer):
    async with watching(client_of(peer.url)) as watch:
        await watch.pong()
        await aside(network.drop, "to_client")
        await asyncio.sleep(INTERVAL + 0.05)  # now a ping is out, and its answer lost
        time.sleep(1.2)  # as long as a machine sleeps; the answer is sent again 1.4 s after the ping
        network.undrop()
        await watch.pong()
        watch.assert_never_closed()


@pytest.mark.slow
@pytest.mark.promise("P2")
async def test_a_loop_that_was_blocked_while_the_peer_vanished(network, peer):
    async with watching(client_of(peer.url)) as watch:
        await watch.pong()
        await aside(network.drop)
        time.sleep(2 * (INTERVAL + TIMEOUT))
        since = time.monotonic()
        closed = await watch.closed()
        assert closed.event.origin is CloseOrigin.HEARTBEAT
        # It looks, asks once more, and waits for that answer.
        assert closed.at - since <= watch.bound(TIMEOUT, since + TOLERANCE)


@pytest.mark.slow
@pytest.mark.promise("P3")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_ping_behind_a_slow_upload_of_ours(network, peer, transport):
    network.limit_rate(120_000, "to_server")
    client = client_of(peer.url, outbox=Outbox(max_bytes=1 << 20), transport=transport)
    async with watching(client) as watch:
        await watch.pong()
        await client.send("x" * 400_000)
        since = time.monotonic()
        assert len(await watch.recv()) == 400_000
        assert time.monotonic() - since > 2 * (INTERVAL + TIMEOUT), "it took long enough to prove something"
        watch.assert_never_closed()


@pytest.mark.slow
@pytest.mark.promise("P2")
async def test_a_peer_that_vanishes_behind_an_upload_of_ours(network, peer):
    network.limit_rate(120_000, "to_server")
    client = client_of(peer.url, outbox=Outbox(max_bytes=1 << 20))
    async with watching(client) as watch:
        await client.send("x" * 800_000)
        await asyncio.sleep(2 * (INTERVAL + TIMEOUT))
        watch.assert_never_closed()
        await aside(network.drop)
        since = time.monotonic()
        closed = await watch.closed()
        assert closed.event.origin is CloseOrigin.HEARTBEAT
        assert closed.at - since <= watch.bound(INTERVAL + TIMEOUT, since)


@pytest.mark.slow
@pytest.mark.promise("P3")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_one_huge_slow_message(network, peer, transport):
    client = client_of(peer.url, transport=transport)
    async with watching(client) as watch:
        await client.send(b"x" * 400_000)
        await client.flush(PATIENCE)
        await aside(network.limit_rate, 120_000, "to_client")
        await watch.recv()
        await client.send(b"y" * 400_000)
        since = time.monotonic()
        assert await watch.recv() == b"y" * 400_000
        assert time.monotonic() - since > 2 * (INTERVAL + TIMEOUT), "it took long enough to prove something"
        watch.assert_never_closed()


@pytest.mark.slow
@pytest.mark.promise("P3")
async def test_a_pong_behind_a_backlog(network, peer):
    network.limit_rate(120_000, "to_client")
    client = client_of(peer.url, heartbeat=Heartbeat(INTERVAL, TIMEOUT, pong_timeout=PATIENCE))
    async with watching(client) as watch:
        await watch.pong()
        for number in range(400):
            await client.send(f"{number} ".ljust(1000, "."))
        since = time.monotonic()
        numbers = [int((await watch.recv()).split()[0]) for _ in range(400)]
        assert numbers == list(range(400))
        assert time.monotonic() - since > 2 * (INTERVAL + TIMEOUT), "it took long enough to prove something"
        watch.assert_never_closed()


# ---- close()


@pytest.mark.promise("P7")
@pytest.mark.parametrize("fault", SILENCES)
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_close_into_silence(request, network, trusting, fault, secure, transport):
    url = request.getfixturevalue("tls_url") if secure else request.getfixturevalue("peer").url
    before = open_sockets()
    client = client_of(url, ssl=trusting, close_timeout=0.6, transport=transport)
    async with watching(client) as watch:
        await aside(SILENCES[fault], network)
        since = time.monotonic()
        await watch.client.close()
        watch.record("closed after", time.monotonic() - since)
        assert time.monotonic() - since <= watch.bound(0.6, since)
        event = (await watch.closed()).event
        assert (event.code, event.sent_code, event.origin) == (1006, 1000, CloseOrigin.LOCAL)
        assert event.final
        assert watch.client.state is State.CLOSED
        await eventually(lambda: asyncio.sleep(0, not open_sockets() - before), within=TOLERANCE)


# ---- another loop


@pytest.fixture
def uvloop_runner() -> Iterator[asyncio.Runner]:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_silence_under_uvloop(uvloop_runner, request, network, trusting, secure):
    url = request.getfixturevalue("tls_url") if secure else request.getfixturevalue("peer").url

    async def lose_it() -> None:
        async with watching(client_of(url, ssl=trusting)) as watch:
            await watch.pong()
            await aside(network.drop)
            assert_silence(watch, await watch.closed())
            await aside(network.undrop)
            await watch.opened(2)
            assert await echoes(watch)

    uvloop_runner.run(lose_it())


@pytest.mark.slow
@pytest.mark.promise("P3")
def test_a_blocked_loop_under_uvloop(uvloop_runner, local_peer):
    uvloop_runner.run(test_a_blocked_loop_and_a_healthy_peer(local_peer, streaming=True, transport="aiohttp"))


@pytest.mark.slow
@pytest.mark.promise("P3")
def test_a_slow_upload_under_uvloop(uvloop_runner, network, peer):
    uvloop_runner.run(test_a_ping_behind_a_slow_upload_of_ours(network, peer, "aiohttp"))


@pytest.mark.slow
@pytest.mark.promise("P2")
def test_one_direction_under_uvloop(uvloop_runner, request, network, trusting):
    one_way = test_a_peer_that_talks_and_hears_nothing_is_dead_too
    uvloop_runner.run(one_way(request, network, trusting, secure=False, transport="aiohttp"))
