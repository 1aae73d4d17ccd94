"""What `send` accepts, refuses and waits for (section: sending; P4, P5, P8)."""

import asyncio
import enum

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ClientClosed,
    MessageTooBig,
    NotConnected,
    Outbox,
    OutboxFull,
    ReconnectPolicy,
    State,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import URL, pending, settle, stage

SLOW = ReconnectPolicy(wait=wait_fixed(50))


# --- order and plain sending


@pytest.mark.promise("P4")
async def test_messages_leave_in_the_order_of_the_calls_across_connections():
    sent = [str(number) for number in range(500)]
    async with stage(outbox=Outbox(on_uncertain="resend")) as played:
        for number, message in enumerate(sent):
            await played.client.send(message)
            if number % 100 == 50:
                await played.client.flush()
                played.peer.drop()
            if number % 100 == 90:
                await played.reopened()
        await played.client.flush()
        arrived = [message for peer in played.transport.peers for message in peer.received]
        assert arrived == sent


async def test_text_is_text_and_bytes_are_bytes():
    async with stage() as played:
        data = bytearray(b"abc")
        await played.client.send(data)
        data[:] = b"xyz"
        await played.client.send(memoryview(b"0123")[1:3])
        await played.client.send(memoryview(b"012345")[::2])
        await played.client.send("ü")
        await played.client.send_json({"a": [1, "ü"]})
        await asyncio.sleep(0)
        assert played.received == [b"abc", b"12", b"024", "ü", '{"a":[1,"ü"]}']


Word = enum.Enum("Word", {"PING": "ping", "UMLAUT": "ü"}, type=str)


class Quiet(bytes):
    def __bytes__(self):
        return b""


async def test_of_a_subclass_its_content_is_sent_and_not_what_it_says_of_itself():
    async def setup(conn):
        await conn.send(Word.PING)

    async with stage(setup=setup) as played:
        played.client.subscribe("k", lambda: Word.PING)
        await played.client.send(Word.UMLAUT)
        await played.client.send(Quiet(b"heard"), ttl=5)
        await played.client.flush()
        assert played.received == ["ping", "ping", "ü", b"heard"]
        assert {type(message) for message in played.received} == {str, bytes}


@pytest.mark.parametrize("message", [5, None, ["x"], object()])
async def test_other_types_are_refused_and_lose_nothing(message):
    async with stage() as played:
        with pytest.raises(TypeError, match="message must be str or bytes-like, got"):
            await played.client.send(message)
        with pytest.raises(ValueError, match="UTF-8"):
            await played.client.send("\ud800")
        with pytest.raises(TypeError, match="JSON"):
            await played.client.send_json({1, 2})
        await played.client.send("still works")
        assert played.received == ["still works"]


@pytest.mark.parametrize(
    "options,complaint",
    [
        ({"ttl": -1}, "ttl must be more than 0"),
        ({"ttl": "1"}, "ttl must be seconds"),
        ({"on_uncertain": "drop"}, "on_uncertain must be one of 'report', 'resend'"),
        ({"key": 5}, "key must be a str"),
        ({"priority": "high"}, "priority must be an int"),
        ({"priority": 1.5}, "priority must be an int"),
        ({"confirm": "yes"}, "confirm must be True or False"),
        ({"queue": None}, "queue must be True or False"),
    ],
)
async def test_options_out_of_range_are_refused(options, complaint):
    async with stage() as played:
        with pytest.raises((TypeError, ValueError), match=complaint):
            await played.client.send("x", **options)
        assert played.received == []


async def test_a_message_over_the_bound_is_refused_and_one_of_the_bound_is_not():
    async with stage(outbox=Outbox(max_bytes=10)) as played:
        await played.client.send("x" * 10)
        with pytest.raises(MessageTooBig) as failure:
            await played.client.send("ü" * 6)
        assert (failure.value.size, failure.value.limit) == (12, 10)
        with pytest.raises(MessageTooBig):
            await played.client.request(b"x" * 11, lambda _: True, 1)


# --- back-pressure and overflow


@pytest.mark.parametrize("overflow", ["raise", "wait"])
async def test_while_open_both_mean_back_pressure(overflow):
    async with stage(outbox=Outbox(max_messages=2, overflow=overflow)) as played:
        played.peer.congest()
        for text in ("0", "1", "2"):
            await played.client.send(text)
        third, fourth = pending(played.client.send("3"), played.client.send("4"))
        await settle(5)
        assert not third.done()
        assert not fourth.done()
        played.peer.recover()
        await asyncio.gather(third, fourth)
        assert played.received == ["0", "1", "2", "3", "4"]


