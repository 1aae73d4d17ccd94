import asyncio

import pytest

from resilient_ws import (
    ClientClosed,
    ClientStopped,
    CloseCode,
    CloseEvent,
    CloseOrigin,
    ConnectError,
    HandshakeRejected,
    NotConnected,
    OpenEvent,
    ReconnectEvent,
    ReconnectPolicy,
    RetriesExhausted,
    RetryEvent,
    State,
    WebSocketClient,
)
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.testing import FakeTransport
from resilient_ws.testing.fake.link import FakeLink
from tests.client.kit import STEADY, URL, now, settle, stage

pytestmark = pytest.mark.promise("P1")


async def test_one_connection_from_start_to_close():
    async with stage(start=False) as played:
        client = played.client
        assert client.state is State.IDLE
        assert client.close_event is None
        client.start()
        assert client.state is State.CONNECTING
        client.start()
        await client.ready()
        assert client.state is State.OPEN
        await settle()
        assert played.names == ["connecting", "open", "open"]
        opened = played.of(OpenEvent)[0]
        assert (opened.attempt, opened.first, str(opened.endpoint)) == (1, True, URL)
    assert played.names == ["connecting", "open", "open", "closing", "closed", "close"]
    final = played.closes[0]
    assert (final.code, final.was_clean, final.synthesized) == (1000, True, False)
    assert (final.origin, final.sent_code, final.final) == (CloseOrigin.LOCAL, 1000, True)
    assert final.rule == "close() was called"
    assert client.state is State.CLOSED


async def test_the_server_tells_subprotocol_and_headers():
    transport = FakeTransport()
    transport.accept(subprotocol="chat", headers={"x-session": "42"})
    async with stage(transport, subprotocols=["chat", "other"]) as played:
        await settle()
        opened = played.of(OpenEvent)[0]
        assert opened.subprotocol == "chat"
        assert dict(opened.headers) == {"x-session": "42"}
        assert "42" not in repr(opened)
        assert transport.dials[0].endpoint.subprotocols == ("chat", "other")


async def test_a_drop_is_told_in_order_and_the_client_is_back_after_the_delay():
    async with stage() as played:
        await asyncio.sleep(20)
        await played.client.send("x", on_uncertain="resend")
        await played.client.send("y")
        dropped_at = now()
        played.peer.drop(ConnectionLost("pulled"))
        await settle()
        assert played.client.state is State.BACKOFF
        close = played.closes[0]
        assert played.client.close_event is close
        assert (close.code, close.reason, close.was_clean, close.synthesized) == (1006, "", False, True)
        assert (close.origin, close.sent_code, str(close.cause)) == (CloseOrigin.NETWORK, None, "pulled")
        assert close.opened_for == pytest.approx(20)
        assert (close.unsent, close.uncertain, close.unread) == (0, 2, 0)
        assert (close.will_retry, close.retry_in, close.final) == (True, 1, False)
        assert "1006" in close.rule
        await played.reopened()
        await settle()
        assert played.names[3:] == [
            "backoff", "close", "undelivered", "retry", "connecting", "open", "open", "reconnect",
        ]  # fmt: skip
        retry = played.of(RetryEvent)[0]
        assert (retry.attempt, retry.delay, str(retry.cause)) == (1, 1, "pulled")
        back = played.of(ReconnectEvent)[0]
        assert (back.attempts, back.close, back.resent, back.uncertain) == (1, close, 1, 1)
        assert back.downtime == pytest.approx(1, abs=0.01)
        assert now() - dropped_at < 1.1
        assert played.fates == [("y", "uncertain")]
        await played.client.flush()
        assert played.received == ["x"]


async def test_attempts_that_fail_give_a_retry_each_and_no_open_and_no_close():
    transport = FakeTransport()
    transport.refuse(times=3)
    async with stage(transport, ready=False) as played:
        await played.until_state(State.OPEN)
        assert now() == pytest.approx(3, abs=0.1)
        await settle()
        assert played.names == [
            *["connecting", "backoff", "retry"] * 3,
            *["connecting", "open", "open"],
        ]  # fmt: skip
        assert [retry.attempt for retry in played.of(RetryEvent)] == [1, 2, 3]
        assert all(isinstance(retry.cause, ConnectError) for retry in played.of(RetryEvent))
        assert played.of(OpenEvent)[0].attempt == 4
        assert played.client.stats.attempts == 4


