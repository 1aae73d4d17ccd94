"""The servers to test against: for each library, how it is started and what it can do.

Features: ``fragments`` (it can send a message in several frames), ``deflate`` (it accepts permessage-deflate).
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integration.servers.process import LOOPBACK, Command, Place, Server
from tests.requirements import find_tool, require_tools, unavailable

HERE = Path(__file__).parent
FRAGMENTS = "fragments"
DEFLATE = "deflate"


def python_script(name: str, *arguments: str) -> Command:
    """Return what starts one of the scripts beside this file."""
    script = [sys.executable, str(HERE / name), *arguments]
    return lambda listen, port: [*script, "--host", listen, "--port", str(port)]


def websockets_server(place: Place = LOOPBACK) -> Server:
    """Return the server of ``websockets``, not started."""
    features = frozenset({FRAGMENTS, DEFLATE})
    return Server("websockets", python_script("run_websockets.py"), features=features, place=place)


def aiohttp_server(place: Place = LOOPBACK) -> Server:
    """Return the server of aiohttp, not started."""
    return Server("aiohttp", python_script("run_aiohttp.py"), features=frozenset({DEFLATE}), place=place)


def uvicorn_websockets_server(place: Place = LOOPBACK) -> Server:
    """Return uvicorn on the protocol core of ``websockets``, not started."""
    command = python_script("run_asgi.py", "--server", "websockets-sansio")
    return Server("uvicorn-websockets", command, features=frozenset({DEFLATE}), place=place)


def uvicorn_wsproto_server(place: Place = LOOPBACK) -> Server:
    """Return uvicorn on ``wsproto``, not started."""
    command = python_script("run_asgi.py", "--server", "wsproto")
    return Server("uvicorn-wsproto", command, features=frozenset({DEFLATE}), place=place)


def hypercorn_server(place: Place = LOOPBACK) -> Server:
    """Return hypercorn, not started."""
    command = python_script("run_asgi.py", "--server", "hypercorn")
    return Server("hypercorn", command, features=frozenset({DEFLATE}), place=place)


def node_server(place: Place = LOOPBACK) -> Server:
    """Return the npm package ``ws`` on node, not started."""
    require_tools("node")
    if not (HERE / "node_modules" / "ws" / "package.json").is_file():
        unavailable("the npm package ws is not installed; `make system` installs it")

    def command(listen: str, port: int) -> Sequence[str]:
        return [str(find_tool("node")), str(HERE / "run_node.mjs"), "--host", listen, "--port", str(port)]

    return Server("node-ws", command, features=frozenset({FRAGMENTS, DEFLATE}), place=place)


KINDS: dict[str, Callable[..., Server]] = {
    "websockets": websockets_server,
    "aiohttp": aiohttp_server,
    "uvicorn-websockets": uvicorn_websockets_server,
    "uvicorn-wsproto": uvicorn_wsproto_server,
    "hypercorn": hypercorn_server,
    "node-ws": node_server,
}


@contextmanager
def nginx_before(upstream: Server, read_timeout: float = 1.0) -> Iterator[Server]:
    """Run nginx as reverse proxy before a server (which may be down: 502).

    Args:
        upstream: where requests go; it may be stopped and started meanwhile.
        read_timeout: ``proxy_read_timeout``, whole milliseconds in s: a server silent for so long is hung up on.
    """
    require_tools("nginx")
    folder = Path(tempfile.mkdtemp(prefix="resilient_ws_nginx_"))

    def command(listen: str, port: int) -> Sequence[str]:
        text = (HERE / "nginx.conf").read_text()
        values = {
            "FOLDER": str(folder),
            "UPSTREAM": str(upstream.port),
            "READ_TIMEOUT": f"{round(read_timeout * 1000)}ms",
            "LISTEN": f"{listen}:{port}",
        }
        for name, value in values.items():
            text = text.replace(name, value)
        (folder / "nginx.conf").write_text(text)
        # -e: before the configuration is read it would write to the log of the system's nginx.
        return [str(find_tool("nginx")), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]

    try:
        with Server(
            f"nginx-{upstream.name}", command, features=upstream.features, reports_ready=False
        ) as proxy:
            yield proxy
    finally:
        shutil.rmtree(folder, ignore_errors=True)
