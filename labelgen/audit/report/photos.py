"""Small pictures for the page and galleries, as `data:` addresses."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from labelgen import registry
from labelgen.corpus.photos.photos import decode_photo, read_photo
from labelgen.errors import LabelgenError
from labelgen.specs import Spec
from labelgen.store.reader import Store

#: Longest side in pixels of a large and of a small picture: about 13 and 5 kB as JPEG of this quality.
LARGE, SMALL, QUALITY = 360, 192, 60


def photo_root(store: Store, given: str | Path | None = None) -> Path | None:
    """Return the given folder of photographs, else that of the store's recipe; None where this has none any more."""
    if given is not None:
        return Path(given).expanduser()
    recipe = store.manifest.recipe.get("dataset", {})
    try:
        spec = Spec.of(str(recipe.get("name", "")), **recipe.get("options", {}))
        root = Path(recipe["root"]).expanduser() if recipe.get("root") else None
        photos: Path | None = registry.create("dataset", spec, root=root).read().photos
    except (LabelgenError, OSError):
        return None
    return photos


def thumbnails(store: Store, root: Path | None, image_ids: Sequence[str], side: int = LARGE) -> dict[str, str]:
    """Return image id -> JPEG as a `data:` address, `side` its longest side; unreadable images are left out."""
    if root is None or not image_ids:
        return {}
    rows = store.image_rows(image_ids)
    files = store.images["file"].gather(rows).to_list()
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda file: _thumbnail(root, file, side) if file else "", files))
    return {image: uri for image, uri in zip(image_ids, made, strict=True) if uri}


def _thumbnail(root: Path, file: str, side: int) -> str:
    try:
        picture = decode_photo(read_photo(root, file))
    except LabelgenError:
        return ""
    picture.thumbnail((side, side))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
