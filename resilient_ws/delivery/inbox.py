"""Unread messages: bounded, in order, for one consumer at a time.

Knows nothing of connections: it is told of messages and gaps, and tells its `Keeper` when it is full, has room again,
or is full while a call waits for a reply that can only arrive through it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, Final, Protocol, cast

import attrs

from resilient_ws.aio.resume import resume
from resilient_ws.api import options
from resilient_ws.api.errors import ConcurrencyError
from resilient_ws.api.events import Gap, Lost, merged
from resilient_ws.api.message import Message, size_of

_NOTHING: Final[Any] = ()
"""The content of an empty inbox: an empty deque has 760 bytes, and most inboxes are empty."""

MARKS: Final = (Gap, Lost)
"""What stands between messages. A union in its place would be made anew for each message."""


class Ended(Exception):  # noqa: N818 - ends a wait; callers turn it into what the program sees
    """No message is left and none will arrive."""


class Dismissed(Exception):  # noqa: N818 - ends a wait; the consumer has changed
    """Another consumer takes the messages now."""


class Keeper(Protocol):
    """Who is told how full an inbox is: one object, which costs an idle client less than three methods of it."""

    def inbox_full(self) -> None:
        """Pause reading: the inbox is full."""

    def inbox_relaxed(self) -> None:
        """Half of each bound is free again after that."""

    def inbox_stuck(self) -> None:
        """Fail the waiters: the inbox is full and their reply cannot arrive."""


class Inbox:
    """The queue between the reader of a connection and the program.

    The bytes are a sum since the queue was last empty, which costs one addition for each message; only when that sum
    reaches a bound are they counted, and where that would happen again and again, with each message that is taken.
    `messages` and `floor` are for the one caller that cannot afford a call for each message: while there are more of
    them than `floor`, the first one may simply be taken.

    Args:
        bounds: How much may wait, and what happens beyond.
        keeper: Is told when it is full, and when it has room again.
    """

    __slots__ = (
        "_bounds",
        "_bytes_bound",
        "_drops",
        "_exact",
        "_keeper",
        "_marks",
        "_messages_bound",
        "_outage",
        "_over",
        "_patient",
        "_pending",
        "_settled",
        "_sum",
        "_tells_losses",
        "_waiter",
        "_wake",
        "claimed",
        "dropped",
        "floor",
        "is_connected",
        "items",
        "messages",
        "paused",
        "wakes",
    )

    def __init__(self, bounds: options.Inbox, keeper: Keeper) -> None:
        self._bounds = bounds
        self._keeper = keeper
        self.items: deque[Message | Gap | Lost] = _NOTHING
        self.messages: deque[Message] = _NOTHING  # the same, for the caller who knows that none is a gap
        self._marks = 0  # how many of the items are no messages but gaps and losses
        self._sum = 0  # bytes since it was last empty, at least those of what it holds
        self._settled = 0  # bytes that came before those
        self._exact = False  # whether the sum is that of what it holds
        self._patient = 0  # how many wait for an answer that must come past what is held
        self._messages_bound = bounds.max_messages
        self._bytes_bound = bounds.max_bytes
        self._drops = bounds.overflow == "drop_oldest"
        self._pending: Gap | None = None  # waits for the first message of the next connection
        self._outage: Lost | None = None  # how the last connection ended, until the next one is open
        self._tells_losses = (
            False  # whether losses are put among the items, and gaps as soon as a connection is open
        )
        self.is_connected = False
        self._waiter: asyncio.Future[None] | None = None
        self._wake: asyncio.Future[None] | None = None  # the same, until it is woken
        self.claimed = False
        self._over = False
        self.paused = False
        self.wakes = 0  # how often a waiter was woken, each time for a new iteration of the loop
        self.floor: float = 0
        self.dropped = 0

    @property
    def is_awaited(self) -> bool:
        """Whether a call waits for a message."""
        return self._waiter is not None

    @property
    def bytes_received(self) -> int:
        """The bytes of all messages that were ever put in."""
        return self._settled + self._sum

    def claim(self, *, claimed: bool) -> None:
        """Note whether callbacks are the consumer."""
        self.claimed = claimed
        self._judge()

    def _judge(self) -> None:
        if self._marks or self.claimed or self._exact:
            self.floor = math.inf
        else:
            # The take that leaves half of the bound asks `_relax`, and each one below.
            self.floor = self._messages_bound // 2 + 1 if self.paused else 0

    def __len__(self) -> int:
        return len(self.items) - self._marks

    # --- the side of the connection ---

    def put(self, message: Message, size: int) -> None:
        """Append one received message of `size` bytes."""
        self.extend([message], size)

    def extend(self, messages: list[Message], size: int, /, *, wakes: bool = True) -> None:
        """Append several at once, of `size` bytes in all; without `wakes` `wake` follows."""
        if self._pending is not None:
            self._settle_gap(self._pending)
        items = self.items
        if not items:
            self._settled += self._sum
            self._sum = 0
            if items is _NOTHING:
                items = self._hold()
        items.extend(messages)
        self._sum += size
        if self._sum >= self._bytes_bound or len(items) >= self._messages_bound:
            self._full()
        if wakes and self._wake is not None:
            self._rouse()

    def _hold(self) -> deque[Any]:
        """Return where what has come is held from now on."""
        held: deque[Any] = deque()
        self.items = self.messages = held
        return held

    def _rouse(self) -> None:
        """Wake the call that waits for a message."""
        self.wakes += 1
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def wake(self) -> None:
        """Resume the call that waits for a message at once; must be the last step of a callback of the loop."""
        wake = self._wake
        if wake is not None and self.items:
            self._wake = None
            self.wakes += 1
            resume(wake)

    @property
    def is_current(self) -> bool:
        """Whether a connection is open, and nothing is missing between what was taken last and what it brings."""
        return self.is_connected and not self._marks and self._pending is None

    def gap(self, gap: Gap) -> None:
        """Note a gap before the next message; adjacent ones merge."""
        self._outage = None
        if self._pending is not None:
            gap = merged(self._pending, gap)
        self._pending = gap
        if self._tells_losses:
            self._settle_gap(gap)
            self._rouse()

    def lost(self, lost: Lost) -> None:
        """Note that a connection was lost, behind every message of it."""
        self._outage = lost
        if self._tells_losses:
            self._put_loss(lost)
            self._rouse()

    def tell_losses(self) -> None:
        """Report losses from now on, including a current outage."""
        if self._tells_losses:
            return
        self._tells_losses = True
        if self._pending is not None and self.is_connected:
            self._settle_gap(self._pending)
        if self._outage is not None:
            self._put_loss(self._outage)

    def put_late(self, message: Message, size: int, *, ended: bool) -> bool:
        """Append a message that was kept back; return whether it still has a place in the stream.

        Args:
            message: The message.
            size: Its bytes.
            ended: Whether the connection that brought it has ended. Then it belongs before the loss, and where that was
                told already there is no place for it.
        """
        if not (ended and self._tells_losses) or (not self.is_connected and self._outage is None):
            self.put(message, size)
            return True
        outage = self._outage
        if outage is None or not self.items or not isinstance(self.items[-1], Lost):
            return False
        self.items.pop()
        self._marks -= 1
        self.put(message, size)
        self._put_loss(outage)
        return True

    def _put_loss(self, lost: Lost) -> None:
        """Put it behind the last message. Where that connection brought none, what was told of the one before merges."""
        items = self._hold() if self.items is _NOTHING else self.items
        if items and isinstance(gap := items[-1], Gap):
            items.pop()
            self._marks -= 1
            self._pending = gap if self._pending is None else merged(gap, self._pending)
        if items and isinstance(items[-1], Lost):
            items[-1] = lost
        else:
            items.append(lost)
            self._marks += 1
        self.floor = math.inf

    def end(self) -> None:
        """Note that no more messages arrive; unread ones can still be read."""
        self._over = True
        self._rouse()

    def _settle_gap(self, gap: Gap) -> None:
        self._pending = None
        items = self._hold() if self.items is _NOTHING else self.items
        if items and isinstance(last := items[-1], Gap):
            items[-1] = merged(last, gap)
        else:
            items.append(gap)
            self._marks += 1
            self.floor = math.inf

    def _count(self) -> None:
        """Count the bytes that are held."""
        held = sum(size_of(item) for item in self.items if not isinstance(item, MARKS))
        self._settled += self._sum - held
        self._sum = held

    def _count_on(self) -> None:
        """Count them, and from now on each message that is taken: to count all for each would take too long."""
        if not self._exact:
            self._count()
            self._exact = True
            self._judge()

    def _stop_counting(self) -> None:
        self._exact = False
        self._judge()

    def _full(self) -> None:
        if self.paused and not self._patient:
            return  # to count for each message that was on its way would take time with the square of their number
        if self._drops or self._patient:
            self._count_on()
        else:
            self._count()
        if not (len(self) >= self._messages_bound or self._sum >= self._bytes_bound):
            return
        if self._drops:
            self._drop()
            return
        if not self.paused:
            self.paused = True
            self._judge()
            self._keeper.inbox_full()
        if self._patient:
            # A reply can only arrive behind these messages. Reading went on to twice the bounds for it; now the calls
            # that wait must fail, since otherwise a program that awaits a reply before it reads would hang forever.
            self._keeper.inbox_stuck()

    def _drop(self) -> None:
        """Remove the oldest messages until the bounds hold; a gap stays in their place, none grows the queue."""
        items = self.items
        gap: Gap | None = None
        lost: Lost | None = None
        count = 0
        while len(self) > 1 and (len(self) > self._messages_bound or self._sum > self._bytes_bound):
            item = items.popleft()
            if isinstance(item, MARKS):
                self._marks -= 1
                if isinstance(item, Lost):
                    lost = item
                else:
                    gap = item if gap is None else merged(gap, item)
                continue
            size = size_of(item)
            self._sum -= size
            self._settled += size
            count += 1
        if count == 0:
            return
        self.dropped += count
        if items and isinstance(first := items[0], Gap):
            self._marks -= 1
            items.popleft()
            gap = first if gap is None else merged(gap, first)
        gap = Gap(count=0, dropped=count) if gap is None else attrs.evolve(gap, dropped=gap.dropped + count)
        items.appendleft(gap)
        self._marks += 1
        if lost is not None:
            items.appendleft(lost)
            self._marks += 1
        self.floor = math.inf

    # --- the side of those who wait for an answer ---

    def expect(self) -> bool:
        """Read on to twice the bounds, for a call that waits for a reply; return whether there is room."""
        self._patient += 1
        if self._patient == 1:
            self._messages_bound = 2 * self._bounds.max_messages
            self._bytes_bound = 2 * self._bounds.max_bytes
        if not self.paused:
            return True
        if len(self) >= self._messages_bound or self._sum >= self._bytes_bound:
            return False
        self._unpause()
        return True

    def expect_no_more(self) -> None:
        """One of those who waited has ended."""
        self._patient -= 1
        if self._patient == 0:
            self._messages_bound = self._bounds.max_messages
            self._bytes_bound = self._bounds.max_bytes
            if self.items and (len(self) >= self._messages_bound or self._sum >= self._bytes_bound):
                self._full()

    def _unpause(self) -> None:
        self.paused = False
        self._stop_counting()
        self._keeper.inbox_relaxed()

    # --- the side of the program ---

    async def get(self) -> Message:
        """Wait for the next message and take it; a cancelled call takes nothing.

        Raises:
            Ended: Nothing is held and nothing will come.
            ConcurrencyError: Another call waits already.
        """
        while True:
            item = await self.get_with_marks()
            if not isinstance(item, MARKS):
                return item

    async def get_with_marks(self) -> Message | Gap | Lost:
        """As `get`, gaps and losses included."""
        while not self.items:
            waiter = self.wait(asyncio.get_running_loop())
            if waiter is None:
                raise Ended
            try:
                await waiter
                if self._waiter is not waiter:
                    raise Dismissed
            finally:
                self.stop_waiting(waiter)
        return self.take()

    def take(self) -> Message | Gap | Lost:
        """Take the first item; one is held.

        Raises:
            ConcurrencyError: Another call waits for a message.
        """
        if self._waiter is not None:
            raise ConcurrencyError("another recv() or iteration is waiting for a message")
        item = self.items.popleft()
        if isinstance(item, MARKS):
            self._marks -= 1
            self._judge()
        elif self._exact:
            size = size_of(item)
            self._sum -= size
            self._settled += size
            if not self.items:
                self._stop_counting()
        if self.paused:
            self._relax()
        return item

    def take_all(self) -> list[Message | Gap | Lost]:
        """Take everything that is held."""
        taken = list(self.items)
        if taken:
            self.items.clear()
        self._marks = 0
        self._stop_counting()
        if self.paused:
            self._relax()
        return taken

    def take_messages(self) -> list[Message]:
        """Take every message that is held; gaps and losses among them are passed over."""
        if self._marks:
            return [item for item in self.take_all() if not isinstance(item, MARKS)]
        return cast("list[Message]", self.take_all())

    def clear(self) -> int:
        """Discard everything that is held and return how many messages that were."""
        count = len(self)
        self.take_all()
        return count

    def wait(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        """Begin to wait on `loop`, the running one, where nothing is held; `stop_waiting` follows.

        Returns:
            What is done as soon as there may be something to take; `None` if something is held or nothing will come.

        Raises:
            ConcurrencyError: Another call waits already.
        """
        if self.items or self._over:
            return None
        if self._waiter is not None:
            raise ConcurrencyError("another recv() or iteration is waiting for a message")
        self.items = self.messages = _NOTHING
        self._waiter = self._wake = waiter = loop.create_future()
        return waiter

    def stop_waiting(self, waiter: asyncio.Future[None]) -> None:
        """Whoever waits does so no more, woken or cancelled."""
        if self._waiter is waiter:
            self._waiter = self._wake = None

    def dismiss(self) -> None:
        """Whoever waits for a message gets none, and another one may wait at once."""
        self._rouse()
        self._waiter = None

    def _relax(self) -> None:
        """Resume reading when half of each bound is free."""
        if len(self) > self._messages_bound // 2:
            return
        self._count_on()
        if self._sum <= self._bytes_bound // 2:
            self._unpause()
