"""Ratios are of the same round, targets are judged the right way round, and what is missing is named."""

from xml.etree import ElementTree as ET

from benchmarks.charts import chart
from benchmarks.clients import Aiohttp, Client, Ours
from benchmarks.others import NotInstalledError
from benchmarks.rows import Row, Target


class Absent(Client):
    name = "absent"


def made(*, times, limit=1.5):
    row = Row("Work", "us", None, (Aiohttp, Ours), (Target(Ours.name, limit),), times=times)
    row.costs = {Aiohttp.name: [1e-6, 2e-6, 8e-6], Ours.name: [0.5e-6, 1e-6, 2e-6]}
    return row


def test_a_ratio_is_of_the_same_round():
    figure = made(times=False).against(Ours.name, Aiohttp.name)
    assert (figure.cost, figure.ratio, figure.low, figure.high) == (1e-6, 2, 2, 4)


def test_where_less_is_better_the_ratio_is_of_time():
    figure = made(times=True).against(Ours.name, Aiohttp.name)
    assert (figure.ratio, figure.low, figure.high) == (0.5, 0.25, 0.5)


def test_targets_of_speed_are_least_and_of_time_most():
    def verdict(**options):
        return list(made(**options).verdicts())

    assert verdict(times=False, limit=2) == [("resilient_ws at least 2 x aiohttp receive()", "2.00: reached")]
    assert verdict(times=False, limit=2.1)[0][1] == "2.00: not reached"
    assert verdict(times=True, limit=0.5) == [
        ("resilient_ws at most 0.5 x aiohttp receive()", "0.50: reached")
    ]
    assert verdict(times=True, limit=0.4)[0][1] == "0.50: not reached"


def test_who_is_not_installed_is_named_and_left_out():
    async def measure(client):
        if isinstance(client, Absent):
            raise NotInstalledError("pip install absent")
        return 1e-6

    row = Row("Work", "us", measure, (Aiohttp, Absent), (Target(Absent.name, 1),))
    row.run(2)
    assert row.costs == {Aiohttp.name: [1e-6, 1e-6]}
    assert "- absent is not installed: pip install absent" in row.table()
    assert list(row.verdicts()) == []


def test_a_chart_is_svg_with_a_bar_for_each_client():
    root = ET.fromstring(chart(made(times=False)))
    bars = root.findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 2
