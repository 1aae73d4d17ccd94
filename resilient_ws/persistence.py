"""What a client keeps in its outbox file of each accepted message, from its acceptance until its fate is known.

The seam between the sender, which knows connections and no disk, and `resilient_ws.durable`, which knows the disk and
no connections. A client without a file has none of this.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from resilient_ws.durable import DurableOutbox
from resilient_ws.errors import OutboxFileError, ResilientWSError
from resilient_ws.options import Durability
from resilient_ws.outbox import Entry

log = logging.getLogger("resilient_ws")


class Persistence:
    """The file of one client.

    Args:
        path: Where it is, or is to be made.
        durability: Whether `keep` waits for the disk.
        failed: Called when something that no call waits for could not be saved, once until it is.
    """

    def __init__(
        self, path: str, durability: Durability, *, failed: Callable[[OutboxFileError], object]
    ) -> None:
        self._path = path
        self._durability: Durability = durability
        self._failed = failed
        self._outbox: DurableOutbox | None = None
        self._freed: asyncio.Future[None] | None = None  # after an opening that did not succeed
        self._flagging: list[Entry] = []

    @property
    def is_open(self) -> bool:
        """Whether messages can be kept."""
        return self._outbox is not None

    async def open(self) -> list[Entry]:
        """Opens the file and returns what an earlier client left, in order; safe to cancel.

        Raises:
            OutboxFileError: It cannot be used, and is left as it is.
        """
        loop = asyncio.get_running_loop()
        self._freed = loop.create_future()
        outbox = await DurableOutbox.open(
            self._path,
            durability=self._durability,
            offset=time.time() - loop.time(),
            on_failure=self._failed,
            freed=self._freed,
        )
        self._outbox, self._freed = outbox, None
        restored, outbox.restored = outbox.restored, []
        for entry in restored:
            entry.flagged = entry.written
        return restored

    @property
    def _file(self) -> DurableOutbox:
        assert self._outbox is not None, "nothing is kept before the file is open"
        return self._outbox

    def keep(self, entry: Entry, *, flagged: bool) -> Awaitable[None]:
        """Stores a message, which is accepted when what this returns is done; cancelled before, it is not.

        Args:
            entry: The message.
            flagged: Whether it is to be written at once.

        Raises:
            OutboxFileError: It could not be stored.
        """
        entry.flagged = flagged
        return self._file.append(entry, written=flagged)

    def refuse(self, error: Callable[[], ResilientWSError]) -> None:
        """Ends every `keep` that waits with an exception."""
        if self._outbox is not None:
            self._outbox.refuse(error)

    def may_write(self, entry: Entry) -> bool:
        """Whether `entry` may be handed to the socket: it is flagged, or sending it twice is what the program wants."""
        return entry.flagged or entry.resend or entry.record is None

    def flag(self, entries: Iterable[Entry], then: Callable[[], None]) -> None:
        """Flags what is about to be written.

        Args:
            entries: Whatever waits.
            then: Called when the disk has the flags of those that must not be written before; not if there are none.
        """
        unflagged = [entry for entry in entries if entry.record is not None and not entry.flagged]
        self._file.mark(unflagged)
        for entry in unflagged:
            entry.flagged = entry.resend
        if not self._flagging:
            self._flagging = [entry for entry in unflagged if not entry.resend]
            if self._flagging:
                self._wait_for_flags(then)

    def _wait_for_flags(self, then: Callable[[], None]) -> None:
        self._file.committed().add_done_callback(lambda commit: self._flags_committed(commit, then))

    def _flags_committed(self, commit: asyncio.Future[None], then: Callable[[], None]) -> None:
        if commit.exception() is None:
            for entry in self._flagging:
                entry.flagged = True
            self._flagging = []
            then()
        elif self._file.is_open:
            self._wait_for_flags(then)  # it is tried again each second

    def align(self, entries: Sequence[Entry]) -> None:
        """Flags exactly those that have been written: what waits, when there is nothing to write it to."""
        for written in (True, False):
            wrong = [entry for entry in entries if entry.written is written and entry.flagged is not written]
            for entry in wrong:
                entry.flagged = written
            if wrong:
                self._file.mark(wrong, written=written)

    def forget(self, entries: Iterable[Entry]) -> None:
        """What became of these messages is known."""
        if self._outbox is not None:
            self._outbox.remove(entries)

    def end(self) -> None:
        """Begins to close the file; what is left in it waits for the next client."""
        if self._outbox is not None:
            self._outbox.end()

    async def close(self) -> None:
        """Returns when the file is closed and free for others."""
        if self._outbox is None:
            if self._freed is not None:
                await asyncio.shield(self._freed)
            return
        try:
            await self._outbox.close()
        except OutboxFileError as error:
            log.error("what became of messages could not be noted: %s", error)  # noqa: TRY400 - it says all
