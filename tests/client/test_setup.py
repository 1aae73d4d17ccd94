"""The `setup` hook and its `Connection`: before everything else, bounded, and never the client's undoing (P9)."""

import asyncio

import pytest

from resilient_ws import (
    ClientClosed,
    ClientStopped,
    CloseOrigin,
    ConnectError,
    DeliveryUncertain,
    Gap,
    Heartbeat,
    Inbox,
    InboxFull,
    MessageTooBig,
    NotConnected,
    Outbox,
    ReconnectPolicy,
    RetryEvent,
    SetupFailed,
    SetupTimeout,
    State,
    Stop,
    WebSocketClient,
)
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import STEADY, URL, now, settle, stage


def greeting(*messages):
    return FakeTransport(lambda peer: peer.send(*messages))


async def test_it_runs_before_anything_that_waited_is_sent():
    async def setup(conn):
        await conn.send("login")
        assert await conn.recv() == "welcome"
        states.append(client().state)

    states = []
    async with stage(greeting("welcome"), start=False, setup=setup) as played:

        def client():
            return played.client

        await played.client.send("waited")
        played.client.subscribe("k", "subscribed")
        played.client.start()
        await played.client.flush()
        assert played.received == ["login", "subscribed", "waited"]
        assert states == [State.CONNECTING]


async def test_it_runs_on_each_connection_and_knows_which():
    seen = []

    async def setup(conn):
        seen.append((conn.first, conn.attempt, str(conn.endpoint), conn.subprotocol, dict(conn.headers)))

    transport = FakeTransport()
    transport.accept(subprotocol="chat", headers={"x": "1"})
    async with stage(transport, setup=setup) as played:
        played.peer.drop()
        await played.reopened()
    assert seen == [(True, 1, URL, "chat", {"x": "1"}), (False, 2, URL, None, {})]


async def test_what_it_leaves_reaches_the_program_in_order_before_the_rest():
    async def setup(conn):
        assert await conn.recv() == "1"
        assert await conn.request("?", lambda message: message == "3") == "3"

    def meet(peer):
        peer.send("1", "2")
        peer.on_message = lambda _: peer.send("3", "4")

    async with stage(FakeTransport(meet), setup=setup) as played:
        played.peer.send("5")
        assert [await played.client.recv() for _ in range(3)] == ["2", "4", "5"]
        played.peer.drop()
        await played.reopened()
        items = []
        async for item in played.client.with_gaps():
            items.append(item)
            if len(items) == 3:
                break
        assert isinstance(items[0], Gap)
        assert items[1:] == ["2", "4"]


async def test_what_a_setup_that_failed_received_is_counted_and_not_delivered():
    async def setup(conn):
        if conn.first and conn.attempt == 1:
            await conn.recv()
            raise ValueError("no")

    async with stage(greeting("1", "2", "3"), setup=setup) as played:
        assert [await played.client.recv() for _ in range(3)] == ["1", "2", "3"]
        assert played.client.stats.received == 6
        assert played.client.stats.discarded == 2


async def test_more_than_the_inbox_holds_stops_the_reading():
    async def setup(conn):
        await asyncio.sleep(5)

    numbers = [str(number) for number in range(20)]
    async with stage(greeting(*numbers), setup=setup, inbox=Inbox(max_messages=5)) as played:
        assert [await played.client.recv() for _ in numbers] == numbers


async def test_dropped_leftovers_leave_a_gap_and_are_counted():
    async def setup(conn):
        await asyncio.sleep(1)

    inbox = Inbox(max_messages=5, overflow="drop_oldest")
    async with stage(greeting(*map(str, range(20))), setup=setup, inbox=inbox) as played:
        stream = played.client.with_gaps()
        gap = await anext(stream)
        assert isinstance(gap, Gap)
        assert gap.dropped == 15
        assert [await anext(stream) for _ in range(5)] == ["15", "16", "17", "18", "19"]
        assert played.client.stats.discarded == 15


# --- when it fails


