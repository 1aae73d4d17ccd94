"""The examples in the documentation do what they are there for: they run."""

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys

import pytest

import resilient_ws
from resilient_ws import WebSocketClient
from resilient_ws.testing import FaultServer
from tests.snippets import ADDRESS, PAGES, ROOT, parse, snippets

ALL = [snippet for page in PAGES for snippet in snippets(page)]
SERVED = [snippet for snippet in ALL if snippet.mark in {"run", "runs on"}]
TESTS = [snippet for snippet in ALL if snippet.mark == "pytest"]


def test_every_example_is_run():
    assert len(SERVED) + len(TESTS) == len(ALL)
    assert TESTS


@pytest.mark.parametrize("snippet", SERVED, ids=str)
async def test_the_example_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for those that make files
    async with FaultServer() as server:
        names = {name: getattr(resilient_ws, name) for name in resilient_ws.__all__}
        names |= {"asyncio": asyncio, "json": json, "__name__": "example"}
        if uses_client(snippet):
            async with WebSocketClient(server.url) as client:
                await run(snippet, server, names | {"client": client})
        else:
            await run(snippet, server, names)
            assert server.attempt_count or f'async with WebSocketClient("{ADDRESS}"' not in snippet.code
        assert server.violations == []


def uses_client(snippet):
    """Whether the example talks to a client that it has not made."""
    found = [node for node in ast.walk(parse(snippet)) if isinstance(node, ast.Name) and node.id == "client"]
    return bool(found) and not any(isinstance(node.ctx, ast.Store) for node in found)


async def run(snippet, server, names):
    """Run an example to its end, or for a moment if it has none."""
    text = snippet.code.replace(ADDRESS, server.url)
    text = re.sub(r"^asyncio\.run\((.*)\)$", r"await \1", text, flags=re.MULTILINE)
    code = compile(text, str(snippet), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    running = eval(code, names)
    if not inspect.isawaitable(running):
        assert snippet.mark == "run"
        return
    if snippet.mark == "run":
        async with asyncio.timeout(10):
            await running
        return
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await running


@pytest.mark.parametrize("snippet", TESTS, ids=str)
def test_the_test_that_can_be_copied_passes(snippet, tmp_path):
    (tmp_path / "test_copied.py").write_text(snippet.code)
    outcome = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            ".",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "1 passed" in outcome.stdout
