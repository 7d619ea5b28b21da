"""Decisions about the pairs of a data set: patches, and their effect on a batch, a build and a file.

The public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelgen.patches.batch_masks import BoundPatch, PatchMasks, bind, bound, masks, patched  # noqa: F401
    from labelgen.patches.cleaned.cleaned import Cleaned, export_captions  # noqa: F401
    from labelgen.patches.patch import Patch, compose, read, revert, validate, write  # noqa: F401
    from labelgen.patches.removed import Removed, carried, remaining  # noqa: F401

#: Module -> its public names.
_NAMES: dict[str, tuple[str, ...]] = {
    "labelgen.patches.cleaned.cleaned": ("Cleaned", "export_captions"),
    "labelgen.patches.batch_masks": ("BoundPatch", "PatchMasks", "bind", "bound", "masks", "patched"),
    "labelgen.patches.patch": ("Patch", "compose", "read", "revert", "validate", "write"),
    "labelgen.patches.removed": ("Removed", "carried", "remaining"),
}

__all__ = sorted(name for names in _NAMES.values() for name in names)  # noqa: PLE0605 - the table is the list


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'labelgen.patches' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
