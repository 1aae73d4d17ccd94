"""The order-book pattern: a snapshot followed by deltas, kept consistent across drops.

Knows no connection: it takes messages and gaps from an iteration, in order, and asks for a snapshot when it needs one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Generic, Literal, Protocol, Self, TypeVar

import attrs

from resilient_ws.api.errors import DeliveryUncertain, NotConnected, ResilientWSError
from resilient_ws.api.events import Gap, Lost, Stale
from resilient_ws.api.message import Message
from resilient_ws.api.options import Duration, function, seconds, whole
from resilient_ws.api.record import Record

S = TypeVar("S")
D = TypeVar("D")


Numbered = tuple[D, int, int]
"""A delta with its first and its last number."""


@attrs.frozen(eq=False, repr=False)
class Snapshot(Record, Generic[S]):
    """The whole state, which replaces all earlier ones.

    Attributes:
        value: What `fetch_snapshot` returned.
        sequence: The number of the last delta that is part of it.
    """

    value: S
    sequence: int


@attrs.frozen(eq=False, repr=False)
class Delta(Record, Generic[D]):
    """One change, the next after what came before it.

    Attributes:
        value: What `parse` returned.
        sequence: Its number; the last one, if it has several.
    """

    value: D
    sequence: int


class SnapshotOutdated(ResilientWSError):  # noqa: N818 - the name says what happened
    """Each snapshot was older than the first delta at hand: changes between the two are missing.

    Attributes:
        sequence: The number of the last snapshot.
        needed: The least number that would have done.
    """

    def __init__(self, sequence: int, needed: int) -> None:
        super().__init__(
            f"the snapshot ends with {sequence}, and one that ends with {needed} or later is needed"
        )
        self.sequence = sequence
        self.needed = needed


class GapSource(Protocol):
    """What has `with_gaps`, as a `WebSocketClient` has; a step of that iteration must be cancel-safe."""

    def with_gaps(self, *, lost: Literal[True]) -> AsyncIterator[Message | Gap | Lost]:
        """Return messages, with a `Lost` where a connection was lost and a `Gap` wherever some may be missing."""
        ...


class SnapshotThenDeltas(Generic[S, D]):
    """An iteration over a state and its changes, which is seeded anew whenever a change may be missing.

    It yields a `Snapshot`, then each `Delta` after it, in sequence and without a hole. Where a connection was lost it
    yields `Stale(close)` at once, and the `Gap` when the next connection is open. Where the inbox dropped something or a
    number is missing it yields a `Gap`. After each the state is stale, and a new `Snapshot` follows. While a snapshot is
    fetched deltas are buffered; those that it contains already are dropped.

    `is_synced` is `False` from the instant in which a connection is lost, also for a program that has not taken all
    deltas of that connection yet: ask it before the state is used.

        async for item in SnapshotThenDeltas(
            client,
            fetch_snapshot=fetch_book,  # GET /depth, or client.request(...)
            parse=json.loads,
            sequence=lambda delta: (delta["U"], delta["u"]),
            snapshot_sequence=lambda book: book["lastUpdateId"],
        ):
            match item:
                case Snapshot(book): ...
                case Delta(change): ...
                case Stale() | Gap(): ...

    It ends as the iteration over the client ends. It is the consumer of the source, so there is one for each client.
    Cancel-safe: a cancelled step loses nothing.

    Args:
        source: A `WebSocketClient`.
        fetch_snapshot: `async () -> S`, called at first and at each gap. Where it asks through the client and there is no
            connection (`NotConnected`, `DeliveryUncertain`), it is called again with the next message that is received;
            anything else that it raises is a failure.
        parse: Makes a delta of a message; `None` = it is something else, and passed over.
        sequence: The number of a delta, or the first and the last of several; `None` = it has none, and is passed over.
        snapshot_sequence: The number of the last delta that is part of a snapshot.
        consecutive: Whether the numbers are consecutive, so that a missing one is noticed; else they only grow.
        max_buffered: Messages that are buffered while a snapshot is fetched, 1 or more; beyond, the oldest go.
        retry_delay: Seconds between the beginnings of two fetches, 0 or more.
        max_failures: Fetches in a row that fail or return an outdated snapshot, 1 or more, until the iteration raises;
            `None` = no limit.

    Raises:
        SnapshotOutdated: `max_failures` snapshots in a row were too old. Other failures are raised as they are.
        TypeError, ValueError: An argument has the wrong type or is out of its range.
    """

    def __init__(
        self,
        source: GapSource,
        *,
        fetch_snapshot: Callable[[], Awaitable[S]],
        parse: Callable[[Message], D | None],
        sequence: Callable[[D], int | tuple[int, int] | None],
        snapshot_sequence: Callable[[S], int],
        consecutive: bool = True,
        max_buffered: int = 10_000,
        retry_delay: Duration = 1.0,
        max_failures: int | None = 10,
    ) -> None:
        function("fetch_snapshot", fetch_snapshot, takes=0)
        function("parse", parse, sync=True)
        function("sequence", sequence, sync=True)
        function("snapshot_sequence", snapshot_sequence, sync=True)
        self._items = source.with_gaps(lost=True)
        self._fetch_snapshot = fetch_snapshot
        self._parse = parse
        self._sequence = sequence
        self._snapshot_sequence = snapshot_sequence
        self._consecutive = consecutive
        self._buffer: deque[Message] = deque(maxlen=whole("max_buffered", max_buffered))
        self._retry_delay = seconds("retry_delay", retry_delay, zero=True)
        self._max_failures = None if max_failures is None else whole("max_failures", max_failures)
        self._failures = 0
        self._last: int | None = None  # the number up to which all is known; `None` = a snapshot is needed
        self._delta: Numbered[D] | None = None  # one that was taken from the buffer and not yielded
        self._is_lost = False  # there is no connection, so no use in a snapshot
        self._had_gap = False  # while a snapshot was fetched, which may be of before it
        self._overflowed = False  # the same, and nothing else would tell
        self._end: Exception | None = None  # how the source has ended
        self._earliest = 0.0  # when the next fetch may begin

    @property
    def is_synced(self) -> bool:
        """Whether the state, with each delta yielded until now, is right as far as is known at this instant."""
        return self._last is not None and getattr(self._items, "is_current", True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot[S] | Delta[D] | Stale | Gap:
        if self._last is None:
            if self._is_lost and (gap := await self._next_connection()) is not None:
                return gap
            return await self._seed()
        while True:
            delta = self._take()
            if delta is None:
                item = await self._receive()
                if isinstance(item, Lost):
                    self._last, self._is_lost = None, True
                    return Stale(item.close)
                if isinstance(item, Gap):
                    self._last = None
                    return item
                self._buffer.append(item)
                continue
            value, first, last = delta
            if last <= self._last:
                continue  # part of the snapshot, or sent twice
            if self._consecutive and first > self._last + 1:
                missing = first - self._last - 1
                self._last, self._delta = None, delta
                return Gap(count=0, missing=missing)
            self._last = last
            return Delta(value, last)

    # ------------------------------------------------------------------------------------------ messages

    def _take(self) -> Numbered[D] | None:
        """Take the next delta of what is at hand; `None` = there is none."""
        delta, self._delta = self._delta, None
        while delta is None and self._buffer:
            delta = self._read(self._buffer.popleft())
        return delta

    def _read(self, message: Message) -> Numbered[D] | None:
        value = self._parse(message)
        if value is None:
            return None
        numbers = self._sequence(value)
        if numbers is None:
            return None
        return (value, *numbers) if isinstance(numbers, tuple) else (value, numbers, numbers)

    async def _next_connection(self) -> Gap | None:
        """Wait for the connection after the one that was lost; return the gap between them."""
        while self._is_lost:
            item = await self._receive()
            self._keep(item)
            if isinstance(item, Gap):
                return item
        return None

    async def _receive(self) -> Message | Gap | Lost:
        if self._end is not None:
            raise self._end
        try:
            return await anext(self._items)
        except Exception as error:
            self._end = error
            raise

    async def _read_on(self) -> None:
        """Keep what is received, until the source ends; `_receive` says so when all before it was taken."""
        with suppress(Exception):
            while True:
                self._keep(await self._receive())

    def _keep(self, item: Message | Gap | Lost) -> None:
        """Keep what was received while a snapshot is needed."""
        if isinstance(item, Gap | Lost):
            self._buffer.clear()
            self._delta = None
            self._had_gap = True
            self._is_lost = isinstance(item, Lost)
            return
        if len(self._buffer) == self._buffer.maxlen:
            self._overflowed = not self._consecutive
        self._buffer.append(item)

    # ------------------------------------------------------------------------------------------ the snapshot

    async def _seed(self) -> Snapshot[S]:
        """Fetch until a snapshot fits to the deltas at hand."""
        while True:
            await self._wait_for_turn()
            while self._is_lost and self._end is None:
                self._keep(await self._receive())
            if self._end is not None:
                raise self._end
            self._had_gap = self._overflowed = False
            outcome = await self._fetch()
            if isinstance(outcome, NotConnected | DeliveryUncertain):
                self._keep(await self._receive())
                continue
            if isinstance(outcome, Snapshot):
                if self._had_gap:
                    continue
                needed = self._needed(outcome.sequence)
                if needed <= outcome.sequence:
                    self._failures = 0
                    self._last = outcome.sequence
                    return outcome
                outcome = SnapshotOutdated(outcome.sequence, needed)
            self._failed(outcome)

    def _failed(self, error: Exception) -> None:
        if self._end is not None:
            raise self._end
        self._failures += 1
        if self._failures == self._max_failures:
            self._failures = 0
            raise error

    def _needed(self, sequence: int) -> int:
        """Drop what a snapshot up to `sequence` contains; return up to where one is needed."""
        if self._overflowed:
            return sequence + 1
        while (delta := self._take()) is not None:
            _, first, last = delta
            if last > sequence:
                self._delta = delta
                return first - 1 if self._consecutive else sequence
        return sequence

    async def _fetch(self) -> Snapshot[S] | Exception:
        """Return a snapshot, or what `fetch_snapshot` raised; what is received meanwhile is kept."""
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read_on(), name="resilient_ws:deltas")
            try:
                value = await self._fetch_snapshot()
                return Snapshot(value, self._snapshot_sequence(value))
            except Exception as error:  # noqa: BLE001 - any exception counts as a failure
                return error
            finally:
                reading.cancel()

    async def _wait_for_turn(self) -> None:
        """Wait until the next fetch may begin; what is received meanwhile is kept."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._earliest:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._earliest):
                    await self._read_on()
        self._earliest = loop.time() + self._retry_delay
