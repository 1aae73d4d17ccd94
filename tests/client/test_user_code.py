"""What the program's code does to the loop and to the tasks that call it: the client lives on (P9)."""

import asyncio

import pytest

from tests.client.kit import settle, stage

pytestmark = pytest.mark.promise("P9")

WORK = 0.002
"""Seconds that one call works without giving the loop away."""


class Worker:
    """A callback that works, and how often it was called between two turns of the loop."""

    def __init__(self) -> None:
        self.calls = 0
        self.most = 0

    def __call__(self, _event):
        asyncio.get_running_loop().clock.advance(WORK)
        self.calls += 1

    async def later(self, event):
        self(event)

    async def watch(self, calls):
        """Let the loop turn until there were so many calls."""
        while self.calls < calls:
            before = self.calls
            await asyncio.sleep(0)
            self.most = max(self.most, self.calls - before)


@pytest.mark.promise("P7")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_callbacks_for_many_messages_leave_the_loop_to_others(asynchronous):
    worker = Worker()
    async with stage(on_message=worker.later if asynchronous else worker) as played:
        await settle()
        played.peer.send(*map(str, range(200)))
        await worker.watch(200)
        assert worker.most == 3


@pytest.mark.promise("P7")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_callbacks_for_many_events_leave_the_loop_to_others(asynchronous):
    worker = Worker()
    async with stage(on_undelivered=worker.later if asynchronous else worker) as played:
        played.peer.go_deaf()
        for number in range(200):
            await played.client.send(str(number))
        await settle()
        played.peer.drop()
        await worker.watch(200)
        assert worker.most == 3


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_all_of_many_events_are_told_before_the_end(asynchronous):
    worker = Worker()
    async with stage(on_undelivered=worker.later if asynchronous else worker) as played:
        played.peer.go_deaf()
        for number in range(200):
            await played.client.send(str(number))
        await settle()
        played.peer.drop()
        await worker.watch(5)
        await played.client.close()
        assert worker.calls == 200
