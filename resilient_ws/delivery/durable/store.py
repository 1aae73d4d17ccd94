"""The records of one client in its outbox file, from acceptance until settled.

The seam between the sender, which knows connections and no disk, and `resilient_ws.delivery.durable.commits`, which knows the disk and
no connections. A client without a file has none of this.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence

from resilient_ws.aio.clocks import SteadyClock, boot_id, wall_time
from resilient_ws.api.errors import OutboxFileError, ResilientWSError
from resilient_ws.api.options import Durability
from resilient_ws.core.delivery import Entry
from resilient_ws.delivery.durable.commits import DurableOutbox
from resilient_ws.delivery.durable.sqlite import Opening

log = logging.getLogger("resilient_ws")


class Persistence:
    """The file of one client.

    Args:
        path: Where it is, or is to be made.
        durability: Whether `keep` waits for the disk.
        clock: Which time the entries have.
        drops: Whether messages that wait may be evicted for others.
        failed: Called when something that no call waits for could not be saved, once until it is.
    """

    def __init__(
        self,
        path: str,
        durability: Durability,
        *,
        clock: SteadyClock,
        drops: bool,
        failed: Callable[[OutboxFileError], object],
    ) -> None:
        self._path = path
        self._durability: Durability = durability
        self._failed = failed
        self._clock = clock
        self._drops = drops
        self._offset = 0.0
        self._boot: str | None = None
        self._outbox: DurableOutbox | None = None
        self._freed: asyncio.Future[None] | None = None  # after an opening that did not succeed
        self._flagging: list[Entry] = []

    @property
    def is_open(self) -> bool:
        """Whether messages can be kept."""
        return self._outbox is not None

    async def open(self) -> list[Entry]:
        """Open the file and return what an earlier client left, in order; safe to cancel.

        Raises:
            OutboxFileError: It cannot be used, and is left as it is.
        """
        self._freed = asyncio.get_running_loop().create_future()
        self._offset = wall_time() - self._clock()
        self._boot = boot_id()
        outbox = await DurableOutbox.open(
            self._path,
            durability=self._durability,
            offset=self._offset,
            on_failure=self._failed,
            freed=self._freed,
            clocks=self._clocks,
        )
        self._outbox, self._freed = outbox, None
        restored, outbox.restored = outbox.restored, []
        for entry in restored:
            entry.flagged = entry.written
        return restored

    def _clocks(self) -> Opening:
        now = self._clock()
        return Opening(self._boot, self._offset, self._clock.slept, wall_time() - now, now + self._offset)

    @property
    def stepped_back(self) -> float:
        """Seconds by which the time of day was behind that of the last client at the opening; 0 = it was not."""
        return self._file.stepped_back

    @property
    def _file(self) -> DurableOutbox:
        assert self._outbox is not None, "nothing is kept before the file is open"
        return self._outbox

    def keep(self, entry: Entry, *, flagged: bool) -> Awaitable[None]:
        """Store a message, which is accepted when what this returns is done; cancelled before, it is not.

        Args:
            entry: The message.
            flagged: Whether it is to be written at once.

        Raises:
            OutboxFileError: It could not be stored.
        """
        entry.flagged = flagged
        return self._file.append(entry, written=flagged)

    def refuse(self, error: Callable[[], ResilientWSError]) -> None:
        """End every `keep` that waits with an exception."""
        if self._outbox is not None:
            self._outbox.refuse(error)

    def may_write(self, entry: Entry) -> bool:
        """Return whether `entry` may be handed to the socket: it is flagged, or sending it twice is what the program wants.

        The latter does not do if a message without a flag may later be taken as never written.
        """
        return entry.flagged or entry.record is None or self._is_free(entry)

    def _is_free(self, entry: Entry) -> bool:
        """Return whether nothing but its writing can end a message, and it may be written twice."""
        return entry.resend and entry.key is None and entry.expires_at == math.inf and not self._drops

    def flag(self, entries: Iterable[Entry], then: Callable[[], None]) -> None:
        """Flag messages that are about to be written.

        Args:
            entries: The pending messages.
            then: Called when the disk has the flags of those that must not be written before; not if there are none.
        """
        if self._flagging:
            return  # what is left is flagged then
        unflagged = [entry for entry in entries if entry.record is not None and not entry.flagged]
        self._file.mark(unflagged)
        for entry in unflagged:
            entry.flagged = self._is_free(entry)
        if not self._flagging:
            self._flagging = [entry for entry in unflagged if not entry.flagged]
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
        """Unflag pending messages while no connection is open, so that only written ones are flagged."""
        for written in (True, False):
            wrong = [entry for entry in entries if entry.written is written and entry.flagged is not written]
            for entry in wrong:
                entry.flagged = written
            if wrong:
                self._file.mark(wrong, written=written)

    def decide(self, entry: Entry, fate: str) -> None:
        """Note what became of a message, so that no later client sends it; it is forgotten when the program has heard."""
        if entry.record is not None:
            self._file.note("fate", entry.record, fate)

    def take_place(self, entry: Entry, of: Entry) -> None:
        """Note that a message is sent in the place of another."""
        entry.place = of.place if of.place is not None else of.record
        self.keep_place(entry)

    def keep_place(self, entry: Entry) -> None:
        """Note the place of a message, if it has another one than its own."""
        if entry.record is not None and entry.place is not None:
            self._file.note("place", entry.record, entry.place)

    def count(self, entries: Iterable[Entry]) -> None:
        """Note how many times messages were sent that will be sent again."""
        for entry in entries:
            if entry.record is not None:
                self._file.note("sent", entry.record, entry.sent)
                self._file.note("ends", entry.record, entry.ends)

    def when_stored(self, call: Callable[[], object]) -> None:
        """Call `call` when everything asked for before is on the disk, which may take several attempts."""

        def look(commit: asyncio.Future[None]) -> None:
            if commit.cancelled() or (commit.exception() is not None and self._file.is_open):
                self.when_stored(call)
            else:
                call()

        if self._file.is_open:
            self._file.committed().add_done_callback(look)
        else:
            call()

    def forget_records(self, records: Iterable[int]) -> None:
        """As `forget`, by the records."""
        if self._outbox is not None:
            self._outbox.remove_records(records)

    def forget(self, entries: Iterable[Entry]) -> None:
        """Forget settled messages."""
        if self._outbox is not None:
            self._outbox.remove(entries)

    def end(self) -> None:
        """Begin to close the file; what is left in it waits for the next client."""
        if self._outbox is not None:
            self._outbox.end()

    async def close(self) -> None:
        """Return when the file is closed and free for others."""
        if self._outbox is None:
            if self._freed is not None:
                await asyncio.shield(self._freed)
            return
        try:
            await self._outbox.close()
        except OutboxFileError as error:
            log.error("the fate of messages could not be recorded: %s", error)  # noqa: TRY400 - it says all
