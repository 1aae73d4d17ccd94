"""Name look-ups: on a thread of their own, joined while one is under way, and never answered from memory."""

import asyncio
import os
import socket
import threading
import time

import pytest

from resilient_ws.transports.shared import resolver as module
from resilient_ws.transports.shared.resolver import LookupResolver

TCP = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


class Names:
    """Takes the place of the system's resolver: each look-up waits until it is answered."""

    def __init__(self):
        self.asked = []
        self.threads = []
        self.released = threading.Semaphore(0)
        self.answer = [(socket.AF_INET, *TCP, ("192.0.2.1", 80))]

    def getaddrinfo(self, host, port, *, family, type, flags):  # noqa: A002 - the name is the system's
        self.asked.append((host, port, family, type, flags))
        self.threads.append(threading.current_thread())
        assert self.released.acquire(timeout=10)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def release(self, count=1):
        self.released.release(count)

    async def until_asked(self, count):
        async with asyncio.timeout(5):
            while len(self.asked) < count:
                await asyncio.sleep(0.001)

    async def until_idle(self):
        async with asyncio.timeout(5):
            while module._in_flight:
                await asyncio.sleep(0.001)


@pytest.fixture
def names(monkeypatch):
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.release(100)
    for thread in names.threads:
        thread.join(5)
    assert module._in_flight == {}


def look_up(host="h", port=80, family=socket.AF_UNSPEC):
    return asyncio.create_task(LookupResolver().resolve(host, port, family))


async def test_it_returns_addresses(names):
    names.answer = [
        (socket.AF_INET6, *TCP, ("2001:db8::1", 80, 0, 0)),
        (socket.AF_INET6, *TCP, ("fe80::1%2", 80, 0, 2)),
        (socket.AF_INET, *TCP, ("192.0.2.1", 80)),
    ]
    names.release()
    found = await look_up("name.example", 80)
    assert [(one["hostname"], one["host"], one["port"], one["family"]) for one in found] == [
        ("name.example", "2001:db8::1", 80, socket.AF_INET6),
        ("name.example", "fe80::1%2", 80, socket.AF_INET6),
        ("name.example", "192.0.2.1", 80, socket.AF_INET),
    ]
    assert all(one["flags"] & socket.AI_NUMERICHOST for one in found)
    assert names.asked == [("name.example", 80, 0, socket.SOCK_STREAM, socket.AI_ADDRCONFIG)]


async def test_it_runs_on_a_daemon_thread_with_a_name(names):
    names.release()
    await look_up("name.example")
    assert names.threads[0].daemon
    assert names.threads[0].name == "resilient_ws:dns:name.example"


async def test_each_one_after_an_answer_asks_again(names):
    names.release(2)
    await look_up()
    names.answer = [(socket.AF_INET, *TCP, ("192.0.2.2", 80))]
    assert [one["host"] for one in await look_up()] == ["192.0.2.2"]
    assert len(names.asked) == 2


async def test_one_under_way_is_joined(names):
    tasks = [look_up() for _ in range(10)]
    await names.until_asked(1)
    tasks += [look_up() for _ in range(10)]
    await asyncio.sleep(0.01)
    names.release()
    assert all([one["host"] for one in found] == ["192.0.2.1"] for found in await asyncio.gather(*tasks))
    assert len(names.asked) == 1


async def test_hung_ones_are_given_up_and_joined_later(names):
    """Retry after retry joins the same one, so no number of retries uses up threads."""
    before = threading.active_count()
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(LookupResolver().resolve("h", 80), 0.005)
    assert threading.active_count() == before + 1
    last = look_up(family=socket.AF_INET)
    await asyncio.sleep(0)
    names.release()
    assert await last
    assert len(names.asked) == 1


@pytest.mark.parametrize("other", [("g", 80, 0), ("h", 81, 0), ("h", 80, socket.AF_INET6)])
async def test_different_questions_are_not_joined(names, other):
    tasks = [look_up(), look_up(*other)]
    await names.until_asked(2)
    names.release(2)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "error", [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), OSError(24, "x")]
)
async def test_everybody_hears_of_a_failure(names, error):
    names.answer = error
    tasks = [look_up(), look_up()]
    await names.until_asked(1)
    names.release()
    for task in tasks:
        with pytest.raises(OSError, match=r"Name or service|x") as caught:
            await task
        assert caught.value.errno == error.errno


async def test_what_is_no_host_name_is_a_failure_like_any_other(names):
    names.answer = UnicodeError("label empty or too long")
    names.release()
    with pytest.raises(OSError, match="not a host name: label empty or too long"):
        await look_up("x" * 64 + ".example")


async def test_an_unexpected_exception_is_told_and_not_waited_for_for_ever(names):
    names.answer = ValueError("embedded null character")
    names.release()
    with pytest.raises(OSError, match="not a host name: embedded null character"):
        await asyncio.wait_for(LookupResolver().resolve("h", 80), 5)


@pytest.mark.parametrize("answer", [[], [(socket.AF_INET6, *TCP, (10, b"\x00" * 16))]])
async def test_no_address_is_a_failure(names, answer):
    """A Python without IPv6 returns raw bytes for it."""
    names.answer = answer
    names.release()
    with pytest.raises(OSError, match="no address"):
        await look_up()


async def test_who_is_cancelled_does_not_disturb_the_others(names):
    cancelled, kept = look_up(), look_up()
    await names.until_asked(1)
    cancelled.cancel()
    await asyncio.sleep(0)
    names.release()
    assert await kept
    assert cancelled.cancelled()


async def test_closing_it_is_nothing():
    await LookupResolver().close()


def test_two_loops_may_wait_for_the_same_one(names):
    found = []

    def in_a_loop_of_its_own():
        found.append(asyncio.run(LookupResolver().resolve("h", 80)))

    threads = [threading.Thread(target=in_a_loop_of_its_own) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while len(next(iter(module._in_flight.values()), module._Lookup(("", 0, 0)))._waiting) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    names.release()
    for thread in threads:
        thread.join(5)
    assert [[one["host"] for one in each] for each in found] == [["192.0.2.1"]] * 2
    assert len(names.asked) == 1


def test_a_loop_that_is_gone_is_not_told(names):
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(LookupResolver().resolve("h", 80), 0.01))
    names.release()
    names.threads[0].join(5)
    assert not names.threads[0].is_alive()


def test_a_thread_that_cannot_be_started_is_a_failure(names, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="can't start new thread"):
        asyncio.run(LookupResolver().resolve("h", 80))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_needs_no_thread(monkeypatch, host):
    monkeypatch.setattr(module, "_join", None)
    (found,) = await LookupResolver().resolve(host, 80, socket.AF_UNSPEC)
    assert (found["host"], found["port"], found["hostname"]) == (host, 80, host)


@pytest.mark.parametrize("host", ["db1", "a:b", "1.2.3.256"])
async def test_what_only_looks_like_an_address_is_looked_up(monkeypatch, host):
    asked = []

    async def join(key):
        asked.append(key)
        return [(socket.AF_INET, *TCP, ("192.0.2.1", 80))]

    monkeypatch.setattr(module, "_join", join)
    await LookupResolver().resolve(host, 80, socket.AF_UNSPEC)
    assert asked == [(host, 80, socket.AF_UNSPEC)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent(names):
    async def give_up():
        waiting = look_up()
        await names.until_asked(1)
        waiting.cancel()

    async def again():
        names.release()
        async with asyncio.timeout(5):
            assert await look_up()

    asyncio.run(give_up())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            names.released = threading.Semaphore(0)
            asyncio.run(again())
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
