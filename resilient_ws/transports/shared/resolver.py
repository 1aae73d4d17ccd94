"""DNS lookups in threads of their own, one per host at a time.

`getaddrinfo` cannot be cancelled. On the shared executor, look-ups that hang would use up its threads one retry
after the other; here a retry joins the look-up that is still under way instead of starting a second one.
Nothing is cached: each attempt that starts after the last one has answered resolves anew.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_Key = tuple[str, int, int]
_AddressInfo = list[tuple[Any, Any, Any, Any, Any]]


class _Lookup:
    """One `getaddrinfo` on a daemon thread; any number of loops may wait for it."""

    def __init__(self, key: _Key) -> None:
        self._key = key
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[_AddressInfo]]] = []

    def join(self) -> asyncio.Future[_AddressInfo]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_AddressInfo] = loop.create_future()
        self._waiting.append((loop, future))
        return future

    def run(self) -> None:
        host, port, family = self._key
        result: _AddressInfo = []
        error: OSError | None = None
        try:
            result = socket.getaddrinfo(
                host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        except OSError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - any exception is passed on to the waiters
            error = OSError(None, f"not a host name: {caught}")
        self.settle(result, error)

    def settle(self, result: _AddressInfo, error: OSError | None) -> None:
        """Resolve all waiters; later calls look the name up again."""
        with _guard.lock:
            _in_flight.pop(self._key, None)
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                continue  # that loop is closed, so nothing waits there


class _Guard:
    """Guards `_in_flight`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def begin_anew(self) -> None:
        """In a forked child: it has neither the threads nor the loops that wait for them, nor who holds the lock."""
        self.lock = threading.Lock()
        _in_flight.clear()


_guard = _Guard()
_in_flight: dict[_Key, _Lookup] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.begin_anew)


def _settle(future: asyncio.Future[_AddressInfo], result: _AddressInfo, error: OSError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _join(key: _Key) -> asyncio.Future[_AddressInfo]:
    with _guard.lock:
        lookup = _in_flight.get(key)
        if lookup is not None:
            return lookup.join()
        lookup = _in_flight[key] = _Lookup(key)
        future = lookup.join()
    try:
        threading.Thread(target=lookup.run, name=f"resilient_ws:dns:{key[0]}", daemon=True).start()
    except RuntimeError as error:  # the system has no thread left
        lookup.settle([], OSError(None, str(error)))
    return future


def _numeric(key: _Key) -> _AddressInfo:
    """Return the address record of an IP address, without a lookup; empty for a name.

    A thread for it was a fifth of the CPU of a dial with picows; aiohttp does not ask for an address.
    """
    host, port, family = key
    if not (":" in host or host[-1:].isdigit()):
        return []
    try:
        return socket.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, ValueError):
        return []  # a name, or what is wrong with it is told by the look-up


class LookupResolver(AbstractResolver):
    """The resolver of aiohttp's connector, on such threads."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`; raise `OSError` if it has none."""
        key = (host, port, int(family))
        found = _numeric(key) or await _join(key)
        results: list[ResolveResult] = []
        for kind, _, proto, _, address in found:
            numeric = str(address[0])
            if kind == socket.AF_INET6:
                if len(address) < 4:
                    continue  # Python was built without IPv6
                if address[3]:
                    numeric = (
                        f"{numeric.partition('%')[0]}%{address[3]}"  # link-local: the zone belongs to it
                    )
            results.append(
                ResolveResult(
                    hostname=host,
                    host=numeric,
                    port=int(address[1]),
                    family=kind,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError(None, "the name has no address that can be used")
        return results

    async def close(self) -> None:
        """Do nothing: lookups in progress are shared."""
