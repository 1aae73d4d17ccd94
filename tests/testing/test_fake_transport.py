import asyncio

import pytest

from resilient_ws import (
    CloseOrigin,
    ConnectError,
    Endpoint,
    HandshakeRejected,
    Heartbeat,
    Outbox,
    ReconnectPolicy,
    State,
    WebSocketClient,
)
from resilient_ws.api.close_codes import CloseCode
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.core.endings import End
from resilient_ws.testing import FakeTransport, PingAnswers, VirtualLoop, run_virtual

QUICK = ReconnectPolicy(first_delay=0.1, min_delay=0.1, max_delay=0.1)


class Receiver:
    """What a link is told, as a client would be."""

    def __init__(self):
        self.told = []

    def burst(self, messages, size, /, *, wakes):
        ((message,), self.woken) = messages, wakes
        self.told.append((message, size))

    def wake(self):
        """The program goes on."""
        self.woken = True

    def pong(self, payload, /):
        self.told.append(("pong", payload))

    def ended(self, end, /, *, wakes):
        self.woken = wakes
        self.told.append(end)


def play(story):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story())


async def connect(transport=None, url="ws://peer.test"):
    transport = transport or FakeTransport()
    receiver = Receiver()
    link = await transport.open(Endpoint(url, {"x-token": "t"}), receiver)
    return transport.peer, link, receiver


async def settle():
    await asyncio.sleep(0.001)


def test_a_client_lives_on_it_as_the_documentation_shows():
    async def story():
        transport = FakeTransport()
        async with WebSocketClient("ws://peer.test", transport=transport, reconnect=QUICK) as client:
            await client.send("hello")
            assert list(transport.peer.received) == ["hello"]
            first = await transport.next_peer()
            first.drop()
            second = await transport.next_peer()
            assert second is transport.peer is not first
            second.send("back")
            assert await client.recv() == "back"
        assert second.close_code == 1000
        assert not second.is_open
        assert client.state is State.CLOSED
        assert [dial.peer for dial in transport.dials] == [first, second]

    run_virtual(story())


def test_dials_meet_what_was_planned_and_then_what_is_for_all_others():
    async def story():
        transport = FakeTransport()
        refused = HandshakeRejected("HTTP 503", status=503)
        transport.refuse(refused)
        transport.refuse(times=2)
        transport.accept(delay=2, subprotocol="chat", headers={"x": "y"})
        transport.refuse(lambda: ConnectError("for ever"), times=None)
        with pytest.raises(HandshakeRejected) as failure:
            await connect(transport)
        assert failure.value is refused
        for _ in range(2):
            with pytest.raises(ConnectError, match="refused by the test"):
                await connect(transport)
        before = asyncio.get_running_loop().time()
        _, link, _ = await connect(transport)
        assert asyncio.get_running_loop().time() == before + 2
        assert (link.subprotocol, dict(link.headers)) == ("chat", {"x": "y"})
        for _ in range(3):
            with pytest.raises(ConnectError, match="for ever"):
                await connect(transport)
        transport.hang()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await connect(transport)
        assert len(transport.dials) == 8
        assert [dial.peer is not None for dial in transport.dials].count(True) == 1

    play(story)


def test_there_is_no_peer_before_the_first_dial():
    transport = FakeTransport()
    with pytest.raises(LookupError, match="not reached any peer"):
        transport.peer


def test_messages_pass_in_both_directions_in_order():
    async def story():
        peer, link, receiver = await connect(FakeTransport(latency=0.5))
        assert peer.endpoint.headers == {"x-token": "t"}
        assert link.write("one") is None
        assert link.write(b"two") is None
        assert list(peer.received) == ["one", b"two"]
        assert [await peer.recv(), await peer.recv()] == ["one", b"two"]
        peer.send("a", b"bc")
        await asyncio.sleep(0.4)
        peer.send("ü")
        await asyncio.sleep(0.11)
        assert receiver.told == [("a", 1), (b"bc", 2)]
        await asyncio.sleep(0.4)
        assert receiver.told[2:] == [("ü", 2)]

    play(story)


