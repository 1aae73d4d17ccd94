import asyncio
import time

import pytest

from resilient_ws.aio import clocks
from resilient_ws.aio.clocks import boot_time, wall_time
from resilient_ws.testing import VirtualClock


async def _both() -> tuple[float, float]:
    return boot_time(), wall_time()


@pytest.mark.parametrize("runs", [False, True], ids=["without a loop", "on a plain loop"])
def test_the_clocks_are_those_of_the_system(runs):
    before = time.time()
    boot, wall = asyncio.run(_both()) if runs else (boot_time(), wall_time())
    assert before <= wall <= time.time()
    assert boot <= boot_time() < boot + 60


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="needs CLOCK_BOOTTIME")
def test_boot_time_counts_a_suspended_machine_where_the_system_does():
    assert abs(boot_time() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60


def test_a_system_without_a_boot_clock_has_its_monotonic_one(monkeypatch):
    def refuse(_: int) -> float:
        raise OSError("Invalid argument")

    monkeypatch.setattr(time, "clock_gettime", refuse)
    assert clocks._find_boot_clock() is time.monotonic


def test_virtual_time_drives_both_clocks():
    clock = VirtualClock(100, wall=1_000_000)

    async def main() -> list[tuple[float, float, float]]:
        loop = asyncio.get_running_loop()
        seen = [(loop.time(), *await _both())]
        await asyncio.sleep(3600)
        seen.append((loop.time(), *await _both()))
        clock.suspend(8 * 3600)
        seen.append((loop.time(), *await _both()))
        clock.set_wall(500_000)
        seen.append((loop.time(), *await _both()))
        return seen

    assert clock.run(main()) == [
        (100, 100, 1_000_000),
        (3700, 3700, 1_003_600),
        (3700, 32_500, 1_032_400),
        (3700, 32_500, 500_000),
    ]


def test_the_time_of_day_is_real_at_first():
    clock = VirtualClock(100)
    assert abs(clock.wall - time.time()) < 60


def test_a_machine_cannot_sleep_backwards():
    with pytest.raises(ValueError, match="seconds must be at least 0"):
        VirtualClock().suspend(-1)
