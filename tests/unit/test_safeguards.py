"""The table of safeguards fits the code as it is, and a run tells a safeguard that is missed from one that is not."""

from collections import Counter

import pytest

from tests.safeguards.run import BEGIN, END, PAGE, ROOT, Finding, patched, run_tests, table
from tests.safeguards.table import SAFEGUARDS, Safeguard


@pytest.mark.parametrize("guard", SAFEGUARDS, ids=lambda guard: guard.name)
def test_each_patch_applies_exactly_once(guard: Safeguard):
    text = (ROOT / "resilient_ws" / guard.file).read_text(encoding="utf-8")
    assert patched(text, guard) != text
    for path in guard.tests:
        assert (ROOT / path).is_file()


def test_each_promise_has_three_and_names_are_unique():
    promises = Counter(guard.promise for guard in SAFEGUARDS)
    assert set(promises) == {f"P{number}" for number in range(1, 13)}
    assert min(promises.values()) >= 3
    assert len(SAFEGUARDS) >= 40
    assert len({guard.name for guard in SAFEGUARDS}) == len(SAFEGUARDS)


def test_each_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert [guard.what for guard in SAFEGUARDS if f"| {guard.what} |" not in shown] == []


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("missing", "x", "occurs 0 times"),
        ("one", "x", "occurs 2 times"),
        ("two", "(", "no Python any more, line 2"),
    ],
)
def test_a_patch_that_does_not_apply_is_an_error(old, new, problem):
    guard = Safeguard("name", "P1", "what", "file.py", old, new, ())
    with pytest.raises(ValueError, match=f"name: .*{problem}"):
        patched("one = one\ntwo = 2\n", guard)


@pytest.mark.parametrize(
    "code, expected",
    [
        ("def test_good():\n    pass\n", ("", "", 1, "")),
        (
            "def test_good():\n    pass\n\ndef test_bad():\n    assert 0\n",
            ("tests/test_x.py", "test_bad", 2, ""),
        ),
        ("import nothing_of_this_name\n", ("", "", 0, "pytest ended with 2")),
    ],
)
def test_a_run_says_what_failed_or_that_it_says_nothing(tmp_path, code, expected):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(code)
    finding = run_tests(tmp_path, ["tests/test_x.py"])
    assert (finding.path, finding.test, finding.tests) == expected[:3]
    assert finding.problem.startswith(expected[3])
    assert finding.survived == (expected[1:] == ("", 1, ""))


def test_the_table_has_a_row_for_each():
    guard = Safeguard("name", "P1", "what it is", "file.py", "a", "b", ())
    rows = table([(guard, Finding("tests/x.py", "test_y", 7))]).splitlines()
    assert rows[-1] == "| P1 | what it is | 7 | `test_y` in `tests/x.py` |"
