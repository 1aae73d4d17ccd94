"""Parses `Retry-After` headers in all their forms.

Servers send seconds, dates, fractions, several of them and nonsense. What can be understood is never lost and nothing
raises. Source: RFC 9110 sections 5.6.7 (dates) and 10.2.3 (`Retry-After`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

from resilient_ws.aio.clocks import wall_time

LONGEST: Final = 999_999_999_999.0
"""Seconds that stand for every longer time: finite, and beyond what anybody waits."""

_NUMBER: Final = re.compile(
    r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d{1,6}))?\s*(?:s|sec|secs|seconds?)?", re.IGNORECASE | re.ASCII
)
_DAY_NAME: Final = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*", re.IGNORECASE)
_DIGITS: Final = 12
_DAYS_BEFORE: Final = (0, *accumulate((31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asks to wait, from 0 to `LONGEST`; `None` = it does not, or not intelligibly.

    A date is compared with the answer's own `Date`, so that a wrong clock on either side does not matter; without one,
    with our clock. A time that has passed is 0. Of several values the longest counts.

    Args:
        headers: Of the answer; a mapping that ignores case. It may hold several values for a name.
    """
    asked = [
        seconds
        for value in _values(headers, "Retry-After")
        for one in _split(value)
        if (seconds := _seconds(one, headers)) is not None
    ]
    return max(asked, default=None)


def _values(headers: Mapping[str, str], name: str) -> list[str]:
    every = getattr(headers, "getall", None)
    if every is not None:
        return list(every(name, []))
    value = headers.get(name)
    return [] if value is None else [value]


def _split(value: str) -> list[str]:
    """Return each of several values that were joined with commas; the comma of a date joins nothing."""
    parts: list[str] = []
    for part in value.split(","):
        stripped = part.strip()
        if parts and _DAY_NAME.fullmatch(parts[-1]):  # `Sun` and `06 Nov 1994 08:49:37 GMT`
            parts[-1] = f"{parts[-1]}, {stripped}"
        elif stripped:
            parts.append(stripped)
    return parts


def _seconds(value: str, headers: Mapping[str, str]) -> float | None:
    value = value.strip("\"' \t")
    number = _NUMBER.fullmatch(value)
    if number is not None:
        return _bounded(number)
    then = _date(value)
    if then is None:
        return None
    dates = (_date(date) for date in _values(headers, "Date"))
    now = next((date for date in dates if date is not None), None)
    if now is None:
        now = wall_time()
    return min(LONGEST, max(0.0, then - now))


def _bounded(number: re.Match[str]) -> float | None:
    """Return a number of seconds, however many digits it has; `None` = it is negative, so it asks for nothing."""
    sign, digits, power = number[1], number[2], int(number[3] or 0)
    whole, _, rest = digits.partition(".")
    whole = whole.lstrip("0")
    if sign == "-":
        return None
    if len(whole) > _DIGITS:
        whole, power = whole[:_DIGITS], power + len(whole) - _DIGITS
    mantissa = float(f"{whole or '0'}.{rest[:_DIGITS] or '0'}")
    if not mantissa:
        return 0.0
    return min(LONGEST, mantissa * 10.0 ** max(-300, min(power, 20)))


def _date(value: str) -> float | None:
    """Return a date in seconds since the epoch, for any year; `None` if it is not a date.

    The calendar of the standard library ends with the year 9999.
    """
    try:
        from email.utils import parsedate_tz  # ten modules, which most programs never need

        parsed = parsedate_tz(value)
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None
    if parsed is None:
        return None
    year, month, day, hour, minute, second = parsed[:6]
    if not 1 <= month <= 12:
        return None
    leap_years = year if month > 2 else year - 1
    leap_days = leap_years // 4 - leap_years // 100 + leap_years // 400
    days = 365 * year + leap_days + _DAYS_BEFORE[month - 1] + day - _EPOCH
    try:
        return float(((days * 24 + hour) * 60 + minute) * 60 + second - (parsed[9] or 0))
    except OverflowError:
        return LONGEST**3 if days > 0 else -(LONGEST**3)


_EPOCH: Final = 365 * 1970 + 1969 // 4 - 1969 // 100 + 1969 // 400 + 1
