"""`close()` and the other ends: from every state, in time, once, and nothing left (P7, P11)."""

import asyncio

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ClientClosed,
    ClientStopped,
    CloseOrigin,
    ConcurrencyError,
    ConnectError,
    HandshakeRejected,
    Inbox,
    NotConnected,
    Outbox,
    OutboxFull,
    ReconnectPolicy,
    RetriesExhausted,
    State,
    Stop,
    WebSocketClient,
)
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import STEADY, URL, now, settle, stage

pytestmark = pytest.mark.promise("P7")


def blocked_calls(client):
    return {
        "ready": client.ready,
        "recv": client.recv,
        "send": lambda: client.send("x"),
        "confirm": lambda: client.send("x", confirm=True),
        "flush": client.flush,
        "request": lambda: client.request("?", lambda _: False, None),
    }


# --- the goodbye


@pytest.mark.parametrize("code,reason", [(1000, ""), (1001, "going"), (3000, "r"), (4999, "ü" * 61)])
async def test_the_peer_hears_code_and_reason(code, reason):
    async with stage() as played:
        await played.client.close(code, reason)
        assert (played.peer.close_code, played.peer.close_reason) == (code, reason)
        final = played.client.close_event
        assert (final.code, final.reason, final.sent_code, final.was_clean) == (code, reason, code, True)
        assert now() < 0.1


@pytest.mark.parametrize(
    "arguments,error,complaint",
    [
        ({"code": 1002}, ValueError, "code must be 1000, 1001 or 3000-4999, got 1002"),
        ({"code": 5000}, ValueError, "code must be"),
        ({"code": True}, TypeError, "code must be an int"),
        ({"reason": "ü" * 62}, ValueError, "reason must be at most 123 bytes of UTF-8, got 124"),
        ({"reason": b"x"}, TypeError, "reason must be a str"),
        ({"drain": -1}, ValueError, "drain must be 0 or more"),
        ({"drain": "1"}, TypeError, "drain must be seconds"),
        ({"drain": True}, TypeError, "drain must be seconds"),
    ],
)
async def test_bad_arguments_are_refused_and_nothing_is_closed(arguments, error, complaint):
    async with stage() as played:
        with pytest.raises(error, match=complaint):
            await played.client.close(**arguments)
        assert played.client.state is State.OPEN


async def test_what_waits_is_written_and_confirmed_by_a_last_ping():
    async with stage(outbox=Outbox(confirm_interval=600)) as played:
        played.peer.congest()
        for text in "abc":
            await played.client.send(text)
        closing = asyncio.ensure_future(played.client.close())
        await settle(1.5)
        assert not closing.done()
        played.peer.recover()
        await settle(0.01)
        assert closing.done()
        assert played.received == ["a", "b", "c"]
        stats = played.client.stats
        assert (stats.confirmed, stats.uncertain, stats.abandoned) == (3, 0, 0)
    assert played.closes[-1].uncertain == 0


async def test_what_cannot_be_written_in_time_is_abandoned_and_what_is_not_confirmed_uncertain():
    async with stage() as played:
        played.peer.congest()
        for text in "abc":
            await played.client.send(text)
        await played.client.close()
        assert now() <= 5.3
    assert played.fates == [("a", "uncertain"), ("b", "abandoned"), ("c", "abandoned")]
    final = played.closes[-1]
    assert (final.unsent, final.uncertain, final.code) == (2, 1, 1006)
    assert final.origin is CloseOrigin.LOCAL


async def test_what_arrived_before_is_still_delivered_and_what_comes_later_is_discarded():
    async with stage() as played:
        played.peer.answers_close = False
        played.peer.send("1", "2")
        await settle()
        closing = asyncio.ensure_future(played.client.close())
        await settle()
        played.peer.send("late", "later")
        await settle()
        played.peer.close(1000)
        await closing
        assert played.client.stats.discarded == 2
        assert [message async for message in played.client] == ["1", "2"]
    assert played.closes[-1].unread == 2


async def test_a_mute_peer_costs_no_more_than_the_timeout():
    async with stage(close_timeout=2) as played:
        played.peer.go_silent()
        await played.client.close()
        assert 1 < now() <= 2.3
        final = played.client.close_event
        assert (final.code, final.synthesized, final.sent_code) == (1006, True, 1000)


