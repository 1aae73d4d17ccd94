"""A handler that runs the event loop within itself, as notebooks and debuggers do: the connection goes on meanwhile."""

import asyncio
import subprocess
import sys
import time

import pytest

from resilient_ws import WebSocketClient
from resilient_ws.testing import FaultServer
from tests.integration import tls

PROGRAM = """
import asyncio, sys, nest_asyncio
from resilient_ws import WebSocketClient
from resilient_ws.testing import FaultServer

async def main(transport, early):
    errors = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    async with FaultServer() as server, WebSocketClient(server.url, transport=transport) as client:
        if early:
            nest_asyncio.apply()
        async def lookup():
            await client.send("within", confirm=True)
            return await client.recv()
        await client.send("without")
        heard = [await client.recv()]
        nest_asyncio.apply()
        heard.append(loop.run_until_complete(asyncio.wait_for(lookup(), 5)))
        assert heard == ["without", "within"], heard
        await client.send("after", confirm=True)
        assert await client.recv() == "after"
    assert not errors, errors[:2]

asyncio.run(main(sys.argv[1], sys.argv[2] == "early"))
"""


@pytest.mark.parametrize("when", ["early", "in the handler"])
@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
def test_with_nest_asyncio(transport, when):
    pytest.importorskip("nest_asyncio")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, transport, when],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def run_within(coroutine):
    """Run the loop until `coroutine` is done, within a step of a task."""
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    assert current is not None
    asyncio.tasks._leave_task(loop, current)
    try:
        task = loop.create_task(coroutine)
        until = time.monotonic() + 5
        while not task.done() and time.monotonic() < until:
            loop._run_once()
    finally:
        asyncio.tasks._enter_task(loop, current)
    return task.result()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("transport", ["aiohttp", "picows"])
async def test_by_hand_and_one_in_the_other(transport, secure):
    loop, errors = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    options = {"ssl": tls.good(), "host": "localhost"} if secure else {}
    async with (
        FaultServer(**options) as server,
        WebSocketClient(server.url, transport=transport, ssl=tls.trusting() if secure else True) as client,
    ):

        async def lookup(depth):
            await client.send(f"at depth {depth}")
            heard = [await client.recv()]  # goes on within the read
            await client.flush(5)
            return heard

        async def nested(depth):
            await client.send(f"at depth {depth}")
            heard = [await client.recv()]  # goes on within the read
            return heard + run_within(lookup(depth + 1) if depth == 2 else nested(depth + 1))

        for _ in range(3):
            assert await nested(0) == [f"at depth {depth}" for depth in range(4)]
    assert errors == []
