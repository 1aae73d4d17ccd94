"""What peers make of our pings, and what may be believed of it: late, out of step, only the last, wrong, unasked, never."""

import asyncio
import contextlib

import pytest

from resilient_ws import CloseOrigin, Fate, Heartbeat, Inbox, InboxFull, Outbox, OutboxFull
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import answering, now, settle, stage

EAGER = Outbox(confirm_interval=0.1)


async def sent_with_a_ping_each(played, *messages):
    """Send messages to a peer that answers nothing by itself, each covered by a ping of its own; return those pings."""
    played.peer.answers_pings = PingAnswers.NONE
    pings = []
    for message in messages:
        await played.client.send(message)
        before = len(played.peer.pings)
        played.client._supervisor.active.pinger._ping()
        pings.append(played.peer.pings[before])
    return pings


# ------------------------------------------------------------------------------------------------ late and out of step


@pytest.mark.promise("P5")
async def test_a_late_pong_confirms_what_was_written_before_its_ping_and_nothing_later():
    async with stage(outbox=EAGER) as played:
        await settle()
        played.peer.pong_delay = 5
        await played.client.send("a")
        await settle(0.2)
        await played.client.send("b")
        assert played.client.stats.unconfirmed == 2
        await settle(5)
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (1, 1)
        played.peer.drop()
        await played.until(lambda: played.fates)
        assert played.fates == [("b", Fate.UNCERTAIN)]


@pytest.mark.promise("P5")
async def test_pongs_out_of_step_confirm_what_the_latest_of_them_covers():
    async with stage() as played:
        first, second, third = await sent_with_a_ping_each(played, "a", "b", "c")
        played.peer.pong(second)
        await settle()
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (2, 1)
        played.peer.pong(first)
        played.peer.pong(second)
        await settle()
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (2, 1)
        played.peer.pong(third)
        played.peer.pong(third)
        await settle()
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (3, 0)


@pytest.mark.promise("P5")
async def test_only_the_last_ping_is_answered_and_that_is_enough():
    async with stage(outbox=EAGER, heartbeat=Heartbeat(interval=1, timeout=10)) as played:
        played.peer.answers_pings = PingAnswers.NONE

        async def answer_the_last():
            while True:
                await settle(3.5)
                played.peer.pong(played.peer.pings[-1])

        answering = asyncio.ensure_future(answer_the_last())
        for number in range(20):
            await played.client.send(str(number))
            await settle(0.5)
        await played.client.flush(timeout=30)
        answering.cancel()
        assert played.client.stats.confirmed == 20
        assert played.client.stats.opens == 1
        assert len(played.peer.pings) > 10


@pytest.mark.promise("P5")
async def test_what_is_written_while_a_ping_is_on_its_way_gets_the_next_one_when_the_interval_is_over():
    async with stage(outbox=Outbox(confirm_interval=1), heartbeat=1000) as played:
        await settle()
        played.peer.pong_delay = 0.5
        await played.client.send("a")
        await settle(1.2)
        await played.client.send("b")
        await settle(0.7)
        assert (len(played.peer.pings), played.client.stats.confirmed) == (2, 1)
        await settle(0.2)
        assert len(played.peer.pings) == 3
        await settle(0.5)
        assert played.client.stats.confirmed == 2


@pytest.mark.promise("P5")
@pytest.mark.parametrize(
    "heartbeat", [None, Heartbeat.expect(600), Heartbeat(interval=5, timeout=60, pong_timeout=None)]
)
async def test_a_ping_that_is_never_answered_is_not_the_last_one(heartbeat):
    async with stage(outbox=Outbox(confirm=True, confirm_interval=0.1), heartbeat=heartbeat) as played:
        await played.client.send("a", confirm=True)
        played.peer.answers_pings = PingAnswers.NONE
        flushing = asyncio.ensure_future(played.client.flush())
        await settle()
        await flushing
        sending = asyncio.ensure_future(played.client.send("b", confirm=True))
        await settle(1)
        played.peer.answers_pings = PingAnswers.ALL
        await asyncio.wait_for(sending, 100)
        assert played.client.stats.opens == 1