@pytest.mark.promise("P1")
@pytest.mark.parametrize("stands_still", [0.7, 3])
async def test_callbacks_hear_of_the_end_though_the_loop_stood_still_until_it_was_too_late(stands_still):
    heard = []
    async with stage(close_timeout=2, on_close=heard.append) as played:
        played.peer.go_silent()
        loop = asyncio.get_running_loop()
        loop.call_later(1.5, loop.clock.advance, stands_still)  # the callbacks would have had 1.6 to 2
        await played.client.close()
        assert heard == [played.client.close_event]
        assert now() <= 1.5 + stands_still + 0.1


async def test_no_timeout_is_no_limit():
    async with stage(close_timeout=None, heartbeat=None) as played:
        played.peer.answers_close = False
        closing = asyncio.ensure_future(played.client.close())
        await settle(10_000)
        assert not closing.done()
        played.peer.close()
        await closing


async def test_a_peer_that_closes_at_the_same_time():
    async with stage() as played:
        played.peer.close(1001, "me too")
        await played.client.close()
        assert now() < 0.1
    assert len(played.closes) == 1
    assert (played.closes[0].code, played.closes[0].reason) == (1001, "me too")
    assert played.closes[0].was_clean


async def test_a_peer_that_drops_instead_of_answering():
    async with stage() as played:
        played.peer.answers_close = False
        closing = asyncio.ensure_future(played.client.close())
        await settle()
        played.peer.drop()
        await closing
        assert now() < 0.1
    assert played.closes[0].code == 1006
    assert played.closes[0].sent_code == 1000
    assert not played.closes[0].will_retry


async def test_a_full_inbox_is_no_obstacle():
    async with stage(inbox=Inbox(max_messages=3)) as played:
        played.peer.send(*map(str, range(10)))
        await settle()
        assert played.peer.paused
        await played.client.close()
        assert now() < 0.1
        assert played.client.close_event.was_clean
        assert [message async for message in played.client] == ["0", "1", "2"]
        assert played.client.stats.discarded == 7


# --- from every state, waking everybody


@pytest.mark.parametrize(
    "state", ["connecting", "open", "congested", "silent", "backoff", "setup", "deciding"]
)
@pytest.mark.parametrize("drain", [None, 0, 0.5])
async def test_it_wakes_every_blocked_call_at_once(state, drain):
    async def linger(_):
        await asyncio.sleep(1000)

    transport = FakeTransport()
    options = {"outbox": Outbox(max_messages=1, overflow="wait"), "close_timeout": 2}
    if state == "connecting":
        transport.hang()
        options["open_timeout"] = None
    elif state == "setup":
        options |= {"setup": linger, "setup_timeout": None}
    elif state == "deciding":
        options["reconnect"] = ReconnectPolicy(decide=linger)
    elif state == "backoff":
        options["reconnect"] = ReconnectPolicy(wait=wait_fixed(100))
    async with stage(transport, ready=False, **options) as played:
        client = played.client
        await settle()
        if state in {"congested", "backoff", "deciding", "silent", "open"}:
            played.peer.answers_pings = PingAnswers.NONE
            if state == "congested":
                played.peer.congest()
                await client.send("in hand")
            elif state == "silent":
                played.peer.go_silent()
            elif state != "open":
                played.peer.drop()
        await settle()
        tasks = {}
        if state in {"connecting", "setup", "backoff", "deciding", "congested"}:
            await client.send("fills it")
        for name, call in blocked_calls(client).items():
            tasks[name] = asyncio.create_task(call())
        await settle()
        waiting = {name for name, task in tasks.items() if not task.done()}
        assert {"recv", "flush"} <= waiting
        for name in set(tasks) - waiting:
            assert isinstance(tasks[name].exception(), NotConnected | type(None))
        before = now()
        closing = asyncio.create_task(client.close(drain=drain))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert now() == before
        still = {name for name in waiting if not tasks[name].done()}
        assert still <= ({"flush", "confirm", "recv"} if drain is not None else set()), still
        await closing
        assert now() - before <= (drain or 0) + 2.3
        await settle()
        for name in waiting - {"send", "confirm", "flush"}:
            with pytest.raises(ClientClosed):
                tasks[name].result()
        assert all(task.done() for task in tasks.values())
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert client.state is State.CLOSED