@pytest.mark.promise("P4")
async def test_waiting_calls_are_served_in_their_order_and_nobody_overtakes():
    async with stage(outbox=Outbox(max_messages=1, overflow="wait")) as played:
        played.peer.congest()
        calls = pending(*(played.client.send(str(number)) for number in range(10)))
        await settle()
        played.peer.recover()
        late = asyncio.ensure_future(played.client.send("late"))
        await asyncio.gather(*calls, late)
        assert played.received == [*map(str, range(10)), "late"]


@pytest.mark.promise("P4")
@pytest.mark.parametrize("overflow", ["raise", "wait", "drop_oldest", "drop_newest"])
async def test_a_later_call_does_not_overtake_those_that_wait_for_the_next_turn(overflow):
    order = []
    async with stage(outbox=Outbox(overflow=overflow, max_messages=5000)) as played:

        async def send(text):
            order.append(text)
            await played.client.send(text)

        async def send_later():
            for number in range(5):
                await asyncio.sleep(0)
                await send(f"later {number}")

        crowd = [asyncio.ensure_future(send(str(number))) for number in range(1500)]
        await asyncio.gather(*crowd, send_later())
        await played.client.flush()
        assert played.received == order


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_dropping_does_not_wait_for_one_that_must_not_wait(overflow):
    async with stage(outbox=Outbox(overflow=overflow, max_messages=5000)) as played:
        played.peer.congest()
        await played.client.send("in hand")
        unqueued = asyncio.ensure_future(played.client.send("unqueued", queue=False))
        await settle()
        async with asyncio.timeout(0.1):
            for number in range(2000):  # which takes some turns of the loop
                await played.client.send(str(number))
        assert not unqueued.done()
        played.peer.recover()
        await unqueued
        await played.client.flush()
        assert played.received == ["in hand", *map(str, range(2000)), "unqueued"]


@pytest.mark.promise("P4")
async def test_a_crowd_of_waiting_calls_needs_few_turns_of_the_loop():
    count, turns = 1000, 0
    async with stage(outbox=Outbox(max_messages=1, overflow="wait")) as played:
        played.peer.congest()
        calls = pending(*(played.client.send(str(number)) for number in range(count)))
        await settle()
        played.peer.recover()
        while not all(call.done() for call in calls):
            await asyncio.sleep(0)
            turns += 1
        assert turns < 50
        assert played.received == [str(number) for number in range(count)]


async def test_raise_raises_without_a_connection_also_for_calls_that_wait_already():
    async with stage(outbox=Outbox(max_messages=2), reconnect=SLOW) as played:
        played.peer.congest()
        for text in ("0", "1", "2"):
            await played.client.send(text)
        waiting = pending(played.client.send("3"), played.client.send("4"))
        await settle()
        played.peer.drop()
        await settle()
        for call in waiting:
            with pytest.raises(OutboxFull, match="no connection is open and the outbox is full: 2 messages"):
                await call
        with pytest.raises(OutboxFull):
            await played.client.send("5")
        assert played.client.stats.waiting == 2


@pytest.mark.parametrize("bound", [{"max_messages": 3}, {"max_bytes": 3}])
async def test_wait_waits_over_drops_until_there_is_room(bound):
    async with stage(start=False, outbox=Outbox(overflow="wait", on_uncertain="resend", **bound)) as played:
        for text in "012":
            await played.client.send(text)
        with pytest.raises(NotConnected, match=r"call start\(\)"):
            await played.client.send("3")
        played.transport.refuse(times=3)
        played.client.start()
        calls = pending(*(played.client.send(text) for text in "3456"))
        await settle(1.5)
        assert played.client.state is State.BACKOFF
        assert not any(call.done() for call in calls)
        await asyncio.gather(*calls)
        await played.client.flush()
        assert played.received == list("0123456")


@pytest.mark.parametrize(
    "overflow,kept,evicted", [("drop_oldest", "34", "012"), ("drop_newest", "01", "234")]
)
@pytest.mark.parametrize("when", ["before start", "in back-off", "congested"])
async def test_dropping_never_waits_and_tells_each_fate(overflow, kept, evicted, when):
    options = {"outbox": Outbox(max_messages=2, overflow=overflow), "reconnect": SLOW}
    async with stage(start=when != "before start", **options) as played:
        if when == "in back-off":
            played.peer.drop()
            await settle()
        elif when == "congested":
            played.peer.congest()
            await played.client.send("in hand")
        for text in "01234":
            await played.client.send(text)
        await settle()
        assert played.fates == [(text, "evicted") for text in evicted]
        assert played.client.stats.waiting == 2
        if when == "before start":
            played.client.start()
        elif when == "in back-off":
            played.client.reconnect_now()
        else:
            played.peer.recover()
        await played.client.flush()
        assert [message for message in played.received if message != "in hand"] == list(kept)


