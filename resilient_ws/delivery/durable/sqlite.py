"""The outbox file: an SQLite table of accepted messages, used by one process at a time.

Blocks, so it belongs on a thread of its own; `resilient_ws.delivery.durable.commits` is the asynchronous face.

The table is in WAL mode: a commit appends to one file and needs one flush of the disk. With `synchronous=FULL` a
committed message survives a power failure; with `NORMAL` it survives the end of the process in any way, and a
power failure may take the last commits, never the file. The exclusive lock is SQLite's own, which works on every
platform, ends with the process, and also refuses a second opening within the same process. The file is never opened
but through SQLite: closing any other descriptor of it would silently drop that lock.

Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous,
https://www.sqlite.org/howtocorrupt.html section 2.2 (descriptors and locks).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Generator, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from resilient_ws.api.errors import OutboxFileError
from resilient_ws.api.message import Message

APPLICATION_ID = 0x7277736F  # "rwso" in the header of the file says whose it is
SCHEMA_VERSION = 2

_PATIENCE = 0.5  # seconds to wait for another process that looks at the file
_PROBLEMS = {
    sqlite3.SQLITE_BUSY: "is in use by another process or client",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not an outbox file, or is damaged",
    sqlite3.SQLITE_FULL: "has no room: the disk is full",
}

_CREATE_OPENING = """
CREATE TABLE opening (
    number INTEGER PRIMARY KEY,
    boot TEXT,
    offset REAL NOT NULL,
    slept REAL NOT NULL,
    last_offset REAL NOT NULL,
    seen REAL NOT NULL
);
"""
_MIGRATE = f"""
ALTER TABLE message ADD COLUMN opening INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN fate TEXT;
ALTER TABLE message ADD COLUMN place INTEGER;
ALTER TABLE message ADD COLUMN sent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN ends INTEGER NOT NULL DEFAULT 0;
{_CREATE_OPENING}
PRAGMA user_version = {SCHEMA_VERSION};
"""
_CREATE = f"""
PRAGMA journal_mode = DELETE;
BEGIN;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE message (
    record INTEGER PRIMARY KEY,
    body NOT NULL,
    accepted_at REAL NOT NULL,
    expires_at REAL,
    priority INTEGER NOT NULL,
    key TEXT,
    resend INTEGER NOT NULL,
    written INTEGER NOT NULL,
    opening INTEGER NOT NULL DEFAULT 0,
    fate TEXT,
    place INTEGER,
    sent INTEGER NOT NULL DEFAULT 0,
    ends INTEGER NOT NULL DEFAULT 0
);
{_CREATE_OPENING}
COMMIT;
PRAGMA journal_mode = WAL;
"""
_COLUMNS_1 = ("record", "body", "accepted_at", "expires_at", "priority", "key", "resend", "written")
_COLUMNS = {1: _COLUMNS_1, SCHEMA_VERSION: (*_COLUMNS_1, "opening", "fate", "place", "sent", "ends")}

_INSERT_INTO = f"INSERT INTO message ({', '.join(_COLUMNS_1)}, opening) "
_ALIKE = "SELECT own.*, alike.*, {} FROM (VALUES (?, ?, ?, ?, ?)) AS alike CROSS JOIN (VALUES "
_AT_ONCE = 50
"""Rows in one statement; an old SQLite allows 999 values. To hand over a value takes longer than to store it, so what
rows have in common is handed over once: 1,000 rows take 0.6 ms, one by one 2 ms. The values have no numbers, since
Python 3.14 takes no sequence for values that have, and 3.12 warns."""
_FEW = 2
"""Up to so many rows the join that this takes costs more than it saves."""

_NOTE: Final = {
    "fate": "UPDATE message SET fate = ? WHERE record = ?",
    "place": "UPDATE message SET place = ? WHERE record = ?",
    "sent": "UPDATE message SET sent = ? WHERE record = ?",
    "ends": "UPDATE message SET ends = ? WHERE record = ?",
}

Rest = tuple[float | None, int, str | None, int, int]
"""What most messages have in common: when it expires (seconds since the epoch, `None` = never), its priority and key,
whether to send it again, and whether it may have been written (0 or 1: SQLite takes a `bool` twice as slowly)."""

Row = tuple[int, Message, float, Rest]
"""A message to be stored: record, body (`str` as TEXT, `bytes` as BLOB), when it was accepted (seconds since the epoch),
and the rest."""

Stored = tuple[int, Message, float, float | None, int, str | None, bool, bool]
"""A message as it is stored: the same in one row."""

Note = Literal["fate", "place", "sent", "ends"]
"""What is noted of a message beside: its fate, once that is decided; the record in whose place it is sent; how many times it
was sent on connections that ended without confirming it, and how many of those ended in a way that it may have caused."""


class Opening(NamedTuple):
    """One opening of the file, and the clocks of the process that had it open.

    Attributes:
        boot: Names the running of the machine between two starts of it; `None` = not known.
        offset: What was added to boot time to get the times in the rows.
        slept: By how much boot time was ahead of the clock that stops while the machine is suspended.
        last_offset: The offset of the time of day to boot time, as last seen: it changes when the clock is set.
        seen: When that was, as the times in the rows.
    """

    boot: str | None
    offset: float
    slept: float
    last_offset: float
    seen: float


class Changes:
    """What is to be changed in the file in one transaction; of several changes to a record the last one counts.

    Attributes:
        added: Rows by their record.
        marked: Whether a message may have been written, by record.
        removed: Records that go.
        notes: What is noted beside, by what it is and by record.
        clock: The last two fields of the `Opening` of now; `None` = unchanged.
    """

    __slots__ = ("added", "clock", "marked", "notes", "removed")

    def __init__(self) -> None:
        self.added: dict[int, Row] = {}
        self.marked: dict[int, bool] = {}
        self.removed: set[int] = set()
        self.notes: dict[Note, dict[int, str | int]] = {}
        self.clock: tuple[float, float] | None = None

    def __bool__(self) -> bool:
        return bool(self.added or self.marked or self.removed or self.notes)

    def note(self, what: Note, record: int, value: str | int) -> None:
        """Note something of a message."""
        self.notes.setdefault(what, {})[record] = value

    def mark(self, record: int, written: bool) -> None:
        """Note whether the message may have been written."""
        row = self.added.get(record)
        if row is not None:
            self.added[record] = (*row[:-1], (*row[-1][:-1], int(written)))
        else:
            self.marked[record] = written

    def remove(self, record: int) -> None:
        """Note that the message goes; one that was only noted to be added is never stored."""
        if self.added.pop(record, None) is None:
            self.marked.pop(record, None)
            self.removed.add(record)

    def follow(self, later: Changes) -> None:
        """Take over changes that came after these."""
        self.added.update(later.added)
        for record, written in later.marked.items():
            self.mark(record, written)
        for what, values in later.notes.items():
            self.notes.setdefault(what, {}).update(values)
        for record in later.removed:
            self.remove(record)


class OutboxFile:
    """An open file, held by this object alone.

    Args:
        path: Where it is, or is to be made, in a directory that exists. SQLite keeps another file beside it, `-wal`.
        power_safe: Whether a commit waits for the disk, so that it survives a power failure.

    Raises:
        OutboxFileError: The file belongs to something else, is damaged, of another version or in use; it is left as
            it is. Or it cannot be made, read or written.
    """

    def __init__(self, path: str | os.PathLike[str], *, power_safe: bool) -> None:
        self.path = Path(os.path.realpath(path))
        if not self.path.exists():
            with _translated(self.path, "cannot be made"):
                _create(self.path)
        _check(self.path)
        with _translated(self.path, "cannot be opened"), contextlib.ExitStack() as undo:
            connection = undo.enter_context(contextlib.closing(_connect(self.path, "mode=rw")))
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
            connection.execute(f"PRAGMA fullfsync = {power_safe:d}")
            connection.execute("BEGIN EXCLUSIVE")
            if _version(connection) == SCHEMA_VERSION:
                connection.execute("COMMIT")
            else:
                _migrate(connection)
            # The lock keeps this index in memory. The check has left one in a file, which no longer has an owner.
            Path(f"{self.path}-shm").unlink(missing_ok=True)
            undo.pop_all()
        self._connection = connection
        self._opening = 0
        self._opened = Opening(None, 0.0, 0.0, 0.0, 0.0)

    def openings(self) -> dict[int, Opening]:
        """Return the earlier openings of which there are messages."""
        with _translated(self.path, "cannot be read"):
            found = _read(
                self._connection,
                "SELECT * FROM opening WHERE number IN (SELECT DISTINCT opening FROM message)",
            )
        return {row[0]: Opening(*row[1:]) for row in found}

    def begin(self, opening: Opening) -> None:
        """Note the clocks for what is stored from now on."""
        with _translated(self.path, "could not be written"):
            ((last,),) = _read(self._connection, "SELECT coalesce(max(number), 0) FROM opening")
            execute = self._connection.execute
            execute("BEGIN IMMEDIATE")
            execute("DELETE FROM opening WHERE number NOT IN (SELECT DISTINCT opening FROM message)")
            execute("INSERT INTO opening VALUES (?, ?, ?, ?, ?, ?)", (last + 1, *opening))
            execute("COMMIT")
        self._opening, self._opened = last + 1, opening

    def notes(self) -> dict[int, tuple[int, str | None, int | None, int, int]]:
        """Return the opening, the fate, the place, and the numbers of sendings and end, by record."""
        with _translated(self.path, "cannot be read"):
            found = _read(self._connection, "SELECT record, opening, fate, place, sent, ends FROM message")
        return {row[0]: row[1:] for row in found}

    def rows(self) -> list[Stored]:
        """Return every message, in the order of the records, or of those whose places they took."""
        columns, order = ", ".join(_COLUMNS_1), "coalesce(place, record), record"
        with _translated(self.path, "cannot be read"):
            found = _read(self._connection, f"SELECT {columns} FROM message ORDER BY {order}")  # noqa: S608 - ours
        return [(*row[:6], bool(row[6]), bool(row[7])) for row in found]

    def apply(self, changes: Changes) -> None:
        """Make the changes in one commit and empty `changes`.

        If that fails, what goes and what is marked is committed before what is added: it may make the room for it.

        Raises:
            OutboxFileError: `changes` holds what was not made; what had been stored before is there.
        """
        try:
            self._commit(changes.removed, changes.marked, changes.added, changes.notes, changes.clock)
            changes.clock = None
        except sqlite3.Error:
            with _translated(self.path, "could not be written"):
                self._commit(changes.removed, changes.marked, {})
                self._commit(set(), {}, changes.added, changes.notes)

    def close(self) -> None:
        """Bring everything into the one file and give up the lock."""
        self._connection.close()

    def _commit(
        self,
        removed: set[int],
        marked: dict[int, bool],
        added: dict[int, Row],
        notes: dict[Note, dict[int, str | int]] | None = None,
        clock: tuple[float, float] | None = None,
    ) -> None:
        if not (removed or marked or added or notes or clock):
            return
        execute, executemany = self._connection.execute, self._connection.executemany
        execute("BEGIN IMMEDIATE")
        try:
            executemany("DELETE FROM message WHERE record BETWEEN ? AND ?", _ranges(removed))
            for written in (False, True):
                ranges = _ranges(record for record, value in marked.items() if value is written)
                flags = ((written, first, last) for first, last in ranges)
                executemany("UPDATE message SET written = ? WHERE record BETWEEN ? AND ?", flags)
            rows = list(added.values())
            for start in range(0, len(rows), _AT_ONCE):
                self._insert(rows[start : start + _AT_ONCE])
            for what, values in notes.items() if notes else ():
                executemany(_NOTE[what], ((value, record) for record, value in values.items()))
            if clock is not None:
                self._note_clock(*clock)
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # some failures have ended it already
                execute("ROLLBACK")
            raise
        removed.clear()
        marked.clear()
        added.clear()
        if notes:
            notes.clear()

    def _note_clock(self, last_offset: float, seen: float) -> None:
        """Return the clock readings of all openings since the machine booted."""
        since = seen - self._opened.offset
        self._connection.execute(
            "UPDATE opening SET last_offset = ?, seen = ? + offset WHERE number = ? OR boot = ?",
            (last_offset, since, self._opening, self._opened.boot),
        )

    def _insert(self, rows: list[Row]) -> None:
        rests = [row[3] for row in rows]
        if len(rows) > _FEW and rests.count(rests[0]) == len(rests):
            values: list[object] = [*rests[0]]
            for row in rows:
                values += row[:3]
            self._connection.execute(_insert_alike(len(rows), self._opening), values)
        else:
            self._connection.executemany(_insert_any(self._opening), ((*row[:3], *row[3]) for row in rows))


@cache
def _insert_any(opening: int) -> str:
    """Return the statement that stores a row."""
    return f"{_INSERT_INTO} VALUES (?, ?, ?, ?, ?, ?, ?, ?, {opening})"


@cache
def _insert_alike(rows: int, opening: int) -> str:
    """Return the statement that stores rows that have the rest in common: its five values, then three for each."""
    return _INSERT_INTO + _ALIKE.format(opening) + ", ".join(["(?, ?, ?)"] * rows) + ") AS own"


def _version(connection: sqlite3.Connection) -> int:
    ((version,),) = _read(connection, "PRAGMA user_version")
    return int(version)


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring a file of version 1 to this one, in the transaction that has begun."""
    for statement in _MIGRATE.split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("COMMIT")


