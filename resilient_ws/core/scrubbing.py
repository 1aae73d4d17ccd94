"""Formats exceptions of user code for the log, with traceback and without secrets."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable
from typing import Final

from resilient_ws.api.endpoints import Endpoint

_ADDRESS: Final = re.compile(r"\b([a-z][a-z0-9+.-]{1,15})://([^\s'\"<>]+)", re.IGNORECASE)
_LEAST_SECRET: Final = 4
"""Characters from which on a value is looked for: a shorter one is no secret, and would be found everywhere."""


def secrets_of(endpoint: Endpoint) -> set[str]:
    """Return what an endpoint holds that must not be shown: header values, subprotocols, and parts of its URL."""
    url = endpoint.url
    found: set[str | None] = {url.user, url.password, url.raw_user, url.raw_password, url.raw_query_string}
    found.update(url.query.values())
    found.update(part.partition("=")[2] for part in url.raw_query_string.split("&"))
    found.update(endpoint.subprotocols)
    for value in endpoint.headers.values():
        found.add(value)
        found.update(value.split())
        found.add(value.partition("=")[2])
    return {secret for secret in found if secret and len(secret) >= _LEAST_SECRET}


def scrubbed(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without `secrets`, and with no more of each URL in it than scheme, host, port and path."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _ADDRESS.sub(_public, text)


def _public(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    shown = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = shown.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def log_raised(
    log: logging.Logger, level: int, what: str, error: BaseException, secrets: Iterable[str]
) -> None:
    """Log that user code has raised `error`, with the traceback.

    The record carries the exception itself only where its text holds no secret: handlers that format it by themselves
    would show one.
    """
    if not log.isEnabledFor(level):
        return
    told = "".join(traceback.format_exception(error)).rstrip("\n")
    clean = scrubbed(told, secrets)
    raised = None if clean != told else (type(error), error, error.__traceback__)
    path, line, function, _ = log.findCaller(stacklevel=2)
    record = log.makeRecord(
        log.name, level, path, line, "%s raised %s", (what, type(error).__name__), raised, function
    )
    record.exc_text = clean
    log.handle(record)
