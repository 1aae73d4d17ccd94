"""The checks that run after each test: each kind of leak fails its test, and a tidy test passes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRELUDE = """
import asyncio, gc, logging, socket
import pytest
kept = []
"""

TIDY = {
    "an_async_test": "async def test_it(): await asyncio.sleep(0)",
    "a_sync_test": "def test_it(): pass",
    "a_fixture_that_tidies_up": """
@pytest.fixture
async def busy():
    connection, task = socket.socket(), asyncio.create_task(asyncio.sleep(60))
    yield
    connection.close()
    task.cancel()
async def test_it(busy): await asyncio.sleep(0)
""",
    "a_connection_that_is_about_to_end": """
async def test_it():
    async def hang_up(reader, writer):
        await reader.read()
        writer.close()
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.close()
    server.close()
""",
    "an_expected_error": """
@pytest.mark.expects_errors
def test_it(): logging.getLogger("resilient_ws.client").error("as planned")
""",
    "an_error_of_somebody_else": """
def test_it(): logging.getLogger("elsewhere").error("not ours")
""",
}
UNTIDY = {
    "a_task": (
        "async def test_it(): kept.append(asyncio.create_task(asyncio.sleep(60)))",
        "task still pending",
    ),
    "a_timer": ("async def test_it(): asyncio.get_running_loop().call_later(60, print)", "timer still set"),
    "a_socket": ("async def test_it(): kept.append(socket.socket())", "1 socket(s) left open"),
    "a_socket_of_a_sync_test": ("def test_it(): kept.append(socket.socket())", "1 socket(s) left open"),
    "a_forgotten_socket": ("def test_it(): socket.socket()", "ResourceWarning: unclosed"),
    "an_error_in_the_log": (
        "def test_it(): logging.getLogger('resilient_ws.client').error('boom %s', 7)",
        "resilient_ws.client: boom 7",
    ),
    "an_exception_nobody_took": (
        """
async def test_it():
    async def fail(): raise ValueError("unseen")
    task = asyncio.create_task(fail())
    await asyncio.sleep(0.01)
    del task
""",
        "Task exception was never retrieved",
    ),
    "a_coroutine_nobody_awaited": ("async def test_it(): asyncio.sleep(1)", "was never awaited"),
    "an_exception_in_a_finalizer": (
        """
class Broken:
    def __del__(self): raise ValueError("in __del__")
def test_it(): Broken()
""",
        "in __del__",
    ),
    "a_test_that_hangs": ("async def test_it(): await asyncio.Event().wait()", "Timeout (>2.0s)"),
    "an_unknown_marker": ("@pytest.mark.promised\ndef test_it(): pass", "not found in `markers`"),
}


def run_one(folder: Path, source: str) -> str:
    """Run a test file beside a copy of the suite's conftest, in a process of its own; return what pytest printed."""
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "test_it.py").write_text(PRELUDE + source)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["--timeout", "2", "-p", "no:cacheprovider", "-p", "no:xdist", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    return f"{result.stdout}{result.stderr}"


@pytest.mark.parametrize("source", TIDY.values(), ids=TIDY)
def test_a_tidy_test_passes(tmp_path, source):
    printed = run_one(tmp_path, source)
    assert "1 passed" in printed
    assert "error" not in printed.splitlines()[-1]


@pytest.mark.parametrize("source, complaint", UNTIDY.values(), ids=UNTIDY)
def test_what_is_left_behind_fails_the_test(tmp_path, source, complaint):
    printed = run_one(tmp_path, source)
    assert complaint in printed
    assert "1 error" in printed or "1 failed" in printed


def test_a_failed_test_is_not_blamed_twice(tmp_path):
    printed = run_one(tmp_path, "def test_it():\n    kept.append(socket.socket())\n    assert 1 == 2\n")
    assert "1 failed" in printed
    assert "left open" not in printed
