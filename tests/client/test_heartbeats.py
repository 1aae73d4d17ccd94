"""The heartbeat as the client lives it: who is dead is told so in time, who lives is never buried (P2, P3)."""

import asyncio
import contextlib
import importlib
import itertools

import pytest

from resilient_ws import CloseOrigin, Endpoint, Heartbeat, Inbox, Outbox, State, WebSocketClient
from resilient_ws.connection.pinger import MAX_ANSWERERS, Answerers
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import answering, now, settle, stage

KERNELS = pytest.mark.parametrize("kernel", [True, False], ids=["linux", "elsewhere"])


def repeating(seconds, call):
    """Call something again and again, until the returned function is called."""
    loop = asyncio.get_running_loop()
    handle = None

    def fire():
        nonlocal handle
        call()
        handle = loop.call_later(seconds, fire)

    fire()
    return lambda: handle.cancel()


def deaths(played):
    return [close for close in played.closes if close.origin is CloseOrigin.HEARTBEAT]


# --- who is dead


@pytest.mark.promise("P2")
@KERNELS
@pytest.mark.parametrize("beat", [0.1, 7.3, 14.9])
@pytest.mark.parametrize("how", ["go_silent", "go_mute"])
async def test_a_peer_that_vanishes_is_told_within_interval_and_timeout_of_its_last_byte(kernel, beat, how):
    async with stage(FakeTransport(kernel=kernel), heartbeat=Heartbeat(15, 10)) as played:
        await settle(100 + beat)
        last = now()
        played.peer.send("last")
        await settle()
        getattr(played.peer, how)()
        await played.until(lambda: bool(deaths(played)))
        assert now() - last <= 25.2
        death = deaths(played)[0]
        assert (death.code, death.synthesized, death.was_clean, death.reason) == (1006, True, False, "")
        assert death.silent_for == pytest.approx(now() - last, abs=0.1)
        assert "nothing arrived for 10.0 s after a ping" in str(death.cause)
        assert now() - last >= 10
        await played.reopened()
        await played.client.send("still here", confirm=True)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("how", ["go_silent", "go_deaf"])
async def test_no_send_stays_blocked_on_a_dead_socket(how):
    async with stage(FakeTransport(buffer=100), outbox=Outbox(max_messages=3, overflow="wait")) as played:
        getattr(played.peer, how)()

        async def fill():
            for _ in range(1000):
                await played.client.send("x" * 60)

        filling = asyncio.create_task(fill())
        await settle(5)
        assert not filling.done()
        sent = played.client.stats.sent
        await played.until_state(State.BACKOFF)
        assert played.client.stats.sent == sent
        await played.reopened()
        await settle()
        assert filling.done()
        assert now() <= 27
        await played.client.flush()


@pytest.mark.promise("P2")
async def test_one_that_hears_us_no_more_though_it_talks():
    async with stage(heartbeat=Heartbeat(15, 10, pong_timeout=60)) as played:
        await settle(16)
        stop = repeating(1, lambda: played.peer.send("talk"))
        await settle(100)
        assert not deaths(played)
        deaf_at = now()
        first = played.peer
        first.go_deaf()
        await played.until(lambda: bool(deaths(played)))
        stop()
        assert 60 <= now() - deaf_at <= 75.5
        assert "no PONG" in str(deaths(played)[0].cause)


async def test_one_that_never_answered_a_ping_and_talks_is_left_alone():
    async with stage(answering(PingAnswers.NONE), heartbeat=Heartbeat(15, 10, pong_timeout=20)) as played:
        stop = repeating(1, lambda: played.peer.send("talk"))
        await settle(500)
        stop()
        assert played.client.stats.opens == 1
        assert played.client.latency is None


async def test_the_rule_says_what_to_try_with_a_peer_that_never_answered():
    async with stage(answering(PingAnswers.NONE)) as played:
        await played.until(lambda: bool(deaths(played)))
        rule = deaths(played)[0].rule
        assert "Heartbeat.expect" in rule
        assert "Heartbeat.app" in rule
    async with stage() as played:
        await settle(20)
        played.peer.go_silent()
        await played.until(lambda: bool(deaths(played)))
        assert "Heartbeat.expect" not in deaths(played)[0].rule


async def test_wrong_answers_are_signs_of_life_but_no_answers():
    async with stage(heartbeat=Heartbeat(15, 10, pong_timeout=30)) as played:
        await settle(16)
        played.peer.answers_pings = PingAnswers.WRONG
        await settle(300)
        assert played.client.stats.opens == 1


