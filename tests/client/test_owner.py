"""The supervisor task ends aloud, whatever ends it (P11)."""

import asyncio

import pytest

from resilient_ws import (
    ClientStopped,
    CloseEvent,
    OpenEvent,
    ReconnectPolicy,
    State,
    WebSocketClient,
)
from resilient_ws.connection import active
from resilient_ws.core.retry import RetryState
from resilient_ws.runtime.supervisor import Supervisor
from resilient_ws.testing import FakeTransport, run_virtual
from tests.client.kit import URL, stage

pytestmark = pytest.mark.promise("P11")


@pytest.mark.expects_errors
async def test_a_defect_in_the_owner_task_ends_the_client_aloud(monkeypatch):
    async with stage() as played:
        monkeypatch.setattr(Supervisor, "_decide", lambda *_: 1 / 0)
        receiving = asyncio.ensure_future(played.client.recv())
        played.peer.drop()
        with pytest.raises(ClientStopped, match="defect"):
            await receiving
        assert played.client.state is State.CLOSED
        assert played.client.close_event.final


async def test_a_cancelled_owner_task_ends_the_client_aloud():
    async with stage() as played:
        receiving = asyncio.ensure_future(played.client.recv())
        await asyncio.sleep(0)
        (owner,) = (task for task in asyncio.all_tasks() if task.get_name().endswith(":owner"))
        owner.cancel()
        with pytest.raises(ClientStopped, match="cancelled") as caught:
            await receiving
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert played.client.state is State.CLOSED
        assert played.client.close_event.rule == "the supervisor task was cancelled"


@pytest.mark.expects_errors
async def test_what_no_one_may_catch_is_what_has_ended_the_client(monkeypatch):
    class NoException(BaseException):
        pass

    def wait(*_, **__):
        raise NoException

    monkeypatch.setattr(RetryState, "failed", wait)
    async with stage() as played:
        played.peer.drop()
        with pytest.raises(ClientStopped, match="NoException ended the supervisor task") as caught:
            await played.client.recv()
        assert isinstance(caught.value.__cause__, NoException)
        assert played.client.close_event.rule == "NoException ended the supervisor task"


@pytest.mark.expects_errors  # asyncio says that nobody asked the task what it raised
def test_what_ends_the_process_is_what_has_ended_the_client():
    def decide(_failure):
        raise SystemExit(3)

    made = []

    async def main():
        transport = FakeTransport()
        made.append(WebSocketClient(URL, transport=transport, reconnect=ReconnectPolicy(decide=decide)))
        async with made[0]:
            transport.peer.drop()
            await asyncio.sleep(10)

    with pytest.raises(SystemExit):
        run_virtual(main())
    (client,) = made
    assert client.state is State.CLOSED
    assert client.close_event.rule == "SystemExit ended the supervisor task"
    assert client.close_event.final


@pytest.mark.expects_errors
async def test_a_defect_behind_the_handshake_frees_the_socket(monkeypatch):
    monkeypatch.setattr(active, "Pinger", lambda *_, **__: 1 / 0)
    transport = FakeTransport()
    client = WebSocketClient("ws://peer.test/ws", transport=transport)
    client.start()
    with pytest.raises(ClientStopped, match="defect"):
        await client.recv()
    assert not transport.peer.is_open
    await client.close()


@pytest.mark.expects_errors
async def test_a_defect_while_the_connection_is_open_tells_of_its_end(monkeypatch):
    monkeypatch.setattr(Supervisor, "_answer_ready", lambda *_, is_open: 1 // (not is_open))
    client = WebSocketClient("ws://peer.test/ws", transport=FakeTransport())
    events = client.events()
    client.start()
    with pytest.raises(ClientStopped, match="defect"):
        await client.recv()
    told = [event async for event in events if isinstance(event, OpenEvent | CloseEvent)]
    assert [type(event) for event in told] == [OpenEvent, CloseEvent]
    assert told[1].opened_for is not None
    assert told[1].final
    await client.close()
