"""Run the tests against real faults and print what they measured: `python -m tests.faults.figures`.

Each test records figures (`Watch.record`); printed is, for each test and figure, how often it was measured over the
cases of the test, the smallest, the median and the largest value. Arguments go to pytest, `-k close` for one.
"""

import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

FILES = [
    "tests/faults/test_network.py",
    "tests/faults/test_processes.py",
    "tests/faults/test_close.py",
    "tests/faults/test_delivery.py",
]


def read(report: Path) -> dict[tuple[str, str], list[float]]:
    """Return the figures of a JUnit report, by test and name."""
    figures = defaultdict(list)
    for case in ET.parse(report).iter("testcase"):
        for figure in case.iter("property"):
            figures[str(case.get("name")).partition("[")[0], str(figure.get("name"))].append(
                float(str(figure.get("value")))
            )
    return figures


def main(arguments: list[str]) -> int:
    """Run them, and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *FILES, f"--junitxml={report}", *arguments], check=False
        ).returncode
        for (test, name), values in read(report).items():
            low, middle, high = min(values), statistics.median(values), max(values)
            print(f"{test}: {name}: {len(values)} x, {low:.3f} / {middle:.3f} / {high:.3f}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
