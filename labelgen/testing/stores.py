"""Small sealed stores with known content, made without teachers, for tests of code that reads stores.

Embeddings are random unit rows; everything else (files, index, manifest, card) is written by the code that real builds
use, and neighbour lists come from a brute force in float64 that shares nothing with the search engines.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import labelgen
from labelgen.fingerprint import fingerprint
from labelgen.similarity.base import ArrayRows, ListRequest, Product, SearchPlan
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, write_atomic
from labelgen.store.disk.parquet import write_frame
from labelgen.store.disk.shards import write_array
from labelgen.store.index import build_index
from labelgen.store.manifest import (
    CorpusEntry,
    EmbeddingEntry,
    Manifest,
    NeighborEntry,
    QuarantineEntry,
    TeacherEntry,
    content_digest,
    save_manifest,
)
from labelgen.store.readme.readme import write_card
from labelgen.store.splits import SplitRows
from labelgen.testing.oracles import brute_force
from labelgen.types import UNSPECIFIED, Float16, Int64, Modality, Relation

if TYPE_CHECKING:
    import polars as pl

_CREATED = "2024-01-01T00:00:00Z"


def make_store(
    path: str | Path,
    *,
    n_images: int = 12,
    captions_per_image: int | Sequence[int] = 5,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    k: int = 4,
    lists: bool = True,
    missing_images: Collection[int] = (),
    missing_captions: Collection[int] = (),
    kinds: Sequence[str | None] = (),
    groups: Sequence[str | None] = (),
) -> Path:
    """Make a sealed store and return its path. Equal arguments make equal bytes.

    Images are `img-0`, `img-1`, ..., the first three quarters `train`, the others `val`; captions are `cap-0`, ...; one
    caption in five repeats the text (and so the row) of an earlier one, which makes ties.

    Args:
        captions_per_image: one number, or one for every image (0 is fine).
        dims: row lengths by alias. The alias `text` has texts, `image` has images, any other has both. Default
            `{"text": 16, "image": 8}`.
        k: length of the neighbour lists; all four relations where the teachers allow.
        lists: whether there are neighbour lists; their brute force is slow for thousands of rows.
        missing_images, missing_captions: rows without embeddings; they are quarantined.
        kinds: of every caption.
        groups: of every image.
    """
    root = Path(path)
    draw = np.random.default_rng(seed)
    sizes = np.broadcast_to(np.asarray(captions_per_image, np.int64), (n_images,))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    texts = _texts(draw, int(offsets[-1]), set(missing_captions))
    splits = _splits(n_images)
    files = _write_corpus(root, offsets, texts, splits, missing_images, kinds, groups)
    embeddings: dict[tuple[str, Modality], Float16] = {}
    for alias, dim in (dims or {"text": 16, "image": 8}).items():
        for modality in _modalities(alias):
            rows = (
                _image_rows(draw, n_images, dim, missing_images)
                if modality == "image"
                else _text_rows(draw, texts, dim)
            )
            embeddings[alias, modality] = rows
            files |= write_array(root, layout.embedding_spec(alias, modality, len(rows), dim), rows)
    entries = []
    for relation, alias in _lists(embeddings) if lists else ():
        entry = _neighbor_entry(relation, alias, k, n_images if relation.query == "image" else int(offsets[-1]))
        found = brute_force(_plan(relation, alias, embeddings, offsets, splits), ListRequest(relation, k))
        for name, spec in entry.arrays().items():
            files |= write_array(root, spec, getattr(found, name))
        entries.append(entry)
    files |= _write_receipt(root)
    manifest = _manifest(files, offsets, texts, splits, embeddings, entries, len(missing_images))
    counts = {UNSPECIFIED if kind is None else kind: list(kinds).count(kind) for kind in kinds}
    corpus = replace(manifest.corpus, kinds=counts, groups=len(set(groups) - {None}))
    manifest = replace(manifest, corpus=corpus)
    save_manifest(root, replace(manifest, files={**manifest.files, **write_card(root, manifest)}))
    return root


def _plan(relation: Relation, alias: str, embeddings: Mapping[tuple[str, Modality], Float16], offsets: Int64,
          splits: Mapping[str, tuple[int, int]]) -> SearchPlan:  # fmt: skip
    sides = {side: ArrayRows(rows) for (name, side), rows in embeddings.items() if name == alias}
    product: Product = "image" if relation is Relation.I2I else "text"
    if len(sides) == 2 and relation in (Relation.I2T, Relation.T2I):
        product = "cross"
    return SearchPlan(product, sides.get("text"), sides.get("image"), offsets, tuple(splits.values()), (), memory=0)


def _texts(draw: np.random.Generator, count: int, missing: set[int]) -> list[int | None]:
    """Number of the distinct text of every caption, in order of first appearance; None for quarantined ones."""
    texts: list[int | None] = []
    used = 0
    for row in range(count):
        if row in missing:
            texts.append(None)
        elif used and draw.random() < 0.2:
            texts.append(int(draw.integers(used)))
        else:
            texts.append(used)
            used += 1
    return texts


def _splits(n_images: int) -> dict[str, tuple[int, int]]:
    border = -(-3 * n_images // 4)
    return {"train": (0, border), "val": (border, n_images)} if border < n_images else {"train": (0, n_images)}


def _modalities(alias: str) -> tuple[Modality, ...]:
    named: Mapping[str, tuple[Modality, ...]] = {"text": ("text",), "image": ("image",)}
    return named.get(alias, ("image", "text"))


def _unit(draw: np.random.Generator, count: int, dim: int) -> Float16:
    rows = draw.standard_normal((count, dim)).astype(np.float32)
    unit: Float16 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return unit


def _image_rows(draw: np.random.Generator, count: int, dim: int, missing: Collection[int]) -> Float16:
    rows = _unit(draw, count, dim)
    rows[list(missing)] = 0
    return rows


def _text_rows(draw: np.random.Generator, texts: Sequence[int | None], dim: int) -> Float16:
    distinct = _unit(draw, _distinct(texts), dim)
    rows = np.zeros((len(texts), dim), np.float16)
    for row, text in enumerate(texts):
        if text is not None:
            rows[row] = distinct[text]
    return rows


def _distinct(texts: Sequence[int | None]) -> int:
    return len({text for text in texts if text is not None})


def _lists(embeddings: Mapping[tuple[str, Modality], Any]) -> list[tuple[Relation, str]]:
    aliases = list(dict.fromkeys(alias for alias, _ in embeddings))
    return [
        (relation, alias)
        for alias in aliases
        for relation in Relation
        if (alias, "image" if relation is Relation.I2I else "text") in embeddings
    ]


def _write_corpus(
    root: Path,
    offsets: Int64,
    texts: Sequence[int | None],
    splits: Mapping[str, tuple[int, int]],
    missing_images: Collection[int],
    kinds: Sequence[str | None],
    groups: Sequence[str | None],
) -> dict[str, FileFact]:
    import polars as pl

    n_images = len(offsets) - 1
    images = _image_frame(offsets, splits, missing_images)
    captions = _caption_frame(offsets, texts, images["split"].to_list())
    if groups:
        images = images.with_columns(group=pl.Series(groups, dtype=pl.String))
    if kinds:
        captions = captions.with_columns(kind=pl.Series(kinds, dtype=pl.String))
    frames = {layout.IMAGES: images, layout.CAPTIONS: captions, layout.QUARANTINE: _quarantine_frame(images, captions)}
    files = {
        f"{layout.CORPUS}/{name}": write_frame(root / layout.CORPUS / name, frame) for name, frame in frames.items()
    }
    arrays: dict[str, NDArray[Any]] = {"offsets": offsets, "caption_image": captions["image_row"].to_numpy()}
    arrays["image_hash"], arrays["image_row"] = build_index(images["image_id"].to_list())
    arrays["caption_hash"], arrays["caption_row"] = build_index(captions["caption_id"].to_list())
    for name, spec in layout.index_specs(layout.CORPUS, n_images, len(texts)).items():
        files |= write_array(root, spec, arrays[name])
    return files


def _image_frame(offsets: Int64, splits: Mapping[str, tuple[int, int]], missing: Collection[int]) -> pl.DataFrame:
    import polars as pl

    rows = range(len(offsets) - 1)
    columns: dict[str, Any] = {
        "image_row": pl.Series(rows, dtype=pl.UInt32),
        "image_id": [f"img-{row}" for row in rows],
        "split": [name for name, (start, stop) in splits.items() for _ in range(start, stop)],
        "file": [f"photos/{row:04d}.jpg" for row in rows],
        "source_row": pl.Series(rows, dtype=pl.UInt32),
        "n_captions": pl.Series(np.diff(offsets).astype(np.uint32)),
        "category": pl.Series([None] * len(rows), dtype=pl.String),
        "width": pl.Series([640] * len(rows), dtype=pl.UInt32),
        "height": pl.Series([480] * len(rows), dtype=pl.UInt32),
        "status": ["truncated" if row in missing else "ok" for row in rows],
    }
    return pl.DataFrame(columns)


def _caption_frame(offsets: Int64, texts: Sequence[int | None], splits: Sequence[str]) -> pl.DataFrame:
    import polars as pl

    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    rows = range(len(texts))
    columns: dict[str, Any] = {
        "caption_row": pl.Series(rows, dtype=pl.UInt32),
        "caption_id": pl.Series([f"cap-{row}" for row in rows], dtype=pl.String),
        "image_row": pl.Series(owners.astype(np.uint32)),
        "split": pl.Series([splits[owner] for owner in owners.tolist()], dtype=pl.String),
        "text": pl.Series(["" if text is None else f"text number {text}" for text in texts], dtype=pl.String),
        "text_row": pl.Series(texts, dtype=pl.UInt32),
        "source_row": pl.Series(rows, dtype=pl.UInt32),
        "status": pl.Series(["blank" if text is None else "ok" for text in texts], dtype=pl.String),
    }
    return pl.DataFrame(columns)


def _quarantine_frame(images: pl.DataFrame, captions: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    entries = [
        {"kind": kind, "row": row[f"{kind}_row"], "id": row[f"{kind}_id"], "file": row.get("file"), "stage": stage,
         "alias": None, "reason": row["status"]}
        for kind, stage, frame in (("image", "embed", images), ("caption", "ingest", captions))
        for row in frame.filter(pl.col("status") != "ok").iter_rows(named=True)
    ]  # fmt: skip
    types = {"string": pl.String, "uint32": pl.UInt32}
    schema = {name: types[kind.rstrip("?")] for name, kind in layout.TABLES[layout.QUARANTINE].items()}
    return pl.DataFrame(entries, schema=schema)


def _write_receipt(root: Path) -> dict[str, FileFact]:
    path = f"{layout.RECEIPTS}/embed/made.json"
    receipt = {
        "task": "embed/made", "fingerprint": fingerprint("made"), "rows": 0, "outputs": [], "seconds": 0.0,
        "peak_bytes": 0, "facts": {},
    }  # fmt: skip
    return {path: write_atomic(root / path, json.dumps(receipt, indent=1).encode())}


def _neighbor_entry(relation: Relation, alias: str, k: int, rows: int) -> NeighborEntry:
    path = layout.neighbors_path(relation, alias, "max", "split", k)
    return NeighborEntry(path, relation, alias, "max", "split", k, rows, fingerprint(path))


def _manifest(
    files: Mapping[str, FileFact],
    offsets: Int64,
    texts: Sequence[int | None],
    splits: Mapping[str, tuple[int, int]],
    embeddings: Mapping[tuple[str, Modality], Float16],
    lists: Sequence[NeighborEntry],
    missing_images: int,
) -> Manifest:
    dims = {alias: rows.shape[1] for (alias, _), rows in embeddings.items()}
    blank = sum(text is None for text in texts)
    reasons = [("embed", "truncated", missing_images), ("ingest", "blank", blank)]
    return Manifest(
        store_id=fingerprint(["made", dims, len(texts)]),
        created=_CREATED,
        labelgen=labelgen.__version__,
        recipe={"dataset": {"name": "made"}, "teachers": {alias: f"random(dim={dim})" for alias, dim in dims.items()}},
        fingerprints={"corpus": fingerprint("corpus")},
        teachers={
            alias: TeacherEntry(f"random(dim={dim})", _modalities(alias), dim, "keyed") for alias, dim in dims.items()
        },
        corpus=CorpusEntry(
            path=layout.CORPUS,
            n_images=len(offsets) - 1,
            n_captions=len(texts),
            n_texts=_distinct(texts),
            splits={name: SplitRows([range(*span)]) for name, span in splits.items()},
            fingerprint=fingerprint("corpus"),
        ),
        embeddings=tuple(
            EmbeddingEntry(alias, side, layout.embedding_spec(alias, side, *rows.shape), fingerprint([alias, side]))
            for (alias, side), rows in embeddings.items()
        ),
        neighbors=tuple(lists),
        quarantine=QuarantineEntry(
            f"{layout.CORPUS}/{layout.QUARANTINE}",
            missing_images + blank,
            tuple({"stage": stage, "reason": reason, "count": n} for stage, reason, n in reasons if n),
        ),
        counts={"images": len(offsets) - 1, "captions": len(texts), "texts": _distinct(texts)},
        files=files,
        content_digest=content_digest(files),
        libraries={"numpy": np.__version__},
        machine={},
        stages={"embed": {"seconds": 0.0, "peak_bytes": 0}},
    )
