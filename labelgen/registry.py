"""Objects by name, through entry points.

`pyproject.toml` declares those of labelgen in the groups below, as other packages declare theirs. Nothing is imported
before a name is used.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from labelgen.errors import SpecError, UnknownNameError, missing_extra, shown
from labelgen.specs import Spec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Group names by what they hold.
GROUPS = {
    "dataset": "labelgen.datasets",
    "teacher": "labelgen.teachers",
    "engine": "labelgen.engines",
    "executor": "labelgen.executors",
    "scheme": "labelgen.schemes",
    "judgement": "labelgen.judgements",
}
#: Packages with an extra of the same name.
_EXTRAS = {"faiss"}


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and opening a store needs no names

    return {entry.name: entry for entry in entry_points(group=GROUPS[kind])}


def names(kind: str) -> list[str]:
    """All registered names of a kind, sorted."""
    return sorted(_entries(kind))


def load(kind: str, name: str) -> Callable[..., Any]:
    """The object registered as `name`.

    Raises:
        UnknownNameError: there is none; offers near names.
        MissingExtraError: it is one of labelgen, and its library is not installed.
    """
    check_name(kind, name)
    entry = _entries(kind)[name]
    try:
        loaded: Callable[..., Any] = entry.load()
    except ModuleNotFoundError as error:
        absent = error.name or ""
        if absent.startswith("labelgen") or not entry.module.startswith("labelgen."):
            raise
        extra = absent if absent in _EXTRAS else "build"
        raise missing_extra(absent, extra, f"{kind} {name!r}") from error
    return loaded


def check_name(kind: str, name: str) -> None:
    """Refuse an unknown name without importing anything; raises as `load` does."""
    if name not in _entries(kind):
        raise unknown(kind, name, names(kind))


def create(kind: str, spec: Spec, **extra: Any) -> Any:
    """Call what `spec` names with its arguments and `extra`.

    Raises:
        UnknownNameError: an unknown name.
        SpecError: an argument that the target does not take, or a required one that is missing.
    """
    target = load(kind, spec.name)
    check_arguments(kind, spec, target, extra)
    return target(**spec.arguments, **extra)


def takes(kind: str, name: str, argument: str) -> bool:
    """Whether what is registered as `name` has an argument; raises as `load` does."""
    return argument in inspect.signature(load(kind, name)).parameters


def check_arguments(kind: str, spec: Spec, target: Callable[..., Any], extra: Iterable[str] = ()) -> None:
    """Refuse misspelt, unknown or missing arguments, and values of another type, before anything is loaded."""
    parameters = dict(_parameters(target))
    reserved = set(extra)
    for name, parameter in [*parameters.items()]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:  # takes any other name, of the same type
            del parameters[name]
            parameters |= {other: parameter for other in spec.arguments if other not in {*parameters, *reserved}}
    allowed = [name for name in parameters if name not in reserved]
    for name in spec.arguments:
        if name not in allowed:
            raise SpecError(
                f"{kind} {spec.name!r} takes no argument {name!r}",
                found=str(spec),
                expected=f"one of {', '.join(allowed)}" if allowed else "no arguments",
                todo=_near(name, allowed),
            )
    for name in allowed:
        if parameters[name].default is inspect.Parameter.empty and name not in spec.arguments:
            raise SpecError(f"{kind} {spec.name!r} needs {name!r}", found=str(spec), todo=f"add {name}=...")
    for name, value in spec.arguments.items():
        if not _fits(value, parameters[name].annotation):
            raise SpecError(
                f"{name!r} of {kind} {spec.name!r} has the wrong type",
                found=f"{type(value).__name__}: {shown(value)}",
                expected=_type_name(parameters[name].annotation),
            )


def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters with their types, as texts where a type exists for type checkers only."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, TypeError, AttributeError):
        return inspect.signature(target).parameters


def _fits(value: Any, kind: Any) -> bool:
    """Whether a literal may be of a type; other than plain types are checked by the function itself."""
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not Ellipsis]
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return type(value) in {type(choice) for choice in parts}
    if kind in (str, int, bool, float, NoneType):
        return type(value) in ((int, float) if kind is float else (kind,))  # True is no number
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and (len(parts) != 1 or all(_fits(item, parts[0]) for item in value))
    return True


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "").replace("collections.abc.", "")


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that does not exist, with near names."""
    listed = sorted(known)
    return UnknownNameError(
        f"there is no {kind} {name!r}", expected=f"one of {', '.join(listed)}", todo=_near(name, listed)
    )


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(item) for item in close)}?" if close else ""
