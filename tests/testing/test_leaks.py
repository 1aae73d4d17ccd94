import asyncio
import socket

import pytest

from resilient_ws.testing import LeakCheck, LeakError, run_virtual


async def test_what_ends_in_time_is_no_leak():
    async with LeakCheck() as check:
        task = asyncio.create_task(asyncio.sleep(0.02))
        with socket.socket():
            pass
        asyncio.get_running_loop().call_later(30, print).cancel()
        await check.verify()
    assert task.done()


async def test_what_was_there_before_is_no_leak():
    task = asyncio.create_task(asyncio.sleep(30))
    timer = asyncio.get_running_loop().call_later(30, print)
    with socket.socket():
        async with LeakCheck(grace=0):
            pass
    task.cancel()
    timer.cancel()


@pytest.mark.parametrize("virtual", [False, True])
def test_tasks_timers_and_sockets_are_named(virtual):
    async def main() -> None:
        sock = socket.socket()
        with pytest.raises(LeakError) as caught:
            async with LeakCheck(grace=0.05):
                task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
                timer = asyncio.get_running_loop().call_later(3000, print)
                leaked = socket.socket()
        for left in (sock, leaked):
            left.close()
        timer.cancel()
        task.cancel()
        kinds = [text.split()[0] for text in caught.value.leaks]
        assert kinds == ["task", "timer", "socket"]
        assert str(caught.value).startswith("left behind:\n  task <Task pending name='forgotten'")

    (run_virtual if virtual else asyncio.run)(main())


async def test_a_block_that_raises_says_only_that():
    with pytest.raises(KeyError):
        async with LeakCheck(grace=0):
            task = asyncio.create_task(asyncio.sleep(30))
            raise KeyError
    task.cancel()


def test_a_negative_grace_is_refused():
    with pytest.raises(ValueError, match="grace must be at least 0, not -1"):
        LeakCheck(grace=-1)
