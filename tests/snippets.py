"""The Python examples in README.md and docs/, for the tests that check and run them.

What stands on the line before an example says what it does:

- nothing: it runs to its end, against a server that echoes;
- ``<!-- runs on -->``: it would run for ever;
- ``<!-- pytest -->``: it is a file of tests.

``wss://stream.example/ws`` stands for the address of the server. An example may use the names of `resilient_ws`,
`asyncio` and `json` without importing them, `await` outside of a function, and ``client``, which is connected then.
"""

import ast
import re
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "wss://stream.example/ws"

_FENCE = re.compile(r"(?:^<!-- ([\w ]+) -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INCLUDED = "--8<--"


@attrs.frozen
class Snippet:
    """One example: where it stands, what is said of it, and its text."""

    page: str
    line: int
    mark: str
    code: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def page_id(page):
    """Return the path of a page for the name of a test."""
    return str(page.relative_to(ROOT))


def snippets(page):
    """Return the examples of a page, without those that are included from a file."""
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(page_id(page), text.count("\n", 0, found.start(2)) + 1, found[1] or "run", found[2])
        for found in _FENCE.finditer(text)
        if _INCLUDED not in found[2]
    ]


def parse(snippet):
    """Return the syntax tree of an example; `await` may stand anywhere."""
    code = snippet if isinstance(snippet, str) else snippet.code
    return compile(
        code, str(snippet), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
