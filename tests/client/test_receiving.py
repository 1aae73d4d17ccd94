"""Taking messages: order, gaps, bounds, one consumer at a time (P4, P6, P8)."""

import asyncio
import logging

import pytest

from resilient_ws import ClientStopped, ConcurrencyError, ErrorEvent, Gap, Inbox, InboxFull, State
from resilient_ws.testing import FakeTransport
from tests.client.kit import now, settle, stage


@pytest.mark.promise("P4")
async def test_messages_come_in_order_across_connections():
    seen = []
    async with stage() as played:

        async def consume(take=seen.append):
            async for message in played.client:
                take(message)

        task = asyncio.create_task(consume())
        for number in range(30):
            played.peer.send(f"{number}a", f"{number}b".encode())
            if number % 5 == 4:
                played.peer.drop()
                await played.reopened()
        await settle()
        assert seen == [item for number in range(30) for item in (f"{number}a", f"{number}b".encode())]
    await task


async def test_recv_and_iteration_take_from_the_same_stream():
    async with stage() as played:
        played.peer.send("1", "2", "3", "4")
        assert await played.client.recv() == "1"
        async for message in played.client:
            assert message == "2"
            break
        assert await anext(played.client.with_gaps()) == "3"
        assert await played.client.recv() == "4"


STREAMS = {
    "iteration": lambda client: aiter(client),
    "with_gaps": lambda client: client.with_gaps(),
    "batches": lambda client: client.batches(),
}


@pytest.mark.promise("P8")
@pytest.mark.parametrize("name", STREAMS)
async def test_an_iterator_goes_on_after_a_step_that_was_cancelled(name):
    async with stage() as played:
        stream = STREAMS[name](played.client)
        for number in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 1)
            played.peer.send(str(number))
            assert "".join(await anext(stream)) == str(number)


@pytest.mark.promise("P11")
@pytest.mark.parametrize("name", STREAMS)
async def test_an_iterator_says_each_time_what_ended_the_client(name):
    async with stage() as played:
        stream = STREAMS[name](played.client)
        played.peer.close(1008)
        for _ in range(3):
            with pytest.raises(ClientStopped, match="1008"):
                await anext(stream)


@pytest.mark.promise("P8")
async def test_a_cancelled_recv_takes_nothing_whenever_it_is_cancelled():
    for turns in range(6):
        async with stage() as played:
            task = asyncio.create_task(played.client.recv())
            await settle()
            played.peer.send("1", "2")
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert [await played.client.recv(), await played.client.recv()] == ["1", "2"]
            else:
                assert await task == "1"
                assert await played.client.recv() == "2"


async def test_recv_with_a_time_limit_of_its_own():
    async with stage() as played:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(played.client.recv(), 5)
        played.peer.send("x")
        assert await asyncio.wait_for(played.client.recv(), 5) == "x"


# --- gaps


async def test_gaps_stand_before_the_first_message_of_the_next_connection():
    async with stage() as played:
        stream = played.client.with_gaps()
        played.peer.send("1")
        assert await anext(stream) == "1"
        played.peer.send("2")
        await settle()
        played.peer.close(1012, "restart")
        await played.reopened()
        await settle(3)
        played.peer.send("3")
        assert await anext(stream) == "2"
        gap = await anext(stream)
        assert isinstance(gap, Gap)
        assert (gap.count, gap.dropped, gap.resumed) == (1, 0, False)
        assert (gap.close.code, gap.close.reason) == (1012, "restart")
        assert gap.downtime == pytest.approx(1, abs=0.01)
        assert await anext(stream) == "3"


async def test_adjacent_gaps_merge():
    async with stage() as played:
        stream = played.client.with_gaps()
        for code in (1001, 1012, 4000):
            played.peer.close(code)
            await played.reopened()
        played.peer.send("x")
        gap = await anext(stream)
        assert (gap.count, gap.close.code) == (3, 4000)
        assert gap.downtime == pytest.approx(3, abs=0.05)
        assert await anext(stream) == "x"


async def test_there_is_no_gap_before_the_first_connection_and_none_without_a_message_after_it():
    transport = FakeTransport()
    transport.refuse(times=2)
    async with stage(transport, ready=False) as played:
        await played.until_state(State.OPEN)
        played.peer.send("1")
        stream = played.client.with_gaps()
        assert await anext(stream) == "1"
        played.peer.drop()
        await played.reopened()
        waiting = asyncio.create_task(anext(stream))
        await settle(5)
        assert not waiting.done()
        await played.client.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_recv_passes_over_gaps():
    async with stage() as played:
        played.peer.drop()
        await played.reopened()
        played.peer.send("x")
        assert await played.client.recv() == "x"
        assert played.client.stats.unread == 0


