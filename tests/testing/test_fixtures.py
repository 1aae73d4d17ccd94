"""The fixtures in this very run; `test_plugin` shows them to a pytest of its own."""

import asyncio

import pytest
import websockets

from resilient_ws.testing import LeakCheck, Refuse


async def test_the_server_and_the_proxy(leak_check, fault_server, chaos_proxy):
    assert isinstance(leak_check, LeakCheck)
    proxy = chaos_proxy(fault_server.url, seed=1)
    async with websockets.connect(proxy.url) as client:
        await client.send("1")
        assert await client.recv() == "1"
    assert fault_server.report([1]).ok


@pytest.mark.fault_server([Refuse(401)])
async def test_the_marker(fault_server):
    with pytest.raises(websockets.InvalidStatus):
        async with websockets.connect(fault_server.url):
            pass


async def test_the_clock(virtual_clock):
    await asyncio.sleep(3600)
    assert virtual_clock.elapsed == 3600


def test_the_clock_without_a_loop(virtual_clock):
    virtual_clock.run(asyncio.sleep(60))
    assert virtual_clock.elapsed == 60
