"""The decisions that stay decisions after a build with a patch: pairs that it adds, and foreign pairs that it masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelgen.errors import StoreMismatchError
from labelgen.patches.masks import targets
from labelgen.patches.patch import Patch
from labelgen.store.reader import Store


def carried(patch: Patch, store: Store) -> Patch:
    """What is left of a patch for the store that was built with it, in that store's name.

    A decision about a merged item is one about the item that it was merged into. Decisions about items that are gone,
    and pairs that have become own pairs, are left out.

    Raises:
        StoreMismatchError: the store was not built with this patch.
    """
    built_with = str(store.manifest.recipe.get("dataset", {}).get("patch_digest", ""))
    if built_with != patch.digest:
        raise StoreMismatchError(
            "the store was not built with this patch",
            found=f"{store.path} with {built_with or 'no patch'}",
            expected=f"patch digest {patch.digest}",
            todo="build it with --patch, or use the patch with the store that was reviewed",
        )
    same_image, same_caption = targets(patch, "image"), targets(patch, "caption")
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in patch.decisions:
        if row["decision"] not in ("add_positive", "mask_pair"):
            continue
        image = same_image.get(row["image_id"], row["image_id"])
        caption = same_caption.get(row["caption_id"], row["caption_id"])
        image_row = int(store.image_rows([image], missing_ok=True)[0])
        caption_row = int(store.caption_rows([caption], missing_ok=True)[0])
        if image_row < 0 or caption_row < 0 or int(store.image_of([caption_row])[0]) == image_row:
            continue
        # Merging may make two decisions one pair: a mask wins over an added positive, it claims less.
        key = (image, caption)
        if key not in found or row["decision"] == "mask_pair":
            found[key] = {**row, "image_id": image, "caption_id": caption}
    return Patch.of(store, found.values())
