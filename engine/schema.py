"""Build dataclasses from JSON, checked against the declared types of their fields."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

PLAIN = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
"""JSON's plain types, in words."""


def build(kind: Any, content: Any, name: str) -> Any:
    """Return JSON's `content` as a value of `kind`, a type or an annotation such as `list[str]` or `int | None`.

    Dataclasses are objects in JSON, named tuples and tuples are arrays. Numbers are not converted: a whole number may
    stand for a float. Raises ValueError, in which `name` stands for the content, if types, fields or lengths differ.
    """
    if kind in PLAIN:
        return _plain(kind, content, name)
    origin, arguments, has_fields = _parts(kind)
    if has_fields:
        return _dataclass(kind, content, name)
    if origin in (Union, types.UnionType):
        return _union(arguments, content, name)
    if kind is type(None):
        if content is not None:
            raise ValueError(f"{name} is not null")
        return None
    if isinstance(origin, type) and issubclass(origin, dict):
        of_values = (arguments or get_args(origin.__orig_bases__[0]))[1]  # a subclass of dict[str, ...]
        pairs = _expect(dict, content, name).items()
        return origin({key: build(of_values, value, f"{name}.{key:.50}") for key, value in pairs})
    if hasattr(kind, "_fields"):
        return kind(*_elements(list(_fields(kind)[0].values()), content, name))
    if origin not in (list, tuple):
        raise TypeError(f"{name} is declared as {kind}, which JSON does not have")
    found = _elements([arguments[0]] * len(_expect(list, content, name)), content, name)
    return tuple(found) if origin is tuple else found


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Return the generic type of an annotation, its arguments, and whether it is a dataclass."""
    return get_origin(kind) or kind, get_args(kind), is_dataclass(kind)


@cache
def _fields(kind: type) -> tuple[dict[str, Any], list[str]]:
    """Return the types of the fields of a dataclass or named tuple, and the dataclass fields without a default."""
    declared = fields(kind) if is_dataclass(kind) else ()
    required = [field.name for field in declared if field.default is MISSING and field.default_factory is MISSING]
    return get_type_hints(kind), required


def _plain(kind: type, content: Any, name: str) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(content, accepted) or (isinstance(content, bool) and kind is not bool):
        raise ValueError(f"{name} is not {PLAIN[kind]}")
    try:
        finite = kind is not float or math.isfinite(content)
    except OverflowError:  # a whole number too large for a float
        finite = False
    if not finite:
        raise ValueError(f"{name} is not {PLAIN[kind]}")
    return content


def _dataclass(kind: type, content: Any, name: str) -> Any:
    hints, required = _fields(kind)
    _expect(dict, content, name)
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{name} has no {', '.join(missing)}")
    if unknown := [key for key in content if key not in hints]:
        raise ValueError(f"{name} has an unknown field, {unknown[0]:.50}")
    return kind(**{key: build(hints[key], value, f"{name}.{key}") for key, value in content.items()})


def _union(kinds: Iterable[Any], content: Any, name: str) -> Any:
    faults = []
    for kind in kinds:
        try:
            return build(kind, content, name)
        except ValueError as error:
            faults.append(str(error))
    raise ValueError(faults[0])


def _elements(kinds: list[Any], content: Any, name: str) -> list[Any]:
    if len(_expect(list, content, name)) != len(kinds):
        raise ValueError(f"{name} has {len(content)} elements, not {len(kinds)}")
    return [build(kind, value, f"{name}[{k}]") for k, (kind, value) in enumerate(zip(kinds, content, strict=True))]


def _expect(kind: type, content: Any, name: str) -> Any:
    if not isinstance(content, kind):
        raise ValueError(f"{name} is not {'an object' if kind is dict else 'a list'}")
    return content
