"""A program that has set up no logging hears on stderr what goes wrong, with the traceback of its own mistakes."""

import asyncio
import subprocess
import sys

import pytest

from resilient_ws.testing import Accept, FaultServer

PROGRAM = """
import asyncio, sys
from resilient_ws import Endpoint, ReconnectPolicy, WebSocketClient

URL, WHAT = sys.argv[1:]
SECRETS = {"headers": {"Authorization": "Bearer s3same-header"}, "subprotocols": ["s3same-subprotocol"]}

def mistaken(*_):
    raise LookupError(
        "by mistake, at wss://user:s3same-password@elsewhere.test/path?token=s3same-query#s3same-fragment"
        f" and {client._supervisor.config.addresses.known[0].headers}"
    )

async def mistaken_later(*_):
    await asyncio.sleep(0)
    mistaken()

async def main():
    global client
    options = {}
    url = URL + "?key=s3same-key"
    if WHAT == "decide": options["reconnect"] = ReconnectPolicy(decide=mistaken, first_delay=0, min_delay=0, max_attempts=2)
    elif WHAT in ("wait", "stop"): options["reconnect"] = ReconnectPolicy(**{WHAT: mistaken}, max_attempts=2)
    else: options["reconnect"] = ReconnectPolicy(first_delay=0, min_delay=0, max_delay=0.01, max_attempts=2)
    if WHAT == "setup": options["setup"] = mistaken_later
    if WHAT.startswith("on_"): options[WHAT] = mistaken
    if WHAT == "async on_open": options["on_open"] = mistaken_later
    if WHAT == "provider": url = mistaken_later
    client = WebSocketClient(url, **SECRETS, **options)
    client.start()
    try:
        await client.ready(5)
    except Exception:
        pass
    await asyncio.sleep(0.3)
    await client.close()

asyncio.run(main())
"""


async def stderr_of(url, what):
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, url, what, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        _, log = await asyncio.wait_for(program.communicate(), 30)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, log.decode()
    return log.decode()


async def test_a_refused_port_is_heard():
    async with FaultServer() as server:
        url = server.url
    log = await stderr_of(url, "nothing")
    assert url.removesuffix("/") in log
    assert "retry 1" in log
    assert "s3same" not in log


async def test_what_goes_well_is_not_heard():
    async with FaultServer(default=Accept()) as server:
        assert await stderr_of(server.url, "nothing") == ""


@pytest.mark.promise("P9")
@pytest.mark.promise("P12")
@pytest.mark.parametrize(
    "what, said",
    [
        ("on_open", "callback on_open raised LookupError"),
        ("async on_open", "callback on_open raised LookupError"),
        ("on_state", "callback on_state raised LookupError"),
        ("on_message", "callback on_message raised LookupError"),
        ("on_close", "callback on_close raised LookupError"),
        ("setup", "setup raised LookupError"),
        ("provider", "the URL provider raised LookupError"),
        ("decide", "decide raised LookupError"),
        ("wait", "wait raised LookupError"),
        ("stop", "stop raised LookupError"),
    ],
)
async def test_what_the_program_raises_is_heard_with_its_traceback_and_without_secrets(what, said):
    async def greet(connection):
        await connection.send("hello")
        await asyncio.sleep(0.1)
        if what in {"decide", "wait", "stop"}:
            connection.rst()

    answers = Accept(then=greet)
    async with FaultServer(default=answers) as server:
        log = await stderr_of(server.url, what)
    assert said in log, log
    assert "Traceback (most recent call last)" in log
    assert "in mistaken" in log
    assert "LookupError: by mistake, at wss://elsewhere.test/path" in log
    assert "s3same" not in log, log