def test_recv_waits_and_a_hook_answers():
    async def story():
        def greet(peer):
            peer.send("welcome")
            peer.on_message = lambda message: peer.send(f"echo {message}")

        peer, link, receiver = await connect(FakeTransport(greet))
        task = asyncio.create_task(peer.recv())
        await settle()
        link.write("x")
        assert await task == "x"
        await settle()
        assert receiver.told == [("welcome", 7), ("echo x", 6)]

    play(story)


@pytest.mark.parametrize(
    "rule,answers",
    [
        (PingAnswers.ALL, [b"1", b"2", b"3"]),
        (PingAnswers.LATEST, [b"3"]),
        (PingAnswers.WRONG, [b"nobody sent this"] * 3),
        (PingAnswers.NONE, []),
    ],
)
def test_pings_are_answered_as_told(rule, answers):
    async def story():
        peer, link, receiver = await connect()
        peer.answers_pings = rule
        peer.pong_delay = 2
        for payload in (b"1", b"2", b"3"):
            link.ping(payload)
        await asyncio.sleep(1.9)
        assert receiver.told == []
        await asyncio.sleep(0.2)
        assert receiver.told == [("pong", payload) for payload in answers]
        assert list(peer.pings) == [b"1", b"2", b"3"]

    play(story)


def test_a_ping_of_the_peer_is_answered_by_the_link():
    async def story():
        peer, _, receiver = await connect()
        peer.ping(b"are you there")
        await settle()
        assert list(peer.pongs) == [b"are you there"]
        assert receiver.told == []

    play(story)


@pytest.mark.parametrize(
    "code,seen,answered", [(1000, 1000, 1000), (4321, 4321, 4321), (None, CloseCode.NO_STATUS_RCVD, 1000)]
)
def test_a_close_of_the_peer_is_answered(code, seen, answered):
    async def story():
        peer, link, receiver = await connect()
        peer.send("last")
        peer.close(code, "bye")
        peer.send("too late")
        link.write("not heard")
        assert not peer.is_open
        await settle()
        assert receiver.told == [
            ("last", 4),
            End(code=seen, reason="bye", origin=CloseOrigin.PEER, sent_code=answered),
        ]
        assert peer.close_code == answered
        assert list(peer.received) == []
        with pytest.raises(ConnectionLost):
            link.write("over")

    play(story)


@pytest.mark.parametrize("answers", [True, False])
def test_a_close_of_the_client_is_answered_unless_told_otherwise(answers):
    async def story():
        peer, link, receiver = await connect()
        peer.answers_close = answers
        link.close(1001, "leaving")
        link.close(1000, "only the first counts")
        assert (peer.close_code, peer.close_reason) == (1001, "leaving")
        await settle()
        ends = [End(code=1001, reason="leaving", origin=CloseOrigin.PEER, sent_code=1001)]
        assert receiver.told == (ends if answers else [])
        link.abort()
        assert not peer.is_open

    play(story)


def test_a_drop_comes_after_what_was_sent_and_the_socket_knows_it_first():
    async def story():
        peer, link, receiver = await connect()
        link.pause()
        peer.send("before")
        peer.drop(ConnectionLost("pulled"))
        peer.drop()
        assert link.write("into the void") is None
        await settle()
        assert not receiver.told
        with pytest.raises(ConnectionLost):
            link.write("the kernel knows")
        assert (peer.paused, peer.unread) == (True, 2)
        link.resume()
        await settle()
        assert receiver.told[0] == ("before", 6)
        assert str(receiver.told[1].cause) == "pulled"
        assert receiver.told[1].origin is CloseOrigin.NETWORK
        assert len(receiver.told) == 2
        assert not peer.received

    play(story)


