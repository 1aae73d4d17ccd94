"""The client with an outbox file: what is accepted outlives it, whatever ends it (P5 beyond the life of a process)."""

import asyncio
import shutil
import subprocess
import threading
import time

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ClientClosed,
    ClientStopped,
    CloseOrigin,
    ErrorEvent,
    Fate,
    Heartbeat,
    NotConnected,
    Outbox,
    OutboxFileError,
    OutboxFull,
    ReconnectPolicy,
    Stop,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.delivery.durable import commits as durable
from resilient_ws.delivery.durable.sqlite import OutboxFile
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.outbox_files import Gate, fill_up, on_thread

QUICK = ReconnectPolicy(wait=wait_fixed(0.01))
NEVER = ReconnectPolicy(wait=wait_fixed(1000))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


def unreachable():
    transport = FakeTransport()
    transport.refuse(times=None)
    return transport


def mute(peer):
    """A peer that confirms nothing."""
    peer.answers_pings = PingAnswers.NONE


def make(path, transport=None, *, reconnect=QUICK, overflow="raise", **options):
    """Return a client and, once they happen, the fates it tells."""
    outbox = {name: options.pop(name) for name in set(options) & set(Outbox.__annotations__)}
    client = WebSocketClient(
        "ws://peer.test",
        transport=transport or FakeTransport(),
        reconnect=reconnect,
        outbox=Outbox(path=path, overflow=overflow, **outbox),
        **options,
    )
    fates = []
    client.on_undelivered(lambda event: fates.append((event.message, event.fate)))
    return client, fates


def the_file(client):
    """Return the durable outbox inside a client."""
    return client._supervisor.sender._store._outbox


async def loaded(client):
    """Wait until the file of a client that has been started is open."""
    async with asyncio.timeout(5):
        while the_file(client) is None:
            await asyncio.sleep(0.001)


async def until(holds):
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


def rows_after_a_kill(path, directory):
    """Return message and flag of what the next process would find if this one were killed now."""
    copy = directory / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    # Another process copies: to open and close the file in this one would drop SQLite's lock.
    files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    subprocess.run(["cp", *files, copy], check=True)
    file = OutboxFile(copy / path.name, power_safe=False)
    try:
        return [(row[1], row[7]) for row in file.rows()]
    finally:
        file.close()


async def left_in(path):
    """Return what the next client sends, in order, and the fates it tells; then the file is empty."""
    transport = FakeTransport()
    client, fates = make(path, transport)
    async with client:
        await client.flush(timeout=5)
    return list(transport.peer.received), fates


# ------------------------------------------------------------------------------------------------ from one to the next


async def test_a_message_that_took_the_place_of_another_keeps_it_for_the_next_client(path):
    first, fates = make(path, unreachable())
    first.start()
    await first.send("A1", key="a")
    await first.send("B")
    await first.send("A2", key="a")
    await first.close()
    assert fates == [("A1", Fate.EVICTED)]
    second, fates = make(path, unreachable())
    second.start()
    await second.send("A3", key="a")
    await second.close()
    assert fates == [("A2", Fate.EVICTED)]
    assert await left_in(path) == (["A3", "B"], [])


@pytest.mark.promise("P5")
async def test_what_was_never_written_is_sent_by_the_next_client_before_anything_else(path):
    first, fates = make(path, unreachable())
    first.start()
    for number in range(5):
        await first.send(str(number))
    await first.send(b"\x00urgent", priority=1)
    await first.close()
    assert fates == [], "it still waits, on the disk"
    assert (first.stats.waiting, first.stats.abandoned, first.close_event.unsent) == (6, 0, 6)
    with pytest.raises(ClientClosed) as closed:
        await first.send("late")
    assert closed.value.undelivered == ()

    transport = FakeTransport()
    second, fates = make(path, transport)
    second.start()
    await second.send("new")
    await second.flush(timeout=5)
    assert list(transport.peer.received) == [b"\x00urgent", "0", "1", "2", "3", "4", "new"]
    assert second.stats.confirmed == 7
    await second.close()
    assert second.stats.waiting == 0
    assert fates == []
    assert await left_in(path) == ([], [])