async def test_reconnects_count_their_attempts_and_their_downtime():
    async with stage() as played:
        await asyncio.sleep(20)
        played.transport.refuse(times=4)
        played.peer.close(1012, "restart")
        await played.reopened()
        await settle()
        back = played.of(ReconnectEvent)[0]
        assert back.attempts == 5
        assert back.downtime == pytest.approx(5, abs=0.01)
        assert (back.close.code, back.close.reason) == (1012, "restart")
        assert back.close.was_clean


async def test_opens_and_closes_alternate_over_many_drops_of_all_kinds():
    async with stage() as played:
        kinds = ["close", "drop", "silence", "refused", "replaced", "broken"] * 20
        for kind in kinds:
            if kind == "close":
                played.peer.close(1001)
            elif kind == "drop":
                played.peer.drop()
            elif kind == "silence":
                played.peer.go_silent()
            elif kind == "refused":
                played.transport.refuse(times=2)
                played.peer.drop()
            elif kind == "replaced":
                played.client.reconnect_now()
            else:
                played.peer.send("x" * (4 * 1024 * 1024 + 1))
            await played.reopened()
            await asyncio.sleep(11)
        assert played.client.stats.opens == len(kinds) + 1
    assert len(played.closes) == len(kinds) + 1
    assert {close.origin for close in played.closes} == {
        CloseOrigin.PEER, CloseOrigin.NETWORK, CloseOrigin.HEARTBEAT, CloseOrigin.LOCAL, CloseOrigin.PROTOCOL,
    }  # fmt: skip


async def test_close_while_waiting_for_a_retry_gives_an_extra_final_event():
    async with stage(reconnect=ReconnectPolicy(first_delay=100, min_delay=100, max_delay=100)) as played:
        played.peer.drop()
        await settle()
        assert played.client.state is State.BACKOFF
    assert played.names[-5:] == ["close", "retry", "closing", "closed", "close"]
    last = played.closes[-1]
    assert (last.opened_for, last.code, last.synthesized, last.origin) == (
        None,
        1006,
        True,
        CloseOrigin.LOCAL,
    )


async def test_close_of_a_client_that_never_began():
    async with stage(start=False) as played:
        pass
    assert played.names == ["closing", "closed", "close"]
    assert not played.transport.dials
    with pytest.raises(ClientClosed):
        played.client.start()


async def test_a_rule_that_says_stop_ends_the_client_with_the_close_of_its_connection():
    async with stage() as played:
        played.peer.close(1008, "go away")
        await played.until_state(State.CLOSED)
        final = played.closes[0]
        assert (final.final, final.will_retry, final.code, final.reason) == (True, False, 1008, "go away")
        assert "1008" in final.rule
        with pytest.raises(ClientStopped) as stopped:
            await played.client.recv()
        assert stopped.value.event is final
        assert "1008" in str(stopped.value)
    assert len(played.closes) == 1


async def test_a_rule_that_says_stop_before_any_connection_gives_an_extra_final_event():
    transport = FakeTransport()
    transport.refuse(HandshakeRejected("HTTP 404", status=404))
    async with stage(transport, ready=False) as played:
        with pytest.raises(ClientStopped) as stopped:
            await played.client.ready()
        assert isinstance(stopped.value.__cause__, HandshakeRejected)
        final = played.client.close_event
        assert (final.opened_for, final.final, final.code) == (None, True, 1006)
        assert "404" in final.rule
    assert played.names == ["connecting", "backoff", "closed", "close"]


