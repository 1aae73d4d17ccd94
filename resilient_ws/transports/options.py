"""The options that a client passes to its transport."""

from __future__ import annotations

from typing import Any

import attrs
from yarl import URL

from resilient_ws.api.record import Record


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TransportOptions(Record):
    """Checked by the transport when it is made.

    Attributes:
        ssl: `True`, an `ssl.SSLContext`, what the transport's library takes besides, or `False` = unverified.
        proxy: A URL, `"env"`, or `None`.
        unix_socket: The path of a socket to dial instead of TCP to the host, or `None`.
        local_address: Host and port to bind to before dialing, or `None`.
        session: What the transport's library can borrow from, or `None`.
        compression: `"deflate"` or `None`.
        max_message_size: Bytes, inclusive.
    """

    ssl: Any = attrs.field(default=True, repr=False)
    proxy: str | URL | None = attrs.field(default=None, repr=False)
    unix_socket: str | None = None
    local_address: tuple[str, int] | None = None
    session: Any = attrs.field(default=None, repr=False)
    compression: str | None = None
    max_message_size: int = 4 * 1024 * 1024
