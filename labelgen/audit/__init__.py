"""What is wrong with the labels of a store, how well they agree with people, and what to do about it.

Functions of a sealed store. The public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Public name -> where it lives.
_PLACES: dict[str, str] = {}

__all__ = sorted(_PLACES)  # noqa: PLE0605 - the table is the list


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'labelgen.audit' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