async def test_the_end_of_all_attempts_says_how_many_and_how_long():
    transport = FakeTransport()
    transport.refuse(times=None)
    policy = ReconnectPolicy(wait=STEADY.wait, max_attempts=3)
    async with stage(transport, ready=False, reconnect=policy) as played:
        with pytest.raises(RetriesExhausted) as spent:
            await played.client.ready()
        assert spent.value.attempts == 3
        assert spent.value.elapsed == pytest.approx(2, abs=0.01)
        assert isinstance(spent.value.__cause__, ConnectError)
        assert spent.value.event is played.client.close_event
    assert len(transport.dials) == 3


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_close_is_told_before_the_next_open_whatever_the_callbacks_do(asynchronous):
    order = []
    transport = FakeTransport()
    client = WebSocketClient(
        URL, transport=transport, reconnect=ReconnectPolicy(first_delay=0), close_timeout=1
    )

    async def slow(event):
        await asyncio.sleep(100)
        order.append("close")

    async def opened(event):
        order.append("open")

    client.on_close(slow if asynchronous else lambda event: order.append("close"))
    client.on_close(slow if not asynchronous else lambda event: None)  # one of the other kind changes nothing
    client.on_open(opened if asynchronous else lambda event: order.append("open"))
    async with client:
        for _ in range(3):
            before = client.stats.opens
            transport.peer.drop()
            while client.stats.opens == before:
                await asyncio.sleep(0.1)
        if asynchronous:
            await asyncio.sleep(1000)
        assert order == ["open", "close", "open", "close", "open", "close", "open"]


async def test_what_waits_before_start_says_so():
    async with stage(start=False) as played:
        client = played.client
        await client.send("kept")
        client.subscribe("k", "subscribed")
        for waits in (
            client.ready(),
            client.recv(),
            client.__anext__(),
            client.with_gaps().__anext__(),
            client.flush(),
            client.send("x", confirm=True),
            client.send("x", queue=False),
            client.request("x", lambda _: True, 1),
        ):
            with pytest.raises(NotConnected):
                await waits
        with pytest.raises(NotConnected):
            client.reconnect_now()
        assert client.stats.waiting == 1
        client.start()
        await client.flush()
        assert played.received == ["subscribed", "kept"]


async def test_each_end_is_known_by_its_code_and_who_began_it():
    ends = []
    async with stage() as played:
        for code in (1000, 1001, None, 1011, 1012, 1014, 3000, 4999):
            played.peer.close(code, "" if code is None else "why")
            await played.reopened()
            ends.append(played.closes[-1])
            await asyncio.sleep(11)
    assert [end.code for end in ends] == [1000, 1001, CloseCode.NO_STATUS_RCVD, 1011, 1012, 1014, 3000, 4999]
    assert all(end.was_clean and not end.synthesized and end.origin is CloseOrigin.PEER for end in ends)
    assert [end.sent_code for end in ends] == [1000, 1001, 1000, 1011, 1012, 1014, 3000, 4999]


async def test_events_carry_no_state_of_the_future():
    async with stage() as played:
        states = []
        played.client.on_close(lambda event: states.append((event.final, played.client.state)))
        played.peer.drop()
        await played.reopened()
    assert states[0] == (False, State.BACKOFF)
    assert states[-1] == (True, State.CLOSED)
    assert [isinstance(event, CloseEvent) for event in played.events].count(True) == 2


@pytest.mark.parametrize("needs_a_task", [False, True])
async def test_a_link_that_fails_to_read_is_an_end_like_any_other(monkeypatch, needs_a_task):
    def fails(_):
        raise KeyError("a defect")

    async def fails_later(_):
        await asyncio.sleep(0.01)
        raise KeyError("a defect")

    read = FakeLink.read
    monkeypatch.setattr(FakeLink, "read", fails_later if needs_a_task else fails)
    async with stage() as played:
        monkeypatch.setattr(FakeLink, "read", read)
        await played.until(lambda: played.client.stats.opens == 2)
        [close] = [event for event in played.events if isinstance(event, CloseEvent)]
        assert (close.code, close.origin, str(close.cause)) == (
            1006,
            "network",
            "the reader failed: KeyError",
        )
        assert isinstance(close.cause.__cause__, KeyError)
