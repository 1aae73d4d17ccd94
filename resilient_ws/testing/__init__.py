"""A kit to prove that a program survives bad servers and bad networks.

`FaultServer` is an in-process WebSocket server that does what it is told and records what it got.
`ChaosProxy` puts a bad network in front of any real one. `FakeTransport` puts a peer that you play in its place,
without any network: for the tests of a program that uses a client. `VirtualClock` makes hours of waiting take milliseconds.
"""

from .addresses import Addresses, Hosts, SeveralAddresses
from .clock import DeadlockError, TimeLimitError, VirtualClock, VirtualLoop, run_virtual
from .connection import AppPings, FaultConnection
from .deflate import Deflate
from .fakepeer import FakePeer, PingAnswers
from .forward import ForwardProxy, ProxyRequest
from .handshake import Headers, Request
from .leaks import LeakCheck, LeakError
from .ledger import (
    AttemptRecord,
    Ping,
    Received,
    Report,
    leading_number,
    numbered,
    report_messages,
    report_numbers,
)
from .proxied import Direction, ProxiedConnection
from .proxy import ChaosProxy
from .schedule import Step, parse_schedule, random_schedule, run_schedule
from .script import (
    Accept,
    Answer,
    Behaviour,
    CloseAfter,
    CloseOn,
    CloseOver,
    Drip,
    Drop,
    Garbage,
    Hangup,
    Interim,
    MissingHeader,
    NeverAnswer,
    Redirect,
    Refuse,
    WrongAcceptKey,
    WrongSubprotocol,
)
from .server import FaultServer
from .transport import Dial, FakeTransport
from .wire import Frame, Message, Opcode, encode_close, encode_frame

__all__ = [
    "Accept",
    "Addresses",
    "Answer",
    "AppPings",
    "AttemptRecord",
    "Behaviour",
    "ChaosProxy",
    "CloseAfter",
    "CloseOn",
    "CloseOver",
    "DeadlockError",
    "Deflate",
    "Dial",
    "Direction",
    "Drip",
    "Drop",
    "FakePeer",
    "FakeTransport",
    "FaultConnection",
    "FaultServer",
    "ForwardProxy",
    "Frame",
    "Garbage",
    "Hangup",
    "Headers",
    "Hosts",
    "Interim",
    "LeakCheck",
    "LeakError",
    "Message",
    "MissingHeader",
    "NeverAnswer",
    "Opcode",
    "Ping",
    "PingAnswers",
    "ProxiedConnection",
    "ProxyRequest",
    "Received",
    "Redirect",
    "Refuse",
    "Report",
    "Request",
    "SeveralAddresses",
    "Step",
    "TimeLimitError",
    "VirtualClock",
    "VirtualLoop",
    "WrongAcceptKey",
    "WrongSubprotocol",
    "encode_close",
    "encode_frame",
    "leading_number",
    "numbered",
    "parse_schedule",
    "random_schedule",
    "report_messages",
    "report_numbers",
    "run_schedule",
    "run_virtual",
]
