"""What leaves together, and what the event loop is asked for to that end (section: sending; P5)."""

import asyncio

import pytest

from resilient_ws import Heartbeat, Outbox
from resilient_ws.testing.fake.link import FakeLink
from tests.client.kit import settle, stage


@pytest.fixture
def written(monkeypatch):
    """Return what the link was given, call by call."""
    calls = []
    write = FakeLink.write

    def one(link, message):
        calls.append([message])
        return write(link, message)

    def several(link, messages):
        calls.append(list(messages))
        for message in messages:
            write(link, message)

    monkeypatch.setattr(FakeLink, "write", one)
    monkeypatch.setattr(FakeLink, "write_all", several)
    return calls


async def send(client, *messages):
    for message in messages:
        await client.send(message)


async def test_the_first_of_a_turn_leaves_at_once_and_the_others_together(written):
    async with stage() as played:
        for _ in range(2):
            written.clear()
            await send(played.client, "a", "b", "c")
            assert written == [["a"]]
            await settle()
            assert written == [["a"], ["b", "c"]]


async def test_of_several_answers_the_first_two_leave_at_once_and_the_others_together(written):
    async with stage() as played:
        for _ in range(2):
            written.clear()
            played.peer.send("question")
            await played.client.recv()
            await send(played.client, "a", "b", "c", "d")
            assert written == [["a"], ["b"]]
            await settle()
            assert written == [["a"], ["b"], ["c", "d"]]
            assert played.received[-4:] == ["a", "b", "c", "d"]


async def test_one_answer_asks_the_loop_for_nothing(written, monkeypatch):
    async with stage() as played:
        await send(played.client, "arms the timer of the next ping")
        await settle()
        played.peer.send("question")
        await played.client.recv()
        asked = []
        monkeypatch.setattr(played.client._sender._loop, "call_soon", lambda *call, **_: asked.append(call))
        await send(played.client, "answer")
        monkeypatch.undo()
        assert not asked
        assert written[-1] == ["answer"]


@pytest.mark.promise("P5")
async def test_one_answer_is_confirmed_though_nothing_else_is_sent():
    async with stage(heartbeat=Heartbeat(interval=3600), outbox=Outbox(confirm_interval=1)) as played:
        played.peer.send("question")
        await played.client.recv()
        await send(played.client, "answer")
        assert played.client.stats.confirmed == 0
        await asyncio.sleep(2)
        assert played.client.stats.confirmed == 1


async def test_answers_do_not_use_up_what_may_be_sent_in_a_turn():
    async with stage() as played:
        for number in range(600):
            played.peer.send("question")
            await played.client.recv()
            await asyncio.wait_for(played.client.send(str(number)), 1)
        await settle()
        assert played.received == [str(number) for number in range(600)]
