"""`Heartbeat.app` as the client lives it."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient_ws import CloseOrigin, Heartbeat, NotConnected, Outbox, WebSocketClient
from resilient_ws.testing import FakeTransport, VirtualLoop
from tests.client.kit import now, settle, stage


def answer(message):
    return message.startswith("pong")


async def test_pings_go_out_each_interval_and_replies_are_consumed_and_timed():
    numbers = itertools.count(1)
    heartbeat = Heartbeat.app(lambda: f"ping {next(numbers)}", answer, 15, 10)
    async with stage(heartbeat=heartbeat) as played:
        await settle(15.1)
        assert played.received == ["ping 1"]
        await settle(0.4)
        played.peer.send("pong 1", "data")
        await settle()
        assert await played.client.recv() == "data"
        assert 0.4 < played.client.latency < 0.6
        assert played.client.stats.received == 2
        await settle(15)
        assert played.received == ["ping 1", "ping 2"]
        assert played.client.stats.confirmation == "off"


@pytest.mark.promise("P2")
async def test_a_peer_that_never_answers_dies_and_the_rule_does_not_blame_protocol_pings():
    async with stage(heartbeat=Heartbeat.app("ping", answer, 15, 10)) as played:
        await played.reopened()
        (close,) = played.closes
        assert close.origin is CloseOrigin.HEARTBEAT
        assert (close.code, close.synthesized) == (1006, True)
        assert 25 <= close.opened_for <= 25.1


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
@pytest.mark.parametrize("error", [ValueError, StopIteration, asyncio.CancelledError])
async def test_a_message_function_that_raises_is_reported_and_buries_nobody(error):
    def broken():
        raise error("no clock")

    async with stage(heartbeat=Heartbeat.app(broken, answer, 15, 10)) as played:
        await settle(200)
        assert not played.closes
        assert {where for where, _ in played.errors} == {"heartbeat"}
        assert 5 <= len(played.errors) <= 14


def released():
    view = memoryview(b"ping")
    view.release()
    return view


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
@pytest.mark.parametrize("make", [lambda: "\ud83d", released, lambda: None])
async def test_a_message_that_cannot_be_sent_is_reported_and_the_heartbeat_goes_on(make):
    heartbeat = Heartbeat.app(make, answer, 15, 10, idle_timeout=100)
    async with stage(heartbeat=heartbeat) as played:
        await played.until(lambda: bool(played.closes))
        assert played.closes[0].opened_for == pytest.approx(100, abs=0.2)
        assert [where for where, _ in played.errors] == ["heartbeat"] * 6


@pytest.mark.promise("P9")
@pytest.mark.expects_errors
@pytest.mark.parametrize("error", [ValueError, StopIteration, asyncio.CancelledError])
async def test_is_reply_that_raises_is_reported_and_the_message_delivered(error):
    def broken(message):
        raise error

    async with stage(heartbeat=Heartbeat.app("ping", broken, 15, 10)) as played:
        played.peer.send("data", "more")
        assert [await played.client.recv() for _ in range(2)] == ["data", "more"]
        await settle()
        assert [where for where, _ in played.errors] == ["heartbeat"] * 2
        assert not played.closes


async def test_a_ping_that_waits_for_room_owes_no_answer_before_it_is_written():
    async with stage(heartbeat=Heartbeat.app("ping", answer, 15, 10)) as played:
        played.peer.congest()
        await played.client.send("held up")
        started = now()
        await settle(15.1)
        assert played.received == []
        played.peer.recover()
        await settle()
        assert played.received == ["held up", "ping"]
        await settle(9)
        assert not played.closes, f"{now() - started} s"


@pytest.mark.promise("P2")
@pytest.mark.parametrize("how", ["go_silent", "go_deaf", "congest"])
async def test_a_peer_that_takes_nothing_and_says_nothing_dies_though_no_ping_can_leave(how):
    async with stage(FakeTransport(buffer=100), heartbeat=Heartbeat.app("ping", answer, 15, 10)) as played:
        getattr(played.peer, how)()
        sending = asyncio.create_task(played.client.send("x" * 1000))
        await settle(20)
        assert not played.closes
        await played.reopened()
        assert sending.done()
        (close,) = played.closes
        assert close.origin is CloseOrigin.HEARTBEAT
        assert 25 <= close.opened_for <= 26


@pytest.mark.promise("P2")
async def test_a_peer_that_talks_and_takes_nothing_dies_though_no_ping_can_leave():
    heartbeat = Heartbeat.app("ping", answer, 15, 10, pong_timeout=40)
    async with stage(heartbeat=heartbeat) as played:
        await settle(15.1)
        played.peer.send("pong")
        played.peer.congest()
        await played.client.send("held up")
        for _ in range(50):
            played.peer.send("talk")
            await settle(1)
        assert not played.closes
        for _ in range(25):
            if played.peer.is_open:
                played.peer.send("talk")
            await settle(1)
        assert "no reply for 40" in str(played.closes[0].cause)


@pytest.mark.promise("P6")
async def test_one_ping_waits_for_room_and_no_second_one():
    async with stage(heartbeat=Heartbeat.app("ping", answer, 15, 10, pong_timeout=None)) as played:
        played.peer.congest()
        await played.client.send("held up")
        for _ in range(100):
            played.peer.send("talk")
            await settle(1)
        played.peer.recover()
        await settle()
        assert played.received == ["held up", "ping"]
        await settle(2)
        played.peer.send("pong")
        await settle()
        assert played.client.latency == pytest.approx(2, abs=0.1)


async def test_a_late_reply_does_not_answer_a_ping_that_has_not_left():
    async with stage(heartbeat=Heartbeat.app("ping", answer, 15, 10)) as played:
        await settle(15.1)
        played.peer.congest()
        await played.client.send("held up")
        await settle(7)
        played.peer.send("talk")
        await settle(10)
        played.peer.send("pong")
        await settle()
        assert played.client.latency == pytest.approx(17.1, abs=0.1)


async def test_pings_for_confirmation_take_no_reply_from_those_of_the_application():
    outbox = Outbox(confirm=True)
    async with stage(heartbeat=Heartbeat.app("ping", answer, 15, 10), outbox=outbox) as played:
        await settle(15.1)
        await played.client.send("x", confirm=True)
        played.peer.send("pong")
        await settle()
        assert 0 < played.client.latency < 0.2


async def test_a_reply_is_no_data_for_idle_timeout():
    def meet(peer):
        peer.on_message = lambda message: peer.send("pong")

    heartbeat = Heartbeat.app("ping", answer, 15, 10, idle_timeout=100)
    async with stage(FakeTransport(meet), heartbeat=heartbeat) as played:
        await settle(50)
        played.peer.send("data")
        await settle(40)
        asking = asyncio.create_task(played.client.request("?", lambda message: message == "pong!"))
        await settle()
        played.peer.send("pong!")
        assert await asking == "pong!"
        await played.until(lambda: bool(played.closes))
        (close,) = played.closes
        assert close.opened_for == pytest.approx(190, abs=0.2)
        assert "no data message for 100" in str(close.cause)


async def test_a_gateway_tells_its_interval_in_the_hello():
    kept = []

    async def identify(connection):
        assert await connection.recv() == "hello 5"
        connection.heartbeat(interval=5, message="beat")
        kept.append(connection)

    async with stage(setup=identify, ready=False, heartbeat=Heartbeat.app("ping", answer, 15, 10)) as played:
        await settle()
        played.peer.send("hello 5")
        await played.client.ready()
        await settle(5.1)
        assert played.received == ["beat"]
        with pytest.raises(NotConnected):
            kept[0].heartbeat(interval=1)


async def test_a_message_that_came_before_the_end_is_taken_before_the_end_is_told():
    heard = []
    async with stage(heartbeat=Heartbeat.app("ping", answer, 15, 10)) as played:
        played.client.on_close(lambda _: heard.append("close"))

        async def take():
            heard.append(await played.client.recv())

        task = asyncio.create_task(take())
        await settle()
        link = played.client._supervisor.active.link
        link.pause()
        played.peer.send("one")
        played.peer.drop()
        await settle()
        link.resume()
        await settle()
        await task
    assert heard[:2] == ["one", "close"]


# --- user code on the path of a verdict


async def coroutine():
    return "ping"


def slow(clock):
    clock.advance(8)
    raise ValueError("no answer of the clock for 8 s")


BAD_MESSAGES = {
    "raises": lambda: 1 // 0,
    "fails": lambda: pytest.fail("a test of the program"),
    "cancels": lambda: (_ for _ in ()).throw(asyncio.CancelledError),
    "stops": lambda: next(iter(())),
    "none": lambda: None,
    "number": lambda: 7,
    "coroutine": lambda: coroutine(),
    "surrogate": lambda: "\ud83d",
    "released": lambda: released(),
    "slow": lambda: slow(asyncio.get_running_loop().clock),
}


@pytest.mark.promise("P2")
@pytest.mark.promise("P9")
@pytest.mark.expects_errors
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("from_the_first", [True, False])
@pytest.mark.parametrize("how", ["go_silent", "go_mute"])
@pytest.mark.parametrize("bad", BAD_MESSAGES)
async def test_a_peer_that_vanishes_is_noticed_though_no_ping_can_be_made(bad, how, from_the_first, kernel):
    broken = from_the_first

    def make():
        return BAD_MESSAGES[bad]() if broken else "ping"

    transport = FakeTransport(
        lambda peer: setattr(peer, "on_message", lambda _: peer.send("pong")), kernel=kernel
    )
    heartbeat = Heartbeat.app(make, lambda m: m == "pong", 15, 10, pong_timeout=30)
    async with stage(transport, heartbeat=heartbeat, close_timeout=1) as played:
        await settle(100)
        broken = True
        await settle(100)
        assert not played.closes, "the peer lives, and answers the PINGs that go out instead"
        getattr(played.peer, how)()
        last = now()
        await played.until(lambda: bool(played.closes))
        late = 4 * 8 if bad == "slow" else 0  # the loop stood still meanwhile
        assert now() - last <= 25.2 + late
        assert played.closes[0].origin is CloseOrigin.HEARTBEAT
        assert {where for where, _ in played.errors} == {"heartbeat"}


@pytest.mark.promise("P2")
@pytest.mark.promise("P9")
@pytest.mark.expects_errors
@pytest.mark.parametrize("bad", ["raises", "fails", "cancels", "stops", "coroutine"])
async def test_is_reply_that_fails_hides_no_death_and_no_message(bad):
    transport = FakeTransport(lambda peer: setattr(peer, "on_message", lambda _: peer.send("pong")))
    heartbeat = Heartbeat.app("ping", lambda _: BAD_MESSAGES[bad](), 15, 10)
    async with stage(transport, heartbeat=heartbeat) as played:
        await settle(100)
        assert [await played.client.recv() for _ in range(6)] == ["pong"] * 6
        assert not played.closes
        played.peer.go_silent()
        last = now()
        await played.until(lambda: bool(played.closes))
        assert now() - last <= 25.2


@pytest.mark.promise("P9")
async def test_a_process_that_is_to_end_and_does_not_keeps_its_heartbeat():
    def make():
        if next(count) == 2:
            raise KeyboardInterrupt
        return "ping"

    count = itertools.count()
    transport = FakeTransport(lambda peer: setattr(peer, "on_message", lambda _: peer.send("pong")))
    runner = asyncio.Runner(loop_factory=VirtualLoop)
    client = WebSocketClient(
        "ws://peer.test/", transport=transport, heartbeat=Heartbeat.app(make, bool, 15, 10)
    )

    async def begin():
        client.start()
        await client.ready()

    async def wait():
        await asyncio.sleep(100)
        pings = len(transport.peer.received)
        await client.close()
        return pings

    def run():
        runner.get_loop().run_until_complete(begin())
        with pytest.raises(KeyboardInterrupt):
            runner.get_loop().run_until_complete(asyncio.sleep(100))
        return runner.get_loop().run_until_complete(wait())

    with ThreadPoolExecutor() as pool:  # the loop of this test runs in this thread
        assert pool.submit(run).result() >= 7
        pool.submit(runner.close).result()
