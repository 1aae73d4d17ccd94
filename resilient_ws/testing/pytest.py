"""The pytest plugin: the fault kit as fixtures. Installed with the package, it is there without being asked for.

- `fault_server`: a running `FaultServer`; `@pytest.mark.fault_server(...)` takes its arguments.
- `chaos_proxy`: a function that starts a `ChaosProxy`; it takes the arguments of the class.
- `virtual_clock`: an `async def` test that asks for it runs on virtual time, its fixtures too, and gets the
  `VirtualClock`; in a plain test `virtual_clock.run(coroutine)` runs one.
- `leak_check`: the test fails if it leaves a task, a timer or a socket; name it before other fixtures, so that it is
  checked after they have ended.

::

    async def test_my_bot_survives_a_reset(leak_check, fault_server):
        async with MyBot(fault_server.url):
            (await fault_server.connection()).rst()
            await fault_server.connection()


    async def test_my_bot_waits_an_hour(virtual_clock):
        await my_bot_gives_up()
        assert virtual_clock.elapsed >= 3600

Async fixtures and tests are run by pytest-asyncio. `-p no:resilient_ws` leaves the plugin out.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from typing import Any, Final

import pytest

from resilient_ws.testing.clock import VirtualClock, VirtualLoop
from resilient_ws.testing.leaks import LeakCheck
from resilient_ws.testing.proxy.proxy import ChaosProxy
from resilient_ws.testing.server.server import FaultServer

_LOOPS_BY_HOOK: Final = """\
virtual_clock in an async test needs a pytest-asyncio that has the hook pytest_asyncio_loop_factories, and no
fixture event_loop_policy of your own; else use virtual_clock.run(coroutine) in a plain test"""


def _async_fixture(function: Callable[..., Any]) -> Any:
    """Make a fixture of a coroutine or an async generator; without pytest-asyncio another plugin has to run it."""
    try:
        import pytest_asyncio
    except ImportError:
        return pytest.fixture(function)
    return pytest_asyncio.fixture(function)


class _VirtualLoops:
    """A plugin that is registered only while the parameters of one test are found out."""

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_asyncio_loop_factories(self) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        """Let the test run on virtual time."""
        return {"virtual": VirtualLoop}


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "fault_server(script, **options): the arguments of the FaultServer that fault_server starts.",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None]:
    """Give the tests that ask for `virtual_clock` a virtual loop, and all others what they would get anyway."""
    if "virtual_clock" not in metafunc.fixturenames:
        return (yield)
    manager = metafunc.config.pluginmanager
    loops = _VirtualLoops()
    _ = manager.register(loops)
    try:
        return (yield)
    finally:
        _ = manager.unregister(loops)


@_async_fixture
async def fault_server(request: pytest.FixtureRequest) -> AsyncIterator[FaultServer]:
    """Run a `FaultServer` for one test; `@pytest.mark.fault_server(...)` takes its arguments."""
    marker: pytest.Mark | None = request.node.get_closest_marker("fault_server")
    server = FaultServer() if marker is None else FaultServer(*marker.args, **marker.kwargs)
    async with server:
        yield server


@_async_fixture
async def chaos_proxy() -> AsyncIterator[Callable[..., ChaosProxy]]:
    """Return a function that starts a `ChaosProxy`, with the arguments of the class; all end with the test."""
    proxies: list[ChaosProxy] = []

    def start(target: str | tuple[str, int], **options: Any) -> ChaosProxy:
        proxy = ChaosProxy(target, **options)
        proxy.start()
        proxies.append(proxy)
        return proxy

    yield start
    for proxy in proxies:
        await proxy.aclose()


@_async_fixture
async def leak_check() -> AsyncIterator[LeakCheck]:
    """Fail the test if it leaves a task, a timer or a socket."""
    async with LeakCheck() as check:
        yield check


@_async_fixture
async def _loop_of_the_test() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> VirtualClock:
    """Return the clock of the test's virtual loop, or in a plain test one that can `run` a coroutine."""
    if not inspect.iscoroutinefunction(inspect.unwrap(request.function)):
        return VirtualClock()
    loop = request.getfixturevalue("_loop_of_the_test")
    if not isinstance(loop, VirtualLoop):
        pytest.fail(_LOOPS_BY_HOOK, pytrace=False)
    return loop.clock
