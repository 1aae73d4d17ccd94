"""A queue of pending messages by priority, in order within a priority, with expiry.

Knows no bounds and no connection: `resilient_ws.core.delivery` decides what is accepted, evicted and written.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from heapq import heapify, heappop, heappush

from resilient_ws.api.message import Message

PLAIN = 0
"""The priority of a message that names none."""

_SPARE_DEADLINES = 64  # outdated deadlines that are kept beside one for each waiting message


class Entry:
    """A message on its way, with what decides about it.

    Args:
        message: What to send; `str`, or immutable `bytes`.
        size: Bytes of its payload on the wire, 0 or more.
        accepted_at: When it was accepted, in seconds of the caller's clock.
        resend: Whether it is put in front again when a connection ends before it was confirmed.
        expires_at: When it expires unless written before, in seconds of the same clock; infinity = never.
        priority: The higher one leaves first; order holds within a priority.
        key: A waiting message with the same key is replaced by this one; `None` = replaces nothing.
        token: An object returned to the caller when the message is confirmed; `None` for none.
        record: The number of its row in a durable store; `None` = it has none.
        written: Whether it has been written before, on a connection that ended without confirming it.

    Attributes:
        sent: How many times it was sent on connections that ended without confirming it.
        fate: What was decided about it before the process ended that had accepted it; `None` = nothing was.
        place: The record in whose place it is sent; `None` = its own.
        ends: How many of those ended in a way that a message may have caused.
        flagged: Whether its row says that it may have been written.
        position: Where it stands in the order of acceptance; that of the message whose place it took, if it did.
    """

    __slots__ = (
        "accepted_at",
        "ends",
        "expires_at",
        "fate",
        "flagged",
        "key",
        "message",
        "place",
        "position",
        "priority",
        "record",
        "resend",
        "sent",
        "size",
        "token",
        "written",
    )

    def __init__(
        self,
        message: Message,
        size: int,
        accepted_at: float,
        resend: bool,
        *,
        expires_at: float = math.inf,
        priority: int = PLAIN,
        key: str | None = None,
        token: object | None = None,
        record: int | None = None,
        written: bool = False,
    ) -> None:
        self.message = message
        self.size = size
        self.accepted_at = accepted_at
        self.resend = resend
        self.expires_at = expires_at
        self.priority = priority
        self.key = key
        self.token = token
        self.record = record
        self.written = written
        self.fate: str | None = None
        self.place: int | None = None
        self.sent = 0
        self.ends = 0
        self.flagged = False
        self.position = 0

    @property
    def watched(self) -> bool:
        """Whether the entry has a waiter for its confirmation."""
        return self.token is not None or self.record is not None


def _position(entry: Entry) -> int:
    return entry.position


class Lanes:
    """The entries that wait, in one lane for each priority.

    Attributes:
        count: How many wait.
        size: The bytes of their messages.
    """

    __slots__ = ("_deadlines", "_keys", "_lanes", "_order", "_pushed", "count", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        # That of plain messages stays, once it is there; a lane of another priority goes when it is empty.
        self._lanes: dict[int, deque[Entry]] = {}
        self._order: list[int] = []  # the priorities, from the lowest
        self._keys: dict[str, Entry] = {}
        self._deadlines: list[tuple[float, int, Entry]] = []  # a heap; an entry in it may have left meanwhile
        self._pushed = 0

    def append(self, entry: Entry) -> None:
        """Put `entry` at the end of its lane; its position is above all others there."""
        self.count += 1
        self.size += entry.size
        self._lane(entry.priority).append(entry)
        if entry.key is not None:
            self._keys[entry.key] = entry
        if entry.expires_at != math.inf:
            self._set_deadline(entry)

    def first(self) -> Entry | None:
        """Return the entry to send next; `None` if none is pending."""
        for priority in reversed(self._order):
            lane = self._lanes[priority]
            if lane:
                return lane[0]
        return None

    def pop(self, entry: Entry) -> None:
        """Take out an entry that is the first of its lane."""
        self.count -= 1
        self.size -= entry.size
        lane = self._lanes[entry.priority]
        lane.popleft()
        if not lane and entry.priority != PLAIN:
            del self._lanes[entry.priority]
            self._order.remove(entry.priority)
        if entry.key is not None and self._keys.get(entry.key) is entry:
            del self._keys[entry.key]

    def remove(self, entry: Entry) -> None:
        """Take out an entry that waits anywhere."""
        lane = self._lanes[entry.priority]
        index = bisect_left(lane, entry.position, key=_position)
        lane.rotate(-index)
        self.pop(entry)
        lane.rotate(index)

    def put_back(self, entry: Entry) -> None:
        """Put an entry that was taken out in front of its lane again.

        One with the same key that came meanwhile stays where it is; a third would replace that one.
        """
        self.count += 1
        self.size += entry.size
        self._lane(entry.priority).appendleft(entry)
        if entry.key is not None:
            self._keys.setdefault(entry.key, entry)
        if entry.expires_at != math.inf:
            self._set_deadline(entry)

    def keyed(self, key: str | None) -> Entry | None:
        """Return the pending entry with `key`, or `None`."""
        return self._keys.get(key) if key is not None else None

    def replace(self, old: Entry, new: Entry) -> None:
        """Take `old` out and put `new`, which has its key, in its place, or at the end of another lane."""
        if new.priority != old.priority:
            self.remove(old)
            self.append(new)
            return
        lane = self._lanes[old.priority]
        lane[bisect_left(lane, old.position, key=_position)] = new
        new.position = old.position
        self.size += new.size - old.size
        assert new.key is not None
        self._keys[new.key] = new
        if new.expires_at != math.inf:
            self._set_deadline(new)

    def least(self) -> Entry:
        """Return the oldest entry of the lowest priority; there must be one."""
        return next(lane[0] for lane in map(self._lanes.__getitem__, self._order) if lane)

    def oldest_position(self) -> float:
        """Return the lowest position of all pending entries; infinity if there is none."""
        return min((lane[0].position for lane in self._lanes.values() if lane), default=math.inf)

    def expire(self, now: float) -> list[Entry]:
        """Take out and return the entries whose time has passed, the earliest first."""
        due: list[Entry] = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            entry = heappop(deadlines)[2]
            if self.holds(entry):
                self.remove(entry)
                due.append(entry)
        return due

    def next_expiry(self) -> float | None:
        """When the next entry expires; `None` = none ever does."""
        deadlines = self._deadlines
        while deadlines and not self.holds(deadlines[0][2]):
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def in_order(self) -> list[Entry]:
        """All entries, as they would leave."""
        return [entry for priority in reversed(self._order) for entry in self._lanes[priority]]

    def _lane(self, priority: int) -> deque[Entry]:
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = deque()
            insort(self._order, priority)
        return lane

    def holds(self, entry: Entry) -> bool:
        """Return whether `entry` is in one of the lanes."""
        lane = self._lanes.get(entry.priority)
        if lane is None:
            return False
        index = bisect_left(lane, entry.position, key=_position)
        return index < len(lane) and lane[index] is entry

    def _set_deadline(self, entry: Entry) -> None:
        self._pushed += 1  # two of the same instant are never compared by their entries
        heappush(self._deadlines, (entry.expires_at, self._pushed, entry))
        if len(self._deadlines) > _SPARE_DEADLINES + 2 * self.count:
            self._deadlines = [item for item in self._deadlines if self.holds(item[2])]
            heapify(self._deadlines)