async def test_dropping_does_not_touch_what_was_written():
    options = {"outbox": Outbox(max_messages=2, overflow="drop_oldest", on_uncertain="resend")}
    async with stage(**options) as played:
        played.peer.answers_pings = PingAnswers.NONE
        for text in "abcdef":
            await played.client.send(text)
        played.peer.drop()
        await settle()
        for text in "0123":
            await played.client.send(text)
        await played.reopened()
        await played.client.flush()
        assert played.received == [*"abcdef", "2", "3"]
        assert played.fates == [("0", "evicted"), ("1", "evicted")]


async def test_a_tight_loop_of_sends_yields():
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with stage() as played:
        task = asyncio.create_task(other())
        for number in range(3000):
            await played.client.send(str(number))
        assert turns >= 5
        await asyncio.sleep(0)
        task.cancel()
        assert played.received == [str(number) for number in range(3000)]


async def test_the_first_message_of_a_turn_leaves_at_once_and_the_others_together():
    async with stage() as played:
        await asyncio.sleep(0)
        for message in ("one", "two", b"three", "vier", "fünf"):
            await played.client.send(message)
        assert played.received == ["one"]
        assert (played.client.stats.sent, played.client.stats.bytes_sent) == (5, 20)
        assert played.client.stats.unconfirmed == 5
        await asyncio.sleep(0)
        assert played.received == ["one", "two", b"three", "vier", "fünf"]
        await played.client.send("six")
        assert played.received[-1] == "six"


async def test_many_bytes_do_not_wait_for_the_end_of_the_turn():
    async with stage() as played:
        for number in range(100):
            await played.client.send(f"{number:02}" * 1000)
        assert 60 <= len(played.received) < 100
        await asyncio.sleep(0)
        assert len(played.received) == 100


@pytest.mark.promise("P4")
async def test_what_has_options_does_not_overtake_what_is_held():
    async with stage() as played:
        for number in range(9):
            await played.client.send(str(number), **({"ttl": 5} if number % 3 == 2 else {}))
        assert played.received == [str(number) for number in range(9)]
        await played.client.send("a")
        await played.client.send("b")
        await played.client.send("last", queue=False)
        assert played.received[9:] == ["a", "b", "last"]


@pytest.mark.promise("P5")
@pytest.mark.parametrize("confirm", [True, False])
async def test_what_is_held_when_a_connection_ends_waits_for_the_next_one(confirm):
    async with stage(outbox=Outbox(confirm=confirm)) as played:
        await asyncio.sleep(0)
        for message in ("one", "two", "three"):
            await played.client.send(message)
        played.client.reconnect_now()
        assert played.client.stats.waiting == 2
        assert played.received == ["one"]
        await played.reopened()
        await played.until(lambda: played.received == ["two", "three"])
        assert played.fates == ([("one", "uncertain")] if confirm else [])


@pytest.mark.promise("P5")
async def test_what_is_held_when_a_connection_ends_and_has_no_room_to_wait_is_told():
    async with stage(outbox=Outbox(max_messages=1, overflow="drop_oldest")) as played:
        await asyncio.sleep(0)
        for message in ("one", "two", "three"):
            await played.client.send(message)
        played.client.reconnect_now()
        assert played.client.stats.waiting == 1
        await played.reopened()
        await played.until(lambda: played.received == ["three"])
        assert sorted(played.fates) == [("one", "uncertain"), ("two", "evicted")]


@pytest.mark.promise("P7")
async def test_close_hands_over_what_is_held():
    async with stage() as played:
        await asyncio.sleep(0)
        for message in ("one", "two", "three"):
            await played.client.send(message)
        await played.client.close()
        assert played.received == ["one", "two", "three"]


# --- queue=False


async def test_unqueued_messages_need_an_open_connection_and_are_never_resent():
    async with stage(outbox=Outbox(on_uncertain="resend"), reconnect=SLOW) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("now or never", queue=False)
        assert played.received == ["now or never"]
        played.peer.drop()
        await settle()
        assert played.fates == [("now or never", "uncertain")]
        with pytest.raises(NotConnected):
            await played.client.send("x", queue=False)
        played.client.reconnect_now()
        await played.reopened()
        await played.client.flush()
        assert played.received == []


async def test_an_unqueued_message_that_waits_for_room_is_not_accepted_when_the_connection_ends():
    async with stage(reconnect=SLOW) as played:
        played.peer.congest()
        await played.client.send("a")
        call = asyncio.ensure_future(played.client.send("b", queue=False))
        await settle()
        assert not call.done()
        played.peer.drop()
        with pytest.raises(NotConnected):
            await call
    assert played.fates == [("a", "uncertain")]


