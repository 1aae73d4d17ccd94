"""The checked arguments of a client."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final, cast

import attrs

from resilient_ws.api.options import (
    Heartbeat,
    Inbox,
    Outbox,
    ReconnectPolicy,
    function,
    one_of,
    seconds,
    whole,
)
from resilient_ws.core.governor import Governor
from resilient_ws.runtime.addresses import Addresses
from resilient_ws.runtime.attempt import OpeningOptions
from resilient_ws.transports import make_transport
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.seam import Transport

RANDOM: Final = Random()
"""Draws the delays of all clients, since it has 2,500 bytes; ours alone, since programs may seed theirs alike."""

RECONNECT: Final = ReconnectPolicy()
"""What `reconnect=True` stands for; one for all clients."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        after_in_child=RANDOM.seed
    )  # else all processes that are forked from one draw the same


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Config(OpeningOptions):
    """The arguments of `WebSocketClient`; durations in seconds, `None` = no limit or off."""

    reconnect: ReconnectPolicy | None
    governor: Governor | None
    close_timeout: float | None
    compresses: bool
    fail_fast: bool

    @property
    def confirms(self) -> bool:
        """Whether deliveries are confirmed by tagged pings: as told, or where the heartbeat sends pings anyway."""
        outbox = self.outbox
        if outbox.confirm is not None:
            return outbox.confirm
        if outbox.on_uncertain == "resend" or outbox.path is not None:
            return True
        return self.heartbeat is not None and self.heartbeat.kind == "ping"


def make_config(
    url: object,
    *,
    setup: Any,
    headers: Mapping[str, str] | None,
    subprotocols: Sequence[str],
    heartbeat: object,
    reconnect: object,
    governor: object,
    outbox: object,
    inbox: object,
    open_timeout: object,
    setup_timeout: object,
    close_timeout: object,
    max_message_size: object,
    compression: Any,
    ssl: Any,
    proxy: Any,
    unix_socket: Any,
    local_address: Any,
    session: Any,
    transport: Any,
    fail_fast: object,
) -> Config:
    """Check the arguments of `WebSocketClient`; see there.

    Raises:
        InvalidURL, TypeError, ValueError: One is wrong; the text names it.
    """
    if setup is not None:
        function("setup", setup)
    if heartbeat is not None and not isinstance(heartbeat, Heartbeat):
        if isinstance(heartbeat, bool) or not isinstance(heartbeat, int | float | timedelta):
            raise TypeError(f"heartbeat must be a Heartbeat, seconds or None, got {type(heartbeat).__name__}")
        heartbeat = Heartbeat(seconds("heartbeat", heartbeat))
    if not isinstance(reconnect, ReconnectPolicy | bool):
        raise TypeError(f"reconnect must be a ReconnectPolicy or a bool, got {type(reconnect).__name__}")
    if governor is not None and not isinstance(governor, Governor):
        raise TypeError(f"governor must be a Governor or None, got {type(governor).__name__}")
    if not isinstance(outbox, Outbox):
        raise TypeError(f"outbox must be an Outbox, got {type(outbox).__name__}")
    if not isinstance(inbox, Inbox):
        raise TypeError(f"inbox must be an Inbox, got {type(inbox).__name__}")
    if not isinstance(fail_fast, bool):
        raise TypeError(f"fail_fast must be True or False, got {type(fail_fast).__name__}")
    if compression is not None:
        one_of("compression", compression, ("deflate",))
    if reconnect is True:
        reconnect = RECONNECT
    return Config(
        addresses=Addresses(url, headers, subprotocols),
        transport=_transport(
            transport,
            TransportOptions(
                ssl=True if ssl is None else ssl,
                proxy=proxy,
                unix_socket=_unix_socket(unix_socket),
                local_address=_local_address(local_address),
                session=session,
                compression=compression,
                max_message_size=whole("max_message_size", max_message_size),
            ),
        ),
        setup=setup,
        heartbeat=heartbeat,
        reconnect=None if reconnect is False else reconnect,
        governor=governor,
        outbox=outbox,
        inbox=inbox,
        open_timeout=seconds("open_timeout", open_timeout, none=True),
        setup_timeout=seconds("setup_timeout", setup_timeout, none=True),
        close_timeout=seconds("close_timeout", close_timeout, none=True),
        compresses=compression is not None,
        fail_fast=fail_fast,
    )


_LONGEST_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a Unix socket."""


def _unix_socket(value: object) -> str | None:
    """Return a path that a Unix socket may have.

    Raises:
        TypeError, ValueError: It is none, or the system has no Unix sockets.
    """
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"unix_socket must be a str, a path or None, got {type(value).__name__}")
    path = cast("object", os.fspath(cast("str | os.PathLike[str]", value)))
    if not isinstance(path, str):
        raise TypeError("unix_socket must be a path of str, not of bytes")
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError("unix_socket cannot be used: this system has no Unix sockets")
    size = len(os.fsencode(path))
    if not 1 <= size <= _LONGEST_PATH:
        raise ValueError(f"unix_socket must be a path of 1 to {_LONGEST_PATH} bytes, got {size}")
    if "\0" in path[1 if sys.platform == "linux" else 0 :]:
        raise ValueError(
            "unix_socket must not have a NUL, unless it begins with one (an abstract name on Linux)"
        )
    return path


def _local_address(value: object) -> tuple[str, int] | None:
    """Return host and port to bind to.

    Raises:
        TypeError, ValueError: They cannot be bound to.
    """
    if value is None:
        return None
    kind = type(value).__name__
    if not isinstance(value, tuple | list) or len(cast("Sequence[object]", value)) != 2:
        raise TypeError(f"local_address must be a pair (host, port) or None, got {kind}")
    host, port = cast("Sequence[object]", value)
    if not isinstance(host, str):
        raise TypeError(f"local_address must begin with a host as str, got {type(host).__name__}")
    if any(not 33 <= ord(c) <= 126 for c in host):
        raise ValueError("local_address must begin with an address or a host name without blanks")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"local_address must end with a port as int, got {type(port).__name__}")
    if not 0 <= port <= 65535:
        raise ValueError(f"local_address must end with a port from 0 to 65535, got {port}")
    return str.__str__(host).strip("[]"), int(port)


def _check_together(options: TransportOptions) -> None:
    """Raise `ValueError` for options that exclude each other."""
    if options.unix_socket is not None:
        for name in ("proxy", "local_address"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"unix_socket and {name} exclude each other: a Unix socket is dialed directly"
                )


def _transport(given: object, options: TransportOptions) -> Transport:
    """Return the transport of that name; or the object itself, which is told the options if it wants to know them."""
    _check_together(options)
    if isinstance(given, str):
        return make_transport(one_of("transport", given, ("aiohttp", "picows")), options)
    if not callable(getattr(given, "open", None)):
        kind = type(given).__name__
        raise TypeError(f"transport must be 'aiohttp', 'picows' or an object with an open method, got {kind}")
    configure = getattr(given, "configure", None)
    if configure is not None:
        configure(options)
    elif options != TransportOptions():
        raise ValueError(
            "transport is an object without a configure method, so ssl, proxy, unix_socket, local_address, "
            "session, compression and max_message_size must be left out"
        )
    return cast(Transport, given)
