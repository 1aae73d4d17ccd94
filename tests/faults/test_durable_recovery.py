"""What one process decided about messages in an outbox file holds for the next, at whatever instant it was killed."""

import asyncio
import contextlib
import math
import random
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_fixed

from resilient_ws import (
    ClientStopped,
    Fate,
    Outbox,
    ReconnectPolicy,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.core.delivery import DeliveryQueue
from resilient_ws.core.priority_queue import Entry
from resilient_ws.delivery.durable import sqlite
from resilient_ws.delivery.durable import store as persistence
from resilient_ws.delivery.durable.commits import DurableOutbox
from resilient_ws.delivery.durable.sqlite import Opening, OutboxFile
from resilient_ws.testing import FakeTransport, FaultServer, PingAnswers
from tests.outbox_files import on_thread

QUICK = ReconnectPolicy(wait=wait_fixed(0.01))
NEVER = {Fate.EVICTED, Fate.EXPIRED}


def killed(path, copy):
    """Copy the file as a kill would leave it."""
    for end in ("", "-wal"):
        if path.with_name(path.name + end).exists():
            shutil.copy(path.with_name(path.name + end), copy.with_name(copy.name + end))
    return copy


async def recovered(path, **options):
    """Return the queue of a client that finds the file, and what it tells."""
    outbox = await DurableOutbox.open(path)
    queue = DeliveryQueue(Outbox(**options))
    ends = queue.restore(outbox.restored)
    await outbox.close()
    return queue, [(entry.message, fate) for entry, fate in ends]


def sent_by(queue):
    queue.connected(confirming=False)
    found = []
    while (entry := queue.take()) is not None:
        queue.written()
        found.append(entry.message)
    return found


@pytest.mark.promise("P5")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "wait"])
async def test_no_later_client_sends_what_was_told_as_never_written(tmp_path, monkeypatch, seed, overflow):
    choose = random.Random(seed)
    path = tmp_path / "outbox.db"
    apply = OutboxFile.apply
    monkeypatch.setattr(
        OutboxFile,
        "apply",
        lambda file, changes: (time.sleep(choose.choice([0, 0, 0.01])), apply(file, changes)),
    )
    transport = FakeTransport()
    transport.refuse(times=None)
    rule = choose.choice(["report", "resend"])
    client = WebSocketClient(
        "ws://peer.test",
        transport=transport,
        reconnect=QUICK,
        outbox=Outbox(path=path, overflow=overflow, max_messages=6, on_uncertain=rule, durability="eventual"),
    )
    told, kills, hold = set(), [], asyncio.Event()

    @client.on_undelivered
    def at_once(event):
        if event.fate in NEVER:
            told.add(event.message)
            if len(kills) < 20:
                kills.append((killed(path, tmp_path / f"killed {len(kills)}.db"), set(told)))

    @client.on_undelivered
    async def slow(_):
        await hold.wait()

    client.start()
    for number in range(40):
        options = choose.choice([{}, {"key": "a"}, {"key": "b"}, {"priority": 1}, {"ttl": 0.02}])
        try:
            async with asyncio.timeout(0.05):
                await client.send(f"m{number}", **options)
        except TimeoutError:
            pass
        if not choose.randrange(4):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    kills.append((killed(path, tmp_path / "killed at the end.db"), set(told)))
    hold.set()
    await client.close()
    assert told
    for copy, told_by_then in kills:
        queue, _ = await recovered(copy, overflow=overflow, max_messages=100)
        assert not told_by_then & set(sent_by(queue))


