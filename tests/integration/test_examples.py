"""The examples as a person runs them: each in a process of its own, judged by what it prints and how it ends."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resilient_ws.testing import Accept, FaultServer

ROOT = Path(__file__).parents[2]


def run(name, *arguments, timeout=50, **environment):
    """Run an example to its end and return what it printed; warnings of Python are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", f"examples/{name}.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
        check=False,
    )


# ---- the demo


def counted(output, line):
    """Return the numbers in one line of the demo's summary."""
    found = re.search(rf"^  {line}\s+(.*)$", output, re.MULTILINE)
    assert found, output
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", found[1])]


@pytest.mark.slow
@pytest.mark.promise("P2")
@pytest.mark.promise("P5")
def test_the_demo_lives_through_everything_and_loses_nothing():
    demo = run("demo")

    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout + demo.stderr
    assert counted(demo.stdout, "outages") == [6]
    assert counted(demo.stdout, "lost") == [0]
    sent, at_the_server = counted(demo.stdout, "sent")
    made, at_the_client = counted(demo.stdout, "received")
    assert sent == at_the_server > 100
    assert made == at_the_client > 100
    detected = counted(demo.stdout, "detected in")
    assert len(detected) == 6
    # The silent server, noticed by the heartbeat of 1 + 1 s; a second of grace for a busy machine.
    assert 1 < detected[2] < 3
    for word in ("CLOSE 1012", "the heartbeat noticed", "HTTP 503", "open_timeout=2.0 s"):
        assert word in demo.stdout
    # aiohttp's public API does not tell a reset from an end of the stream.
    assert ("Connection reset" in demo.stdout) is not bool(os.environ.get("RESILIENT_WS_PLAIN"))
    assert "\x1b" not in demo.stdout


@pytest.mark.slow
def test_the_demo_ends_with_1_when_the_server_loses_a_message():
    demo = run("demo", "--scenes", "1", "--swallow", "7")

    assert demo.returncode == 1, demo.stdout + demo.stderr
    assert counted(demo.stdout, "lost") == [1]
    assert "client to server: 7" in demo.stdout


# ---- the others, each with the server that it brings along


def test_the_price_feed_is_stale_between_a_loss_and_the_next_snapshot():
    feed = run("price_feed", "--seconds", "3")

    assert feed.returncode == 0, feed.stderr
    kinds = [line.split(":")[0].split(" of ")[0].split(" s ")[0] for line in feed.stdout.splitlines()]
    outage = ["snapshot", "stale", "gap", "snapshot"]
    assert kinds[:4] == outage, feed.stdout
    applied = re.search(r"(\d+) connections, (\d+) changes applied", feed.stdout)
    assert applied, feed.stdout
    assert int(applied[1]) >= 2
    assert int(applied[2]) > 30


def test_the_order_book_is_never_wrong_unless_it_says_so():
    book = run("order_book", "--seconds", "3")

    assert book.returncode == 0, book.stderr
    lines = book.stdout.splitlines()
    kinds = [line.split()[0] for line in lines[:-1]]
    assert kinds[:5] == ["book", "stale:", "book", "stale:", "book"], book.stdout
    assert kinds.count("book") - kinds.count("stale:") in {0, 1}
    assert "stale: changes missing: 1" in lines
    assert "stale: closed by network (no CLOSE frame from the server: 1006" in book.stdout
    counted = re.fullmatch(r"(\d+) snapshots, (\d+) changes, after 0 of them the book was wrong", lines[-1])
    assert counted, book.stdout
    assert int(counted[1]) >= 3
    assert int(counted[2]) > 50


def test_the_chat_bot_fetches_a_token_for_each_attempt_and_keeps_the_gateways_heartbeat():
    bot = run("chat_gateway", "--seconds", "4")

    assert bot.returncode == 0, bot.stderr
    assert bot.stdout.count("fetching a fresh token") >= 2
    assert bot.stdout.count("ready as bot-1, a heartbeat every 0.2 s") >= 2
    assert (
        "closed by this client (no CLOSE frame from the server: 1006)" in bot.stdout
    )  # we have replaced it, as the gateway had asked
    assert "4009" not in bot.stdout  # the gateway has heard our heart
    assert re.search(r"answered [1-9]\d* messages on [2-9] connections", bot.stdout), bot.stdout


def test_the_service_works_on_across_a_loss_and_ends_after_its_time():
    service = run("service", "--seconds", "4")

    assert service.returncode == 0, service.stderr
    assert "lost: closed by network (no CLOSE frame from the server: 1006" in service.stdout
    assert re.search(r"^back after \d\.\d\d s$", service.stdout, re.MULTILINE)
    assert "stopped: closed by this client" in service.stdout
    assert re.search(r"received \d+, sent \d+, confirmed [1-9]", service.stdout), service.stdout
    assert "INFO ws://127.0.0.1" in service.stderr


# ---- the others, with a server that is named


@contextlib.asynccontextmanager
async def running(name, *arguments, **environment):
    """Start an example, and see to its end whatever the test does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        f"examples/{name}.py",
        *arguments,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def quiet():
    """A server that takes everything and says nothing by itself."""
    return FaultServer(default=Accept(echo=False))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_service_in_order(number):
    async with quiet() as server, running("service", server.url) as service:
        connection = await server.connection(timeout=20)
        await connection.send("job 1")
        await server.until(lambda: server.received_count == 1, timeout=10)
        service.send_signal(number)
        output, log = await asyncio.wait_for(service.communicate(), 10)

        assert service.returncode == 0, log.decode()
        assert server.received[0].message == "done: job 1"
        assert connection.close_code == 1000
        assert "stopped: closed by this client with 1000 Normal Closure" in output.decode()
        assert "confirmed " in output.decode()


async def test_the_price_feed_takes_an_address():
    async with quiet() as server, running("price_feed", server.url, "--seconds", "1") as feed:
        output, log = await asyncio.wait_for(feed.communicate(), 20)

        assert feed.returncode == 0, log.decode()
        assert json.loads(server.received[0].message) == {"op": "subscribe", "symbol": "BTC-EUR"}
        assert output


async def test_the_chat_bot_takes_an_address_and_a_token():
    async def hello(connection):
        await connection.send('{"op":"hello","heartbeat_interval":0.1}')
        assert json.loads(await connection.recv())["op"] == "identify"
        await connection.send('{"op":"ready","user":"me"}')
        assert json.loads(await connection.recv())["op"] == "heartbeat"
        await connection.wait_ended(20)

    async with (
        FaultServer(handler=hello) as server,
        running("chat_gateway", server.url, "--seconds", "1", CHAT_TOKEN="from outside") as bot,
    ):
        output, log = await asyncio.wait_for(bot.communicate(), 20)

        assert bot.returncode == 0, log.decode()
        assert b"ready as me, a heartbeat every 0.1 s" in output
        assert server.attempts[0].headers["Authorization"] == "Bearer from outside"