def _ranges(records: Iterable[int]) -> list[tuple[int, int]]:
    """Return the records as ranges, first and last included: messages are confirmed in long runs."""
    found: list[tuple[int, int]] = []
    ordered = sorted(records)
    if ordered and ordered[-1] - ordered[0] == len(ordered) - 1:
        return [(ordered[0], ordered[-1])]
    for record in ordered:
        if found and found[-1][1] == record - 1:
            found[-1] = (found[-1][0], record)
        else:
            found.append((record, record))
    return found


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=_PATIENCE, isolation_level=None)


def _read(connection: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    """Return all rows; a cursor left open would keep the file open, and locked, beyond the connection's end."""
    with contextlib.closing(connection.execute(query)) as cursor:
        return cursor.fetchall()


def _create(path: Path) -> None:
    """Make the file complete or not at all, readable by its owner alone."""
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    os.close(descriptor)
    try:
        with contextlib.closing(_connect(Path(name), "mode=rw")) as connection:
            connection.executescript(_CREATE)
        try:
            os.link(name, path)
        except FileExistsError:  # another process was faster: then there is one
            return
        except OSError:  # a file system without links
            Path(name).rename(path)
    finally:
        Path(name).unlink(missing_ok=True)
    with contextlib.suppress(PermissionError):  # where a directory cannot be opened it needs no flush
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def _check(path: Path) -> None:
    """Raise `OutboxFileError` unless the file is an intact outbox; changes nothing in it.

    The first look takes no lock and creates no file beside it.
    """
    with _translated(path, "cannot be read"), contextlib.closing(_connect(path, "immutable=1")) as connection:
        ((application,),) = _read(connection, "PRAGMA application_id")
        ((version,),) = _read(connection, "PRAGMA user_version")
    if application != APPLICATION_ID:
        raise OutboxFileError(path, "is not an outbox file")
    if version not in _COLUMNS:
        raise OutboxFileError(path, f"has version {version} of the format, this is version {SCHEMA_VERSION}")
    with _translated(path, "cannot be read"), contextlib.closing(_connect(path, "mode=ro")) as connection:
        ((complaint,),) = _read(connection, "PRAGMA integrity_check(1)")
        columns = tuple(name for _, name, *_ in _read(connection, "PRAGMA table_info(message)"))
    if complaint != "ok":
        raise OutboxFileError(path, f"is damaged: {complaint.splitlines()[-1]}")
    if columns != _COLUMNS[version]:
        raise OutboxFileError(path, f"is damaged: the columns are {columns}")


@contextlib.contextmanager
def _translated(path: Path, what: str) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind, the rest says more
        raise OutboxFileError(path, _PROBLEMS.get(code, f"{what}: {error}")) from error
    except OSError as error:
        raise OutboxFileError(path, f"{what}: {error.strerror or error}") from error