@pytest.mark.promise("P9")
@pytest.mark.parametrize(
    "error", [ValueError("no"), asyncio.CancelledError(), KeyError(), TimeoutError("mine")]
)
async def test_whatever_it_raises_is_a_failed_attempt(error):
    calls = 0

    async def setup(conn):
        nonlocal calls
        calls += 1
        if calls < 3:
            raise error

    async with stage(setup=setup) as played:
        assert now() == pytest.approx(2, abs=0.01)
        await settle()
        retries = played.of(RetryEvent)
        assert len(retries) == 2
        assert all(type(retry.cause) is SetupFailed for retry in retries)
        assert retries[0].cause.__cause__ is error or type(error) is asyncio.CancelledError
        assert type(error).__name__ in str(retries[0].cause)
        assert played.names == [
            *["connecting", "backoff", "error", "retry"] * 2,
            "connecting",
            "open",
            "open",
        ]
        assert [where for where, _ in played.errors] == ["setup", "setup"]
        assert [peer.close_code for peer in played.transport.peers] == [1000, 1000, None]


async def test_it_has_its_time_limit():
    async def setup(conn):
        if conn.attempt == 1:
            await asyncio.sleep(100)

    async with stage(setup=setup, setup_timeout=3) as played:
        assert now() == pytest.approx(4, abs=0.01)
        await settle()
        cause = played.of(RetryEvent)[0].cause
        assert isinstance(cause, SetupTimeout)
        assert isinstance(cause, TimeoutError)
        assert "setup_timeout=3" in str(cause)


async def test_no_limit_is_no_limit():
    async def setup(conn):
        await asyncio.sleep(10_000)

    async with stage(setup=setup, setup_timeout=None, heartbeat=None) as played:
        assert now() == pytest.approx(10_000, abs=1)
        assert played.client.stats.attempts == 1


@pytest.mark.parametrize("first", [True, False])
async def test_stop_ends_the_client(first):
    async def setup(conn):
        if conn.first is first:
            raise Stop("wrong password")

    async with stage(setup=setup, ready=False) as played:
        if not first:
            await played.client.ready()
            played.peer.drop()
        with pytest.raises(ClientStopped, match="wrong password") as stopped:
            await played.client.recv()
        assert isinstance(stopped.value.__cause__, Stop)
        final = played.client.close_event
        assert final.final
        assert final.opened_for is None


async def test_stop_on_the_first_attempt_with_fail_fast_is_what_ended_the_client():
    async def setup(conn):
        raise Stop("wrong password")

    client = WebSocketClient(URL, transport=FakeTransport(), setup=setup, fail_fast=True)
    with pytest.raises(ClientStopped, match="wrong password"):
        async with client:
            raise AssertionError


async def test_fail_fast_raises_why_the_setup_failed():
    async def setup(conn):
        raise ValueError("no")

    client = WebSocketClient(URL, transport=FakeTransport(), setup=setup, fail_fast=True)
    with pytest.raises(SetupFailed):
        async with client:
            raise AssertionError
    assert client.state is State.CLOSED


# --- when the connection ends meanwhile


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("code,stops", [(1008, True), (1001, False)])
async def test_the_code_decides_and_not_what_setup_raised_in_consequence(raises, code, stops):
    async def setup(conn):
        if not conn.first or conn.attempt > 1:
            return
        try:
            await conn.recv()
        except ConnectionLost:
            if raises:
                raise

    async with stage(FakeTransport(lambda peer: None), setup=setup, ready=False) as played:
        peer = await played.transport.next_peer()
        peer.close(code, "because")
        if stops:
            with pytest.raises(ClientStopped, match="1008"):
                await played.client.ready()
            final = played.client.close_event
            assert (final.code, final.reason, final.opened_for) == (1008, "because", None)
        else:
            await played.client.ready()
            await settle()
            assert "1001" in played.of(RetryEvent)[0].rule
            assert "open" not in played.names[:3]


def long_setup(cut):
    """Return a hook that waits on the first connection, and notes when it is cancelled."""

    async def setup(conn):
        if conn.attempt == 1:
            try:
                await asyncio.sleep(8)
            except asyncio.CancelledError:
                cut.append(now())
                raise

    return setup


async def test_it_is_cut_short_when_the_connection_ends_under_it():
    cut = []
    async with stage(setup=long_setup(cut), ready=False) as played:
        (await played.transport.next_peer()).drop()
        await played.client.ready()
        assert cut[0] < 0.1
        assert now() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("pause", [None, 0, 0.5])
async def test_what_the_server_said_before_it_closed_can_be_read(pause):
    async def setup(conn):
        assert await conn.recv() == "hello"
        if pause is not None:
            await asyncio.sleep(pause)
        raise Stop(await conn.recv())

    def refuse(peer):
        peer.send("hello")
        peer.send("the key was revoked")
        peer.close(4001)

    async with stage(FakeTransport(refuse), setup=setup, ready=False) as played:
        with pytest.raises(ClientStopped, match="the key was revoked"):
            await played.client.ready()
        assert len(played.transport.dials) == 1


