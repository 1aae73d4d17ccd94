"""Host names that resolve as a test wants: several addresses, broken ones, or none."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from resilient_ws.testing.server.script import Behaviour
from resilient_ws.testing.server.server import FaultServer

Addresses: TypeAlias = "Sequence[str] | OSError"
"""IP addresses in the order in which a look-up gives them, or what it raises."""

_BIND_ATTEMPTS: Final = 20


class Hosts:
    """Lets names lead where a test wants, for everything in this process that asks `socket.getaddrinfo`.

    ::

        with Hosts({"feed.test": ["127.0.0.1", "127.0.0.2"]}) as hosts:
            ...  # connect a client to ws://feed.test:8080/
            hosts["feed.test"] = ["127.0.0.2"]  # the name moves
            hosts["feed.test"] = socket.gaierror(socket.EAI_AGAIN, "try again")  # the name server is down

    This package and asyncio's own loop ask it; uvloop's own look-ups do not. The addresses come in the given order
    each time, as from a hosts file. All other names are looked up as ever. Safe to use from several threads.

    Args:
        names: The addresses of each name, or the exception that its look-up raises; no address is a name that is
            not known.
    """

    def __init__(self, names: Mapping[str, Addresses]) -> None:
        self._names = {_plain(name): addresses for name, addresses in names.items()}
        self._lookups: list[str] = []

    def __enter__(self) -> Self:
        with _lock:
            if not _open:
                socket.getaddrinfo = _look_up
            _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            _open.remove(self)
            if not _open:
                socket.getaddrinfo = _system

    def __setitem__(self, name: str, addresses: Addresses) -> None:
        """Let a name lead elsewhere from now on."""
        self._names[_plain(name)] = addresses

    @property
    def lookups(self) -> list[str]:
        """Each name of these that was looked up so far, in order."""
        return list(self._lookups)

    def find(self, name: str) -> Addresses | None:
        """Return where a name leads, and note the look-up; `None` where this does not say."""
        addresses = self._names.get(_plain(name))
        if addresses is not None:
            self._lookups.append(_plain(name))
        return addresses


_system: Final = socket.getaddrinfo
_lock: Final = threading.Lock()
_open: Final[list[Hosts]] = []


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
    """`socket.getaddrinfo` while a `Hosts` is open."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    addresses: Addresses | None = None
    if isinstance(name, str):
        with _lock:
            addresses = next((at for hosts in reversed(_open) if (at := hosts.find(name)) is not None), None)
    if addresses is None:
        return _system(host, port, *args, **options)
    if isinstance(addresses, OSError):
        raise addresses
    found: list[Any] = []
    for address in addresses:
        with contextlib.suppress(socket.gaierror):  # an address of a family that was not asked for
            found += _system(address, port, *args, **options)
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return found


class SeveralAddresses:
    """A name with several addresses, each with a fault server of its own, so that some may be sick.

    ::

        async with SeveralAddresses(Hangup("silent", "connect"), None, Accept()) as name:
            ...  # connect a client to name.url: only the third address is well
            print(name.servers[0].attempt_count)

    The addresses are 127.0.0.1, 127.0.0.2, ... on one port, and come in that order each time. Linux and Windows have
    them; macOS has only the first.

    Args:
        behaviours: What each address does to every connection, 1 to 254 of them. `Accept` is well; `Hangup("silent",
            "connect")` accepts and is silent from then on; `Hangup("fin")` closes; `Refuse` answers. `None`
            refuses TCP connections, until `start` of its server.
        name: The name.

    Attributes:
        servers: The server of each address, in order.
        hosts: Where the name leads; may be set to something else at any time.
    """

    def __init__(self, *behaviours: Behaviour | None, name: str = "several.test") -> None:
        if not 1 <= len(behaviours) <= 254:
            raise ValueError(f"behaviours must be 1 to 254, one for each address, not {len(behaviours)}")
        self._behaviours = behaviours
        self.name = name
        self.servers: list[FaultServer] = []
        self.hosts = Hosts({name: [f"127.0.0.{number}" for number in range(1, len(behaviours) + 1)]})

    @property
    def url(self) -> str:
        """The address, `ws://name:port/`."""
        return f"ws://{self.name}:{self.servers[0].port}/"

    async def __aenter__(self) -> Self:
        for attempt in range(_BIND_ATTEMPTS):
            try:
                await self._start()
                break
            except OSError as error:  # the free port of one address is taken on another
                await self._close()
                if error.errno != errno.EADDRINUSE or attempt == _BIND_ATTEMPTS - 1:
                    raise
        self.hosts.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hosts.__exit__(kind, error, trace)
        errors = [error for server in self.servers for error in server.errors]
        await self._close()
        if error is None and errors:
            raise errors[0]

    async def _start(self) -> None:
        self.servers = []
        port = 0
        for number, behaviour in enumerate(self._behaviours, 1):
            server = FaultServer(default=behaviour, host=f"127.0.0.{number}", port=port)
            self.servers.append(server)
            await server.start()
            port = server.port
            if behaviour is None:
                await server.stop()

    async def _close(self) -> None:
        for server in self.servers:
            await server.aclose()
