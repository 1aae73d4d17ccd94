"""Nothing is lost without a word and nothing twice unasked, however the line breaks (P4, P5)."""

import asyncio

import pytest

from resilient_ws import Fate, Outbox, WebSocketClient
from tests.faults.conftest import peer_command
from tests.faults.watch import HEARTBEAT, PATIENCE, QUICK, watching


@pytest.mark.slow
@pytest.mark.promise("P4")
async def test_nothing_of_an_abandoned_connection_arrives_after_what_came_later(network, tmp_path):
    journal = tmp_path / "journal"
    first, second = (
        network.start_command(f"peer-{port}", peer_command("--journal", journal), port) for port in (8000, 8001)
    )

    async def where(attempt):
        return first.url if attempt.last_close is None else second.url

    client = WebSocketClient(where, heartbeat=HEARTBEAT, reconnect=QUICK)
    async with watching(client) as watch:
        await client.send("1", confirm=True)
        network.drop(port=first.port)
        await client.send("2")
        await client.send("3")
        await watch.closed()
        await watch.opened(2)
        assert [told.event.fate for told in watch.told if hasattr(told.event, "fate")] == [Fate.UNCERTAIN] * 2
        await client.send("4", confirm=True)
        network.undrop()
        await asyncio.sleep(2)  # by then the kernel would have sent 2 and 3 again
        await client.send("5", confirm=True)
    assert journal.read_text().split() == ["1", "4", "5"]
