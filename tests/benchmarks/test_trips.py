"""The count of the trips through the code, and their diagrams."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import trips
from benchmarks.trips import Step, Trace, diagram


@pytest.mark.parametrize("trip", trips.TRIPS, ids=lambda trip: trip.slug)
async def test_each_trip_is_traced_from_its_begin_to_its_end(trip):
    trace = await trip.run()

    assert trace.visits[0].source == "program" or trip.slug != "send"
    assert 0 < len(trace.files) <= len(trace.visits) <= trace.calls
    assert not [name for name in trace.files if name.startswith("testing")]
    assert ET.fromstring(diagram(trip.name, trace)).tag.endswith("svg")


def test_a_loop_over_several_things_is_drawn_once_with_its_count():
    trace = Trace()
    there, back = Step("a", "b", "ask"), Step("b", "a", "answer")
    trace.visits = [there, back, there, back, there]

    drawn = diagram("a loop", trace)

    assert "ask x 3" in drawn
    assert drawn.count(">ask") == 1


def test_the_counts_stand_between_the_marks_of_a_page(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: trips -->\nold\n<!-- end of trips -->\nafter\n")
    monkeypatch.setattr(trips, "TRIPS", trips.TRIPS[:1])
    monkeypatch.setattr("sys.argv", ["trips", "--page", str(page)])

    assert trips.main() == 0

    text = page.read_text()
    assert text.startswith("before\n<!-- measured: trips -->\n\n| trip |")
    assert "old" not in text
    assert text.endswith("<!-- end of trips -->\nafter\n")
    assert (tmp_path / "trip-send.svg").exists()
    assert "| send returns |" in capsys.readouterr().out
