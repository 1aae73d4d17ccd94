"""A task that waits goes on within the call that ends its wait, where that can be; it always goes on once."""

import asyncio
from contextvars import ContextVar, copy_context

import pytest

from resilient_ws.aio.resume import resume

place = ContextVar("place", default="outside")


class Sleeper:
    """A task that waits, and notes where it is when it goes on."""

    def __init__(self, heard, name="task"):
        self.heard = heard
        self.name = name
        self.waiter = asyncio.get_running_loop().create_future()

    async def sleep(self):
        place.set(self.name)
        await self.waiter
        self.heard.append(f"{self.name} went on in {place.get()}")


async def asleep(heard):
    sleeper = Sleeper(heard)
    task = asyncio.create_task(sleeper.sleep())
    await asyncio.sleep(0)
    return sleeper.waiter, task


def ends(waiter, heard):
    heard.append("begins")
    resume(waiter)
    heard.append("ends")


async def test_in_a_callback_of_the_loop_it_goes_on_at_once_and_in_its_own_context():
    waiter, task = await asleep(heard := [])
    asyncio.get_running_loop().call_soon(ends, waiter, heard)
    await task
    assert heard == ["begins", "task went on in task", "ends"]


async def test_while_a_task_takes_a_step_it_goes_on_in_the_next_turn():
    waiter, task = await asleep(heard := [])
    ends(waiter, heard)
    assert heard == ["begins", "ends"]
    await task
    assert heard[2:] == ["task went on in task"]


async def test_where_its_context_is_in_use_it_goes_on_in_the_next_turn():
    heard = []
    sleeper = Sleeper(heard)
    context = copy_context()
    task = asyncio.get_running_loop().create_task(sleeper.sleep(), context=context)
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(ends, sleeper.waiter, heard, context=context)
    await task
    assert heard == ["begins", "ends", "task went on in task"]


async def test_in_debug_mode_it_goes_on_in_the_next_turn():
    loop = asyncio.get_running_loop()
    waiter, task = await asleep(heard := [])
    loop.set_debug(True)
    try:
        loop.call_soon(ends, waiter, heard)
        await task
    finally:
        loop.set_debug(False)
    assert heard == ["begins", "ends", "task went on in task"]


async def test_several_that_wait_for_the_same_go_on_in_the_next_turn():
    heard = []
    sleeper = Sleeper(heard)
    tasks = [asyncio.create_task(sleeper.sleep()) for _ in range(2)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(ends, sleeper.waiter, heard)
    await asyncio.gather(*tasks)
    assert heard == ["begins", "ends", *["task went on in task"] * 2]


async def test_what_nobody_waits_for_is_done():
    waiter = asyncio.get_running_loop().create_future()
    resume(waiter)
    assert waiter.done()
    resume(waiter)  # and twice does nothing


async def test_a_future_that_hides_who_waits_is_done_as_ever():
    class Hiding(asyncio.Future):
        @property
        def _callbacks(self):
            raise AttributeError

    sleeper = Sleeper(heard := [])
    sleeper.waiter = Hiding()
    task = asyncio.create_task(sleeper.sleep())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(ends, sleeper.waiter, heard)
    await task
    assert heard == ["begins", "ends", "task went on in task"]


async def test_one_that_was_cancelled_meanwhile_hears_only_that():
    waiter, task = await asleep(heard := [])
    task.cancel()
    asyncio.get_running_loop().call_soon(ends, waiter, heard)
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert heard == ["begins", "ends"]


async def fails(error, heard):
    """Return what a task raised when it went on."""

    async def fail():
        await waiter
        raise error("of the task")

    waiter = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(ends, waiter, heard)
    await asyncio.wait([task])
    return task.exception()


async def test_what_it_raises_is_its_own():
    assert isinstance(await fails(ValueError, heard := []), ValueError)
    assert heard == ["begins", "ends"]


@pytest.mark.expects_errors
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_ends_the_loop_and_not_what_called(error):
    heard = []
    with pytest.raises(error), asyncio.Runner() as runner:
        runner.run(fails(error, heard))
    assert heard == ["begins", "ends"]
