"""A WebSocket client that stays: reconnects, notices silent deaths, and says what became of every message."""

import logging

from resilient_ws.client import WebSocketClient
from resilient_ws.closing import CLOSE_CODES, CloseCode, CloseOrigin, CloseRule
from resilient_ws.connection import Connection
from resilient_ws.endpoints import Endpoint
from resilient_ws.errors import (
    CertificateRejected,
    ClientClosed,
    ClientStopped,
    ConcurrencyError,
    ConnectError,
    ConnectionLost,
    DeliveryUncertain,
    HandshakeRejected,
    InboxFull,
    InvalidURL,
    MessageTooBig,
    NotConnected,
    OpenTimeout,
    OutboxFileError,
    OutboxFull,
    ProxyRejected,
    ResilientWSError,
    RetriesExhausted,
    SetupFailed,
    SetupTimeout,
)
from resilient_ws.events import (
    Attempt,
    CloseEvent,
    ErrorEvent,
    Event,
    Failure,
    Fate,
    Gap,
    Lost,
    Message,
    OpenEvent,
    ReconnectEvent,
    Retry,
    RetryEvent,
    Stale,
    State,
    StateEvent,
    Stop,
    UndeliveredEvent,
)
from resilient_ws.governor import Governor
from resilient_ws.handle import Handle
from resilient_ws.options import Heartbeat, Inbox, Outbox, ReconnectPolicy
from resilient_ws.snapshots import Delta, Snapshot, SnapshotOutdated, SnapshotThenDeltas
from resilient_ws.stats import Stats
from resilient_ws.stream import EventsDropped
from resilient_ws.version import VERSION

__version__ = VERSION

logging.getLogger("resilient_ws").addHandler(logging.NullHandler())

__all__ = [
    "CLOSE_CODES",
    "Attempt",
    "CertificateRejected",
    "ClientClosed",
    "ClientStopped",
    "CloseCode",
    "CloseEvent",
    "CloseOrigin",
    "CloseRule",
    "ConcurrencyError",
    "ConnectError",
    "Connection",
    "ConnectionLost",
    "DeliveryUncertain",
    "Delta",
    "Endpoint",
    "ErrorEvent",
    "Event",
    "EventsDropped",
    "Failure",
    "Fate",
    "Gap",
    "Governor",
    "Handle",
    "HandshakeRejected",
    "Heartbeat",
    "Inbox",
    "InboxFull",
    "InvalidURL",
    "Lost",
    "Message",
    "MessageTooBig",
    "NotConnected",
    "OpenEvent",
    "OpenTimeout",
    "Outbox",
    "OutboxFileError",
    "OutboxFull",
    "ProxyRejected",
    "ReconnectEvent",
    "ReconnectPolicy",
    "ResilientWSError",
    "RetriesExhausted",
    "Retry",
    "RetryEvent",
    "SetupFailed",
    "SetupTimeout",
    "Snapshot",
    "SnapshotOutdated",
    "SnapshotThenDeltas",
    "Stale",
    "State",
    "StateEvent",
    "Stats",
    "Stop",
    "UndeliveredEvent",
    "WebSocketClient",
    "__version__",
]
