"""Records of the fault server: attempts, messages, and checks of a numbered sequence.

Knows no socket and no loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import attrs

from resilient_ws.testing.server.handshake import Headers, Request
from resilient_ws.testing.server.wire import Message


class Received(NamedTuple):
    """One message that the server got; unpacks as `connection, message`."""

    connection: int
    message: Message


class Ping(NamedTuple):
    """A PING or PONG that the server got, and when by the clock of the loop."""

    at: float
    payload: bytes


@attrs.define
class AttemptRecord:
    """One TCP connection to the server, successful or not.

    Attributes:
        number: 1 for the first one since the server was made.
        connected_at: When TCP was connected, seconds by the clock of the loop.
        requested_at: When the request was complete, or `None`.
        request: The handshake request, or `None` where none came.
        outcome: What the server did, in a few words.
        connection: The number of the WebSocket connection that came of it, or `None`.
    """

    number: int
    connected_at: float
    requested_at: float | None = None
    request: Request | None = None
    outcome: str = "no request"
    connection: int | None = None

    @property
    def path(self) -> str | None:
        """The target of the request with its query, or `None` where none came."""
        return None if self.request is None else self.request.path

    @property
    def headers(self) -> Headers:
        """The headers of the request, empty where none came."""
        return Headers() if self.request is None else self.request.headers


_DIGITS = re.compile(r"\s*(\d+)")


def leading_number(message: Message) -> int | None:
    """Return the number that a message begins with, or `None`; what `numbered` writes, this reads."""
    text = message if isinstance(message, str) else message[:32].decode("latin-1")
    found = _DIGITS.match(text)
    return None if found is None else int(found[1])


def numbered(number: int, size: int = 0) -> str:
    """Return a text message that begins with `number`, at least `size` characters long."""
    head = str(number)
    return head if len(head) >= size else f"{head} ".ljust(size, ".")


@attrs.frozen
class Report:
    """What became of a numbered sequence.

    Attributes:
        total: Messages with a number, repetitions included.
        unique: Different numbers.
        lost: Numbers that were expected and never came.
        duplicated: Numbers that came more than once.
        reordered: Numbers whose first arrival came after that of a larger one.
        unexpected: Numbers that came and were not expected.
        unnumbered: Messages without a number.
    """

    total: int
    unique: int
    lost: tuple[int, ...]
    duplicated: tuple[int, ...]
    reordered: tuple[int, ...]
    unexpected: tuple[int, ...]
    unnumbered: int

    @property
    def ok(self) -> bool:
        """Whether each expected number came exactly once, in order, and nothing else did."""
        return not (self.lost or self.duplicated or self.reordered or self.unexpected)

    def __str__(self) -> str:
        parts = [f"{self.total} numbered messages, {self.unique} different"]
        for name in ("lost", "duplicated", "reordered", "unexpected"):
            found: tuple[int, ...] = getattr(self, name)
            sample = ", ".join(map(str, found[:10])) + (", ..." if len(found) > 10 else "")
            parts.append(f"{name} {len(found)}" + (f" ({sample})" if found else ""))
        return "; ".join(parts)


def report_numbers(numbers: Iterable[int | None], expected: Iterable[int] | int | None = None) -> Report:
    """Return what became of a sequence of numbers, in the order of their arrival.

    Args:
        numbers: What arrived; `None` is a message without a number.
        expected: The numbers that were sent, or how many: `5` means 0 to 4. `None`: each number between the
            smallest and the largest that came.
    """
    counts: dict[int, int] = {}
    reordered: list[int] = []
    unnumbered = 0
    largest: int | None = None
    for number in numbers:
        if number is None:
            unnumbered += 1
            continue
        if number not in counts and largest is not None and number < largest:
            reordered.append(number)
        counts[number] = counts.get(number, 0) + 1
        largest = number if largest is None else max(largest, number)
    if expected is None:
        wanted = set(range(min(counts), max(counts) + 1)) if counts else set[int]()
    else:
        wanted = set(range(expected) if isinstance(expected, int) else expected)
    return Report(
        total=sum(counts.values()),
        unique=len(counts),
        lost=tuple(sorted(wanted - counts.keys())),
        duplicated=tuple(sorted(number for number, count in counts.items() if count > 1)),
        reordered=tuple(reordered),
        unexpected=tuple(sorted(counts.keys() - wanted)),
        unnumbered=unnumbered,
    )


def report_messages(
    messages: Iterable[Message],
    expected: Iterable[int] | int | None = None,
    number: Callable[[Message], int | None] = leading_number,
) -> Report:
    """Return what became of numbered messages; `number` reads the number out of one, or gives `None`."""
    return report_numbers((number(message) for message in messages), expected)
