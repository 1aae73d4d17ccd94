"""`request`, `subscribe` and `unsubscribe`: what is asked, and what is declared once."""

import asyncio
import gc

import pytest

from resilient_ws import (
    ClientClosed,
    DeliveryUncertain,
    ErrorEvent,
    Inbox,
    InboxFull,
    MessageTooBig,
    NotConnected,
    Outbox,
    RetryEvent,
    SetupFailed,
    State,
)
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import now, settle, stage


def echoing(peer):
    def answer(message):
        if message.startswith("?"):
            peer.send("noise", "!" + message)

    peer.on_message = answer


# --- requests


async def test_the_answer_is_consumed_and_all_else_delivered():
    async with stage(FakeTransport(echoing)) as played:
        answers = await asyncio.gather(
            *(played.client.request(f"?{n}", lambda m, n=n: m == f"!?{n}", 5) for n in range(20))
        )
        assert answers == [f"!?{n}" for n in range(20)]
        assert [await played.client.recv() for _ in range(20)] == ["noise"] * 20
        assert played.client.stats.unread == 0


async def test_only_what_comes_after_it_was_sent_can_answer():
    async with stage(FakeTransport(echoing)) as played:
        played.peer.send("!?x")
        await settle()
        assert await played.client.request("?x", lambda m: m == "!?x", 5) == "!?x"
        assert [await played.client.recv() for _ in range(2)] == ["!?x", "noise"]


async def test_the_first_of_two_that_match_gets_it():
    async with stage() as played:
        calls = [asyncio.create_task(played.client.request(str(n), lambda _: True, 5)) for n in range(3)]
        await settle()
        played.peer.send("a", "b", "c", "d")
        assert await asyncio.gather(*calls) == ["a", "b", "c"]
        assert await played.client.recv() == "d"


async def test_no_answer_in_time():
    async with stage() as played:
        with pytest.raises(TimeoutError):
            await played.client.request("?", lambda _: True, 3)
        assert now() == pytest.approx(3)
        played.peer.send("late")
        assert await played.client.recv() == "late"


@pytest.mark.promise("P8")
async def test_a_cancelled_request_takes_nothing_whenever_it_is_cancelled():
    for turns in range(8):
        async with stage(FakeTransport(echoing)) as played:
            task = asyncio.create_task(played.client.request("?", lambda m: m == "!?", None))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
                await settle()
                asked = list(played.peer.received)
                rest = [await played.client.recv() for _ in range(played.client.stats.unread)]
                assert rest == (["noise", "!?"] if asked else [])


async def test_match_that_raises_fails_its_own_request_only():
    async with stage() as played:
        bad = asyncio.create_task(played.client.request("?", lambda m: 1 / 0, 5))
        good = asyncio.create_task(played.client.request("?", lambda m: m == "x", 5))
        await settle()
        played.peer.send("x")
        with pytest.raises(ZeroDivisionError):
            await bad
        assert await good == "x"
        assert played.client.state is State.OPEN


@pytest.mark.promise("P9")
async def test_match_that_raises_what_no_future_takes_fails_its_own_request_only():
    table = ["known"]
    async with stage() as played:
        bad = asyncio.create_task(played.client.request("?", lambda m: next(x for x in table if x == m), 5))
        good = asyncio.create_task(played.client.request("?", lambda m: m == "x", 5))
        await settle()
        played.peer.send("x", "y")
        with pytest.raises(RuntimeError, match="StopIteration") as raised:
            await bad
        assert isinstance(raised.value.__cause__, StopIteration)
        assert await good == "x"
        assert await played.client.recv() == "y"
        assert played.client.state is State.OPEN


async def test_match_that_raises_cancelled_error_does_not_end_the_reader():
    def match(message):
        raise asyncio.CancelledError

    async with stage() as played:
        bad = asyncio.create_task(played.client.request("?", match, 5))
        await settle()
        played.peer.send("x", "y")
        with pytest.raises(asyncio.CancelledError):
            await bad
        assert [await played.client.recv(), await played.client.recv()] == ["x", "y"]


def behind_an_upload(played, match=lambda message: message == "answer"):
    """Begins a request that cannot be written yet, while the inbox of 10 messages is full."""
    played.peer.congest()
    played.peer.send(*map(str, range(10)))
    return asyncio.create_task(asked(played, match))


async def asked(played, match):
    await played.client.send("fills the way")
    await settle()
    return await played.client.request("?", match, 1000)


