"""A fault kit for tests: misbehaving servers and networks, fake peers, virtual time.

`FaultServer` is an in-process WebSocket server that does what it is told and records what it got.
`ChaosProxy` puts a bad network in front of any real one. `FakeTransport` puts a peer that you play in its place,
without any network: for the tests of a program that uses a client. `VirtualClock` makes hours of waiting take milliseconds.
"""

from resilient_ws.testing.clock import DeadlockError, TimeLimitError, VirtualClock, VirtualLoop, run_virtual
from resilient_ws.testing.fake.peer import FakePeer, PingAnswers
from resilient_ws.testing.fake.transport import Dial, FakeTransport
from resilient_ws.testing.leaks import LeakCheck, LeakError
from resilient_ws.testing.proxy.forward import ForwardProxy, ProxyRequest
from resilient_ws.testing.proxy.proxied import Direction, ProxiedConnection
from resilient_ws.testing.proxy.proxy import ChaosProxy
from resilient_ws.testing.proxy.schedule import Step, parse_schedule, random_schedule, run_schedule
from resilient_ws.testing.server.addresses import Addresses, Hosts, SeveralAddresses
from resilient_ws.testing.server.connection import AppPings, FaultConnection
from resilient_ws.testing.server.deflate import Deflate
from resilient_ws.testing.server.handshake import Headers, Request
from resilient_ws.testing.server.ledger import (
    AttemptRecord,
    Ping,
    Received,
    Report,
    leading_number,
    numbered,
    report_messages,
    report_numbers,
)
from resilient_ws.testing.server.script import (
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
from resilient_ws.testing.server.server import FaultServer
from resilient_ws.testing.server.wire import Frame, Message, Opcode, encode_close, encode_frame

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
