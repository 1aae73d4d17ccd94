"""Many clients of one process: who may dial, and that an origin which asks for time is left alone by all of them."""

import asyncio
import contextlib
import logging
import math
import threading

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ConnectError,
    Governor,
    HandshakeRejected,
    Heartbeat,
    OpenTimeout,
    ReconnectPolicy,
    RetriesExhausted,
    Retry,
    RetryEvent,
    State,
    WebSocketClient,
)
from resilient_ws.testing import FakeTransport
from tests.client.kit import STEADY, URL, now, settle, stage

HERE = "ws://peer.test"


@pytest.fixture(autouse=True)
def slow_dials_count(request, monkeypatch):
    """Let a dial count for as long as it takes, so that a story may be as slow as it likes."""
    if request.node.get_closest_marker("promise") is None or "hang" not in request.node.name:
        monkeypatch.setattr("resilient_ws.core.governor.SLOT", math.inf)


def overloaded(retry_after=None, status=503):
    return HandshakeRejected(f"HTTP {status}", status=status, retry_after=retry_after)


def dials_of(governor):
    return governor.dials(asyncio.get_running_loop())


@contextlib.asynccontextmanager
async def crowd(count, transport=None, **options):
    """Several clients that begin to connect in this moment."""
    transport = transport or FakeTransport()
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(stage(transport, ready=False, **options)) for _ in range(count)
        ]


async def all_open(crowd):
    for played in crowd:
        await played.until_state(State.OPEN)


def dial_times(transport):
    return [round(dial.at, 3) for dial in transport.dials]


# --- how many at once


@pytest.mark.promise("P10")
async def test_no_more_than_max_dials_are_under_way_and_the_others_follow():
    transport = FakeTransport()
    transport.accept(None, delay=4)
    async with crowd(8, transport, governor=Governor(max_dials=3)) as clients:
        await settle(1)
        assert clients[0].client.stats.dials_waiting == 5
        assert all(one.client.state is State.CONNECTING for one in clients)
        await all_open(clients)
        assert dial_times(transport) == [0, 0, 0, 4, 4, 4, 8, 8]
        assert [one.of(RetryEvent) for one in clients] == [[]] * 8
        assert clients[0].client.stats.dials_waiting == 0


async def test_a_place_is_free_again_whatever_becomes_of_the_dial():
    transport = FakeTransport()
    transport.refuse(delay=1)
    transport.hang()
    transport.accept(None, delay=1)
    options = {"governor": Governor(max_dials=1), "open_timeout": 10, "reconnect": STEADY}
    async with crowd(4, transport, **options) as clients:
        await all_open(clients)
        # The first one is refused at 1 and stands in line anew at 2, the second one times out at 11.
        assert dial_times(transport) == [0, 1, 11, 12, 13, 14]


async def test_what_a_client_waits_for_its_turn_is_not_part_of_open_timeout():
    transport = FakeTransport()
    transport.accept(None, delay=8)
    async with crowd(5, transport, governor=Governor(max_dials=1), open_timeout=10) as clients:
        await all_open(clients)
        assert dial_times(transport) == [0, 8, 16, 24, 32]


async def test_the_set_up_is_no_dial():
    async def setup(conn):
        await asyncio.sleep(5)

    async with crowd(3, governor=Governor(max_dials=1), setup=setup) as clients:
        await all_open(clients)
        assert now() == pytest.approx(5, abs=0.1)


async def test_a_governor_of_its_own_waits_for_nobody_and_none_does_not_wait():
    transport = FakeTransport()
    transport.accept(None, delay=4)
    one, other = Governor(max_dials=1), Governor(max_dials=1)
    async with crowd(2, transport, governor=one), crowd(2, transport, governor=other):
        async with crowd(2, transport, governor=None) as free:
            await all_open(free)
            assert dial_times(transport)[:6] == [0, 0, 0, 0, 4, 4]
            assert free[0].client.stats.dials_waiting == 0


async def test_by_default_all_clients_share_one_for_64_dials():
    transport = FakeTransport()
    transport.accept(None, delay=1)
    async with crowd(70, transport) as clients:
        await all_open(clients)
        assert dial_times(transport) == [0] * 64 + [1] * 6