@pytest.mark.promise("P5")
async def test_a_ping_leaves_behind_what_it_covers_also_in_the_turn_in_which_that_was_sent(
    monkeypatch,
):
    async with stage(heartbeat=1000) as played:
        heard, hear = [], played.peer._hear
        monkeypatch.setattr(played.peer, "_hear", lambda frame: (heard.append(frame.kind), hear(frame)))
        for text in "abc":
            await played.client.send(text)
        await played.client.flush()
        assert heard == ["message", "message", "message", "ping"]


@pytest.mark.promise("P5")
async def test_a_ping_that_was_asked_for_begins_the_interval_anew():
    async with stage(outbox=Outbox(confirm_interval=3), heartbeat=1000) as played:
        await played.client.send("a")
        await settle(1)
        await played.client.flush()
        await played.client.send("b")
        await settle(2.9)
        assert len(played.peer.pings) == 2
        await settle(0.2)
        assert (len(played.peer.pings), played.client.stats.confirmed) == (3, 2)


@pytest.mark.promise("P5")
async def test_the_last_ping_leaves_though_one_before_it_is_not_answered():
    async with stage() as played:
        await settle()
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        with pytest.raises(TimeoutError):
            await played.client.flush(timeout=1)
        played.peer.answers_pings = PingAnswers.ALL
        await played.client.send("b")
        await played.client.close()
        assert (played.client.stats.confirmed, played.client.stats.uncertain) == (2, 0)
        assert len(played.peer.pings) == 3


# ------------------------------------------------------------------------------------------------ wrong and unasked


@pytest.mark.promise("P5")
async def test_pongs_that_nobody_asked_for_say_nothing():
    async with stage() as played:
        (ping,) = await sent_with_a_ping_each(played, "a")
        tag, number = ping[:4], int.from_bytes(ping[4:])
        strange = [
            b"",
            b"\0" * 8,
            b"x" * 125,
            ping[:-1],
            ping + b"\0",
            tag + (number + 1).to_bytes(4),
            tag + b"\xff" * 4,
            bytes(reversed(ping)),
            b"\0\0\0\0" + ping[4:],
        ]
        for payload in strange:
            played.peer.pong(payload)
        await settle()
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (0, 1)
        played.peer.pong(ping)
        await settle()
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (1, 0)
        for payload in (*strange, ping):
            played.peer.pong(payload)
        await played.client.send("b")
        await settle()
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (1, 1)


@pytest.mark.promise("P5")
async def test_the_pong_for_another_connection_says_nothing_about_this_one():
    async with stage() as played:
        (old,) = await sent_with_a_ping_each(played, "a")
        played.peer.drop()
        await played.reopened()
        (new,) = await sent_with_a_ping_each(played, "b")
        assert old != new
        played.peer.pong(old)
        await settle()
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (0, 1)
        assert played.fates == [("a", Fate.UNCERTAIN)]
        played.peer.pong(new)
        await settle()
        assert played.client.stats.confirmed == 1


# ------------------------------------------------------------------------------------------------ never


@pytest.mark.promise("P5")
@pytest.mark.parametrize("answers", [PingAnswers.NONE, PingAnswers.WRONG])
async def test_a_peer_that_talks_and_never_answers_turns_confirmation_off_in_time(answers):
    async with stage(
        answering(answers), outbox=EAGER, heartbeat=Heartbeat(interval=15, timeout=10)
    ) as played:
        played.transport._on_peer = None
        await played.client.send("a")
        while played.client.stats.confirmation == "on":
            assert now() < 12
            played.peer.send("alive")
            await settle(0.5)
        assert now() >= 10
        await played.client.send("b")
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (2, 0)
        await played.client.flush(timeout=1)
        played.peer.drop()
        peer = await played.reopened()
        assert played.fates == []
        await played.client.send("c", confirm=True)
        assert list(peer.received) == ["c"], "it is off for that connection only"