async def test_one_that_waits_to_be_written_lets_reading_go_on():
    async with stage(inbox=Inbox(max_messages=10), heartbeat=None) as played:
        call = behind_an_upload(played)
        await settle()
        played.peer.send(*map(str, range(10, 15)))
        await settle()
        assert played.client.stats.unread == 15
        played.peer.recover()
        await settle()
        played.peer.send("answer")
        assert await call == "answer"
        assert played.received == ["fills the way", "?"]


async def test_one_that_waits_to_be_written_is_told_that_no_answer_can_come():
    async with stage(inbox=Inbox(max_messages=10), heartbeat=None) as played:
        call = behind_an_upload(played)
        await settle()
        assert not call.done()
        played.peer.send(*map(str, range(10, 25)))
        with pytest.raises(InboxFull):
            await call
        assert now() < 1
        with pytest.raises(InboxFull):
            await played.client.request("at once", lambda _: True, 1000)
        played.peer.recover()
        await settle()
        assert played.received == ["fills the way"]


@pytest.mark.promise("P8")
async def test_one_that_waits_to_be_written_is_cancelled_while_it_is_told(caplog):
    async with stage(inbox=Inbox(max_messages=10), heartbeat=None) as played:
        call = behind_an_upload(played)
        await settle()
        played.peer.send(*map(str, range(10, 25)))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        played.peer.recover()
        await played.client.send("on we go")
        await settle()
        assert played.received == ["fills the way", "on we go"]
    gc.collect()
    assert not [record for record in caplog.records if "never retrieved" in record.getMessage()]


async def test_that_there_is_no_connection_is_said_before_that_the_inbox_is_full(caplog):
    async with stage(inbox=Inbox(max_messages=10)) as played:
        call = behind_an_upload(played)
        await settle()
        played.peer.send(*map(str, range(10, 20)))
        with pytest.raises(InboxFull):
            await call
        played.client.reconnect_now()
        await settle()
        assert played.client.state is not State.OPEN
        with pytest.raises(NotConnected):
            await played.client.request("?", lambda _: True, 1000)
    gc.collect()
    assert not [record for record in caplog.records if "never retrieved" in record.getMessage()]


async def test_it_needs_a_connection_and_says_uncertain_when_that_ends():
    async with stage(outbox=Outbox(on_uncertain="resend")) as played:
        played.peer.answers_pings = PingAnswers.NONE
        call = asyncio.create_task(played.client.request("?", lambda _: True, 50))
        await settle()
        played.peer.drop()
        with pytest.raises(DeliveryUncertain):
            await call
        with pytest.raises(NotConnected):
            await played.client.request("?", lambda _: True, 50)
        await played.reopened()
        await played.client.flush()
        assert played.received == []
        assert played.fates == [("?", "uncertain")]


@pytest.mark.parametrize(
    "arguments,error,complaint",
    [
        ((5, lambda _: True, 1), TypeError, "message must be str or bytes-like"),
        (("x" * 101, lambda _: True, 1), MessageTooBig, "max_bytes is 100"),
        (("x", "match", 1), TypeError, "match must be callable, got str"),
        (("x", lambda _: True, -1), ValueError, "timeout must be 0 or more"),
        (("x", lambda _: True, "1"), TypeError, "timeout must be seconds"),
    ],
)
async def test_bad_arguments_are_refused(arguments, error, complaint):
    async with stage(outbox=Outbox(max_bytes=100)) as played:
        with pytest.raises(error, match=complaint):
            await played.client.request(*arguments)
        assert played.received == []


async def test_an_async_match_is_refused():
    async def match(message):
        return True

    async with stage() as played:
        with pytest.raises(TypeError, match="match must not be async"):
            await played.client.request("x", match, 1)


async def test_requests_work_while_callbacks_are_the_consumer_and_inside_of_them():
    answers = []

    async def take(message):
        if message == "go":
            answers.append(await played.client.request("?", lambda m: m == "!?", 5))

    async with stage(FakeTransport(echoing), on_message=take) as played:
        played.peer.send("go")
        await settle(0.1)
        assert answers == ["!?"]


# --- subscriptions


