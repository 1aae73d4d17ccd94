"""What a program may rely on about messages, requests, subscriptions and what is known."""

import asyncio
import enum
from datetime import timedelta

import attrs
import pytest
import yarl

import resilient_ws
from resilient_ws import (
    ClientClosed,
    ConcurrencyError,
    DeliveryUncertain,
    Gap,
    Heartbeat,
    MessageTooBig,
    Outbox,
    ReconnectPolicy,
    State,
    Stats,
    WebSocketClient,
)
from resilient_ws.testing import Accept, FaultServer, Refuse
from tests.integration.contract_servers import aiohttp_echo, aiohttp_server, echo, websockets_server

pytestmark = pytest.mark.usefixtures("transport")

QUICK = ReconnectPolicy(first_delay=0.02, min_delay=0.01, max_delay=0.05, min_uptime=0.2)
STATS_FIELDS = """
    attempts opens closes sent received bytes_sent bytes_received confirmed uncertain expired evicted abandoned
    unverified discarded waiting unconfirmed unread confirmation events_dropped
""".split()  # noqa: SIM905 - as the reference lists them


Word = enum.Enum("Word", {"PING": "ping"}, type=str)


async def test_text_and_binary_keep_their_types():
    async with websockets_server(echo) as url, WebSocketClient(yarl.URL(url)) as client:
        for message in ("text", b"bytes", bytearray(b"array"), memoryview(b"view"), "", b"", Word.PING):
            await client.send(message)
            got = await client.recv()
            assert got == (message if isinstance(message, str) else bytes(message))
            assert type(got) is (str if isinstance(message, str) else bytes)
        for wrong in (None, 1, {"a": 1}, ["a"]):
            with pytest.raises(TypeError):
                await client.send(wrong)
        assert client.stats.sent == client.stats.received == 7


async def test_two_consumers_at_once_are_refused():
    async with websockets_server(echo) as url, WebSocketClient(url) as client:
        waiting = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError):
            await client.recv()
        with pytest.raises(ConcurrencyError):
            await anext(aiter(client))
        await client.send("a")
        assert await waiting == "a"


async def test_while_callbacks_consume_recv_is_refused():
    async with websockets_server(echo) as url:
        got = asyncio.Queue()
        async with WebSocketClient(url, on_message=got.put) as client:
            with pytest.raises(ConcurrencyError):
                await client.recv()
            await client.send("a")
            assert await got.get() == "a"
        async with WebSocketClient(url) as client:

            @client.on_message
            def take(message):
                got.put_nowait(message)

            with pytest.raises(ConcurrencyError):
                await client.recv()
            take.remove()
            await client.send("b")
            assert await client.recv() == "b"


async def test_a_client_belongs_to_one_loop():
    async with websockets_server(echo) as url, WebSocketClient(url) as client:

        def elsewhere():
            errors = []
            for call in (
                client.send,
                lambda _: client.recv(),
                lambda _: client.ready(),
                lambda _: client.close(),
            ):
                try:
                    asyncio.run(call("a"))
                except resilient_ws.ResilientWSError as error:
                    errors.append(error)
            return errors

        errors = await asyncio.to_thread(elsewhere)
        assert [type(error) for error in errors] == [ConcurrencyError] * 4
        await client.send("still there")
        assert await client.recv() == "still there"


async def test_a_message_over_the_bound_is_refused_and_nothing_is_lost():
    async with websockets_server(echo) as url, WebSocketClient(url, outbox=Outbox(max_bytes=100)) as client:
        with pytest.raises(MessageTooBig):
            await client.send("x" * 101)
        await client.send("x" * 100)
        assert len(await client.recv()) == 100


async def test_request_takes_its_answer_and_nothing_else():
    async def server(connection):
        async for message in connection:
            await connection.send("before")
            await connection.send(f"answer to {message}")
            await connection.send("after")

    async with websockets_server(server) as url, WebSocketClient(url) as client:
        assert await client.request("x", lambda m: m.startswith("answer"), 2) == "answer to x"
        assert [await client.recv(), await client.recv()] == ["before", "after"]
        with pytest.raises(TimeoutError):
            await client.request("y", lambda _: False, timedelta(milliseconds=50))


async def test_request_on_a_drop_is_uncertain():
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            connection = await server.connection()
            asking = asyncio.create_task(client.request("x", bool, 5))
            assert await connection.recv() == "x"
            connection.rst()
            with pytest.raises(DeliveryUncertain):
                await asking


async def test_messages_go_on_across_reconnects_with_gaps():
    async def server(connection):
        await connection.send("hello")
        await connection.close(1001, "away")

    async with websockets_server(server) as url:
        client = WebSocketClient(url, reconnect=QUICK)
        items = []
        async with client:
            async for item in client.with_gaps():
                items.append(item)
                if items.count("hello") == 3:
                    break
    assert items[0] == "hello"
    gaps = [item for item in items if isinstance(item, Gap)]
    assert [type(item) for item in items] == [str, Gap, str, Gap, str]
    assert all(
        (gap.close.code, gap.close.reason, gap.count, gap.dropped) == (1001, "away", 1, 0) for gap in gaps
    )
    assert all(gap.downtime > 0 for gap in gaps)
    assert not any(gap.resumed for gap in gaps)


