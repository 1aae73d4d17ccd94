"""Tests of the whole client on virtual time: every async test here runs on a loop whose clock jumps."""

import pytest

from resilient_ws.testing import VirtualClock, VirtualLoop

DAY = 86_400.0


def virtual_loop() -> VirtualLoop:
    """Return a loop that gives up after ten days: a heartbeat that repeats for ever would otherwise never end."""
    return VirtualLoop(VirtualClock(limit=10 * DAY))


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item):
    return {"virtual": virtual_loop}
