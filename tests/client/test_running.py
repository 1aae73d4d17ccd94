"""`run()` as the main function of a program: signals close the client, on a real loop in the main thread (P11)."""

import asyncio
import os
import signal
import threading

import pytest

from resilient_ws import ClientStopped, State, WebSocketClient
from resilient_ws.testing import FakeTransport
from tests.client.kit import URL

pytestmark = pytest.mark.promise("P11")


def begin(**options):
    transport = FakeTransport()
    return WebSocketClient(URL, transport=transport, **options), transport


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_client_and_the_handlers_come_back(number):
    client, transport = begin(on_open=lambda event: os.kill(os.getpid(), number))

    async def main():
        before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        await client.run()
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before

    asyncio.run(main())
    assert client.state is State.CLOSED
    assert transport.peer.close_code == 1000
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_program_is_left_alone():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))

    async def kill(event):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        await client.close()

    client, _ = begin(on_open=kill)
    try:
        asyncio.run(client.run())
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_that_are_not_named_are_left_alone():
    seen = []

    async def look(event):
        seen.append(signal.getsignal(signal.SIGTERM))
        await client.close()

    client, _ = begin(on_open=look)
    asyncio.run(client.run(signals=()))
    assert seen == [signal.SIG_DFL]


def test_outside_of_the_main_thread_there_are_no_signals():
    outcome = []

    async def look(event):
        outcome.append(signal.getsignal(signal.SIGTERM))
        await client.close()

    client, _ = begin(on_open=look)
    thread = threading.Thread(target=lambda: outcome.append(asyncio.run(client.run())))
    thread.start()
    thread.join(10)
    assert outcome == [signal.SIG_DFL, None]


def test_what_ended_the_client_is_raised_and_the_handlers_come_back():
    client, transport = begin(on_open=lambda event: transport.peer.close(1008, "go"))
    with pytest.raises(ClientStopped, match="1008"):
        asyncio.run(client.run())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_one_signal_closes_all_clients_that_run():
    clients = [begin()[0] for _ in range(3)]
    handlers = []

    async def main():
        running = [asyncio.ensure_future(client.run()) for client in clients]
        await asyncio.sleep(0)  # each has started
        await asyncio.gather(*(client.ready() for client in clients))
        await clients[0].close()
        await asyncio.wait_for(running[0], 5)
        handlers.append(signal.getsignal(signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*running), 5)

    asyncio.run(main())
    assert [client.state for client in clients] == [State.CLOSED] * 3
    assert handlers[0] != signal.SIG_DFL  # the last one gives it back
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_that_cannot_be_hashed_is_one_of_the_program():
    class Handler:
        __hash__ = None

        def __call__(self, number, frame):
            pass

    handler = Handler()
    before = signal.signal(signal.SIGTERM, handler)
    client, _ = begin(on_open=lambda event: asyncio.ensure_future(client.close()))
    try:
        asyncio.run(client.run())
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("signals", ["SIGTERM", [9999], 5, [None]])
def test_what_is_no_signal_is_refused(signals):
    client, _ = begin()

    async def main():
        with pytest.raises((TypeError, ValueError), match="signals"):
            await client.run(signals=signals)
        assert client.state is State.IDLE

    asyncio.run(main())