@pytest.mark.parametrize("limit, cut_at", [(None, 1), (0.4, 0.4)])
async def test_it_has_a_second_for_what_it_does_not_read(limit, cut_at):
    def say(peer):
        peer.send("unread")
        peer.close(1001)

    cut = []
    async with stage(FakeTransport(say), setup=long_setup(cut), setup_timeout=limit, ready=False) as played:
        await played.until_state(State.BACKOFF)
        assert cut == [pytest.approx(cut_at, abs=0.05)]
        assert "1001" in played.of(RetryEvent)[0].rule


async def test_a_heartbeat_death_in_it_is_a_failed_attempt():
    async def setup(conn):
        if conn.attempt == 1:
            await asyncio.sleep(1000)

    async with stage(setup=setup, ready=False, setup_timeout=None) as played:
        (await played.transport.next_peer()).go_silent()
        await played.client.ready()
        assert now() == pytest.approx(26, abs=0.2)
        assert not played.closes


# --- what the Connection does


async def test_requests_take_their_answer_only():
    got = []

    async def setup(conn):
        first, second = await asyncio.gather(
            conn.request("a", lambda message: message == "A"),
            conn.request(b"b", lambda message: message == b"B"),
        )
        got.extend([first, second])
        with pytest.raises(TimeoutError):
            await conn.request("c", lambda message: False, timeout=2)
        with pytest.raises(ZeroDivisionError):
            await conn.request("d", lambda message: 1 / 0)

    def meet(peer):
        def answer(message):
            peer.send("noise", b"B" if message == b"b" else message.upper())

        peer.on_message = answer

    async with stage(FakeTransport(meet), setup=setup) as played:
        assert got == ["A", b"B"]
        rest = [await played.client.recv() for _ in range(played.client.stats.unread)]
        assert rest == ["noise", "noise", "noise", "C", "noise", "D"]


async def test_a_request_says_uncertain_when_the_connection_ends():
    async def setup(conn):
        if conn.attempt == 1:
            try:
                await conn.request("?", lambda _: True)
            except DeliveryUncertain as error:
                errors.append(error)
                raise

    errors = []
    async with stage(setup=setup, ready=False) as played:
        (await played.transport.next_peer()).drop()
        await played.client.ready()
    assert len(errors) == 1


async def test_a_request_whose_answer_stands_behind_too_much_is_told():
    async def setup(conn):
        with pytest.raises(InboxFull):
            await conn.request("?", lambda message: message == "answer")
        for _ in range(10):
            await conn.recv()

    def meet(peer):
        peer.on_message = lambda _: peer.send(*map(str, range(10)), "answer")

    async with stage(FakeTransport(meet), setup=setup, inbox=Inbox(max_messages=5)) as played:
        assert await played.client.recv() == "answer"


async def test_a_request_reads_on_to_twice_the_bounds():
    async def setup(conn):
        assert await conn.request("?", lambda message: message == "answer") == "answer"

    def meet(peer):
        peer.on_message = lambda _: peer.send(*map(str, range(9)), "answer")

    async with stage(FakeTransport(meet), setup=setup, inbox=Inbox(max_messages=5)) as played:
        assert [await played.client.recv() for _ in range(9)] == [*map(str, range(9))]


@pytest.mark.parametrize("more", [5, 15])
async def test_a_request_that_waits_to_be_written_lets_reading_go_on_or_is_told(more):
    async def setup(conn):
        peer = played.peer
        peer.congest()
        await conn.send("fills the way")
        peer.send(*map(str, range(10)))
        request = asyncio.create_task(conn.request("?", lambda message: message == "answer", 5))
        await settle()
        peer.send(*map(str, range(10, 10 + more)))
        if more == 5:
            await settle()
            peer.recover()
            await settle()
            peer.send("answer")
        outcomes.extend(await asyncio.gather(request, return_exceptions=True))
        peer.recover()

    outcomes = []
    async with stage(setup=setup, inbox=Inbox(max_messages=10), start=False) as played:
        played.client.start()
        await played.client.ready()
        assert [await played.client.recv() for _ in range(10 + more)] == [*map(str, range(10 + more))]
        if more == 5:
            assert outcomes == ["answer"]
            assert played.received == ["fills the way", "?"]
        else:
            assert [type(outcome) for outcome in outcomes] == [InboxFull]
            assert played.received == ["fills the way"]


