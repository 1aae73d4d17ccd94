"""A client belongs to one event loop: every public call from another loop or another thread raises, and says what to do."""

import asyncio
import inspect
import threading

import pytest

from resilient_ws import ConcurrencyError, State, WebSocketClient
from resilient_ws.testing import FakeTransport
from tests.client.kit import URL, settle, stage

pytestmark = pytest.mark.promise("P5")

ASYNC = {
    "__aenter__": lambda client: client.__aenter__(),
    "__aexit__": lambda client: client.__aexit__(None, None, None),
    "__anext__": lambda client: client.__anext__(),
    "batches": lambda client: client.batches().__anext__(),
    "close": lambda client: client.close(),
    "flush": lambda client: client.flush(),
    "ready": lambda client: client.ready(),
    "recv": lambda client: client.recv(),
    "request": lambda client: client.request("x", lambda _: True),
    "run": lambda client: client.run(signals=()),
    "send": lambda client: client.send("x"),
    "send_json": lambda client: client.send_json({}),
}
SYNC = {
    "__aiter__": lambda client: client.__aiter__(),
    "events": lambda client: client.events(),
    "on_close": lambda client: client.on_close(print),
    "on_error": lambda client: client.on_error(print),
    "on_message": lambda client: client.on_message(print),
    "on_open": lambda client: client.on_open(print),
    "on_reconnect": lambda client: client.on_reconnect(print),
    "on_retry": lambda client: client.on_retry(print),
    "on_state": lambda client: client.on_state(print),
    "on_undelivered": lambda client: client.on_undelivered(print),
    "reconnect_now": lambda client: client.reconnect_now(),
    "start": lambda client: client.start(),
    "subscribe": lambda client: client.subscribe("key", "x"),
    "unsubscribe": lambda client: client.unsubscribe("key"),
    "with_gaps": lambda client: client.with_gaps(lost=True),
}
READS = {"__repr__", "close_event", "explain", "latency", "silent_for", "state", "stats"}
"""They change nothing, and a thread that watches over a blocked loop needs them."""
OF_THE_LANGUAGE = {"__init__", "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__",
                   "__static_attributes__", "__del__"}  # fmt: skip


def members():
    names = {name for kind in WebSocketClient.__mro__[:-1] for name in vars(kind)}
    return {name for name in names if not name.startswith("_") or name.startswith("__")} - OF_THE_LANGUAGE


def test_every_public_member_is_in_one_of_the_lists():
    assert members() == ASYNC.keys() | SYNC.keys() | READS
    for name in ASYNC.keys() - {"batches"}:
        assert inspect.iscoroutinefunction(getattr(WebSocketClient, name)), name


def in_another_loop(call, client):
    async def main():
        result = call(client)
        return await result if inspect.isawaitable(result) else result

    return asyncio.run(main())


def in_another_thread(run, *arguments):
    """Do it there, while the loop of the client stands: it must not depend on a turn of that loop."""
    outcome = []

    def work():
        try:
            outcome.append(run(*arguments))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return outcome[0]


def refused(outcome):
    assert isinstance(outcome, ConcurrencyError), outcome
    assert "another event loop" in str(outcome)
    assert "run_coroutine_threadsafe" in str(outcome)
    assert "call_soon_threadsafe" in str(outcome)


@pytest.mark.parametrize("name", [*ASYNC, *SYNC])
async def test_a_call_in_the_loop_of_another_thread_is_refused(name):
    async with stage() as played:
        outcome = in_another_thread(in_another_loop, (ASYNC | SYNC)[name], played.client)
        refused(outcome)
        await settle()
        assert played.client.state is State.OPEN
        assert played.received == []


@pytest.mark.parametrize("name", SYNC)
async def test_a_call_in_a_thread_without_a_loop_is_refused(name):
    async with stage() as played:
        refused(in_another_thread(SYNC[name], played.client))
        await settle()
        assert played.client.state is State.OPEN
        assert played.received == []


@pytest.mark.parametrize("message", ["text", "\xe4", b"bytes", bytearray(b"x")])
@pytest.mark.parametrize("sent_before", range(4))
async def test_so_is_a_send_in_the_middle_of_a_turn_in_which_others_are_sent(message, sent_before):
    async with stage() as played:
        for number in range(sent_before):
            await played.client.send(str(number))
        refused(in_another_thread(in_another_loop, lambda client: client.send(message), played.client))
        await played.client.send("last")
        await settle()
        assert played.received == [*map(str, range(sent_before)), "last"]


@pytest.mark.parametrize("name", sorted(READS))
async def test_what_is_only_read_can_be_read_anywhere(name):
    def read(client):
        value = getattr(client, name)
        return value() if callable(value) else value

    async with stage() as played:
        assert not isinstance(in_another_thread(read, played.client), BaseException)


@pytest.mark.parametrize("name", SYNC)
async def test_before_its_start_a_client_belongs_to_no_loop(name):
    if name in {"start", "reconnect_now"}:
        return
    client = WebSocketClient(URL, transport=FakeTransport())
    assert not isinstance(in_another_thread(SYNC[name], client), BaseException)


async def test_the_ways_out_work():
    async with stage() as played:
        loop = asyncio.get_running_loop()

        def work():
            loop.call_soon_threadsafe(played.client.subscribe, "key", "subscribed")
            return asyncio.run_coroutine_threadsafe(played.client.send("sent"), loop).result(10)

        await asyncio.to_thread(work)
        await settle()
        assert played.received == ["subscribed", "sent"]
