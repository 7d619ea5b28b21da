"""Identity of a Python object that encodes: class, version or source, settings and weights.

What cannot be described raises: two objects with one identity would share a store and have different rows.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from labelgen.errors import TeacherError
from labelgen.fingerprint import digest, fingerprint
from labelgen.teachers.identity import settings, tokenizer_digest
from labelgen.teachers.weights import weight_hash

#: Objects inside objects inside objects: deeper ones are not followed.
_DEPTH = 8
#: What torch keeps in every module beside its settings.
_OF_TORCH = frozenset({"training"})


class UnclearError(TeacherError):
    """A part of an object has no identity."""

    def __init__(self, place: str, value: Any) -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        super().__init__(f"{place} cannot be described", found=f"a {kind}")


def describe(value: Any, place: str = "the object") -> Any:
    """Plain JSON data that changes when the rows of an object could change.

    Modules of torch: classes, settings, weights. Other objects: class with its version or source, and all attributes.
    Arrays, tensors and long values become digests. Devices do not count.

    Raises:
        UnclearError: an attribute that cannot be described: a lambda with captured variables, an object of a C library.
    """
    return _described(value, place, 0, frozenset())


def class_facts(kind: type) -> dict[str, str]:
    """Name of a class, and the version of its package or, of code outside packages, the digest of its source.

    Raises:
        UnclearError: code outside packages whose source cannot be read.
    """
    facts = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    own = [base for base in kind.__mro__ if base is not object and not _version(base)]
    if own and kind in own:
        return {**facts, "source": _source(own, kind)}
    return {**facts, "version": _version(kind)}


def is_module(value: Any) -> bool:
    """Whether an object is a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _described(value: Any, place: str, depth: int, above: frozenset[int]) -> Any:
    found = value
    if isinstance(value, float):
        found = value if math.isfinite(value) else repr(value)
    elif isinstance(value, bytes):
        found = digest(value)
    elif isinstance(value, Enum | PurePath):
        found = str(value)
    elif value is not None and not isinstance(value, str | int):
        array = _as_array(value)
        if array is not None:
            return {"shape": list(array.shape), "dtype": str(array.dtype), "digest": digest(array.tobytes())}
        if id(value) in above:
            return "(above)"
        if depth > _DEPTH:
            raise UnclearError(place, value)
        found = _container(value, place, depth + 1, above | {id(value)})
    return found


def _container(value: Any, place: str, depth: int, above: frozenset[int]) -> Any:
    found: Any
    if isinstance(value, Mapping):
        found = {str(key): _described(value[key], f"{place}[{key!r}]", depth, above) for key in value}
    elif isinstance(value, list | tuple):
        found = [_described(item, f"{place}[{number}]", depth, above) for number, item in enumerate(value)]
    elif isinstance(value, set | frozenset):
        found = sorted(str(item) for item in value)
    elif isinstance(value, type):
        found = class_facts(value)
    elif isinstance(value, MethodType):
        found = [value.__func__.__qualname__, _described(value.__self__, place, depth, above)]
    elif callable(value) and hasattr(value, "__qualname__"):
        found = _function(value, place)
    elif is_module(value):
        found = _module(value)
    elif hasattr(value, "get_vocab") or hasattr(value, "backend_tokenizer"):
        found = {"class": type(value).__qualname__, "tokenizer": tokenizer_digest(value)}
    elif type(value).__module__.partition(".")[0] == "torch" and type(value).__name__ in ("device", "dtype"):
        found = "" if type(value).__name__ == "device" else str(value)
    elif hasattr(value, "__dict__"):
        items = vars(value).items()
        found = {**class_facts(type(value)), **{n: _described(v, f"{place}.{n}", depth, above) for n, v in items}}
    else:
        raise UnclearError(place, value)
    return found


def _function(value: Any, place: str) -> dict[str, str]:
    """A function by its name and source; one that captures variables is unclear, for they can change."""
    if not isinstance(value, FunctionType):  # built in, or of a C library: its package tells
        return {"function": f"{value.__module__}.{value.__qualname__}", "version": _version(value)}
    if value.__closure__:
        raise UnclearError(place, value)
    version = _version(value)
    made_of = {"version": version} if version else {"source": _source([value], value)}
    return {"function": f"{value.__module__}.{value.__qualname__}", **made_of}


def _module(module: Any) -> dict[str, Any]:
    """A torch module: its classes, the plain settings of all its parts, and its weights."""
    parts = {
        name: {
            "class": type(part).__qualname__,
            **{key: settings(item) for key, item in vars(part).items() if _is_setting(key, item)},
        }
        for name, part in module.named_modules()
    }
    config: Any = getattr(module, "config", None)
    written = settings(config.to_dict()) if hasattr(config, "to_dict") else None
    return {
        **class_facts(type(module)),
        "parts": fingerprint([repr(module), parts, written]),
        "weights": weight_hash(module.state_dict()),
    }


def _is_setting(name: str, value: Any) -> bool:
    """Whether an attribute of a module is one of its plain settings; it is not JSON data otherwise."""
    plain = isinstance(value, str | int | float | bool | list | tuple | dict) or value is None
    return plain and not name.startswith("_") and name not in _OF_TORCH


def _as_array(value: Any) -> np.ndarray[Any, Any] | None:
    if isinstance(value, np.generic | np.ndarray):
        return None if value.dtype.hasobject else np.ascontiguousarray(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous()
        return np.ascontiguousarray((raw if raw.dtype != torch.bfloat16 else raw.view(torch.int16)).numpy())
    return None


def _version(value: Any) -> str:
    """Version of the package that an object's class or function is from; empty for code outside packages."""
    top = str(getattr(value, "__module__", "") or "").partition(".")[0]
    if top in ("builtins", *sys.stdlib_module_names) and top != "__main__":
        return ".".join(map(str, sys.version_info[:2]))
    version = getattr(sys.modules.get(top), "__version__", "")
    if version:
        return str(version)
    try:
        return importlib.metadata.version(top) if top else ""
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""


def _source(parts: list[Any], value: Any) -> str:
    try:
        return fingerprint([inspect.getsource(part) for part in parts])
    except (OSError, TypeError) as error:
        raise UnclearError("the source", value) from error
