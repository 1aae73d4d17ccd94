"""The servers of other libraries as fixtures.

``server`` runs a test against each of them, and through nginx. A test may stop, kill or freeze it: it is made to run
again for the next one. ``start_server`` and ``start_nginx`` start one more, for this test alone. ``transport`` runs a
test on aiohttp and on picows.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from aiohttp import Fingerprint

from resilient_ws.runtime import config
from resilient_ws.transports import make_transport
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.seam import Transport
from tests.integration.servers import KINDS, Server, nginx_before

# Long enough for every test that is not about this very timeout.
PROXY_READ_TIMEOUT = 60.0


@pytest.fixture
def on_picows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are made with picows; a test that asks for what picows has not is skipped."""

    def make(_: str, options: TransportOptions) -> Transport:
        if options.session or options.compression or isinstance(options.ssl, Fingerprint):
            pytest.skip("picows has no session, compression or fingerprint")
        return make_transport("picows", options)

    monkeypatch.setattr(config, "make_transport", make)


@pytest.fixture(params=["aiohttp", "picows"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn; `pytest.mark.usefixtures` with it runs a file on both."""
    if request.param == "picows":
        request.getfixturevalue("on_picows")
    return str(request.param)


@pytest.fixture(scope="session", params=[*KINDS, "nginx"])
def server_process(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One of the servers, started once for all tests that use it."""
    with ExitStack() as stack:
        if request.param == "nginx":
            upstream = stack.enter_context(KINDS["websockets"]())
            yield stack.enter_context(nginx_before(upstream, PROXY_READ_TIMEOUT))
        else:
            yield stack.enter_context(KINDS[request.param]())


@pytest.fixture
def server(server_process: Server) -> Iterator[Server]:
    """Each server in turn, running at the start of the test."""
    server_process.heal()
    yield server_process
    server_process.heal()


@pytest.fixture
def start_server() -> Iterator[Callable[[str], Server]]:
    """Return what starts a server of the named kind, for this test alone."""
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(KINDS[kind]())


@pytest.fixture
def start_nginx() -> Iterator[Callable[..., Server]]:
    """Return what starts nginx before a server, for this test alone; see ``nginx_before``."""
    with ExitStack() as stack:
        yield lambda upstream, read_timeout=1.0: stack.enter_context(nginx_before(upstream, read_timeout))
