import asyncio
import socket
import threading
import time
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from resilient_ws.testing import FaultServer, Refuse, VirtualClock, run_virtual
from resilient_ws.testing.clock import DeadlockError, TimeLimitError
from tests.testing.raw import RawClient


def test_hours_pass_in_milliseconds_and_in_order():
    order = []

    async def sleeper(hours: float) -> None:
        await asyncio.sleep(hours * 3600)
        order.append((hours, asyncio.get_running_loop().time()))

    async def main() -> float:
        async with asyncio.TaskGroup() as group:
            for hours in (3, 1, 48, 2):
                group.create_task(sleeper(hours))
        return asyncio.get_running_loop().time()

    started = time.monotonic()
    assert run_virtual(main()) == 48 * 3600
    assert time.monotonic() - started < 0.5
    assert order == [(hours, hours * 3600) for hours in (1, 2, 3, 48)]


def test_time_stands_still_while_anything_can_run():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired = []
        loop.call_later(0.001, fired.append, 1)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert loop.time() == 0
        assert fired == []

    run_virtual(main())


def test_a_timeout_ends_at_its_time():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86_400):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 86_400


def test_the_clock_can_be_read_and_moved_by_hand():
    clock = VirtualClock(1000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        due = []
        loop.call_later(10, lambda: due.append(loop.time()))
        clock.advance(25)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert due == [1025]
        await asyncio.sleep(5)

    clock.run(main())
    assert (clock.now, clock.elapsed, clock.jumps) == (1030, 30, 1)
    assert repr(clock) == "<VirtualClock at 1030 s after 1 jumps>"


@pytest.mark.parametrize("start", [1e7, 1e12, 1e15])
def test_a_large_time_still_moves(start):
    clock = VirtualClock(start, limit=None)
    fired = []

    async def main() -> None:
        asyncio.get_running_loop().call_at(start, fired.append, "due now")
        await asyncio.sleep(1e-9)
        await asyncio.sleep(0)

    clock.run(main())
    assert start < clock.now < start + 2
    assert fired == ["due now"]


def test_a_job_in_an_executor_holds_the_clock():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        late = []
        loop.call_later(1, late.append, "too early")
        for _ in range(3):
            assert await asyncio.to_thread(lambda: time.sleep(0.03) or "done") == "done"
            assert await loop.run_in_executor(None, int, "7") == 7
        assert (loop.time(), late) == (0, [])
        await asyncio.sleep(2)
        assert late == ["too early"]

    run_virtual(main())


def test_a_name_is_resolved_before_the_timeout_fires():
    async def main() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    run_virtual(main())


def test_a_thread_of_ones_own_holds_the_clock_until_it_has_called():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        def work() -> None:
            time.sleep(0.05)
            loop.call_soon_threadsafe(answer.set_result, "from the thread")

        thread = threading.Thread(target=work)
        thread.start()
        async with asyncio.timeout(0.001):
            assert await answer == "from the thread"
        thread.join()

    run_virtual(main())


def test_a_thread_that_stays_holds_the_clock_for_a_second_only(monkeypatch):
    monkeypatch.setattr("resilient_ws.testing.clock.THREAD_GRACE", 0.05)
    end = threading.Event()

    async def main() -> None:
        thread = threading.Thread(target=end.wait)
        thread.start()
        started = time.monotonic()
        for _ in range(100):
            await asyncio.sleep(60)
        assert time.monotonic() - started < 1
        end.set()
        thread.join()

    run_virtual(main())


def test_everything_waiting_is_a_deadlock_that_names_the_tasks():
    async def main() -> None:
        await asyncio.Event().wait()

    started = time.monotonic()
    with pytest.raises(
        DeadlockError, match=r"everything waits, and no timer is set .*\n  <Task pending .*main"
    ) as caught:
        run_virtual(main())
    assert len(caught.value.tasks) == 1
    assert time.monotonic() - started < 0.5
    assert str(DeadlockError([])).endswith(" no task is left")


def test_a_deadlock_with_sockets_is_found_after_the_stall_timeout():
    ours, theirs = socket.socketpair()

    async def main() -> None:
        await asyncio.get_running_loop().sock_recv(ours, 1)

    with ours, theirs:
        ours.settimeout(0)
        with pytest.raises(DeadlockError):
            VirtualClock(stall_timeout=0.05).run(main())


def test_a_socket_that_gets_its_bytes_from_a_thread_is_no_deadlock():
    ours, theirs = socket.socketpair()
    sender = threading.Timer(0.05, theirs.send, [b"x"])

    async def main() -> bytes:
        return await asyncio.get_running_loop().sock_recv(ours, 1)

    with ours, theirs:
        ours.settimeout(0)
        sender.start()
        assert run_virtual(main()) == b"x"
        sender.join()


def test_what_repeats_for_ever_meets_the_limit():
    async def main() -> None:
        while True:
            await asyncio.sleep(10)

    clock = VirtualClock(5, limit=100)
    with pytest.raises(TimeLimitError, match=r"more than 100 s of virtual time have passed:\n  <Task"):
        clock.run(main())
    assert clock.now == 115
    assert str(TimeLimitError(1, [])).endswith("passed: no task is left")


def test_closing_a_loop_that_met_its_limit_may_take_some_more_time():
    async def main() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(50)

    with pytest.raises(TimeLimitError):
        VirtualClock(limit=100).run(main())


@pytest.mark.parametrize(
    "make,complaint",
    [
        (lambda: VirtualClock(-1), "start must be at least 0, not -1"),
        (lambda: VirtualClock(limit=-1), "limit must be at least 0, not -1"),
        (lambda: VirtualClock().advance(-1), "seconds must be at least 0, not -1"),
        (lambda: VirtualClock(stall_timeout=-1), "stall_timeout must be at least 0, not -1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_a_socket_can_be_watched_for_both_directions():
    ours, theirs = socket.socketpair()
    seen = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, seen.append, "readable")
        await asyncio.sleep(1)
        assert seen == []
        loop.add_writer(ours, lambda: (seen.append("writable"), loop.remove_writer(ours)))
        await asyncio.sleep(1)
        assert seen == ["writable"]
        loop.remove_reader(ours)

    with ours, theirs:
        run_virtual(main())


def test_real_sockets_work_on_virtual_time():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with FaultServer([Refuse(503, delay=3600)]) as server:
            async with RawClient(server.port) as client:
                await client.request()
                assert await client.response() == 503
                assert 3600 <= loop.time() < 3601
            for number in range(20):
                async with asyncio.timeout(1), RawClient(server.port) as client:
                    await client.open()
                    client.text(str(number))
                    assert (await client.frame(0.5)).payload == str(number).encode()
                await asyncio.sleep(600)
            assert server.report(20).ok

    started = time.monotonic()
    run_virtual(main())
    assert time.monotonic() - started < 5


def busy_with(loop, woken):
    """Something that can always run after a timer has fired, so that the clock does not jump by itself."""
    for _ in range(3):
        loop.call_soon(woken.append, 1)


@given(st.floats(0, 1e6), st.lists(st.floats(1e-9, 100), min_size=1, max_size=6))
def test_no_timer_fires_before_its_time(start, delays):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, float]] = []
        for first in delays:  # timers of other timers: their times are sums that floats round
            for when in (loop.time() + first, loop.time() + first + 5e-10):
                loop.call_at(when, lambda when=when: (fired.append((when, loop.time())), busy_with(loop, [])))
            await asyncio.sleep(first + 1e-6)
        assert len(fired) == 2 * len(delays)
        assert all(at >= when for when, at in fired)

    VirtualClock(start, limit=None).run(main())


@pytest.mark.parametrize("how", ["call_at", "call_later", "sleep"])
def test_code_that_sets_its_timer_again_until_its_time_has_come_ends(how):
    """Everything that waits for a time is written like this; a timer that fires too early would be set for ever."""

    async def main(first: float, second: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(first)
        due = loop.time() + second
        await asyncio.sleep(second / 9)
        for _ in range(3):
            now = loop.time()
            if now >= due:
                return
            busy_with(loop, [])
            waiter = loop.create_future()
            if how == "call_at":
                loop.call_at(due, waiter.set_result, None)
                await waiter
            elif how == "call_later":
                loop.call_later(due - now, waiter.set_result, None)
                await waiter
            else:
                await asyncio.sleep(due - now)
        raise AssertionError(f"{first} and {second}: the time never comes")

    random = Random(7)
    for _ in range(1000):  # one in a hundred has sums that round downwards
        VirtualClock().run(main(random.randint(1, 99_999) / 1000, random.randint(1, 99_999) / 1000))


def test_a_timer_shows_what_it_calls():
    async def main() -> str:
        timer = asyncio.get_running_loop().call_later(1, test_a_timer_shows_what_it_calls)
        text = repr(timer)
        timer.cancel()
        return text

    assert "test_a_timer_shows_what_it_calls" in run_virtual(main())