async def test_what_is_declared_is_sent_on_each_connection_in_order_before_the_outbox():
    async with stage(start=False) as played:
        client = played.client
        client.subscribe("a", "A")
        client.subscribe("b", lambda: f"B{played.client.stats.attempts}")
        client.subscribe("a", b"A2")
        await client.send("message")
        client.start()
        await client.flush()
        assert played.received == [b"A2", "B1", "message"]
        client.subscribe("c", "C", "no C")
        assert played.received == [b"A2", "B1", "message", "C"]
        client.unsubscribe("c")
        client.unsubscribe("b")
        client.unsubscribe("unknown")
        assert played.received[4:] == ["no C"]
        played.peer.drop()
        await played.reopened()
        assert played.received == [b"A2"]


async def test_what_is_declared_or_taken_back_without_a_connection_counts_for_the_next():
    async with stage() as played:
        played.client.subscribe("a", "A", "no A")
        played.peer.drop()
        await settle()
        played.client.unsubscribe("a")
        played.client.subscribe("b", "B")
        await played.reopened()
        assert played.received == ["B"]


async def test_a_declaration_during_the_setup_is_part_of_it():
    async def setup(conn):
        played.client.subscribe("late", "late")
        await conn.send("setup")

    async with stage(start=False, setup=setup) as played:
        played.client.subscribe("early", "early")
        played.client.start()
        await played.client.ready()
        assert played.received == ["setup", "early", "late"]


async def test_what_is_taken_back_while_it_is_being_declared_is_taken_back_from_the_peer_too():
    def meet(peer):
        peer.congest()
        asyncio.get_running_loop().call_later(3, peer.recover)

    async with stage(FakeTransport(meet), start=False) as played:
        for key in "abc":
            played.client.subscribe(key, key, f"no {key}")
        played.client.start()
        await settle(1)
        played.client.unsubscribe("a")
        played.client.unsubscribe("c")
        await played.client.ready()
        await settle()
        assert played.received == ["a", "b", "no a"]


async def test_a_subscription_goes_before_what_waits_for_room():
    async with stage() as played:
        played.peer.congest()
        await played.client.send("in hand")
        await played.client.send("waits")
        played.client.subscribe("s", "S", "no S")
        played.client.unsubscribe("s")
        played.peer.recover()
        await played.client.flush()
        assert played.received == ["in hand", "S", "no S", "waits"]


async def test_subscriptions_are_not_accounted_for():
    async with stage() as played:
        played.client.subscribe("s", "S")
        stats = played.client.stats
        assert (stats.unconfirmed, stats.confirmed, stats.sent) == (0, 0, 1)
        played.peer.drop()
        await settle()
        assert played.fates == []


@pytest.mark.expects_errors
async def test_a_function_that_fails_fails_the_attempt_or_is_reported():
    broken = []

    def make():
        if broken:
            raise ValueError("no signature")
        return "signed"

    async with stage() as played:
        broken.append(1)
        played.client.subscribe("s", make)
        await settle()
        assert played.errors == [("subscribe", "no signature")]
        played.peer.drop()
        await played.until(lambda: len(played.of(RetryEvent)) == 2)
        assert isinstance(played.of(RetryEvent)[1].cause, SetupFailed)
        broken.clear()
        await played.until_state(State.OPEN)
        assert played.received == ["signed"]


@pytest.mark.promise("P6")
async def test_what_waits_for_room_is_replaced_by_the_same_key():
    async with stage(heartbeat=None) as played:
        client = played.client
        client.subscribe("a", "A")
        played.peer.congest()
        await client.send("fills the way")
        for number in range(1000):
            client.subscribe("a", f"A{number}", "no A")
            client.subscribe("b", f"B{number}")
        client.unsubscribe("a")
        client.subscribe("a", "again")
        client.subscribe("a", "and again")
        played.peer.recover()
        await settle()
        assert played.received == ["A", "fills the way", "A999", "B999", "no A", "and again"]


@pytest.mark.expects_errors
@pytest.mark.parametrize("made", [5, None, "x" * 101])
async def test_a_function_that_makes_something_else_is_reported(made):
    async with stage(outbox=Outbox(max_bytes=100)) as played:
        played.client.subscribe("s", lambda: made)
        await settle()
        assert [event.where for event in played.of(ErrorEvent)] == ["subscribe"]
        played.client.unsubscribe("s")


