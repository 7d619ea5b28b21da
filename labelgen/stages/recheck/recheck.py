"""`verify --deep`: a sample of a store is computed again.

Neighbour lists: sampled queries are searched by brute force over the stored embeddings; ids, scores and next must have
equal bits. An approximate list must have equal scores and the recall in the manifest. Embeddings: sampled blocks are
embedded again where their teacher and the data are available; rows must agree within a tolerance (another machine class
rounds differently).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from labelgen import config as configs
from labelgen import registry
from labelgen.corpus.photos.photos import PhotoError, read_photo, with_photo
from labelgen.errors import LabelgenError
from labelgen.similarity.ann.recall import listed_scores, recall_by_image, wilson
from labelgen.similarity.base import ListRequest, Strip, query_rows
from labelgen.similarity.exact import pair_similarities
from labelgen.similarity.row_order import reorder, restore, row_orders, with_candidates
from labelgen.similarity.sort_keys import TopK, encode, merge
from labelgen.specs import Spec
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.corpus_source import sealed_sources
from labelgen.stages.model import tables
from labelgen.stages.model.facts import sealed_parts
from labelgen.stages.model.lists import product_of
from labelgen.stages.work.search import load_plan
from labelgen.stages.work.train import rows_again
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.manifest import EmbeddingEntry, Manifest, NeighborEntry, load_manifest
from labelgen.store.splits import split_numbers
from labelgen.store.verify.findings import ProblemList
from labelgen.teachers.base import KeyedTeacher, least_side_of
from labelgen.teachers.checks import normalise
from labelgen.teachers.trained import TrainedTeacher
from labelgen.types import Float16, Float64, Int64

#: Smallest cosine of a row and the same row embedded again. Float16 rounding moves it by about 1e-7, another batch
#: composition or machine class by about 1e-6; another model or preprocessing by far more.
TOLERANCE = 1e-3
_MEMORY = 1 << 30


def verify_deep(root: Path, *, sample: int, seed: int, data_root: str) -> ProblemList:
    """Recompute `sample` queries of every list, and embed about `sample` rows of every array again."""
    manifest = load_manifest(root)
    draw = np.random.default_rng(seed)
    found = ProblemList()
    for entry in manifest.neighbors:
        images = np.sort(draw.permutation(manifest.corpus.n_images)[:sample])
        _search_again(root, manifest, entry, images, found)
    for embedding in manifest.embeddings:
        _embed_again(root, manifest, embedding, sample, data_root, found)
    return found


def _search_again(root: Path, manifest: Manifest, entry: NeighborEntry, images: Int64, found: ProblemList) -> None:
    sides = {e.modality: MappedArray(root, e.array) for e in manifest.embeddings if e.alias == entry.alias}
    product = product_of(entry.relation, frozenset(manifest.teachers[entry.alias].modalities))
    if product is None:
        found.add(entry.path, f"teacher {entry.alias} has not the rows for {entry.relation}")
        return
    request = ListRequest(entry.relation, entry.k, entry.aggregation, entry.scope)
    folder = root / manifest.corpus.path
    plan = load_plan(folder, sides, product, [request], _MEMORY, entry.kinds)
    captions = tables.rows_of_kinds(folder, entry.kinds) if entry.kinds else None
    orders = row_orders(tables.split_spans(folder), [entry.scope])
    split_of = split_numbers(manifest.corpus.splits, manifest.corpus.n_images)
    engine = registry.create("engine", Spec("numpy"), device="cpu")
    stored = {name: MappedArray(root, spec) for name, spec in entry.arrays().items()}
    recalls = list[Float64]()
    for image in images.tolist():
        start, stop = query_rows(plan, request, image, image + 1)
        if start == stop:
            continue
        order = orders[split_of[image] if orders[0].scope == "cross" else 0]
        reordered, place = reorder(plan, order), order.place(image)
        strip = Strip(place, place + 1, _candidates(order.splits, place, entry.scope))
        parts = [part for found in engine.search(reordered, strip) for part in restore(found, order, plan.offsets)]
        rows = np.arange(start, stop)
        if captions is not None:
            parts = [replace(part, keys=with_candidates(part, captions)) for part in parts]
            rows = captions[rows] if entry.relation.query == "text" else rows
        exact = merge([part.keys for part in parts], entry.k + 1)
        listed = {name: array.take(rows) for name, array in stored.items()}
        again, what = vars(TopK.from_keys(exact, entry.k)), "neighbours"
        if entry.approximate:
            recalls.append(recall_by_image(encode(listed["scores"], listed["ids"]), exact, np.full(len(rows), image)))
            again, what = {"scores": listed_scores(plan, request, rows, listed["ids"])}, "scores"
        for name, values in again.items():
            if listed[name].tobytes() != values.tobytes():
                message = f"a search over the stored embeddings gives other {what}"
                found.add(f"{entry.path}/{name}", message, (int(rows[0]), int(rows[-1]) + 1))
    if recalls:
        _compare_recall(entry, np.concatenate(recalls), found)
    elif not entry.approximate:
        found.notes.append(f"{entry.path}: {len(images)} images searched again, equal bits required")


def _compare_recall(entry: NeighborEntry, recalls: Float64, found: ProblemList) -> None:
    """Compare the recall of some images with that in the manifest."""
    if not len(recalls):
        return
    mean, claimed = float(recalls.mean()), (entry.facts.get("recall") or {}).get("low", 0.0)
    if wilson(mean, len(recalls))[1] < claimed:
        found.add(entry.path, f"recall@{entry.k} is {mean:.3f}, the manifest says at least {claimed:.3f}", None)
    note = f"approximate; {len(recalls)} images searched exactly, recall@{entry.k} {mean:.3f}; equal scores"
    found.notes.append(f"{entry.path}: {note}")


def _candidates(splits: tuple[tuple[int, int], ...], image: int, scope: str) -> tuple[tuple[int, int], ...]:
    same = [span for span in splits if span[0] <= image < span[1]]
    return tuple(same if scope == "split" else [span for span in splits if span not in same])


def _embed_again(
    root: Path, manifest: Manifest, entry: EmbeddingEntry, sample: int, data_root: str, found: ProblemList
) -> None:
    name = entry.array.path
    try:
        encodes = entry.modality == "image" and manifest.teachers[entry.alias].kind == "content"
        folders = _photo_folders(manifest, data_root) if encodes else []  # before the teacher, which may be downloaded
        teacher = registry.create("teacher", Spec.parse(manifest.teachers[entry.alias].spec), device="cpu")
        rows, again = _sampled(root, manifest, entry, teacher, sample, folders)
    except LabelgenError as error:
        found.notes.append(f"{name}: not embedded again: {error.what}")
        return
    stored = MappedArray(root, entry.array).take(rows)
    live = stored.any(axis=1)
    cosines = pair_similarities(stored, again)[live]
    bad = rows[live][cosines < 1 - TOLERANCE]
    if bad.size:
        what = f"{bad.size} of {live.sum()} rows differ embedded again (cosine {cosines.min():.4f})"
        found.add(name, what, (int(bad.min()), int(bad.max()) + 1))
    found.notes.append(f"{name}: {live.sum()} rows embedded again, smallest cosine {cosines.min(initial=1):.7f}")


def _sampled(
    root: Path, manifest: Manifest, entry: EmbeddingEntry, teacher: Any, sample: int, folders: list[Path | None]
) -> tuple[Int64, Float16]:
    """Rows of the array, and the same rows made again from the store's texts or the data's photographs."""
    folder = root / manifest.corpus.path
    if isinstance(teacher, TrainedTeacher):
        count = manifest.corpus.n_captions if entry.modality == "text" else manifest.corpus.n_images
        rows = tables.spread(count, sample)
        return rows, rows_again(root, manifest, entry, rows)
    if isinstance(teacher, KeyedTeacher):
        ids = tables.ids(folder, entry.modality)
        rows = tables.spread(len(ids), sample)
        features, missing = teacher.lookup(entry.modality, [ids[row] for row in rows], rows.tolist())
        present = np.setdiff1d(np.arange(len(rows)), np.asarray(missing, int))
        return rows[present], normalise(features[present])
    if entry.modality == "text":
        return _texts_again(folder, manifest, teacher, sample)
    return _photos_again(folder, manifest, teacher, sample, folders)


def _texts_again(folder: Path, manifest: Manifest, teacher: Any, sample: int) -> tuple[Int64, Float16]:
    """The first block of texts of every kind, in the store and in every append, encoded as in their builds."""
    texts, text_rows = tables.distinct_texts(folder), tables.text_rows(folder)
    starts = {*(part.text for part in sealed_parts(manifest)), *manifest.corpus.text_borders, len(texts)}
    borders = pairwise(sorted(starts))
    blocks = [range(start, min(start + teacher.text_block, stop)) for start, stop in borders if start < stop]
    encoded = [normalise(teacher.encode_texts(texts[block.start : block.stop])) for block in blocks]
    place = np.full(len(texts) + 1, -1)  # the last one is for captions without a text
    place[[text for block in blocks for text in block]] = np.arange(sum(map(len, blocks)))
    rows = np.flatnonzero(place[text_rows] >= 0)
    rows = rows[tables.spread(len(rows), sample)]
    return rows, np.concatenate([np.empty((0, teacher.dim), np.float16), *encoded])[place[text_rows[rows]]]


def _photo_folders(manifest: Manifest, data_root: str) -> list[Path | None]:
    """Folders of the photographs of the store, and of every append."""
    config = configs.from_dict(configs.override(manifest.recipe, [f'dataset.root="{data_root}"'] if data_root else []))
    # the patch may have been removed, and does not move photographs
    datasets = [replace(source.dataset, patch="") for source in sealed_sources(manifest, config)]
    return [ingest.read_corpus(dataset).photos for dataset in datasets]


def _photos_again(
    folder: Path, manifest: Manifest, teacher: Any, sample: int, folders: list[Path | None]
) -> tuple[Int64, Float16]:
    starts = [part.image for part in sealed_parts(manifest)]
    files = tables.image_files(folder)
    rows, prepared = [], []
    for row in tables.spread(len(files), sample).tolist():
        file, photos = files[row], folders[int(np.searchsorted(starts, row, side="right")) - 1]
        if photos is None or file is None:
            continue
        try:
            data = read_photo(photos, file)
            prepared.append(with_photo(data, teacher.prepare_image, least_side_of(teacher)))
        except PhotoError:
            continue
        rows.append(row)
    batches = [prepared[n : n + teacher.image_batch] for n in range(0, len(prepared), teacher.image_batch)]
    encoded = [normalise(teacher.encode_images(batch)) for batch in batches]
    return np.array(rows, np.int64), np.concatenate(encoded) if encoded else np.empty((0, teacher.dim), np.float16)
