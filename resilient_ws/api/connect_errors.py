"""The base class of all exceptions, and those that `endpoints` and `events` need (without an import cycle)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from resilient_ws.api.record import deep, portable

_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


class ResilientWSError(Exception):
    """The base class of all exceptions of this package. Instances can be copied and pickled with attributes and cause.

    Attributes:
        id: The stable name of the class, such as `open-timeout`, for alerts and metrics.
    """

    id: ClassVar[str] = "resilient-ws-error"

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "id" not in cls.__dict__:
            cls.id = _WORD.sub("-", cls.__name__).lower()

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: portable(value) for name, value in vars(self).items()}
        return _error, (type(self), self.args, state, portable(self.__cause__), self.__suppress_context__)

    def __copy__(self) -> ResilientWSError:
        return _error(type(self), self.args, vars(self), self.__cause__, self.__suppress_context__)

    def __deepcopy__(self, memo: dict[int, Any]) -> ResilientWSError:
        state = {name: deep(value, memo) for name, value in vars(self).items()}
        return _error(type(self), self.args, state, self.__cause__, self.__suppress_context__)


def _error(
    kind: type[ResilientWSError],
    args: tuple[Any, ...],
    state: Mapping[str, Any],
    cause: BaseException | None,
    suppressed: bool,
) -> ResilientWSError:
    """Rebuild an exception without calling its `__init__`."""
    made = kind.__new__(kind, *args)
    made.args = args
    made.__dict__.update(state)
    made.__cause__ = cause
    made.__suppress_context__ = suppressed
    return made


class ConnectError(ResilientWSError):
    """An attempt to connect failed.

    Attributes:
        status: The HTTP status of the answer, or `None` if there was none.
        headers: The headers of the answer, or `None`; never part of the text.
        retry_after: Seconds that the server asked the client to wait, or `None`.
        retryable: Whether another attempt may succeed.
        foreign: The type name of the underlying exception if its text may contain a secret, so that it is not chained;
            otherwise `None`, and `__cause__` is the underlying exception.
    """

    def __init__(
        self,
        message: str = "the connection could not be opened",
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        retryable: bool = True,
        foreign: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.retry_after = retry_after
        self.retryable = retryable
        self.foreign = foreign


class InvalidURL(ConnectError, ValueError):
    """The URL is not a `ws` or `wss` URL with a host."""

    def __init__(self, message: str = "not a ws or wss URL", *, foreign: str | None = None) -> None:
        super().__init__(message, retryable=False, foreign=foreign)