async def test_it_is_not_usable_afterwards():
    kept = []

    async def setup(conn):
        kept.append(conn)

    async with stage(setup=setup) as played:
        conn = kept[0]
        for call in (
            lambda: conn.send("x"),
            conn.recv,
            lambda: conn.request("x", lambda _: True),
        ):
            with pytest.raises(NotConnected, match="only be used during setup"):
                await call()
        with pytest.raises(NotConnected):
            conn.heartbeat(5)
        assert (conn.first, conn.attempt, repr(conn)) == (True, 1, f"<Connection to {URL}, attempt 1, over>")
        assert played.received == []


async def test_a_task_of_it_that_goes_on_is_told():
    async def setup(conn):
        tasks.append(asyncio.create_task(conn.recv()))
        await asyncio.sleep(0)

    tasks = []
    async with stage(setup=setup) as played:
        played.peer.send("for the program")
        assert await played.client.recv() == "for the program"
        with pytest.raises((NotConnected, ConnectionLost)):
            async with asyncio.timeout(5):
                await tasks[0]


async def test_bad_arguments_are_refused():
    async def setup(conn):
        with pytest.raises(TypeError, match="message must be str or bytes-like"):
            await conn.send(5)
        with pytest.raises(MessageTooBig):
            await conn.send("x" * 11)
        with pytest.raises(ValueError, match="timeout must be 0 or more"):
            await conn.request("x", lambda _: True, -1)
        with pytest.raises(TypeError, match="match must be callable"):
            await conn.request("x", None)
        with pytest.raises(ValueError, match="interval must be more than 0"):
            conn.heartbeat(0)
        with pytest.raises(TypeError, match="message must be str"):
            conn.heartbeat(5, 7)
        await conn.send(bytearray(b"ok"))

    async with stage(setup=setup, outbox=Outbox(max_bytes=10)) as played:
        assert played.received == [b"ok"]


async def test_two_recv_at_once():
    async def setup(conn):
        first = asyncio.create_task(conn.recv())
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="another recv"):
            await conn.recv()
        first.cancel()

    async with stage(setup=setup):
        pass


async def test_sending_waits_for_room_and_stays_in_front():
    async def setup(conn):
        for text in "abc":
            await conn.send(text)

    def meet(peer):
        peer.congest()
        asyncio.get_running_loop().call_later(3, peer.recover)

    async with stage(FakeTransport(meet), start=False, setup=setup) as played:
        await played.client.send("waited")
        played.client.subscribe("k", "subscribed")
        played.client.start()
        await played.client.flush()
        assert played.received == ["a", "b", "c", "subscribed", "waited"]


async def test_a_gateway_tells_its_interval_in_a_hello():
    async def setup(conn):
        hello = await conn.recv()
        conn.heartbeat(float(hello))

    async with stage(greeting("4"), setup=setup, heartbeat=Heartbeat(1000, 2)) as played:
        await settle(9)
        assert len(played.peer.pings) == 3  # that of OPEN among them
        played.peer.go_silent()
        await played.until_state(State.BACKOFF)
        assert now() == pytest.approx(14, abs=0.2)


async def test_a_gateway_tells_what_to_send():
    async def setup(conn):
        conn.heartbeat(5, lambda: f"beat {conn.attempt}")

    app = Heartbeat.app("unused", lambda message: message == "ack", 1000, 2)

    def meet(peer):
        peer.on_message = lambda message: peer.send("ack") if message.startswith("beat") else None

    async with stage(FakeTransport(meet), setup=setup, heartbeat=app) as played:
        await settle(16)
        assert played.received == ["beat 1"] * 3
        assert played.client.stats.unread == 0
        assert played.client.latency is not None


async def test_the_next_connection_begins_with_the_clients_own_heartbeat():
    async def setup(conn):
        if conn.first:
            conn.heartbeat(2)

    async with stage(setup=setup, heartbeat=Heartbeat(50, 2)) as played:
        await settle(7)
        assert len(played.peer.pings) == 4  # that of OPEN among them
        played.peer.drop()
        await played.reopened()
        await settle(40)
        assert len(played.peer.pings) == 1


# --- close() and reconnect_now() meanwhile


@pytest.mark.promise("P7")
async def test_close_called_from_inside_ends_it():
    async def setup(conn):
        await played.client.close()
        entered.append(played.client.state)
        await asyncio.sleep(1000)

    entered = []
    async with stage(setup=setup, start=False) as played:
        played.client.start()
        with pytest.raises(ClientClosed):
            await played.client.ready()
        assert entered == [State.CLOSING]
        await played.until_state(State.CLOSED)
        assert now() < 0.1
        assert not played.of(RetryEvent)


