"""Clients in several threads at once, each thread with an event loop of its own: what the threads share must hold.

It runs on every Python; on a free-threaded one the threads run at the same time. Elsewhere they take turns after a
microsecond instead of five milliseconds, so that they get into each other's way in as many places as possible.
"""

import asyncio
import collections
import contextlib
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from resilient_ws import ConnectError, Governor, Outbox, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import FaultServer, Hosts
from resilient_ws.testing.server.handshake import accept_key, encode_response, parse_request
from resilient_ws.testing.server.wire import FrameParser, encode_frame
from tests.integration import tls

THREADS = 8
MESSAGES = 300
SOON = ReconnectPolicy(first_delay=0.01, min_delay=0.01, max_delay=0.05)


@pytest.fixture(autouse=True)
def many_turns() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], Awaitable[object]], count: int = THREADS) -> list[object]:
    """Run `work(number)` in as many threads, each with a loop of its own, all beginning at once; return what each returned."""
    results: list[object] = [None] * count
    together = threading.Barrier(count)

    def run(number: int) -> None:
        async def begin() -> object:
            together.wait(10)
            async with asyncio.timeout(40):
                return await work(number)

        try:
            results[number] = asyncio.run(begin())
        except BaseException as error:  # noqa: BLE001 - it fails the test, in its own thread
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@contextlib.contextmanager
def served(make: Callable[[], contextlib.AbstractAsyncContextManager]) -> Iterator[object]:
    """Serve in a thread of its own."""
    ready, made = threading.Event(), []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with make() as server:
            done = asyncio.Event()
            made.extend([server, done])
            ready.set()
            await done.wait()

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield made[0]
    finally:
        loop.call_soon_threadsafe(made[1].set)
        thread.join(10)
        assert not thread.is_alive()


class KeyServer:
    """Echoes, and keeps the masking key of every frame."""

    def __init__(self) -> None:
        self.keys: collections.Counter[bytes] = collections.Counter()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        request = parse_request((await reader.readuntil(b"\r\n\r\n"))[:-4])
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept_key(request.key),
        }
        writer.write(encode_response(101, headers))
        parser = FrameParser(1 << 20)
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65536):
                for frame in parser.feed(data):
                    self.keys[frame.key] += 1
                    opcode = 0xA if frame.opcode == 9 else frame.opcode
                    writer.write(encode_frame(opcode, frame.payload))
                await writer.drain()
        writer.close()


def message(number: int, index: int) -> str | bytes:
    """Of any size and kind, so that every way to write a frame is taken."""
    text = f"{number}:{index}:" + "x" * (index * 37 % 400)
    return text if index % 3 else text.encode()


async def talk(client: WebSocketClient, number: int) -> None:
    """Send and receive at once; every echo must come, unharmed and in order."""

    async def send() -> None:
        for index in range(MESSAGES):
            await client.send(message(number, index))
            if index % 50 == 0:
                await asyncio.sleep(0)

    async with client, asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        for index in range(MESSAGES):
            assert await client.recv() == message(number, index)
    stats = client.stats
    assert (stats.sent, stats.received, stats.uncertain) == (MESSAGES, MESSAGES, 0)


@pytest.mark.promise("P5")
@pytest.mark.slow
@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
def test_every_message_arrives_in_order_and_no_key_is_used_twice(transport):
    with served(KeyServer) as server:
        in_threads(lambda number: talk(WebSocketClient(server.url, transport=transport), number))
        assert sum(server.keys.values()) >= THREADS * MESSAGES
        # Of 32 random bits; two of some thousand are alike once in a thousand runs, three never.
        assert max(server.keys.values()) <= 2
        assert sum(count - 1 for count in server.keys.values()) <= 2
        assert None not in server.keys


@pytest.mark.slow
def test_each_loop_has_a_session_a_resolver_and_turns_to_dial_of_its_own():
    """Connections come and go in all threads at once, by one name and under one governor."""
    governor = Governor(max_dials=1)

    async def dial(number: int) -> int:
        for _ in range(10):
            async with WebSocketClient(url, governor=governor, reconnect=SOON) as client:
                await client.send(str(number))
                assert await client.recv() == str(number)
        return number

    with served(FaultServer) as server, Hosts({"threads.test": ["127.0.0.1"]}) as hosts:
        url = f"ws://threads.test:{server.port}/"
        assert in_threads(dial) == list(range(THREADS))
        assert 1 <= len(hosts.lookups) <= THREADS * 10
        assert server.attempt_count == THREADS * 10


@pytest.mark.promise("P1")
@pytest.mark.slow
def test_losses_in_one_thread_do_not_reach_another():
    """A server that resets all connections over and over: each client resends what it has to, and no other's."""

    async def work(number: int) -> None:
        outbox = Outbox(on_uncertain="resend")
        async with WebSocketClient(server.url, outbox=outbox, reconnect=SOON) as client:
            for index in range(40):
                await client.send(f"{number}:{index}")
                await asyncio.sleep(0.005)
            await client.flush()

    async def drop(server: FaultServer) -> None:
        for _ in range(4):
            await asyncio.sleep(0.05)
            server.drop_all("rst")

    class Dropping(FaultServer):
        async def __aenter__(self):
            await super().__aenter__()
            self.spawn(drop(self), "dropping")
            return self

    with served(Dropping) as server:
        in_threads(work)
        seen: dict[str, list[int]] = collections.defaultdict(list)
        for received in server.received:
            number, _, index = received.message.partition(":")
            if int(index) not in seen[number]:
                seen[number].append(int(index))
    assert seen == {str(number): list(range(40)) for number in range(THREADS)}


@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
def test_one_default_tls_context_is_made_though_all_threads_ask_at_once(transport, monkeypatch):
    made = []
    make = ssl.create_default_context

    def counted(*args, **options):
        made.append(threading.current_thread())
        return make(*args, **options)

    async def fail(_: int) -> str:
        client = WebSocketClient(server.url, fail_fast=True, transport=transport)
        with pytest.raises(ConnectError, match="certificate") as caught:
            await client.__aenter__()
        return type(caught.value.__cause__).__name__

    monkeypatch.setattr(ssl, "create_default_context", counted)
    with served(lambda: FaultServer(ssl=tls.good())) as server:
        assert in_threads(fail) == ["SSLCertVerificationError"] * THREADS
    assert len(made) <= 1


def test_importing_the_package_does_not_switch_the_lock_on_again():
    """On a free-threaded Python; only our own modules and what they cannot do without."""
    code = "import sys, resilient_ws, resilient_ws.testing; print(getattr(sys, '_is_gil_enabled', lambda: True)())"
    expected = str(getattr(sys, "_is_gil_enabled", lambda: True)())
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == expected
    assert "GIL" not in done.stderr
