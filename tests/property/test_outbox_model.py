"""The delivery queue against a model that is naive on purpose: lists, and a message is looked for wherever it may be."""

import math
from dataclasses import dataclass
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient_ws.api.options import Outbox
from resilient_ws.core.delivery import DeliveryQueue, Entry

WRITTEN_BOUND = 6
PROBE = 3  # bytes


@dataclass(eq=False)
class Item:
    """What the model knows of one message."""

    message: str
    size: int
    at: float
    resend: bool
    serial: int
    place: int
    expires_at: float = math.inf
    priority: int = 0
    key: str | None = None
    watched: bool = False
    resent: bool = False
    end: str | None = None


class OutboxModel(RuleBasedStateMachine):
    """Every accepted message is in one place of the model until it has its one end."""

    marks = Bundle("marks")
    barriers = Bundle("barriers")
    questions = Bundle("questions")

    @initialize(
        overflow=st.sampled_from(["raise", "wait", "drop_oldest", "drop_newest"]),
        on_uncertain=st.sampled_from(["report", "resend"]),
        max_messages=st.integers(1, 5),
        max_bytes=st.integers(8, 24),
        connected=st.booleans(),
    )
    def begin(self, overflow, on_uncertain, max_messages, max_bytes, connected):
        self.options = Outbox(
            max_messages=max_messages, max_bytes=max_bytes, overflow=overflow, on_uncertain=on_uncertain
        )
        self.patches = [
            mock.patch("resilient_ws.core.delivery.UNCONFIRMED_MESSAGES", WRITTEN_BOUND),
            mock.patch("resilient_ws.core.in_flight.UNCONFIRMED_MESSAGES", WRITTEN_BOUND),
        ]
        for patch in self.patches:
            patch.start()
        self.queue = DeliveryQueue(self.options)
        self.now = 1000.0
        self.all: dict[int, Item] = {}
        self.lanes: list[Item] = []
        self.resent: list[Item] = []
        self.hand: Item | None = None
        self.written: list[Item] = []
        self.covered: dict[int, list[Item]] = {}  # by mark, what its ping covers
        self.losses = 0
        self.connected = False
        self.confirming = False
        self.untaken = 0  # how far the bounds may be passed by what was put back
        if connected:
            self.connect(confirming=True, write=False)

    # -------------------------------------------------------------------------------------------- the model

    def new_item(self, size: int, **options) -> Item:
        serial = len(self.all)
        message = f"{serial:08}"[-size:] if size else ""
        item = Item(message, size, self.now, serial=serial, place=serial, **options)
        self.all[serial] = item
        return item

    def end(self, item: Item, fate: str) -> None:
        assert item.end is None, f"{item} ended twice: {fate}"
        item.end = fate

    def next_item(self) -> Item | None:
        if self.resent:
            return self.resent[0]
        return min(self.lanes, key=lambda item: (-item.priority, item.place), default=None)

    def fits(self, size: int) -> bool:
        if not self.connected:
            return False
        bytes_there = sum(item.size for item in self.written)  # one in hand counts when it is written
        count = len(self.written)
        return count < WRITTEN_BOUND and (bytes_there + size <= self.options.max_bytes or not count)

    def room(self, size: int, key: str | None) -> bool:
        left = [item for item in self.lanes if key is None or self.holder(key) is not item]
        return (
            len(left) < self.options.max_messages
            and sum(item.size for item in left) + size <= self.options.max_bytes
        ) or (
            len(left) < len(self.lanes) and sum(item.size for item in left) + size <= self.options.max_bytes
        )

    def holder(self, key: str) -> Item | None:
        """The one that a message with this key replaces: the newest of those that wait."""
        return max((i for i in self.lanes if i.key == key), key=lambda item: item.serial, default=None)

    def check(self, entries, items) -> None:
        """These entries stand for these items, in order, and say of them what was true when they were accepted."""
        assert [(e.message, e.size, e.accepted_at, e.resend, e.priority, e.key) for e in entries] == [
            (i.message, i.size, i.at, i.resend, i.priority, i.key) for i in items
        ]
        assert [e.token for e in entries if e.token is not None] == [i for i in items if i.watched]

    # -------------------------------------------------------------------------------------------- accepting

    @rule(
        size=st.integers(0, 8),
        ttl=st.sampled_from([math.inf, math.inf, 1.0, 2.0, 5.0]),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        key=st.sampled_from([None, None, None, "a", "b"]),
        resend=st.sampled_from([None, None, True, False]),
        watched=st.booleans(),
    )
    def accept(self, size, ttl, priority, key, resend, watched):
        room = self.room(size, key)
        assert self.queue.has_room(size, key) == room
        if not room and self.options.overflow in {"raise", "wait"}:
            return
        item = self.new_item(
            size,
            expires_at=self.now + ttl,
            priority=priority,
            key=key,
            resend=(self.options.on_uncertain == "resend") if resend is None else resend,
            watched=watched,
        )
        evicted = []
        replaced = self.holder(key) if key is not None else None
        if not room and self.options.overflow == "drop_newest":
            evicted = [item]
        else:
            if replaced is not None:
                self.lanes.remove(replaced)
                evicted.append(replaced)
                if replaced.priority == priority:
                    item.place = replaced.place
            self.lanes.append(item)
            while self.options.overflow == "drop_oldest" and (
                len(self.lanes) > self.options.max_messages
                or sum(i.size for i in self.lanes) > self.options.max_bytes
            ):
                oldest = min(self.lanes, key=lambda i: (i.priority, i.place))
                self.lanes.remove(oldest)
                evicted.append(oldest)
        got = self.queue.accept(
            Entry(
                item.message,
                size,
                self.now,
                item.resend,
                expires_at=item.expires_at,
                priority=priority,
                key=key,
                token=item if watched else None,
            )
        )
        self.check(got, evicted)
        for gone in evicted:
            self.end(gone, "evicted")

    @rule(size=st.integers(0, 8))
    def write_through(self, size):
        free = not self.lanes and not self.resent and self.hand is None
        total = sum(item.size for item in self.written) + size
        allowed = (
            self.connected and free and total <= self.options.max_bytes and len(self.written) < WRITTEN_BOUND
        )
        item = self.new_item(size, resend=self.options.on_uncertain == "resend")
        assert self.queue.write_through(item.message, size, self.now) == allowed
        if not allowed:
            del self.all[item.serial]
        elif self.confirming:
            self.written.append(item)
        else:
            self.end(item, "confirmed")

    @rule(step=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, step):
        self.now += step
        due = sorted((i for i in self.lanes if i.expires_at <= self.now), key=lambda i: i.expires_at)
        upcoming = [i.expires_at for i in self.lanes if i.expires_at < math.inf]
        assert self.queue.next_expiry == min(upcoming, default=None)
        got = self.queue.expire(self.now)
        assert [e.expires_at for e in got] == [i.expires_at for i in due]
        assert {(e.message, e.accepted_at) for e in got} == {(i.message, i.at) for i in due}
        for item in due:
            self.lanes.remove(item)
            self.end(item, "expired")

    # -------------------------------------------------------------------------------------------- writing

    @precondition(lambda self: self.hand is None)
    @rule(finish=st.booleans())
    def take(self, finish):
        item = self.next_item()
        got = self.queue.take()
        if item is None or not self.fits(item.size):
            assert got is None
            return
        assert got is not None
        self.check([got], [item])
        (self.resent or self.lanes).remove(item)
        self.hand = item
        if finish:
            self.finish_writing()

    @precondition(lambda self: self.connected and self.hand is None)
    @rule()
    def write_all_that_fits(self):
        while (item := self.next_item()) is not None and self.fits(item.size):
            self.take(finish=True)
        assert self.queue.take() is None

    @precondition(lambda self: self.hand is not None)
    @rule()
    def finish_writing(self):
        item, self.hand = self.hand, None
        got = self.queue.written()
        if self.confirming:
            assert got is None
            self.written.append(item)
        else:
            self.check([got], [item])
            self.end(item, "confirmed")

    @precondition(lambda self: self.hand is not None)
    @rule()
    def untake(self):
        item, self.hand = self.hand, None
        self.queue.untake()
        if item.resent:
            self.resent.insert(0, item)
        else:
            self.lanes.append(item)
            self.untaken += 1

    # -------------------------------------------------------------------------------------------- confirming

    @precondition(lambda self: self.written)
    @rule(target=marks)
    def mark(self):
        mark = self.queue.mark()
        assert not self.queue.unmarked
        self.covered.setdefault(mark, list(self.written))
        return mark

    @precondition(lambda self: self.written and self.hand is None)
    @rule(target=questions)
    def ask(self):
        return self.queue.written_so_far, list(self.written), self.losses

    @rule(question=questions)
    def answer(self, question):
        written, before, losses = question
        # What was written again after a loss was not there when a question of the lost connection was asked.
        covered = [item for item in before if item in self.written] if losses == self.losses else []
        confirmed = self.queue.confirmed
        watched = self.queue.confirm_first(written)
        assert [e.token for e in watched] == [i for i in covered if i.watched]
        assert self.queue.confirmed - confirmed == len(covered)
        for item in covered:
            self.written.remove(item)
            self.end(item, "confirmed")

    @precondition(lambda self: self.covered)
    @rule(which=st.sampled_from([-1, -1, -2]))
    def confirm_what_is_new(self, which):
        self.confirm(sorted(self.covered)[max(which, -len(self.covered))])

    @precondition(lambda self: self.written)
    @rule(mark=marks)
    def confirm(self, mark):
        covered = [i for i in self.covered.get(mark, ()) if i in self.written]
        before = self.queue.confirmed
        watched = self.queue.confirm(mark)
        assert [e.token for e in watched] == [i for i in covered if i.watched]
        assert self.queue.confirmed - before == len(covered)
        for item in covered:
            self.written.remove(item)
            self.end(item, "confirmed")

    @precondition(lambda self: self.connected)
    @rule()
    def turn_off(self):
        watched = self.queue.turn_off()
        assert [e.token for e in watched] == [i for i in self.written if i.watched]
        for item in self.written:
            self.end(item, "confirmed")
        self.written = []
        self.confirming = False

    @precondition(lambda self: self.connected)
    @rule(size=st.integers(0, 8))
    def let_go(self, size):
        gone = []
        while self.written and not self.fits(size) and not self.written[0].resend:
            gone.append(self.written.pop(0))
        assert [e.token for e in self.queue.let_go(size)] == [i for i in gone if i.watched]
        for item in gone:
            self.end(item, "unverified")
        assert self.queue.fits(size) == self.fits(size)

    # -------------------------------------------------------------------------------------------- connections

    @precondition(lambda self: not self.connected)
    @rule(confirming=st.sampled_from([True, True, True, False]), write=st.booleans())
    def connect(self, confirming, write):
        self.queue.connected(confirming=confirming)
        self.connected = True
        self.confirming = confirming
        assert self.queue.confirming == confirming
        if write:
            self.write_all_that_fits()

    @precondition(lambda self: self.connected)
    @rule(poison=st.booleans())
    def lose(self, poison):
        loss = self.queue.lost(poison=poison)
        dead = self.written + ([self.hand] if self.hand else [])
        again = [i for i in dead if i.resend and not poison]
        reported = [i for i in dead if i not in again]
        assert loss.resent == len(again)
        self.check(loss.uncertain, reported)
        for item in again:
            item.resent = True
        for item in reported:
            self.end(item, "uncertain")
        self.resent = again + self.resent
        self.written, self.hand = [], None
        self.connected = self.confirming = False
        self.covered = {mark: [] for mark in self.covered}
        self.losses += 1

    # -------------------------------------------------------------------------------------------- flush

    @rule(target=barriers)
    def barrier(self):
        return (self.queue.barrier(), len(self.all))

    @rule(barrier=barriers)
    def ask_whether_settled(self, barrier):
        position, accepted = barrier
        left = [i for i in self.all.values() if i.end is None]
        if self.queue.is_settled(position):
            assert all(i.serial >= accepted for i in left)
        if not left:
            assert self.queue.is_settled(position)

    # -------------------------------------------------------------------------------------------- what always holds

    @invariant()
    def nothing_is_lost_from_sight(self):
        queue, options = self.queue, self.options
        there = self.lanes + self.resent + self.written + ([self.hand] if self.hand else [])
        assert sorted(i.serial for i in there) == [i.serial for i in self.all.values() if i.end is None]
        for fate in ("confirmed", "uncertain", "expired", "evicted", "unverified", "abandoned"):
            assert getattr(queue, fate) == sum(i.end == fate for i in self.all.values()), fate

        kept = self.written + ([self.hand] if self.hand else [])
        assert queue.waiting == len(self.lanes) + len(self.resent)
        assert queue.waiting_bytes == sum(i.size for i in self.lanes + self.resent)
        assert queue.unconfirmed == len(kept)
        assert queue.unconfirmed_bytes == sum(i.size for i in kept)
        assert queue.unmarked == any(all(i not in c for c in self.covered.values()) for i in self.written)
        half = (
            2 * len(self.written) >= WRITTEN_BOUND
            or 2 * sum(i.size for i in self.written) >= options.max_bytes
        )
        assert queue.needs_ping == (queue.unmarked and half)

        assert len(self.lanes) <= options.max_messages + self.untaken
        assert len(kept) + len(self.resent) <= WRITTEN_BOUND
        assert sum(i.size for i in kept + self.resent) <= options.max_bytes

    @invariant()
    def what_is_new_overtakes_nothing(self):
        free = not self.lanes and not self.resent and self.hand is None
        total = sum(item.size for item in self.written) + PROBE
        allowed = free and self.connected and total <= self.options.max_bytes
        allowed = allowed and len(self.written) < WRITTEN_BOUND
        confirmed = self.queue.confirmed
        assert self.queue.write_through("?" * PROBE, PROBE, self.now) == allowed
        if allowed:
            self.queue.retract(PROBE)
        assert self.queue.confirmed == confirmed

    def teardown(self):
        if not hasattr(self, "queue"):
            return
        remains = self.queue.close()
        written = self.written + ([self.hand] if self.hand else []) + self.resent
        never = sorted(self.lanes, key=lambda i: (-i.priority, i.place))
        self.check(remains.uncertain, written)
        self.check(remains.abandoned, never)
        for item in written:
            self.end(item, "uncertain")
        for item in never:
            self.end(item, "abandoned")
        self.lanes, self.resent, self.written, self.hand = [], [], [], None
        self.covered = {mark: [] for mark in self.covered}
        self.nothing_is_lost_from_sight()
        for patch in self.patches:
            patch.stop()


@pytest.mark.promise("P4")
@pytest.mark.promise("P5")
@pytest.mark.promise("P6")
def test_each_message_has_one_end_the_order_holds_and_the_bounds_hold():
    run_state_machine_as_test(OutboxModel, settings=settings(stateful_step_count=60))
