"""What the frozen classes of attrs have in common, written once instead of generated for each of them.

attrs makes the text of each method and compiles it when the class is imported. For the thirty classes of this package
that would make the import half as long again.
"""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar

import attrs


class Record:
    """Equal, hashed and shown by its fields, exactly as attrs would do it.

    For classes with `attrs.frozen(eq=False, repr=False)` whose fields use nothing of this but `repr`.
    """

    __slots__ = ()
    __attrs_attrs__: ClassVar[tuple[attrs.Attribute[Any], ...]] = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in self.__attrs_attrs__)

    def __hash__(self) -> int:
        return hash((self.__class__, *(getattr(self, field.name) for field in self.__attrs_attrs__)))

    @reprlib.recursive_repr("...")
    def __repr__(self) -> str:
        shown = [
            f"{field.name}={(field.repr if callable(field.repr) else repr)(getattr(self, field.name))}"
            for field in self.__attrs_attrs__
            if field.repr
        ]
        return f"{self.__class__.__qualname__.rpartition('>.')[2]}({', '.join(shown)})"
