"""Decisions about the pairs of a data set: what they are, what they mean for a batch, a build and a file.

The public names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.patches.cleaned.cleaned import Cleaned, export_captions
    from labelgen.patches.masks import BoundPatch, PatchMasks, bind, bound, masks, patched
    from labelgen.patches.patch import Patch, compose, read, revert, validate, write
    from labelgen.patches.remaining import carried
    from labelgen.patches.removed import Removed

#: Public name -> where it lives.
_PLACES: dict[str, str] = {
    "BoundPatch": "labelgen.patches.masks:BoundPatch",
    "Cleaned": "labelgen.patches.cleaned.cleaned:Cleaned",
    "Patch": "labelgen.patches.patch:Patch",
    "PatchMasks": "labelgen.patches.masks:PatchMasks",
    "Removed": "labelgen.patches.removed:Removed",
    "bind": "labelgen.patches.masks:bind",
    "bound": "labelgen.patches.masks:bound",
    "carried": "labelgen.patches.remaining:carried",
    "compose": "labelgen.patches.patch:compose",
    "export_captions": "labelgen.patches.cleaned.cleaned:export_captions",
    "masks": "labelgen.patches.masks:masks",
    "patched": "labelgen.patches.masks:patched",
    "read": "labelgen.patches.patch:read",
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
    "masks",
    "patched",
    "read",
    "revert",
    "validate",
    "write",
]

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
