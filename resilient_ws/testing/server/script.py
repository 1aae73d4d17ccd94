"""The scripted behaviour of the fault server for one attempt, as data.

Each behaviour is a frozen value; the server takes one per TCP connection and asks it for its `Answer` once the
request is there. Knows no socket: the server does what the answer says.
"""

from __future__ import annotations

import base64
import datetime as dt
import email.utils
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from resilient_ws.testing.checks import between, check_range
from resilient_ws.testing.server.deflate import Agreement, Deflate
from resilient_ws.testing.server.handshake import (
    HeaderPairs,
    Request,
    accept_key,
    encode_response,
    header_pairs,
)
from resilient_ws.testing.server.wire import Message

if TYPE_CHECKING:
    from resilient_ws.testing.server.connection import FaultConnection

Drop: TypeAlias = Literal["fin", "rst", "silent"]
"""How a connection is lost: FIN without a CLOSE frame, RST, or silence on an open socket."""

Then: TypeAlias = "Callable[[FaultConnection], Awaitable[object] | object]"
"""What to do with an accepted connection: a function of it, sync or async."""


@attrs.frozen
class Answer:
    """What the server writes in answer to one request, and what follows.

    Args:
        data: The bytes of the response.
        outcome: What happened, in a few words, for `AttemptRecord.outcome`.
        accept: The behaviour of the WebSocket connection that begins now, or `None`: there is none.
        delay: Seconds before the first byte.
        chunk: Bytes per write, or `None` for all at once.
        interval: Seconds between the writes.
        then: For an answer that opens nothing: `"fin"`, `"rst"`, or `"silent"` to keep the socket.
        subprotocol: The subprotocol that the response names.
        agreement: The permessage-deflate that the response agrees to.
        interim: The 1xx responses that go before it, as bytes.
        interim_pause: Seconds after each of them.
    """

    data: bytes
    outcome: str
    accept: Accept | None = None
    delay: float = 0.0
    chunk: int | None = None
    interval: float = 0.0
    then: Drop = "fin"
    subprotocol: str | None = None
    agreement: Agreement | None = None
    interim: Sequence[bytes] = ()
    interim_pause: float = 0.0


class Behaviour:
    """What the server does to one attempt; the base of all and of your own."""

    @property
    def at_connect(self) -> Drop | None:
        """What happens as soon as TCP is connected, before any request; `None`: the request is read."""
        return None

    def answer(self, request: Request) -> Answer | None:
        """Return the answer to a request, or `None` to give none and keep the socket."""
        raise NotImplementedError(f"{type(self).__name__} must define answer()")


