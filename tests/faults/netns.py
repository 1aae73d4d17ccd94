"""A network of our own to break: a namespace with a server in it, joined to the test process by a virtual cable.

::

    test process (root namespace)                     namespace rws-PID-X
      rwscPIDxX  10.200.X.1/24  <===== veth =====>  eth0  10.200.X.2/24   server

Everything is done with ``ip`` and ``iptables``, packets are dropped inside the namespace only, and the names carry the
process id, so that runs beside each other do not meet and what a killed run left behind is removed by the next.

Nothing that is meant for the namespace can leave the machine: an ``unreachable`` route stands behind the veth's own
for as long as the network exists, also while the cable is unplugged.
"""

import fcntl
import ipaddress
import itertools
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

from tests.integration.servers import KINDS, Place, Server
from tests.integration.servers.process import Command
from tests.requirements import find_tool, require_tools, unavailable

Direction = Literal["to_server", "to_client", "both"]
Side = Literal["server", "client"]

PORT = 8000
GUARD_METRIC = "4000000000"
CHAINS: dict[Direction, tuple[str, ...]] = {
    "to_server": ("INPUT",),
    "to_client": ("OUTPUT",),
    "both": ("INPUT", "OUTPUT"),
}
NAME = re.compile(r"rws-(?P<pid>\d+)-(?P<subnet>\d+)")
LOCK = Path(tempfile.gettempdir()) / "resilient_ws_netns.lock"


class NetworkError(Exception):
    """A command that sets the network up or breaks it has failed."""