async def test_twice_and_at_the_same_time():
    async with stage() as played:
        played.peer.answers_close = False
        first = asyncio.create_task(played.client.close(1001, "first"))
        second = asyncio.create_task(played.client.close(4000, "second"))
        await settle(1)
        assert not first.done()
        assert not second.done()
        played.peer.close()
        await asyncio.gather(first, second)
        await played.client.close()
        assert played.peer.close_code == 1001
    assert len(played.closes) == 1


async def test_a_cancelled_call_does_not_stop_it():
    async with stage() as played:
        played.peer.answers_close = False
        closing = asyncio.create_task(played.client.close())
        await settle()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert played.client.state is State.CLOSING
        await played.until_state(State.CLOSED)
        assert now() <= 5.3


async def test_a_call_with_a_time_limit_of_its_own():
    async with stage() as played:
        played.peer.answers_close = False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await played.client.close()
        assert now() == pytest.approx(1, abs=0.01)


# --- drain


@pytest.mark.promise("P5")
async def test_drain_waits_until_everything_is_confirmed():
    async with stage(outbox=Outbox(confirm_interval=600)) as played:
        played.peer.pong_delay = 2
        for text in "abc":
            await played.client.send(text)
        confirmed = asyncio.create_task(played.client.send("d", confirm=True))
        flushed = asyncio.create_task(played.client.flush())
        await settle()
        await played.client.close(drain=60)
        assert now() == pytest.approx(2, abs=0.1)
        await confirmed
        await flushed
        assert played.client.stats.confirmed == 4


@pytest.mark.promise("P5")
async def test_drain_connects_again_if_need_be():
    async with stage(outbox=Outbox(on_uncertain="resend")) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        played.peer.drop()
        played.transport.refuse(times=2)
        await settle()
        await played.client.send("b")
        closing = asyncio.create_task(played.client.close(drain=60))
        await settle()
        with pytest.raises(ClientClosed):
            await played.client.send("c")
        await closing
        assert played.received == ["a", "b"]
        assert now() < 3
        assert played.client.stats.confirmed == 2
    assert played.fates == []
    assert played.client.close_event.was_clean


async def test_drain_survives_a_drop():
    async with stage(outbox=Outbox(on_uncertain="resend")) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        closing = asyncio.create_task(played.client.close(drain=60))
        await settle(1)
        played.peer.drop()
        await closing
        assert played.received == ["a"]
        assert now() == pytest.approx(1, abs=0.2)  # nobody waits for a back-off while closing


async def test_drain_has_its_bound():
    async with stage(close_timeout=2) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        await played.client.close(drain=3)
        assert 3 <= now() <= 5.3
    assert played.fates == [("a", "uncertain")]


async def test_drain_ends_when_a_rule_says_stop():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        closing = asyncio.create_task(played.client.close(drain=60))
        await settle()
        played.peer.close(1008)
        await closing
        assert now() < 0.1
        assert [message async for message in played.client] == []
    assert played.closes[-1].code == 1008
    assert len(played.closes) == 1


async def test_drain_with_nothing_to_wait_for():
    async with stage() as played:
        await played.client.close(drain=60)
        assert now() < 0.1


async def test_drain_of_a_client_that_never_began():
    async with stage(start=False) as played:
        await played.client.send("a")
        await played.client.close(drain=60)
        assert played.received == ["a"]


async def test_drain_meanwhile_messages_are_received():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        receiving = asyncio.create_task(played.client.recv())
        closing = asyncio.create_task(played.client.close(drain=2))
        await settle(1)
        assert not receiving.done()
        played.peer.send("news")
        assert await receiving == "news"
        await closing


@pytest.mark.parametrize("second, ends", [(60, 5), (5, 5), (3, 4), (None, 1)])
async def test_a_second_call_waits_for_the_first_and_may_end_its_draining(second, ends):
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        patient = asyncio.create_task(played.client.close(4000, "patient", drain=5))
        await settle(1)
        await played.client.close(3000, drain=second)
        assert now() == pytest.approx(ends, abs=0.1)
        await patient
        assert played.peer.close_code == 4000