async def turns_until_open(governor):
    client = WebSocketClient(URL, transport=FakeTransport(), governor=governor, reconnect=STEADY)
    client.start()
    turns = 0
    while client.state is not State.OPEN:
        turns += 1
        await asyncio.sleep(0)
    await client.close()
    return turns


async def test_a_client_alone_takes_no_more_turns_of_the_loop():
    assert await turns_until_open(Governor()) == await turns_until_open(None)


# --- time that an origin asks for


@pytest.mark.promise("P10")
@pytest.mark.parametrize("status", [429, 503])
async def test_what_one_client_is_told_holds_for_all(status, caplog):
    caplog.set_level(logging.INFO, "resilient_ws")
    transport = FakeTransport()
    transport.refuse(overloaded(20, status))
    policy = ReconnectPolicy(first_delay=2)
    async with stage(transport, ready=False, governor=(governor := Governor()), reconnect=STEADY) as told:
        await settle(5)
        async with crowd(20, transport, governor=governor, reconnect=policy) as others:
            await settle(1)
            numbers = others[0].client.stats
            assert numbers.dials_waiting == 20
            assert numbers.held_for == pytest.approx(14, abs=0.1)
            assert f"{HERE} has asked for time (HTTP {status})" in others[0].client.explain()
            assert f"since {HERE} has asked for time (HTTP {status})" in caplog.text
            await all_open([told, *others])
            first, *later = dial_times(transport)
            assert first == 0
            assert 20 <= min(later) <= max(later) <= 22
            assert len(set(later)) > 15, "each one draws for itself"
            assert others[0].client.stats.held_for == 0


async def test_a_client_that_loses_its_connection_meanwhile_says_how_long_it_waits():
    transport = FakeTransport()
    governor = Governor()
    async with stage(transport, governor=governor) as played:
        transport.refuse(overloaded(20))
        async with stage(transport, ready=False, governor=governor):
            await settle(5)
            transport.peers[0].drop()
            await settle(1)
            retry = played.of(RetryEvent)[0]
            assert retry.delay == pytest.approx(16, abs=0.1)
            assert f"since {HERE} has asked for time (HTTP 503) and then after 1 s" in retry.rule
            await played.until_state(State.OPEN)
            assert dial_times(transport)[-2:] == pytest.approx([21, 21], abs=0.1)


async def test_without_retry_after_the_others_wait_as_long_as_the_client_that_was_refused():
    transport = FakeTransport()
    transport.refuse(overloaded())
    governor, policy = Governor(), ReconnectPolicy(wait=wait_fixed(7), first_delay=1)
    async with stage(transport, ready=False, governor=governor, reconnect=policy):
        await settle(1)
        async with stage(transport, ready=False, governor=governor, reconnect=policy) as other:
            await other.until_state(State.OPEN)
            assert 7 <= dial_times(transport)[2] <= 8


async def test_a_close_with_1013_holds_for_all():
    transport = FakeTransport()
    governor = Governor()
    policy = ReconnectPolicy(wait=wait_fixed(9), first_delay=1)
    async with stage(transport, governor=governor, reconnect=policy) as played:
        played.peer.close(1013)
        await settle()
        async with stage(transport, ready=False, governor=governor) as other:
            assert other.client.stats.held_for == pytest.approx(9, abs=0.1)
            await other.until_state(State.OPEN)
            assert 9 <= now() <= 10.1


async def test_no_hold_is_longer_than_max_hold_and_without_one_nobody_is_held():
    for max_hold, earliest in ((30, 30), (None, 0)):
        transport = FakeTransport()
        transport.refuse(overloaded(3000, 429))
        governor = Governor(max_hold=max_hold)
        began = now()
        async with stage(transport, ready=False, governor=governor):
            await settle()
            async with stage(transport, ready=False, governor=governor) as other:
                await other.until_state(State.OPEN)
                assert earliest <= now() - began <= earliest + 1.1


async def test_a_longer_request_lets_those_who_wait_wait_on():
    transport = FakeTransport()
    transport.refuse(overloaded(5))
    transport.refuse(overloaded(30), times=2)
    governor, quick = Governor(), ReconnectPolicy(wait=wait_fixed(0), first_delay=3)
    async with stage(transport, ready=False, governor=governor, reconnect=quick):
        await settle()
        slow = ReconnectPolicy(first_delay=3)
        async with crowd(10, transport, governor=governor, reconnect=slow) as others:
            await settle(5.001)
            assert len(transport.dials) >= 2
            await all_open(others)
            late = [at for at in dial_times(transport) if at > 9]
            assert min(late) >= 35


