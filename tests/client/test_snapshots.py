"""`SnapshotThenDeltas`: a state that is never silently wrong, whatever the line does."""

import asyncio
import json

import pytest
from tenacity import wait_fixed

from resilient_ws import (
    ClientStopped,
    Delta,
    Gap,
    Inbox,
    ReconnectPolicy,
    Snapshot,
    SnapshotOutdated,
    SnapshotThenDeltas,
    Stale,
    State,
    Stop,
)
from tests.client.kit import now, settle, stage


class Feed:
    """What a test says that `fetch_snapshot` does, and the iteration over it."""

    def __init__(self, client, **options):
        self.fetched_at = []
        self.answers = []  # the next sequences, exceptions or futures of them
        self.iterator = SnapshotThenDeltas(
            client,
            **{
                "fetch_snapshot": self.fetch,
                "parse": json.loads,
                "sequence": lambda delta: delta["n"],
                "snapshot_sequence": lambda book: book["n"],
            }
            | options,
        )

    async def fetch(self):
        self.fetched_at.append(now())
        answer = self.answers.pop(0)
        await asyncio.sleep(0)
        if isinstance(answer, asyncio.Future):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return {"n": answer}

    async def take(self, count=1):
        """Take so many items, in short."""
        return [short(await asyncio.wait_for(anext(self.iterator), 100)) for _ in range(count)]


def short(item):
    match item:
        case Snapshot(value, sequence):
            assert value == {"n": sequence}
            return f"book {sequence}"
        case Delta(value, sequence):
            assert value["n"] == sequence or value["n"][1] == sequence
            return sequence
        case Stale():
            return "stale"
        case Gap():
            return f"gap {item.missing}"


def deltas(*numbers):
    return [json.dumps({"n": number}) for number in numbers]


async def test_deltas_are_buffered_and_those_in_the_snapshot_are_dropped():
    async with stage() as played:
        feed = Feed(played.client)
        book = asyncio.get_running_loop().create_future()
        feed.answers = [book]
        first = asyncio.ensure_future(feed.take())
        await settle()
        played.peer.send(*deltas(5, 6, 7, 8, 9))
        await settle()
        assert len(feed.iterator._buffer) == 5, "it reads on, so that the server is not held up"
        assert not feed.iterator.is_synced
        book.set_result(7)
        assert await first == ["book 7"]
        assert feed.iterator.is_synced
        assert await feed.take(2) == [8, 9]
        played.peer.send(*deltas(10))
        assert await feed.take() == [10]
        assert len(feed.fetched_at) == 1


async def test_a_snapshot_that_is_ahead_of_the_deltas_waits_for_them():
    async with stage() as played:
        feed = Feed(played.client)
        feed.answers = [7]
        assert await feed.take() == ["book 7"]
        played.peer.send(*deltas(5, 6, 7, 8))
        assert await feed.take() == [8]


async def test_deltas_may_be_ranges_and_what_is_sent_twice_is_dropped():
    async with stage() as played:
        feed = Feed(played.client, sequence=lambda delta: tuple(delta["n"]))
        feed.answers = [7]
        played.peer.send(*deltas([1, 3], [4, 9], [4, 9], [8, 9], [10, 12], [13, 13]))
        assert await feed.take(4) == ["book 7", 9, 12, 13]


async def test_other_messages_are_passed_over():
    async with stage() as played:
        feed = Feed(
            played.client,
            parse=lambda message: None if message == "hello" else json.loads(message),
            sequence=lambda delta: delta.get("n"),
        )
        feed.answers = [0]
        played.peer.send("hello", "{}", *deltas(1), "hello", '{"other": 1}', *deltas(2))
        assert await feed.take(3) == ["book 0", 1, 2]


async def test_a_missing_number_is_told_and_mended():
    async with stage() as played:
        feed = Feed(played.client)
        feed.answers = [0, 4]
        played.peer.send(*deltas(1, 2, 5, 6))
        assert await feed.take(3) == ["book 0", 1, 2]
        gap = await anext(feed.iterator)
        assert (gap.missing, gap.count, gap.dropped, gap.surely_lost) == (2, 0, 0, True)
        assert (gap.close, gap.cause) == (None, None)
        assert not feed.iterator.is_synced
        assert await feed.take(3) == ["book 4", 5, 6]


