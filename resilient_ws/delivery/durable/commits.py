"""Commits of the outbox file: accepted messages survive the end of the process until they are settled.

Knows no connection and no queue: it stores entries, flags those that may have been written, and forgets those whose
fate is known. One thread works on the file. What a turn of the loop asks for, and what comes while a commit is under
way, makes one commit.

Write-ahead invariant: a message is flagged in the file *before* it is handed to the socket. If the process dies, an
unflagged message was certainly never written, so the next process can send it without duplicates. A flagged message may
or may not have been written.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from resilient_ws.api.errors import OutboxFileError
from resilient_ws.api.options import Durability
from resilient_ws.core.priority_queue import PLAIN, Entry
from resilient_ws.delivery.durable.sqlite import Changes, Note, Opening, OutboxFile, Rest

_RETRY = 1.0  # seconds until what could not be saved is tried again
ABANDON_TIMEOUT = 5.0
"""Seconds for a file to be closed whose event loop was closed without its client."""

SEEN_EVERY = 10.0
"""Seconds after which the file is told what the clocks show, with the next commit."""

STEP = 1.0
"""Seconds by which the time of day has to be set for the file to be told at once."""

Clocks = Callable[[], Opening]
"""Returns the current clock readings."""

_STORABLE = range(-(2**63), 2**63)  # priorities that SQLite can hold
_PLAIN: tuple[
    tuple[Rest, Rest], tuple[Rest, Rest]
] = (  # by whether to send it again, and whether it is flagged
    ((None, PLAIN, None, 0, 0), (None, PLAIN, None, 0, 1)),
    ((None, PLAIN, None, 1, 0), (None, PLAIN, None, 1, 1)),
)


class DurableOutbox:
    """The accepted messages of one client in a file. Made by `open`, for the event loop that runs then.

    Attributes:
        restored: What an earlier process left, in the order accepted; flagged as `written` is what may have been.
        stepped_back: Seconds by which the time of day is behind that of the last client, which the file knows; 0 = it is not.
        failure: Why the last commit failed, while something is unsaved for which no call waits; else `None`. It is
            tried again each second, and nothing more is accepted until it is saved.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        durability: Durability,
        offset: float,
        on_failure: Callable[[OutboxFileError], object] | None,
        clocks: Clocks | None = None,
    ) -> None:
        self.restored: list[Entry] = []
        self.failure: OutboxFileError | None = None
        self._path = Path(path)
        self._durability: Durability = durability
        self._offset = offset
        self._clocks = clocks
        self._opened = clocks() if clocks is not None else None
        self._noted: tuple[float, float] = (math.nan, -math.inf)  # of the clocks
        self.stepped_back = 0.0
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._thread = _Thread(self._loop)
        self._file: OutboxFile | None = None
        self._last = 0  # the highest record
        self._batch = _Batch()  # what goes into the next commit
        self._committing: _Batch | None = None  # what goes into the one under way
        self._timer: asyncio.Handle | None = None
        self._closed: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "accepted",
        offset: float = 0.0,
        on_failure: Callable[[OutboxFileError], object] | None = None,
        freed: asyncio.Future[None] | None = None,
        clocks: Clocks | None = None,
    ) -> Self:
        """Open the file, makes it if there is none, and read what is in it. Safe to cancel.

        Args:
            path: The file, in a directory that exists.
            durability: Whether `append` waits until the message is on the disk. With `eventual` a power failure may
                also take what was committed last.
            offset: Seconds to add to the caller's clock to get those since the epoch.
            on_failure: Called once when a change without a waiter could not be saved, until it is.
            freed: Done when the file is free again, if it could not be opened or the call was cancelled.
            clocks: Tells the clocks, so that what they did between two openings is known; `None` = only the time of day counts.

        Raises:
            OutboxFileError: The file is damaged, not an outbox or in use, and is left as it is; or it cannot be
                made, read or written.
        """
        outbox = cls(path, durability, offset, on_failure, clocks)
        opened = outbox._loop.create_future()
        outbox._thread.do(outbox._open, partial(_settle, opened))
        try:
            await opened
        except BaseException:
            # Cancelled or not: what was opened, or is being opened, is closed by the same thread afterwards.
            outbox._thread.do(outbox._close, None if freed is None else lambda _: _settle(freed, None))
            outbox._thread.end()
            raise
        return outbox

    @property
    def is_open(self) -> bool:
        """Whether `end` or `close` has not been called yet."""
        return self._closed is None

    def add(self, entry: Entry, *, written: bool = False) -> None:
        """Give `entry` a record and store it soon.

        Args:
            entry: An accepted message.
            written: Whether it is handed to the socket as soon as it is stored, so that it is stored as flagged.

        Raises:
            ValueError: The key is no valid Unicode, or the priority is not within 64 bits.
            OutboxFileError: The outbox is closed, or there is a `failure`.
        """
        if self._closed is not None or self.failure is not None:
            self._check_open()
            self._check_saved()
        if entry.expires_at == math.inf and entry.key is None and not entry.priority:
            rest = _PLAIN[entry.resend][written]
        else:
            rest = self._rest(entry, written)
        self._last = entry.record = record = self._last + 1
        self._batch.changes.added[record] = (record, entry.message, entry.accepted_at + self._offset, rest)
        if self._timer is None:
            self._wake()

    def _rest(self, entry: Entry, written: bool) -> Rest:
        if entry.priority not in _STORABLE:
            raise ValueError(f"priority must be an int of 64 bits with an outbox file, got {entry.priority}")
        if entry.key is not None:
            entry.key.encode()
        expires_at = None if entry.expires_at == math.inf else entry.expires_at + self._offset
        return expires_at, entry.priority, entry.key, int(entry.resend), int(written)

    async def append(self, entry: Entry, *, written: bool = False) -> None:
        """Store `entry`: with `accepted` it returns after the commit, with `eventual` at once.

        Cancelled or refused, it is as if it had not been called: the message is taken out again.

        Args:
            entry: A message that is accepted when this returns.
            written: As for `add`.

        Raises:
            ValueError: As `add`.
            OutboxFileError: The message was not stored: the disk is full or broken, the outbox is closed, or there
                is a `failure`. What was stored before is safe.
        """
        self.add(entry, written=written)
        if self._durability == "eventual":
            return
        record = self._last
        waiter = self._batch.appends[record] = self._loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self._batch.changes.remove(record)
            self._wake()
            raise

    def refuse(self, error: Callable[[], Exception]) -> None:
        """End every `append` that waits with an exception; their messages are taken out again."""
        for batch in (self._committing, self._batch):
            for record, waiter in batch.appends.items() if batch is not None else ():
                if not waiter.done():
                    waiter.set_exception(error())
                    self._batch.changes.remove(record)
        self._wake()

    def mark(self, entries: Iterable[Entry], *, written: bool = True) -> None:
        """Flag stored entries with the next commit; do nothing after `end`.

        Args:
            entries: What is about to be handed to the socket, or turned out not to have been.
            written: Whether they may have been written from now on.
        """
        for entry in entries:
            if entry.record is not None:
                self._batch.changes.mark(entry.record, written)
        self._wake()

    def note(self, what: Note, record: int, value: str | int) -> None:
        """Note something of a stored entry soon. After `end` nothing happens."""
        self._batch.changes.note(what, record, value)
        if self._timer is None:
            self._wake()

    def remove(self, entries: Iterable[Entry]) -> None:
        """Forget stored entries soon: their fate is known. After `end` nothing happens."""
        self.remove_records(entry.record for entry in entries if entry.record is not None)

    def remove_records(self, records: Iterable[int]) -> None:
        """Forget stored entries soon, as `remove`."""
        remove = self._batch.changes.remove
        for record in records:
            remove(record)
        if self._timer is None:
            self._wake()

    def committed(self) -> asyncio.Future[None]:
        """Return a future that is done when everything asked for before is on the disk.

        Its exception is an `OutboxFileError`: something could not be saved, and is tried again each second.

        Raises:
            OutboxFileError: The outbox is closed.
        """
        self._check_open()
        waiter = self._loop.create_future()
        self._batch.waiters.append(waiter)
        self._wake()
        return waiter

    async def flush(self) -> None:
        """Return when everything asked for before is committed.

        Raises:
            OutboxFileError: Something of it could not be saved, or the outbox is closed.
        """
        self._check_open()
        self._check_saved()
        await self.committed()
        self._check_saved()

    def end(self) -> None:
        """Begin to close: nothing more is taken, what is left is committed."""
        if self._closed is not None:
            return
        self._closed = self._loop.create_future()
        if self._timer is not None:
            self._timer.cancel()
        if self._committing is None:
            self._hand_over()

    async def close(self) -> None:
        """Commit what is left, closes the file and give up the lock. Cancelled, it is done nevertheless.

        Raises:
            OutboxFileError: Not everything could be saved.
        """
        self.end()
        assert self._closed is not None
        await asyncio.shield(self._closed)
        self._check_saved()

    # ------------------------------------------------------------------------------------------ commits

    def _check_open(self) -> None:
        if self._closed is not None:
            raise OutboxFileError(self._path, "is closed")

    def _check_saved(self) -> None:
        if self.failure is not None:
            raise OutboxFileError(self._path, self.failure.problem) from self.failure

    def _wake(self) -> None:
        if self._timer is None and self._committing is None and self._closed is None:
            self._timer = self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        assert self._file is not None
        self._timer = None
        batch, self._batch = self._batch, _Batch()
        self._committing = batch
        self._note_clocks(batch)
        self._thread.do(partial(self._file.apply, batch.changes), partial(self._committed, batch))

    def _note_clocks(self, batch: _Batch) -> None:
        if self._clocks is None:
            return
        clock = self._clocks()
        last_offset, seen = self._noted
        stepped = not abs(clock.last_offset - last_offset) < STEP
        if stepped or clock.seen - seen >= SEEN_EVERY or self._closed is not None:
            self._noted = batch.changes.clock = (clock.last_offset, clock.seen)

    def _committed(self, batch: _Batch, error: Exception | None) -> None:
        self._committing = None
        if error is not None and not isinstance(error, OutboxFileError):
            error = OutboxFileError(self._path, f"could not be written: {error!r}")
        batch.settle(error)
        failed_before = self.failure is not None
        self.failure = error if batch.changes else None
        if self.failure is not None:
            batch.changes.follow(self._batch.changes)
            self._batch.changes = batch.changes
            if not failed_before and self._on_failure is not None:
                self._on_failure(self.failure)
        if self._closed is not None:
            if self.failure is None and self._batch:
                self._hand_over()
            else:
                self._finish()
        elif self.failure is not None:
            self._timer = self._loop.call_later(_RETRY, self._hand_over)
        elif self._batch:
            self._hand_over()

    def _finish(self) -> None:
        self._thread.do(self._close, self._finished)
        self._thread.end()

    def _finished(self, _: Exception | None) -> None:
        assert self._closed is not None
        self._closed.set_result(None)  # also after an error: what was committed is safe beside the file, too

    # ------------------------------------------------------------------------------------------ on the thread

    def _open(self) -> None:
        name = os.path.realpath(self._path)
        with _HOLDERS_LOCK:
            holder = _HOLDERS.get(name)
        if holder is not None and holder.is_orphaned:
            holder.abandon()
        file = self._file = OutboxFile(self._path, power_safe=self._durability == "accepted")
        notes, openings = file.notes(), file.openings()
        for record, message, accepted_at, expires_at, priority, key, resend, written in file.rows():
            self._last = max(self._last, record)
            opening, fate, place, sent, ends = notes[record]
            accepted = self._on_our_clock(accepted_at, openings.get(opening))
            entry = Entry(
                message,
                len(message.encode() if isinstance(message, str) else message),
                accepted,
                resend,
                expires_at=math.inf if expires_at is None else accepted + (expires_at - accepted_at),
                priority=priority,
                key=key,
                record=record,
                written=written,
            )
            entry.fate = fate
            entry.place = place
            entry.sent = sent + written
            entry.ends = ends
            self.restored.append(entry)
        if self._opened is not None:
            file.begin(self._opened)
        with _HOLDERS_LOCK:
            _HOLDERS[name] = self

    @property
    def is_orphaned(self) -> bool:
        """Whether its event loop was closed, so that nothing more comes."""
        return self._loop.is_closed()

    def abandon(self) -> None:
        """Commit what is left and give up the lock; called from another thread, after the event loop was closed."""
        free = threading.Event()
        self._thread.do(self._leave, None)
        self._thread.do(free.set, None)
        self._thread.end()
        free.wait(ABANDON_TIMEOUT)

    def _leave(self) -> None:
        try:
            if self._file is not None:
                self._file.apply(self._batch.changes)
        finally:
            self._close()

    def _on_our_clock(self, stored: float, opening: Opening | None) -> float:
        """Return when a message was accepted, as the caller's clock would have shown it.

        While the machine ran through, boot time tells. Otherwise the time of day has to do, as it was known last, and it is no
        earlier now than it was then.
        """
        ours = self._opened
        if ours is None or opening is None:
            return stored - self._offset
        now = ours.seen - ours.offset
        if ours.boot is not None and ours.boot == opening.boot:
            boot_age = now - (stored - opening.offset)
            running_age = (now - ours.slept) - (stored - opening.offset - opening.slept)
            return now - max(boot_age, running_age, 0.0)
        change = opening.last_offset - opening.offset
        wall, last_seen = now + ours.last_offset, opening.seen + change
        self.stepped_back = max(self.stepped_back, last_seen - wall)
        return now - max(0.0, max(wall, last_seen) - (stored + change))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