async def test_decide_has_the_last_word_for_others_too():
    transport = FakeTransport()
    transport.refuse(overloaded(50, 429))
    governor = Governor()
    policy = ReconnectPolicy(decide=lambda failure: Retry(after=3))
    async with stage(transport, ready=False, governor=governor, reconnect=policy) as played:
        await settle()
        assert played.client.stats.held_for == pytest.approx(3, abs=0.1)
        await played.until_state(State.OPEN)
        assert dial_times(transport) == [0, 3]


async def test_a_client_that_ends_lets_the_others_know():
    transport = FakeTransport()
    transport.refuse(overloaded(10))
    governor = Governor()
    async with stage(transport, ready=False, governor=governor, reconnect=False) as ended:
        await ended.until_state(State.CLOSED)
        async with stage(transport, ready=False, governor=governor) as other:
            await other.until_state(State.OPEN)
            assert 10 <= now() <= 11.1


# --- in a hurry


async def test_reconnect_now_does_not_mind_a_hold_and_a_success_ends_it():
    transport = FakeTransport()
    transport.refuse(overloaded(40))
    governor = Governor()
    async with stage(transport, ready=False, governor=governor) as told:
        await settle(10)
        async with crowd(3, transport, governor=governor) as others:
            await settle(2)
            assert len(transport.dials) == 1
            others[1].client.reconnect_now()
            await others[1].until_state(State.OPEN)
            assert dial_times(transport) == pytest.approx([0, 12], abs=0.01)
            assert others[0].client.stats.held_for == 0
            await all_open(others)
            assert now() <= 14
            assert told.client.state is State.BACKOFF, "its own Retry-After stands"


async def test_reconnect_now_during_a_hold_still_keeps_min_delay():
    transport = FakeTransport()
    transport.refuse(overloaded(40))
    governor = Governor()
    async with stage(transport, ready=False, governor=governor):
        await settle(1)
        policy = ReconnectPolicy(min_delay=3)
        async with stage(transport, ready=False, governor=governor, reconnect=policy) as other:
            await settle(1)
            other.client.reconnect_now()
            await other.until_state(State.OPEN)
            assert dial_times(transport)[1] == pytest.approx(4, abs=0.1)


async def test_reconnect_now_in_a_back_off_does_not_mind_a_hold():
    transport = FakeTransport()
    transport.refuse(overloaded(40))
    async with stage(transport, ready=False, governor=Governor()) as played:
        await settle(3)
        played.client.reconnect_now()
        await played.until_state(State.OPEN)
        assert dial_times(transport) == [0, 3]


async def test_reconnect_now_that_finds_nothing_to_do_is_not_remembered():
    transport = FakeTransport()
    transport.hang()
    transport.refuse(overloaded(40))
    governor = Governor()
    async with stage(transport, ready=False, governor=governor, open_timeout=5) as played:
        await settle(1)
        played.client.reconnect_now()  # dialing already
        async with stage(transport, ready=False, governor=governor):
            await played.until_state(State.OPEN)
            assert dial_times(transport)[2] >= 41


async def test_reconnect_now_during_a_set_up_is_not_remembered():
    async def setup(conn):
        await asyncio.sleep(1)

    transport = FakeTransport()
    governor = Governor()
    async with stage(transport, ready=False, governor=governor, setup=setup) as played:
        await settle()
        played.client.reconnect_now()
        await played.client.ready()
        transport.peer.drop()
        await settle()
        transport.refuse(overloaded(40))
        async with stage(transport, ready=False, governor=governor):
            await played.reopened()
            assert now() > 41


async def test_min_delay_counts_from_the_dial_and_not_from_the_wait_for_it():
    transport = FakeTransport()
    transport.hang()
    policy = ReconnectPolicy(min_delay=3)
    options = {"governor": Governor(max_dials=1), "reconnect": policy, "open_timeout": 5}
    async with stage(transport, ready=False, **options) as first:
        await settle()
        async with stage(transport, ready=False, **options) as played:
            await played.until_state(State.OPEN)
            await first.client.close()
            played.client.reconnect_now()
            await settle(0.1)
            await played.until_state(State.OPEN)
            assert dial_times(transport) == pytest.approx([0, 5, 8], abs=0.1)