@pytest.mark.promise("P5")
async def test_a_peer_whose_pong_may_stand_behind_what_nobody_takes_is_not_one_that_answers_no_pings():
    async with stage(
        answering(PingAnswers.NONE),
        outbox=EAGER,
        inbox=Inbox(max_messages=10),
        heartbeat=Heartbeat(5, 10, pong_timeout=None),
    ) as played:
        await played.client.send("a")
        played.peer.send(*map(str, range(500)))
        for _ in range(30):
            await settle(1)
            await played.client.recv()
            await played.client.recv()
        assert played.client.stats.confirmation == "on"
        assert played.client.stats.unconfirmed == 1
        played.peer.pong(played.peer.pings[-1])
        for _ in range(440):
            await played.client.recv()
        await settle()
        assert played.client.stats.confirmed == 1


@pytest.mark.promise("P5")
async def test_a_peer_that_has_not_got_the_ping_yet_is_not_one_that_answers_no_pings():
    async with stage(heartbeat=Heartbeat(5, 10, pong_timeout=None)) as played:
        played.peer.congest()
        await played.client.send("a")
        for _ in range(30):
            played.peer.send("alive")
            await played.client.recv()
            await settle(1)
        assert played.client.stats.confirmation == "on"
        played.peer.recover()
        await played.client.flush(timeout=1)
        assert played.client.stats.confirmed == 1


