"""What was read of a socket, and its end, reach the program within the call that the socket made."""

import asyncio
import contextlib

import pytest
import uvloop

from resilient_ws import WebSocketClient
from resilient_ws.testing import Accept, FaultServer
from tests.integration.listening import SOON

pytestmark = pytest.mark.skipif("os.environ.get('RESILIENT_WS_PLAIN')", reason="it is aiohttp that reads")


class Watch(asyncio.BufferedProtocol):
    """Notes when the socket of a client calls, in one list with what the program hears."""

    def __init__(self, client):
        self.heard = []
        transport = client._supervisor.active.link._transport
        self.inner = transport.get_protocol()
        transport.set_protocol(self)

    def get_buffer(self, sizehint):
        return self.inner.get_buffer(sizehint)

    def buffer_updated(self, nbytes):
        self.note(self.inner.buffer_updated, nbytes)

    def eof_received(self):
        return self.inner.eof_received()

    def connection_lost(self, exc):
        self.note(self.inner.connection_lost, exc)

    def note(self, call, argument):
        self.heard.append(call.__name__)
        try:
            call(argument)
        finally:
            self.heard.append(f"after {call.__name__}")


@pytest.fixture(params=["aiohttp", "picows"])
async def served(request):
    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=SOON, transport=request.param) as client:
            yield client, await server.connection()


async def until_heard(watch, what):
    async with asyncio.timeout(10):
        while what not in watch.heard:
            await asyncio.sleep(0.001)


async def test_who_waits_for_a_message_goes_on_within_the_read(served):
    client, peer = served
    watch = Watch(client)

    async def take():
        async for message in client:
            watch.heard.append(message)

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    await peer.send("one")
    await until_heard(watch, "after buffer_updated")
    assert watch.heard == ["buffer_updated", "one", "after buffer_updated"]
    task.cancel()


async def test_a_callback_for_messages_is_called_within_the_read(served):
    client, peer = served
    watch = Watch(client)
    client.on_message(watch.heard.append)
    await asyncio.sleep(0)
    await peer.send("one")
    await until_heard(watch, "after buffer_updated")
    assert watch.heard == ["buffer_updated", "one", "after buffer_updated"]


@pytest.mark.promise("P1")
async def test_a_loss_is_told_within_the_call_that_tells_us_of_it(served):
    client, peer = served
    watch = Watch(client)
    client.on_close(lambda event: watch.heard.append(event.code))
    peer.rst()
    await until_heard(watch, "after connection_lost")
    assert watch.heard == ["connection_lost", 1006, "after connection_lost"]


async def test_what_the_program_does_meanwhile_may_end_the_client(served):
    client, peer = served

    async def close_at_once():
        async for _ in client:
            await client.close()

    task = asyncio.create_task(close_at_once())
    await asyncio.sleep(0)
    await peer.send("one")
    await peer.send("two")
    async with asyncio.timeout(10):
        await task


async def test_who_goes_on_within_the_read_may_wait_for_an_answer(served):
    client, peer = served

    async def ask():
        message = await client.recv()
        return message, await client.request("question", match=lambda text: "answer" in text)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    await peer.send("go")
    assert (await peer.recv()) == "question"
    await peer.send("answer")
    async with asyncio.timeout(10):
        assert await asking == ("go", "answer")


async def test_an_idle_connection_holds_nothing_of_a_large_message(served):
    client, peer = served
    await peer.send("small")  # picows reads until it is known where a frame begins
    assert await client.recv() == "small"
    await peer.send("x" * 1_000_000)
    assert len(await client.recv()) == 1_000_000
    protocol = client._supervisor.active.link._transport.get_protocol()
    assert protocol._buffer is protocol._scratch


async def exits(transport, where, went_on):
    """The program ends the process within a step that follows what has come."""

    def end(_):
        raise SystemExit(where)

    async with FaultServer(default=Accept(echo=False)) as server:
        async with WebSocketClient(server.url, reconnect=SOON, transport=transport) as client:
            peer = await server.connection()
            if where in {"on_message", "on_close"}:
                getattr(client, where)(end)
            await asyncio.sleep(0)
            if where == "on_close":
                peer.fin()
            else:
                asyncio.get_running_loop().call_later(0.01, lambda: peer.frame(1, b"one"))
            if where == "main":
                end(await client.recv())
            await asyncio.sleep(2)
            went_on.append(where)


@pytest.mark.expects_errors
@pytest.mark.parametrize("where", ["main", "on_message", "on_close"])
@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_ends_the_process_does_so_at_once(loop, transport, where):
    """uvloop would take it for an error of the transport, and go on."""
    running, went_on = loop(), []
    try:
        with pytest.raises(SystemExit, match=where):
            running.run_until_complete(exits(transport, where, went_on))
        assert not went_on
        for _ in range(10):  # it ends one task after the other
            tasks = asyncio.all_tasks(running)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            with contextlib.suppress(SystemExit):
                running.run_until_complete(asyncio.wait(tasks, timeout=5))
    finally:
        running.close()
