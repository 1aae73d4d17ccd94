"""Three hundred connections in a row are lost in every way there is, and nothing is left of any of them."""

import asyncio
import gc
import heapq
import logging
import random
import tracemalloc
from collections import Counter

import pytest

from resilient_ws import CloseEvent, Heartbeat, OpenEvent, ReconnectEvent, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import FaultServer, Hangup, Redirect, Refuse
from resilient_ws.transports.shared import frame_writer as frames
from tests.conftest import left_tasks, left_timers, open_sockets

DROPS = 300
WARM_UP = 60
KINDS = ("close", "close", "close empty", "fin", "fin", "rst", "rst", "mid-frame", "silent", "stopped")
CODES = (1000, 1001, 1011, 1012, 1014, 3000, 4999)
BEFORE_OPEN = (Refuse(503), Refuse(429), Hangup("fin"), Hangup("rst", when="connect"), Redirect("/on"))
# Refused attempts and broken frames end a client only in rows; here each of them is followed by an open connection.
POLICY = ReconnectPolicy(first_delay=0.002, min_delay=0, max_delay=0.005)
MESSAGES = 5

# Lines that keep what a client says, bounded by their own rules, and what the test itself keeps.
OURS = [
    tracemalloc.Filter(True, "*/resilient_ws/*"),
    tracemalloc.Filter(True, "*/aiohttp/*"),
    tracemalloc.Filter(True, "*/asyncio/*"),
]
NOT_OURS = [
    tracemalloc.Filter(False, "*/resilient_ws/testing/*"),
    tracemalloc.Filter(False, tracemalloc.__file__),
]


def objects():
    """How many objects of each type of the client's and of aiohttp's are alive."""
    gc.collect()
    # Cancelled timers stay with the loop until there are a hundred of them; those that are set are counted elsewhere.
    alive = [one for one in gc.get_objects() if not isinstance(one, asyncio.TimerHandle)]
    names = (f"{type(one).__module__}.{type(one).__qualname__}" for one in alive)
    counted = Counter(name for name in names if name.startswith(("resilient_ws.", "aiohttp.", "asyncio.")))
    return Counter(
        {name: count for name, count in counted.items() if not name.startswith("resilient_ws.testing.")}
    )


def forget_cancelled_timers():
    """A loop of asyncio keeps cancelled timers until there are a hundred of them: up to 40 KB, now more, now less."""
    loop = asyncio.get_running_loop()
    for timer in loop._scheduled:
        timer._scheduled = not timer.cancelled()
    loop._scheduled[:] = [timer for timer in loop._scheduled if not timer.cancelled()]
    heapq.heapify(loop._scheduled)
    loop._timer_cancelled_count = 0


def memory():
    """How many bytes the client's code and what it stands on hold."""
    forget_cancelled_timers()
    frames._keys.left.clear()  # a thousand masking keys for all connections, or what is left of them: 70 KB
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces(OURS).filter_traces(NOT_OURS)
    return sum(trace.size for trace in snapshot.statistics("filename"))


class Log:
    """What a client told, in as few bytes as possible."""

    def __init__(self, client):
        self.kinds = []
        self.origins = Counter()
        self.undelivered = set()
        client.on_open(lambda _: self.kinds.append(OpenEvent))
        client.on_reconnect(lambda _: self.kinds.append(ReconnectEvent))
        client.on_close(self._closed)
        client.on_undelivered(lambda event: self.undelivered.add(int(event.message)))

    def _closed(self, event):
        self.kinds.append(CloseEvent)
        self.origins[str(event.origin)] += 1


async def lose(peer, kind, chance):
    """Lose a connection."""
    if kind == "close":
        peer.close(chance.choice(CODES), "réason")
    elif kind == "close empty":
        peer.close(None)
    elif kind == "mid-frame":
        peer.close_mid_frame(chance.choice(["fin", "rst"]))
    elif kind == "stopped":
        peer.stop_reading()
        peer.go_silent()
    else:
        peer.drop(kind)


