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
    assert b"handlers are back, closed by this client with 1000" in output, log.decode()
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


HURRIED = """
import asyncio, signal, sys, threading
from resilient_ws import WebSocketClient

async def main():
    client = WebSocketClient(sys.argv[1], close_timeout=60, on_state=lambda event: print(event.new, flush=True))
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def restored(event):
        if event.new == "closing":
            assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
            print("restored", flush=True)

    client.on_state(restored)
    await client.run()

asyncio.run(main())
"""


@pytest.mark.promise("P7")
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_does_what_it_would_do_without_us(first, second):
    """The server never answers our CLOSE, so that closing takes a minute."""
    async with FaultServer(default=Accept(echo=False, answer_close=False)) as server:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HURRIED, server.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert program.stdout is not None
        try:
            async with asyncio.timeout(30):
                while await program.stdout.readline() != b"open\n":
                    pass
                program.send_signal(first)
                while await program.stdout.readline() != b"restored\n":
                    pass
            await asyncio.sleep(0.2)
            assert program.returncode is None, "it waits for the server"
            program.send_signal(second)
            _, log = await asyncio.wait_for(program.communicate(), 10)
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
    if second is signal.SIGTERM:
        assert program.returncode == -signal.SIGTERM
    else:
        assert program.returncode in {130, -signal.SIGINT, 1}
        assert b"KeyboardInterrupt" in log
