"""`latency` and `silent_for` on real sockets: precise on every event loop, and cheap."""

import asyncio

import pytest

from resilient_ws import Heartbeat, Outbox, WebSocketClient
from resilient_ws.testing import FaultServer
from resilient_ws.transports.shared import tcp_info as kernel

TRANSPORTS = pytest.mark.parametrize("transport", ["aiohttp", "picows"])


async def measure(transport, heartbeat, outbox):
    """Return some round trips on the loopback interface, which take less than a millisecond."""
    trips = []
    async with (
        FaultServer() as server,
        WebSocketClient(server.url, transport=transport, heartbeat=heartbeat, outbox=outbox) as client,
    ):
        for _ in range(10):
            await client.send("x", confirm=True)
            trips.append(client.latency)
    return trips


@TRANSPORTS
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "heartbeat, outbox", [(Heartbeat(), Outbox()), (Heartbeat.expect(60), Outbox(confirm=True))]
)
def test_latency_has_microseconds_on_every_event_loop(transport, loop, heartbeat, outbox):
    pytest.importorskip(transport)
    factory = asyncio.SelectorEventLoop
    if loop == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        trips = runner.run(measure(transport, heartbeat, outbox))
    assert all(0 < trip < 1 for trip in trips)
    assert len(set(trips)) > 3  # a clock of milliseconds shows one or two values
    assert any(trip * 1000 % 1 > 1e-6 for trip in trips)


@TRANSPORTS
async def test_to_ask_for_the_silence_takes_no_system_call(transport, monkeypatch):
    pytest.importorskip(transport)
    async with (
        FaultServer() as server,
        WebSocketClient(server.url, transport=transport, heartbeat=None) as client,
    ):
        await asyncio.sleep(0.05)
        monkeypatch.setattr(kernel, "read", lambda _: pytest.fail("asked the kernel"))
        before = client.silent_for
        assert 0.04 < before < 5
        await asyncio.sleep(0.02)
        assert client.silent_for >= before + 0.015
        monkeypatch.undo()