async def test_dropping_the_oldest_leaves_one_gap_in_their_place():
    async with stage(inbox=Inbox(max_messages=3, overflow="drop_oldest")) as played:
        played.peer.send(*map(str, range(10)))
        await settle()
        assert not played.peer.paused
        stream = played.client.with_gaps()
        gap = await anext(stream)
        assert (gap.dropped, gap.count, gap.close) == (7, 0, None)
        assert [await anext(stream) for _ in range(3)] == ["7", "8", "9"]
        assert played.client.stats.discarded == 7
        played.peer.send(*map(str, range(10, 15)))
        await settle()
        assert (await anext(stream)).dropped == 2
        assert await played.client.recv() == "12"


async def test_a_dropped_stretch_over_a_reconnect_is_one_gap():
    async with stage(inbox=Inbox(max_messages=2, overflow="drop_oldest")) as played:
        played.peer.send("1", "2", "3")
        await settle()
        played.peer.drop()
        await played.reopened()
        played.peer.send("4", "5")
        await settle()
        stream = played.client.with_gaps()
        gap = await anext(stream)
        assert (gap.dropped, gap.count) == (3, 1)
        assert gap.close is not None
        assert [await anext(stream), await anext(stream)] == ["4", "5"]


# --- bounds


@pytest.mark.promise("P6")
@pytest.mark.parametrize("bounds", [{"max_messages": 10}, {"max_bytes": 10}])
async def test_a_full_inbox_stops_the_reading_until_half_of_it_is_free(bounds):
    async with stage(inbox=Inbox(**bounds)) as played:
        played.peer.send(*(str(number % 10) for number in range(30)))
        await settle()
        assert played.client.stats.unread == 10
        assert played.peer.paused
        assert played.peer.unread == 20
        for _ in range(4):
            await played.client.recv()
        assert played.peer.paused
        await played.client.recv()
        await settle()
        assert played.client.stats.unread == 10
        assert [await played.client.recv() for _ in range(25)] == [
            str(number % 10) for number in range(5, 30)
        ]


@pytest.mark.promise("P6")
@pytest.mark.parametrize("room", [1, 2, 3, 4, 5])
async def test_a_small_inbox_that_was_full_reads_on_once_the_program_has_taken_all(room):
    async with stage(inbox=Inbox(max_messages=room)) as played:
        sent = [str(number) for number in range(4 * room)]
        played.peer.send(*sent)
        await settle()
        seen = []
        async with asyncio.timeout(1):
            async for message in played.client:
                seen.append(message)
                if len(seen) == len(sent):
                    break
        assert seen == sent


async def test_one_message_larger_than_the_bound_passes():
    async with stage(inbox=Inbox(max_bytes=10)) as played:
        played.peer.send("x" * 100, "y")
        await settle()
        assert played.client.stats.unread == 1
        assert await played.client.recv() == "x" * 100
        assert await played.client.recv() == "y"


async def test_a_full_inbox_stays_full_over_a_reconnect():
    async with stage(inbox=Inbox(max_messages=2)) as played:
        played.peer.send("1", "2", "lost in the network")
        await settle()
        played.client.reconnect_now()
        await played.reopened()
        played.peer.send("3", "4")
        await settle()
        assert played.peer.paused
        assert played.client.stats.unread == 2
        assert [await played.client.recv() for _ in range(4)] == ["1", "2", "3", "4"]


@pytest.mark.promise("P3")
async def test_while_we_do_not_read_a_peer_that_lives_is_not_dead():
    async with stage(inbox=Inbox(max_messages=2)) as played:
        played.peer.send(*map(str, range(10)))
        await settle(1000)
        assert played.client.state is State.OPEN
        assert played.client.stats.opens == 1
        assert [await played.client.recv() for _ in range(10)] == [*map(str, range(10))]


async def test_a_long_pause_is_told_once_a_minute_at_most(caplog):
    async with stage(inbox=Inbox(max_messages=2)) as played:

        async def fill_and_wait(seconds):
            played.peer.send("x", "x", "x", "x")
            await settle(seconds)
            for _ in range(4):
                await played.client.recv()

        await fill_and_wait(4.9)
        assert not played.of(ErrorEvent)
        await fill_and_wait(5.2)
        told = played.of(ErrorEvent)
        assert [event.where for event in told] == ["inbox"]
        assert isinstance(told[0].exception, InboxFull)
        assert "drop_oldest" in str(told[0].exception)
        for _ in range(6):
            await fill_and_wait(6)
        assert len(played.of(ErrorEvent)) == 1
        await settle(30)
        await fill_and_wait(6)
        assert len(played.of(ErrorEvent)) == 2
    warnings = [record for record in caplog.records if "has been paused" in record.message]
    assert len(warnings) == 2
    assert warnings[0].levelno == logging.WARNING


# --- one consumer at a time


@pytest.mark.parametrize("second", ["recv", "iteration", "with_gaps"])
async def test_two_consumers_at_once_are_an_error_for_the_second(second):
    async with stage() as played:
        client = played.client
        first = asyncio.create_task(client.recv())
        await settle()
        with pytest.raises(ConcurrencyError, match="another recv"):
            await {
                "recv": client.recv,
                "iteration": client.__anext__,
                "with_gaps": client.with_gaps().__anext__,
            }[second]()
        played.peer.send("x")
        assert await first == "x"
        played.peer.send("y")
        assert await client.recv() == "y"


