"""What a client was constructed with, checked and complete."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final, cast

import attrs

from resilient_ws.dial import Addresses
from resilient_ws.governor import Governor
from resilient_ws.opening import OpeningOptions
from resilient_ws.options import (
    Heartbeat,
    Inbox,
    Outbox,
    ReconnectPolicy,
    function,
    one_of,
    seconds,
    whole,
)
from resilient_ws.transports import make_transport
from resilient_ws.transports.base import Transport
from resilient_ws.transports.options import TransportOptions

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
    session: Any,
    transport: Any,
    fail_fast: object,
) -> Config:
    """Checks the arguments of `WebSocketClient`; see there.

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


def _transport(given: object, options: TransportOptions) -> Transport:
    """Returns the transport of that name; or the object itself, which is told the options if it wants to know them."""
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
            "transport is an object without a configure method, so ssl, proxy, session, compression and "
            "max_message_size must be left out"
        )
    return cast(Transport, given)