_HOLDERS: weakref.WeakValueDictionary[str, DurableOutbox] = weakref.WeakValueDictionary()
"""Who has a file open in this process, by its real path."""

_HOLDERS_LOCK = threading.Lock()


class _Batch:
    """The changes of one commit, and their waiters."""

    __slots__ = ("appends", "changes", "waiters")

    def __init__(self) -> None:
        self.changes = Changes()
        self.appends: dict[int, asyncio.Future[None]] = {}
        self.waiters: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self.changes or self.waiters)

    def settle(self, error: OutboxFileError | None) -> None:
        """Resolve the waiters of a commit; of unsaved changes, only those without a waiter are kept."""
        changes = self.changes
        if not changes.added:
            for waiter in self.appends.values():
                if not waiter.done():
                    waiter.set_result(None)
        else:
            for record, waiter in self.appends.items():
                _settle(waiter, error if changes.added.pop(record, None) is not None else None)
        for waiter in self.waiters:
            _settle(waiter, error if changes.removed or changes.marked else None)


def _settle(waiter: asyncio.Future[None], error: Exception | None) -> None:
    if waiter.done():  # cancelled meanwhile
        return
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)


def _raised_by(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - any exception is passed on to the waiters
        return error
    return None


class _Thread:
    """A thread that does one thing after the other and tells the loop; quicker than an executor by half.

    It does not keep the process from ending: SQLite holds a commit that is cut off for one that never was.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        threading.Thread(target=self._run, name="resilient_ws:outbox", daemon=True).start()

    def do(self, work: Callable[[], object], done: Callable[[Exception | None], object] | None) -> None:
        """Do `work` after what it was given before; `done` is called on the loop with what it raised, or `None`."""
        self._tasks.put((work, done))

    def end(self) -> None:
        """End the thread when all is done."""
        self._tasks.put(None)

    def _run(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        task = self._tasks.get()
        if task is None:
            return False
        work, done = task
        raised = _raised_by(work)
        if done is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits
                self._loop.call_soon_threadsafe(done, raised)
        return True


_Task = tuple[Callable[[], object], Callable[[Exception | None], object] | None]
