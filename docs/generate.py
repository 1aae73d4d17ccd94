"""The parts of the documentation that are made from the code, so that they cannot say anything else.

`python docs/generate.py` rewrites them in the pages; a test checks that this would change nothing. As a hook of
mkdocs it puts them, and the map of the modules, into what is built.

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import resilient_ws
from resilient_ws import (
    CLOSE_CODES,
    CertificateRejected,
    CloseEvent,
    CloseOrigin,
    ConnectError,
    Failure,
    HandshakeRejected,
    InvalidURL,
    OpenTimeout,
    ReconnectPolicy,
    ResilientWSError,
    SetupFailed,
    SetupTimeout,
)
from resilient_ws.lifecycle import mermaid
from resilient_ws.retry import Decision, RetryState, delay_range

PAGES: Final = Path(__file__).parent
_PART: Final = re.compile(
    r"^(<!-- generated: ([\w-]+) -->\n)(?:.*?\n)??(<!-- end of \2 -->)$", re.DOTALL | re.MULTILINE
)
_MANY: Final = 50


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Returns a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ------------------------------------------------------------------------------------------------ close codes


SENT_BY: Final = {"either": "either side", "server": "server", "client": "client", "nobody": "never sent"}


def close_codes() -> str:
    """Each code from 1000 to 1015, and what the client does by default."""
    rows = [
        (f"`{int(code)}`", facts.name, facts.meaning, SENT_BY[facts.sender], facts.rule.value)
        for code, facts in CLOSE_CODES.items()
    ]
    return table(("code", "name", "meaning", "sent by", "what the client does by default"), rows)


def close_code_meanings() -> str:
    """Each code from 1000 to 1015, and its meaning."""
    rows = [
        (f"`{int(code)}`", facts.name, facts.meaning, SENT_BY[facts.sender])
        for code, facts in CLOSE_CODES.items()
    ]
    return table(("code", "name", "meaning", "sent by"), rows)


# ------------------------------------------------------------------------------------------------ delays


def delays() -> str:
    """The range of each delay, with the default policy."""
    policy = ReconnectPolicy()
    rows = [
        (str(n), f"{low:g} to {high:g} s")
        for n, (low, high) in ((n, delay_range(policy, n)) for n in range(1, 8))
    ]
    low, high = delay_range(policy, 1, slow=True)
    return table(("retry", "drawn evenly from"), [*rows, ("after 1013", f"{low:g} to {high:g} s")])


# ------------------------------------------------------------------------------------------------ failed attempts


class Edge:
    """Draws the least or the greatest delay."""

    def __init__(self, pick: Callable[[float, float], float]) -> None:
        self.uniform = pick


def asked(failure: Failure, *, was_open: bool, provider: bool = False) -> str:
    """Asks the retry rules about the same failure again and again, and returns their answers in words."""
    lowest = _answers(failure, min, was_open=was_open, provider=provider)
    highest = _answers(failure, max, was_open=was_open, provider=provider)
    first = lowest[0]
    if first.stop:
        return "stop"
    word = f"retry within {first.delay:g} to {highest[0].delay:g} s"
    if len(lowest) == _MANY:
        return word
    if len(lowest) == 2:
        return f"{word}, then stop"
    return f"{word}; number {len(lowest)} in a row stops"


def _answers(
    failure: Failure, pick: Callable[[float, float], float], *, was_open: bool, provider: bool
) -> list[Decision]:
    rules = RetryState(ReconnectPolicy(), Edge(pick), provider=provider)
    rules.started(0.0)
    rules.dialing(0.0)
    if was_open:
        rules.opened()
        lost = CloseEvent(code=1006, synthesized=True, origin=CloseOrigin.NETWORK)
        rules.failed(Failure(close=lost, opened_for=60.0), 60.0)
        rules.dialing(60.0)
    answers: list[Decision] = []
    while len(answers) < _MANY:
        answers.append(rules.failed(failure, 60.0))
        if answers[-1].stop:
            break
        rules.dialing(60.0)
    return answers


def failures() -> str:
    """What the default does about an attempt that failed, asked of the rules themselves."""
    seen: list[tuple[str, Failure]] = [
        (f"HTTP {status}", Failure(status=status, error=HandshakeRejected(status=status)))
        for status in (200, 302, 400, 404, 401, 403, 408, 425, 429, 500, 502, 503, 504)
    ]
    seen += [
        ("refused, reset, unreachable, DNS", Failure(error=ConnectError())),
        ("`open_timeout`", Failure(error=OpenTimeout())),
        ("`setup` raised", Failure(error=SetupFailed())),
        ("`setup_timeout`", Failure(error=SetupTimeout())),
        ("bad certificate", Failure(error=CertificateRejected())),
        ("not a valid WebSocket handshake", Failure(status=101, error=HandshakeRejected(retryable=False))),
        ("bad URL", Failure(error=InvalidURL())),
    ]
    names: dict[tuple[str, ...], list[str]] = {}
    for name, failure in seen:
        answers = (
            asked(failure, was_open=False),
            asked(failure, was_open=True),
            asked(failure, was_open=True, provider=True),
        )
        names.setdefault(answers, []).append(name)
    rows = [(", ".join(alike).replace(", HTTP ", ", "), *answers) for answers, alike in names.items()]
    return table(("the attempt ended with", "before the first open", "later", "later, URL provider"), rows)


# ------------------------------------------------------------------------------------------------ errors, states


def errors() -> str:
    """The tree of the exceptions."""
    return f"```text\n{chr(10).join(_tree(ResilientWSError, ''))}\n```"


def _tree(kind: type[BaseException], indent: str) -> list[str]:
    others = [base.__name__ for base in kind.__bases__ if not issubclass(base, ResilientWSError)]
    also = f" ({', '.join(others)})" if kind is not ResilientWSError and others else ""
    lines = [f"{kind.__name__}{also}"]
    children = [child for child in kind.__subclasses__() if child.__name__ in resilient_ws.__all__]
    for number, child in enumerate(children, start=1):
        last = number == len(children)
        head, *rest = _tree(child, indent)
        lines.append(f"{'└─' if last else '├─'} {head}")
        lines += [f"{'   ' if last else '│  '}{line}" for line in rest]
    return lines


def states() -> str:
    """The life of a client, as a diagram."""
    return f"```mermaid\n{mermaid()}\n```"


def modules() -> str:
    """Each module with the first sentence of its docstring. Made when the site is built, not kept in the page."""
    package = Path(resilient_ws.__file__).parent
    rows = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package.parent).with_suffix("")
        name = ".".join(part for part in relative.parts if part != "__init__")
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sentence = re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
        rows.append((f"`{name.removeprefix('resilient_ws.')}`", sentence.replace("|", "\\|")))
    return table(("module", "its job"), rows)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "close-codes": close_codes,
    "close-code-meanings": close_code_meanings,
    "delays": delays,
    "failures": failures,
    "errors": errors,
    "states": states,
}
"""Kept in the pages."""

AT_BUILD: Final[dict[str, Callable[[], str]]] = {"modules": modules}
"""Made for the site only, since each commit may change them."""


def renewed(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """Returns a page with each part made anew.

    Raises:
        KeyError: It asks for a part that nobody makes.
    """

    def fresh(found: re.Match[str]) -> str:
        name = found[2]
        if name not in PARTS and name not in AT_BUILD:
            raise KeyError(name)
        return f"{found[1]}\n{parts[name]()}\n\n{found[3]}" if name in parts else found[0]

    return _PART.sub(fresh, text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return renewed(markdown, PARTS | AT_BUILD)


def main() -> int:
    """Rewrites the pages, and says which have changed."""
    for path in sorted(PAGES.rglob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = renewed(old, PARTS)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"rewritten: {path.relative_to(PAGES.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
