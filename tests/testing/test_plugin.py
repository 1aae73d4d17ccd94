"""The plugin is run by a pytest of its own, as users run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


# What these tests do not need costs a second each time.
PLAIN = [
    part
    for name in ("cacheprovider", "hypothesispytest", "xdist", "cov", "timeout")
    for part in ("-p", f"no:{name}")
]


class Suite:
    """A folder with one file of tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, text: str, *options: str) -> str:
        (self.folder / "test_it.py").write_text(text)
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-v", *PLAIN, *options, "test_it.py"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return result.stdout + result.stderr

    @property
    def with_the_plugin(self) -> tuple[str, ...]:
        scope = "asyncio_default_fixture_loop_scope=function"
        return (
            "-p",
            "no:resilient_ws",
            "-p",
            "resilient_ws.testing.pytest",
            "-o",
            "asyncio_mode=auto",
            "-o",
            scope,
        )


@pytest.fixture
def suite(tmp_path):
    return Suite(tmp_path)


def test_the_fixtures_work_together(suite):
    output = suite.run(
        """
import asyncio, time
import pytest, websockets
from resilient_ws.testing import Refuse

async def test_server(leak_check, fault_server):
    async with websockets.connect(fault_server.url) as client:
        await client.send("1")
        assert await client.recv() == "1"
    assert fault_server.report(expected=[1]).ok

@pytest.mark.fault_server([Refuse(503)], keep=5)
async def test_marked_server(fault_server):
    assert fault_server.keep == 5
    with pytest.raises(websockets.InvalidStatus):
        async with websockets.connect(fault_server.url):
            pass

async def test_proxy(leak_check, fault_server, chaos_proxy):
    proxy = chaos_proxy(fault_server.url, latency=0.001)
    chaos_proxy(fault_server.url)
    async with websockets.connect(proxy.url) as client:
        proxy.drop_all("rst")
        with pytest.raises(websockets.ConnectionClosedError):
            await client.recv()

@pytest.fixture
async def at_start():
    return asyncio.get_running_loop().time()

@pytest.mark.parametrize("hours", [1, 100])
async def test_hours(leak_check, virtual_clock, at_start, hours):
    await asyncio.sleep(hours * 3600)
    assert virtual_clock.now == asyncio.get_running_loop().time() == at_start + hours * 3600

async def test_server_on_virtual_time(virtual_clock, fault_server):
    async with websockets.connect(fault_server.url, ping_interval=None) as client:
        await asyncio.sleep(3600)
        await client.send("still there")
        assert await client.recv() == "still there"

def test_plain(virtual_clock):
    virtual_clock.run(asyncio.sleep(7200))
    assert virtual_clock.elapsed == 7200

async def test_others_keep_their_loop(fault_server):
    assert abs(asyncio.get_running_loop().time() - time.monotonic()) < 1
""",
        *suite.with_the_plugin,
        "-W",
        "error",
    )
    assert "8 passed" in output, output
    assert "test_hours[1] PASSED" in output
    assert "test_server PASSED" in output


def test_a_leak_fails_the_test_that_made_it(suite):
    output = suite.run(
        """
import asyncio

async def test_leaks(leak_check):
    global task
    task = asyncio.create_task(asyncio.sleep(1000), name="forgotten")
""",
        *suite.with_the_plugin,
    )
    assert "1 passed, 1 error" in output, output
    assert "task <Task pending name='forgotten'" in output


def test_an_error_in_a_handler_of_the_server_fails_the_test(suite):
    output = suite.run(
        """
import pytest, websockets

async def handler(connection):
    raise LookupError("in the handler")

@pytest.mark.fault_server(handler=handler)
async def test_handler(fault_server):
    async with websockets.connect(fault_server.url) as client:
        with pytest.raises(websockets.ConnectionClosedError):
            await client.recv()
""",
        *suite.with_the_plugin,
    )
    assert "LookupError: in the handler" in output, output
    assert "1 passed, 1 error" in output


def test_a_hook_of_the_user_is_kept_for_the_other_tests(suite):
    (suite.folder / "conftest.py").write_text(
        """
import asyncio

class Mine(asyncio.SelectorEventLoop):
    pass

def pytest_asyncio_loop_factories(config, item):
    return {"mine": Mine}
"""
    )
    output = suite.run(
        """
import asyncio

async def test_mine():
    assert type(asyncio.get_running_loop()).__name__ == "Mine"

async def test_virtual(virtual_clock):
    await asyncio.sleep(3600)
    assert virtual_clock.elapsed == 3600

async def test_mine_again():
    assert type(asyncio.get_running_loop()).__name__ == "Mine"
""",
        *suite.with_the_plugin,
    )
    assert "3 passed" in output, output


def test_an_async_test_whose_loop_is_not_virtual_says_what_to_do(suite):
    (suite.folder / "conftest.py").write_text(
        """
import asyncio, pytest

@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(config, item):
    yield
    return {"mine": asyncio.SelectorEventLoop}
"""
    )
    output = suite.run(
        """
async def test_virtual(virtual_clock):
    pass
""",
        *suite.with_the_plugin,
    )
    assert "use virtual_clock.run(coroutine) in a plain test" in output, output


def test_without_pytest_asyncio_plain_tests_still_have_the_clock(suite):
    (suite.folder / "pytest_asyncio.py").write_text("raise ImportError('blocked')")
    output = suite.run(
        """
import asyncio

def test_plain(virtual_clock):
    virtual_clock.run(asyncio.sleep(7200))
    assert virtual_clock.elapsed == 7200
""",
        *("-p", "no:asyncio", "-p", "no:resilient_ws", "-p", "resilient_ws.testing.pytest"),
    )
    assert "1 passed" in output, output
