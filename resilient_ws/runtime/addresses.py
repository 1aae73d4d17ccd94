"""The endpoint of the next attempt: one URL, several in turn, or a URL provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import attrs
from multidict import CIMultiDict
from yarl import URL

from resilient_ws.aio.user_code import called_apart, must_pass
from resilient_ws.api.endpoints import NO_HEADERS, Endpoint
from resilient_ws.api.errors import ConnectError
from resilient_ws.api.events import Attempt, Stop
from resilient_ws.api.options import function, named

Provider = Callable[[Attempt], Any]

MAX_ADDRESSES: Final = 1_000


class NotAwaitable(TypeError):  # noqa: N818 - says what is wrong with what was returned
    """User code that is to be awaited has returned something that cannot be: no further attempt could mend that."""

    def __init__(self, what: str, function: object, returned: object) -> None:
        super().__init__(
            f"{what} must return an awaitable, as an async function does, but {named(function)} returned "
            f"{'None' if returned is None else f'a value of type {type(returned).__name__}'}"
        )


class Addresses:
    """The addresses of one client, checked.

    Args:
        url: `str`, `yarl.URL`, a sequence of them or of `Endpoint`, or an async provider.
        headers: Sent with every handshake; those of an `Endpoint` win.
        subprotocols: Offered with every handshake, unless an `Endpoint` has its own.

    Raises:
        InvalidURL: An address is not `ws` or `wss`.
        TypeError, ValueError: Something else is wrong with an argument.
    """

    __slots__ = ("_headers", "_provider", "_static", "_subprotocols")

    def __init__(self, url: object, headers: Mapping[str, str] | None, subprotocols: Sequence[str]) -> None:
        defaults = Endpoint("ws://localhost", headers, subprotocols)
        self._headers: Mapping[str, str] = CIMultiDict(headers) if headers else NO_HEADERS
        self._subprotocols = defaults.subprotocols
        self._provider: Provider | None = None
        self._static: tuple[Endpoint, ...] = ()
        kind = type(url).__name__
        if isinstance(url, str | URL | Endpoint):
            self._static = (self._complete(url),)
        elif callable(url):
            function("url", url)
            self._provider = cast("Provider", url)
        elif isinstance(url, Sequence) and not isinstance(url, bytes | bytearray | memoryview):
            several = cast("Sequence[object]", url)
            if not 1 <= len(several) <= MAX_ADDRESSES:
                raise ValueError(f"url must be 1 to {MAX_ADDRESSES} addresses, got {len(several)}")
            self._static = tuple(self._complete(one) for one in several)
        else:
            raise TypeError(
                f"url must be a str, yarl.URL, Endpoint, a sequence of them, or an async function, got {kind}"
            )

    @property
    def count(self) -> int:
        """How many addresses are tried in turn; a provider counts as one."""
        return len(self._static) or 1

    @property
    def known(self) -> tuple[Endpoint, ...]:
        """The addresses that are known beforehand, or, for a provider, one with what every address of it has."""
        return self._static or (Endpoint("ws://localhost", self._headers, self._subprotocols),)

    @property
    def origins(self) -> list[str]:
        """Scheme, host and port of each; a provider's are not known."""
        return [str(endpoint.url.origin()) for endpoint in self._static] or [""]

    @property
    def is_provided(self) -> bool:
        """Whether a provider is asked."""
        return self._provider is not None

    @property
    def shown(self) -> str:
        """For texts: the first address, or that there is a provider."""
        return str(self._static[0]) if self._static else "(URL provider)"

    @property
    def host(self) -> str:
        """For the names of tasks."""
        return self._static[0].url.host or "" if self._static else "provider"

    def fixed(self, index: int) -> Endpoint | None:
        """Return address `index`; `None` where a provider has to be asked."""
        return self._static[index] if self._static else None

    async def next(self, index: int, attempt: Attempt) -> Endpoint:
        """Return where to dial.

        Args:
            index: Which of several addresses.
            attempt: What the provider is told.

        Raises:
            Stop: The provider raised or returned it.
            ConnectError: The provider raised something else, or what it returned gave something that is not an address.
            NotAwaitable: It returned something that cannot be awaited.
        """
        if self._provider is None:
            return self._static[index]
        try:
            given: object = self._provider(attempt)
            if isinstance(given, Stop):
                raise given
            if not isinstance(given, Awaitable):
                raise NotAwaitable("the URL provider", self._provider, given)
            given = await called_apart(cast("Awaitable[object]", given))
            if isinstance(given, Stop):
                raise given
            return self._complete(given)
        except (Stop, ConnectError, NotAwaitable):
            raise
        except BaseException as error:
            if must_pass(error):
                raise
            raise ConnectError(f"the URL provider raised {type(error).__name__}") from error

    def _complete(self, given: object) -> Endpoint:
        """Return an endpoint with the client's own headers and subprotocols beneath its own."""
        if not isinstance(given, str | URL | Endpoint):
            raise TypeError(f"an address must be a str, yarl.URL or Endpoint, got {type(given).__name__}")
        endpoint = given if isinstance(given, Endpoint) else Endpoint(given)
        return attrs.evolve(
            endpoint,
            headers=_merge(self._headers, endpoint.headers),
            subprotocols=endpoint.subprotocols or self._subprotocols,
        )


def _merge(defaults: Mapping[str, str], own: Mapping[str, str]) -> Mapping[str, str]:
    """Return `own` and those of `defaults` that it does not replace; names compare without case (RFC 9110 5.1)."""
    if not defaults and not own:
        return NO_HEADERS
    # What a value holds: an `Enum` that is a `str` says something else of itself, and the transports would send that.
    given = CIMultiDict((name, str.__str__(value)) for name, value in own.items())
    merged = given.copy()
    for name, value in defaults.items():
        if name not in given:
            merged.add(name, str.__str__(value))
    return merged
