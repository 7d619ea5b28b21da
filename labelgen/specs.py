"""`"sbert(model='x')"` <-> `Spec`: one text form in Python, TOML, the command line and the manifest.

A spec is a name and keyword literals. It is parsed with `ast` and never evaluated; `str(Spec.parse(text))` is the
canonical text, and parsing that gives an equal spec.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from labelgen.errors import SpecError, shown

Literal: TypeAlias = "str | int | float | bool | list[Literal] | None"


@dataclass(frozen=True)
class Spec:
    """A name with keyword arguments, hashable; arguments are kept sorted by name."""

    name: str
    items: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, /, **arguments: Any) -> Spec:
        """A spec from Python values; lists become tuples so that the value stays hashable."""
        return cls(name, tuple(sorted((key, _frozen(key, value)) for key, value in arguments.items())))

    def without(self, argument: str) -> Spec:
        """The spec without one of its arguments, or as it is."""
        return Spec(self.name, tuple(item for item in self.items if item[0] != argument))

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Parse `name` or `name(key=literal, ...)`.

        Raises:
            SpecError: not of this form, or an argument that is not a literal.
        """
        try:
            node = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two of deep nesting
            raise _unparsable(text) from error
        if isinstance(node, ast.Name):
            return cls(node.id)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise _unparsable(text)
        arguments: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise _unparsable(text)
            if keyword.arg in arguments:
                raise SpecError(f"{keyword.arg!r} is given twice in {text!r}")
            try:
                arguments[keyword.arg] = ast.literal_eval(keyword.value)
            except (ValueError, RecursionError) as error:
                raise _unparsable(text) from error
        return cls.of(node.func.id, **arguments)

    @property
    def arguments(self) -> Mapping[str, Any]:
        return dict(self.items)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={_text(value)}' for key, value in self.items)})"


def _frozen(key: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(key, item) for item in value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise SpecError(
        f"argument {key!r} of a spec is a {type(value).__name__}",
        expected="a string, number, boolean, None or a list of these",
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return repr(value)


def _unparsable(text: str) -> SpecError:
    todo = ""
    if re.match(r"[A-Za-z_][\w.]*:[A-Za-z_]", text):
        todo = "module:factory names code: it is taken from --teacher and from Python, not from files"
    elif re.fullmatch(r"[\w./-]{1,128}", text):
        todo = f"if it names a model: sbert(model={text!r}), timm(model={text!r}) or transformers(model={text!r})"
    return SpecError(
        "this is not a spec",
        found=shown(text),
        expected="a name with keyword literals, for example sbert(model='all-mpnet-base-v2', text='cusa')",
        todo=todo,
    )
