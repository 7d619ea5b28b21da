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
    from labelgen.patches.removed import Removed, remaining  # noqa: F401
    from labelgen.patches.removed import remaining as carried  # noqa: F401 - its first name, in older scripts

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
    "masks": "labelgen.patches.batch_masks:masks",
    "patched": "labelgen.patches.batch_masks:patched",
    "read": "labelgen.patches.patch:read",
    "remaining": "labelgen.patches.removed:remaining",
    "revert": "labelgen.patches.patch:revert",
    "validate": "labelgen.patches.patch:validate",
    "write": "labelgen.patches.patch:write",
}

__all__ = sorted(_PLACES)  # noqa: PLE0605 - the table is the list

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
