"""Export to FiftyOne: photographs as samples, captions and findings as their fields.

    dataset = fiftyone.Dataset.from_dir(folder, dataset_type=fiftyone.types.FiftyOneDataset)

The folder has `metadata.json` and `samples.json`, the form of `fiftyone.types.LegacyFiftyOneDataset` (which the newer
type reads too). FiftyOne itself is not needed here. Photographs are not copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelgen.audit.report.photos import photo_root
from labelgen.corpus.text.names import is_unsafe
from labelgen.errors import ConfigError
from labelgen.store.disk.atomic import write_atomic

if TYPE_CHECKING:
    import polars as pl

    from labelgen.store.reader import Store

_STRING = "fiftyone.core.fields.StringField"
_FLOAT = "fiftyone.core.fields.FloatField"
_LABELS = "fiftyone.core.labels.Classifications"
#: Columns of a finding that are fields of its labels.
_SHOWN = ("caption_id", "annotated_image_id", "group", "rank", "score", "suspicion")
#: Name of a finding -> (its column of ids of images, the column that the label shows).
FINDINGS: Mapping[str, tuple[str, str]] = {
    "false_negatives": ("image_id", "text"),
    "noisy_pairs": ("image_id", "text"),
    "duplicate_images": ("image_id", "kind"),
    "duplicate_captions": ("image_id", "text"),
}


def write_fiftyone(
    store: Store, out: str | Path, findings: Mapping[str, pl.DataFrame], *, photos: str | Path | None = None
) -> Path:
    """Write a folder that FiftyOne imports.

    A sample has `filepath`, the split as its tag, `image_id`, and `captions`, one classification a caption with its
    `caption_id`. Every finding is a field of classifications with the label's text, and `caption_id`, `rank`, `score`
    and `suspicion` where the frame has them; a sample without a finding has an empty field. `worst_rank` is the best
    place of an image in any ranking, to sort by.

    Args:
        findings: frames of `labelgen.audit` by the name of their finding, one of `FINDINGS`.
        photos: folder of the photographs; by default that of the data set in the store's recipe.

    Raises:
        ConfigError: an unknown finding, or no photographs: FiftyOne shows files.
        DiskError: the disk is full or read-only.
    """
    unknown = [name for name in findings if name not in FINDINGS]
    if unknown:
        raise ConfigError(f"findings {', '.join(unknown)} have no images", expected=", ".join(FINDINGS))
    root = photo_root(store, photos)
    if root is None:
        raise ConfigError("the photographs of this store were not found", todo="pass photos=, their folder")
    folder = Path(out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    samples = list(_samples(store, root.absolute(), {name: _by_image(name, frame) for name, frame in findings.items()}))
    metadata = {
        "name": store.name,
        "media_type": "image",
        "sample_fields": {
            "filepath": _STRING,
            "tags": "fiftyone.core.fields.ListField(fiftyone.core.fields.StringField)",
            "metadata": "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.metadata.ImageMetadata)",
            "image_id": _STRING,
            **dict.fromkeys(("captions", *findings), f"fiftyone.core.fields.EmbeddedDocumentField({_LABELS})"),
            "worst_rank": _FLOAT,
        },
        "info": {"store_id": store.manifest.store_id, "content_digest": store.manifest.content_digest},
    }
    for name, document in (("metadata.json", metadata), ("samples.json", {"samples": samples})):
        write_atomic(folder / name, json.dumps(document, ensure_ascii=True, allow_nan=False).encode())
    return folder


def _samples(
    store: Store, root: Path, found: Mapping[str, dict[str, list[dict[str, Any]]]]
) -> Iterator[dict[str, Any]]:
    """Yield images with a photograph, in the order of their rows."""
    texts, ids = store.captions["text"].to_list(), store.captions["caption_id"].to_list()
    for row in store.images.select("image_row", "image_id", "split", "file", "width", "height").iter_rows(named=True):
        if row["file"] is None or is_unsafe(row["file"]) or not (root / row["file"]).is_file():  # missing, or in a tar
            continue
        image = row["image_id"]
        mine = {name: labels.get(image, []) for name, labels in found.items()}
        ranks = [label["rank"] for labels in mine.values() for label in labels if "rank" in label]
        yield {
            "filepath": str(root / row["file"]),
            "tags": [row["split"]],
            "metadata": {"_cls": "ImageMetadata", "width": row["width"], "height": row["height"]},
            "image_id": image,
            "captions": _classifications(
                {"label": texts[caption], "caption_id": ids[caption]} for caption in store.captions_of(row["image_row"])
            ),
            **{name: _classifications(labels) for name, labels in mine.items()},
            "worst_rank": float(min(ranks)) if ranks else None,
        }


def _by_image(name: str, frame: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    image, label = FINDINGS[name]
    shown = [column for column in _SHOWN if column in frame.columns]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        values: dict[str, Any] = {column: row[column] for column in shown if row[column] is not None}
        found.setdefault(row[image], []).append({"label": str(row[label]), **values})
    return found


def _classifications(labels: Any) -> dict[str, Any]:
    listed = [{"_cls": "Classification", **label} for label in labels]
    return {"_cls": "Classifications", "classifications": listed}