@pytest.mark.promise("P2")
async def test_after_a_lost_connection_it_is_stale_at_once_and_then_there_is_a_gap_and_a_new_snapshot():
    async with stage() as played:
        feed = Feed(played.client)
        feed.answers = [0, 41]
        played.peer.send(*deltas(1, 2))
        assert await feed.take(3) == ["book 0", 1, 2]
        waiting = asyncio.ensure_future(anext(feed.iterator))
        cause = ConnectionResetError("by the test")
        dropped_at = now()
        played.peer.drop(cause)
        stale = await waiting
        assert now() == dropped_at
        assert stale == Stale(played.client.close_event)
        assert stale.cause is cause
        assert not feed.iterator.is_synced
        gap = await anext(feed.iterator)
        assert now() == pytest.approx(dropped_at + 1, abs=0.01), "as soon as the next connection is open"
        played.peer.send(*deltas(42))
        assert (gap.count, gap.missing, gap.surely_lost) == (1, 0, False)
        assert gap.cause is cause
        assert gap.downtime == pytest.approx(1, abs=0.01)
        assert await feed.take(2) == ["book 41", 42]
        assert len(feed.fetched_at) == 2


async def test_a_numbering_that_begins_anew_is_taken_over_with_the_new_snapshot():
    async with stage() as played:
        feed = Feed(played.client)
        feed.answers = [1000, 1]
        assert await feed.take() == ["book 1000"]
        played.peer.drop()
        await played.reopened()
        played.peer.send(*deltas(1, 2))
        assert await feed.take(4) == ["stale", "gap 0", "book 1", 2]


async def test_a_connection_that_is_lost_while_a_snapshot_is_fetched_asks_for_another():
    async with stage() as played:
        feed = Feed(played.client)
        book = asyncio.get_running_loop().create_future()
        feed.answers = [book, 1]
        first = asyncio.ensure_future(feed.take(2))
        played.peer.send(*deltas(998, 999, 1001))
        await settle()
        played.peer.drop()
        await played.reopened()
        played.peer.send(*deltas(1, 2))
        await settle()
        book.set_result(1000)
        assert await first == ["book 1", 2], "the first snapshot may be of another numbering"
        assert len(feed.fetched_at) == 2


async def test_a_state_is_not_right_from_the_instant_of_the_loss_on_whatever_has_not_been_taken_yet():
    async with stage() as played:
        feed = Feed(played.client)
        feed.answers = [0, 41]
        assert await feed.take() == ["book 0"]
        played.peer.send(*deltas(1, 2, 3))
        await settle()
        assert await feed.take() == [1]
        assert feed.iterator.is_synced
        played.peer.drop()
        seen = []
        while played.client.state is State.OPEN:
            seen.append(feed.iterator.is_synced)
            await asyncio.sleep(0)
        assert not feed.iterator.is_synced
        await played.reopened()
        played.peer.send(*deltas(42))
        await settle()
        for expected in (2, 3, "stale", "gap 0"):
            assert not feed.iterator.is_synced
            assert await feed.take() == [expected]
        assert not feed.iterator.is_synced
        assert await feed.take() == ["book 41"]
        assert feed.iterator.is_synced
        assert await feed.take() == [42]


@pytest.mark.parametrize("outages", [1, 2, 5])
async def test_no_snapshot_is_fetched_while_there_is_no_connection(outages):
    async with stage() as played:
        feed = Feed(played.client, retry_delay=0.01)
        feed.answers = [0, 41]
        assert await feed.take() == ["book 0"]
        played.peer.drop()
        assert await feed.take() == ["stale"]
        played.transport.refuse(times=outages)
        step = asyncio.ensure_future(feed.take())
        await played.reopened()
        assert len(feed.fetched_at) == 1
        assert await step == ["gap 0"]
        assert await feed.take() == ["book 41"]


async def test_a_loss_while_it_waits_for_a_connection_asks_for_one_snapshot_only():
    async with stage() as played:
        feed = Feed(played.client, retry_delay=0.01)
        feed.answers = [0, 41]
        assert await feed.take() == ["book 0"]
        for _ in range(4):
            played.peer.drop()
            await played.reopened()
        assert await feed.take(3) == ["stale", "gap 0", "book 41"]
        assert len(feed.fetched_at) == 2


async def test_what_the_inbox_drops_is_a_gap():
    async with stage(inbox=Inbox(max_messages=2, overflow="drop_oldest")) as played:
        feed = Feed(played.client)
        feed.answers = [0, 6]
        assert await feed.take() == ["book 0"]
        played.peer.send(*deltas(1, 2, 3, 4, 5, 6, 7))
        await settle()
        gap = await anext(feed.iterator)
        assert (gap.dropped, gap.surely_lost) == (5, True)
        assert await feed.take(2) == ["book 6", 7]