@pytest.mark.expects_errors
@pytest.mark.parametrize("way", ["task", "callback", "run"])
async def test_code_that_swallows_cancellation_holds_nobody_up(way, caplog):
    released, ended = [], []

    async def deaf(conn):
        while not released:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    async def close():
        await played.client.close()
        ended.append(now())

    async def on_state(event):
        if way == "callback" and event.new is State.CONNECTING:
            await settle(1)
            await close()

    options = {"setup": deaf, "setup_timeout": None, "close_timeout": 2, "on_state": on_state}
    async with stage(ready=False, **options) as played:
        running = asyncio.create_task(played.client.run(signals=()))
        await settle(1)
        if way == "task":
            await close()
        elif way == "run":
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            ended.append(now())
        await asyncio.wait([running])
        await settle(4)
        assert ended == [pytest.approx(3.25, abs=0.01)]
        assert caplog.text.count("swallows cancellation") == 1
        released.append(1)
        await settle(5)


@pytest.mark.expects_errors
async def test_a_loop_that_is_late_all_the_time_is_no_excuse_for_ever():
    released = []

    async def deaf(conn):
        while not released:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                continue

    def block():
        if not released:
            loop.clock.advance(0.2)
            loop.call_later(0.01, block)

    loop = asyncio.get_running_loop()
    async with stage(ready=False, setup=deaf, setup_timeout=None, close_timeout=2) as played:
        await settle()
        block()
        await played.client.close()
        assert 2.25 <= now() <= 3.2
        released.append(1)
        await settle(200)


@pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="tasks begin at once from Python 3.12 on"
)
async def test_tasks_that_begin_at_once_change_nothing():
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
    seen = []

    async def greet(event):
        await played.client.send("hello", queue=False)
        await asyncio.sleep(0)
        await played.client.close()
        seen.append(now())

    try:
        async with stage(on_open=greet) as played:
            await played.client.run(signals=())
        assert played.received == ["hello"]
        assert seen == [pytest.approx(0, abs=0.1)]
        async with stage(url=lambda attempt: Stop("no"), ready=False) as played:
            with pytest.raises(ClientStopped, match="no"):
                await played.client.ready()
    finally:
        asyncio.get_running_loop().set_task_factory(None)


def test_a_closed_client_may_be_closed_again_anywhere():
    client = WebSocketClient(URL, transport=FakeTransport())

    async def play():
        async with client:
            pass

    asyncio.run(play())
    asyncio.run(client.close())
    assert client.state is State.CLOSED


# --- inside code of the program


@pytest.mark.parametrize(
    "name", ["on_open", "on_close", "on_state", "on_message", "on_retry", "on_reconnect"]
)
@pytest.mark.parametrize("sync", [True, False])
async def test_called_from_a_callback_it_does_not_wait_for_the_lanes(name, sync):
    closed = []

    async def close(event=None):
        await played.client.close()
        closed.append(played.client.state)

    def close_later(event):
        tasks.append(asyncio.ensure_future(close()))

    tasks = []
    async with stage(start=False, **{name: close_later if sync else close}) as played:
        played.client.start()
        await settle(0.01)
        if played.client.state is State.OPEN:
            if name == "on_message":
                played.peer.send("x")
            else:
                played.peer.drop()
        await played.until_state(State.CLOSED)
        await settle()
        assert State.CLOSED in closed
        assert now() < 2
        await asyncio.gather(*tasks)


async def test_called_from_the_provider_and_from_decide():
    async def where(attempt):
        if attempt.number == 2:
            await client.close()
        return URL

    client = WebSocketClient(where, transport=FakeTransport(), reconnect=STEADY)
    async with client:
        client._supervisor.config.transport.peer.drop()
        await asyncio.sleep(5)
        assert client.state is State.CLOSED

    async def decide(failure):
        await other.close()

    other = WebSocketClient(URL, transport=FakeTransport(), reconnect=ReconnectPolicy(decide=decide))
    async with other:
        other._supervisor.config.transport.peer.drop()
        await asyncio.sleep(1)
        assert other.state is State.CLOSED


async def test_called_from_inside_the_own_iteration():
    async with stage() as played:
        played.peer.send("1", "2", "3")
        seen = []
        async for message in played.client:
            seen.append(message)
            if message == "1":
                await played.client.close()
        assert seen == ["1", "2", "3"]


async def test_it_returns_after_the_callbacks_have_run():
    done = []

    async def slow(event):
        await asyncio.sleep(0.3)
        done.append(event)

    async with stage(on_close=slow) as played:
        await played.client.close()
        assert len(done) == 1
        assert now() == pytest.approx(0.3, abs=0.01)


async def test_a_callback_that_takes_too_long_is_cut_off():
    cancelled = []

    async def endless(event):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(event)
            raise

    async with stage(on_close=endless, close_timeout=2) as played:
        await played.client.close()
        assert now() <= 2.3
        assert len(cancelled) == 1