def test_nothing_is_told_after_an_abort():
    async def story():
        peer, link, receiver = await connect(FakeTransport(latency=1))
        peer.answers_pings = PingAnswers.ALL
        peer.pong_delay = 0.5
        link.ping(b"x")
        peer.send("x")
        link.abort()
        link.abort()
        peer.send("y")
        peer.drop()
        peer.close()
        await asyncio.sleep(10)
        assert receiver.told == []

    play(story)


def test_a_silent_network_keeps_everything_and_recovers_in_order():
    async def story():
        peer, link, receiver = await connect(FakeTransport(buffer=100))
        look = link.look(paused=False)
        assert (look.left, look.pending, look.received) == (0, 0, 0)
        peer.go_silent()
        assert link.write("a" * 60) is None
        rest = link.write("b" * 60)
        assert rest is not None
        link.ping(b"")
        peer.send("c")
        peer.pong(b"d")
        await asyncio.sleep(100)
        look = link.look(paused=False)
        assert (look.left, look.pending, look.in_flight, look.received) == (0, 138, 138, 0)
        assert not peer.received
        assert not receiver.told
        peer.recover()
        await rest
        await settle()
        assert [len(message) for message in peer.received] == [60, 60]
        assert receiver.told == [("c", 1), ("pong", b"d"), ("pong", b"")]
        look = link.look(paused=True)
        assert (look.left, look.pending, look.messages, look.paused) == (138, 0, 1, True)
        assert look.acknowledged
        assert look.message_at == pytest.approx(100, abs=0.1)

    play(story)


def test_each_direction_can_fail_alone():
    async def story():
        peer, link, receiver = await connect()
        peer.go_deaf()
        link.write("x")
        peer.send("heard")
        await settle()
        assert (list(peer.received), receiver.told) == ([], [("heard", 5)])
        peer.recover()
        peer.go_mute()
        peer.send("not heard")
        link.write("y")
        await settle()
        assert (list(peer.received), len(receiver.told)) == (["x", "y"], 1)

    play(story)


def test_congestion_makes_each_write_wait_and_a_drop_ends_the_wait():
    async def story():
        peer, link, _ = await connect()
        peer.congest()
        rest = link.write("one")
        assert rest is not None
        assert link.look(paused=False).in_flight == 0
        link.ping(b"behind")
        waiting = asyncio.ensure_future(rest)
        await settle()
        assert not waiting.done()
        assert not peer.received
        assert not peer.pings
        peer.recover()
        await waiting
        assert (list(peer.received), list(peer.pings)) == (["one"], [b"behind"])
        peer.congest()
        waiting = asyncio.ensure_future(link.write("two"))
        peer.drop()
        with pytest.raises(ConnectionLost):
            await waiting
        assert list(peer.received) == ["one"]

    play(story)


def test_a_write_can_take_time_and_is_void_if_the_connection_ends_meanwhile():
    async def story():
        peer, link, _ = await connect()
        peer.write_delay = 3
        large = "x" * 20_000
        assert link.write("slow") is None
        await link.write(large)
        assert asyncio.get_running_loop().time() == 3
        assert list(peer.received) == ["slow", large]
        task = asyncio.ensure_future(link.write(large))
        await settle()
        task.cancel()
        await asyncio.sleep(5)
        assert len(peer.received) == 2
        peer.congest()
        task = asyncio.ensure_future(link.write(large))
        await asyncio.sleep(5)
        assert not task.done()
        peer.recover()
        await task
        task = asyncio.ensure_future(link.write(large))
        await settle()
        peer.drop()
        await asyncio.sleep(5)
        assert not task.done() or task.exception() is not None
        task.cancel()
        assert len(peer.received) == 3

    play(story)