@pytest.mark.promise("P6")
async def test_pings_that_are_never_answered_are_not_remembered_for_ever():
    async with stage(heartbeat=Heartbeat(1, 10, pong_timeout=None)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        for _ in range(300):
            played.peer.send("alive")
            await played.client.recv()
            await settle(0.5)
        assert len(played.peer.pings) > 140
        assert len(played.client._supervisor.active.pinger._outstanding) <= 64


@pytest.mark.promise("P2")
@pytest.mark.promise("P5")
async def test_a_peer_that_never_answers_and_says_nothing_is_dead_and_its_messages_are_uncertain():
    async with stage(outbox=EAGER, heartbeat=Heartbeat(interval=15, timeout=10)) as played:
        played.peer.go_silent()
        await played.client.send("a")
        await played.until(lambda: played.closes)
        assert played.closes[0].origin is CloseOrigin.HEARTBEAT
        assert played.closes[0].uncertain == 1
        await played.until(lambda: played.fates)
        assert played.fates == [("a", Fate.UNCERTAIN)]


# ------------------------------------------------------------------------------------------------ behind a backlog


@pytest.mark.promise("P5")
async def test_a_pong_behind_a_long_backlog_comes_when_the_program_takes_the_messages():
    async with stage(inbox=Inbox(max_messages=10), outbox=EAGER, heartbeat=Heartbeat(5, 5)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        await played.client.send("a")
        await settle(0.2)
        played.peer.send(*map(str, range(500)))
        played.peer.pong(played.peer.pings[-1])
        played.peer.answers_pings = PingAnswers.ALL
        await settle(60)
        assert played.client.stats.unconfirmed == 1, "the PONG stands behind what nobody takes"
        assert played.client.stats.opens == 1
        assert len(played.client._supervisor.inbox) <= 20
        taken = []
        flushing = asyncio.ensure_future(played.client.flush())
        async for message in played.client:
            taken.append(message)
            await settle(0.01)
            if len(taken) == 500:
                break
        with_the_backlog_gone = await asyncio.gather(flushing, return_exceptions=True)
        assert taken == [str(number) for number in range(500)]
        await played.client.flush(timeout=5)
        assert played.client.stats.confirmed == 1
        assert with_the_backlog_gone == [None] or isinstance(with_the_backlog_gone[0], InboxFull)


@pytest.mark.promise("P5")
@pytest.mark.parametrize("backlog", [5, 500])
async def test_a_consumer_may_flush_inside_its_own_iteration_whatever_stands_before_the_pong(backlog):
    async with stage(inbox=Inbox(max_messages=1000), outbox=EAGER) as played:
        played.peer.pong_delay = 0.05
        played.peer.send(*map(str, range(backlog)))
        taken = []
        async for message in played.client:
            taken.append(message)
            await played.client.send(message)
            await played.client.flush(timeout=10)
            assert played.received[-1] == message
            if len(taken) == backlog:
                break
        assert played.client.stats.confirmed == backlog


# ------------------------------------------------------------------------------------------------ bounds


def silent_after_one(peer):
    """A peer that proves once that it can answer, and then never does."""
    pings = peer.pings

    def answer(_):
        if len(pings) == 1:
            peer.pong(pings[0])

    peer.answers_pings = PingAnswers.NONE
    peer.on_message = answer


PEERS = {
    "answers": lambda peer: None,
    "never": lambda peer: setattr(peer, "answers_pings", PingAnswers.NONE),
    "wrong": lambda peer: setattr(peer, "answers_pings", PingAnswers.WRONG),
    "late": lambda peer: setattr(peer, "pong_delay", 7),
    "only the last": lambda peer: (
        setattr(peer, "answers_pings", PingAnswers.LATEST),
        setattr(peer, "pong_delay", 20),
    ),
    "once": silent_after_one,
}


@pytest.mark.promise("P6")
@pytest.mark.parametrize("bound", ["messages", "bytes"])
@pytest.mark.parametrize("on_uncertain", ["report", "resend"])
@pytest.mark.parametrize("talks", [True, False])
@pytest.mark.parametrize("kind", PEERS)
async def test_what_is_unconfirmed_is_bounded_whatever_the_peer_does(
    kind, talks, on_uncertain, bound, monkeypatch
):
    monkeypatch.setattr("resilient_ws.core.in_flight.UNCONFIRMED_MESSAGES", 40)
    monkeypatch.setattr("resilient_ws.core.delivery.UNCONFIRMED_MESSAGES", 40)
    size = 1 if bound == "messages" else 100
    options = {"max_messages": 20, "max_bytes": 10**6} if bound == "messages" else {"max_bytes": 2000}
    async with stage(
        FakeTransport(PEERS[kind]),
        outbox=Outbox(confirm_interval=0.5, on_uncertain=on_uncertain, **options),
        heartbeat=Heartbeat(interval=15, timeout=10, pong_timeout=30),
    ) as played:
        queue = played.client._supervisor.sender.queue

        async def send():
            while True:
                with contextlib.suppress(OutboxFull):  # no connection is open, and the outbox is full
                    await played.client.send("x" * size)
                assert queue.unconfirmed <= 40
                assert queue.unconfirmed_bytes <= options["max_bytes"]
                assert queue.waiting <= 20 + 40  # what is to be sent again has the bounds of the unconfirmed
                assert queue.waiting_bytes <= 2 * options["max_bytes"]
                await settle(0.05)

        senders = [asyncio.ensure_future(send()) for _ in range(5)]
        until = now() + 120
        while now() < until:
            if talks and played.peer.is_open:
                played.peer.send("alive")
                await played.client.recv()
            await settle(0.25)
        assert played.client.stats.sent > 40
        assert not any(sender.done() for sender in senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


@pytest.mark.promise("P6")
@pytest.mark.promise("P8")
async def test_a_tight_loop_of_sends_neither_starves_the_program_nor_grows():
    async with stage() as played:
        queue = played.client._supervisor.sender.queue
        turns = most = 0

        async def tick():
            nonlocal turns, most
            while True:
                await asyncio.sleep(0)
                turns += 1
                most = max(most, queue.unconfirmed)

        ticking = asyncio.ensure_future(tick())
        for number in range(100_000):
            await played.client.send(str(number))
        ticking.cancel()
        await played.client.flush(timeout=10)
        assert played.received == [str(number) for number in range(100_000)]
        assert played.client.stats.confirmed == 100_000
        assert turns > 100
        assert most <= 65_536


# ------------------------------------------------------------------------------------------------ whatever the heartbeat

QUIET = [Heartbeat.expect(8), Heartbeat.app("ping!", "pong!".__eq__, 600), None]


@pytest.mark.promise("P5")
@pytest.mark.parametrize("heartbeat", [*QUIET, Heartbeat()])
@pytest.mark.parametrize("whose", ["outbox", "message"])
async def test_resend_sends_again_whatever_the_heartbeat(heartbeat, whose):
    outbox = Outbox(on_uncertain="resend") if whose == "outbox" else Outbox()
    own = {} if whose == "outbox" else {"on_uncertain": "resend"}
    async with stage(heartbeat=heartbeat, outbox=outbox) as played:
        await played.client.send("first", **own)
        await played.client.flush(timeout=5)
        assert played.client.stats.confirmation == "on"
        assert list(played.peer.received) == ["first"]
        played.peer.go_deaf()
        for number in range(20):
            await played.client.send(str(number), **own)
        await settle(0.5)
        played.peer.drop()
        await played.reopened()
        await played.client.flush(timeout=5)
        assert played.received == [str(number) for number in range(20)]
        assert (played.fates, played.errors) == ([], [])


@pytest.mark.promise("P5")
@pytest.mark.parametrize("heartbeat", QUIET)
async def test_what_was_sent_before_the_first_message_to_be_sent_again_is_not_confirmed_by_its_ping(
    heartbeat,
):
    async with stage(heartbeat=heartbeat) as played:
        await played.client.send("plain")
        assert played.client.stats.confirmation == "off"
        await played.client.send("kept", on_uncertain="resend")
        assert (played.client.stats.confirmed, played.client.stats.unconfirmed) == (1, 1)
        await played.client.send("plain, too")
        assert played.client.stats.unconfirmed == 2
        played.peer.drop()
        peer = await played.reopened()
        await played.client.flush(timeout=5)
        assert played.client.stats.confirmation == "on"
        assert (list(peer.received), played.fates) == (["kept"], [("plain, too", Fate.UNCERTAIN)])


@pytest.mark.promise("P5")
@pytest.mark.parametrize("heartbeat", [*QUIET, Heartbeat(interval=5, timeout=4, pong_timeout=None)])
async def test_a_peer_that_answers_no_ping_is_told_once(heartbeat, caplog):
    transport = answering(PingAnswers.NONE)
    async with stage(transport, heartbeat=heartbeat, outbox=Outbox(on_uncertain="resend")) as played:
        for _ in range(3):
            await played.client.send("m")
            for _ in range(40):
                await settle(1)
                played.peer.send("data")
                await played.client.recv()
            assert played.client.stats.confirmation == "off"
            played.peer.drop()
            await played.reopened()
        ((where, text),) = played.errors
        assert where == "outbox"
        assert "may be lost" in text
        assert [record.levelname for record in caplog.records if "answers no pings" in record.message] == [
            "WARNING"
        ]


@pytest.mark.promise("P5")
@pytest.mark.parametrize("heartbeat", [*QUIET, Heartbeat(interval=5, timeout=4, pong_timeout=None)])
async def test_a_late_right_pong_switches_confirmation_on_again(heartbeat):
    transport = answering(PingAnswers.NONE)
    async with stage(transport, heartbeat=heartbeat, outbox=Outbox(on_uncertain="resend")) as played:
        played.transport._on_peer = None
        await played.client.send("before")
        for _ in range(40):
            await settle(1)
            played.peer.send("data")
            await played.client.recv()
        assert played.client.stats.confirmation == "off"
        await played.client.send("meanwhile")
        for wrong in (b"", b"12345678", played.peer.pings[0][:4] + b"\xff" * 4):
            played.peer.pong(wrong)
        await settle()
        assert played.client.stats.confirmation == "off"
        played.peer.pong(played.peer.pings[0])
        await settle()
        assert played.client.stats.confirmation == "on"
        await played.client.send("after")
        assert played.client.stats.unconfirmed == 1
        played.peer.drop()
        await played.reopened()
        await played.client.flush(timeout=5)
        assert played.received == ["after"]


async def test_resend_without_confirmation_is_refused():
    with pytest.raises(ValueError, match=r"on_uncertain.*confirm"):
        Outbox(on_uncertain="resend", confirm=False)
    async with stage(outbox=Outbox(confirm=False)) as played:
        with pytest.raises(ValueError, match=r"on_uncertain.*confirm"):
            await played.client.send("m", on_uncertain="resend")
        await played.client.send("m", on_uncertain="report")
        assert played.received == ["m"]
