"""Messages in flight, written and not confirmed, in the order written.

Knows no bounds of the outbox and no fates: `resilient_ws.core.delivery` decides what is written and what becomes of it.

A PONG confirms everything written before its ping, so what is written between two pings is one segment, which goes as
a whole. A plain message lies in its segment as it is, without an `Entry` around it: what this costs for each message
decides how fast messages can be sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, MutableSequence
from itertools import islice
from typing import Final, Protocol

from resilient_ws.api.message import Message
from resilient_ws.core.priority_queue import Entry

UNCONFIRMED_MESSAGES = 65_536
"""How many messages may be written and unconfirmed; their bytes have the bound of the outbox, `max_bytes`."""


Items = list[Message | Entry] | deque[Message | Entry]


class Segment:
    """What was written between two marks.

    Attributes:
        number: Its place in the order of all segments of all connections.
        low: No message in it has a position below.
        size: The bytes in it, set when it is closed.
        gone: How many messages were taken from its front.
        items: The messages; those that are more than plain as an `Entry`.
        stamps: From which item on plain messages were accepted at which time.
        watched: The entries with a waiter for their confirmation.
    """

    __slots__ = ("gone", "items", "low", "number", "size", "stamps", "watched")

    def __init__(self, number: int, low: int) -> None:
        self.number = number
        self.low = low
        self.size = 0
        self.gone = 0
        # Lists: an empty deque has 760 bytes, and an idle client has many queues.
        self.items: Items = []
        self.stamps: list[tuple[int, float]] = []
        self.watched: list[Entry] = []

    def entries(self, resend: bool) -> Iterator[Entry]:
        """Yield each message as an entry; `resend` is that of the plain ones."""
        stamps = iter(self.stamps)
        accepted_at = 0.0
        upcoming = next(stamps, None)
        for index, item in enumerate(self.items, self.gone):
            while upcoming is not None and upcoming[0] <= index:
                accepted_at = upcoming[1]
                upcoming = next(stamps, None)
            if isinstance(item, Entry):
                yield item
                continue
            size = len(item.encode()) if isinstance(item, str) else len(item)
            entry = Entry(item, size, accepted_at, resend)
            entry.position = self.low
            yield entry

    def pop(self, resend: bool) -> Entry:
        """Remove and return the oldest message."""
        entry = next(self.entries(resend))
        if not isinstance(self.items, deque):
            self.items = deque(self.items)  # it may be long, and more may go from its front
        self.items.popleft()
        self.gone += 1
        while len(self.stamps) > 1 and self.stamps[1][0] <= self.gone:
            del self.stamps[0]
        if entry.watched:
            del self.watched[0]
        return entry

    def cut(self, count: int) -> tuple[int, int, list[Entry]]:
        """Remove the oldest messages, `count` at most; return how many, their bytes, and the watched ones."""
        gone = list(islice(self.items, count))
        if isinstance(self.items, deque):
            for _ in gone:
                self.items.popleft()
        else:
            del self.items[: len(gone)]
        self.gone += len(gone)
        while len(self.stamps) > 1 and self.stamps[1][0] <= self.gone:
            del self.stamps[0]
        watched = [item for item in gone if isinstance(item, Entry) and item.watched]
        del self.watched[: len(watched)]
        return len(gone), sum(map(_size_of, gone)), watched


def _size_of(item: Message | Entry) -> int:
    if isinstance(item, Entry):
        return item.size
    return len(item.encode()) if isinstance(item, str) else len(item)


class Counted(Protocol):
    """Where plain messages are counted that go out without a question.

    Attributes:
        size: The bytes of all messages in it.
    """

    size: int

    @property
    def items(self) -> MutableSequence[Message | Entry]:
        """The messages."""
        ...


class Unkept:
    """What was written while confirmation is off, until it is counted."""

    __slots__ = ("items", "size")

    def __init__(self) -> None:
        self.items: list[Message | Entry] = []
        self.size = 0

    def clear(self) -> None:
        """Forget the messages, which have been counted."""
        self.items.clear()
        self.size = 0


_NOWHERE: Final = Unkept()
"""Where a lane counts that was never open: nothing goes there."""


class FastLane:
    """The fast path of `send`: while it is open, a plain message is accepted and held with a few additions.

    Attributes:
        limit: The most that `counted.size` may grow to; -1 = closed.
        left: How many more messages may be sent in this turn of the event loop.
        counted: The accounting that a message enters: unconfirmed, or confirmed once written.
        held: Messages that the link has not been given yet.
        extra: By how many bytes the messages held are larger than their lengths.
    """

    # Invariant: while `limit` is not -1, a connection is open, nothing is pending ahead of a new message, and every
    # message in `held` is among the last items of `counted`, in the same order. So appending to both keeps the order of
    # the calls, and what the link refuses can be taken back from the end. Everything else that is accepted or written
    # closes the lane first. `WebSocketClient.send` has the one inlined copy of `put`, for messages whose length is their
    # size; a test proves the two equal.

    __slots__ = ("counted", "extra", "held", "left", "limit")

    def __init__(self, left: int = 0) -> None:
        self.limit = -1
        self.left = left
        self.counted: Counted = _NOWHERE
        self.held: list[Message] = []
        self.extra = 0

    def put(self, message: Message, size: int) -> bool:
        """Accept a plain message of `size` bytes and hold it, if the lane is open and has room; return whether it did."""
        counted = self.counted
        total = counted.size + size
        if total > self.limit or not self.left:
            return False
        counted.size = total
        counted.items.append(message)
        self.held.append(message)
        self.extra += size - len(message)
        self.left -= 1
        return True

    def hold(self, message: Message, size: int) -> None:
        """Hold a message that is accounted for already, behind those held before."""
        self.held.append(message)
        self.extra += size - len(message)

    def take(self) -> list[Message]:
        """Close the lane; return what it held."""
        self.limit = -1
        held, self.held, self.extra = self.held, [], 0
        return held


class Unconfirmed:
    """The segments of one connection after another.

    Attributes:
        size: The bytes of all messages in it.
        items: The messages of the open segment, for the shortest way in.
        limit: How long `items` may grow; 0 while no connection is open.
        now: The last time that was noted for plain messages, compared by identity.
    """

    __slots__ = (
        "_closed",
        "_closed_count",
        "_left",
        "_low",
        "_resend",
        "items",
        "limit",
        "now",
        "open",
        "size",
    )

    def __init__(self, resend: bool) -> None:
        self._resend = resend
        self._closed: list[Segment] = []  # one for each ping that is not answered
        self._closed_count = 0
        self._left = 0  # how many messages are in it no more
        self._low = 0
        self.size = 0
        self.open = Segment(0, 0)
        self.items = self.open.items
        self.limit = 0
        self.now: float | None = None

    @property
    def resends(self) -> bool:
        """Whether plain messages are sent again if they get lost."""
        return self._resend

    @property
    def count(self) -> int:
        """How many messages are in it."""
        return self._closed_count + len(self.items)

    def begin(self, position: int) -> None:
        """Open the next segment; what is added to it has this position or a later one, unless it is an entry."""
        self.open = Segment(self.open.number + 1, position)
        self._low = position  # that of the open segment
        self.items = self.open.items
        self.limit = UNCONFIRMED_MESSAGES - self._closed_count
        self.now = None

    def stamp(self, now: float) -> None:
        """Note that plain messages are accepted at `now` from here on."""
        self.now = now
        self.open.stamps.append((self.open.gone + len(self.items), now))

    def unwind(self, count: int) -> list[tuple[Message, float]]:
        """Remove the newest plain messages of the open segment; return them in order, with the time of each."""
        entries = list(self.open.entries(self._resend))[-count:] if count else []
        for entry in entries:
            self.items.pop()
            self.size -= entry.size
        return [(entry.message, entry.accepted_at) for entry in entries]

    def append(self, entry: Entry) -> None:
        """Add an entry that was written."""
        self.items.append(entry)
        self.size += entry.size
        if entry.token is not None or entry.record is not None:
            self.open.watched.append(entry)
        if entry.position < self._low:
            self._low = self.open.low = entry.position

    def mark(self, position: int) -> int:
        """Return a mark that covers everything in it now; what is added from here on has this position or above."""
        segment = self.open
        if segment.items:
            segment.size = self.size - sum(earlier.size for earlier in self._closed)
            self._closed.append(segment)
            self._closed_count += len(segment.items)
            self.begin(position)
        return self.open.number - 1

    def confirm(self, mark: int) -> tuple[int, list[Entry]]:
        """Remove what `mark` covers; return how many messages that were, and the watched ones."""
        before = self._closed_count
        watched: list[Entry] = []
        while self._closed and self._closed[0].number <= mark:
            segment = self._closed.pop(0)
            self._closed_count -= len(segment.items)
            self.size -= segment.size
            watched += segment.watched
        count = before - self._closed_count
        self.limit += count
        self._left += count
        return count, watched

    @property
    def written(self) -> int:
        """How many messages were added since the beginning: those that left are counted, too."""
        return self._left + self.count

    def confirm_first(self, written: int) -> tuple[int, list[Entry]]:
        """Remove what was in it when `written` was so many; return how many messages that were, and the watched ones."""
        before = self.count
        watched: list[Entry] = []
        while self._closed and written - self._left >= len(self._closed[0].items):
            watched += self.confirm(self._closed[0].number)[1]
        count = written - self._left
        if count > 0 and self.count:
            segment = self._closed[0] if self._closed else self.open
            count, size, found = segment.cut(count)
            watched += found
            self._left += count
            self.size -= size
            if segment is not self.open:
                segment.size -= size
                self._closed_count -= count
                self.limit += count
        return before - self.count, watched

    def oldest_resends(self) -> bool:
        """Return whether the oldest message is to be sent again if it gets lost; some message must be there."""
        oldest = (self._closed[0] if self._closed else self.open).items[0]
        return oldest.resend if isinstance(oldest, Entry) else self._resend

    def pop(self) -> Entry:
        """Remove and return the oldest message; some message must be there."""
        self._left += 1
        if not self._closed:
            entry = self.open.pop(self._resend)
            self.items = self.open.items
            self.size -= entry.size
            return entry
        segment = self._closed[0]
        entry = segment.pop(self._resend)
        segment.size -= entry.size
        self.size -= entry.size
        self._closed_count -= 1
        self.limit += 1
        if not segment.items:
            del self._closed[0]
        return entry

    def watched(self) -> list[Entry]:
        """Return the entries with a waiter for their confirmation."""
        return [entry for segment in (*self._closed, self.open) for entry in segment.watched]

    def clear(self) -> list[Entry]:
        """Remove everything and let nothing in until `begin`; return it in order."""
        self.limit = 0
        if not self.count:
            return []
        entries = [entry for segment in (*self._closed, self.open) for entry in segment.entries(self._resend)]
        self.forget()
        return entries

    def forget(self) -> None:
        """Remove everything and let nothing in until `begin`."""
        self._left += self.count
        self._closed.clear()
        self._closed_count = 0
        self.size = 0
        self.open = Segment(self.open.number, 0)
        self.items = self.open.items
        self.limit = 0

    def is_behind(self, position: int) -> bool:
        """Return whether each message in it may have been accepted at `position` or later."""
        return all(segment.low >= position for segment in (*self._closed, self.open) if segment.items)
