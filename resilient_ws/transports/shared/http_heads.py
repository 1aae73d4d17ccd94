"""Parses the head of an HTTP/1 answer: status line and header fields. Source: RFC 9112."""

from __future__ import annotations

import re
from typing import Final

import attrs
from multidict import CIMultiDict

from resilient_ws.api.record import Record

LONGEST: Final = 64 * 1024
"""Bytes that a head may have."""

MOST_FIELDS: Final = 128
"""Header fields that a head may have."""

_LINE: Final = re.compile(rb"HTTP/(\d)\.(\d) (\d{3})(?: [^\x00\r\n]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_END: Final = re.compile(rb"\r?\n\r?\n")


@attrs.frozen(eq=False, repr=False)
class Head(Record):
    """One head.

    Attributes:
        status: 0 where this is not HTTP.
        version: Of HTTP.
        headers: As they came, repeated ones too.
    """

    status: int
    version: tuple[int, int]
    headers: CIMultiDict[str]


NOT_HTTP: Final = Head(0, (0, 0), CIMultiDict())


def parse_head(data: bytes | bytearray) -> tuple[Head | None, bytes]:
    """Return the head that `data` begins with, and what follows it; `None` where its end has not come yet.

    Bytes beyond ASCII are read as UTF-8, and what is not UTF-8 as surrogates, so that none is lost.
    """
    end = _END.search(data)
    if end is None:
        return None, bytes(data)
    rest = bytes(data[end.end() :])
    first, *lines = [line.removesuffix(b"\r") for line in bytes(data[: end.start()]).split(b"\n")]
    line = _LINE.fullmatch(first)
    if line is None:
        return NOT_HTTP, rest
    headers = CIMultiDict[str]()
    if len(lines) > MOST_FIELDS:
        return NOT_HTTP, rest
    for one in lines:
        field = _FIELD.fullmatch(one)
        if field is None:
            return NOT_HTTP, rest
        name, value = field[1].decode(), field[2].decode(errors="surrogateescape")
        headers.add(name, value)
    return Head(int(line[3]), (int(line[1]), int(line[2])), headers), rest


def joined(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """Return the header fields with repeated ones joined (RFC 9110 section 5.3)."""
    whole = CIMultiDict[str]()
    for name, value in headers.items():
        whole[name] = f"{whole[name]}, {value}" if name in whole else value
    return whole