# ------------------------------------------------------------------------------------------------ snapshots that do not fit


async def test_a_snapshot_that_is_too_old_is_fetched_again_after_a_while():
    async with stage() as played:
        feed = Feed(played.client, retry_delay=3)
        feed.answers = [5, 6, 10]
        played.peer.send(*deltas(9, 10, 11))
        await settle()  # they are there before the snapshot is
        began = now()
        assert await feed.take(2) == ["book 10", 11]
        assert feed.fetched_at == pytest.approx([began, began + 3, began + 6])


async def test_too_old_too_often_is_an_error_that_says_so():
    async with stage() as played:
        feed = Feed(played.client, max_failures=3)
        feed.answers = [5, 6, 7, 8]
        played.peer.send(*deltas(9))
        await settle()
        with pytest.raises(
            SnapshotOutdated, match="ends with 7, and one that ends with 8 or later"
        ) as outdated:
            await feed.take()
        assert (outdated.value.sequence, outdated.value.needed) == (7, 8)
        assert await feed.take(2) == ["book 8", 9], "it can go on"


async def test_a_fetch_that_fails_is_tried_again():
    async with stage() as played:
        feed = Feed(played.client, max_failures=3, retry_delay=2)
        feed.answers = [OSError("1"), OSError("2"), 0, OSError("3"), OSError("4"), 2]
        began = now()
        assert await feed.take() == ["book 0"]
        played.peer.send(*deltas(2))
        assert await feed.take(2) == ["gap 1", "book 2"], "the count begins anew"
        assert feed.fetched_at == pytest.approx([began + 2 * number for number in range(6)])


async def test_a_fetch_that_fails_too_often_raises_what_it_raised():
    async with stage() as played:
        feed = Feed(played.client, max_failures=2)
        feed.answers = [OSError("1"), OSError("2"), 0]
        with pytest.raises(OSError, match="^2$"):
            await feed.take()
        assert await feed.take() == ["book 0"]


async def test_a_fetch_may_fail_without_end():
    async with stage() as played:
        feed = Feed(played.client, max_failures=None)
        feed.answers = [*(OSError(str(number)) for number in range(50)), 0]
        assert await feed.take() == ["book 0"]


@pytest.mark.promise("P10")
async def test_gaps_in_quick_succession_make_no_storm_of_fetches():
    async with stage(reconnect=ReconnectPolicy(wait=wait_fixed(0.01), min_delay=0)) as played:
        feed = Feed(played.client, retry_delay=5)
        feed.answers = list(range(0, 1000, 2))
        began = now()

        async def follow():
            async for _ in feed.iterator:
                pass

        following = asyncio.ensure_future(follow())
        for _ in range(100):
            played.peer.send(*deltas(0))
            await settle(0.1)
            played.peer.drop()
            await played.reopened()
        assert len(feed.fetched_at) <= (now() - began) / 5 + 1
    await following


async def test_a_snapshot_may_be_asked_for_through_the_client():
    async with stage() as played:

        async def fetch():
            answer = await played.client.request("book?", lambda message: "book" in message, 10)
            return json.loads(answer)

        def serve(peer):
            peer.on_message = lambda _: peer.send(json.dumps({"book": 1, "n": 3}))

        feed = Feed(played.client, fetch_snapshot=fetch, snapshot_sequence=lambda book: book["n"])
        first = asyncio.ensure_future(anext(feed.iterator))
        await settle()
        assert played.received == ["book?"]
        played.peer.drop()
        await settle()
        played.transport._on_peer = serve
        await played.reopened()
        await settle(1)
        assert first.done(), "it asks again when there is a connection"
        played.peer.send(*deltas(4))
        assert await first == Snapshot({"book": 1, "n": 3}, 3)
        assert await feed.take() == [4]


# ------------------------------------------------------------------------------------------------ bounds


@pytest.mark.promise("P6")
async def test_the_buffer_is_bounded_and_what_it_dropped_is_noticed():
    async with stage() as played:
        feed = Feed(played.client, max_buffered=3)
        book = asyncio.get_running_loop().create_future()
        feed.answers = [book, 7]
        first = asyncio.ensure_future(feed.take(3))
        await settle()
        played.peer.send(*deltas(*range(1, 10)))
        await settle()
        assert len(feed.iterator._buffer) == 3
        book.set_result(4)
        assert await first == ["book 7", 8, 9]


