"""Durations and sizes in text form: `50ms`, `2m`, `64kB`, `1MiB`."""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SECONDS: Final = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES: Final = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "kib": 1 << 10,
    "m": 1_000_000,
    "mb": 1_000_000,
    "mib": 1 << 20,
    "g": 1_000_000_000,
    "gb": 1_000_000_000,
    "gib": 1 << 30,
}


def parse_duration(text: str) -> float:
    """Return seconds; a number without a unit is in seconds.

    Raises:
        ValueError: `text` is not a number, at least 0, with one of the units us, ms, s, m (min) and h.
    """
    number, unit = _split(text)
    if number is None or unit not in _SECONDS:
        raise ValueError(f"a duration is a number with us, ms, s, m or h, for instance 50ms, not {text!r}")
    return number * _SECONDS[unit]


def parse_size(text: str) -> int:
    """Return bytes; a number without a unit is in bytes.

    Raises:
        ValueError: `text` is not a number, at least 0, with one of the units B, kB, MB, GB, KiB, MiB and GiB.
    """
    number, unit = _split(text)
    if number is None or unit not in _BYTES:
        raise ValueError(
            f"a size is a number with B, kB, MB, GB, KiB, MiB or GiB, for instance 64kB, not {text!r}"
        )
    return int(number * _BYTES[unit])


def parse_rate(text: str) -> int:
    """Return bytes per second: a size, with or without `/s`.

    Raises:
        ValueError: As for `parse_size`.
    """
    return parse_size(text.removesuffix("/s"))


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[ipv6]:port`.

    Raises:
        ValueError: There is no host, or the port is not 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"an address is host:port with a port of 0 to 65535, not {text!r}")
    return host, int(port)


def _split(text: str) -> tuple[float | None, str]:
    found = _NUMBER.fullmatch(text.strip())
    return (None, "") if found is None else (float(found[1]), found[2].lower())
