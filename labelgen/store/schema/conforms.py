"""Fast schema checks: the schemas of `schemas/` compiled to functions.

Opening a store checks its manifest, and importing a full validator would take longer than opening the store. This one
supports the keywords of our schemas and returns yes or no; `labelgen.store.schema.validation` explains a no. The two
agree except for whole numbers written as 8.0, which are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

from labelgen import resources

Check: TypeAlias = Callable[[Any], bool]

_TYPES: Mapping[str, Check] = {
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
    "string": lambda value: type(value) is str,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None,
}
#: Keywords without a meaning for validity, and those that are read along with another one.
_SILENT = {"$schema", "$id", "$defs", "title", "description"}


@cache
def conforms(schema: str) -> Check:
    """A function that tells whether a document follows a schema, for example `manifest.v1`.

    Raises:
        KeyError: the schema uses a keyword that is not known here.
    """
    document = resources.schema(schema)
    return _Compiler(document.get("$defs", {})).check(document)


class _Compiler:
    def __init__(self, shared: Mapping[str, Any]) -> None:
        self._shared = shared
        self._made: dict[str, Check] = {}

    def check(self, schema: Mapping[str, Any]) -> Check:
        """The function of one schema."""
        checks = [self._keyword(name, schema[name]) for name in schema if name not in _SILENT | _OBJECT]
        if schema.keys() & _OBJECT:
            checks.append(self._object(schema))
        return checks[0] if len(checks) == 1 else lambda value: all(check(value) for check in checks)

    def _keyword(self, name: str, value: Any) -> Check:
        """A check passes for values of a type that its keyword does not speak of."""
        if name == "$ref":
            return self._reference(value)
        if name in ("anyOf", "oneOf"):
            choices = [self.check(item) for item in value]
            if name == "anyOf":
                return lambda found: any(choice(found) for choice in choices)
            return lambda found: sum(choice(found) for choice in choices) == 1
        if name == "items":
            item = self.check(value)
            return lambda found: type(found) is not list or all(map(item, found))
        return _SIMPLE[name](value)

    def _reference(self, value: str) -> Check:
        name = value.removeprefix("#/$defs/")
        if name not in self._made:
            self._made[name] = self.check(self._shared[name])
        return self._made[name]

    def _object(self, schema: Mapping[str, Any]) -> Check:
        known = {name: self.check(item) for name, item in schema.get("properties", {}).items()}
        required = frozenset(schema.get("required", ()))
        others = schema.get("additionalProperties", True)
        other = (lambda _found: others) if isinstance(others, bool) else self.check(others)
        named = self.check(schema["propertyNames"]) if "propertyNames" in schema else None

        def check(found: Any) -> bool:
            if type(found) is not dict:
                return True
            if not required <= found.keys() or (named is not None and not all(map(named, found))):
                return False
            return all(known.get(name, other)(item) for name, item in found.items())

        return check


_OBJECT = {"properties", "required", "additionalProperties", "propertyNames"}


def _of_type(names: str | list[str]) -> Check:
    checks = [_TYPES[name] for name in ([names] if isinstance(names, str) else names)]
    return checks[0] if len(checks) == 1 else lambda value: any(check(value) for check in checks)


def _matching(pattern: str) -> Check:
    search = re.compile(pattern).search
    return lambda value: type(value) is not str or search(value) is not None


def _same(expected: Any, value: Any) -> bool:
    return type(expected) is type(value) and bool(expected == value)


_SIMPLE: Mapping[str, Callable[[Any], Check]] = {
    "type": _of_type,
    "const": lambda expected: lambda value: _same(expected, value),
    "enum": lambda expected: lambda value: any(_same(item, value) for item in expected),
    "pattern": _matching,
    "minimum": lambda least: lambda value: type(value) not in (int, float) or value >= least,
    "maxLength": lambda most: lambda value: type(value) is not str or len(value) <= most,
    "minItems": lambda least: lambda value: type(value) is not list or len(value) >= least,
    "maxItems": lambda most: lambda value: type(value) is not list or len(value) <= most,
    "uniqueItems": lambda _expected: lambda value: type(value) is not list or len(set(map(repr, value))) == len(value),
}