async def test_a_second_consumer_cannot_overtake_one_that_has_just_been_woken():
    async with stage() as played:
        first = asyncio.create_task(played.client.recv())
        await settle()
        played.peer.send("1", "2")
        for _ in range(10):
            await asyncio.sleep(0)
            if not first.done():
                try:
                    got = await asyncio.wait_for(played.client.recv(), 0.001)
                except (ConcurrencyError, TimeoutError):
                    continue
                assert first.done()
                assert got == "2"
        assert await first == "1"


async def test_on_message_callbacks_are_the_consumer():
    seen = []
    async with stage() as played:
        handle = played.client.on_message(seen.append)
        for call in (played.client.recv, played.client.__anext__, played.client.with_gaps().__anext__):
            with pytest.raises(ConcurrencyError, match="on_message"):
                await call()
        played.peer.send("1")
        await settle()
        assert seen == ["1"]
        handle.remove()
        played.peer.send("2")
        assert await played.client.recv() == "2"
        assert seen == ["1"]


async def test_on_message_cannot_take_over_from_somebody_who_waits():
    async with stage() as played:
        waiting = asyncio.create_task(played.client.recv())
        await settle()
        with pytest.raises(ConcurrencyError):
            played.client.on_message(print)
        played.peer.send("x")
        assert await waiting == "x"


async def test_the_message_lane_is_serial_and_in_order_and_goes_on_over_drops():
    running, seen = [], []

    async def take(message):
        running.append(message)
        assert len(running) == 1
        await asyncio.sleep(0.3)
        seen.append(message)
        running.remove(message)

    async with stage(on_message=take) as played:
        played.peer.send("1", "2", "3")
        await settle()
        played.peer.drop()
        await played.reopened()
        played.peer.send("4")
        await settle(3)
        assert seen == ["1", "2", "3", "4"]


async def test_several_callbacks_see_each_message_in_the_order_of_their_registration():
    seen = []
    async with stage() as played:
        played.client.on_message(lambda message: seen.append(("a", message)))

        @played.client.on_message
        async def second(message):
            seen.append(("b", message))

        played.peer.send("1", "2")
        await settle()
        assert seen == [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2")]


async def test_removing_a_callback_while_it_runs_lets_it_finish():
    seen = []

    async def take(message):
        await asyncio.sleep(1)
        seen.append(message)

    async with stage() as played:
        handle = played.client.on_message(take)
        played.peer.send("1", "2")
        await settle(0.5)
        handle.remove()
        await settle(5)
        assert seen == ["1"]
        assert await played.client.recv() == "2"


async def test_a_callback_that_removes_itself_and_stays_does_not_hold_close():
    async def take(message):
        handle.remove()
        await asyncio.sleep(1000)

    async with stage(close_timeout=2) as played:
        handle = played.client.on_message(take)
        played.peer.send("1", "2")
        await settle()
        assert await played.client.recv() == "2"
        await played.client.close()
        assert now() <= 2.3
        await settle(0.2)
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith("resilient_ws")]
        assert not left


async def test_a_callback_that_is_replaced_while_it_runs_keeps_the_order():
    seen = []

    async def slow(message):
        await asyncio.sleep(1)
        seen.append(("slow", message))

    async with stage() as played:
        handle = played.client.on_message(slow)
        played.peer.send("1", "2")
        await settle(0.5)
        handle.remove()
        played.client.on_message(lambda message: seen.append(("quick", message)))
        await settle(5)
        assert seen == [("slow", "1"), ("quick", "2")]


async def test_messages_before_the_first_callback_are_not_lost():
    seen = []
    async with stage() as played:
        played.peer.send("1", "2")
        await settle()
        played.client.on_message(seen.append)
        played.peer.send("3")
        await settle()
        assert seen == ["1", "2", "3"]


async def test_a_slow_message_callback_stops_the_reading_and_nothing_else():
    async def take(message):
        await asyncio.sleep(100)

    async with stage(on_message=take, inbox=Inbox(max_messages=3), close_timeout=1) as played:
        played.peer.send(*map(str, range(20)))
        await settle(50)
        assert played.peer.paused
        assert played.client.stats.unread <= 3
        assert len(played.peer.pings) == 4
        assert played.client.state is State.OPEN


async def test_a_client_that_has_ended_gives_the_rest_to_its_callbacks():
    seen = []

    async def take(message):
        await asyncio.sleep(0.1)
        seen.append(message)

    async with stage(on_message=take) as played:
        played.peer.send("1", "2", "3")
        played.peer.close(1008)
        await settle(1)
        assert seen == ["1", "2", "3"]
        with pytest.raises(ConcurrencyError):
            await played.client.recv()
        with pytest.raises(ClientStopped):
            await played.client.ready()
