import asyncio

import pytest

from resilient_ws.testing import ChaosProxy, VirtualClock
from resilient_ws.testing.proxy.schedule import Step, parse_schedule, random_schedule, run_schedule
from resilient_ws.testing.units import parse_address, parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    "text,seconds",
    [("2", 2), ("50ms", 0.05), ("1.5 s", 1.5), ("2m", 120), ("1h", 3600), ("10us", 1e-5), ("3min", 180)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text,size",
    [("7", 7), ("7B", 7), ("64kB", 64_000), ("64KiB", 65_536), ("1.5MB", 1_500_000), ("1GiB", 1 << 30)],
)
def test_sizes(text, size):
    assert parse_size(text) == size
    assert parse_rate(f"{text}/s") == size


@pytest.mark.parametrize(
    "text,address", [("a:1", ("a", 1)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80))]
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "parse,text,complaint",
    [
        (
            parse_duration,
            "1 day",
            "a duration is a number with us, ms, s, m or h, for instance 50ms, not '1 day'",
        ),
        (parse_duration, "-1s", "not '-1s'"),
        (parse_duration, "", "not ''"),
        (parse_size, "1s", "a size is a number with B, .*, not '1s'"),
        (parse_address, "host", "an address is host:port"),
        (parse_address, ":80", "not ':80'"),
        (parse_address, "a:65536", "0 to 65535, not 'a:65536'"),
        (parse_address, "a:b", "not 'a:b'"),
    ],
)
def test_what_is_no_quantity(parse, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text)


def test_a_schedule_is_read_in_the_order_of_time():
    steps = parse_schedule(
        """
        10s rst; +5s blackhole up for 2s
        5s latency 200ms for 1s; 20 half-close; +0s bandwidth 1kB/s; +1s bandwidth off; 30s heal up; 31s refuse for 1s;
        33s cut-after 5kB; 40s accept-delay 1s for 1s; 50s repeat
        """
    )
    assert steps == [
        Step(5, "latency", None, 0.2),
        Step(6, "restore", "latency"),
        Step(10, "rst"),
        Step(15, "blackhole", "up"),
        Step(17, "heal", "up"),
        Step(20, "half-close", "down"),
        Step(20, "bandwidth", None, 1000),
        Step(21, "bandwidth"),
        Step(30, "heal", "up"),
        Step(31, "refuse"),
        Step(32, "accept"),
        Step(33, "cut-after", None, 5000),
        Step(40, "accept-delay", None, 1),
        Step(41, "restore", "accept_delay"),
        Step(50, "repeat"),
    ]
    assert [str(step) for step in steps[:4]] == ["latency 0.2", "restore latency", "rst", "blackhole up"]
    assert parse_schedule(" ; \n") == []


@pytest.mark.parametrize(
    "text,complaint",
    [
        ("rst", "schedule step 'rst': it is not of the form TIME ACTION"),
        ("1s explode", "schedule step '1s explode': there is no action 'explode'"),
        ("1s; 2s rst", "schedule step '1s'"),
        ("soon rst", "schedule step 'soon rst': a duration is"),
        ("1s rst up", "rst takes no 'up'"),
        ("1s blackhole left", "direction must be 'up', 'down' or 'both', not 'left'"),
        ("1s latency", "latency needs a value"),
        ("1s latency off", "a duration is"),
        ("1s rst for 2s", "rst cannot be taken back, so it takes no 'for'"),
        ("1s repeat; 2s rst", "repeat must be the last step"),
    ],
)
def test_what_is_no_schedule(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_schedule(text)


def test_a_random_schedule_is_the_same_for_the_same_seed_and_takes_everything_back():
    steps = random_schedule(3, 600, every=2)
    assert steps == random_schedule(3, 600, every=2)
    assert steps != random_schedule(4, 600, every=2)
    assert all(0 <= step.at <= 600 for step in steps)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    actions = [step.action for step in steps]
    assert set(actions) >= {
        "rst",
        "fin",
        "half-close",
        "silent",
        "blackhole",
        "refuse",
        "latency",
        "bandwidth",
    }
    assert actions.count("blackhole") == actions.count("heal")
    assert actions.count("refuse") == actions.count("accept")
    assert actions.count("latency") + actions.count("bandwidth") == actions.count("restore")
    assert 200 < len(steps) < 900
    with pytest.raises(ValueError, match=r"every must be at least 0.001, not 0"):
        random_schedule(3, 1, every=0)
    with pytest.raises(ValueError, match="duration must be at least 0, not -1"):
        random_schedule(3, -1)


def test_a_schedule_happens_at_its_times():
    heard = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ChaosProxy("127.0.0.1:1", latency=0.5) as proxy:
            steps = parse_schedule(
                "10s blackhole down for 5s; 20s latency 2s for 5s; 30s refuse for 5s; 40s bandwidth 9kB; "
                "41s cut-after 7; 42s accept-delay 3s; 43s rst; 44s half-close; 45s bandwidth off"
            )

            def state(_text):
                heard.append((loop.time(), proxy.down.blackhole, proxy.latency, proxy.bandwidth))

            running = asyncio.create_task(run_schedule(proxy, steps, state))
            await asyncio.sleep(12)
            assert (proxy.down.blackhole, proxy.up.blackhole) == (True, False)
            await asyncio.sleep(10)
            assert (proxy.down.blackhole, proxy.latency) == (False, 2)
            await asyncio.sleep(10)
            assert proxy.latency == 0.5
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
            await asyncio.sleep(12.5)
            assert (proxy.bandwidth, proxy.cut_after, proxy.accept_delay) == (9000, 7, 3)
            await running
            assert (loop.time(), proxy.bandwidth) == (45, None)

    VirtualClock().run(main())
    assert [at for at, *_ in heard] == [10, 15, 20, 25, 30, 35, 40, 41, 42, 43, 44, 45]


def test_a_schedule_that_repeats_goes_on():
    heard = []

    async def main() -> None:
        async with ChaosProxy("127.0.0.1:1") as proxy:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(35):
                    await run_schedule(proxy, parse_schedule("5s fin; 10s repeat"), heard.append)

    VirtualClock().run(main())
    assert heard == ["at 5 s: fin"] * 3


async def test_a_step_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="there is no action 'explode'"):
        await run_schedule(ChaosProxy("a:1"), [Step(0, "explode")])
