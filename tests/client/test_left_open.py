"""A client that a program forgets to start or to close says so when it is garbage."""

import asyncio
import gc
import warnings

import pytest

from resilient_ws import Outbox, WebSocketClient
from resilient_ws.testing import FakeTransport, PingAnswers
from tests.client.kit import URL, settle


def warned(forget):
    """Return the texts of the warnings while something becomes garbage."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget()
        gc.collect()
    assert all(one.category is ResourceWarning for one in caught)
    return [str(one.message) for one in caught]


@pytest.mark.promise("P5")
@pytest.mark.parametrize(
    "count, lost", [(1, "1 accepted message is lost"), (3, "3 accepted messages are lost")]
)
async def test_a_client_that_was_never_started_says_how_many_messages_are_lost(count, lost):
    clients = [WebSocketClient(URL + "?token=secret", transport=FakeTransport())]
    for number in range(count):
        await clients[0].send(str(number))
    (text,) = warned(clients.clear)
    assert "was never started" in text
    assert lost in text
    assert "secret" not in text


async def test_a_client_that_has_done_nothing_or_is_closed_says_nothing():
    clients = [WebSocketClient(URL, transport=FakeTransport())]
    assert warned(clients.clear) == []
    for drain in (None, 1):
        async with WebSocketClient(URL, transport=FakeTransport()) as client:
            await client.send("m")
            await client.close(drain=drain)
        del client
        clients = [WebSocketClient(URL, transport=FakeTransport())]
        await clients[0].send("m")
        await clients[0].close()
        assert warned(clients.clear) == []


def test_a_constructor_that_raises_says_nothing():
    def make():
        with pytest.raises(ValueError, match="url"):
            WebSocketClient("http://peer.test")

    assert warned(make) == []


@pytest.mark.promise("P5")
@pytest.mark.parametrize("path", [False, True])
def test_a_client_whose_loop_ended_without_close_says_what_is_lost(tmp_path, path):
    outbox = Outbox(path=tmp_path / "outbox.db") if path else Outbox()
    loop = asyncio.new_event_loop()

    async def main():
        transport = FakeTransport(lambda peer: setattr(peer, "answers_pings", PingAnswers.NONE))
        client = WebSocketClient(URL, transport=transport, outbox=outbox)
        client.start()
        await client.ready(5)
        await client.send("a")
        await client.send("b")
        return client

    clients = [loop.run_until_complete(main())]
    (task,) = asyncio.all_tasks(loop)
    engine = clients[0]._supervisor
    (text,) = warned(clients.clear)
    assert "was not closed" in text
    assert ("no accepted message is lost" if path else "2 accepted messages are lost") in text
    task.cancel()
    loop.run_until_complete(asyncio.wait([task], timeout=5))
    assert engine.life.is_over
    loop.close()


async def test_a_callback_that_uses_its_client_keeps_nothing_alive_after_the_end():
    class Witness:
        gone = 0

        def __del__(self):
            Witness.gone += 1

    client = WebSocketClient(URL, transport=FakeTransport())
    client.witness = Witness()
    client.on_message(client.send)
    async with client:
        await settle()
    del client
    await settle()
    gc.collect()
    assert Witness.gone == 1