@pytest.mark.promise("P5")
@pytest.mark.parametrize("by_message", [True, False])
async def test_what_was_written_and_not_confirmed_is_reported_or_sent_again(path, by_message):
    first, fates = make(path, FakeTransport(mute), on_uncertain="report" if by_message else "resend")
    options = {"on_uncertain": "resend"} if by_message else {}
    async with first:
        await first.send("1", **options)
        await first.send("2", on_uncertain="report")
        await first.send("3", **options)
    assert fates == [("2", Fate.UNCERTAIN)], "nothing is sent again, so nothing can be learnt later"
    assert (first.stats.uncertain, first.stats.waiting, first.stats.unconfirmed) == (1, 2, 0)
    assert first.close_event.uncertain == 3
    with pytest.raises(ClientClosed) as closed:
        await first.recv()
    assert [(event.message, event.fate) for event in closed.value.undelivered] == fates
    assert await left_in(path) == (["1", "3"], [])


@pytest.mark.promise("P5")
async def test_after_a_kill_what_may_have_been_written_is_reported_and_the_rest_is_sent(path, tmp_path):
    first, _ = make(path, FakeTransport(mute), reconnect=NEVER)
    async with first:
        await first.send("written")
        await first.send("written, to be sent again", on_uncertain="resend")
        first._supervisor.active.link._wire.congest()
        await first.send("fills the connection")
        await first.send("to be written at any moment")
        before_the_loss = rows_after_a_kill(path, tmp_path)
        left = tmp_path / "killed"
        shutil.move(tmp_path / "copy", left)
    assert before_the_loss == [
        ("written", True),
        ("written, to be sent again", True),
        ("fills the connection", True),
        ("to be written at any moment", True),
    ]
    began = time.time()
    sent, fates = await left_in(left / path.name)
    assert sent == ["written, to be sent again"]
    assert fates == [
        (message, Fate.UNCERTAIN) for message, _ in before_the_loss if message != "written, to be sent again"
    ]
    assert time.time() - began < 10


@pytest.mark.promise("P5")
async def test_after_a_loss_the_file_knows_what_was_not_written(path, tmp_path):
    transport = FakeTransport(mute)
    client, fates = make(path, transport, reconnect=NEVER)
    async with client:
        await client.send("written")
        transport.peer.congest()
        await client.send("written into a full connection")
        await client.send("waits")
        await client.send("waits, too", on_uncertain="resend")
        transport.peer.drop()
        await until(lambda: fates)
        await client.send("came later")
        await the_file(client).flush()
        rows = rows_after_a_kill(path, tmp_path)
    assert fates == [("written", Fate.UNCERTAIN), ("written into a full connection", Fate.UNCERTAIN)]
    assert rows == [("waits", False), ("waits, too", False), ("came later", False)]


async def test_the_age_of_a_message_counts_from_its_acceptance_in_another_process(path):
    first, _ = make(path, unreachable())
    first.start()
    await first.send("old")
    await first.send("short of time", ttl=0.2)
    await first.send("patient", ttl=100)
    accepted = time.time()
    await first.close()
    await asyncio.sleep(0.3)
    told = []
    second = WebSocketClient(
        "ws://peer.test",
        transport=FakeTransport(mute),
        outbox=Outbox(path=path),
        on_undelivered=told.append,
        reconnect=QUICK,
    )
    async with second:
        await until(lambda: second.stats.unconfirmed == 2)
    assert [(event.message, event.fate) for event in told] == [
        ("short of time", Fate.EXPIRED),
        ("old", Fate.UNCERTAIN),
        ("patient", Fate.UNCERTAIN),
    ]
    assert all(0.3 < event.age < 10 for event in told)
    assert all(abs(event.accepted_at - accepted) < 0.2 for event in told)


async def test_times_in_the_file_are_those_of_the_world(path):
    client, _ = make(path, unreachable())
    client.start()
    await client.send("1", ttl=100)
    await client.close()
    file = OutboxFile(path, power_safe=False)
    ((_, _, accepted_at, expires_at, *_),) = file.rows()
    file.close()
    assert accepted_at == pytest.approx(time.time(), abs=5)
    assert expires_at == pytest.approx(accepted_at + 100, abs=0.01)


async def test_what_an_earlier_client_left_expires_also_while_there_is_no_connection(path):
    first, _ = make(path, unreachable())
    first.start()
    await first.send("1", ttl=0.5)
    await first.close()
    second, fates = make(path, unreachable())
    second.start()
    await until(lambda: fates)
    assert fates == [("1", Fate.EXPIRED)]
    assert second.stats.opens == 0
    await second.close()