async def test_an_unqueued_message_waits_for_what_was_accepted_before():
    async with stage() as played:
        played.peer.congest()
        await played.client.send("a")
        await played.client.send("b")
        call = asyncio.ensure_future(played.client.send("c", queue=False))
        await settle()
        played.peer.recover()
        await call
        assert played.received == ["a", "b", "c"]


# --- ttl, key, priority


async def test_what_waited_too_long_expires_at_its_time_and_is_reported():
    async with stage(start=False, outbox=Outbox(ttl=100)) as played:
        await played.client.send("long")
        await played.client.send("short", ttl=5)
        await settle(4.9)
        assert played.client.stats.waiting == 2
        await settle(0.2)
        assert played.fates == [("short", "expired")]
        assert played.client.stats.waiting == 1
        await settle(100)
        assert [fate for _, fate in played.fates] == ["expired", "expired"]
        assert [event.age for event in played.of(UndeliveredEvent)] == pytest.approx([5, 100], abs=0.01)


@pytest.mark.parametrize("stays", [0, 0.03])
def test_what_was_sent_in_another_loop_before_the_start_expires_too(stays):
    """Also if that loop is there long enough, or is slow enough, for it to expire in."""
    transport = FakeTransport()
    transport.refuse(times=None)
    client = WebSocketClient(URL, transport=transport)
    gone = []
    client.on_undelivered(lambda event: gone.append(event.message))

    async def send():
        await client.send("early", ttl=0.01)
        await asyncio.sleep(stays)

    async def run():
        client.start()
        await client.send("later", ttl=0.02)
        async with asyncio.timeout(5):
            while len(gone) < 2:
                await asyncio.sleep(0.001)
        await client.close()

    asyncio.run(send())
    asyncio.run(run())
    assert gone == ["early", "later"]


async def test_a_message_that_was_written_does_not_expire():
    async with stage(outbox=Outbox(on_uncertain="resend"), reconnect=SLOW) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("x", ttl=5)
        played.peer.drop()
        await settle(20)
        played.client.reconnect_now()
        await played.reopened()
        await played.client.flush()
        assert played.received == ["x"]
        assert played.fates == []


async def test_a_newer_message_takes_the_place_of_one_with_its_key():
    async with stage(start=False) as played:
        await played.client.send("position 1", key="position")
        await played.client.send("other")
        await played.client.send("position 2", key="position")
        played.client.start()
        await played.client.flush()
        assert played.received == ["position 2", "other"]
        assert played.fates == [("position 1", "evicted")]


async def test_a_key_makes_its_own_room():
    async with stage(start=False, outbox=Outbox(max_messages=1)) as played:
        await played.client.send("1", key="k")
        await played.client.send("2", key="k")
        with pytest.raises(OutboxFull):
            await played.client.send("3", key="other")
        assert played.client.stats.waiting == 1


async def test_higher_priorities_leave_first():
    async with stage(start=False) as played:
        for text, priority in (("a", 0), ("b", 5), ("c", -1), ("d", 5)):
            await played.client.send(text, priority=priority)
        played.client.start()
        await played.client.flush()
        assert played.received == ["b", "d", "a", "c"]


# --- use after the end


async def test_a_client_that_closes_or_has_closed_takes_nothing():
    async with stage() as played:
        played.peer.answers_close = False
        closing = asyncio.ensure_future(played.client.close())
        await settle()
        assert played.client.state is State.CLOSING
        for state in ("closing", "closed"):
            for call in (
                lambda: played.client.send("x"),
                lambda: played.client.send("x", queue=False),
                lambda: played.client.send("x", confirm=True),
                lambda: played.client.send_json({}),
                lambda: played.client.request("x", lambda _: True, 1),
                played.client.flush,
                played.client.ready,
                played.client.recv,
            ):
                with pytest.raises(ClientClosed, match=f"is {state}"):
                    await call()
            for call in (
                lambda: played.client.subscribe("k", "x"),
                lambda: played.client.unsubscribe("k"),
                played.client.reconnect_now,
                played.client.start,
            ):
                with pytest.raises(ClientClosed):
                    call()
            await closing
        assert played.received == []


async def test_it_works_the_same_without_a_kernel_that_tells():
    async with stage(FakeTransport(kernel=False)) as played:
        for number in range(100):
            await played.client.send(str(number))
        await played.client.send("last", confirm=True)
        assert len(played.received) == 101
        await asyncio.sleep(100)
        assert played.client.stats.opens == 1