async def test_a_snapshot_that_covers_what_the_buffer_dropped_will_do():
    async with stage() as played:
        feed = Feed(played.client, max_buffered=3)
        book = asyncio.get_running_loop().create_future()
        feed.answers = [book]
        first = asyncio.ensure_future(feed.take(3))
        await settle()
        played.peer.send(*deltas(*range(1, 10)))
        await settle()
        book.set_result(7)
        assert await first == ["book 7", 8, 9]


async def test_numbers_that_only_grow_have_no_holes():
    async with stage() as played:
        feed = Feed(played.client, consecutive=False)
        feed.answers = [15]
        played.peer.send(*deltas(10, 20, 70, 70, 60, 90))
        assert await feed.take(4) == ["book 15", 20, 70, 90]


@pytest.mark.promise("P6")
async def test_numbers_that_only_grow_do_not_hide_what_the_buffer_dropped():
    async with stage() as played:
        feed = Feed(played.client, consecutive=False, max_buffered=2)
        book = asyncio.get_running_loop().create_future()
        feed.answers = [book, 30]
        first = asyncio.ensure_future(feed.take(2))
        await settle()
        played.peer.send(*deltas(10, 20, 40))
        await settle()
        book.set_result(5)
        assert await first == ["book 30", 40]


# ------------------------------------------------------------------------------------------------ ends


@pytest.mark.promise("P8")
@pytest.mark.parametrize("when", ["while it fetches", "before its turn", "while it waits for a delta"])
async def test_a_cancelled_step_loses_nothing(when):
    async with stage() as played:
        feed = Feed(played.client)
        never = asyncio.get_running_loop().create_future()
        feed.answers = [never, 0] if when == "while it fetches" else [0]
        expected = ["book 0", 1, 2]
        if when == "before its turn":
            feed.answers = [OSError(), 0]
        elif when == "while it waits for a delta":
            assert await feed.take() == [expected.pop(0)]
        step = asyncio.ensure_future(anext(feed.iterator))
        await settle()
        played.peer.send(*deltas(1) if expected[0] == "book 0" else [])
        await settle()
        step.cancel()
        played.peer.send(*deltas(2) if expected[0] == "book 0" else deltas(1, 2))
        with pytest.raises(asyncio.CancelledError):
            await step
        assert await feed.take(len(expected)) == expected


async def test_it_ends_quietly_when_we_close():
    async with stage() as played:
        feed = Feed(played.client)
        feed.answers = [0, 1, 2]
        assert await feed.take() == ["book 0"]
        played.peer.send(*deltas(1))
        await settle()
        await played.client.close()
        assert [short(item) async for item in feed.iterator] == [1]
        assert [short(item) async for item in feed.iterator] == []


async def test_it_ends_quietly_when_we_close_while_it_fetches():
    async with stage() as played:
        feed = Feed(played.client, max_failures=1)
        book = asyncio.get_running_loop().create_future()
        feed.answers = [book]
        rest = asyncio.ensure_future(feed.take())
        await settle()
        await played.client.close()
        book.set_exception(OSError("no network"))
        with pytest.raises(StopAsyncIteration):
            await rest


@pytest.mark.promise("P11")
async def test_it_raises_what_ended_the_client():
    async with stage(reconnect=ReconnectPolicy(decide=lambda _: Stop("enough"))) as played:
        feed = Feed(played.client)
        feed.answers = [0]
        assert await feed.take() == ["book 0"]
        played.peer.drop()
        with pytest.raises(ClientStopped, match="enough"):
            await feed.take()


async def test_what_the_functions_of_the_program_raise_reaches_it():
    async with stage() as played:
        feed = Feed(played.client)
        feed.answers = [0]
        assert await feed.take() == ["book 0"]
        played.peer.send("no JSON", *deltas(1))
        with pytest.raises(json.JSONDecodeError):
            await feed.take()
        assert await feed.take() == [1]


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"fetch_snapshot": 1}, "fetch_snapshot must be callable, got int"),
        ({"parse": Feed.fetch}, "parse must not be async"),
        ({"sequence": None}, "sequence must be callable, got NoneType"),
        ({"snapshot_sequence": Feed.fetch}, "snapshot_sequence must not be async"),
        ({"max_buffered": 0}, "max_buffered must be 1 or more, got 0"),
        ({"retry_delay": -1}, "retry_delay must be 0 or more and finite, got -1"),
        ({"max_failures": 0}, "max_failures must be 1 or more, got 0"),
    ],
)
async def test_the_arguments_are_checked(options, complaint):
    async with stage(start=False) as played:
        with pytest.raises((TypeError, ValueError), match=complaint):
            Feed(played.client, **options)