@attrs.frozen(kw_only=True)
class Accept(Behaviour):
    """Open the WebSocket connection.

    Args:
        then: Called with the connection as soon as it is open; may be a coroutine function. `None`: the
            handler of the server, where it has one.
        echo: Whether each message is sent back. `None`: unless `then` or a handler of the server is there.
        answer_pings: Whether pings are answered, to begin with.
        answer_close: Whether a CLOSE frame is answered, to begin with.
        subprotocols: What the server speaks; the first one offered that is among them is taken. `None`: the
            first one offered.
        headers: Further headers of the response.
        deflate: Agree to permessage-deflate where it is offered; `None`: never.
        delay: Seconds before the response.
    """

    then: Then | None = None
    echo: bool | None = None
    answer_pings: bool = True
    answer_close: bool = True
    subprotocols: Sequence[str] | None = None
    headers: HeaderPairs = attrs.field(default=(), repr=False)
    deflate: Deflate | None = None
    delay: float = attrs.field(default=0.0, validator=between(0))

    def answer(self, request: Request) -> Answer | None:
        """Return the 101 response, or a 400 for what is no WebSocket handshake."""
        if request.fault is not None:
            body = request.fault.encode()
            data = encode_response(400, [("Content-Length", str(len(body))), ("Connection", "close")], body)
            return Answer(data, f"400: {request.fault}")
        subprotocol = self._choose_subprotocol(request)
        agreement = None
        if self.deflate is not None:
            agreement = self.deflate.agree(request.headers.get("Sec-WebSocket-Extensions", ""))
        headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_key(request.key)),
        ]
        if subprotocol is not None:
            headers.append(("Sec-WebSocket-Protocol", subprotocol))
        if agreement is not None:
            headers.append(("Sec-WebSocket-Extensions", agreement.header))
        headers += header_pairs(self.headers)
        return Answer(
            encode_response(101, self._spoil(headers)),
            self._outcome,
            accept=self,
            delay=self.delay,
            subprotocol=subprotocol,
            agreement=agreement,
        )

    @property
    def _outcome(self) -> str:
        return "accepted"

    def begin(self, connection: FaultConnection) -> None:
        """Prepare the connection that was opened, before `then` or the handler gets it; for your own behaviours."""

    def _choose_subprotocol(self, request: Request) -> str | None:
        for name in request.subprotocols:
            if self.subprotocols is None or name in self.subprotocols:
                return name
        return None

    def _spoil(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return headers


@attrs.frozen(kw_only=True)
class WrongAcceptKey(Accept):
    """Answer 101 with a `Sec-WebSocket-Accept` that does not belong to the request.

    Args:
        value: The value sent; `None` is a well-formed one for another key.
    """

    value: str | None = None

    @property
    def _outcome(self) -> str:
        return "wrong accept key"

    def _spoil(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        wrong = self.value
        if wrong is None:
            wrong = accept_key(base64.b64encode(os.urandom(16)).decode())
        return [(name, wrong if name == "Sec-WebSocket-Accept" else value) for name, value in headers]


@attrs.frozen
class MissingHeader(Accept):
    """Answer 101 without one of its headers.

    Args:
        name: The header left out: `"Upgrade"`, `"Connection"` or `"Sec-WebSocket-Accept"`.
    """

    name: str = "Sec-WebSocket-Accept"

    @property
    def _outcome(self) -> str:
        return f"without {self.name}"

    def _spoil(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(name, value) for name, value in headers if name.lower() != self.name.lower()]


@attrs.frozen
class WrongSubprotocol(Accept):
    """Answer 101 with a subprotocol that the client has not offered.

    Args:
        name: The subprotocol named in the response.
    """

    name: str = "never-offered"

    @property
    def _outcome(self) -> str:
        return "wrong subprotocol"

    def _choose_subprotocol(self, request: Request) -> str | None:
        del request
        return self.name


@attrs.frozen(kw_only=True)
class CloseOn(Accept):
    """Open the connection, and close it as soon as a certain message arrives: a message that the server cannot bear.

    That message is recorded, what comes behind it is not: the server has stopped reading messages.

    Args:
        match: The message, or a predicate.
        code: The code of the CLOSE; `None`: an empty one.
        reason: Its reason.
        drop: How the socket is lost right behind the CLOSE; `None`: it is closed when the client has answered.
    """

    match: Message | Callable[[Message], bool]
    code: int | None = 1002
    reason: str = ""
    drop: Literal["fin", "rst"] | None = None

    def begin(self, connection: FaultConnection) -> None:
        """Set the trap."""
        connection.close_on(self.match, self.code, self.reason, then=self.drop or "wait")


@attrs.frozen(kw_only=True)
class CloseAfter(Accept):
    """Open the connection, and close it after so many messages or seconds, with a code and a reason.

    `default=CloseAfter(code=1013, reason="busy")` closes each connection at once: a burst of closes.

    Args:
        messages: After how many messages of the client; `None`: they are not counted.
        seconds: After how many seconds. With neither the CLOSE goes out right behind the 101 response.
        code: The code of the CLOSE; `None`: an empty one.
        reason: Its reason.
        drop: How the socket is lost right behind the CLOSE; `None`: it is closed when the client has answered.
    """

    messages: int | None = attrs.field(default=None, validator=between(1))
    seconds: float | None = attrs.field(default=None, validator=between(0))
    code: int | None = 1011
    reason: str = ""
    drop: Literal["fin", "rst"] | None = None

    def begin(self, connection: FaultConnection) -> None:
        """Close at once, or set what is to close."""
        then = self.drop or "wait"
        if self.messages is not None:
            left = iter(range(self.messages - 1))
            connection.close_on(lambda _: next(left, None) is None, self.code, self.reason, then=then)
        if self.seconds is not None:
            connection.close_later(self.seconds, self.code, self.reason, then=then)
        elif self.messages is None:
            connection.close(self.code, self.reason, then=then)


@attrs.frozen(kw_only=True)
class CloseOver(Accept):
    """Open the connection, and close it when more messages than allowed come: a server with a rate limit.

    Args:
        messages: How many are allowed in any `per` seconds.
        per: Seconds.
        code: The code of the CLOSE.
        reason: Its reason.
    """

    messages: int = attrs.field(validator=between(0))
    per: float = attrs.field(default=1.0, validator=between(0.001))
    code: int | None = 1008
    reason: str = "too many messages"

    def begin(self, connection: FaultConnection) -> None:
        """Begin to count."""
        connection.close_over(self.messages, self.per, code=self.code, reason=self.reason)


@attrs.frozen
class Refuse(Behaviour):
    """Answer with an HTTP status instead of 101, then close the socket.

    Args:
        status: 100 to 999.
        retry_after: Seconds, a point in time that is written as an HTTP date, or a text written as it is;
            `None`: no `Retry-After`.
        headers: Further headers.
        body: The body.
        reason: The reason phrase; `None` is the usual one.
        delay: Seconds before the response.
    """

    status: int = attrs.field(default=503, validator=between(100, 999))
    retry_after: float | dt.datetime | str | None = attrs.field(default=None, kw_only=True)
    headers: HeaderPairs = attrs.field(default=(), kw_only=True, repr=False)
    body: bytes = attrs.field(default=b"", kw_only=True)
    reason: str | None = attrs.field(default=None, kw_only=True)
    delay: float = attrs.field(default=0.0, kw_only=True, validator=between(0))

    def answer(self, request: Request) -> Answer | None:
        """Return the refusal."""
        del request
        headers = [("Content-Length", str(len(self.body))), ("Connection", "close")]
        headers += _retry_after_header(self.retry_after)
        headers += header_pairs(self.headers)
        data = encode_response(self.status, headers, self.body, self.reason)
        return Answer(data, f"refused {self.status}", delay=self.delay)


def _retry_after_header(value: float | dt.datetime | str | None) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, dt.datetime):
        value = email.utils.format_datetime(value.astimezone(dt.UTC), usegmt=True)
    return [("Retry-After", value if isinstance(value, str) else f"{value:g}")]


@attrs.frozen
class Redirect(Behaviour):
    """Answer with a redirect.

    Args:
        location: The `Location`, written byte for byte: absolute, relative, `ws:`, `http:`, with port 0, signed,
            escaped in an odd way, or nonsense. What a `str` holds beyond Latin-1 is written as UTF-8.
        status: 300 to 399.
        retry_after: As for `Refuse`.
        headers: Further headers.
    """

    location: str | bytes
    status: int = attrs.field(default=302, validator=between(300, 399))
    retry_after: float | dt.datetime | str | None = attrs.field(default=None, kw_only=True)
    headers: HeaderPairs = attrs.field(default=(), kw_only=True, repr=False)

    def answer(self, request: Request) -> Answer | None:
        """Return the redirect."""
        del request
        headers = [("Location", "\0"), ("Content-Length", "0"), ("Connection", "close")]
        headers += _retry_after_header(self.retry_after)
        headers += header_pairs(self.headers)
        data = encode_response(self.status, headers).replace(b"\0", _as_bytes(self.location), 1)
        return Answer(data, f"redirected {self.status}")


def _as_bytes(location: str | bytes) -> bytes:
    if isinstance(location, bytes):
        return location
    try:
        return location.encode("latin-1")
    except UnicodeEncodeError:
        return location.encode()


@attrs.frozen
class NeverAnswer(Behaviour):
    """Read the request and never answer it."""

    def answer(self, request: Request) -> Answer | None:
        """Return `None`."""
        del request
        return None


@attrs.frozen
class Drip(Behaviour):
    """Give the answer of another behaviour a few bytes at a time.

    Args:
        interval: Seconds between two pieces.
        chunk: Bytes per piece.
        of: The behaviour whose answer it is.
        stop_after: Bytes after which nothing more comes, the socket stays; `None`: the whole answer.
    """

    interval: float = attrs.field(default=0.1, validator=between(0))
    chunk: int = attrs.field(default=1, validator=between(1))
    of: Behaviour = attrs.field(factory=Accept, kw_only=True)
    stop_after: int | None = attrs.field(default=None, kw_only=True, validator=between(0))

    def answer(self, request: Request) -> Answer | None:
        """Return the answer of the other behaviour, in pieces."""
        whole = self.of.answer(request)
        if whole is None:
            return None
        dripped = attrs.evolve(
            whole, chunk=self.chunk, interval=self.interval, outcome=f"{whole.outcome}, dripped"
        )
        if self.stop_after is None:
            return dripped
        return attrs.evolve(dripped, data=whole.data[: self.stop_after], accept=None, then="silent")


def _numbers(values: Sequence[int]) -> Sequence[int]:
    return tuple(values)


@attrs.frozen
class Interim(Behaviour):
    """Write interim responses (1xx, RFC 9110 section 15.2) before the answer of another behaviour.

    Args:
        statuses: The status of each, 100 to 199: 100 (Continue), 102 (Processing), 103 (Early Hints).
        of: The behaviour whose answer follows.
        headers: Headers of each interim response.
        pause: Seconds after each of them; 0 writes all in one piece.
    """

    statuses: Sequence[int] = attrs.field(default=(103,), converter=_numbers)
    of: Behaviour = attrs.field(factory=Accept, kw_only=True)
    headers: HeaderPairs = attrs.field(default=(), kw_only=True, repr=False)
    pause: float = attrs.field(default=0.0, kw_only=True, validator=between(0))

    def __attrs_post_init__(self) -> None:
        for status in self.statuses:
            check_range("each of statuses", status, 100, 199)

    def answer(self, request: Request) -> Answer | None:
        """Return the answer of the other behaviour, with the interim responses in front."""
        final = self.of.answer(request)
        interim = [
            encode_response(status, self.headers, reason=_INTERIM.get(status)) for status in self.statuses
        ]
        outcome = " ".join(["interim", *map(str, self.statuses)])
        if final is None:
            return Answer(b"".join(interim), f"{outcome}, never answered", then="silent")
        outcome = f"{final.outcome} after {outcome}"
        if not self.pause:
            return attrs.evolve(final, data=b"".join([*interim, final.data]), outcome=outcome)
        return attrs.evolve(
            final, interim=[*interim, *final.interim], interim_pause=self.pause, outcome=outcome
        )


_INTERIM: Final = {102: "Processing", 103: "Early Hints"}


@attrs.frozen
class Garbage(Behaviour):
    """Answer something that is not HTTP, then close the socket.

    Args:
        data: What is written.
    """

    data: bytes = b"\x00\x01garbage that is no HTTP response\r\n\r\n"

    def answer(self, request: Request) -> Answer | None:
        """Return the garbage."""
        del request
        return Answer(self.data, "garbage")


@attrs.frozen
class Hangup(Behaviour):
    """Lose the TCP connection before the handshake is answered.

    Args:
        drop: How.
        when: `"request"`: once the request is there; `"connect"`: at once, with `"silent"` nothing is read.
    """

    drop: Drop = "fin"
    when: Literal["connect", "request"] = "request"

    @property
    def at_connect(self) -> Drop | None:
        """The drop, if it is to happen at once."""
        return self.drop if self.when == "connect" else None

    def answer(self, request: Request) -> Answer | None:
        """Return an empty answer, followed by the drop."""
        del request
        return Answer(b"", f"hung up ({self.drop})", then=self.drop)
