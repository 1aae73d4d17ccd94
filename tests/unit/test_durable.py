"""The durable outbox on real files: what is stored, what is refused, what happens when the disk takes no more."""

import asyncio
import math
import operator
import os
import sqlite3
import subprocess
import sys
import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given

from resilient_ws.core.priority_queue import Entry
from resilient_ws.delivery.durable import commits as durable
from resilient_ws.delivery.durable.commits import DurableOutbox
from resilient_ws.delivery.durable.sqlite import SCHEMA_VERSION, Changes, OutboxFile, OutboxFileError
from tests.outbox_files import Gate, fill_up, on_thread


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


def entry(message="m", **options):
    return Entry(message, len(message), options.pop("at", 100.0), options.pop("resend", False), **options)


async def restored(path, **options):
    outbox = await DurableOutbox.open(path, **options)
    await outbox.close()
    return outbox.restored


async def left(path):
    return [found.message for found in await restored(path)]


def snapshot(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


# ------------------------------------------------------------------------------------------------ storing


async def test_messages_come_back_in_order_and_as_they_were(path):
    outbox = await DurableOutbox.open(path, offset=1000.0)
    assert outbox.restored == []
    stored = [
        entry("plain"),
        entry("nul \0 and é", at=101.5, resend=True),
        entry(b"\xff\0", at=102.0, expires_at=107.0, priority=-3, key="k"),
        entry(""),
        entry(b"", priority=2**63 - 1),
    ]
    for one in stored:
        await outbox.append(one)
    await outbox.close()
    back = await restored(path, offset=900.0)
    assert [e.record for e in back] == [1, 2, 3, 4, 5]
    assert [(e.message, e.accepted_at, e.expires_at, e.priority, e.key, e.resend) for e in back] == [
        ("plain", 200.0, math.inf, 0, None, False),
        ("nul \0 and é", 201.5, math.inf, 0, None, True),
        (b"\xff\0", 202.0, 207.0, -3, "k", False),
        ("", 200.0, math.inf, 0, None, False),
        (b"", 200.0, math.inf, 2**63 - 1, None, False),
    ]
    assert [e.size for e in back] == [5, 12, 2, 0, 0]
    assert not any(e.written for e in back)


async def test_what_may_have_been_written_is_flagged_and_what_is_settled_is_gone(path):
    outbox = await DurableOutbox.open(path)
    entries = [entry(name) for name in "abcdef"]
    for one in entries[:5]:
        await outbox.append(one)
    await outbox.append(entries[5], written=True)
    outbox.mark(entries[1:4])
    await outbox.committed()
    outbox.mark([entries[2], entry("of no file")], written=False)
    await outbox.committed()
    outbox.remove([entries[0], entries[3], entry("of no file")])
    await outbox.close()
    assert [(e.message, e.written) for e in await restored(path)] == [
        ("b", True),
        ("c", False),
        ("e", False),
        ("f", True),
    ]


async def test_what_is_flagged_before_it_is_stored_is_stored_as_flagged(path):
    outbox = await DurableOutbox.open(path, durability="eventual")
    first = entry("a")
    outbox.add(first)
    outbox.mark([first])
    await outbox.committed()
    await outbox.close()
    assert [(e.message, e.written) for e in await restored(path)] == [("a", True)]


@pytest.mark.parametrize("settled", [(6, 5, 1, 3), (3, 5), (2, 3, 5), (1, 8), (4,)], ids=str)
async def test_what_lies_between_those_that_are_settled_stays(path, settled):
    stored(path, 8)
    outbox = await DurableOutbox.open(path)
    outbox.remove([entry(record=record) for record in settled])
    await outbox.close()
    assert [e.record for e in await restored(path)] == [n for n in range(1, 9) if n not in settled]


def test_what_is_settled_before_it_was_stored_costs_nothing():
    changes = Changes()
    changes.added[1] = (1, "m", 1.0, (None, 0, None, 0, 0))
    assert changes
    changes.remove(1)
    assert not changes


@pytest.mark.parametrize("count", [1, 49, 50, 51, 130])
@pytest.mark.parametrize("unlike", [0, 1, 40], ids="one in {}".format)
async def test_what_messages_of_one_commit_have_in_common_is_stored_for_each(path, count, unlike):
    plain = {"resend": False}
    others = [{"resend": True}, {"at": 5.0, "expires_at": 9.5}, {"key": "k"}, {"priority": -2}]
    entries = []
    for n in range(count):
        options = others[n // unlike % 4] if unlike and n % unlike == 0 else plain
        entries.append(entry(f"{n}" if n % 2 else b"%d" % n, **options))
    outbox = await DurableOutbox.open(path)
    for n, each in enumerate(entries):
        outbox.add(each, written=n % 60 > 50)
    await outbox.close()
    fields = operator.attrgetter("message", "accepted_at", "expires_at", "priority", "key", "resend", "size")
    back = await restored(path)
    assert [fields(e) for e in back] == [fields(e) for e in entries]
    assert [e.written for e in back] == [n % 60 > 50 for n in range(count)]


async def test_records_go_on_after_those_that_were_left(path):
    outbox = await DurableOutbox.open(path)
    await outbox.append(entry("a"))
    await outbox.close()
    outbox = await DurableOutbox.open(path)
    await outbox.append(entry("b"))
    await outbox.close()
    assert await left(path) == ["a", "b"]


async def test_messages_of_one_turn_share_a_commit(path, monkeypatch):
    commits = []
    apply = OutboxFile.apply
    monkeypatch.setattr(
        OutboxFile, "apply", lambda self, ch: (commits.append(len(ch.added)), apply(self, ch))[1]
    )
    outbox = await DurableOutbox.open(path)
    await asyncio.gather(*(outbox.append(entry(str(n))) for n in range(100)))
    assert commits == [100]
    gate = Gate(outbox)
    first = asyncio.ensure_future(outbox.append(entry("first")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.ensure_future(outbox.append(entry("later"))) for _ in range(5)]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(first, *later)
    assert commits == [100, 1, 5]
    await outbox.close()


async def test_append_returns_after_the_commit_when_accepted_means_stored(path):
    outbox = await DurableOutbox.open(path)
    gate = Gate(outbox)
    task = asyncio.ensure_future(outbox.append(entry("a")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    gate.open()
    await task
    assert await on_thread(outbox, "SELECT body FROM message") == [("a",)]
    assert await on_thread(outbox, "PRAGMA synchronous") == [(2,)]
    await outbox.close()


async def test_append_does_not_wait_when_durability_is_eventual(path):
    outbox = await DurableOutbox.open(path, durability="eventual")
    gate = Gate(outbox)
    await outbox.append(entry("a"))
    gone = entry("gone")
    await outbox.append(gone)
    outbox.remove([gone])
    gate.open()
    await outbox.flush()
    assert await on_thread(outbox, "SELECT body FROM message") == [("a",)]
    assert await on_thread(outbox, "PRAGMA synchronous") == [(1,)]
    await outbox.close()


@pytest.mark.promise("P8")
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_cancelled_append_leaves_nothing(path, turns):
    outbox = await DurableOutbox.open(path)
    gate = Gate(outbox)
    task = asyncio.ensure_future(outbox.append(entry("cancelled")))
    other = asyncio.ensure_future(outbox.append(entry("other")))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    await other
    await outbox.close()
    assert await left(path) == ["other"]


@pytest.mark.promise("P8")
async def test_an_append_cancelled_in_the_moment_of_its_commit_leaves_nothing(path, monkeypatch):
    settle = durable._Batch.settle
    outbox = await DurableOutbox.open(path)
    task = asyncio.ensure_future(outbox.append(entry("cancelled")))
    monkeypatch.setattr(durable._Batch, "settle", lambda *args: (settle(*args), task.cancel()))
    with pytest.raises(asyncio.CancelledError):
        await task
    await outbox.close()
    assert await left(path) == []


@pytest.mark.parametrize(
    "options, text",
    [
        ({"priority": 2**63}, "64 bits"),
        ({"priority": -(2**63) - 1}, "64 bits"),
        ({"key": "\ud800"}, "surrogates"),
    ],
)
async def test_what_cannot_be_stored_is_refused_alone(path, options, text):
    outbox = await DurableOutbox.open(path)
    other = asyncio.ensure_future(outbox.append(entry("other")))
    with pytest.raises(ValueError, match=text):
        await outbox.append(entry(**options))
    await other
    await outbox.close()
    assert await left(path) == ["other"]


# ------------------------------------------------------------------------------------------------ opening


@pytest.mark.skipif(os.name != "posix", reason="the bits of a file's mode")
async def test_only_the_owner_may_read_the_file(path):
    outbox = await DurableOutbox.open(path)
    await outbox.append(entry("secret"))
    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
        "outbox.db": 0o600,
        "outbox.db-wal": 0o600,
    }
    await outbox.close()
    assert [file.name for file in path.parent.iterdir()] == ["outbox.db"]


async def test_one_process_opens_a_file_once(path):
    outbox = await DurableOutbox.open(path)
    link = path.parent / "other.db"
    link.symlink_to(path)
    for way in (path, os.path.relpath(path), link):
        with pytest.raises(OutboxFileError, match="in use") as caught:
            await DurableOutbox.open(way)
        assert repr(str(path)) in str(caught.value)
        assert caught.value.path == path
    await outbox.append(entry("a"))
    assert open_elsewhere(path) == "in use", "looking at it has not dropped the lock"
    await outbox.close()
    assert await left(path) == ["a"]


def test_a_file_is_held_from_its_opening_on(path):
    file = OutboxFile(path, power_safe=False)
    with pytest.raises(OutboxFileError, match="in use"):
        OutboxFile(path, power_safe=False)
    file.close()


def open_elsewhere(path):
    """Try it in another process."""
    code = (
        "import sys\n"
        "from resilient_ws.delivery.durable.sqlite import OutboxFile, OutboxFileError\n"
        "try: OutboxFile(sys.argv[1], power_safe=False).close()\n"
        "except OutboxFileError as error: print('in use' if 'in use' in str(error) else error)\n"
        "else: print('opened')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


async def test_two_processes_do_not_open_one_file(path):
    outbox = await DurableOutbox.open(path)
    assert open_elsewhere(path) == "in use"
    await outbox.append(entry("a"))
    await outbox.close()
    assert open_elsewhere(path) == "opened"
    assert await left(path) == ["a"]


def make_garbage(path):
    path.write_bytes(b"not a database at all " * 500)


def make_empty(path):
    path.touch()


def make_foreign(path):
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE message (record); INSERT INTO message VALUES (1)")
    connection.close()


def make_foreign_in_use(path):
    """A database of something else that was killed: with a log beside it."""
    code = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.executescript('PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, path], timeout=30, check=True)
    assert path.with_name("outbox.db-wal").stat().st_size > 0


def stored(path, count=200):
    file = OutboxFile(path, power_safe=False)
    changes = Changes()
    for n in range(1, count + 1):
        changes.added[n] = (n, f"message {n} " * 20, 1.0, (None, 0, None, 0, 0))
    file.apply(changes)
    file.close()


def make_truncated(path):
    stored(path)
    with path.open("r+b") as raw:
        raw.truncate(path.stat().st_size // 2)


def make_broken_page(path):
    stored(path)
    with path.open("r+b") as raw:
        raw.seek(4096 * 3)
        raw.write(b"\xa5" * 4096)


def make_broken_header(path):
    stored(path)
    with path.open("r+b") as raw:
        raw.write(b"\0" * 100)


def make_lost_page(path):
    """Damage that reading the messages does not meet."""
    stored(path)
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE other (x); PRAGMA writable_schema = 1; DELETE FROM sqlite_master WHERE name = 'other'"
    )
    connection.close()


def make_newer(path):
    stored(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()


def make_other_columns(path):
    stored(path)
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE message DROP COLUMN key")
    connection.close()


@pytest.mark.parametrize(
    "make, problem",
    [
        (make_garbage, "not an outbox file, or is damaged"),
        (make_empty, "not an outbox file"),
        (make_foreign, "not an outbox file"),
        (make_foreign_in_use, "not an outbox file"),
        (make_truncated, "damaged"),
        (make_broken_page, "damaged"),
        (make_lost_page, "damaged: .*never used"),
        (make_broken_header, "not an outbox file, or is damaged"),
        (make_newer, "version 3 of the format, this is version 2"),
        (make_other_columns, "damaged: the columns"),
    ],
)
async def test_a_damaged_or_foreign_file_is_refused_and_left_alone(path, make, problem):
    make(path)
    before = snapshot(path.parent)
    with pytest.raises(OutboxFileError, match=problem) as caught:
        await DurableOutbox.open(path)
    assert repr(str(path)) in str(caught.value)
    after = snapshot(path.parent)
    assert after[path.name] == before[path.name]
    extra = {name for name in after if name not in before}
    assert {name: content for name, content in after.items() if name in before} == before
    assert not extra or "damaged" in problem, "nothing is created beside a foreign file"


@pytest.mark.parametrize("place", ["missing/outbox.db", "."])
async def test_a_place_where_no_file_can_be_is_named(tmp_path, place):
    with pytest.raises(OutboxFileError, match=r"cannot be|not an outbox file") as caught:
        await DurableOutbox.open(tmp_path / place)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__cause__ is not None


async def test_characters_of_a_path_mean_nothing(tmp_path):
    path = tmp_path / "50% off?mode=memory#x.db"
    outbox = await DurableOutbox.open(path)
    await outbox.append(entry("a"))
    await outbox.close()
    assert await left(path) == ["a"]
    assert path.exists()


async def test_a_file_made_by_another_process_meanwhile_is_used(path, monkeypatch):
    real = os.link

    def slower(source, target):
        monkeypatch.setattr(os, "link", real)
        stored(path, 1)
        real(source, target)

    monkeypatch.setattr(os, "link", slower)
    assert len(await left(path)) == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_a_file_system_without_links_will_do(path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    outbox = await DurableOutbox.open(path)
    await outbox.append(entry("a"))
    await outbox.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert await left(path) == ["a"]


@pytest.mark.promise("P8")
@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_a_cancelled_open_leaves_the_file_to_others(path, turns):
    task = asyncio.ensure_future(DurableOutbox.open(path))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while "in use" in (state := open_elsewhere(path)):
        await asyncio.sleep(0.01)
    assert state == "opened"


async def test_a_file_that_cannot_be_read_after_all_is_closed_again(path, monkeypatch):
    stored(path, 1)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE message SET body = CAST(x'ff' AS TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(OutboxFileError, match="cannot be read"):
        await DurableOutbox.open(path)
    while (state := open_elsewhere(path)) == "in use":
        await asyncio.sleep(0.01)
    assert state == "opened"


# ------------------------------------------------------------------------------------------------ no room


async def test_a_full_disk_refuses_the_new_and_keeps_the_old(path):
    outbox = await DurableOutbox.open(path)
    entries = [entry(f"{n}" * 500) for n in range(9)]
    for one in entries:
        await outbox.append(one)
    await fill_up(outbox)
    with pytest.raises(OutboxFileError, match="disk is full") as caught:
        await outbox.append(entry("x" * 50_000))
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert outbox.failure is None, "somebody was told"
    outbox.remove(entries[:4])
    await outbox.flush()
    await outbox.append(entry("small"))
    await outbox.close()
    assert await left(path) == [e.message for e in entries[4:]] + ["small"]


async def test_what_is_settled_makes_room_in_the_same_commit(path):
    outbox = await DurableOutbox.open(path)
    big = entry("x" * 50_000)
    await outbox.append(big)
    await fill_up(outbox)
    outbox.remove([big])
    await outbox.append(entry("y" * 50_000))
    await outbox.close()
    assert await left(path) == ["y" * 50_000]


async def test_a_full_disk_does_not_keep_flags_from_being_stored(path):
    outbox = await DurableOutbox.open(path)
    first = entry("first")
    await outbox.append(first)
    await fill_up(outbox)
    big = asyncio.ensure_future(outbox.append(entry("x" * 50_000)))
    await asyncio.sleep(0)
    outbox.mark([first])
    await outbox.committed()
    with pytest.raises(OutboxFileError, match="disk is full"):
        await big
    await outbox.close()
    assert [(e.message, e.written) for e in await restored(path)] == [("first", True)]


async def test_what_nobody_waits_for_is_kept_and_saved_when_there_is_room(path, monkeypatch):
    monkeypatch.setattr("resilient_ws.delivery.durable.commits._RETRY", 0.01)
    told = []
    outbox = await DurableOutbox.open(path, durability="eventual", on_failure=told.append)
    await outbox.append(entry("first"))
    await outbox.flush()
    await fill_up(outbox)
    big = entry("x" * 50_000)
    await outbox.append(big)
    with pytest.raises(OutboxFileError, match="disk is full"):
        await outbox.flush()
    assert told == [outbox.failure]
    with pytest.raises(OutboxFileError, match="disk is full"):
        await outbox.append(entry("refused"))
    with pytest.raises(OutboxFileError, match="disk is full"):
        await outbox.flush()
    first_failure = outbox.failure
    while outbox.failure is first_failure:
        await asyncio.sleep(0.001)
    assert told == [first_failure], "the second try failed, too, and that is no news"
    await on_thread(outbox, "PRAGMA max_page_count = 1000000")
    while outbox.failure is not None:
        await asyncio.sleep(0.001)
    await outbox.append(entry("last"))
    await outbox.close()
    assert await left(path) == ["first", big.message, "last"]


async def test_what_is_settled_while_it_could_not_be_saved_is_forgotten(path):
    outbox = await DurableOutbox.open(path, durability="eventual")
    await outbox.flush()
    await fill_up(outbox)
    big, small = entry("x" * 50_000), entry("small")
    await outbox.append(big)
    await outbox.append(small)
    with pytest.raises(OutboxFileError):
        await outbox.flush()
    outbox.remove([big])
    await outbox.close()
    assert await left(path) == ["small"]


async def test_what_comes_while_a_commit_fails_follows_it(path):
    outbox = await DurableOutbox.open(path, durability="eventual")
    await outbox.flush()
    await fill_up(outbox)
    big, small, other = entry("x" * 50_000), entry("small"), entry("other")
    outbox.add(big)
    outbox.add(small)
    while not outbox._committing:
        await asyncio.sleep(0)
    outbox.remove([big])
    outbox.add(other, written=True)
    outbox.remove([small])
    while outbox.failure is None:
        await asyncio.sleep(0)
    await outbox.close()
    assert [(e.message, e.written) for e in await restored(path)] == [("other", True)]


async def test_closing_says_what_could_not_be_saved(path):
    outbox = await DurableOutbox.open(path, durability="eventual")
    await outbox.append(entry("first"))
    await outbox.flush()
    await fill_up(outbox)
    await outbox.append(entry("x" * 50_000))
    with pytest.raises(OutboxFileError, match="disk is full"):
        await outbox.close()
    with pytest.raises(OutboxFileError, match="disk is full"):
        await outbox.close()
    assert await left(path) == ["first"]


async def test_a_flag_that_cannot_be_saved_is_said(path):
    outbox = await DurableOutbox.open(path)
    first = entry("first")
    await outbox.append(first)
    await on_thread(outbox, "PRAGMA query_only = 1")
    outbox.mark([first])
    with pytest.raises(OutboxFileError, match="could not be written"):
        await outbox.committed()
    assert outbox.failure is not None
    await on_thread(outbox, "PRAGMA query_only = 0")
    await outbox.close()
    assert [e.written for e in await restored(path)] == [True]


async def test_an_error_that_nobody_foresaw_reaches_the_caller(path):
    outbox = await DurableOutbox.open(path)
    with pytest.raises(OutboxFileError, match="UnicodeEncodeError"):
        await outbox.append(Entry("\ud800", 3, 0.0, False))
    await outbox.append(entry("a"))
    await outbox.close()
    assert await left(path) == ["a"]


# ------------------------------------------------------------------------------------------------ closing


async def test_what_is_refused_is_taken_out_again_wherever_it_is(path):
    outbox = await DurableOutbox.open(path)
    await outbox.append(entry("accepted"))
    gate = Gate(outbox)
    tasks = [asyncio.ensure_future(outbox.append(entry("being committed")))]
    while not outbox._committing:
        await asyncio.sleep(0)
    tasks += [asyncio.ensure_future(outbox.append(entry(name))) for name in ("next", "cancelled")]
    await asyncio.sleep(0)
    tasks[2].cancel()
    outbox.refuse(lambda: RuntimeError("over"))
    outbox.end()
    gate.open()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [RuntimeError, RuntimeError, asyncio.CancelledError]
    await outbox.close()
    assert await left(path) == ["accepted"]


async def test_closing_commits_what_is_left(path):
    outbox = await DurableOutbox.open(path, durability="eventual")
    for n in range(3):
        await outbox.append(entry(str(n)))
    gate = Gate(outbox)
    task = asyncio.ensure_future(outbox.close())
    await asyncio.sleep(0)
    with pytest.raises(OutboxFileError, match="is closed"):
        await outbox.append(entry("late"))
    with pytest.raises(OutboxFileError, match="is closed"):
        await outbox.flush()
    with pytest.raises(OutboxFileError, match="is closed"):
        outbox.committed()
    gate.open()
    await task
    await outbox.close()
    outbox.remove([entry(record=1)])
    assert await left(path) == ["0", "1", "2"]


@pytest.mark.promise("P8")
async def test_a_cancelled_close_goes_on(path):
    outbox = await DurableOutbox.open(path, durability="eventual")
    gate = Gate(outbox)
    await outbox.append(entry("0"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert outbox._committing
    await outbox.append(entry("1"))
    task = asyncio.ensure_future(outbox.close())
    await asyncio.sleep(0)
    task.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    await outbox.close()
    assert await left(path) == ["0", "1"]


def test_a_commit_that_ends_after_the_loop_harms_nobody(path):
    async def begin():
        outbox = await DurableOutbox.open(path, durability="eventual")
        gate = Gate(outbox)
        outbox.add(entry("a"))
        while not outbox._committing:
            await asyncio.sleep(0)
        return outbox, gate

    outbox, gate = asyncio.run(begin())
    gate.open()
    outbox._thread.do(outbox._close, None)
    done = threading.Event()
    outbox._thread.do(done.set, None)
    outbox._thread.end()
    assert done.wait(10)
    assert asyncio.run(left(path)) == ["a"]


# ------------------------------------------------------------------------------------------------ changes

RECORDS = st.integers(1, 12)
STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("mark"), RECORDS, st.booleans()),
    st.tuples(st.just("remove"), RECORDS),
    st.tuples(st.just("commit")),
    st.tuples(st.just("join")),
)


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory):
    file = OutboxFile(tmp_path_factory.mktemp("durable") / "outbox.db", power_safe=False)
    yield file
    file.close()


@given(steps=st.lists(STEPS, max_size=30))
def test_changes_joined_and_committed_in_any_way_come_to_the_same(shared_file, steps):
    shared_file._connection.execute("DELETE FROM message")
    model, last = {}, 0
    earlier, changes = Changes(), Changes()
    for step in steps:
        match step:
            case "add", count, written:
                for _ in range(count):
                    last += 1
                    changes.added[last] = (last, f"m{last}", 1.0, (None, 0, None, 0, written))
                    model[last] = written
            case "mark", record, written:
                if record <= last:  # a record exists before it is marked or settled
                    changes.mark(record, written)
                if record in model:
                    model[record] = written
            case "remove", record:
                if record <= last:
                    changes.remove(record)
                    model.pop(record, None)
            case ("join",):
                earlier.follow(changes)
                changes = Changes()
            case _:
                earlier.follow(changes)
                shared_file.apply(earlier)
                assert not earlier
                changes = Changes()
    earlier.follow(changes)
    shared_file.apply(earlier)
    assert {row[0]: row[7] for row in shared_file.rows()} == model