@pytest.mark.promise("P2")
async def test_no_data_for_idle_timeout_ends_it_though_pings_work():
    async with stage(heartbeat=Heartbeat(15, 10, idle_timeout=100)) as played:
        await settle(50)
        played.peer.send("data")
        await played.until(lambda: bool(deaths(played)))
        assert now() == pytest.approx(150, abs=0.2)
        assert "no data message for 100" in str(deaths(played)[0].cause)


# --- expect


@pytest.mark.promise("P2")
@KERNELS
async def test_expect_listens_only(kernel):
    async with stage(FakeTransport(kernel=kernel), heartbeat=Heartbeat.expect(60)) as played:
        stop = repeating(50, lambda: played.peer.ping(b"p"))
        await settle(1000)
        stop()
        assert not deaths(played)
        assert not played.peer.pings
        assert len(played.peer.pongs) == 21 or len(played.peer.pongs) == 20
        last = now()
        await played.until(lambda: bool(deaths(played)))
        assert now() - last <= 61
        assert "nothing arrived for 60" in str(deaths(played)[0].cause)


async def test_expect_is_content_with_data():
    async with stage(heartbeat=Heartbeat.expect(60)) as played:
        stop = repeating(55, lambda: played.peer.send("x"))
        await settle(1000)
        stop()
        assert not deaths(played)


# --- app


@pytest.mark.promise("P2")
async def test_app_sends_its_own_message_consumes_replies_and_measures():
    def meet(peer):
        peer.on_message = lambda m: (
            asyncio.get_running_loop().call_later(0.2, peer.send, "pong") if m == "ping" else None
        )

    heartbeat = Heartbeat.app("ping", lambda m: m == "pong", 10, 5)
    async with stage(FakeTransport(meet), heartbeat=heartbeat) as played:
        await settle(100.5)
        assert played.received == ["ping"] * 10
        assert not played.peer.pings
        assert played.client.stats.unread == 0
        assert played.client.latency == pytest.approx(0.2)
        played.peer.send("pong", "data")
        assert await played.client.recv() == "data"
        played.peer.go_silent()
        last = now()
        await played.until(lambda: bool(deaths(played)))
        assert now() - last <= 15.3


@pytest.mark.expects_errors
async def test_app_functions_that_fail_are_reported_and_bury_nobody():
    counter = []

    def make():
        counter.append(1)
        if len(counter) == 2:
            raise ValueError("no nonce")
        return f"ping {len(counter)}"

    def is_reply(message):
        if message == "bad":
            raise KeyError("bad")
        return message.startswith("pong")

    def meet(peer):
        peer.on_message = lambda m: peer.send("pong")

    async with stage(FakeTransport(meet), heartbeat=Heartbeat.app(make, is_reply, 10, 5)) as played:
        played.peer.send("bad")
        assert await played.client.recv() == "bad"
        stop = repeating(3, lambda: played.peer.send("alive"))
        await settle(45)
        stop()
        assert played.received == ["ping 1", "ping 3", "ping 4"]
        assert [where for where, _ in played.errors] == ["heartbeat", "heartbeat"]
        assert played.client.stats.opens == 1


async def test_none_is_off():
    async with stage(heartbeat=None) as played:
        played.peer.go_silent()
        await settle(86_400)
        assert played.client.state is State.OPEN
        assert not played.peer.pings


async def test_a_number_is_an_interval():
    async with stage(heartbeat=3) as played:
        await settle(10)
        assert len(played.peer.pings) == 4


# --- latency


async def test_latency_is_the_last_round_trip():
    async with stage(heartbeat=Heartbeat(10, 5)) as played:
        assert played.client.latency is None
        await settle()
        played.peer.pong_delay = 0.5
        await settle(11)
        assert played.client.latency == pytest.approx(0.5)
        played.peer.pong_delay = 0.1
        await played.client.send("x", confirm=True)
        assert played.client.latency == pytest.approx(0.1)
        played.peer.drop()
        await settle()
        assert played.client.latency == pytest.approx(0.1)
        await played.reopened()
        assert played.client.latency == 0  # the new connection was asked at once


# --- the first ping


@pytest.mark.parametrize("setup_takes", [0, 7])
async def test_the_first_ping_goes_out_at_open_so_that_latency_is_known_at_once(setup_takes):
    async def setup(_):
        await asyncio.sleep(setup_takes)
        assert not transport.peer.pings

    transport = FakeTransport(lambda peer: setattr(peer, "pong_delay", 0.25))
    async with stage(transport, setup=setup) as played:
        await settle(0.2)
        assert len(played.peer.pings) == 1
        assert played.client.latency is None
        await settle(0.1)
        assert played.client.latency == pytest.approx(0.25)
        await settle(15 - setup_takes)  # it delays no other
        assert len(played.peer.pings) == 2


