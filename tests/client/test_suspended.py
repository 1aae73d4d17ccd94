"""A machine that was suspended: what is measured across it counts the time for which it slept."""

import asyncio

import pytest
from tenacity import wait_fixed

from resilient_ws import Gap, HandshakeRejected, ReconnectEvent, ReconnectPolicy, RetriesExhausted, State
from resilient_ws.testing import FakeTransport
from tests.client.kit import settle, stage

NIGHT = 8 * 3600


def suspend(seconds=NIGHT):
    asyncio.get_running_loop().clock.suspend(seconds)


async def test_max_elapsed_counts_the_night():
    policy = ReconnectPolicy(wait=wait_fixed(10), max_elapsed=3600)
    async with stage(reconnect=policy) as played:
        played.transport.refuse(times=None)
        played.peer.drop()
        await settle(15)
        assert played.client.state is State.BACKOFF
        suspend()
        with pytest.raises(RetriesExhausted) as ended:
            await played.client.recv()
        assert ended.value.elapsed == pytest.approx(NIGHT + 20, abs=1)
        assert len(played.transport.dials) == 3, "the attempt that was due is made; then it is over"


async def test_downtime_counts_the_night():
    async with stage() as played:
        gaps = played.client.with_gaps()
        played.peer.drop()
        await settle()
        suspend()
        peer = await played.reopened()
        peer.send("x")
        gap = await anext(gaps)
        assert isinstance(gap, Gap)
        (back,) = played.of(ReconnectEvent)
        assert gap.downtime == back.downtime == pytest.approx(NIGHT + 1, abs=0.1)


async def test_the_night_counts_as_uptime_and_not_as_an_outage():
    policy = ReconnectPolicy(wait=wait_fixed(1), max_elapsed=60, min_uptime=NIGHT * 2)
    async with stage(reconnect=policy) as played:
        suspend()
        played.peer.drop()
        await played.reopened()
        assert played.closes[0].opened_for == pytest.approx(NIGHT, abs=1)


async def test_a_refusal_of_the_morning_is_one_of_ten():
    transport = FakeTransport()
    policy = ReconnectPolicy(wait=wait_fixed(1))
    async with stage(transport, reconnect=policy) as played:
        played.peer.drop()
        await settle()
        suspend()
        transport.refuse(HandshakeRejected("HTTP 403", status=403), times=9)
        await played.reopened()


async def test_min_delay_does_not_hold_back_what_was_asked_for_after_the_night():
    policy = ReconnectPolicy(wait=wait_fixed(100), min_delay=20)
    async with stage(reconnect=policy) as played:
        played.peer.drop()
        await settle()
        suspend()
        played.client.reconnect_now()
        await settle(0.1)
        assert played.client.state is State.OPEN
