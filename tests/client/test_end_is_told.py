"""Whoever waits for a message when the client ends by itself is told what ended it."""

import pytest

from resilient_ws import ClientClosed, ClientStopped, HandshakeRejected
from resilient_ws.testing import FakeTransport
from tests.client.kit import stage

pytestmark = pytest.mark.promise("P11")


async def by_recv(client):
    await client.recv()


async def by_iteration(client):
    async for _ in client:
        pass


async def by_iteration_with_gaps(client):
    async for _ in client.with_gaps():
        pass


async def by_batches(client):
    async for _ in client.batches():
        pass


async def by_run(client):
    await client.run()


WAYS = [by_recv, by_iteration, by_iteration_with_gaps, by_batches]


@pytest.mark.parametrize("receive", [*WAYS, by_run])
async def test_the_exception_has_its_cause_and_the_final_event(receive):
    transport = FakeTransport()
    transport.refuse(HandshakeRejected("HTTP 404", status=404))
    async with stage(transport, ready=False) as played:
        with pytest.raises(ClientStopped, match="HTTP 404") as ended:
            await receive(played.client)
        assert isinstance(ended.value.__cause__, HandshakeRejected)
        assert ended.value.__cause__.status == 404
        assert ended.value.event is played.client.close_event


@pytest.mark.parametrize("receive", WAYS[1:])
async def test_after_our_own_close_an_iteration_ends_quietly(receive):
    async with stage() as played:
        await played.client.close()
        await receive(played.client)


async def test_after_our_own_close_recv_has_no_cause_to_tell():
    async with stage() as played:
        await played.client.close()
        with pytest.raises(ClientClosed) as ended:
            await played.client.recv()
        assert ended.value.__cause__ is None
        assert not isinstance(ended.value, ClientStopped)
