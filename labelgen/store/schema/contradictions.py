"""Contradictions within a manifest, checked whenever a store is opened, from the manifest alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from labelgen.store import layout
from labelgen.store.disk.shards import shard_bytes
from labelgen.store.entries import EmbeddingEntry, Manifest, NeighborEntry
from labelgen.store.layout import ArraySpec
from labelgen.types import is_word_path

_NUMBER = r"(\.[1-9][0-9]{0,8})?"
#: The longest message: a manifest can be wrong in every line.
_SHOWN = 20
#: A split name of a sealed store may be any text that stays in one place; exports accept words only.
_UNSAFE_SPLIT = re.compile(r"(^|/)\.\.?(/|$)|^/|\\|[\x00-\x1f\x7f]")


def are_arrays_sound(manifest: Manifest) -> bool:
    """Whether every array fits the corpus and is listed as large as it is declared: reading is bounded by the files."""
    return not any(sentence for check in (_embeddings, _neighbors, _arrays) for sentence in check(manifest))


def contradictions(manifest: Manifest) -> list[str]:
    """Sentences on what does not fit together, at most 20; empty for every store that labelgen sealed.

    Teachers and arrays, shapes and counts, lists and their aliases and relations, splits and rows, and the files that
    all of these consist of. Time and memory are bounded by the manifest itself, whatever shapes it declares.
    """
    found: list[str] = []
    for check in (_corpus, _splits, _parts, _embeddings, _neighbors, _arrays, _files):
        found += check(manifest)
        if len(found) >= _SHOWN:
            break
    return found[:_SHOWN]


def _corpus(manifest: Manifest) -> Iterator[str]:
    corpus, quarantine = manifest.corpus, manifest.quarantine
    if not re.fullmatch(layout.CORPUS + _NUMBER, corpus.path):
        yield f"the corpus is in {corpus.path!r}"
    if quarantine.path != f"{corpus.path}/{layout.QUARANTINE}":
        yield f"the quarantine table is {quarantine.path!r}"
    if corpus.n_texts > corpus.n_captions:
        yield f"{corpus.n_texts} distinct texts of {corpus.n_captions} captions"
    if corpus.kinds and sum(corpus.kinds.values()) != corpus.n_captions:
        yield f"{sum(corpus.kinds.values())} captions have a kind or none, the corpus has {corpus.n_captions}"
    borders = [0, *corpus.text_borders, corpus.n_texts]
    if corpus.text_borders and any(after <= text for text, after in pairwise(borders)):
        yield f"kinds begin at the texts {list(corpus.text_borders[:5])} of {corpus.n_texts}"
    if corpus.groups > corpus.n_images:
        yield f"{corpus.groups} groups of {corpus.n_images} images"
    listed = sum(row["count"] for row in quarantine.by_reason)
    if listed != quarantine.total:
        yield f"{quarantine.total} items are quarantined, {listed} by reason"
    held = {"images": corpus.n_images, "captions": corpus.n_captions, "texts": corpus.n_texts}
    held["splits"] = len(corpus.splits)
    for name, count in manifest.counts.items():
        if held.get(name, count) != count:
            yield f"{count} {name} are counted, the corpus has {held[name]}"


def _splits(manifest: Manifest) -> Iterator[str]:
    ranges = sorted(
        (part.start, part.stop, name) for name, rows in manifest.corpus.splits.items() for part in rows.ranges
    )
    at = 0
    for start, stop, name in ranges:
        if start != at:
            yield f"split {name!r} begins at image {start}, the one before it ends at {at}"
        at = stop
    if at != manifest.corpus.n_images:
        yield f"the splits hold {at} images, the corpus has {manifest.corpus.n_images}"
    for name in manifest.corpus.splits:
        if not name or len(name) > 255 or _UNSAFE_SPLIT.search(name):
            yield f"a split is named {name!r}"


def _parts(manifest: Manifest) -> Iterator[str]:
    corpus = manifest.corpus
    if not corpus.parts:
        return
    for name in ("images", "captions", "texts"):
        total, held = sum(getattr(part, name) for part in corpus.parts), getattr(corpus, f"n_{name}")
        if total != held:
            yield f"the parts of the corpus have {total} {name}, the corpus has {held}"


def _embeddings(manifest: Manifest) -> Iterator[str]:
    corpus = manifest.corpus
    sides: dict[str, list[str]] = {alias: [] for alias in manifest.teachers}
    for entry in manifest.embeddings:
        path, (rows, dim) = entry.array.path, entry.array.shape
        if entry.alias not in manifest.teachers:
            yield f"{path} has no teacher: {entry.alias!r} is none"
            continue
        sides[entry.alias].append(entry.modality)
        if not re.fullmatch(rf"{layout.EMBEDDINGS}{_NUMBER}/{entry.alias}/{entry.modality}", path):
            yield f"the {entry.modality} rows of {entry.alias!r} are in {path!r}"
        expected = corpus.n_images if entry.modality == "image" else corpus.n_captions
        if rows != expected:
            yield f"{path} has {rows} rows for {expected} {entry.modality}s"
        if dim != manifest.teachers[entry.alias].dim:
            yield f"{path} has rows of {dim} numbers, its teacher of {manifest.teachers[entry.alias].dim}"
    for alias, held in sides.items():
        if sorted(held) != sorted(manifest.teachers[alias].modalities):
            yield f"teacher {alias!r} has rows of {held}, its entry names {list(manifest.teachers[alias].modalities)}"
    if len({layout.generation_of(path) for path in _homes(manifest.embeddings)}) > 1:
        yield "embeddings are in folders of different numbers"


def _homes(entries: Iterable[EmbeddingEntry]) -> Iterator[str]:
    return (entry.array.path for entry in entries if re.match(rf"{layout.EMBEDDINGS}{_NUMBER}/", entry.array.path))


def _neighbors(manifest: Manifest) -> Iterator[str]:
    for entry in manifest.neighbors:
        if entry.alias not in manifest.teachers:
            yield f"{entry.path} has no teacher: {entry.alias!r} is none"
            continue
        if not _is_path_of(entry):
            yield f"the list {entry.relation} of {entry.alias!r} is in {entry.path!r}"
        sides = set(manifest.teachers[entry.alias].modalities)
        needed = {"image"} if entry.relation.value == "i2i" else {"text"}
        if not needed <= sides:
            yield f"{entry.path} compares {entry.relation}, its teacher has rows of {sorted(sides)}"
        if not set(entry.kinds) <= manifest.corpus.kinds.keys():
            yield f"{entry.path} is over captions of {list(entry.kinds)}, the corpus has {list(manifest.corpus.kinds)}"
        rows = manifest.corpus.n_images if entry.relation.query == "image" else manifest.corpus.n_captions
        if entry.rows != rows:
            yield f"{entry.path} has {entry.rows} rows for {rows} queries"


def _is_path_of(entry: NeighborEntry) -> bool:
    usual = layout.neighbors_path(
        entry.relation, entry.alias, entry.aggregation, entry.scope, entry.k, kinds=entry.kinds
    )
    head, name = usual.split("/")
    begin, end = name.rsplit(".", 1)
    digits = r"\.approximate-[0-9a-f]{1,32}" if entry.approximate else ""
    pattern = rf"{head}{_NUMBER}/{re.escape(begin)}({digits})?\.{end}"
    return re.fullmatch(pattern, entry.path) is not None


def _arrays(manifest: Manifest) -> Iterator[str]:
    """Arrays share no folder, and their files are listed, with the sizes that their shapes make."""
    specs = list(manifest.arrays())
    for path, times in Counter(spec.path for spec in specs).items():
        if times > 1:
            yield f"the array {path} is named {times} times"
    for spec in specs:
        yield from _shards(manifest, spec)


def _shards(manifest: Manifest, spec: ArraySpec) -> Iterator[str]:
    count = spec.n_shards
    if count > len(manifest.files):
        yield f"{spec.path} is declared as {list(spec.shape)}: its {count} shards are not listed"
        return
    if spec.metadata_path not in manifest.files:
        yield f"{spec.metadata_path} belongs to an array of the store, but the manifest lists no such file"
    sizes = {count - 1: shard_bytes(spec, count - 1)} if count else {}
    full = shard_bytes(spec, 0) if count > 1 else 0
    for shard in range(count):
        path, size = spec.shard_path(shard), sizes.get(shard, full)
        fact = manifest.files.get(path)
        if fact is None:
            yield f"{path} belongs to an array of the store, but the manifest lists no such file"
        elif fact.bytes != size:
            yield f"{path} is listed with {fact.bytes} bytes, its array needs {size}"


def _files(manifest: Manifest) -> Iterator[str]:
    for path in manifest.files:
        first = path.partition("/")[0]
        if first in (layout.MANIFEST, layout.WORK) or not is_word_path(path):
            yield f"a file {path!r} is listed"
    corpus = manifest.corpus.path
    for name in (layout.IMAGES, layout.CAPTIONS, layout.QUARANTINE):
        if f"{corpus}/{name}" not in manifest.files:
            yield f"{corpus}/{name} is not listed"
