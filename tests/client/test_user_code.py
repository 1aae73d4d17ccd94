"""What the program's code does to the loop and to the tasks that call it: the client lives on (P9)."""

import asyncio

import pytest

from resilient_ws import State
from tests.client.kit import now, settle, stage

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


async def by_itself(client):
    await client.close()


async def with_a_limit(client):
    await asyncio.wait_for(client.close(), 100)


async def among_others(client):
    await asyncio.gather(client.close(), asyncio.sleep(0))


async def in_a_group(client):
    async with asyncio.TaskGroup() as group:
        group.create_task(client.close())


CLOSING = [by_itself, with_a_limit, among_others, in_a_group]


@pytest.mark.promise("P7")
@pytest.mark.parametrize("how", CLOSING)
@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize("name", ["on_open", "on_state", "on_message"])
async def test_close_in_a_callback_does_not_wait_for_it_whatever_task_it_is_in(how, returned, name):
    took = []

    async def close(_event):
        began = now()
        await how(played.client)
        took.append(now() - began)

    def close_later(event):
        return asyncio.gather(close(event))

    async with stage(start=False, close_timeout=50, **{name: close_later if returned else close}) as played:
        played.client.start()
        await settle()
        if name == "on_message":
            played.peer.send("close")
            await settle()
        assert played.client.state is State.CLOSED
        assert took
        assert max(took) < 1
        await asyncio.wait_for(played.client.close(), 1)


@pytest.mark.promise("P7")
@pytest.mark.parametrize("how", CLOSING)
async def test_close_in_setup_does_not_wait_for_it_whatever_task_it_is_in(how):
    async def setup(_connection):
        await how(played.client)

    async with stage(start=False, setup=setup, close_timeout=50) as played:
        played.client.start()
        await settle()
        assert played.client.state is State.CLOSED


@pytest.mark.promise("P7")
async def test_close_in_a_task_that_a_callback_has_left_behind_waits_for_the_callbacks():
    done, tasks = [], []

    async def leave_behind(_event):
        async def close():
            await asyncio.sleep(1)
            await played.client.close()
            done.append("closed")

        tasks.append(asyncio.create_task(close()))

    async def last(event):
        await asyncio.sleep(event.final)
        done.append("called")

    async with stage(on_open=leave_behind, on_close=last) as played:
        await settle()
        await asyncio.gather(*tasks)
        assert done == ["called", "closed"]