class Network:
    """One namespace, its cable, and the ways to break both; a context manager that leaves nothing behind.

    ``server_address`` and ``client_address`` are the addresses of the two ends, also after a change.
    """

    namespace: str
    client_link: str
    client_address: str
    server_address: str

    def __init__(self) -> None:
        self._cleanup = ExitStack()
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            self._build(cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    # servers

    def start_server(self, kind: str = "websockets", port: int = PORT) -> Server:
        """Start one of the servers of the little protocol inside; it ends with the network."""
        return self._start(KINDS[kind](self.place(port)))

    def start_command(self, name: str, command: Command, port: int = PORT) -> Server:
        """Start another server inside: it prints a line of JSON with its ``port`` once it listens."""
        return self._start(Server(name, command, place=self.place(port)))

    def place(self, port: int = PORT) -> Place:
        """Return where a server inside runs: on all addresses, so that it survives a change of them."""
        prefix = (str(find_tool("ip")), "netns", "exec", self.namespace)
        return Place(host=self.server_address, listen="0.0.0.0", port=port, prefix=prefix)

    # faults

    def drop(self, direction: Direction = "both", port: int | None = None) -> None:
        """Let packets vanish on their way, all or those of one port of the server; neither end is told."""
        for chain in CHAINS[direction]:
            end = "--dport" if chain == "INPUT" else "--sport"
            self._iptables("-A", chain, *(("-p", "tcp", end, str(port)) if port else ()), "-j", "DROP")

    def drop_data(self, direction: Direction = "both") -> None:
        """Let packets with a payload vanish; acknowledgements, SYN and FIN pass: one direction is dead, TCP is not."""
        for chain in CHAINS[direction]:
            # The headers of IPv4, TCP and its time stamps take 52 bytes; only a SYN is longer without a payload.
            self._iptables(
                *("-A", chain, "-p", "tcp", "--tcp-flags", "SYN", "NONE"),
                *("-m", "length", "--length", "53:65535", "-j", "DROP"),
            )

    def undrop(self, direction: Direction = "both") -> None:
        """Let packets through again, also those that were rejected; what was lost is sent again by TCP."""
        for chain in CHAINS[direction]:
            self._iptables("-F", chain)

    def reject_with_rst(self) -> None:
        """Answer each TCP packet to the server with a reset: a firewall that has forgotten the connection.

        The client's next packet, or its next dial, meets it. The server is told nothing.
        """
        self._iptables("-A", "INPUT", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")

    def link_down(self, side: Side = "server") -> None:
        """Unplug the cable at one end: at the server's it is silence, at the client's the client's kernel knows it."""
        self._set_link(side, "down")

    def link_up(self, side: Side = "server") -> None:
        """Plug the cable in again; addresses are as before."""
        self._set_link(side, "up")

    def limit_rate(self, rate: int, direction: Literal["to_server", "to_client"]) -> None:
        """Let only so many bytes per second pass in one direction: a slow line, with a queue so long that none get lost.

        Where they do, TCP itself may fall silent for longer than the short timeouts of tests.
        """
        shape = ("root", "tbf", "rate", f"{rate * 8}bit", "burst", "5kb", "limit", "2mb")
        if direction == "to_server":
            run_tool("tc", "qdisc", "add", "dev", self.client_link, *shape)
        else:
            run_tool("tc", "-n", self.namespace, "qdisc", "add", "dev", "eth0", *shape)

    def change_client_address(self) -> None:
        """Give the client's end another address: its connections are mute from now on, as after a change of Wi-Fi."""
        new = self._next_address()
        ip("addr", "del", f"{self.client_address}/24", "dev", self.client_link)
        ip("addr", "add", f"{new}/24", "dev", self.client_link)
        self.client_address = new

    def change_server_address(self) -> None:
        """Move the server to another address: what dials ``server.url`` from now on finds it there."""
        new = self._next_address()
        self._ip_inside("addr", "del", f"{self.server_address}/24", "dev", "eth0")
        self._ip_inside("addr", "add", f"{new}/24", "dev", "eth0")
        self.server_address = new
        for server in self._servers:
            server.host = new

    def heal(self) -> None:
        """Undo every fault but a changed address."""
        self.undrop()
        self.link_up("server")
        self.link_up("client")

    # how it is built

    def _build(self, cleanup: ExitStack) -> None:
        with creation_lock():
            remove_stale_networks()
            subnet = free_subnet()
            self.namespace = f"rws-{os.getpid()}-{subnet}"
            self.client_link = f"rws{os.getpid()}x{subnet}"
            self._prefix = f"10.200.{subnet}"
            self._hosts = itertools.count(3)
            self.client_address = f"{self._prefix}.1"
            self.server_address = f"{self._prefix}.2"
            cleanup.callback(remove_network, self.namespace, self.client_link)
            ip("netns", "add", self.namespace)
            ip("route", "add", "unreachable", f"{self._prefix}.0/24", "metric", GUARD_METRIC)
        peer = ("peer", "name", "eth0", "netns", self.namespace)
        ip("link", "add", self.client_link, "type", "veth", *peer)
        ip("link", "set", self.client_link, "addrgenmode", "none")  # no IPv6 of its own accord
        self._ip_inside("link", "set", "eth0", "addrgenmode", "none")
        ip("addr", "add", f"{self.client_address}/24", "dev", self.client_link)
        self._ip_inside("addr", "add", f"{self.server_address}/24", "dev", "eth0")
        self._ip_inside("link", "set", "lo", "up")
        self.link_up("server")
        self.link_up("client")

    def _start(self, server: Server) -> Server:
        self._servers.append(server)
        self._cleanup.callback(server.close)
        return server.start()

    def _next_address(self) -> str:
        return f"{self._prefix}.{next(self._hosts)}"

    def _set_link(self, side: Side, state: str) -> None:
        if side == "server":
            self._ip_inside("link", "set", "eth0", state)
        else:
            ip("link", "set", self.client_link, state)

    def _ip_inside(self, *arguments: str) -> None:
        ip("-n", self.namespace, *arguments)

    def _iptables(self, *arguments: str) -> None:
        ip("netns", "exec", self.namespace, str(find_tool("iptables")), "--wait", *arguments)


def require_namespaces() -> None:
    """Go on only where namespaces can be made: root, on Linux, with the tools, and allowed to."""
    if os.geteuid() != 0:
        unavailable("network namespaces need root")
    require_tools("ip", "iptables")
    probe = f"rws-{os.getpid()}-0"
    try:
        ip("netns", "add", probe)
        ip("netns", "exec", probe, str(find_tool("iptables")), "--wait", "-S")
    except NetworkError as error:
        unavailable(f"network namespaces cannot be made here: {error}")
    finally:
        with suppress(NetworkError):
            ip("netns", "del", probe)


def ip(*arguments: str) -> str:
    """Run ``ip`` and return what it prints."""
    return run_tool("ip", *arguments)


def run_tool(name: str, *arguments: str) -> str:
    """Run a program of the system and return what it prints."""
    command = [str(find_tool(name)), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode != 0:
        raise NetworkError(f"{name} {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


@contextmanager
def creation_lock() -> Iterator[None]:
    """Let one process at a time choose a subnet and sweep."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def namespaces() -> list[str]:
    """Return the names of the namespaces made by this module, in whatever process."""
    names = [line.split()[0] for line in ip("netns", "list").splitlines() if line.strip()]
    return [name for name in names if NAME.fullmatch(name)]


def free_subnet() -> int:
    """Return X of a 10.200.X.0/24 that neither this module nor the machine itself uses."""
    routes: list[dict[str, Any]] = json.loads(ip("-json", "-4", "route", "show", "table", "all") or "[]")
    used = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"][0].isdigit()]
    for subnet in range(1, 255):
        network = ipaddress.ip_network(f"10.200.{subnet}.0/24")
        if not any(network.overlaps(other) for other in used):
            return subnet
    raise NetworkError("no free subnet left in 10.200.0.0/16")


def remove_stale_networks() -> None:
    """Remove the networks of processes that are gone."""
    for name in namespaces():
        match = NAME.fullmatch(name)
        assert match is not None
        if not Path("/proc", match["pid"]).exists():
            remove_network(name, f"rws{match['pid']}x{match['subnet']}")


def remove_network(namespace: str, client_link: str) -> None:
    """Remove a namespace with what still runs in it, its cable, and last its guard route; what is gone is fine."""
    with suppress(NetworkError):
        for pid in ip("netns", "pids", namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for arguments in (
        ("link", "del", client_link),
        ("netns", "del", namespace),
        (
            "route",
            "del",
            "unreachable",
            f"10.200.{namespace.rpartition('-')[2]}.0/24",
            "metric",
            GUARD_METRIC,
        ),
    ):
        with suppress(NetworkError):
            ip(*arguments)
