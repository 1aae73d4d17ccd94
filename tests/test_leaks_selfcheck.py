"""The checks that run after each test: each kind of leak fails its test, and a tidy test passes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

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
    "an_exception_in_a_cycle_of_a_sync_test": (
        """
def test_it():
    async def fail(): raise ValueError("unseen")
    async def main():
        cycle = [asyncio.create_task(fail())]
        cycle.append(cycle)
        await asyncio.sleep(0.01)
    asyncio.run(main())
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
    "a_test_that_hangs": ("async def test_it(): await asyncio.Event().wait()", "Timeout (>3.0s)"),
    "an_unknown_marker": ("@pytest.mark.promised\ndef test_it(): pass", "not found in `markers`"),
}


FAILED_ONCE = "def test_it():\n    kept.append(socket.socket())\n    assert 1 == 2\n"
CASES = TIDY | {name: source for name, (source, _) in UNTIDY.items()} | {"a_failed_test": FAILED_ONCE}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run each case beside the suite's conftest, all in one other process; return what pytest says about each."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    for name, source in CASES.items():
        (folder / f"test_{name}.py").write_text(PRELUDE + source)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += [
        "--timeout",
        "3",
        "--continue-on-collection-errors",
        "--junit-xml",
        str(folder / "report.xml"),
    ]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "junit_logging=no", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=55, check=False
    )
    report = folder / "report.xml"
    assert report.is_file(), result.stdout + result.stderr
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = case.get("classname") or case.get("name") or ""
        name = name.rpartition(".")[2].removeprefix("test_")
        said = [f"{result.tag}: {result.get('message')} {result.text}" for result in case]
        found[name] = "\n".join([found.get(name, ""), *said])
    return found


@pytest.mark.parametrize("name", TIDY)
def test_a_tidy_test_passes(reports, name):
    assert not reports[name]


@pytest.mark.parametrize("name, complaint", [(name, complaint) for name, (_, complaint) in UNTIDY.items()])
def test_what_is_left_behind_fails_the_test(reports, name, complaint):
    assert re.search(r"^(failure|error): ", reports[name], re.MULTILINE)
    assert complaint in reports[name]


def test_a_failed_test_is_not_blamed_twice(reports):
    assert "assert 1 == 2" in reports["a_failed_test"]
    assert "left open" not in reports["a_failed_test"]
