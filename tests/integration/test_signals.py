"""Signals as a program gets them: `run()` in a process of its own, under `asyncio.run`."""

import asyncio
import signal
import subprocess
import sys

import pytest

from resilient_ws.testing import Accept, FaultServer

PROGRAM = """
import asyncio, signal, sys
from resilient_ws import WebSocketClient

def told(number, frame):
    print("the program's own handler")
    client_task.cancel()

async def main():
    global client_task
    client_task = asyncio.current_task()
    if sys.argv[2] == "own":
        signal.signal(signal.SIGINT, told)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    client = WebSocketClient(sys.argv[1])
    await client.send("here I am")
    try:
        await client.run()
    finally:
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        print("handlers are back,", client.close_event)

asyncio.run(main())
"""


async def interrupted(number, handler):
    """Run the program until it is connected, send it the signal; return exit code, output and the code we got."""
    async with FaultServer(default=Accept(echo=False)) as server:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, server.url, handler, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            connection = await server.connection(timeout=20)
            await server.until(lambda: server.received_count == 1)  # the client is open, not only the server
            program.send_signal(number)
            output, log = await asyncio.wait_for(program.communicate(), 10)
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
    assert b"handlers are back, closed by local with 1000" in output, log.decode()
    assert connection.close_code == 1000
    return program.returncode, output.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_closes_the_client_and_run_returns(number):
    code, output = await interrupted(number, "default")
    assert code == 0
    assert "own handler" not in output


async def test_a_handler_of_the_program_is_left_alone():
    code, output = await interrupted(signal.SIGINT, "own")
    assert code != 0  # its handler has cancelled the program, as it wanted to
    assert "the program's own handler" in output