async def test_draining_does_not_mind_a_hold():
    transport = FakeTransport()
    transport.refuse(overloaded(40))
    governor = Governor()
    async with stage(transport, ready=False, governor=governor):
        await settle(1)
        async with stage(transport, ready=False, governor=governor) as other:
            await other.client.send("the last word")
            await settle(1)
            began = now()
            await other.client.close(drain=10)
            assert now() - began < 2
            assert other.received == ["the last word"]


# --- ends


@pytest.mark.promise("P7")
@pytest.mark.parametrize("why", ["place", "hold"])
async def test_close_ends_the_wait_at_once_and_gives_the_place_up(why):
    transport = FakeTransport()
    governor = Governor(max_dials=1)
    if why == "place":
        transport.hang()
    else:
        transport.refuse(overloaded(40))
    async with stage(transport, ready=False, governor=governor, open_timeout=50) as first:
        await settle()
        async with crowd(2, transport, governor=governor) as others:
            await settle(1)
            assert others[0].client.stats.dials_waiting == 2
            began = now()
            waiter = asyncio.ensure_future(others[0].client.ready())
            await asyncio.sleep(0)
            await others[0].client.close()
            assert now() == began
            with pytest.raises(Exception, match="closed|closing"):
                await waiter
            assert others[1].client.stats.dials_waiting == 1
        await first.client.close()
        assert not dials_of(governor)._gates or why == "hold"
        assert dials_of(governor).waiting(HERE) == dials_of(governor).dialing(HERE) == 0


@pytest.mark.promise("P8")
@pytest.mark.parametrize("moment, left", [("place", 1), ("hold", 0), ("dialing", 0), ("granted", 0)])
async def test_a_cancelled_owner_leaves_nothing_with_the_governor(moment, left):
    transport = FakeTransport()
    governor = Governor(max_dials=1)
    if moment == "hold":
        transport.refuse(overloaded(40))
    else:
        transport.hang()
    async with stage(transport, ready=False, governor=governor, open_timeout=50) as first:
        await settle()
        client = WebSocketClient(URL, transport=transport, governor=governor)
        client.start()
        await settle()
        task = client._supervisor._task
        if moment == "dialing":
            task = first.client._supervisor._task
        elif moment == "granted":
            first.client._supervisor._opener.interrupt()
            first.client._supervisor._task.cancel()
            dials_of(governor).leave(first.client._supervisor.turns._ticket, now())
            assert client._supervisor.turns._ticket.granted_at is not None
        task.cancel()
        await settle()
        assert (dials_of(governor).dialing(HERE), dials_of(governor).waiting(HERE)) == (left, 0)
        await client.close()
    assert dials_of(governor).dialing(HERE) == dials_of(governor).waiting(HERE) == 0


@pytest.mark.parametrize("why", ["place", "hold"])
async def test_max_elapsed_ends_a_client_that_does_not_get_its_turn(why):
    transport = FakeTransport()
    governor = Governor(max_dials=1)
    transport.refuse(overloaded(50)) if why == "hold" else transport.hang()
    async with stage(transport, ready=False, governor=governor, open_timeout=50):
        await settle()
        policy = ReconnectPolicy(max_elapsed=5)
        async with stage(transport, ready=False, governor=governor, reconnect=policy) as other:
            with pytest.raises(RetriesExhausted, match="max_elapsed=5"):
                await other.client.ready()
            assert now() == pytest.approx(5, abs=0.1)
            assert isinstance(other.client.close_event.cause, ConnectError)
            assert f"no dial slot for {HERE}" in str(other.client.close_event.cause)


# --- a URL provider


@pytest.mark.parametrize("told", ["before", "during the back-off"])
async def test_a_provider_is_asked_when_it_is_the_clients_turn_as_soon_as_it_is_known_where_to(told):
    transport = FakeTransport()
    asked = []

    async def provide(attempt):
        asked.append(round(now(), 3))
        return URL

    governor = Governor()
    async with stage(transport, provide, governor=governor) as played:
        transport.refuse(overloaded(20))
        if told == "during the back-off":
            transport.peer.drop()
            await settle()
        async with stage(transport, ready=False, governor=governor):
            await settle()
            if told == "before":
                transport.peer.drop()
                await settle()
            assert ("HTTP 503" in played.of(RetryEvent)[0].rule) is (told == "before")
            await played.until_state(State.OPEN)
            assert asked[0] == 0
            assert asked[1:] == [pytest.approx(20.5, abs=0.7)], "a token is fresh when it is used"