@pytest.mark.parametrize("heartbeat", [None, Heartbeat.expect(60), Heartbeat.app("ping", bool)])
async def test_nothing_is_sent_at_open_by_other_heartbeats(heartbeat):
    async with stage(heartbeat=heartbeat) as played:
        await settle(5)
        assert not played.peer.pings
        assert not played.received


@pytest.mark.promise("P2")
@KERNELS
@pytest.mark.parametrize("how", ["go_silent", "go_mute"])
async def test_a_peer_that_is_silent_from_the_start_is_judged_after_the_second_ping(kernel, how):
    async with stage(FakeTransport(lambda peer: getattr(peer, how)(), kernel=kernel)) as played:
        opened = now()
        await played.until(lambda: bool(deaths(played)))
        assert deaths(played)[0].opened_for == pytest.approx(25, abs=0.1)
        assert now() - opened < 25.5


async def test_a_message_that_is_to_be_confirmed_does_not_wait_for_the_answer_to_the_first_ping():
    async with stage(FakeTransport(lambda peer: setattr(peer, "pong_delay", 1))) as played:
        await settle(0.5)
        began = now()
        await played.client.send("x", confirm=True)
        assert now() - began == pytest.approx(1, abs=0.01)


# --- who has answered before


def talking(played):
    return repeating(1, lambda: played.peer.send("talk") if played.peer.is_open else None)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("url", ["one", "one with another token", "two", "provided"])
async def test_who_has_answered_before_and_does_so_no_more_is_noticed_from_the_first_ping_on(url):
    """`pong_timeout` runs from the first ping of each later connection, and confirmation stays on."""

    async def provide(attempt):
        return f"ws://peer.test/ws?token={len(transport.peers)}"

    urls = {
        "one": "ws://peer.test/ws",
        "one with another token": ["ws://peer.test/ws?a", "ws://peer.test/ws?b"],
        "two": ["ws://peer.test/ws", "ws://peer.test/other"],
        "provided": provide,
    }
    transport = FakeTransport()
    async with stage(transport, urls[url], heartbeat=Heartbeat(15, 10, pong_timeout=40)) as played:
        await settle(1)
        transport._on_peer = lambda peer: setattr(peer, "answers_pings", PingAnswers.NONE)
        played.peer.drop()
        await played.reopened()
        await played.client.send("x")
        opened = now()
        stop = talking(played)
        with contextlib.suppress(AssertionError):
            await played.until(lambda: bool(deaths(played)), within=300)
        stop()
        if url == "two":
            assert not deaths(played)
            assert played.client.stats.confirmation == "off"
            return
        assert 40 <= now() - opened <= 45.5
        assert "no PONG" in str(deaths(played)[0].cause)
        assert "Heartbeat.expect" not in deaths(played)[0].rule
        assert ("x", "uncertain") in played.fates


@pytest.mark.promise("P2")
async def test_who_has_replied_to_the_application_before_and_does_so_no_more_is_noticed_too():
    def meet(peer):
        if len(transport.peers) <= 1:
            peer.on_message = lambda _: peer.send("pong")

    transport = FakeTransport(meet)
    heartbeat = Heartbeat.app("ping", lambda m: m == "pong", 10, 5, pong_timeout=30)
    async with stage(transport, heartbeat=heartbeat) as played:
        await settle(11)
        assert played.client.latency is not None
        played.peer.drop()
        await played.reopened()
        opened = now()
        stop = talking(played)
        await played.until(lambda: bool(deaths(played)))
        stop()
        assert 40 <= now() - opened <= 45.5
        assert "no reply" in str(deaths(played)[0].cause)


def test_what_is_remembered_of_peers_is_bounded_and_the_latest():
    answerers = Answerers()
    endpoints = [Endpoint(f"ws://peer.test/{number}?token={number}") for number in range(200)]
    for endpoint in endpoints:
        answerers.note(endpoint, "ping")
        answerers.note(endpoint, "ping")
    known = [number for number, endpoint in enumerate(endpoints) if answerers.knows(endpoint, "ping")]
    assert known == list(range(200 - MAX_ANSWERERS, 200))
    assert not answerers.knows(endpoints[-1], "app")
    for other in (
        "wss://peer.test/199",
        "ws://peer.test:81/199",
        "ws://other.test/199",
        "ws://peer.test/199/",
    ):
        assert not answerers.knows(Endpoint(other), "ping")
    assert answerers.knows(Endpoint("ws://peer.test:80/199?other"), "ping")


# --- silence


