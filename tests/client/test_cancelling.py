"""Cancelling any call, at any of its steps, loses, doubles, leaks and swallows nothing (P8)."""

import asyncio
import logging
from collections import Counter

import pytest

from resilient_ws import ClientClosed, DeliveryUncertain, NotConnected, Outbox, State, UndeliveredEvent
from resilient_ws.connection.writer import Writer
from resilient_ws.testing import FakeTransport
from tests.client.kit import settle, stage

pytestmark = pytest.mark.promise("P8")
STEPS = 14
"""More loop turns than any call takes that does not wait for the network."""


def echoing(peer):
    def answer(message):
        if message.startswith("?"):
            peer.send("!" + message)

    peer.on_message = answer


CALLS = {
    "send": lambda client: client.send("m1"),
    "send waiting": lambda client: client.send("m1", ttl=50),
    "send confirm": lambda client: client.send("m1", confirm=True),
    "send resend": lambda client: client.send("m1", on_uncertain="resend"),
    "send unqueued": lambda client: client.send("m1", queue=False),
    "send_json": lambda client: client.send_json({"m": 1}),
    "flush": lambda client: client.flush(),
    "flush in time": lambda client: client.flush(30),
    "recv": lambda client: client.recv(),
    "iteration": lambda client: client.__anext__(),
    "with_gaps": lambda client: client.with_gaps().__anext__(),
    "batches": lambda client: anext(client.batches()),
    "events": lambda client: anext(client.events()),
    "request": lambda client: client.request("?1", lambda message: message == "!?1", 30),
    "ready": lambda client: client.ready(),
    "close": lambda client: client.close(),
    "close drain": lambda client: client.close(drain=5),
    "close at the end of a block": lambda client: client.__aexit__(None, None, None),
    "run": lambda client: client.run(),
}


async def nothing(played):
    """The connection is healthy, and nothing happens."""


async def congested(played):
    played.peer.congest()
    await played.client.send("fills the way")


async def full(played):
    played.peer.congest()
    for number in range(4):
        await played.client.send(f"fills {number}")


async def drop(played):
    played.peer.drop()


async def peer_closes(played):
    played.peer.close(1001)


async def backoff(played):
    played.peer.drop()
    await settle()


async def message(played):
    played.peer.send("1", "2")


async def waiting(played):
    played.peer.send("1", "2")
    await settle()


async def closing(played):
    played.peer.answers_close = False
    played.closing = asyncio.ensure_future(played.client.close())
    await asyncio.sleep(0)


async def rejected(played):
    played.peer.close(1008)


MOMENTS = [nothing, congested, full, drop, peer_closes, backoff, message, waiting, closing, rejected]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_at_every_step(name, moment, caplog):
    caplog.set_level(logging.ERROR)
    for steps in range(STEPS):
        await cancel_at(name, moment, steps)
    assert not caplog.records


async def cancel_at(name, moment, steps):
    """Begin a call, cancel it after some turns of the loop, and compare everybody's records."""
    async with stage(FakeTransport(echoing), outbox=Outbox(max_messages=3, overflow="wait")) as played:
        client = played.client
        await moment(played)
        task = asyncio.ensure_future(CALLS[name](client))
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled = task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert task.cancelled() is cancelled, f"the cancellation was swallowed: {outcome!r}"
        if name.startswith("close") and steps:
            await played.until_state(State.CLOSED)
        else:
            await after(played)
        await client.close()
        if hasattr(played, "closing"):
            await played.closing
        await settle()
        check_messages(played, name, task)
        await check_stream(played, outcome)


async def after(played):
    """The client still works: the next call of each kind does what it should."""
    client = played.client
    if client.state in {State.CLOSING, State.CLOSED}:
        return
    for peer in played.transport.peers:
        peer.recover()
    await settle(3)
    if client.state is not State.OPEN:
        return
    await client.ready()
    await client.send("after", confirm=True)
    assert await client.request("?after", lambda message: message == "!?after", 5) == "!?after"
    await client.flush(5)