async def test_what_a_provider_waits_is_not_taken_from_the_dial_behind_it():
    transport = FakeTransport()
    transport.accept(None, delay=4)
    governor = Governor(max_dials=1)

    async def provide(attempt):
        await asyncio.sleep(5)
        return URL

    async with crowd(3, transport, url=provide, governor=governor, open_timeout=10) as clients:
        await all_open(clients)
        assert dial_times(transport) == [5, 9, 13], "nobody knew where to before the provider was asked"


async def test_provider_and_dial_share_open_timeout():
    transport = FakeTransport()
    transport.accept(None, delay=4)

    async def provide(attempt):
        await asyncio.sleep(7)
        return URL

    async with stage(transport, provide, ready=False, open_timeout=10, reconnect=False) as played:
        await played.until_state(State.CLOSED)
        assert isinstance(played.client.close_event.cause, OpenTimeout)
        assert now() == pytest.approx(10, abs=0.1)


async def test_a_provider_that_leads_elsewhere_gets_a_turn_there():
    transport = FakeTransport()
    transport.hang(times=2)
    governor = Governor(max_dials=1)
    other = "ws://other.test/ws"

    async def provide(attempt):
        return URL if attempt.number == 1 else other

    async with stage(transport, other, ready=False, governor=governor, open_timeout=30) as first:
        await settle()
        async with stage(transport, provide, ready=False, governor=governor, open_timeout=5) as played:
            await settle(6.5)  # timed out at the one place, and it waits at the other
            dials = dials_of(governor)
            assert (dials.dialing(HERE), dials.waiting("ws://other.test")) == (0, 1)
            assert played.client.stats.dials_waiting == 1
            await first.client.close()
            await played.until_state(State.OPEN)
            assert str(transport.peer.endpoint.url) == other
            assert len(transport.dials) == 3


async def test_several_addresses_are_held_each_for_itself():
    transport = FakeTransport()
    transport.refuse(overloaded(30))
    governor = Governor()
    urls = ["ws://peer.test/ws", "ws://other.test/ws"]
    async with stage(transport, ready=False, governor=governor):
        await settle()
        async with stage(transport, urls[::-1], governor=governor) as played:
            assert now() < 1
            transport.peers[-1].drop()
            await settle()
            retry = played.of(RetryEvent)[0]
            assert "asked for time" in retry.rule, "the next one is the other address"
            assert retry.delay > 25


# --- loops


def test_clients_of_different_loops_do_not_wait_for_each_other():
    governor = Governor(max_dials=1)
    reached, both = [], threading.Barrier(2, timeout=20)

    async def live():
        transport = FakeTransport()
        transport.hang()
        client = WebSocketClient(URL, transport=transport, governor=governor)
        client.start()
        while not transport.dials:
            await asyncio.sleep(0)
        await asyncio.to_thread(both.wait)  # each dials while the other does
        reached.append(len(transport.dials))
        await client.close()

    threads = [threading.Thread(target=asyncio.run, args=(live(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert reached == [1, 1]


@pytest.mark.parametrize("wrong", [True, 64, "shared", Governor])
def test_a_governor_is_a_governor(wrong):
    with pytest.raises(TypeError, match="governor must be a Governor or None"):
        WebSocketClient(URL, governor=wrong)


# --- heartbeats


async def test_the_pings_of_connections_that_were_opened_one_after_the_other_share_a_turn():
    async with contextlib.AsyncExitStack() as crowd:
        peers = []
        for _ in range(5):
            await asyncio.sleep(0.002)
            played = await crowd.enter_async_context(stage(heartbeat=Heartbeat(10, 5)))
            peers.append(played.peer)
        await settle()
        assert [len(peer.pings) for peer in peers] == [1] * 5  # at OPEN
        async with asyncio.timeout(20):
            while not any(len(peer.pings) > 1 for peer in peers):
                await asyncio.sleep(0.0001)
        assert [len(peer.pings) for peer in peers] == [2] * 5
        assert 9.98 < now() < 10.02
