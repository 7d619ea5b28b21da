"""Decisions about the pairs of a data set: patches, and their effect on a batch, a build and a file.

The public names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.patches.batch_masks import BoundPatch, PatchMasks, bind, bound, masks, patched  # noqa: F401
    from labelgen.patches.cleaned.cleaned import Cleaned, export_captions  # noqa: F401
    from labelgen.patches.patch import Patch, compose, read, revert, validate, write  # noqa: F401
    from labelgen.patches.removed import Removed, carried, remaining  # noqa: F401

_MODULES: dict[str, tuple[str, ...]] = {
    "batch_masks": ("BoundPatch", "PatchMasks", "bind", "bound", "masks", "patched"),
    "cleaned.cleaned": ("Cleaned", "export_captions"),
    "patch": ("Patch", "compose", "read", "revert", "validate", "write"),
    "removed": ("Removed", "carried", "remaining"),
}
#: Public name -> module and attribute.
_PLACES = {name: f"labelgen.patches.{module}:{name}" for module, names in _MODULES.items() for name in names}

__all__ = sorted(_PLACES)  # noqa: PLE0605 - the table is the list

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