@pytest.mark.promise("P5")
async def test_recovery_replays_keys_and_priorities(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = await DurableOutbox.open(path)
    for text, options in [
        ("A1", {"key": "a"}),
        ("B", {}),
        ("A2", {"key": "a"}),
        ("urgent", {"priority": 5}),
        ("A3", {"key": "a"}),
        ("C1", {"key": "c"}),
        ("C2", {"key": "c", "priority": 5}),
    ]:
        await outbox.append(Entry(text, len(text), 0.0, False, **options))
    await outbox.close()
    queue, told = await recovered(path)
    assert told == [("A1", Fate.EVICTED), ("A2", Fate.EVICTED), ("C1", Fate.EVICTED)]
    assert sent_by(queue) == ["urgent", "C2", "A3", "B"]
    assert queue.evicted == 3


@pytest.mark.promise("P5")
@pytest.mark.parametrize("option", [{"ttl": 0.3}, {"key": "k"}])
async def test_what_the_server_has_is_never_said_to_be_never_written(tmp_path, monkeypatch, option):
    """The kill is a copy of the file; the slow disk makes the commit take longer than the sending."""
    path = tmp_path / "outbox.db"
    transport = FakeTransport(lambda peer: setattr(peer, "answers_pings", PingAnswers.NONE))
    transport.refuse(times=3)
    client = WebSocketClient(
        "ws://peer.test",
        transport=transport,
        reconnect=QUICK,
        outbox=Outbox(path=path, on_uncertain="resend"),
    )
    client.start()
    await client.send("order", **option)
    apply = OutboxFile.apply
    monkeypatch.setattr(OutboxFile, "apply", lambda file, changes: (time.sleep(0.1), apply(file, changes)))
    copies = []
    for number in range(10):
        await asyncio.sleep(0.02)
        has = list(transport.peer.received) if transport.peers else []
        copies.append((has, killed(path, tmp_path / f"killed {number}.db")))
    monkeypatch.setattr(OutboxFile, "apply", apply)
    await client.close()
    assert any(has for has, _ in copies)
    for has, copy in copies:
        if has:
            (entry,) = await restored(copy)
            assert entry.written
            assert entry.sent == 1


async def restored(path):
    outbox = await DurableOutbox.open(path)
    await outbox.close()
    return outbox.restored


@pytest.mark.promise("P5")
async def test_how_often_a_message_was_sent_outlives_the_process(tmp_path):
    """A message that ends every connection is given up although no process lives long enough for it."""
    path = tmp_path / "outbox.db"
    seen, told = [], []

    def meet(peer):
        def take(message):
            seen.append(message)
            if message == "bad" and peer.is_open:
                peer.answers_pings = PingAnswers.NONE
                peer.close(1011)

        peer.on_message = take
        peer.pong_delay = 0.01

    for process in range(6):
        client = WebSocketClient(
            "ws://peer.test",
            transport=FakeTransport(meet),
            reconnect=QUICK,
            outbox=Outbox(path=path, on_uncertain="resend", max_resends=5),
            on_undelivered=told.append,
        )
        client.start()
        if not process:
            for text in ("good 1", "bad", "good 2"):
                await client.send(text)
        closes = 2 if process < 2 else 1
        for _ in range(300):
            await asyncio.sleep(0.01)
            if sum(client.stats.closes.values()) >= closes or ("good 2" in seen and told):
                break
        await client.close()
        if told:
            break
    (event,) = told
    assert (event.message, event.fate) == ("bad", Fate.UNCERTAIN)
    assert isinstance(event, UndeliveredEvent)
    assert event.times_sent >= 6
    assert seen.count("bad") <= event.times_sent


# ------------------------------------------------------------------------------------------------ clocks


class Machine:
    """A machine whose clocks can be set, that sleeps and is started again; knows the true time."""

    def __init__(self):
        self.true = self.slept = self.boot_began = 0.0
        self.ran = 1000.0
        self.set_by = 1_000_000.0
        self.boots = 0
        self.offset = 0.0

    @property
    def boot(self):
        return self.ran + self.slept

    @property
    def wall(self):
        return self.true + self.set_by

    def run(self, seconds):
        self.true += seconds
        self.ran += seconds

    def suspend(self, seconds):
        self.true += seconds
        self.slept += seconds

    def set(self, seconds):
        self.set_by += seconds

    def restart(self, seconds):
        self.true += seconds
        self.ran, self.slept = 5.0, 0.0
        self.boots += 1

    def opening(self):
        return Opening(
            f"boot {self.boots}", self.offset, self.slept, self.wall - self.boot, self.boot + self.offset
        )


STEPS = st.one_of(
    st.tuples(st.just("run"), st.floats(0, 1000)),
    st.tuples(st.just("suspend"), st.floats(0, 100_000)),
    st.tuples(st.just("set"), st.floats(-1_000_000, 1_000_000)),
    st.tuples(st.just("restart"), st.floats(0, 100_000)),
    st.tuples(st.just("client"), st.just(0.0)),
    st.tuples(st.just("send"), st.just(0.0)),
)


async def live(path, steps):
    """Live through the steps; return of each message found: its age as judged, the true one, what is sure, and whether all is."""
    machine = Machine()
    accepted, boots = {}, {}  # by message
    known = {}  # by boot: what the time of day was set by as a client of it was last seen
    sure = {}  # by message, the age that it had then
    judged = []

    async def open_it():
        machine.offset = machine.wall - machine.boot
        outbox = await DurableOutbox.open(path, offset=machine.offset, clocks=machine.opening)
        for entry in outbox.restored:
            text = entry.message
            is_known = boots[text] == machine.boots or known[boots[text]] == machine.set_by
            judged.append(
                (machine.boot - entry.accepted_at, machine.true - accepted[text], sure[text], is_known)
            )
        return outbox

    outbox = await open_it()
    for name, value in [*steps, ("client", 0.0)]:
        if name == "send":
            text = str(len(accepted))
            accepted[text], boots[text] = machine.true, machine.boots
            await outbox.append(Entry(text, len(text), machine.boot, False))
        elif name in {"client", "restart"}:
            await outbox.close()
            known[machine.boots] = machine.set_by
            sure |= {text: machine.true - at for text, at in accepted.items() if boots[text] == machine.boots}
            if name == "restart":
                machine.restart(value)
            outbox = await open_it()
        else:
            getattr(machine, name)(value)
    await outbox.close()
    return judged


@pytest.mark.promise("P5")
@settings(max_examples=settings.default.max_examples // 4)
@given(steps=st.lists(STEPS, max_size=8))
def test_the_age_of_a_message_is_right_whatever_the_clocks_did(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("clocks") / "outbox.db"
    for age, true, sure, is_known in asyncio.run(live(path, steps)):
        if is_known:
            assert math.isclose(age, true, abs_tol=0.01)
        else:
            assert age >= sure - 0.01


async def test_a_clock_set_back_between_two_starts_is_told(tmp_path, caplog, monkeypatch):
    path = tmp_path / "outbox.db"
    monkeypatch.setattr(persistence, "boot_id", lambda: "first")
    first = WebSocketClient("ws://peer.test", transport=FakeTransport(), outbox=Outbox(path=path))
    async with first:
        pass
    transport = FakeTransport()
    transport.refuse(times=None)
    first = WebSocketClient("ws://peer.test", transport=transport, outbox=Outbox(path=path, ttl=1000))
    first.start()
    await first.send("m")
    await first.close()
    monkeypatch.setattr(persistence, "boot_id", lambda: "second")
    monkeypatch.setattr(persistence, "wall_time", lambda: time.time() - 3600)
    told, fates = [], []
    transport = FakeTransport()
    second = WebSocketClient(
        "ws://peer.test",
        transport=transport,
        outbox=Outbox(path=path, ttl=1000),
        on_error=told.append,
        on_undelivered=fates.append,
    )
    async with second:
        await second.flush(timeout=5)
    assert list(transport.peer.received) == ["m"]
    ((where, text),) = [(event.where, str(event.exception)) for event in told]
    assert where == "outbox"
    assert "the clock was set back" in text
    assert [record.levelname for record in caplog.records if "set back" in record.message] == ["WARNING"]
    assert not fates


# ------------------------------------------------------------------------------------------------ bounds


async def test_fates_that_nobody_takes_hold_no_functions_and_few_records(tmp_path, monkeypatch):
    monkeypatch.setattr("resilient_ws.delivery.fates.UNHEARD", 50)
    transport = FakeTransport()
    transport.hang(None)
    hold = asyncio.Event()

    async def slow(_):
        await hold.wait()

    client = WebSocketClient(
        "ws://peer.test",
        transport=transport,
        on_undelivered=slow,
        close_timeout=1,
        outbox=Outbox(
            path=tmp_path / "outbox.db", durability="eventual", overflow="drop_oldest", max_messages=10
        ),
    )
    client.start()
    for number in range(1000):
        await client.send(str(number))
        if not number % 100:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    sender = client._supervisor.sender
    assert len(sender._fates._told) <= 50
    ((rows,),) = await on_thread(sender._store._outbox, "SELECT count(*) FROM message")
    assert rows <= 300
    hold.set()
    await client.close()


# ------------------------------------------------------------------------------------------------ a loop without its client


FORGETFUL = """
import asyncio, os, sys
from resilient_ws import Outbox, WebSocketClient
from resilient_ws.testing import FakeTransport

outbox = Outbox(path=sys.argv[1])

async def first():
    transport = FakeTransport()
    transport.refuse(times=None)
    client = WebSocketClient("ws://peer.test", transport=transport, outbox=outbox)
    client.start()
    await client.send("a")
    await client.send("b")
    return client

async def second():
    transport = FakeTransport()
    async with WebSocketClient("ws://peer.test", transport=transport, outbox=outbox) as client:
        await client.flush(timeout=5)
    return list(transport.peer.received)

loop = asyncio.new_event_loop()
client = loop.run_until_complete(first())
loop.close()
print(asyncio.run(second()), flush=True)
os._exit(0)
"""


@pytest.mark.promise("P5")
def test_a_loop_that_was_closed_without_its_client_gives_the_file_up(tmp_path):
    command = [sys.executable, "-c", FORGETFUL, str(tmp_path / "outbox.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "['a', 'b']", done.stderr


async def test_a_loop_that_runs_keeps_its_file(tmp_path):
    path = tmp_path / "outbox.db"
    async with WebSocketClient("ws://peer.test", transport=FakeTransport(), outbox=Outbox(path=path)):
        with pytest.raises(ClientStopped):
            async with WebSocketClient("ws://peer.test", transport=FakeTransport(), outbox=Outbox(path=path)):
                pass


# ---- the format


VERSION_1 = """
BEGIN;
PRAGMA user_version = 1;
CREATE TABLE message (
    record INTEGER PRIMARY KEY,
    body NOT NULL,
    accepted_at REAL NOT NULL,
    expires_at REAL,
    priority INTEGER NOT NULL,
    key TEXT,
    resend INTEGER NOT NULL,
    written INTEGER NOT NULL
);
COMMIT;
PRAGMA journal_mode = WAL;
"""


async def test_a_file_of_the_first_format_is_taken_over_with_its_messages(tmp_path):
    path, now = tmp_path / "outbox.db", time.time()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute(f"PRAGMA application_id = {sqlite.APPLICATION_ID}")
        old.executescript(VERSION_1)
        rows = [
            (1, "maybe sent", now - 5, None, 0, None, 0, 1),
            (2, b"sent again", now - 4, None, 0, None, 1, 1),
            (3, "too late", now - 3, now - 1, 0, None, 0, 0),
            (4, "pending", now - 2, now + 60, 0, "a key", 0, 0),
            (5, "urgent", now - 1, None, 7, None, 0, 0),
        ]
        old.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    async with FaultServer() as server:
        client = WebSocketClient(server.url, outbox=Outbox(path=path))
        events = client.events()
        async with client:
            await client.flush(10)
        told = {event.message: event.fate async for event in events if isinstance(event, UndeliveredEvent)}
        assert [one.message for one in server.received] == [b"sent again", "urgent", "pending"]

    assert told == {"maybe sent": Fate.UNCERTAIN, "too late": Fate.EXPIRED}
    with contextlib.closing(sqlite3.connect(path)) as new:
        assert new.execute("SELECT count(*) FROM message").fetchone() == (0,)
        assert new.execute("PRAGMA user_version").fetchone() == (sqlite.SCHEMA_VERSION,)