@pytest.mark.slow
@pytest.mark.promise("P1")
@pytest.mark.promise("P4")
@pytest.mark.promise("P6")
async def test_three_hundred_drops_leave_nothing_behind(caplog):
    caplog.set_level(logging.CRITICAL, "resilient_ws")  # what pytest keeps of the log would be counted too
    chance = random.Random(300)
    kinds = [KINDS[number % len(KINDS)] for number in range(DROPS)]
    chance.shuffle(kinds)
    sockets = open_sockets()
    sent, received = 0, []
    refused = 0

    async with FaultServer(handler=lambda peer: peer.wait_ended(None), keep=50, keep_bytes=10_000) as server:
        client = WebSocketClient(server.url, heartbeat=Heartbeat(0.05, 0.05), reconnect=POLICY)
        log = Log(client)

        async def consume():
            async for message in client:
                received.append(int(message))  # noqa: PERF401 - it is looked at meanwhile

        client.start()
        consuming = asyncio.create_task(consume())
        tracemalloc.start()
        try:
            for number, kind in enumerate(kinds):
                if number == WARM_UP:
                    peer = await server.connection()
                    before = await self_portrait(server, peer)
                    await lose(peer, "fin", chance)
                peer = await server.connection()
                for at in range(MESSAGES):
                    await client.send(str(sent))
                    sent += 1
                    await peer.send(str(number * 1_000 + at))
                if chance.random() < 0.5:
                    await server.until(lambda peer=peer: peer.received > 0)
                if chance.random() < 0.3:
                    refusal = chance.choice(BEFORE_OPEN)
                    refused += not isinstance(refusal, Redirect)
                    server.next(refusal)
                await lose(peer, kind, chance)
            peer = await server.connection()
            after = await self_portrait(server, peer)
        finally:
            tracemalloc.stop()
        await client.send(str(sent))
        await client.flush(timeout=5)
        await peer.send("999999999")
        await asyncio.wait_for(until(lambda: received[-1:] == [999999999]), 5)
        stats = client.stats
        await client.close()
        await consuming
        numbers = [int(entry) for entry in server._numbers if entry is not None]

    # The last failures are kept, with whatever their tracebacks hold; they are few.
    more = after["objects"] - before["objects"]
    assert {name: count for name, count in more.items() if count > 4} == {}
    assert (before["tasks"], before["timers"]) == (after["tasks"], after["timers"])
    assert before["sockets"] == after["sockets"]
    assert after["memory"] - before["memory"] < 32 * 1024
    assert open_sockets() == sockets

    total = DROPS + 1  # and the one before the first portrait
    assert log.kinds[0] is OpenEvent
    assert log.kinds[1:] == [CloseEvent, OpenEvent, ReconnectEvent] * total + [CloseEvent]
    assert (stats.opens, stats.attempts) == (total + 1, total + 1 + refused)
    counted = Counter(kinds)
    assert log.origins["peer"] == counted["close"] + counted["close empty"]
    assert log.origins["heartbeat"] == counted["silent"] + counted["stopped"]
    assert log.origins["network"] == counted["fin"] + counted["rst"] + counted["mid-frame"] + 1
    assert log.origins["local"] == 1

    assert received == sorted(set(received)), "received out of order, or twice"
    assert numbers == sorted(set(numbers)), "sent out of order, or twice"
    assert set(numbers) | log.undelivered == set(range(sent + 1)), "neither arrived nor reported"


async def self_portrait(server, peer):
    """What is there of the client, once the server has done with the connections before this one."""
    for visit in list(server.visits):
        if visit.link is not peer._link:
            visit.link.rst()
    await server.until(lambda: len(server.visits) == 1)
    await asyncio.sleep(0.02)
    loop = asyncio.get_running_loop()
    return {
        "tasks": len(left_tasks()),
        "timers": len(left_timers(loop)),
        "sockets": len(open_sockets()),
        "objects": objects(),
        "memory": memory(),
    }


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)
