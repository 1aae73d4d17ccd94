"""Callbacks and `events()`: isolated, serial, bounded, and told everything once (P9)."""

import asyncio
import gc

import pytest

from resilient_ws import (
    CloseEvent,
    ConcurrencyError,
    ErrorEvent,
    EventsDropped,
    OpenEvent,
    RetryEvent,
    State,
    StateEvent,
    WebSocketClient,
)
from resilient_ws.owner import Owner
from resilient_ws.testing import FakeTransport, VirtualLoop
from tests.client.kit import STEADY, URL, now, settle, stage

pytestmark = pytest.mark.promise("P9")
NAMES = ["on_open", "on_close", "on_reconnect", "on_retry", "on_undelivered", "on_error", "on_state"]


@pytest.mark.expects_errors
@pytest.mark.parametrize("how", ["argument", "method", "decorator"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_each_callback_is_called_with_its_events_in_order(how, asynchronous):
    seen = {name: [] for name in NAMES}

    def make(name):
        async def later(event):
            await asyncio.sleep(0.01)
            seen[name].append(event)

        return later if asynchronous else seen[name].append

    given = {name: make(name) for name in NAMES}
    async with stage(start=False, **(given if how == "argument" else {})) as played:
        for name in NAMES if how != "argument" else ():
            register = getattr(played.client, name)
            handle = register(given[name])
            assert handle.function is given[name]
        played.client.on_open(lambda event: 1 / 0)
        played.client.start()
        await played.client.ready()
        played.peer.go_deaf()
        await played.client.send("x")
        played.peer.drop()
        await played.reopened()
        await settle(1)
    kinds = {
        "on_open": "OpenEvent", "on_close": "CloseEvent", "on_reconnect": "ReconnectEvent", "on_retry": "RetryEvent",
        "on_undelivered": "UndeliveredEvent", "on_error": "ErrorEvent", "on_state": "StateEvent",
    }  # fmt: skip
    for name in NAMES:
        assert seen[name] == [event for event in played.events if type(event).__name__ == kinds[name]]
        assert seen[name]


def test_a_decorated_name_still_is_the_function():
    client = WebSocketClient(URL, transport=FakeTransport())

    @client.on_close
    def closed(event):
        return f"closed {event}"

    assert closed("x") == "closed x"


@pytest.mark.parametrize("name", [*NAMES, "on_message"])
def test_what_cannot_be_called_is_refused(name):
    with pytest.raises(TypeError, match=f"{name} must be callable, got int"):
        WebSocketClient(URL, transport=FakeTransport(), **{name: 5})
    client = WebSocketClient(URL, transport=FakeTransport())
    with pytest.raises(TypeError, match=f"{name} must be callable, got NoneType"):
        getattr(client, name)(None)


@pytest.mark.expects_errors
@pytest.mark.parametrize(
    "error", [ValueError("no"), asyncio.CancelledError(), KeyError("k"), StopIteration()]
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_one_that_raises_is_reported_and_the_next_one_runs(error, asynchronous):
    seen = []

    def broken(event):
        raise error

    async def broken_later(event):
        await asyncio.sleep(0)
        raise error

    async with stage(start=False) as played:
        played.client.on_open(broken_later if asynchronous else broken)
        played.client.on_open(seen.append)
        played.client.on_error(lambda event: seen.append(event))
        played.client.start()
        await settle()
        assert isinstance(seen[0], OpenEvent)
        told = seen[1]
        assert (told.where, told.event) == ("on_open", seen[0])
        assert told.exception is error or isinstance(told.exception, RuntimeError)
        assert played.client.state is State.OPEN


@pytest.mark.expects_errors
async def test_an_on_error_that_raises_is_no_endless_loop():
    def broken(event):
        raise ValueError

    async with stage(on_error=broken, on_open=broken) as played:
        await settle(10)
        assert len(played.of(ErrorEvent)) == 1


@pytest.mark.expects_errors
async def test_one_for_messages_that_raises_loses_nothing():
    seen = []

    def take(message):
        seen.append(message)
        raise ValueError(message)

    async with stage(on_message=take) as played:
        played.peer.send("1", "2", "3")
        await settle()
        assert seen == ["1", "2", "3"]
        assert played.errors == [("on_message", "1"), ("on_message", "2"), ("on_message", "3")]
        assert played.of(ErrorEvent)[0].event == "1"


@pytest.mark.expects_errors
async def test_the_error_of_the_last_message_is_told_too():
    errors = []

    async def take(message):
        await asyncio.sleep(0.5)
        raise ValueError(message)

    async with stage(on_message=take, on_error=errors.append) as played:
        played.peer.send("1", "2")
        await settle()
        await played.client.close()
        assert [str(event.exception) for event in errors] == ["1", "2"]


@pytest.mark.promise("P2")
async def test_a_slow_one_delays_its_own_lane_and_nothing_else():
    async def slow(event):
        await asyncio.sleep(10_000)

    async with stage(on_open=slow, on_message=slow, close_timeout=1) as played:
        played.peer.send("x")
        await settle(100)
        assert len(played.peer.pings) == 6
        first = played.peer
        first.go_silent()
        await played.reopened()
        assert now() == pytest.approx(126, abs=16)
        await played.client.send("y", confirm=True)


async def test_events_wait_for_a_slow_one_in_order():
    seen = []

    async def slow(event):
        await asyncio.sleep(30)
        seen.append(type(event).__name__)

    async with stage(on_open=slow, on_close=slow, on_retry=slow) as played:
        for _ in range(3):
            played.peer.drop()
            await played.reopened()
        await settle(1000)
        assert seen == ["OpenEvent", *["CloseEvent", "RetryEvent", "OpenEvent"] * 3]


async def test_a_removed_one_is_not_called_again_not_even_for_what_waits():
    seen = []

    async def slow(event):
        await asyncio.sleep(5)

    async with stage(start=False) as played:
        played.client.on_state(slow)
        handle = played.client.on_state(seen.append)
        played.client.start()
        await settle(1)
        handle.remove()
        handle.remove()
        await settle(100)
        assert seen == []


async def test_one_for_messages_that_is_removed_once_more_disturbs_nobody():
    async with stage() as played:
        handle = played.client.on_message(print)
        handle.remove()
        receiving = asyncio.create_task(played.client.recv())
        await settle()
        handle.remove()
        played.peer.send("x")
        assert await receiving == "x"


async def test_one_for_messages_cannot_be_added_in_another_thread():
    async with stage() as played:
        handle = played.client.on_message(print)
        for call in (played.client.on_message, lambda _: handle.remove()):
            with pytest.raises(ConcurrencyError, match="another event loop"):
                await asyncio.to_thread(call, print)


def test_between_two_runs_of_its_loop_and_after_the_end_one_can_be_added_anywhere():
    client = WebSocketClient(URL, transport=FakeTransport())

    async def begin():
        client.start()
        await client.ready()

    with asyncio.Runner(loop_factory=VirtualLoop) as home:
        home.run(begin())
        client.on_message(print).remove()
        home.run(client.close())
        asyncio.run(asyncio.to_thread(client.on_message, print))


async def test_one_that_was_added_late_sees_what_happens_from_then_on():
    seen = []

    async def slow(event):
        await asyncio.sleep(5)

    async with stage(on_state=slow) as played:
        await settle(1)
        played.client.on_state(seen.append)
        await settle(100)
        assert seen == []
        played.peer.drop()
        await settle(100)
        assert [event.new for event in seen] == [State.BACKOFF, State.CONNECTING, State.OPEN]


async def test_one_may_use_the_client_in_every_way():
    answers = []

    async def use(event):
        client = played.client
        client.subscribe("k", "subscribed")
        await client.send("sent")
        await client.flush()
        await client.ready()
        client.on_close(lambda event: None).remove()
        answers.append((client.state, client.stats.opens, bool(client.explain())))

    async with stage(start=False, on_open=use) as played:
        played.client.start()
        await settle(1)
        assert answers == [(State.OPEN, 1, True)]
        assert played.received == ["subscribed", "sent"]


async def test_sync_ones_run_on_the_loop():
    loops = []
    async with stage(on_open=lambda event: loops.append(asyncio.get_running_loop())):
        await settle()
        assert loops == [asyncio.get_running_loop()]


# --- bounds


@pytest.mark.promise("P6")
async def test_at_most_ten_thousand_events_wait_and_the_least_important_go_first():
    released = asyncio.Event()
    seen = []

    async def stuck(event):
        await released.wait()
        seen.append(event)

    transport = FakeTransport()
    async with stage(transport, on_open=stuck, on_retry=stuck, on_state=stuck, on_close=stuck) as played:
        transport.refuse(times=3_700)
        played.peer.drop()
        await played.until(lambda: played.client.stats.attempts > 3_600, within=10_000)
        assert len(played.client._engine.dispatcher._waiting) <= 10_000
        assert played.client.stats.events_dropped > 500
        released.set()
        await settle(1)
        assert [type(event) for event in seen].count(CloseEvent) == 1
        dropped = played.client.stats.events_dropped
        told = sum(isinstance(event, StateEvent | RetryEvent) for event in seen)
        assert told + dropped == pytest.approx(3 * played.client.stats.attempts, abs=10)


async def test_the_final_close_is_told_even_when_too_many_wait():
    released = asyncio.Event()
    seen = []

    async def stuck(event):
        await released.wait()
        seen.append(event)

    async with stage(on_close=stuck, reconnect=STEADY) as played:
        for _ in range(40):
            played.peer.drop()
            await played.reopened()
        released.set()
        await settle(1)
        await played.client.close()
        assert seen[-1].final
        assert len(seen) == 41


# --- events()


async def test_the_iterator_has_every_event_from_the_call_on_and_ends():
    async with stage() as played:
        early = played.client.events()
        played.peer.drop()
        await played.reopened()
        late = played.client.events()
        await played.client.close()
        told = [event async for event in early]
        assert [type(event).__name__ for event in told] == [
            "StateEvent", "CloseEvent", "RetryEvent", "StateEvent", "StateEvent", "OpenEvent", "ReconnectEvent",
            "StateEvent", "StateEvent", "CloseEvent",
        ]  # fmt: skip
        assert [type(event).__name__ async for event in late] == ["StateEvent", "StateEvent", "CloseEvent"]
        with pytest.raises(StopAsyncIteration):
            await anext(early)
        assert [event async for event in played.client.events()] == []


@pytest.mark.promise("P6")
async def test_it_holds_a_thousand_events_and_counts_the_rest():
    transport = FakeTransport()
    async with stage(transport) as played:
        events = played.client.events()
        transport.refuse(times=600)
        played.peer.drop()
        await played.until(lambda: played.client.stats.opens == 2)
        first = await anext(events)
        assert isinstance(first, ErrorEvent)
        assert first.where == "events"
        assert isinstance(first.exception, EventsDropped)
        assert first.exception.count > 800
        await played.client.close()
        rest = [event async for event in events]
        assert 990 < len(rest) <= 1_001
        told = sum(isinstance(event, ErrorEvent) for event in rest)
        assert told <= 1


async def test_two_iterators_are_independent_and_one_task_at_a_time():
    async with stage() as played:
        one, two = played.client.events(), played.client.events()
        waiting = asyncio.create_task(anext(one))
        await settle()
        with pytest.raises(ConcurrencyError):
            await anext(one)
        other = asyncio.create_task(anext(two))
        played.peer.drop()
        assert await waiting == await other


@pytest.mark.promise("P8")
async def test_a_cancelled_step_loses_no_event():
    for turns in range(6):
        async with stage() as played:
            events = played.client.events()
            task = asyncio.create_task(anext(events))
            await settle()
            played.peer.drop()
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = task.cancel()
            if cancelled:
                with pytest.raises(asyncio.CancelledError):
                    await task
            event = await anext(events) if cancelled else await task
            assert isinstance(event, StateEvent)
            assert event.new is State.BACKOFF


async def test_an_iterator_that_nobody_holds_costs_nothing():
    async with stage() as played:
        for _ in range(100):
            played.client.events()
        gc.collect()
        assert len(played.client._engine.dispatcher._subscriptions) == 1


async def test_a_loss_is_told_in_the_turn_of_the_loop_in_which_it_is_decided_what_follows():
    async with stage() as played:
        told = []
        played.client.on_close(told.append)
        await settle()
        played.peer.drop()
        while played.client.state is State.OPEN:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [event.will_retry for event in told] == [True]


async def test_only_what_has_to_be_awaited_makes_a_task(monkeypatch):
    started = []
    spawn = Owner.spawn
    monkeypatch.setattr(
        Owner, "spawn", lambda owner, name, function: started.append(name) or spawn(owner, name, function)
    )
    async with stage(on_close=lambda _: asyncio.sleep(0)) as played:
        opened = []
        played.client.on_open(opened.append)
        await settle()
        assert not started
        played.peer.drop()
        await played.reopened()
        await settle()
        assert started == ["events"]
        assert len(opened) == 1


async def test_those_behind_one_that_is_awaited_wait_for_it():
    async with stage() as played:
        called, go_on = [], asyncio.Event()

        async def waits(event):
            called.append(("awaited", event.code))
            await go_on.wait()
            called.append(("went on", event.code))

        played.client.on_close(lambda event: called.append(("first", event.code)))
        played.client.on_close(waits)
        played.client.on_close(lambda event: called.append(("behind", event.code)))
        played.client.on_open(lambda _: called.append("open"))
        await settle()
        played.peer.drop()
        await played.reopened()
        await settle()
        assert called == [("first", 1006), ("awaited", 1006)]
        go_on.set()
        await settle()
        assert called[2:] == [("went on", 1006), ("behind", 1006), "open"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_one_that_is_due_at_the_end_is_called_before_close_returns(asynchronous):
    called = []

    async def later(event):
        await asyncio.sleep(0.01)
        called.append(event.final)

    async with stage(on_close=later if asynchronous else lambda event: called.append(event.final)) as played:
        await settle()
        await played.client.close()
        assert called == [True]
