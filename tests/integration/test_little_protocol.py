"""The client against servers that others wrote, each of them and through nginx: messages, closes, refusals, restarts."""

import asyncio
import itertools
import random
import string
import time

import pytest

from resilient_ws import (
    ClientStopped,
    CloseOrigin,
    Heartbeat,
    ReconnectPolicy,
    State,
    WebSocketClient,
)
from tests.integration.listening import SOON, Told
from tests.integration.servers import DEFLATE, FRAGMENTS

BIG = 3_000_000
MESSAGES = 2_000


async def exchange(client, *messages):
    """Send each message and return what came back."""
    for message in messages:
        await client.send(message)
    return [await client.recv() for _ in messages]


class TestMessages:
    async def test_text_and_binary_come_back_as_they_were(self, server):
        messages = [
            "grüße 🚀",
            "",
            b"\x00\xff",
            b"",
            "x" * 125,
            "x" * 126,
            b"y" * 65_535,
            b"y" * 65_536,
            "ü" * 70_000,
        ]
        async with WebSocketClient(server.url) as client:
            assert await exchange(client, *messages) == messages
            assert (client.stats.sent, client.stats.received) == (len(messages), len(messages))

    async def test_a_large_message_goes_both_ways(self, server):
        async with WebSocketClient(server.url) as client:
            assert await exchange(client, b"z" * BIG, "last") == [b"z" * BIG, "last"]
            await client.send(f"!big {BIG}")
            assert await client.recv() == "x" * BIG

    @pytest.mark.promise("P4")
    async def test_numbered_messages_keep_their_order_both_ways(self, server):
        async with WebSocketClient(server.url) as client:

            async def send_all():
                for number in range(MESSAGES):
                    await client.send(f"{number}")

            sending = asyncio.create_task(send_all())
            assert [await client.recv() for _ in range(MESSAGES)] == [f"{n}" for n in range(MESSAGES)]
            await sending

    @pytest.mark.promise("P4")
    async def test_a_burst_of_the_server_arrives_in_order(self, server):
        async with WebSocketClient(server.url) as client:
            await client.send("!count 5000")
            assert [await client.recv() for _ in range(5_000)] == [f"{n}" for n in range(5_000)]

    async def test_a_fragmented_message_arrives_whole(self, server):
        if FRAGMENTS not in server.features:
            return
        async with WebSocketClient(server.url) as client:
            assert await exchange(client, "!fragment", "next") == ["fragmented", "next"]

    async def test_bytes_like_objects_and_json(self, server):
        async with WebSocketClient(server.url) as client:
            assert await exchange(client, bytearray(b"ab"), memoryview(b"cd")) == [b"ab", b"cd"]
            await client.send_json({"op": "ü", "n": [1, None]})
            assert await client.recv() == '{"op":"ü","n":[1,null]}'


class TestCompression:
    @pytest.mark.promise("P4")
    async def test_big_and_small_messages_keep_their_order(self, server):
        """Beyond 16 KiB aiohttp compresses in a thread, what is smaller at once: the small must not overtake."""
        chance = random.Random(7)
        words = ["".join(chance.choices(string.ascii_lowercase, k=8)) for _ in range(200)]
        big = [" ".join(chance.choices(words, k=12_000)) for _ in range(6)]
        messages = []
        for text in big:
            messages += [text, "small", b"\x01" * 40_000, "", "tiny", text.encode()]
        async with WebSocketClient(server.url, compression="deflate") as client:
            receiving = asyncio.create_task(self._receive(client, len(messages)))
            for message in messages:
                await client.send(message)
            assert await receiving == messages
            await client.flush(timeout=10)
            assert client.stats.unconfirmed == 0

    @staticmethod
    async def _receive(client, count):
        return [await client.recv() for _ in range(count)]

    async def test_concurrent_senders_each_keep_their_order(self, server):
        async with WebSocketClient(server.url, compression="deflate") as client:

            async def send(name):
                for number in range(20):
                    await client.send(f"{name} {number} " + "p" * (50_000 if number % 3 == 0 else 10))

            sending = [asyncio.create_task(send(name)) for name in "abc"]
            received = [(await client.recv()).split()[:2] for _ in range(60)]
            await asyncio.gather(*sending)
            for name in "abc":
                assert [int(n) for who, n in received if who == name] == list(range(20))

    @pytest.mark.parametrize("compression", ["deflate", None])
    async def test_is_negotiated_only_if_asked_for(self, server, compression):
        opened = []
        async with WebSocketClient(server.url, compression=compression, on_open=opened.append) as client:
            assert await exchange(client, "x" * 1_000) == ["x" * 1_000]
        agreed = opened[0].headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in agreed) == (compression is not None and DEFLATE in server.features)


