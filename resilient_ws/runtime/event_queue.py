"""A queue of events for a callback or an `events()` iterator, bounded in number and in bytes.

Adding, taking and dropping an event takes the same time however many are waiting.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from resilient_ws.api.events import ErrorEvent, Event, RetryEvent, StateEvent, UndeliveredEvent
from resilient_ws.api.message import size_of

_SPARABLE: Final = (StateEvent, RetryEvent)

_NOTHING: Final[Any] = ()
"""What a queue holds while nothing is waiting: an empty deque has 760 bytes, and most queues are empty."""

Waiting = tuple[int, int, Event, Any]
"""One waiting event: its number, its size, the event itself, and who is to be told."""


def weight(event: Event) -> int:
    """Return the bytes of the messages that an event keeps alive."""
    if isinstance(event, UndeliveredEvent):
        return size_of(event.message)
    if isinstance(event, ErrorEvent):
        about = event.event
        if isinstance(about, str | bytes):
            return size_of(about)
        if isinstance(about, UndeliveredEvent):
            return size_of(about.message)
    return 0


class EventQueue:
    """A queue of events for one reader.

    State and retry events are held beside the others, so that the oldest of them can be dropped without a search; the
    numbers restore the order.

    Args:
        max_events: How many may wait.
        max_bytes: How many bytes of messages the waiting events may keep alive. An event is always accepted while
            no other event is counted.
    """

    __slots__ = ("_bytes", "_kept", "_max_bytes", "_max_events", "_sparable")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._kept: deque[Waiting] = _NOTHING
        self._sparable: deque[Waiting] = _NOTHING
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._sparable)

    @property
    def first(self) -> int | None:
        """The number of the oldest event; `None` when the queue is empty."""
        queue = self._oldest()
        return queue[0][0] if queue else None

    def fits(self, size: int) -> bool:
        """Return whether one more event of `size` bytes stays within the bounds."""
        if len(self) >= self._max_events:
            return False
        return not size or not self._bytes or self._bytes + size <= self._max_bytes

    def append(self, number: int, size: int, event: Event, listeners: Any = None) -> None:
        """Add an event, ignoring the bounds; `number` must be larger than that of every earlier event."""
        waiting = (number, size, event, listeners)
        if isinstance(event, _SPARABLE):
            if not self._sparable:
                self._sparable = deque()
            self._sparable.append(waiting)
        else:
            if not self._kept:
                self._kept = deque()
            self._kept.append(waiting)
        self._bytes += size

    def put_back(self, number: int, size: int, event: Event, listeners: Any) -> None:
        """Put back the event that was taken last, for the listeners that have not been told of it yet."""
        waiting = (number, size, event, listeners)
        if isinstance(event, _SPARABLE):
            self._sparable = deque((waiting, *self._sparable))
        else:
            self._kept = deque((waiting, *self._kept))
        self._bytes += size

    def take(self) -> Waiting | None:
        """Remove and return the oldest event; `None` when the queue is empty."""
        queue = self._oldest()
        if not queue:
            return None
        waiting = queue.popleft()
        self._bytes -= waiting[1]
        if not queue:
            self._let_go()
        return waiting

    def spare(self) -> Event | None:
        """Remove and return the oldest state or retry event; `None` when none is waiting."""
        if not self._sparable:
            return None
        event = self._sparable.popleft()[2]
        self._let_go()
        return event

    def clear(self) -> list[Waiting]:
        """Remove and return everything."""
        left = [*self._kept, *self._sparable]
        self._kept = self._sparable = _NOTHING
        self._bytes = 0
        return left

    def _let_go(self) -> None:
        if not self._kept:
            self._kept = _NOTHING
        if not self._sparable:
            self._sparable = _NOTHING

    def _oldest(self) -> deque[Waiting]:
        kept, sparable = self._kept, self._sparable
        if not sparable:
            return kept
        if not kept or sparable[0][0] < kept[0][0]:
            return sparable
        return kept
