"""Callbacks and `events()`: isolated, serial, bounded, and told everything once (P9)."""

import asyncio
import contextlib
import functools
import gc
import time
import tracemalloc
from random import Random

import pytest

from resilient_ws import (
    CloseEvent,
    ConcurrencyError,
    ErrorEvent,
    EventsDropped,
    Fate,
    OpenEvent,
    Outbox,
    RetryEvent,
    State,
    StateEvent,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.runtime.supervisor import Supervisor
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
        assert len(played.peer.pings) == 7
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

        async def take(event):
            seen.append(event)

        played.client.on_state(slow)
        handle = played.client.on_state(take)
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
        assert len(played.client._supervisor.dispatcher._waiting) <= 10_000
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


SIZE, BOUND = 50_000, 400_000


def held_bytes():
    """Bytes of everything that Python holds now and that was allocated while it was traced."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.promise("P6")
@pytest.mark.parametrize("callbacks, lambdas, iterators", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 1, 3)])
@pytest.mark.parametrize("letter", [b"x", "x", "\xe4"])
async def test_each_queue_of_events_holds_at_most_twice_the_bytes_of_the_outbox(
    callbacks, lambdas, iterators, letter
):
    released = asyncio.Event()

    async def stuck(event):
        await released.wait()

    transport = FakeTransport()
    transport.hang(None)
    outbox = Outbox(overflow="drop_oldest", max_bytes=BOUND)
    client = WebSocketClient(URL, transport=transport, outbox=outbox)
    for _ in range(callbacks):
        client.on_undelivered(stuck)
    for _ in range(lambdas):
        client.on_undelivered(lambda event: asyncio.ensure_future(stuck(event)))
    several = [client.events() for _ in range(iterators)]
    client.start()
    await settle()
    tracemalloc.start()
    try:
        for number in range(400):
            await client.send(letter * SIZE)
            if number % 50 == 0:
                await settle()
        held = held_bytes()
    finally:
        tracemalloc.stop()
    queues = iterators + 2 * bool(callbacks or lambdas)  # one for what is due, one for what is slow
    assert held < (1 + 2 * queues) * BOUND + 6 * SIZE
    assert client.stats.evicted > 380
    for iterator in several:
        told = [await anext(iterator) for _ in range(2)]
        assert told[0].exception.count > 300
    released.set()
    await client.close()


@contextlib.asynccontextmanager
async def unheard(**options):
    """A client that is open, and whose events are not recorded: a test makes some of its own."""
    async with WebSocketClient(URL, transport=FakeTransport(), reconnect=STEADY, **options) as client:
        yield client


@pytest.mark.promise("P6")
async def test_to_queue_an_event_takes_as_long_where_thousands_wait():
    released = asyncio.Event()

    async def stuck(event):
        await released.wait()

    async with unheard(on_undelivered=stuck, on_error=stuck, on_state=stuck, close_timeout=1) as client:
        emit = client._supervisor.dispatcher.emit
        event = UndeliveredEvent(message="", fate=Fate.EVICTED, accepted_at=0, age=0)

        def took(count):
            began = time.perf_counter()
            for _ in range(count):
                emit(event)
            return (time.perf_counter() - began) / count

        first = min(took(100) for _ in range(20))
        for _ in range(30):
            took(500)
            await settle()
        assert len(client._supervisor.dispatcher._waiting) == 10_000
        assert min(took(100) for _ in range(20)) < 20 * first
        released.set()


@pytest.mark.promise("P5")
async def test_a_burst_of_fates_reaches_a_sync_callback_whole():
    """As many messages as can be unconfirmed and pending at once, with as many bytes."""
    fates = []
    outbox = Outbox()
    async with unheard(on_undelivered=fates.append, outbox=outbox) as client:
        size = 2 * outbox.max_bytes // (65_536 + outbox.max_messages)
        for number in range(65_536 + outbox.max_messages):
            message = f"{number:0{size}}"
            event = UndeliveredEvent(message=message, fate=Fate.UNCERTAIN, accepted_at=0, age=0)
            client._supervisor.dispatcher.emit(event)
        await settle(1)
        assert [int(event.message) for event in fates] == list(range(65_536 + outbox.max_messages))
        assert client.stats.events_dropped == 0


async def test_what_slow_callbacks_missed_is_told_when_they_are_through(caplog):
    released = asyncio.Event()
    missed = []

    async def stuck(event):
        await released.wait()

    async with unheard(on_undelivered=stuck, on_error=missed.append) as client:
        emit = client._supervisor.dispatcher.emit
        for _ in range(3):
            for _ in range(5_000):
                emit(UndeliveredEvent(message="", fate=Fate.EVICTED, accepted_at=0, age=0))
            await settle()
        assert missed == []
        assert caplog.text.count("callbacks do not keep up") == 1
        dropped = client.stats.events_dropped
        assert dropped == 4_999
        released.set()
        await settle()
        assert [(event.where, event.exception.count) for event in missed] == [("events", dropped)]


@pytest.mark.promise("P6")
@pytest.mark.parametrize("removed", [False, True])
async def test_what_waits_until_callbacks_have_heard_is_bounded(removed):
    released = asyncio.Event()
    called = []

    async def stuck(event):
        await released.wait()

    async with unheard() as client:
        handle = client.on_undelivered(stuck)
        dispatcher = client._supervisor.dispatcher
        event = UndeliveredEvent(message="", fate=Fate.EVICTED, accepted_at=0, age=0)
        dispatcher.emit(event)
        await settle()
        if removed:
            handle.remove()
        for number in range(30_000):
            dispatcher.emit(event)
            dispatcher.after(lambda number=number: called.append(number))
            if number % 1000 == 0:
                await settle()
        assert 10_000 <= len(called) <= 20_000
        assert len(dispatcher._after) <= 10_000
        released.set()
        await settle(1)
        assert sorted(called) == list(range(30_000))


async def test_what_is_to_follow_the_callbacks_follows_both_kinds():
    order = []
    released = asyncio.Event()

    async def later(event):
        order.append("async begins")
        await released.wait()
        order.append("async ends")

    async with unheard() as client:
        client.on_undelivered(later)
        client.on_undelivered(lambda _: order.append("sync"))
        dispatcher = client._supervisor.dispatcher
        dispatcher.after(lambda: order.append("at once"))
        dispatcher.emit(UndeliveredEvent(message="", fate=Fate.EVICTED, accepted_at=0, age=0))
        dispatcher.after(lambda: order.append("after"))
        await settle()
        assert order == ["at once", "sync", "async begins"]
        released.set()
        await settle()
        assert order[3:] == ["async ends", "after"]


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
        assert len(played.client._supervisor.dispatcher._subscriptions) == 1


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
    spawn = Supervisor.spawn
    monkeypatch.setattr(
        Supervisor,
        "spawn",
        lambda owner, name, function: started.append(name) or spawn(owner, name, function),
    )
    async with stage(on_close=lambda _: asyncio.sleep(0)) as played:
        opened = []
        played.client.on_open(opened.append)
        await settle()
        assert not started
        played.peer.drop()
        await played.reopened()
        await settle()
        assert started == ["callbacks"]
        assert len(opened) == 1


async def test_sync_ones_do_not_wait_for_one_that_is_awaited():
    async with stage() as played:
        called, go_on = [], asyncio.Event()

        async def waits(event):
            called.append(("awaited", event.code))
            await go_on.wait()
            called.append(("went on", event.code))

        async def follows(event):
            called.append(("follows", event.code))

        played.client.on_close(lambda event: called.append(("first", event.code)))
        played.client.on_close(waits)
        played.client.on_close(follows)
        played.client.on_close(lambda event: called.append(("behind", event.code)))
        played.client.on_open(lambda _: called.append("open"))
        await settle()
        played.peer.drop()
        await played.reopened()
        await settle()
        assert called == [("first", 1006), ("behind", 1006), ("awaited", 1006), "open"]
        go_on.set()
        await settle()
        assert called[4:] == [("went on", 1006), ("follows", 1006)]


@pytest.mark.promise("P2")
async def test_a_sync_on_close_is_called_at_once_while_an_async_on_open_still_runs():
    async def slow(event):
        await asyncio.sleep(1000)

    lost_at = []
    async with stage(on_open=slow, on_close=lambda _: lost_at.append(now()), close_timeout=1) as played:
        await settle(1)
        for _ in range(3):
            dropped_at = now()
            played.peer.drop()
            await played.reopened()
            assert lost_at[-1] == dropped_at
        await played.client.close()
        assert len(lost_at) == 4


class Told:
    """Callbacks of every form for one kind of event, and what each of them did."""

    def __init__(self, random):
        self.random = random
        self.sync = []  # (name, event, time)
        self.begun = []
        self.running = 0

    def make(self, form, name):
        async def wait(event):
            self.begun.append((name, event))
            self.running += 1
            assert self.running == 1, "two async callbacks at once"
            await asyncio.sleep(self.random.choice([0, 0, 0.5, 7, 100]))
            self.running -= 1

        def take(event):
            self.sync.append((name, event, now()))

        class Takes:
            def __call__(self, event):
                take(event)

        class Waits:
            async def __call__(self, event):
                await wait(event)

        return {
            "function": lambda: take,
            "object": Takes,
            "partial": lambda: functools.partial(lambda _, event: take(event), 1),
            "async function": lambda: wait,
            "async object": Waits,
            "async partial": lambda: functools.partial(lambda _, event: wait(event), 1),
            "lambda that returns a coroutine": lambda: lambda event: wait(event),
            "function that returns a task": lambda: lambda event: asyncio.ensure_future(wait(event)),
        }[form]()


FORMS = [
    "function", "object", "partial", "async function", "async object", "async partial",
    "lambda that returns a coroutine", "function that returns a task",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_the_mixture_sync_ones_are_told_at_once_and_each_kind_in_order(seed):
    random = Random(seed)
    told = Told(random)
    forms = random.choices(FORMS[:-1], k=random.randrange(2, 8))
    if not any(form.startswith(("async", "lambda")) for form in forms):
        forms.append(
            FORMS[-1]
        )  # its first call begins before the lane awaits it, so it would overlap with others
    kinds = {}
    happened = []
    async with stage(start=False, close_timeout=2000) as played:
        for number, form in enumerate(forms):
            name = f"{number} {form}"
            kinds[name] = random.choice(["on_open", "on_close", "on_retry", "on_state"])
            getattr(played.client, kinds[name])(told.make(form, name))
        emit = played.client._supervisor.dispatcher.emit

        def emitted(event):
            happened.append((event, now()))
            emit(event)

        played.client._supervisor.dispatcher = Emits(played.client._supervisor.dispatcher, emitted)
        played.client._supervisor.teller._dispatcher = played.client._supervisor.dispatcher
        played.client.start()
        await played.client.ready()
        for _ in range(random.randrange(1, 5)):
            await settle(random.choice([0, 3, 50]))
            played.peer.drop()
            await played.reopened()
    of = {"on_open": "Open", "on_close": "Close", "on_retry": "Retry", "on_state": "State"}

    def expected(is_sync):
        return [
            (name, event)
            for event, _ in happened
            for name in kinds
            if type(event).__name__ == f"{of[kinds[name]]}Event"
            and (not any(word in name for word in ("async", "returns"))) is is_sync
        ]

    assert [(name, event) for name, event, _ in told.sync] == expected(True)
    times = {id(event): at for event, at in happened}
    assert all(at == times[id(event)] for _, event, at in told.sync), "a sync callback was delayed"
    assert told.begun == expected(False)


class Emits:
    """A dispatcher whose `emit` is another one."""

    def __init__(self, dispatcher, emit):
        self._dispatcher = dispatcher
        self.emit = emit

    def __getattr__(self, name):
        return getattr(self._dispatcher, name)


@pytest.mark.expects_errors
async def test_what_a_callback_has_returned_and_nobody_awaited_is_dropped_without_a_warning():
    async def stuck(event):
        await asyncio.sleep(1000)

    async def never():
        raise AssertionError

    tasks = []

    def returns_a_task(event):
        tasks.append(asyncio.ensure_future(asyncio.sleep(1000)))
        return tasks[-1]

    async with stage(close_timeout=1) as played:
        played.client.on_close(stuck)
        played.client.on_close(lambda event: never())
        played.client.on_close(returns_a_task)
        played.peer.drop()
        await played.reopened()
    await settle()
    assert [task.cancelled() for task in tasks] == [True]


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