async def test_a_rule_that_ends_the_client_leaves_the_file_for_the_next(path):
    transport = FakeTransport()
    transport.refuse(delay=0.2)
    first, fates = make(path, transport, reconnect=ReconnectPolicy(decide=lambda _: Stop("enough")))
    first.start()
    await first.send("1")
    with pytest.raises(ClientStopped) as stopped:
        await first.ready()
    assert stopped.value.undelivered == ()
    await first.close()
    assert fates == []
    assert await left_in(path) == (["1"], [])


async def test_what_a_peer_cannot_take_is_reported_and_does_not_come_back(path):
    transport = FakeTransport(mute)
    first, fates = make(path, transport, reconnect=False, on_uncertain="resend")
    async with first:
        await first.send("poison")
        transport.peer.close(1008, "no")
        with pytest.raises(ClientStopped) as stopped:
            await first.recv()
        assert [event.message for event in stopped.value.undelivered] == ["poison"]
    assert fates == [("poison", Fate.UNCERTAIN)]
    assert await left_in(path) == ([], [])


async def test_each_end_of_a_message_leaves_the_file(path):
    client, fates = make(path, unreachable(), overflow="drop_oldest", max_messages=2)
    client.start()
    await client.send("expires", ttl=0.05)
    await until(lambda: fates)
    for message in "abc":
        await client.send(message)
    await client.send("k1", key="k")
    await client.send("k2", key="k")
    await until(lambda: len(fates) == 4)
    await client.close()
    assert fates == [("expires", Fate.EXPIRED), *((name, Fate.EVICTED) for name in ("a", "b", "k1"))]
    assert await left_in(path) == (["c", "k2"], [])


@pytest.mark.promise("P5")
@pytest.mark.parametrize("fate", [Fate.EVICTED, Fate.UNCERTAIN])
async def test_a_message_is_in_the_file_until_the_program_has_heard_of_its_fate(path, tmp_path, fate):
    transport = FakeTransport(mute)
    client, fates = make(path, transport, reconnect=NEVER, overflow="drop_oldest", max_messages=1)
    heard, let = asyncio.Event(), asyncio.Event()

    @client.on_undelivered
    async def note(_):
        heard.set()
        await let.wait()

    async with client:
        if fate is Fate.EVICTED:
            transport.refuse(times=None)
            transport.peer.drop()
            await until(lambda: client.stats.closes)
        await client.send("1")
        if fate is Fate.EVICTED:
            await client.send("2")
        else:
            transport.peer.drop()
        await heard.wait()
        assert fates == [("1", fate)]
        await the_file(client).flush()
        assert "1" in dict(rows_after_a_kill(path, tmp_path))
        let.set()
        await asyncio.sleep(0)
        await the_file(client).flush()
        assert "1" not in dict(rows_after_a_kill(path, tmp_path))


async def test_where_nothing_is_confirmed_a_message_is_kept_until_it_is_written(path):
    first, fates = make(path, FakeTransport(), confirm=False, heartbeat=Heartbeat.expect(60))
    async with first:
        await first.send("1")
        await until(lambda: not first.stats.waiting)
        assert first.stats.confirmed == 1
    assert fates == []
    assert await left_in(path) == ([], [])


async def test_a_peer_that_answers_no_ping_settles_what_was_written(path):
    transport = FakeTransport(mute)
    first, fates = make(
        path, transport, heartbeat=Heartbeat(interval=0.05, timeout=0.1), confirm_interval=0.01
    )
    async with first:
        await first.send("1")
        for _ in range(40):
            transport.peer.send("alive")
            await asyncio.sleep(0.01)
        assert first.stats.confirmation == "off"
        assert first.stats.confirmed == 1
    assert fates == []
    assert await left_in(path) == ([], [])


async def test_what_belongs_to_the_connection_of_the_moment_is_not_kept(path):
    transport = FakeTransport(mute)
    first, fates = make(path, transport)
    async with first:
        await first.send("now or never", queue=False)
        asking = asyncio.ensure_future(first.request("?", lambda message: message == "!", 5))
        await until(lambda: list(transport.peer.received) == ["now or never", "?"])
        transport.peer.send("!")
        assert await asking == "!"
        assert first.stats.unconfirmed == 0  # the answer has confirmed both
    assert fates == []
    assert await left_in(path) == ([], [])


