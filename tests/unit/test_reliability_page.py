"""Each claim on the page about reliability is shown by a test, and the tests that it names are there."""

import ast
import re

import pytest

from tests.snippets import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
FILES = re.compile(r"`(tests/[\w/]+\.py)`")
TESTS = re.compile(r"`(test_\w+)`")
FILE_OF_SECTION = re.compile(r"^## .*$", re.MULTILINE)


def functions_in(path):
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("path", sorted(set(FILES.findall(PAGE))))
def test_each_file_is_there(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("section", FILE_OF_SECTION.split(PAGE)[1:], ids=FILE_OF_SECTION.findall(PAGE))
def test_each_test_is_in_one_of_the_files_of_its_section(section):
    there = {name for path in FILES.findall(section) for name in functions_in(path)}
    assert set(TESTS.findall(section)) <= there


def test_the_rows_of_a_table_have_as_many_cells_as_its_head():
    head = 0
    for line in PAGE.splitlines():
        cells = line.count("|")
        assert not (head and cells) or cells == head, line
        head = cells
