"""The documentation says what the code says: generated parts are in step, and examples name only what is there."""

import ast
import importlib.util
import inspect
import re
from collections import Counter
from xml.etree import ElementTree as ET

import pytest

import resilient_ws
import resilient_ws.testing
from resilient_ws import Connection, WebSocketClient
from resilient_ws.core.life import TRANSITIONS
from tests.snippets import PAGES, ROOT, page_id, parse, snippets

SPEC = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)

ALL = [snippet for page in PAGES for snippet in snippets(page)]
MARK = re.compile(r"<!-- generated: ([\w-]+) -->")
METHODS_OF = {"client": WebSocketClient, "conn": Connection, "connection": Connection}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_generated_parts_are_in_step(page):
    text = page.read_text(encoding="utf-8")
    assert generate.renewed(text, generate.PARTS) == text, "run: python docs/generate.py"


def test_every_generated_part_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(MARK.findall(text)) == generate.PARTS.keys()
    for name, part in generate.PARTS.items():
        assert part() in text, name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_site_has_each_part_that_a_page_asks_for(page):
    text = page.read_text(encoding="utf-8")
    built = generate.on_page_markdown(text)
    for name in MARK.findall(text):
        assert f"<!-- generated: {name} -->\n\n{generate.PARTS[name]()}\n" in built


@pytest.mark.parametrize("name", generate.PICTURES)
def test_a_generated_diagram_is_in_step_and_shown(name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.PICTURES[name](), (
        "run: python docs/generate.py"
    )
    assert any(f"]({name})" in page.read_text(encoding="utf-8") for page in PAGES)


def test_the_diagram_of_the_states_shows_every_step_of_the_table():
    picture = ET.fromstring(generate.states())
    shown = Counter(text.text for text in picture.iter("{http://www.w3.org/2000/svg}text"))
    steps = [fact.value for steps in TRANSITIONS.values() for fact in steps]
    assert shown == Counter([*(state.name for state in TRANSITIONS), *steps])


def test_no_page_loads_a_diagram_from_the_internet():
    assert not [
        page for page in PAGES if re.search(r"```\s*mermaid|!\[[^\]]*\]\(https?:", page.read_text("utf-8"))
    ]


def test_a_part_that_is_out_of_step_is_noticed():
    page = "before\n<!-- generated: delays -->\n\nold\n\n<!-- end of delays -->\nafter\n"
    fresh = generate.renewed(page, generate.PARTS)
    assert fresh.startswith("before\n")
    assert fresh.endswith("after\n")
    assert "old" not in fresh
    assert "| 1 | 0 to 1 s |" in fresh
    assert generate.renewed(fresh, generate.PARTS) == fresh
    empty = "<!-- generated: delays -->\n<!-- end of delays -->\n"
    assert generate.renewed(empty, generate.PARTS) in fresh
    with pytest.raises(KeyError, match="nobody"):
        generate.renewed("<!-- generated: nobody -->\n<!-- end of nobody -->", generate.PARTS)


def test_every_page_is_found_from_the_navigation():
    listed = set(re.findall(r"- (?:\w+: )?([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT}
    assert there == listed


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    named = set(re.findall(r"^::: resilient_ws\.(\w+)$", text, re.MULTILINE))
    errors = {name for name in resilient_ws.__all__ if name in vars(resilient_ws.api.errors)}
    shown_otherwise = {"CLOSE_CODES", "Event", "Message", "__version__"}
    missing = set(resilient_ws.__all__) - named - errors - shown_otherwise
    assert not missing, "add to docs/reference/"
    assert named <= {*resilient_ws.__all__, "errors", "testing"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


# ---- the examples


def test_there_are_examples():
    assert len(ALL) > 30


@pytest.mark.parametrize("snippet", ALL, ids=str)
def test_an_example_names_only_what_is_there(snippet):
    tree = parse(snippet)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"resilient_ws", "resilient_ws.testing"}:
            module = resilient_ws if node.module == "resilient_ws" else resilient_ws.testing
            assert {alias.name for alias in node.names} <= set(module.__all__)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = METHODS_OF.get(node.value.id)
            assert owner is None or node.attr in known_attributes(owner)
        elif isinstance(node, ast.Call):
            check_call(node)


def known_attributes(kind):
    """Return the names that an object of this class has, those included that its constructor sets."""
    return {*dir(kind), *re.findall(r"self\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(kind))}


def check_call(node):
    """Fail if a call of ours passes an argument that does not exist."""
    called = node.func
    if isinstance(called, ast.Name):
        function = getattr(resilient_ws, called.id, None) or getattr(resilient_ws.testing, called.id, None)
    elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        owner = METHODS_OF.get(called.value.id) or getattr(resilient_ws, called.value.id, None)
        function = getattr(owner, called.attr, None)
        if function is not None and called.value.id in METHODS_OF:
            function = function.__get__(object())
    else:
        return
    if callable(function):
        keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
        inspect.signature(function).bind(*([None] * len(node.args)), **keywords)


@pytest.mark.parametrize(
    "wrong",
    [
        "from resilient_ws import Websocket",
        "client.sent('x')",
        "await client.send('x', confirmed=True)",
        "Heartbeat(pause=3)",
        "Heartbeat.app('ping')",
        "connection.flush()",
    ],
)
def test_a_wrong_example_is_noticed(wrong):
    with pytest.raises((AssertionError, TypeError)):
        test_an_example_names_only_what_is_there(wrong)
