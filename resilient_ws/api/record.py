"""The base class of the frozen attrs classes.

attrs generates and compiles the methods of each class on import. Sharing them saves a third of the import time.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from multidict import CIMultiDict


class Record:
    """Compare, hash and show an object by its fields, as attrs does.

    Use it with `attrs.frozen(eq=False, repr=False)`. Of the field options, only `repr` is supported.
    """

    __slots__ = ()
    __attrs_attrs__: ClassVar[tuple[attrs.Attribute[Any], ...]] = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in self.__attrs_attrs__)

    def __hash__(self) -> int:
        return hash((self.__class__, *(getattr(self, field.name) for field in self.__attrs_attrs__)))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {field.name: portable(getattr(self, field.name)) for field in self.__attrs_attrs__}
        return _record, (self.__class__, fields)

    def __copy__(self) -> Record:
        return self  # it is frozen

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        fields = {field.name: deep(getattr(self, field.name), memo) for field in self.__attrs_attrs__}
        return _record(self.__class__, fields)

    @reprlib.recursive_repr("...")
    def __repr__(self) -> str:
        shown = [
            f"{field.name}={(field.repr if callable(field.repr) else repr)(getattr(self, field.name))}"
            for field in self.__attrs_attrs__
            if field.repr
        ]
        return f"{self.__class__.__qualname__.rpartition('>.')[2]}({', '.join(shown)})"


def _record(kind: type[Record], fields: Mapping[str, Any]) -> Record:
    """Rebuild a record from values that have been checked already."""
    made = kind.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def portable(value: Any) -> Any:
    """Return `value` in a form that can be pickled.

    An exception that cannot be pickled and unpickled is replaced by a `RuntimeError` with its type and text. Views of a
    mapping are replaced by a copy.
    """
    if isinstance(value, BaseException):
        import pickle  # imported lazily: most programs pickle no record

        try:
            same = type(pickle.loads(pickle.dumps(value))) is type(value)  # noqa: S301 - our own data
        except Exception:  # noqa: BLE001 - pickling runs foreign code, which may raise anything
            same = False
        return value if same else RuntimeError(f"{type(value).__qualname__}: {value}")
    if _is_view(value):
        return CIMultiDict(value) if value and all(isinstance(key, str) for key in value) else dict(value)
    return value


def _is_view(value: object) -> bool:
    return isinstance(value, Mapping) and not isinstance(value, dict | CIMultiDict)


def deep(value: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy of `value`; exceptions are shared, since many cannot be copied."""
    if isinstance(value, BaseException):
        return value
    return copy.deepcopy(portable(value), memo)
