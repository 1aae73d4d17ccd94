"""The examples as a person runs them: each in a process of its own, judged by what it prints and how it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    for word in ("CLOSE 1012", "Connection reset", "the heartbeat did", "HTTP 503", "open_timeout=2.0 s"):
        assert word in demo.stdout
    assert "\x1b" not in demo.stdout


@pytest.mark.slow
def test_the_demo_ends_with_1_when_the_server_loses_a_message():
    demo = run("demo", "--scenes", "1", "--swallow", "7")

    assert demo.returncode == 1, demo.stdout + demo.stderr
    assert counted(demo.stdout, "lost") == [1]
    assert "client to server: 7" in demo.stdout
