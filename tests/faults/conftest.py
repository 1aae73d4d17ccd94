"""``network``: a network of its own for one test, to be broken by it."""

from collections.abc import Iterator

import pytest

from tests.faults.netns import Network, require_namespaces


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a namespace as ``netns``."""
    for item in items:
        if "network" in getattr(item, "fixturenames", ()):
            item.add_marker("netns")


@pytest.fixture(scope="session")
def namespaces_available() -> None:
    """Skip, or fail in CI, where namespaces cannot be made."""
    require_namespaces()


@pytest.fixture
def network(namespaces_available: None) -> Iterator[Network]:
    """A namespace with a cable to it, gone after the test."""
    with Network() as network:
        yield network