@pytest.mark.parametrize(
    "arguments,error,complaint",
    [
        (("k", 5), TypeError, "message must be str or bytes-like"),
        (("k", "x" * 101), MessageTooBig, "max_bytes is 100"),
        (("k", "x", 5), TypeError, "message must be str or bytes-like"),
        (([], "x"), TypeError, "unhashable"),
    ],
)
async def test_bad_declarations_are_refused(arguments, error, complaint):
    async with stage(outbox=Outbox(max_bytes=100)) as played:
        with pytest.raises(error, match=complaint):
            played.client.subscribe(*arguments)
        assert played.received == []


async def test_nothing_is_declared_after_the_end():
    async with stage() as played:
        await played.client.close()
        with pytest.raises(ClientClosed):
            played.client.subscribe("k", "x")
        with pytest.raises(ClientClosed):
            played.client.unsubscribe("k")


# --- evidence


@pytest.mark.promise("P5")
async def test_an_answer_confirms_the_question_and_all_that_was_sent_before_it():
    async with stage(FakeTransport(echoing), outbox=Outbox(confirm_interval=100)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        for number in range(5):
            await played.client.send(f"before {number} é")
        certain = asyncio.create_task(played.client.send("certain", confirm=True))
        await settle()
        assert played.client.stats.unconfirmed == 6
        answering = asyncio.create_task(played.client.request("?x", lambda m: m == "!?x", 5))
        await asyncio.sleep(0)
        await played.client.send("behind")
        assert await answering == "!?x"
        await certain
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (7, 1)
        played.peer.drop()
        await played.until(lambda: played.fates)
        assert played.fates == [("behind", "uncertain")]
        assert played.closes[0].uncertain == 1


@pytest.mark.promise("P5")
async def test_an_answer_lets_flush_return_and_makes_room():
    async with stage(FakeTransport(echoing), outbox=Outbox(max_bytes=10, confirm_interval=100)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("12345")
        flushing = asyncio.create_task(played.client.flush())
        asking = asyncio.create_task(played.client.request("?x", lambda m: m == "!?x", 5))
        await asking
        await flushing
        await asyncio.wait_for(played.client.send("1234567890"), 1)


@pytest.mark.promise("P5")
async def test_no_answer_confirms_nothing():
    async with stage(outbox=Outbox(confirm_interval=100)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("before")
        with pytest.raises(TimeoutError):
            await played.client.request("?", lambda _: False, 1)
        asking = asyncio.create_task(played.client.request("?", lambda _: False, 5))
        await settle()
        played.peer.send("something else")
        await settle()
        played.peer.drop()
        with pytest.raises(DeliveryUncertain):
            await asking
        assert played.client.stats.confirmed == 0
        assert [message for message, _ in played.fates] == ["before", "?", "?"]


@pytest.mark.promise("P5")
async def test_an_answer_confirms_what_a_message_that_takes_time_to_write_was_behind():
    async with stage(outbox=Outbox(confirm_interval=100), compression="deflate") as played:
        played.peer.answers_pings = PingAnswers.NONE
        played.peer.write_delay = 1
        await played.client.send("small")
        asking = asyncio.create_task(played.client.request("x" * 20_000, lambda m: m == "done", 50))
        await settle(2)
        played.peer.send("done")
        await asking
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (2, 0)


# --- calls that cannot wait


@pytest.mark.promise("P6")
@pytest.mark.parametrize("keys", [1, 1000])
@pytest.mark.parametrize("declared", [False, True])
async def test_declaring_and_taking_back_without_an_end_holds_little_while_the_link_has_no_room(
    keys, declared
):
    async with stage() as played:
        if declared:
            for key in range(keys):
                played.client.subscribe(key, f"+{key}", f"-{key}")
            await settle()
        played.peer.congest()
        await played.client.send("x" * 100_000)
        await settle()
        before = len(played.peer.received)
        writer = played.client._supervisor.active.writer
        assert writer.busy
        for number in range(5000):
            key = number % keys
            played.client.subscribe(key, f"+{key}", f"-{key}")
            played.client.unsubscribe(key)
        assert len(writer._first) <= (2 * keys if declared else 101)
        played.client.subscribe(0, "+0 at last", "-0")
        played.peer.recover()
        await settle(1)
        got = list(played.peer.received)[before:]
        assert [text for text in got if text[1:].split()[0] == "0"][-1] == "+0 at last"
        taken_back = [text for text in got if text.startswith("-")]
        assert len(taken_back) == len(set(taken_back)) <= (keys if declared else 100)
        for text in taken_back:
            assert declared or got.index(text) > got.index("+" + text[1:])