@pytest.mark.expects_errors
async def test_a_callback_that_swallows_cancellation_is_left_behind_and_reported(caplog):
    released = []

    async def deaf(event):
        while not released:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    async with stage(on_open=deaf, close_timeout=2) as played:
        await settle()
        await played.client.close()
        assert now() <= 2.3
        assert "swallows cancellation" in caplog.text
        released.append(1)
        await settle(5)


async def test_what_an_on_message_callback_has_not_taken_is_processed_in_time():
    taken = []

    async def take(message):
        await asyncio.sleep(0.1)
        taken.append(message)

    async with stage(on_message=take) as played:
        played.peer.send(*map(str, range(10)))
        await settle()
        await played.client.close()
        assert taken == [str(number) for number in range(10)]


# --- how it ends for the rest of the program


@pytest.mark.promise("P11")
async def test_the_iteration_ends_quietly_when_we_closed_and_raises_otherwise():
    async with stage() as played:
        quiet = asyncio.create_task(consume(played.client))
        gaps = played.client.with_gaps()
        await settle()
        await played.client.close()
        assert await quiet == []
        with pytest.raises(StopAsyncIteration):
            await anext(gaps)
    async with stage() as played:
        loud = asyncio.create_task(consume(played.client))
        await settle()
        played.peer.send("last words")
        played.peer.close(1008, "go")
        with pytest.raises(ClientStopped, match="1008"):
            await loud
        with pytest.raises(ClientStopped):
            await anext(played.client.with_gaps())
        with pytest.raises(ClientStopped):
            await played.client.recv()
        with pytest.raises(ClientStopped):
            await played.client.ready()
        with pytest.raises(ClientStopped):
            await played.client.send("x")
        with pytest.raises(ClientStopped):
            await played.client.flush()


async def consume(client):
    return [message async for message in client]


@pytest.mark.promise("P11")
async def test_what_was_received_before_comes_first_whatever_ended_it():
    async with stage() as played:
        played.peer.send("1", "2")
        played.peer.close(1008)
        await played.until_state(State.CLOSED)
        assert [await played.client.recv(), await played.client.recv()] == ["1", "2"]
        with pytest.raises(ClientStopped):
            await played.client.recv()
        with pytest.raises(ClientStopped):
            await played.client.recv()
    assert played.closes[0].unread == 2


@pytest.mark.promise("P11")
async def test_run_returns_when_closed_and_raises_what_ended_it():
    async with stage(start=False) as played:
        running = asyncio.create_task(played.client.run())
        await settle()
        assert played.client.state is State.OPEN
        await played.client.close()
        await running
        with pytest.raises(ClientClosed):
            await played.client.run()
    async with stage(start=False) as played:
        running = asyncio.create_task(played.client.run())
        await settle()
        played.peer.close(1003, "text only")
        with pytest.raises(ClientStopped, match="1003") as stopped:
            await running
        assert stopped.value.event.reason == "text only"


async def test_a_cancelled_run_closes_first():
    async with stage(start=False) as played:
        running = asyncio.create_task(played.client.run())
        await settle()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert played.client.state is State.CLOSED
        assert played.peer.close_code == 1000


async def test_run_of_a_client_that_was_started_already():
    async with stage() as played:
        running = asyncio.create_task(played.client.run())
        await settle()
        await played.client.close()
        await running


async def test_the_undelivered_are_part_of_what_is_raised():
    async with stage() as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        played.peer.close(1008)
        with pytest.raises(ClientStopped) as stopped:
            await played.client.recv()
        assert [(event.message, event.fate.value) for event in stopped.value.undelivered] == [
            ("a", "uncertain")
        ]


async def test_an_end_without_a_connection_counts_what_was_sent_and_what_was_not():
    async with stage(outbox=Outbox(on_uncertain="resend")) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("written")
        played.peer.drop()
        await settle()
        await played.client.send("never written")
    assert played.fates == [("written", "uncertain"), ("never written", "abandoned")]
    final = played.closes[-1]
    assert final.opened_for is None
    assert (final.unsent, final.uncertain) == (1, 1)


# --- async with


async def test_a_block_that_raises_closes_the_client():
    client = WebSocketClient(URL, transport=FakeTransport())
    with pytest.raises(ZeroDivisionError):
        async with client:
            1 / 0
    assert client.state is State.CLOSED