class TestHandshake:
    @pytest.mark.parametrize(
        "offered, chosen",
        [((), None), (("chat.v1",), "chat.v1"), (("other", "chat.v1"), "chat.v1"), (("other",), None)],
    )
    async def test_subprotocol(self, server, offered, chosen):
        opened = []
        async with WebSocketClient(server.url, subprotocols=offered, on_open=opened.append) as client:
            await client.send("!subprotocol")
            assert await client.recv() == (chosen or "")
        assert opened[0].subprotocol == chosen

    async def test_headers_are_sent(self, server):
        async with WebSocketClient(server.url, headers={"X-Token": "abc 123"}) as client:
            assert await exchange(client, "!headers x-token", "!headers x-absent") == ["abc 123", ""]

    @pytest.mark.parametrize("status", [401, 404])
    async def test_a_refusal_before_the_first_open_is_final(self, server, status):
        client = WebSocketClient(f"{server.url}/refuse/{status}")
        told = Told(client)
        with pytest.raises(ClientStopped, match=f"HTTP {status}") as caught:
            async with client:
                pytest.fail("it is refused")
        assert caught.value.__cause__.status == status
        assert client.stats.attempts == 1
        told.check_order()

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.promise("P10")
    async def test_an_overloaded_server_is_given_the_time_it_asks_for(self, server, status):
        client = WebSocketClient(f"{server.url}/refuse/{status}")
        told = Told(client)
        client.start()
        retry = await told.retry()
        assert 7 <= retry.delay <= 8
        assert retry.cause.status == status
        assert retry.cause.retry_after == 7
        assert "Retry-After" in retry.rule
        assert client.state is State.BACKOFF
        await client.close()
        assert client.stats.attempts == 1


class TestClosesOfTheServer:
    RETRIED = (1000, 1001, 1002, 1007, 1009, 1011, 1012, 1014, 3000, 4999)
    FINAL = (1003, 1008, 1010)
    reasons = itertools.cycle(["", "why not, ümlaut"])

    @pytest.mark.promise("P1")
    @pytest.mark.parametrize("code", RETRIED)
    async def test_it_goes_on_after(self, server, code):
        reason = next(self.reasons)
        client = WebSocketClient(server.url, reconnect=SOON)
        told = Told(client)
        async with client:
            await client.send(f"!close {code} {reason}")
            event = await told.close()
            self.check(event, code, reason)
            assert (event.will_retry, event.final) == (True, False)
            assert event.retry_in is not None
            assert event.retry_in <= 0.05
            await client.send("back")
            assert await client.recv() == "back"
        assert [reconnect.close for reconnect in told.reconnects] == [event]
        told.check_order()

    @pytest.mark.promise("P11")
    @pytest.mark.parametrize("code", FINAL)
    async def test_it_ends_after_a_rejection(self, server, code):
        client = WebSocketClient(server.url)
        told = Told(client)
        with pytest.raises(ClientStopped, match=str(code)) as caught:
            async with client:
                await client.send(f"!close {code} no")
                async for message in client:
                    pytest.fail(f"there is no message: {message!r}")
        event = caught.value.event
        self.check(event, code, "no")
        assert (event.will_retry, event.retry_in, event.final) == (False, None, True)
        assert client.state is State.CLOSED
        told.check_order()

    async def test_it_waits_long_after_try_again_later(self, server):
        client = WebSocketClient(server.url, reconnect=ReconnectPolicy(min_delay=20, first_delay=0))
        told = Told(client)
        async with client:
            await client.send("!close 1013 busy")
            event = await told.close()
            self.check(event, 1013, "busy")
            assert 20 <= event.retry_in <= 30
            assert client.state is State.BACKOFF

    @staticmethod
    def check(event, code, reason):
        assert (event.code, event.reason) == (code, reason)
        assert (event.was_clean, event.synthesized, event.origin) == (True, False, CloseOrigin.PEER)
        assert event.sent_code == code
        assert event.cause is None