@pytest.mark.promise("P7")
async def test_close_from_outside_ends_it_at_once():
    async def setup(conn):
        await asyncio.sleep(1000)

    async with stage(setup=setup, ready=False) as played:
        await played.transport.next_peer()
        await settle()
        before = now()
        await played.client.close()
        assert now() - before < 0.1
        assert played.peer.close_code == 1000


@pytest.mark.promise("P7")
@pytest.mark.expects_errors
async def test_a_setup_that_swallows_cancellation_does_not_hold_close():
    async def setup(conn):
        while not released:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                swallowed.append(1)

    released, swallowed = [], []
    async with stage(setup=setup, ready=False) as played:
        await settle(0.5)
        before = now()
        await played.client.close()
        assert now() - before <= 5.3
        assert swallowed
        assert played.client.state is State.CLOSED
        released.append(1)
        await settle(10)


async def test_a_setup_that_sends_while_close_comes():
    async def setup(conn):
        while True:
            await conn.send("x")
            await asyncio.sleep(0)

    async with stage(setup=setup, ready=False) as played:
        await settle(0)
        for _ in range(10):
            await asyncio.sleep(0)
        await played.client.close()
        assert now() < 0.1


async def test_failed_setups_do_not_count_as_uptime_and_back_off():
    async def setup(conn):
        await asyncio.sleep(60)
        raise ValueError

    policy = ReconnectPolicy(first_delay=1, min_delay=1, max_delay=8, min_uptime=10, max_attempts=5)
    async with stage(setup=setup, ready=False, reconnect=policy, setup_timeout=None) as played:
        await played.until_state(State.CLOSED)
        assert len(played.transport.dials) == 5
        assert not played.client.stats.opens
        assert played.closes[0].origin is CloseOrigin.SETUP


async def test_the_provider_and_setup_together_are_no_way_around_open_timeout():
    async def where(attempt):
        await asyncio.sleep(100)

    async with stage(url=where, ready=False, open_timeout=3, reconnect=STEADY) as played:
        await settle(3.5)
        assert isinstance(played.of(RetryEvent)[0].cause, ConnectError)
        assert "open_timeout=3" in str(played.of(RetryEvent)[0].cause)


async def test_answers_may_be_missing_while_it_runs():
    async def setup(conn):
        await asyncio.sleep(50)

    transport = FakeTransport(lambda peer: setattr(peer, "answers_pings", PingAnswers.NONE))
    async with stage(transport, setup=setup, setup_timeout=None, heartbeat=Heartbeat.expect(100)) as played:
        assert played.client.stats.attempts == 1


async def test_a_subscription_must_not_be_async():
    async def message():
        return "x"

    async with stage() as played:
        with pytest.raises(TypeError, match="message must not be async"):
            played.client.subscribe("k", message)
        played.peer.drop()
        await played.reopened()


@pytest.mark.promise("P2")
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(
    "heartbeat", [Heartbeat(5, 3), Heartbeat.expect(8), Heartbeat.app("ping", lambda m: m == "pong", 5, 3)]
)
@pytest.mark.parametrize("full", ["of the program", "of the set-up"])
async def test_only_its_own_inbox_excuses_a_peer_that_stops_during_the_set_up(kernel, heartbeat, full):
    async def setup(conn):
        if not conn.first:
            asked_at.append(now())
            await asyncio.Event().wait()

    asked_at = []
    transport = FakeTransport(kernel=kernel)
    async with stage(
        transport, setup=setup, heartbeat=heartbeat, inbox=Inbox(max_messages=3), setup_timeout=None
    ) as played:
        if full == "of the program":
            played.peer.send("a", "b", "c", "d")
            await settle(1)
        before = played.peer
        played.client.reconnect_now()  # a loss would stand behind what the full inbox keeps from being read
        await played.until(lambda: bool(asked_at))
        peer = played.peer
        assert peer is not before

        if full == "of the set-up":
            peer.send("a", "b", "c", "d")
            await settle(0.1)
            assert peer.paused
        peer.go_mute()  # its kernel goes on to acknowledge what we send
        await settle(60)
        assert (len(asked_at) > 1) is (full == "of the program")
        if len(asked_at) > 1:
            assert asked_at[1] - asked_at[0] <= 8 + 1 + 0.2  # and a second until the retry