@KERNELS
async def test_silent_for_is_the_time_since_the_last_byte_and_none_while_nothing_is_open(kernel):
    transport = FakeTransport(kernel=kernel)
    client = WebSocketClient("ws://peer.test/", transport=transport, heartbeat=Heartbeat(1000, 10))
    assert client.silent_for is None
    client.start()
    assert client.silent_for is None
    await client.ready()
    await settle(5)
    transport.peer.send("x")
    await settle(2.001)
    assert client.silent_for == pytest.approx(2, abs=0.01)
    transport.peer.ping(b"a sign of life, too")
    await settle(1.001)
    assert client.silent_for == pytest.approx(1, abs=0.01)
    transport.peer.drop()
    await settle()
    assert client.state is State.BACKOFF
    assert client.silent_for is None
    await client.ready()
    await settle()
    assert client.silent_for < 1
    closing = asyncio.ensure_future(client.close(drain=5))
    await asyncio.sleep(0)
    assert client.silent_for is None
    await closing
    assert client.silent_for is None


async def test_what_a_full_inbox_has_kept_from_being_read_is_no_silence_where_the_kernel_tells():
    async with stage(inbox=Inbox(max_messages=2), heartbeat=None) as played:
        played.peer.send("a", "b")
        await settle(10)
        assert played.client.silent_for == pytest.approx(10, abs=0.01)
        played.peer.send("stands in the kernel")
        await settle(1)
        assert played.client.silent_for == pytest.approx(1, abs=0.01)


async def test_pings_go_out_each_interval_whatever_arrives():
    async with stage(heartbeat=Heartbeat(10, 5)) as played:
        stop = repeating(1, lambda: played.peer.send("x"))
        await settle(101)
        stop()
        assert len(played.peer.pings) == 11  # that of OPEN among them


# --- who lives


@pytest.mark.promise("P3")
@KERNELS
async def test_a_slow_consumer_and_a_paused_reading_bury_nobody(kernel):
    async with stage(FakeTransport(kernel=kernel), inbox=Inbox(max_messages=2)) as played:
        stop = repeating(5, lambda: played.peer.send("x"))
        for _ in range(100):
            await settle(60)
            await played.client.recv()
        stop()
        assert played.client.stats.opens == 1


@pytest.mark.promise("P3")
@KERNELS
async def test_a_blocked_loop_buries_nobody(kernel):
    async with stage(FakeTransport(kernel=kernel)) as played:
        clock = asyncio.get_running_loop().clock
        for seconds in (1, 9, 12, 24, 26, 60, 3600, 20, 30):
            await settle(3)
            clock.advance(seconds)
            await settle(40)
            assert played.client.stats.opens == 1, seconds
        played.peer.go_silent()
        await played.until(lambda: bool(deaths(played)))


@pytest.mark.promise("P3")
async def test_a_slow_upload_of_ours_buries_nobody():
    async with stage(FakeTransport(buffer=10_000), outbox=Outbox(max_bytes=200_000)) as played:
        peer = played.peer
        peer.go_deaf()  # what we write stands, as behind a slow line
        calls = [asyncio.create_task(played.client.send("x" * 5_000)) for _ in range(30)]
        stop = repeating(8, peer.take)
        await settle(240)
        stop()
        assert played.client.stats.opens == 1
        peer.recover()
        await asyncio.gather(*calls)


@pytest.mark.promise("P3")
async def test_one_huge_slow_frame_buries_nobody_where_the_kernel_tells():
    async with stage(FakeTransport(kernel=True)) as played:
        played.peer.answers_pings = PingAnswers.NONE
        stop = repeating(9, lambda: played.peer.trickle(100))
        await settle(500)
        stop()
        assert played.client.stats.opens == 1
        assert played.client.stats.received == 0


@pytest.mark.promise("P3")
async def test_late_answers_bury_nobody():
    async with stage(heartbeat=Heartbeat(5, 10)) as played:
        played.peer.pong_delay = 9
        await settle(300)
        assert played.client.stats.opens == 1


@pytest.mark.promise("P3")
async def test_a_peer_that_answers_only_the_last_of_several_pings():
    async with stage(heartbeat=Heartbeat(5, 20)) as played:
        played.peer.answers_pings = PingAnswers.LATEST
        played.peer.pong_delay = 4
        await settle(300)
        assert played.client.stats.opens == 1


@pytest.mark.promise("P3")
@KERNELS
async def test_a_network_that_comes_back_in_time_buries_nobody(kernel):
    async with stage(FakeTransport(kernel=kernel)) as played:
        await settle(16)
        for _ in range(10):
            played.peer.go_silent()
            await settle(9)
            played.peer.recover()
            await settle(31)
        assert played.client.stats.opens == 1