class TestLosses:
    @pytest.mark.promise("P1")
    async def test_an_abort_is_told_and_survived(self, server):
        client = WebSocketClient(server.url, reconnect=SOON)
        told = Told(client)
        async with client:
            assert await exchange(client, "one") == ["one"]
            await client.flush(timeout=5)
            await client.send("!abort")
            event = await told.close()
            assert (event.code, event.reason, event.origin) == (1006, "", CloseOrigin.NETWORK)
            assert (event.was_clean, event.synthesized, event.sent_code) == (False, True, None)
            assert event.cause is not None
            assert event.uncertain == 1
            assert await exchange(client, "two") == ["two"]
        told.check_order()
        assert [undelivered.message for undelivered in told.undelivered] == ["!abort"]

    @pytest.mark.slow
    @pytest.mark.promise("P4")
    async def test_the_iteration_goes_on_across_a_restart(self, server):
        policy = ReconnectPolicy(first_delay=0.1, min_delay=0.1, max_delay=0.2)
        client = WebSocketClient(server.url, reconnect=policy)
        told = Told(client)
        received = []

        async def consume():
            async for message in client:
                received.append(message)
                if message == "last":
                    break

        async with client:
            consuming = asyncio.create_task(consume())
            await client.send("before")
            await client.flush(timeout=5)
            while not received:
                await asyncio.sleep(0.01)
            await server.async_stop()
            await told.retry()
            for number in range(10):
                await client.send(f"while down {number}")
            assert client.stats.waiting == 10
            await server.async_start()
            await client.send("last")
            async with asyncio.timeout(10):
                await consuming
        assert received == ["before", *(f"while down {number}" for number in range(10)), "last"]
        assert told.undelivered == []
        told.check_order()

    @pytest.mark.promise("P2")
    async def test_a_frozen_server_is_noticed_and_found_again(self, server):
        """Its kernel acknowledges and accepts; nobody answers, until it is woken."""
        client = WebSocketClient(server.url, heartbeat=Heartbeat(0.2, 0.3), reconnect=SOON, open_timeout=1)
        told = Told(client)
        async with client:
            assert await exchange(client, "one") == ["one"]
            server.suspend()
            since = time.monotonic()
            event = await told.close()
            assert event.origin is CloseOrigin.HEARTBEAT
            assert (event.code, event.synthesized) == (1006, True)
            assert time.monotonic() - since < 0.2 + 0.3 + 0.5
            server.resume()
            await told.reconnect()
            assert await exchange(client, "two") == ["two"]
        told.check_order()


class TestConfirmation:
    @pytest.mark.promise("P5")
    async def test_flush_returns_when_the_peer_has_everything(self, server):
        async with WebSocketClient(server.url) as client:
            for number in range(100):
                await client.send(f"{number}")
            await client.flush(timeout=5)
            stats = client.stats
            assert (stats.confirmed, stats.unconfirmed, stats.waiting, stats.confirmation) == (
                100,
                0,
                0,
                "on",
            )
            assert client.latency is not None

    @pytest.mark.promise("P5")
    async def test_a_confirmed_send(self, server):
        async with WebSocketClient(server.url) as client:
            async with asyncio.timeout(5):
                await client.send("sure", confirm=True)
            assert client.stats.confirmed == 1
            assert await client.recv() == "sure"

    async def test_it_measures_the_round_trip(self, server):
        async with WebSocketClient(server.url, heartbeat=Heartbeat(0.05, 5)) as client:
            async with asyncio.timeout(5):
                while client.latency is None:
                    await asyncio.sleep(0.01)
            assert 0 <= client.latency < 5


class TestNginx:
    async def test_it_closes_an_idle_connection_unless_there_is_a_heartbeat(self, start_server, start_nginx):
        proxy = start_nginx(start_server("websockets"), read_timeout=0.5)
        idle = WebSocketClient(proxy.url, heartbeat=None, reconnect=SOON)
        kept = WebSocketClient(proxy.url, heartbeat=0.1, reconnect=SOON)
        told, told_kept = Told(idle), Told(kept)
        async with idle, kept:
            event = await told.close()
            assert (event.code, event.origin, event.synthesized) == (1006, CloseOrigin.NETWORK, True)
            assert 0.4 < event.opened_for < 2
            await told.close(2)
            assert told_kept.closes == []
            assert await exchange(kept, "still here") == ["still here"]
        told.check_order()

    async def test_it_is_back_when_the_server_behind_it_is(self, start_server, start_nginx):
        upstream = start_server("websockets")
        proxy = start_nginx(upstream)
        client = WebSocketClient(proxy.url, reconnect=SOON)
        told = Told(client)
        async with client:
            await upstream.async_stop()
            await told.until(
                lambda: any(getattr(retry.cause, "status", None) == 502 for retry in told.retries)
            )
            await client.send("waited")
            await upstream.async_start()
            assert await client.recv() == "waited"
        told.check_order()

    async def test_a_first_502_is_retried(self, start_server, start_nginx):
        upstream = start_server("websockets")
        proxy = start_nginx(upstream)
        upstream.stop()
        client = WebSocketClient(proxy.url, reconnect=SOON)
        told = Told(client)
        client.start()
        await told.retry()
        upstream.start()
        await client.ready(10)
        await client.close()
        told.check_order()