async def test_a_block_that_cannot_be_entered_closes_the_client():
    transport = FakeTransport()
    transport.refuse(times=None)
    client = WebSocketClient(URL, transport=transport, reconnect=ReconnectPolicy(max_attempts=2))
    with pytest.raises(RetriesExhausted):
        async with client:
            raise AssertionError
    assert client.state is State.CLOSED
    transport.hang()
    client = WebSocketClient(URL, transport=transport, open_timeout=None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3), client:
            raise AssertionError
    assert client.state is State.CLOSED
    with pytest.raises(ClientClosed):
        async with client:
            raise AssertionError


async def test_fail_fast_raises_the_first_failure_itself():
    transport = FakeTransport()
    first = HandshakeRejected("HTTP 503", status=503)
    transport.refuse(first)
    client = WebSocketClient(URL, transport=transport, fail_fast=True)
    with pytest.raises(HandshakeRejected) as failure:
        async with client:
            raise AssertionError
    assert failure.value is first
    assert len(transport.dials) == 1
    with pytest.raises(HandshakeRejected):
        await client.ready()
    with pytest.raises(ClientStopped, match="fail_fast") as stopped:
        await client.recv()
    assert stopped.value.__cause__ is first


async def test_fail_fast_is_about_the_first_attempt_only():
    async with stage(fail_fast=True) as played:
        played.transport.refuse(times=2)
        played.peer.drop()
        await played.reopened()
        assert played.client.stats.attempts == 4


async def test_ready_in_time_or_not():
    transport = FakeTransport()
    transport.refuse(times=3)
    async with stage(transport, ready=False) as played:
        with pytest.raises(TimeoutError):
            await played.client.ready(timeout=1.5)
        assert played.client.state is not State.CLOSED
        await played.client.ready()
        await played.client.ready(0)
        assert now() == pytest.approx(3, abs=0.01)


# --- the wrong loop, the wrong moment


def test_a_client_belongs_to_the_loop_in_which_it_was_started():
    client = WebSocketClient(URL, transport=FakeTransport())

    async def begin():
        client.start()
        await client.ready()
        client.subscribe("k", "x")

    async def anext_event():
        await anext(client.events())

    async def elsewhere():
        for call in blocked_calls(client).values():
            with pytest.raises(ConcurrencyError, match="another event loop"):
                await call()
        for wait in (client.__anext__, client.with_gaps().__anext__, client.close, client.run, anext_event):
            with pytest.raises(ConcurrencyError, match="another event loop"):
                await wait()
        for call in (
            client.start,
            client.reconnect_now,
            lambda: client.subscribe("k", "x"),
            lambda: client.unsubscribe("k"),
            lambda: client.on_message(print),
        ):
            with pytest.raises(ConcurrencyError, match="another event loop"):
                call()

    with asyncio.Runner() as one, asyncio.Runner() as two:
        one.run(begin())
        two.run(elsewhere())
        one.run(client.close())


def test_a_loop_that_ends_takes_the_client_along_without_a_warning():
    client = WebSocketClient(URL, transport=FakeTransport())

    async def forget():
        client.start()
        await client.ready()
        await client.send("x")

    asyncio.run(forget())
    assert client.state is State.CLOSED


def test_start_needs_a_loop():
    client = WebSocketClient(URL, transport=FakeTransport())
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.start()
    assert client.state is State.IDLE


async def test_reconnect_false_makes_the_first_end_the_end():
    async with stage(reconnect=False) as played:
        played.peer.close(1001)
        with pytest.raises(ClientStopped, match="reconnect=False"):
            await played.client.recv()
    transport = FakeTransport()
    transport.refuse(ConnectError("no"))
    async with stage(transport, ready=False, reconnect=False) as played:
        with pytest.raises(ClientStopped):
            await played.client.ready()


async def test_a_full_outbox_in_back_off_says_so_also_while_closing():
    async with stage(reconnect=ReconnectPolicy(wait=wait_fixed(50)), outbox=Outbox(max_messages=1)) as played:
        played.peer.drop()
        await settle()
        await played.client.send("1")
        with pytest.raises(OutboxFull):
            await played.client.send("2")
        await played.client.close()
        with pytest.raises(ClientClosed):
            await played.client.send("3")
    assert played.fates == [("1", "abandoned")]