def check_messages(played, name, task):
    """A message that was not accepted is nowhere; one that was has one end."""
    arrived = Counter(message for peer in played.transport.peers for message in peer.received)
    fates = Counter(event.message for event in played.of(UndeliveredEvent))
    ours = [text for text in ("m1", '{"m":1}', "?1") if arrived[text] or fates[text]]
    if task.cancelled() and name in {"send", "send waiting", "send resend", "send unqueued", "send_json"}:
        assert not ours, f"{ours} was cancelled, so not accepted, and yet: {arrived}, {fates}"
    if not task.cancelled() and name.startswith("send"):
        error = task.exception()
        if error is None:
            assert len(ours) == 1
        else:
            assert isinstance(error, ClientClosed | NotConnected | DeliveryUncertain)
    assert all(count == 1 for count in fates.values())
    if name != "send resend":
        assert all(count == 1 for count in arrived.values())
    stats = played.client.stats
    assert stats.waiting == stats.unconfirmed == 0


async def check_stream(played, outcome):
    """What was received was taken, is still there, or is accounted for; in order."""
    taken = outcome if isinstance(outcome, list) else [outcome] if isinstance(outcome, str) else []
    taken = [item for item in taken if item.isdigit()]
    try:
        while True:
            taken.append(await played.client.recv())
    except ClientClosed:
        pass
    numbers = [item for item in taken if item.isdigit()]
    stats = played.client.stats
    answers = sum(item.startswith("!") for item in taken)
    consumed = stats.received - stats.discarded - len(numbers) - answers
    assert numbers == ["1", "2"][: len(numbers)]
    assert stats.unread == 0
    assert 0 <= consumed <= 2  # the answers that requests took
    if stats.received >= 2 and stats.discarded == 0 and not isinstance(outcome, BaseException) and numbers:
        assert numbers == ["1", "2"]


@pytest.mark.parametrize("turns", range(STEPS))
async def test_cancelling_a_block_that_is_being_entered_closes_the_client(turns):
    transport = FakeTransport()
    transport.accept(delay=1)
    entered = []
    async with stage(transport, start=False) as played:

        async def use():
            async with played.client:
                entered.append(True)
                await asyncio.sleep(1000)

        task = asyncio.create_task(use())
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns % 2:
            await settle(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert played.client.state is (State.CLOSED if turns else State.IDLE)


@pytest.mark.parametrize("turns", range(STEPS))
@pytest.mark.parametrize("what", ["send", "recv", "request"])
async def test_cancelling_a_task_of_the_setup_hook(turns, what):
    """The hook runs tasks of its own and cancels them; nothing of them is lost or left."""

    async def setup(conn):
        task = asyncio.create_task(
            {
                "send": lambda: conn.send("m"),
                "recv": conn.recv,
                "request": lambda: conn.request("?1", lambda message: message == "!?1"),
            }[what]()
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled = task.cancel()
        results.extend(await asyncio.gather(task, return_exceptions=True))
        assert task.cancelled() is cancelled

    def meet(peer):
        echoing(peer)
        peer.send("1", "2")

    results = []
    async with stage(FakeTransport(meet), setup=setup) as played:
        got = [item for item in results if isinstance(item, str)]
        await settle()
        rest = [await played.client.recv() for _ in range(played.client.stats.unread)]
        everything = sorted(got + rest)
        assert everything == (["!?1", "1", "2"] if "?1" in played.received else ["1", "2"])


async def test_a_cancelled_wait_for_room_is_forgotten():
    """Else a set-up that gives up one send after the other, while the peer does not read, would grow."""

    class Congested:
        def write(self, message):
            return asyncio.get_running_loop().create_future()

    writer = Writer(Congested(), spawn=lambda name, function: None, idle=lambda: None)
    writer.write("fills the way", 13)
    for _ in range(3):
        sending = asyncio.ensure_future(writer.send("waits"))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
    assert writer._waiters == []
