"""A message that ends every connection on which it is sent: it is found out, given up after a while, and the rest goes on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_fixed

from resilient_ws import Fate, Heartbeat, Outbox, ReconnectPolicy, State, UndeliveredEvent
from resilient_ws.testing import FakeTransport, PingAnswers, run_virtual
from tests.client.kit import settle, stage

SUSPECT = [1002, 1005, 1010, 1011, 1015, 2999, 3000, 4400, 4999]
INNOCENT = [1000, 1001, 1012, 1013, 1014]
QUICK = ReconnectPolicy(wait=wait_fixed(1))


class Picky:
    """Peers that end the connection at a poisonous message, and answer no ping behind it."""

    def __init__(self, poison, code):
        self.poison = set(poison)
        self.code = code
        self.seen = []
        self.transport = FakeTransport(self.meet)

    def meet(self, peer):
        def take(message):
            if not peer.is_open:
                return
            self.seen.append(message)
            if message in self.poison:
                peer.answers_pings = PingAnswers.NONE
                peer.close(None if self.code == 1005 else self.code)

        peer.on_message = take
        peer.pong_delay = 0.01  # a PONG would confirm what the application has not seen yet


async def play(poison, count, waiting, code, max_resends, heartbeat=None):
    """Send so many messages, the first of them before there is a connection; returns what was seen and told."""
    picky = Picky(poison, code)
    outbox = Outbox(on_uncertain="resend", max_resends=max_resends)
    async with stage(
        picky.transport, outbox=outbox, reconnect=QUICK, heartbeat=heartbeat or Heartbeat(), ready=False
    ) as played:
        for number in range(count):
            if number == waiting:
                await played.client.ready()
            await played.client.send(str(number))
        await played.client.flush(timeout=3600)
        assert played.client.state in {State.OPEN, State.BACKOFF, State.CONNECTING}, played.client.explain()
        await played.client.ready(timeout=60)
        await played.client.send("last", confirm=True)
        told = played.of(UndeliveredEvent)
    return picky.seen, told


@pytest.mark.promise("P5")
@settings(max_examples=100)
@given(data=st.data())
def test_the_poison_is_given_up_and_all_the_rest_arrives_wherever_it_stands(data):
    count = data.draw(st.integers(1, 12), "messages")
    poison = data.draw(st.sets(st.integers(0, count - 1).map(str), max_size=3), "poison")
    waiting = data.draw(st.integers(0, count), "accepted before there is a connection")
    code = data.draw(st.sampled_from(SUSPECT), "code")
    if code == 1010:
        code = 1011  # a refusal where it comes soon after the opening
    limit = data.draw(st.integers(1, 6), "max_resends")
    seen, told = run_virtual(play(poison, count, waiting, code, limit))
    assert {event.message for event in told} == poison
    for event in told:
        assert event.fate is Fate.UNCERTAIN
        assert seen.count(event.message) <= event.times_sent
        assert limit < seen.count(event.message) <= max(limit + 1, 3)
    assert set(seen) == {*(str(number) for number in range(count)), "last"}
    first = list(dict.fromkeys(seen))
    assert first == sorted(first, key=lambda text: 99 if text == "last" else int(text))


@pytest.mark.promise("P5")
@pytest.mark.parametrize("code", [1002, 1011, 4400])
async def test_after_two_such_ends_messages_go_one_by_one(code):
    picky = Picky(["2"], code)
    async with stage(picky.transport, outbox=Outbox(on_uncertain="resend"), reconnect=QUICK) as played:
        for number in range(5):
            await played.client.send(str(number))
        await played.reopened()
        await settle()
        assert picky.seen == ["0", "1", "2"] * 2
        await played.reopened()
        await played.client.send("behind")
        await settle(0.1)
        assert picky.seen == [*["0", "1", "2"] * 3]
        assert [close.uncertain for close in played.closes] == [5, 5, 1]
        await played.until(lambda: played.fates)
        await played.client.flush(timeout=60)
        assert picky.seen == [*["0", "1", "2"] * 3, *["2"] * 3, "3", "4", "behind"]
        assert played.fates == [("2", Fate.UNCERTAIN)]
        (event,) = played.of(UndeliveredEvent)
        assert event.times_sent == 6
        assert played.client.stats.uncertain == 1


@pytest.mark.promise("P5")
@pytest.mark.parametrize("code", INNOCENT)
async def test_ends_for_reasons_of_the_peer_give_up_nothing(code):
    picky = Picky(["1"], code)
    async with stage(picky.transport, outbox=Outbox(on_uncertain="resend", max_resends=1)) as played:
        for number in range(3):
            await played.client.send(str(number))
        for _ in range(8):
            await played.reopened()
        assert played.fates == []
        picky.poison.clear()
        await played.client.flush(timeout=600)
        assert picky.seen[-3:] == ["0", "1", "2"]


@pytest.mark.promise("P5")
async def test_lost_lines_give_up_nothing():
    async with stage(outbox=Outbox(on_uncertain="resend", max_resends=1)) as played:
        for _ in range(8):
            played.peer.go_deaf()
            await played.client.send("m") if played.client.stats.opens == 1 else None
            played.peer.drop()
            await played.reopened()
        await played.client.flush(timeout=60)
        assert (played.received, played.fates) == (["m"], [])


async def test_1002_ends_the_client_where_nothing_is_sent_again():
    async with stage(outbox=Outbox(on_uncertain="report"), reconnect=QUICK) as played:
        for _ in range(3):
            await played.until_state(State.OPEN)
            await played.client.send("bad")
            played.peer.close(1002)
            await settle()
        await played.until_state(State.CLOSED)


@pytest.mark.promise("P5")
async def test_what_is_sent_by_one_and_one_needs_no_room_of_its_own_and_ends_with_close():
    picky = Picky(["0"], 1011)
    async with stage(picky.transport, outbox=Outbox(on_uncertain="resend"), reconnect=QUICK) as played:
        for number in range(4):
            await played.client.send(str(number))
        for _ in range(3):
            await played.reopened()
        await played.client.close()
        assert sorted(played.fates) == [(str(number), Fate.UNCERTAIN) for number in range(4)]


async def test_a_message_that_the_transport_cannot_write_is_given_up_too(monkeypatch):
    from resilient_ws.testing.fake.link import FakeLink

    write = FakeLink.write

    def picky(link, message, /):
        if message == "bad":
            raise RuntimeError("cannot be compressed")
        return write(link, message)

    monkeypatch.setattr(FakeLink, "write", picky)
    async with stage(outbox=Outbox(on_uncertain="resend", max_resends=2), reconnect=QUICK) as played:
        await played.client.send("bad")
        await played.client.send("good")
        await played.client.flush(timeout=600)
        assert (played.received, played.fates) == (["good"], [("bad", Fate.UNCERTAIN)])