async def test_the_message_of_an_app_heartbeat_may_be_bytes_like():
    heartbeat = Heartbeat.app(bytearray(b"ping"), lambda m: m == b"pong", 10, 5)
    async with stage(heartbeat=heartbeat) as played:
        played.peer.on_message = lambda m: played.peer.send(b"pong")
        await settle(35)
        assert played.received == [b"ping"] * 3
        assert played.client.stats.opens == 1


# --- what must never end the heartbeat


FAILING = {
    "look": "resilient_ws.core.heartbeat.HeartbeatMonitor.look",
    "ping_sent": "resilient_ws.core.heartbeat.HeartbeatMonitor.ping_sent",
    "pong": "resilient_ws.core.heartbeat.HeartbeatMonitor.pong",
    "deadline": "resilient_ws.core.heartbeat.HeartbeatMonitor._next_look",
    "link": "resilient_ws.testing.fake.link.FakeLink.look",
    "write": "resilient_ws.testing.fake.link.FakeLink.ping",
    "mark": "resilient_ws.core.delivery.DeliveryQueue.mark",
    "confirm": "resilient_ws.core.delivery.DeliveryQueue.confirm",
    "doubt": "resilient_ws.connection.pinger.Pinger._doubt",
}


@pytest.mark.promise("P2")
@pytest.mark.expects_errors
@pytest.mark.parametrize("what", FAILING)
async def test_a_defect_in_the_heartbeat_ends_the_connection_and_never_the_heartbeat(what, monkeypatch):
    transport = answering(PingAnswers.NONE) if what == "doubt" else FakeTransport()
    async with stage(transport, heartbeat=Heartbeat(15, 10)) as played:
        stop = talking(played) if what == "doubt" else None
        await settle(5)
        place, name = FAILING[what].rsplit(".", 1)
        module, cls = place.rsplit(".", 1)
        target = getattr(importlib.import_module(module), cls)
        genuine, calls = getattr(target, name), itertools.count()

        def fails_once(*args, **options):
            if next(calls) == 0:
                raise OverflowError("a counter has run over")
            return genuine(*args, **options)

        monkeypatch.setattr(target, name, fails_once)
        await played.client.send("x")
        await played.until(lambda: next(iter(played.errors), None) is not None, within=100)
        assert played.errors[0] == ("heartbeat", "a counter has run over")
        await played.until(lambda: played.client.stats.opens == 2 and played.client.state is State.OPEN)
        assert "OverflowError" in str(played.closes[0].cause)
        transport._on_peer = None
        if stop is not None:
            stop()
        await settle(20)
        played.peer.go_silent()
        last = now()
        await played.until(lambda: bool(deaths(played)))
        assert now() - last <= 25.2


@pytest.mark.promise("P2")
@pytest.mark.promise("P8")
@pytest.mark.parametrize("ahead", [0, 1, 2, 3, 65])
async def test_the_numbers_of_pings_may_pass_32_bits(ahead):
    async with stage(heartbeat=Heartbeat(10, 5, pong_timeout=20)) as played:
        await settle(1)
        played.client._supervisor.active.pinger._number = 2**32 - 1 - ahead
        for number in range(ahead + 5):
            played.peer.pong_delay = 0.1 + number / 100
            await played.client.send(str(number), confirm=True)
            assert played.client.latency == pytest.approx(0.1 + number / 100)
        await settle(100)
        played.peer.pong(played.peer.pings[0])  # stale: the numbers come again, but not so soon
        assert not played.closes
        played.peer.go_silent()
        last = now()
        await played.until(lambda: bool(deaths(played)))
        assert now() - last <= 15.2


@pytest.mark.promise("P2")
@pytest.mark.parametrize("stale", ["the first one", "of another connection", "unasked"])
async def test_stale_pongs_of_a_peer_that_talks_are_no_answers(stale):
    async with stage(heartbeat=Heartbeat(15, 10, pong_timeout=40)) as played:
        await settle(1)
        word = {"the first one": played.peer.pings[0], "of another connection": b"\0" * 8, "unasked": b""}[
            stale
        ]
        played.peer.answers_pings = PingAnswers.NONE
        began = now()

        def talk():
            if played.peer.is_open:
                played.peer.send("data")
                played.peer.pong(word)

        stop = repeating(2, talk)
        await played.until(lambda: bool(deaths(played)))
        stop()
        assert 40 <= now() - began <= 15 + 40 + 0.5
        assert "no PONG" in str(deaths(played)[0].cause)
