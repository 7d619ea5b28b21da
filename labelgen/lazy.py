"""Public names and modules of a package that are imported when they are first used."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, places: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package; the latter lists public names only, those of `__all__` included.

    Args:
        places: its public names -> `module:attribute`.
        modules: its public modules and packages.
    """

    def load(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        value = getattr(import_module(module), attribute)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*vars(sys.modules[package]).get("__all__", ()), *places, *modules})


def collect_rarely() -> None:
    """Look for cycles of objects less often, and not at the end: for a process that is labelgen's own.

    Imports of torch and its friends make a million objects that stay. Looking through them again and again, and once
    more at the end, was 2 of the 13 s of a demo build.
    """
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
