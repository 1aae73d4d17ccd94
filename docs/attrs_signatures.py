"""Shows the reference what attrs makes: the arguments of each attrs class, as Python itself sees them."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe

DECORATORS = ("attrs.frozen", "attrs.define")


class AttrsSignatures(griffe.Extension):
    """Gives attrs classes the `__init__` that they have when the program runs."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called when the package has been read."""
        _complete(pkg)


def _complete(found: griffe.Module | griffe.Class) -> None:
    for member in list(found.members.values()):
        if member.is_alias:
            continue
        if isinstance(member, griffe.Module | griffe.Class):
            _complete(member)
        if isinstance(member, griffe.Class) and _is_attrs(member) and "__init__" not in member.members:
            member.set_member("__init__", _init(member))


def _is_attrs(found: griffe.Class) -> bool:
    return any(decorator.callable_path in DECORATORS for decorator in found.decorators)


def _init(found: griffe.Class) -> griffe.Function:
    real: Any = importlib.import_module(found.module.path)
    for name in found.path.removeprefix(f"{found.module.path}.").split("."):
        real = getattr(real, name)
    parameters = [_parameter(one) for one in inspect.signature(real.__init__).parameters.values()]
    return griffe.Function(
        "__init__", lineno=0, endlineno=0, parent=found, parameters=griffe.Parameters(*parameters)
    )


def _parameter(one: inspect.Parameter) -> griffe.Parameter:
    plain = one.annotation if isinstance(one.annotation, str) else getattr(one.annotation, "__name__", None)
    kind = griffe.ParameterKind[one.kind.name.lower()]
    given = None if one.default is one.empty else _shown(one.default)
    return griffe.Parameter(
        one.name, annotation=None if plain == "_empty" else plain, kind=kind, default=given
    )


def _shown(default: Any) -> str:
    return "..." if type(default).__module__.startswith("attr") else repr(default)
