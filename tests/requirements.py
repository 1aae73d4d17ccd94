"""What a test needs from the machine: absent, it is skipped with the reason; under ``CI=true`` it fails."""

import os
import shutil
from typing import NoReturn

import pytest


def in_ci() -> bool:
    """Whether a missing tool is a failure: ``CI`` is set to anything but nothing, ``0`` or ``false``."""
    return os.environ.get("CI", "").strip().lower() not in {"", "0", "false", "no"}


def unavailable(reason: str) -> NoReturn:
    """End the test that asked: as skipped, or as failed where everything has to be there."""
    if in_ci():
        pytest.fail(f"{reason} (a failure and not a skip, because CI is set)", pytrace=False)
    pytest.skip(reason)


def require_tools(*names: str) -> None:
    """Go on only if each named program is on the search path."""
    missing = [name for name in names if find_tool(name) is None]
    if missing:
        unavailable(f"not installed: {', '.join(missing)}; `make system` installs it as root on Debian")


def find_tool(name: str) -> str | None:
    """Return the path of a program, also one that only root has on the search path."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, "/usr/local/sbin", "/usr/sbin", "/sbin"]))