def test_what_stands_can_leave_frame_by_frame():
    async def story():
        peer, link, _ = await connect(FakeTransport(buffer=20))
        peer.go_deaf()
        assert link.write("1" * 10) is None
        second, third = (asyncio.ensure_future(link.write(text * 10)) for text in "23")
        peer.take()
        await settle()
        assert not second.done()
        peer.take(1)
        await settle()
        assert second.done()
        assert third.done()
        assert [message[0] for message in peer.received] == ["1", "2"]
        peer.take(5)
        assert [message[0] for message in peer.received] == ["1", "2", "3"]
        assert link.look(paused=False).pending == 0

    play(story)


@pytest.mark.parametrize("kernel", [True, False])
def test_bytes_are_signs_of_life_only_where_the_kernel_tells(kernel):
    async def story():
        peer, link, _ = await connect(FakeTransport(kernel=kernel))
        await asyncio.sleep(10)
        peer.trickle(5)
        await settle()
        look = link.look(paused=False)
        assert (look.received, look.received_at > 9) == ((5, True) if kernel else (0, False))
        peer.send("whole")
        await settle()
        look = link.look(paused=False)
        assert (look.received, look.received_at > 9) == ((16, True) if kernel else (1, True))
        assert look.messages == 1
        assert look.acknowledged is kernel

    play(story)


def test_a_message_over_the_limit_of_the_client_ends_the_connection_with_1009():
    async def story():
        transport = FakeTransport()
        client = WebSocketClient("ws://peer.test", transport=transport, reconnect=False, max_message_size=10)
        async with client:
            transport.peer.send("x" * 10, "x" * 11)
            assert await client.recv() == "x" * 10
            with pytest.raises(Exception, match="larger than 10 bytes|closed by us with 1009"):
                await client.recv()
        assert client.close_event.sent_code == 1009
        assert transport.peer.close_code == 1009

    play(story)


@pytest.mark.parametrize(
    "call,complaint",
    [
        (lambda: FakeTransport(latency=-1), "latency must be at least 0, not -1"),
        (lambda: FakeTransport(buffer=-1), "buffer must be at least 0, not -1"),
        (lambda: FakeTransport().accept(delay=-1), "delay must be at least 0, not -1"),
        (lambda: FakeTransport().refuse(times=0), "times must be 1 to 100000, not 0"),
    ],
)
def test_numbers_out_of_range_are_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


class Bare:
    """A transport that wants to know no options."""

    async def open(self, endpoint, receiver, /):
        raise NotImplementedError


def test_an_object_that_cannot_honour_an_option_is_refused_with_it():
    WebSocketClient("ws://peer.test", transport=Bare())
    WebSocketClient(
        "ws://peer.test", transport=FakeTransport(), proxy="env", ssl=False, compression="deflate"
    )
    with pytest.raises(ValueError, match="transport is an object without a configure method"):
        WebSocketClient("ws://peer.test", transport=Bare(), proxy="env")
    with pytest.raises(TypeError, match=r"transport must be 'aiohttp', 'picows' or an object .* got int"):
        WebSocketClient("ws://peer.test", transport=5)
    with pytest.raises(
        ValueError, match=r"transport must be one of 'aiohttp', 'picows', got 'carrier pigeon'"
    ):
        WebSocketClient("ws://peer.test", transport="carrier pigeon")


def test_heartbeats_and_confirmations_work_on_it():
    async def story():
        transport = FakeTransport()
        options = {"heartbeat": Heartbeat(5, 2), "outbox": Outbox(on_uncertain="resend"), "reconnect": QUICK}
        async with WebSocketClient("ws://peer.test", transport=transport, **options) as client:
            transport.peer.pong_delay = 0.25
            await client.send("x", confirm=True)
            assert client.latency == 0.25
            first = await transport.next_peer()
            first.go_silent()
            await client.send("y")
            second = await transport.next_peer()
            assert client.close_event.origin is CloseOrigin.HEARTBEAT
            await client.flush()
            assert (list(first.received), list(second.received)) == (["x"], ["y"])

    play(story)