async def test_confirm_flush_and_drain_work_as_without_a_file(path):
    transport = FakeTransport()
    first, _ = make(path, unreachable())
    first.start()
    waiting = asyncio.ensure_future(first.send("0", confirm=True))
    await until(lambda: first.stats.waiting)
    await first.close()
    with pytest.raises(ClientClosed):
        await waiting
    second, fates = make(path, transport)
    second.start()
    await second.send("1", confirm=True)
    assert list(transport.peer.received) == ["0", "1"]
    await second.send("2")
    await second.flush(timeout=5)
    transport.peer.congest()
    await second.send("3")
    asyncio.get_running_loop().call_later(0.05, transport.peer.recover)
    await second.close(drain=5)
    assert (second.stats.confirmed, fates) == (4, [])
    assert await left_in(path) == ([], [])


async def test_to_drain_is_to_send_what_an_earlier_client_left(path):
    first, _ = make(path, unreachable())
    first.start()
    await first.send("left")
    await first.close()
    transport = FakeTransport()
    second, _ = make(path, transport)
    second.start()
    await second.close(drain=5)
    assert list(transport.peer.received) == ["left"]
    assert second.stats.confirmed == 1


async def test_to_drain_an_empty_file_takes_no_time(path):
    client, _ = make(path, unreachable())
    client.start()
    began = time.monotonic()
    await client.close(drain=30)
    assert time.monotonic() - began < 5


async def test_flush_waits_for_what_an_earlier_client_left(path):
    first, _ = make(path, unreachable())
    first.start()
    await first.send("left")
    await first.close()
    transport = FakeTransport()
    second, _ = make(path, transport)
    second.start()
    await second.flush(timeout=5)
    assert second.stats.confirmed == 1
    await second.close()


# ------------------------------------------------------------------------------------------------ accepting


async def test_sending_waits_for_the_file_and_needs_a_client_that_was_started(path):
    client, _ = make(path)
    with pytest.raises(NotConnected, match="the outbox file is opened when the client is started"):
        await client.send("too early")
    with pytest.raises(NotConnected, match="the outbox file is opened when the client is started"):
        await client.flush()
    client.start()
    assert the_file(client) is None
    await asyncio.gather(*(client.send(str(number)) for number in range(100)))
    await client.flush(timeout=5)
    assert list(client._supervisor.config.transport.peer.received) == [str(number) for number in range(100)]
    await client.close()


@pytest.mark.promise("P4")
@pytest.mark.parametrize("overflow", ["raise", "drop_oldest"])
async def test_nobody_overtakes_those_who_wait_for_the_file(path, overflow):
    transport = FakeTransport()
    client, _ = make(path, transport, overflow=overflow)
    client.start()
    sends = [asyncio.ensure_future(client.send(str(number))) for number in range(10)]
    while the_file(client) is None:
        await asyncio.sleep(0)
    await asyncio.gather(client.send("10"), *sends)
    await client.flush(timeout=5)
    assert list(transport.peer.received) == [str(number) for number in range(11)]
    await client.close()


@pytest.mark.promise("P8")
async def test_accepted_is_what_is_on_the_disk_and_a_cancelled_send_is_not(path):
    transport = FakeTransport()
    client, _ = make(path, transport)
    async with client:
        gate = Gate(the_file(client))
        sends = [asyncio.ensure_future(client.send(name)) for name in ("0", "cancelled", "2")]
        await asyncio.sleep(0.05)
        assert not any(send.done() for send in sends)
        assert transport.peer.received == type(transport.peer.received)()
        sends[1].cancel()
        gate.open()
        ends = await asyncio.gather(*sends, return_exceptions=True)
        assert isinstance(ends.pop(1), asyncio.CancelledError)
        assert ends == [None, None]
        await client.flush(timeout=5)
        assert list(transport.peer.received) == ["0", "2"]
    assert await left_in(path) == ([], [])


async def test_eventual_accepts_at_once_and_stores_soon(path):
    client, _ = make(path, unreachable(), durability="eventual")
    client.start()
    await loaded(client)
    gate = Gate(the_file(client))
    async with asyncio.timeout(1):
        for number in range(5):
            await client.send(str(number))
    assert client.stats.waiting == 5
    gate.open()
    await client.close()
    assert await left_in(path) == (list("01234"), [])


