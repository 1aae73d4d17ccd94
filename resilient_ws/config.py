"""What a client was constructed with, checked and complete."""

from __future__ import annotations

import attrs

from resilient_ws.dial import Addresses
from resilient_ws.opening import Setup
from resilient_ws.options import Heartbeat, Inbox, Outbox, ReconnectPolicy
from resilient_ws.transports.base import Transport


@attrs.frozen(kw_only=True)
class Config:
    """The arguments of `WebSocketClient`; durations in seconds, `None` = no limit or off."""

    addresses: Addresses
    transport: Transport
    setup: Setup | None
    heartbeat: Heartbeat | None
    reconnect: ReconnectPolicy | None
    outbox: Outbox
    inbox: Inbox
    open_timeout: float | None
    setup_timeout: float | None
    close_timeout: float | None
    compresses: bool
    fail_fast: bool

    @property
    def confirms(self) -> bool:
        """Whether deliveries are confirmed by tagged pings: as told, or where the heartbeat sends pings anyway."""
        if self.outbox.confirm is not None:
            return self.outbox.confirm
        return self.heartbeat is not None and self.heartbeat.kind == "ping"
