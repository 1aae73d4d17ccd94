"""Accepted messages that are still to be written: their bounds, what is evicted for others, what expires, what is next.

Knows no clock and no connection; `resilient_ws.core.delivery` adds what becomes of a message from its writing on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf

from resilient_ws.api.events import Fate
from resilient_ws.api.options import Outbox
from resilient_ws.core.priority_queue import Entry, Lanes


class Backlog:
    """The accepted messages of one client that wait.

    Args:
        options: The bounds and the overflow rule.

    Attributes:
        uncertain: How many were written and not confirmed when a connection or a process ended.
        expired: How many were not written in their time.
        evicted: How many an overflow rule or a newer message with their key removed.
    """

    def __init__(self, options: Outbox) -> None:
        self.uncertain: int = 0
        self.expired = self.evicted = 0
        self._max_messages = options.max_messages
        self._max_bytes = options.max_bytes
        self._drops = options.overflow if options.overflow in {"drop_oldest", "drop_newest"} else None
        self._lanes = Lanes()
        # Written on a connection that ended: no ttl, key or overflow rule touches these.
        self._resent: deque[Entry] | tuple[()] = ()  # an empty deque has 760 bytes
        self._resent_size = 0
        self._reserved = 0
        self._reserved_size = 0
        self._ahead = 0  # how many go before a new message: in the lanes, resent, in hand
        self._position = 0  # grows with what is accepted: orders messages and barriers

    @property
    def _resent_queue(self) -> deque[Entry]:
        """`_resent`, to be changed."""
        if not isinstance(self._resent, deque):
            self._resent = deque()
        return self._resent

    @property
    def waiting(self) -> int:
        """How many accepted messages are still to be written, or to be written again."""
        return self._lanes.count + len(self._resent)

    @property
    def waiting_bytes(self) -> int:
        """The bytes of those messages."""
        return self._lanes.size + self._resent_size

    @property
    def next(self) -> Entry | None:
        """The message that is to be written next; `None` if nothing waits."""
        return self._resent[0] if self._resent else self._lanes.first()

    @property
    def next_size(self) -> int:
        """The bytes of that message; 0 if nothing waits."""
        entry = self.next
        return entry.size if entry is not None else 0

    def watched_waiting(self) -> list[Entry]:
        """Those of the waiting messages that have a token or a record."""
        return [entry for entry in (*self._resent, *self._lanes.in_order()) if entry.watched]

    def has_room(self, size: int, key: str | None = None) -> bool:
        """Return whether a message fits within the bounds for what waits.

        Messages that will be written again are not counted: the bounds for the unconfirmed hold for them. Reserved
        room is taken.

        Args:
            size: Its bytes.
            key: Its key: the message that it would replace counts as gone. `None` = it has none.
        """
        lanes = self._lanes
        room = self._max_bytes - self._reserved_size - lanes.size
        replaced = lanes.keyed(key)
        if replaced is not None:
            return size <= room + replaced.size
        return lanes.count + self._reserved < self._max_messages and size <= room

    def reserve(self, size: int) -> None:
        """Take the room of one message that is about to be accepted; `release` follows."""
        self._reserved += 1
        self._reserved_size += size

    def release(self, size: int) -> None:
        """Give that room back: the message is accepted in this same step, or it is not."""
        self._reserved -= 1
        self._reserved_size -= size

    @property
    def is_reserved(self) -> bool:
        """Whether messages are about to be accepted."""
        return self._reserved > 0

    def accept(self, entry: Entry) -> Sequence[Entry]:
        """Append `entry` to what waits, and return what was evicted for it.

        It never refuses: with the overflow rules `raise` and `wait` the caller asks `has_room` before. A waiting
        message with the same key is evicted; `entry` takes its place, or goes to the end if the priorities differ.
        Where there is no room, `drop_newest` evicts `entry` itself, and `drop_oldest` the oldest messages of the
        lowest priority, which may be `entry`.
        """
        self._position += 1
        entry.position = self._position
        lanes = self._lanes
        if self._drops is None and entry.key is None:
            self._ahead += 1
            lanes.append(entry)
            return ()
        replaced = lanes.keyed(entry.key)
        if self._drops == "drop_newest" and not self.has_room(entry.size, entry.key):
            self.evicted += 1
            return (entry,)
        evicted: list[Entry] = []
        if replaced is None:
            self._ahead += 1
            lanes.append(entry)
        else:
            lanes.replace(replaced, entry)
            evicted.append(replaced)
        if self._drops == "drop_oldest":
            while lanes.count > self._max_messages or lanes.size > self._max_bytes:
                self._ahead -= 1
                evicted.append(lanes.least())
                lanes.remove(evicted[-1])
        self.evicted += len(evicted)
        return evicted

    def barrier(self) -> int:
        """Return a position behind all messages accepted until now, for `DeliveryQueue.is_settled`."""
        self._position += 1
        return self._position

    def waits(self, entry: Entry) -> bool:
        """Return whether `entry` is still to be written for the first time."""
        return self._lanes.holds(entry)

    def withdraw(self, entry: Entry) -> None:
        """Take back a message that waits, as if it had never been accepted."""
        self._lanes.remove(entry)
        self._ahead -= 1

    def restore(self, entries: Iterable[Entry]) -> list[tuple[Entry, Fate]]:
        """Take over what an earlier process left, in order, before anything else; return what has an end.

        What that process had decided holds. Entries that may have been written go in front if they are to be sent again, else they
        are uncertain. Of those with one key that were not, the newest takes the place of the oldest. No bound is applied:
        what was accepted stays accepted.

        Args:
            entries: In the order accepted, or of the places they took. Those marked as written may have been, and so
                may those that are to be sent again.
        """
        entries = list(entries)
        ends = [(entry, Fate(entry.fate)) for entry in entries if entry.fate is not None]
        for entry in _judged([entry for entry in entries if entry.fate is None]):
            self._position += 1
            entry.position = self._position
            if entry.written and not entry.resend:
                ends.append((entry, Fate.UNCERTAIN))
                continue
            if entry.written:
                self._ahead += 1
                self._resent_queue.append(entry)
                self._resent_size += entry.size
                continue
            replaced = self._lanes.keyed(entry.key)
            if replaced is None:
                self._ahead += 1
                self._lanes.append(entry)
            else:
                self._lanes.replace(replaced, entry)
                if entry.position == replaced.position:
                    entry.place = replaced.place if replaced.place is not None else replaced.record
                ends.append((replaced, Fate.EVICTED))
        for _, fate in ends:
            self.uncertain += fate is Fate.UNCERTAIN
            self.evicted += fate is Fate.EVICTED
            self.expired += fate is Fate.EXPIRED
        return ends

    def expire(self, now: float) -> list[Entry]:
        """Remove and return the messages that have waited past their time, the earliest first."""
        due = self._lanes.expire(now)
        self._ahead -= len(due)
        self.expired += len(due)
        return due

    @property
    def next_expiry(self) -> float | None:
        """When `expire` has something to do next, in seconds of the caller's clock; `None` = never."""
        return self._lanes.next_expiry()


def _judged(entries: list[Entry]) -> list[Entry]:
    """Set `written` to whether each one may have been written, as far as their order tells more than the marks do.

    Within a priority they were written in order, but for one with a key, which may have taken an earlier place.
    """
    stopped: set[int] = set()  # priorities in which one was surely not written
    for entry in entries:
        if not entry.written and not entry.resend:
            stopped.add(entry.priority)
        elif entry.key is None and entry.priority in stopped:
            entry.written = False
    reached: set[int] = set()  # priorities in which a later one may have been written
    for entry in reversed(entries):
        if entry.resend and entry.priority in reached and entry.key is None and entry.expires_at == inf:
            entry.written = True  # others are not written before the file says that they may have been
        if entry.written and entry.key is None:
            reached.add(entry.priority)
    return entries