@pytest.mark.promise("P6")
@pytest.mark.parametrize("bound", [{"max_messages": 5}, {"max_bytes": 50}])
async def test_what_is_on_its_way_to_the_disk_counts(path, bound):
    client, _ = make(path, unreachable(), **bound)
    client.start()
    await loaded(client)
    gate = Gate(the_file(client))
    sends = [asyncio.ensure_future(client.send("x" * 10)) for _ in range(20)]
    await asyncio.sleep(0.05)
    gate.open()
    ends = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None)] * 5 + [OutboxFull] * 15
    await client.close()
    assert len((await left_in(path))[0]) == 5


@pytest.mark.promise("P4")
async def test_an_unqueued_message_does_not_overtake_what_is_on_its_way_to_the_disk(path):
    transport = FakeTransport()
    client, _ = make(path, transport)
    async with client:
        gate = Gate(the_file(client))
        sends = [
            asyncio.ensure_future(client.send("1")),
            asyncio.ensure_future(client.send("2", queue=False)),
        ]
        await asyncio.sleep(0.05)
        gate.open()
        await asyncio.gather(*sends)
        assert list(transport.peer.received) == ["1", "2"]


@pytest.mark.promise("P4")
async def test_order_holds_across_drops_and_clients(path):
    arrived = []
    sent = [str(number) for number in range(300)]
    todo = iter(sent)
    for _ in range(3):
        transport = FakeTransport()
        client, fates = make(path, transport, on_uncertain="resend")
        async with client:
            for number in range(100):
                await client.send(next(todo))
                if number % 30 == 7:
                    transport.peer.drop()
        arrived += [message for peer in transport.peers for message in peer.received]
        assert fates == []
    assert list(dict.fromkeys(arrived + (await left_in(path))[0])) == sent


# ------------------------------------------------------------------------------------------------ flags


async def test_nothing_is_written_before_the_file_says_that_it_may_have_been(path, tmp_path):
    transport = FakeTransport(mute)
    transport.refuse()
    client, _ = make(path, transport, reconnect=ReconnectPolicy(wait=wait_fixed(0.2)))
    client.start()
    for name in ("1", "2"):
        await client.send(name)
    gate = Gate(the_file(client))
    await client.ready()
    await asyncio.sleep(0.05)
    assert list(transport.peer.received) == []
    gate.open()
    await until(lambda: len(transport.peer.received) == 2)
    assert rows_after_a_kill(path, tmp_path) == [("1", True), ("2", True)]
    await client.close()


async def test_what_may_arrive_twice_does_not_wait_for_the_disk(path):
    transport = FakeTransport(mute)
    transport.refuse()
    client, _ = make(path, transport, reconnect=ReconnectPolicy(wait=wait_fixed(0.2)), on_uncertain="resend")
    client.start()
    await client.send("1")
    gate = Gate(the_file(client))
    await client.ready()
    await until(lambda: list(transport.peer.received) == ["1"])
    gate.open()
    await client.close()


async def test_a_connection_that_ends_while_the_file_is_told_leaves_nothing_flagged(path, tmp_path):
    transport = FakeTransport(mute)
    transport.refuse()
    client, fates = make(path, transport, reconnect=ReconnectPolicy(wait=wait_fixed(0.2)))
    client.start()
    await client.send("1")
    gate = Gate(the_file(client))
    await client.ready()
    transport.refuse(times=None)
    transport.peer.drop()
    await until(lambda: client.stats.closes)
    late = asyncio.ensure_future(client.send("2"))
    await asyncio.sleep(0.01)
    gate.open()
    await late
    await until(lambda: not client._supervisor.sender._store._flagging)
    await the_file(client).flush()
    assert rows_after_a_kill(path, tmp_path) == [("1", False), ("2", False)]
    await client.close()
    assert fates == []
    assert await left_in(path) == (["1", "2"], [])


async def test_a_message_that_was_stored_for_a_connection_that_is_gone_is_not_flagged(path, tmp_path):
    transport = FakeTransport(mute)
    client, _ = make(path, transport, reconnect=NEVER)
    async with client:
        gate = Gate(the_file(client))
        late = asyncio.ensure_future(client.send("1"))
        await asyncio.sleep(0.01)
        transport.peer.drop()
        await until(lambda: client.stats.closes)
        gate.open()
        await late
        await the_file(client).flush()
        assert rows_after_a_kill(path, tmp_path) == [("1", False)]
    assert await left_in(path) == (["1"], [])


