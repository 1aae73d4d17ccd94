"""Generates the parts and the diagram of the documentation that repeat facts of the code.

`python docs/generate.py` rewrites them. A test fails if they are out of date. As a hook of mkdocs, this file inserts the
parts when the site is built.

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from html import escape
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
    State,
)
from resilient_ws.api.rules import ABOUT, REPORTS
from resilient_ws.core.life import TRANSITIONS
from resilient_ws.core.retry import Decision, RetryState, delay_range

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
    return table(("retry", "uniformly random delay"), [*rows, ("after 1013", f"{low:g} to {high:g} s")])


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
    hour = ReconnectPolicy().refused_for
    return f"{word}; number {len(lowest)} in a row stops, not before {hour:g} s"


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
    later = 60.0 + (ReconnectPolicy().refused_for or 0.0)  # so that the row alone decides
    answers: list[Decision] = []
    while len(answers) < _MANY:
        answers.append(rules.failed(failure, later))
        if answers[-1].stop:
            break
        rules.dialing(later)
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


# ------------------------------------------------------------------------------------------------ errors, modules


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


def ids() -> str:
    """The id of each exception."""
    kinds = [ResilientWSError]
    for kind in kinds:
        kinds += [child for child in kind.__subclasses__() if child.__name__ in resilient_ws.__all__]
    rows = [(f"`{kind.id}`", f"`{kind.__name__}`") for kind in sorted(kinds, key=lambda kind: kind.id)]
    return table(("`id`", "exception"), rows)


def reports() -> str:
    """Each id of an `ErrorEvent`, and what it means."""
    return table(
        ("`ErrorEvent.id`", "meaning"), [(f"`{report}`", about) for report, about in REPORTS.items()]
    )


def rules() -> str:
    """Each rule id, and what it means."""
    return table(("`rule_id`", "meaning"), [(f"`{rule_id}`", about) for rule_id, about in ABOUT.items()])


def modules() -> str:
    """Each module with the first sentence of its docstring."""
    package = Path(resilient_ws.__file__).parent
    rows = []
    for path in sorted(package.rglob("*.py")):
        if path.name != "__init__.py":
            name = ".".join(path.relative_to(package).with_suffix("").parts)
            rows.append((f"`{name}`", _summary(path)))
    return table(("module", "its job"), rows)


def packages() -> str:
    """Each package with the first sentence of its docstring, in the order of the layers: each imports only later ones."""
    package = Path(resilient_ws.__file__).parent
    project = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(one for one in project["tool"]["importlinter"]["contracts"] if one["id"] == "one-way")
    names = [name.strip("() ") for layer in contract["layers"] for name in layer.split("|")]
    rows = []
    for name in names:
        root = package / name
        if not root.is_dir():
            rows.append((f"`{name}`", _summary(root.with_suffix(".py"))))
            continue
        rows.extend(
            (f"`{'.'.join(path.parent.relative_to(package).parts)}`", _summary(path))
            for path in sorted(root.rglob("__init__.py"), key=lambda path: path.parent)
        )
    return table(("package", "its job"), rows)


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    return sentence.replace("|", "\\|")


# ------------------------------------------------------------------------------------------------ states

INK, EDGE, BOX = "#7d8590", "#8da4bd", "#12a594"
"""Readable on a light page and on a dark one, as in the other diagrams."""

PLACES: Final = {
    State.IDLE: (110, 60),
    State.CONNECTING: (350, 60),
    State.OPEN: (780, 60),
    State.BACKOFF: (550, 210),
    State.CLOSING: (350, 360),
    State.CLOSED: (720, 360),
}
"""The centre of each state."""

ROUTES: Final = {
    (State.IDLE, State.CONNECTING): ("M170 60H288", (229, 52), "middle"),
    (State.IDLE, State.CLOSING): ("M110 80V360H288", (102, 215), "end"),
    (State.CONNECTING, State.OPEN): ("M410 60H718", (565, 52), "middle"),
    (State.CONNECTING, State.BACKOFF): ("M395 80L522 188", (478, 140), "start"),
    (State.CONNECTING, State.CLOSING): ("M310 80V338", (302, 215), "end"),
    (State.OPEN, State.BACKOFF): ("M735 80L592 188", (682, 140), "start"),
    (State.OPEN, State.CLOSING): ("M840 60H880V420H350V382", (872, 215), "end"),
    (State.BACKOFF, State.CONNECTING): ("M500 190L367 82", (462, 176), "end"),
    (State.BACKOFF, State.CLOSING): ("M520 230L384 338", (446, 302), "start"),
    (State.BACKOFF, State.CLOSED): ("M575 230L692 338", (642, 282), "start"),
    (State.CLOSING, State.CLOSED): ("M410 360H658", (534, 378), "middle"),
}
"""The path of each step, and where its label begins, ends or has its middle."""


def states() -> str:
    """Returns the table of `resilient_ws.core.life` as a state diagram in SVG.

    Raises:
        KeyError: A state or a step has no place yet: give it one.
    """
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 440" width="900" role="img">',
        "<title>The states of a client</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
        f'<path d="M0 0L8 4L0 8z" fill="{EDGE}"/></marker></defs>',
        f'<g font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
        f'<circle cx="20" cy="60" r="6" fill="{BOX}"/>',
        f'<circle cx="820" cy="360" r="8" fill="none" stroke="{BOX}"/><circle cx="820" cy="360" r="4" fill="{BOX}"/>',
        *(_arrow(path) for path in ("M26 60H48", "M780 360H810")),
    ]
    for state, steps in TRANSITIONS.items():
        x, y = PLACES[state]
        parts += [
            f'<rect x="{x - 60}" y="{y - 20}" width="120" height="40" rx="8" fill="{BOX}22" stroke="{BOX}"/>',
            f'<text x="{x}" y="{y + 5}" text-anchor="middle" font-weight="600">{state.name}</text>',
        ]
        for fact, new in steps.items():
            path, (left, base), anchor = ROUTES[state, new]
            parts += [
                _arrow(path),
                f'<text x="{left}" y="{base}" text-anchor="{anchor}">{escape(fact.value)}</text>',
            ]
    return "\n".join([*parts, "</g></svg>", ""])


def _arrow(path: str) -> str:
    return f'<path d="{path}" stroke="{EDGE}" fill="none" marker-end="url(#tip)"/>'


PICTURES: Final[dict[str, Callable[[], str]]] = {"states.svg": states}
"""Files beside the pages."""

PARTS: Final[dict[str, Callable[[], str]]] = {
    "close-codes": close_codes,
    "close-code-meanings": close_code_meanings,
    "delays": delays,
    "failures": failures,
    "errors": errors,
    "ids": ids,
    "reports": reports,
    "rules": rules,
    "packages": packages,
    "modules": modules,
}
"""Kept in the pages."""


def renewed(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """Returns a page with each part made anew.

    Raises:
        KeyError: It asks for an unknown part.
    """

    def fresh(found: re.Match[str]) -> str:
        name = found[2]
        return f"{found[1]}\n{parts[name]()}\n\n{found[3]}"

    return _PART.sub(fresh, text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return renewed(markdown, PARTS)


def main() -> int:
    """Rewrites the pages and the diagram, and prints which pages have changed."""
    for path in sorted(PAGES.rglob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = renewed(old, PARTS)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"rewritten: {path.relative_to(PAGES.parent)}")
    for name, picture in PICTURES.items():
        (PAGES / name).write_text(picture(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
