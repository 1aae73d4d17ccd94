"""Switches off one safeguard after the other in a copy of the repository, and runs the tests that must notice.

A safeguard that no test misses is a test that is missing: the run fails and names it.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.safeguards.table import SAFEGUARDS, Safeguard

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- safeguards -->\n", "<!-- end of safeguards -->"
COPIED: Final = (
    "resilient_ws",
    "tests",
    "examples",
    "pyproject.toml",
    "docs",
    "benchmarks",
    "README.md",
    "CHANGELOG.md",
)
TIMEOUT: Final = 300.0
"""Seconds for the tests of one safeguard."""

_COUNTS: Final = re.compile(r"(\d+) (passed|failed|errors?)\b")
_RED: Final = re.compile(r"^(?:FAILED|ERROR) (tests/[\w/]+\.py)::([\w:]+)", re.MULTILINE)


class Finding(NamedTuple):
    """What one run has shown.

    Attributes:
        path: The file with the test that failed; empty where none did.
        test: Its name.
        tests: How many tests ran until then.
        seconds: How long that took.
        problem: Why the run says nothing; empty where it does.
    """

    path: str = ""
    test: str = ""
    tests: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def survived(self) -> bool:
        """Whether every test passed without the safeguard."""
        return not self.problem and not self.test


def patched(text: str, guard: Safeguard) -> str:
    """Return the text of the file without the safeguard.

    Raises:
        ValueError: The patch does not apply exactly once, or what it makes is no Python.
    """
    count = text.count(guard.old)
    if count != 1:
        raise ValueError(f"{guard.name}: the text to replace occurs {count} times in {guard.file}, not once")
    changed = text.replace(guard.old, guard.new)
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise ValueError(f"{guard.name}: {guard.file} is no Python any more, line {error.lineno}") from error
    return changed


def copy_tree(folder: Path) -> None:
    """Copy what the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
            )
        else:
            shutil.copy2(source, folder / name)


def try_without(guard: Safeguard, folder: Path) -> Finding:
    """Run the tests of a safeguard without it, in a copy of the repository; the copy is whole again afterwards."""
    path = folder / "resilient_ws" / guard.file
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(patched(before, guard), encoding="utf-8")
    except ValueError as error:
        return Finding(problem=str(error))
    try:
        return run_tests(folder, guard.tests)
    finally:
        path.write_text(before, encoding="utf-8")


def run_tests(folder: Path, tests: Sequence[str]) -> Finding:
    """Run tests until the first one fails."""
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Finding(problem=f"the tests had not ended after {TIMEOUT:g} s")
    seconds = time.monotonic() - began
    counts = {word.rstrip("s"): int(number) for number, word in _COUNTS.findall(done.stdout)}
    ran = sum(counts.values())
    red = _RED.search(done.stdout)
    if done.returncode == 0:
        return Finding(tests=ran, seconds=seconds)
    if done.returncode != 1 or red is None:
        return Finding(
            problem=f"pytest ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}"
        )
    return Finding(red[1], red[2].rpartition("::")[2], ran, seconds)


def table(found: Sequence[tuple[Safeguard, Finding]]) -> str:
    """Return the findings as a table for the page about reliability."""
    rows = [
        f"| {guard.promise} | {guard.what} | {finding.tests} | `{finding.test}` in `{finding.path}` |"
        for guard, finding in found
    ]
    return "\n".join(
        ["| | what no longer held | tests run | the test that failed |", "|---|---|---|---|", *rows, ""]
    )


def write_page(found: Sequence[tuple[Safeguard, Finding]]) -> None:
    """Put the table into the page, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has not the marks {BEGIN.strip()} and {END}")
    PAGE.write_text(f"{head}{BEGIN}\n{table(found)}\n{END}{tail}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the safeguards; return 0 where each was missed by a test, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.safeguards", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="safeguards to try (all)")
    parser.add_argument("--page", action="store_true", help="write the table into docs/reliability.md")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {guard.name for guard in SAFEGUARDS}
    if unknown:
        parser.error(f"there is no safeguard {', '.join(sorted(unknown))}")
    if options.page and options.names:
        parser.error("--page needs all safeguards")
    chosen = [guard for guard in SAFEGUARDS if not options.names or guard.name in options.names]
    with tempfile.TemporaryDirectory(prefix="safeguards-") as place:
        folder = Path(place)
        copy_tree(folder)
        found: list[tuple[Safeguard, Finding]] = []
        for guard in chosen:
            finding = try_without(guard, folder)
            found.append((guard, finding))
            print(describe(guard, finding), flush=True)
    bad = [guard.name for guard, finding in found if finding.survived or finding.problem]
    print(f"{len(found) - len(bad)} of {len(found)} safeguards are missed by a test", flush=True)
    if bad:
        print(f"not so: {', '.join(bad)}")
        return 1
    if options.page:
        write_page(found)
    return 0


def describe(guard: Safeguard, finding: Finding) -> str:
    """Return one line about a finding."""
    if finding.problem:
        return f"{guard.promise:4} {guard.name:20} PROBLEM {finding.problem}"
    if finding.survived:
        return f"{guard.promise:4} {guard.name:20} SURVIVED {finding.tests} tests: {guard.what}"
    return (
        f"{guard.promise:4} {guard.name:20} {finding.tests:4} tests, {finding.seconds:3.0f} s: {finding.test}"
    )
