"""Checks of arguments of the fault kit; an error names field, value and range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Check that a number lies between two others, both included.

    Raises:
        ValueError: It does not, or is no number at all (NaN).
    """
    if not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"
        raise ValueError(f"{name} must be {bounds}, not {value}")


def between(low: float, high: float = math.inf) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Return an attrs validator that is `check_range`; `None` passes."""

    def check(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None:
            check_range(attribute.name, value, low, high)

    return check
