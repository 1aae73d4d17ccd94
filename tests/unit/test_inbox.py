"""The inbox beside a model that counts everything each time, and what a message costs while it is full."""

import asyncio
import random

import pytest

from resilient_ws.api import options
from resilient_ws.api.events import Gap
from resilient_ws.delivery import inbox as module
from resilient_ws.delivery.inbox import Inbox


class Keeper:
    """Notes whether reading is paused, and how often an answer cannot come."""

    def __init__(self):
        self.paused = False
        self.stuck = 0

    def inbox_full(self):
        assert not self.paused
        self.paused = True

    def inbox_relaxed(self):
        assert self.paused
        self.paused = False

    def inbox_stuck(self):
        self.stuck += 1


@pytest.fixture
def keeper():
    return Keeper()


@pytest.fixture
def counted(monkeypatch):
    """Count how many messages are measured."""
    measured = []
    size_of = module.size_of

    def measure(message):
        measured.append(message)
        return size_of(message)

    monkeypatch.setattr(module, "size_of", measure)
    return measured


def take(box):
    """Take one item as the program does."""
    if len(box.messages) > box.floor:
        return box.messages.popleft()
    return box.take()


def held(box):
    return [item for item in box.items if not isinstance(item, Gap)]


@pytest.mark.parametrize("seed", range(20))
def test_with_drop_oldest_the_bounds_hold_and_nothing_is_dropped_without_need(seed, keeper):
    chance = random.Random(seed)
    box = Inbox(options.Inbox(10, 100, "drop_oldest"), keeper)
    expected, received = [], 0
    for number in range(2000):
        action = chance.random()
        if action < 0.5 + 0.1 * (seed % 3):
            message = str(number) + "ü" * chance.choice([0, 0, 1, 10, 40])
            size = len(message.encode())
            box.put(message, size)
            expected.append(message)
            received += size
            while len(expected) > 1 and (
                len(expected) > 10 or sum(len(message.encode()) for message in expected) > 100
            ):
                del expected[0]
        elif action < 0.99:
            if box.items:
                item = take(box)
                if not isinstance(item, Gap):
                    assert item == expected.pop(0)
        else:
            assert box.take_messages() == expected
            expected.clear()
        assert held(box) == expected
        assert box.bytes_received == received
    assert not keeper.paused


@pytest.mark.parametrize("seed", range(20))
def test_reading_pauses_at_a_bound_and_goes_on_when_half_of_each_is_free(seed, keeper):
    chance = random.Random(seed)
    box = Inbox(options.Inbox(10, 100), keeper)
    received = 0
    for number in range(2000):
        if chance.random() < 0.6 and (not keeper.paused or chance.random() < 0.2):
            message = str(number) + "ü" * chance.choice([0, 0, 1, 10, 40])
            size = len(message.encode())
            box.put(message, size)
            received += size
            full = len(box) >= 10 or sum(len(message.encode()) for message in held(box)) >= 100
            assert keeper.paused or not full
        elif box.items:
            was = keeper.paused
            take(box)
            free = len(box) <= 5 and sum(len(message.encode()) for message in held(box)) <= 50
            assert keeper.paused == (was and not free)
        assert box.paused == keeper.paused
        assert box.bytes_received == received


@pytest.mark.parametrize("bounds", [(1000, 10**9), (10**6, 100_000)])
@pytest.mark.parametrize("takes", [False, True])
def test_a_full_inbox_that_drops_measures_few_messages_for_each_that_comes(bounds, takes, counted, keeper):
    box = Inbox(options.Inbox(*bounds, "drop_oldest"), keeper)
    for _ in range(1100):
        box.put("x" * 100, 100)
    counted.clear()
    for _ in range(1000):
        box.put("x" * 100, 100)
        if takes:
            take(box)
    assert len(counted) <= 3000


def test_what_is_taken_while_bytes_keep_the_reading_paused_is_measured_once(counted, keeper):
    box = Inbox(options.Inbox(10**4, 100_000), keeper)
    for _ in range(1000):
        box.put("x" * 100, 100)
    assert keeper.paused
    counted.clear()
    while keeper.paused:
        take(box)
    assert len(box) == 500
    assert len(counted) <= 2000


def test_what_comes_in_one_read_while_somebody_waits_for_an_answer_is_measured_once(counted, keeper):
    box = Inbox(options.Inbox(1000, 10**9), keeper)
    box.expect()
    for _ in range(4000):
        box.put("x" * 100, 100)
    assert keeper.stuck
    assert len(counted) <= 8000


async def test_one_that_is_waited_for_holds_no_queue(keeper):
    inbox = Inbox(options.Inbox(), keeper)
    assert inbox.items == ()  # a deque is never equal to it
    for message in ("one", "two"):
        taken = asyncio.ensure_future(inbox.get())
        await asyncio.sleep(0)
        assert inbox.items == ()
        inbox.put(message, len(message))
        assert await taken == message
