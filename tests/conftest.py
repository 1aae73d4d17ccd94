"""What holds for every test: it leaves no task, timer or socket behind and logs no error that it did not expect.

The checks run when the test and all its fixtures are done, so a fixture closes what it opened and the test need not.
Servers in other processes are not seen. A test that failed is not checked: it has one thing to say already.
"""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio

from tests.fastnet import use_aiofastnet
from tests.requirements import in_ci

pytest_plugins = ["resilient_ws.testing.pytest"]

# What is about to end gets this long, in real seconds: a peer in the same loop needs some turns to see the end too.
GRACE = 1.0
DESCRIPTORS = Path("/proc/self/fd")
WATCHED_LOGGERS = ("resilient_ws", "asyncio")

failed_key = pytest.StashKey[bool]()

# A shared machine is slow now and then, which says nothing about the code; --timeout bounds each test as a whole.
# In CI the examples are the same each time, so that a change fails for its own reason; everywhere else they are new.
hypothesis.settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.register_profile("soak", hypothesis.settings.get_profile("default"), max_examples=5_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if in_ci() else "default"))


def pytest_configure() -> None:
    """A shell that starts the tests in the background lets them ignore SIGINT, which the client would respect."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the soak tests out unless they are asked for by marker."""
    if "soak" in config.getoption("markexpr"):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


def pytest_collection_finish() -> None:
    """Take what is loaded out of the collector's sight: then a collection after each test costs a millisecond."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure, for the checks that come after it."""
    report = yield
    if report.failed or report.skipped:
        item.stash[failed_key] = True
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a task, a timer or a socket, or that logs an error it did not expect."""
    errors = ErrorRecords()
    before = open_sockets()
    with errors.attached():
        yield
        gc.collect()  # what nobody holds speaks up now, in its own test: "Task exception was never retrieved"
    if request.node.stash.get(failed_key, False):
        return
    left = open_sockets() - before
    complaints = [f"{len(left)} socket(s) left open: {', '.join(sorted(left))}"] if left else []
    if errors.texts and request.node.get_closest_marker("expects_errors") is None:
        complaints.append("unexpected errors in the log:\n  " + "\n  ".join(errors.texts))
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture(autouse=True)
def transport_below_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put aiofastnet below aiohttp where ``AIOHTTP_TRANSPORT=aiofastnet`` asks for it, as aiohttp 3.15 does."""
    if os.environ.get("AIOHTTP_TRANSPORT") == "aiofastnet":
        use_aiofastnet(monkeypatch)


@pytest.fixture(autouse=True)
def watch_the_loop(request: pytest.FixtureRequest, nothing_left_behind: None) -> None:
    """Ask for the check of the loop where there is one: set up first, it is done last, just before the loop closes."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("loop_left_clean")


@pytest_asyncio.fixture
async def loop_left_clean(request: pytest.FixtureRequest, nothing_left_behind: None) -> AsyncIterator[None]:
    """Wait at most ``GRACE`` for the loop to be as it was before; then name what is left (sockets: the other check)."""
    before = open_sockets()
    yield
    if request.node.stash.get(failed_key, False):
        return
    gc.collect()
    loop = asyncio.get_running_loop()
    await until(lambda: not (left_tasks() or left_timers(loop) or open_sockets() - before))
    complaints = [f"task still pending: {task!r}" for task in left_tasks()]
    complaints += [f"timer still set: {timer!r}" for timer in left_timers(loop)]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


async def until(is_done: Callable[[], bool]) -> None:
    """Let the loop run until this holds, for ``GRACE`` at most; a loop on virtual time gets a bounded number of turns."""
    deadline = time.monotonic() + GRACE
    for turn in range(1_000):
        if is_done() or time.monotonic() > deadline:
            return
        await asyncio.sleep(0 if turn < 20 else 0.005)


def left_tasks() -> list["asyncio.Task[Any]"]:
    """Return the tasks of the running loop that are not done, but for the one that asks."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def left_timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    """Return the timers that would still fire; a loop that keeps them elsewhere (uvloop) shows none."""
    scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
    return [timer for timer in scheduled if not timer.cancelled()]


def open_sockets() -> set[str]:
    """Return this process's sockets by number and inode; empty where there is no ``/proc``."""
    found: set[str] = set()
    if not DESCRIPTORS.is_dir():
        return found
    for descriptor in DESCRIPTORS.iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:  # closed meanwhile: the descriptor of the listing itself, for one
            continue
        if target.startswith("socket:"):
            found.add(f"fd {descriptor.name} {target}")
    return found


class ErrorRecords(logging.Handler):
    """Collects what is logged at ERROR or above on the watched loggers."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def attached(self) -> "Attached":
        """Return a context in which the records are collected."""
        return Attached(self)


class Attached:
    """The time in which a handler listens to the watched loggers."""

    def __init__(self, handler: logging.Handler) -> None:
        self.handler = handler

    def __enter__(self) -> None:
        for name in WATCHED_LOGGERS:
            logging.getLogger(name).addHandler(self.handler)

    def __exit__(self, *exc_info: object) -> None:
        for name in WATCHED_LOGGERS:
            logging.getLogger(name).removeHandler(self.handler)