async def test_a_cancelled_send_gives_the_room_it_had_taken_to_the_next(path):
    client, fates = make(path, unreachable(), overflow="wait", max_messages=1, reconnect=NEVER)
    client.start()
    await loaded(client)
    gate = Gate(the_file(client))
    first, second = (asyncio.ensure_future(client.send(text)) for text in "12")
    await asyncio.sleep(0.01)
    first.cancel()
    gate.open()
    await asyncio.wait_for(second, 2)
    await client.close()
    assert fates == []
    assert await left_in(path) == (["2"], [])


# ------------------------------------------------------------------------------------------------ trouble


@pytest.mark.parametrize("content", [b"something else entirely", b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_foreign_or_damaged_file_ends_the_client_and_is_left_as_it_is(path, content):
    path.write_bytes(content)
    client, _ = make(path)
    with pytest.raises(ClientStopped, match=r"outbox file .*outbox.db") as stopped:
        async with client:
            pytest.fail("it must not open")
    error = stopped.value.__cause__
    assert isinstance(error, OutboxFileError)
    assert error.path == path
    assert path.read_bytes() == content
    event = client.close_event
    assert (event.final, event.origin, event.cause, event.opened_for) == (
        True,
        CloseOrigin.LOCAL,
        error,
        None,
    )
    assert event.rule == "the outbox file cannot be used"
    assert client.stats.attempts == 0
    with pytest.raises(ClientStopped):
        await client.send("late")


async def test_a_send_that_waits_for_a_file_that_cannot_be_used_is_told(path):
    path.write_bytes(b"something else entirely")
    client, _ = make(path)
    client.start()
    with pytest.raises(ClientStopped) as stopped:
        await client.send("1")
    assert isinstance(stopped.value.__cause__, OutboxFileError)
    await client.close()


async def test_a_second_client_is_refused_and_the_first_goes_on(path):
    transport = FakeTransport()
    first, _ = make(path, transport)
    async with first:
        second, _ = make(path)
        with pytest.raises(ClientStopped, match="in use by another process or client"):
            async with second:
                pytest.fail("it must not open")
        await first.send("1", confirm=True)
        assert list(transport.peer.received) == ["1"]
    async with second_try(path):
        pass


def second_try(path):
    """Return a client for a file that must be free again."""
    return make(path)[0]


@pytest.mark.expects_errors
async def test_a_full_disk_refuses_the_new_and_loses_nothing(path):
    transport = unreachable()
    client, fates = make(path, transport)
    client.start()
    await client.send("kept")
    outbox = the_file(client)
    await fill_up(outbox)
    with pytest.raises(OutboxFileError, match="disk is full"):
        await client.send("x" * 50_000)
    assert client.stats.waiting == 1
    await on_thread(outbox, "PRAGMA max_page_count = 1000000")
    await client.send("x" * 50_000)
    await client.close()
    assert fates == []
    assert await left_in(path) == (["kept", "x" * 50_000], [])


@pytest.mark.expects_errors
async def test_what_cannot_be_flagged_is_not_written_until_it_can(path):
    transport = FakeTransport()
    transport.refuse()
    client, fates = make(path, transport, reconnect=ReconnectPolicy(wait=wait_fixed(0.2)))
    told = []
    client.on_error(told.append)
    client.start()
    await client.send("1")
    await on_thread(the_file(client), "PRAGMA query_only = 1")
    await client.ready()
    await until(lambda: told)
    assert [(event.where, type(event.exception)) for event in told] == [("outbox", OutboxFileError)]
    assert list(transport.peer.received) == []
    with pytest.raises(OutboxFileError):
        await client.send("2")
    await on_thread(the_file(client), "PRAGMA query_only = 0")
    await client.flush(timeout=5)
    assert list(transport.peer.received) == ["1"]
    await client.close()
    assert fates == []


@pytest.mark.expects_errors
async def test_what_could_not_be_noted_at_the_end_is_logged(path, caplog):
    client, _ = make(path, FakeTransport())
    async with client:
        await client.send("1")
        await on_thread(the_file(client), "PRAGMA query_only = 1")
        await client.flush(timeout=5)
    assert "the fate of messages could not be recorded" in caplog.text


# ------------------------------------------------------------------------------------------------ ends


@pytest.mark.promise("P7")
async def test_close_wakes_a_send_that_waits_for_the_disk_and_it_is_not_accepted(path):
    client, fates = make(path, unreachable())
    client.start()
    await client.send("accepted")
    gate = Gate(the_file(client))
    send = asyncio.ensure_future(client.send("refused"))
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(client.close())
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(send, 1)
    await asyncio.sleep(0.05)
    assert not closing.done(), "it returns when the file is free"
    gate.open()
    await closing
    assert fates == []
    assert await left_in(path) == (["accepted"], [])


@pytest.mark.promise("P7")
async def test_a_send_that_was_stored_as_the_client_closed_is_not_accepted(path, monkeypatch):
    client, _ = make(path, unreachable())
    client.start()
    await client.send("accepted")
    store = client._supervisor.sender._store
    keep = store.keep

    async def keep_and_close(*args, **options):
        await keep(*args, **options)
        client._supervisor.request_close(1000, "", None)

    monkeypatch.setattr(store, "keep", keep_and_close)
    with pytest.raises(ClientClosed):
        await client.send("refused")
    await client.close()
    assert await left_in(path) == (["accepted"], [])


@pytest.mark.promise("P7")
@pytest.mark.expects_errors
async def test_close_is_bounded_when_the_disk_hangs(path, caplog):
    client, _ = make(path, unreachable(), close_timeout=0.2)
    client.start()
    await client.send("1")
    gate = Gate(the_file(client))
    began = time.monotonic()
    await client.close()
    assert time.monotonic() - began < 1
    assert "the outbox file could not be closed in time" in caplog.text
    gate.open()
    assert await left_in(path) == (["1"], [])


@pytest.mark.promise("P7")
async def test_closed_before_the_file_is_open(path):
    client, _ = make(path)
    client.start()
    send = asyncio.ensure_future(client.send("1"))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosed):
        await send
    assert client.close_event.final
    assert client.stats.attempts == 0
    assert await left_in(path) == ([], [])


@pytest.mark.promise("P7")
async def test_close_waits_until_the_file_is_free_whose_opening_it_has_cut_short(path, monkeypatch):
    make_file, entered, done = durable.OutboxFile, threading.Event(), threading.Event()

    def slowly(*args, **options):
        file = make_file(*args, **options)
        entered.set()
        time.sleep(0.3)
        done.set()
        return file

    monkeypatch.setattr(durable, "OutboxFile", slowly)
    client, _ = make(path)
    client.start()
    await asyncio.to_thread(entered.wait, 5)
    await client.close()
    assert done.is_set()
    monkeypatch.undo()
    assert await left_in(path) == ([], [])


async def test_closed_before_the_start_touches_no_file(path):
    client, _ = make(path)
    await client.close()
    assert not path.exists()


async def test_a_cancelled_owner_leaves_the_file_free_and_complete(path):
    client, _ = make(path, unreachable())
    client.start()
    await client.send("1")
    task = client._supervisor._task
    task.cancel()
    await asyncio.wait([task])
    await client.close()
    assert await left_in(path) == (["1"], [])


@pytest.mark.filterwarnings("ignore:.*was not closed:ResourceWarning")
def test_a_program_that_ends_without_close_leaves_the_file_complete(path):
    async def main():
        client, _ = make(path, unreachable())
        client.start()
        await client.send("1")
        threading.Timer(0.2, Gate(the_file(client)).open).start()  # a disk that is slow just then

    asyncio.run(main())
    assert asyncio.run(left_in(path)) == (["1"], [])
    for thread in threading.enumerate():
        if thread.name == "resilient_ws:outbox":
            thread.join(5)
            assert not thread.is_alive()


def test_events_are_told_in_order_with_a_file(path):
    async def first():
        client, _ = make(path, FakeTransport(mute), on_uncertain="resend")
        async with client:
            await client.send("a", on_uncertain="report")
            await client.send("b")

    async def second():
        client, _ = make(path)
        told = []

        async def listen():
            told.extend([event async for event in client.events()])

        listening = asyncio.ensure_future(listen())
        await asyncio.sleep(0)
        async with client:
            await client.flush(timeout=5)
        await listening
        return told

    asyncio.run(first())
    told = asyncio.run(second())
    assert not [event for event in told if isinstance(event, UndeliveredEvent | ErrorEvent)]
    assert told[-1].final
