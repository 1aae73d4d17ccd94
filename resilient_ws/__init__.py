"""A WebSocket client that reconnects, detects dead connections, and reports the fate of every message."""

from resilient_ws.api.close_codes import CLOSE_CODES, CloseCode, CloseOrigin, CloseRule
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import (
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
from resilient_ws.api.events import (
    Attempt,
    CloseEvent,
    ErrorEvent,
    Event,
    Failure,
    Fate,
    Gap,
    Lost,
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
from resilient_ws.api.handle import Handle
from resilient_ws.api.message import Message
from resilient_ws.api.options import Heartbeat, Inbox, Outbox, ReconnectPolicy
from resilient_ws.api.stats import Stats
from resilient_ws.api.version import VERSION
from resilient_ws.client import WebSocketClient
from resilient_ws.connection.setup import Connection
from resilient_ws.core.governor import Governor
from resilient_ws.runtime.event_stream import EventsDropped
from resilient_ws.snapshots import Delta, Snapshot, SnapshotOutdated, SnapshotThenDeltas

__version__ = VERSION

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