async def test_adjacent_gaps_merge():
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            items = client.with_gaps()
            for _ in range(3):
                (await server.connection()).rst()
            await (await server.connection()).send("at last")
            gap = await anext(items)
            assert isinstance(gap, Gap)
            assert gap.count == 3
            assert await anext(items) == "at last"


async def test_a_gap_stands_exactly_between_the_messages_of_two_connections():
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            one = await server.connection()
            await one.send("1a")
            await one.send("1b")
            one.close(1001)
            two = await server.connection()
            await two.send("2")
            while client.stats.received < 3:
                await asyncio.sleep(0.005)
            items = client.with_gaps()
            got = [await anext(items) for _ in range(4)]
    assert [item.close.code if isinstance(item, Gap) else item for item in got] == ["1a", "1b", 1001, "2"]


async def test_the_iteration_ends_quietly_only_when_we_closed():
    async def server(connection):
        await connection.send("one")
        await connection.send("two")
        await connection.close(4001, "gone")

    async with websockets_server(server) as url:
        got = []
        with pytest.raises(ClientClosed) as error:
            async with WebSocketClient(url, reconnect=False) as client:
                async for message in client:
                    got.append(message)  # noqa: PERF401 - it raises at the end
        assert got == ["one", "two"]
        assert (error.value.event.code, error.value.event.reason) == (4001, "gone")
        with pytest.raises(ClientClosed):
            await client.recv()


async def test_events_begin_with_the_call_and_end_with_the_final_close():
    async with websockets_server(echo) as url:
        client = WebSocketClient(url)
        early = client.events()
        client.start()
        await client.ready(5)
        late = client.events()
        await client.close()
        names = [type(event).__name__ async for event in early]
        assert names == ["StateEvent", "StateEvent", "OpenEvent", "StateEvent", "StateEvent", "CloseEvent"]
        assert [type(event).__name__ async for event in late] == ["StateEvent", "StateEvent", "CloseEvent"]


async def test_subscriptions_are_sent_now_and_on_each_connection():
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            one = await server.connection()
            count = iter(range(100))
            client.subscribe("a", "sub a", "unsub a")
            client.subscribe("b", lambda: f"sub b {next(count)}")
            assert [await one.recv(), await one.recv()] == ["sub a", "sub b 0"]
            client.subscribe("a", "sub a again", "unsub a")
            one_got = await one.recv()
            if one_got == "unsub a":
                one_got = await one.recv()
            assert one_got == "sub a again"
            client.subscribe("c", "sub c", "unsub c")
            client.unsubscribe("c")
            assert [await one.recv(), await one.recv()] == ["sub c", "unsub c"]
            one.rst()
            two = await server.connection()
            assert sorted([await two.recv(), await two.recv()]) == ["sub a again", "sub b 1"]
            await client.send("plain")
            assert await two.recv() == "plain"


async def test_reconnect_now_replaces_a_live_connection():
    async with FaultServer() as server:
        async with WebSocketClient(server.url, reconnect=QUICK) as client:
            await server.connection()
            client.reconnect_now()
            await server.connection()
            await client.ready(5)
            assert client.stats.opens == 2
            assert client.close_event is not None


async def test_reconnect_now_ends_a_long_back_off():
    policy = ReconnectPolicy(first_delay=60, min_delay=0.05, max_delay=60)
    async with FaultServer(script=[Refuse(503, retry_after=30)]) as server:
        client = WebSocketClient(server.url, reconnect=policy)
        client.start()
        await server.until(lambda: server.attempt_count == 1)
        while client.state is not State.BACKOFF:
            await asyncio.sleep(0.01)
        client.reconnect_now()
        await client.ready(5)
        await client.close()


async def test_stats_have_their_fields_and_add_up():
    async with (
        aiohttp_server(aiohttp_echo) as url,
        WebSocketClient(url, heartbeat=Heartbeat(0.1, 1)) as client,
    ):
        await client.send("abc")
        await client.send("défg", confirm=True)
        assert [await client.recv(), await client.recv()] == ["abc", "défg"]
        await client.flush(timedelta(seconds=2))
        stats = client.stats
        names = attrs.fields_dict(Stats)
        for name in STATS_FIELDS:
            assert name in names
        assert (stats.attempts, stats.opens, stats.sent, stats.received, stats.confirmed) == (1, 1, 2, 2, 2)
        assert (stats.bytes_sent, stats.bytes_received) == (8, 8)
        assert (stats.waiting, stats.unconfirmed, stats.unread, stats.confirmation) == (0, 0, 0, "on")
        with pytest.raises(AttributeError):
            stats.sent = 3
        assert client.latency is not None
        assert 0 < client.latency < 1
