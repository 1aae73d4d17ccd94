"""The shared default TLS context: created off the loop, and again when the trust store changes.

To make one takes a tenth of a second. A failure is not kept, nor what was being made when the process was forked.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from resilient_ws.api.errors import ConnectError

_Key = tuple[bool, tuple[object, ...]]


class _Contexts:
    """The contexts of this process, each with what the trust store looked like."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: dict[bool, tuple[_Key, Future[ssl.SSLContext]]] = {}

    def begin_anew(self) -> None:
        """In a forked child: the threads that were making contexts are not there."""
        self.lock = threading.Lock()
        self.made.clear()

    def get(self, *, verified: bool) -> Future[ssl.SSLContext]:
        """Return the context, or what becomes of one that is being made."""
        key = (verified, _look_of_the_store() if verified else ())
        with self.lock:
            known = self.made.get(verified)
            if known is not None and known[0] == key and not _has_failed(known[1]):
                return known[1]
            making: Future[ssl.SSLContext] = Future()
            making.set_running_or_notify_cancel()
            self.made[verified] = key, making
        thread = threading.Thread(target=_make, args=(making, verified), name="resilient_ws:tls", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left
            making.set_exception(OSError(None, str(error)))
        return making


def _has_failed(making: Future[ssl.SSLContext]) -> bool:
    return making.done() and making.exception() is not None


def _make(making: Future[ssl.SSLContext], verified: bool) -> None:
    try:
        making.set_result(make_context(verified=verified))
    except BaseException as error:  # noqa: BLE001 - any exception is passed on to the waiters
        making.set_exception(error)


def make_context(*, verified: bool) -> ssl.SSLContext:
    """Return a context that trusts what the system trusts; unverified, any certificate."""
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _look_of_the_store() -> tuple[object, ...]:
    """Return what changes when the system's certificates do: two or four calls of the system."""
    paths = ssl.get_default_verify_paths()
    names = [
        os.environ.get(paths.openssl_cafile_env) or paths.openssl_cafile,
        os.environ.get(paths.openssl_capath_env) or paths.openssl_capath,
    ]
    return tuple((name, *_look_of(name)) for name in names)


def _look_of(name: str) -> tuple[object, ...]:
    try:
        found = Path(name).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


_contexts = _Contexts()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_contexts.begin_anew)


async def default_context(*, verified: bool) -> ssl.SSLContext:
    """Return the context that all clients share. Cancel-safe: others may wait for the same one.

    Raises:
        ConnectError: It cannot be made.
    """
    making = _contexts.get(verified=verified)
    try:
        return making.result() if making.done() else await asyncio.shield(asyncio.wrap_future(making))
    except Exception as error:
        raise ConnectError(f"the TLS context could not be made: {error}") from error


def check_protocol(transport: Any) -> None:
    """Raise where the TLS handshake chose another protocol than HTTP/1.1, in which a connection cannot be upgraded.

    Raises:
        ConnectError: It has; no later attempt can end differently.
    """
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    chosen = tls.selected_alpn_protocol() if tls is not None else None
    if chosen not in {None, "http/1.1", "http/1.0"}:
        raise ConnectError(
            f"the TLS handshake chose the protocol {chosen!r} (ALPN), which has no opening handshake of RFC 6455; "
            "let the SSLContext offer http/1.1 only: set_alpn_protocols(['http/1.1'])",
            retryable=False,
        )
