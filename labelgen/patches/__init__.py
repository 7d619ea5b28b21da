"""Decisions about the pairs of a data set: patches, and their effect on a batch, a build and a file.

The public names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.patches.batch_masks import BoundPatch, PatchMasks, bind, bound, masks, patched
    from labelgen.patches.cleaned.cleaned import Cleaned, export_captions, export_sources
    from labelgen.patches.patch import Patch, compose, read, revert, validate, write
    from labelgen.patches.removed import Removed, remaining
    from labelgen.patches.removed import remaining as carried  # its first name, in older scripts

#: Public name -> module and attribute.
_PLACES: dict[str, str] = {
    "BoundPatch": "labelgen.patches.batch_masks:BoundPatch",
    "Cleaned": "labelgen.patches.cleaned.cleaned:Cleaned",
    "Patch": "labelgen.patches.patch:Patch",
    "PatchMasks": "labelgen.patches.batch_masks:PatchMasks",
    "Removed": "labelgen.patches.removed:Removed",
    "bind": "labelgen.patches.batch_masks:bind",
    "bound": "labelgen.patches.batch_masks:bound",
    "carried": "labelgen.patches.removed:remaining",
    "compose": "labelgen.patches.patch:compose",
    "export_captions": "labelgen.patches.cleaned.cleaned:export_captions",
    "export_sources": "labelgen.patches.cleaned.cleaned:export_sources",
    "masks": "labelgen.patches.batch_masks:masks",
    "patched": "labelgen.patches.batch_masks:patched",
    "read": "labelgen.patches.patch:read",
    "remaining": "labelgen.patches.removed:remaining",
    "revert": "labelgen.patches.patch:revert",
    "validate": "labelgen.patches.patch:validate",
    "write": "labelgen.patches.patch:write",
}

__all__ = [
    "BoundPatch",
    "Cleaned",
    "Patch",
    "PatchMasks",
    "Removed",
    "bind",
    "bound",
    "carried",
    "compose",
    "export_captions",
    "export_sources",
    "masks",
    "patched",
    "read",
    "remaining",
    "revert",
    "validate",
    "write",
]

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
