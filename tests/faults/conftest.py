"""``network``: a network of its own for one test, to be broken by it. ``peer``: a server in it, over TLS ``tls_peer``."""

import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.faults.netns import Network, require_namespaces
from tests.faults.watch import Watch
from tests.integration.servers import Server
from tests.integration.servers.process import Command

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a namespace as ``netns``."""
    for item in items:
        if "network" in getattr(item, "fixturenames", ()):
            item.add_marker("netns")


def script(name: str, *options: str | Path) -> Command:
    """Return what starts a server of this folder."""
    command = [sys.executable, str(HERE / name), *map(str, options)]
    return lambda listen, port: [*command, "--host", listen, "--port", str(port)]


@pytest.fixture(autouse=True)
def figures(record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each watch keep its figures with the result of the test."""
    monkeypatch.setattr(Watch, "record", staticmethod(record_property), raising=False)


@pytest.fixture(scope="session")
def namespaces_available() -> None:
    """Skip, or fail in CI, where namespaces cannot be made."""
    require_namespaces()


@pytest.fixture
def network(namespaces_available: None) -> Iterator[Network]:
    """A namespace with a cable to it, gone after the test."""
    with Network() as network:
        yield network


@pytest.fixture
def peer(network: Network) -> Server:
    """A server inside that echoes and streams."""
    return network.start_command("peer", script("run_peer.py"))


@pytest.fixture
def local_peer() -> Iterator[Server]:
    """The same on loopback."""
    with Server("peer", script("run_peer.py")) as server:
        yield server


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody else trusts."""
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs to trust it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def tls_url(network: Network, authority: trustme.CA, tmp_path: Path) -> str:
    """The address of a server inside that speaks TLS."""
    path = tmp_path / "certificate.pem"
    authority.issue_cert(network.server_address).private_key_and_cert_chain_pem.write_to_path(path)
    server = network.start_command("peer", script("run_peer.py", "--certificate", path), port=8443)
    return f"wss://{server.host}:{server.port}"
