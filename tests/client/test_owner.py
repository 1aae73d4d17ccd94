"""The owner task ends aloud, whatever ends it (P11)."""

import asyncio

import pytest

from resilient_ws import ClientStopped, CloseEvent, OpenEvent, State, WebSocketClient
from resilient_ws.owner import Owner
from resilient_ws.testing import FakeTransport
from tests.client.kit import stage

pytestmark = pytest.mark.promise("P11")


@pytest.mark.expects_errors
async def test_a_defect_in_the_owner_task_ends_the_client_aloud(monkeypatch):
    async with stage() as played:
        monkeypatch.setattr(Owner, "_decide", lambda *_: 1 / 0)
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
        with pytest.raises(ClientStopped, match="cancelled"):
            await receiving
        assert played.client.state is State.CLOSED


@pytest.mark.expects_errors
async def test_a_defect_while_the_connection_is_open_tells_of_its_end(monkeypatch):
    monkeypatch.setattr(Owner, "_sleep", lambda *_: 1 / 0)
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
