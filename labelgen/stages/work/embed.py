"""Tasks that embed a corpus: parts of encoded or looked-up rows, then shards assembled from them.

Texts: fixed blocks of the table of distinct texts are encoded, so equal texts get equal rows and the composition of a
batch never depends on earlier runs. Images: fixed blocks of image rows; a photograph that fails is replaced by a black
one in its batch, so that the rows of the others stay the same, and gets a zero row.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.corpus.photos.photos import black_photo, photo_error, read_photo, with_photo
from labelgen.fingerprint import canonical
from labelgen.specs import Spec
from labelgen.stages.model import tables
from labelgen.stages.model.part_files import BlockRanges, part_path, read_part, write_part
from labelgen.stages.plan.runtimes import AUTO, spec_of_runtime
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.store import layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.shards import write_shard
from labelgen.teachers.base import ImageTeacher, KeyedTeacher, TextTeacher, least_side_of
from labelgen.teachers.checks import check_not_constant, check_rows, normalise
from labelgen.teachers.compute import requests_at_once
from labelgen.teachers.failures import foreign
from labelgen.teachers.probe import check_repeatable
from labelgen.teachers.trained import TrainedTeacher
from labelgen.types import Bool, Float16, Float32, Int64, Modality

_SHARD_PIECE_BYTES = 8 << 20


def describe(root: Path, *, spec: str, alias: str) -> TaskResult:
    """Describe a teacher in the facts of a receipt, which every build writes again."""
    return TaskResult((), describe_teacher(spec, alias))


def describe_teacher(spec: str, alias: str) -> dict[str, Any]:
    """Load a teacher and describe it, so that changed weights under the same name are noticed.

    The spec in the facts has the runtime that `auto` was resolved to.

    Raises:
        TeacherError: it cannot be loaded, or gives other rows when it encodes the same items again.
    """
    teacher = worker.teacher(spec)
    if Spec.parse(spec).arguments.get("runtime") == AUTO:
        spec = str(spec_of_runtime(Spec.parse(spec), getattr(teacher, "runtime", "torch")))
        worker.remember(spec, teacher)
    check_repeatable(teacher, f"teacher {spec}", worker.settings().device)
    kind = "keyed" if isinstance(teacher, KeyedTeacher) else "content"
    kind = "trained" if isinstance(teacher, TrainedTeacher) else kind
    content = kind == "content"
    parsed = Spec.parse(spec)
    reduced = parsed.arguments.get("precision", "float32") != "float32"
    notes = [str(note) for note in getattr(teacher, "notes", ())]
    return {
        "alias": alias,
        "spec": spec,
        "modalities": sorted(teacher.modalities),
        "dim": teacher.dim,
        "identity": canonical(teacher.identity()),
        "kind": kind,
        "text_block": teacher.text_block if content and "text" in teacher.modalities else 0,
        "image_block": teacher.image_block if content and "image" in teacher.modalities else 0,
        "reference": str(Spec.of(parsed.name, **{**parsed.arguments, "precision": "float32"})) if reduced else "",
        **({"notes": notes} if notes else {}),
    }


def embed_texts(root: Path, *, corpus: str, spec: str, alias: str, start: int, stop: int, block: int) -> TaskResult:
    """Encode the distinct texts [start, stop) and write their rows as one part."""
    teacher = worker.teacher(spec)
    texts = tables.distinct_texts(root / corpus)[start:stop]
    with foreign(f"teacher {spec} fails on the texts {start} to {stop - 1}"):
        rows = _encoded_texts(teacher, texts)
    unit = checked_units(rows, np.ones(len(rows), bool), [repr(text[:60]) for text in texts], spec, teacher.dim)
    return TaskResult((write_part(root, part_path(alias, "text", block), unit),))


def _encoded_texts(teacher: TextTeacher, texts: Sequence[str]) -> Float32:
    """Rows of a block. A teacher that encodes several batches at once runs as many as the memory of this worker holds.

    Where that is small, the longest texts are encoded alone first and measured, once a teacher.
    """
    batch = int(getattr(teacher, "text_batch", 0))
    if batch and worker.needs_measuring(teacher, "text"):
        longest = sorted(texts, key=len)[-batch:]
        with worker.measuring(teacher, "text"), requests_at_once(1):
            teacher.encode_texts(longest)
    with requests_at_once(worker.batches_at_once(teacher, "text")):
        return teacher.encode_texts(texts)


def embed_images(
    root: Path, *, corpus: str, photos: str, spec: str, alias: str, start: int, stop: int, block: int
) -> TaskResult:
    """Encode the images [start, stop) and write their rows as one part."""
    teacher = worker.teacher(spec)
    files = tables.image_files(root / corpus)[start:stop]
    batches = list(_encoded_batches(teacher, Path(photos), files))
    notes = [note for batch in batches for note in batch.notes]
    rows = np.concatenate([batch.rows for batch in batches])
    alive = np.array([not failure for _, failure in notes])
    distinct = list({content: row for row, (content, failure) in reversed([*enumerate(notes)]) if not failure}.values())
    unit = checked_units(rows, alive, [file or "" for file in files], spec, teacher.dim, sorted(distinct))
    failed = {
        str(start + place): failure
        for place, (file, (_, failure)) in enumerate(zip(files, notes, strict=True))
        if failure and file is not None  # others are in the quarantine of the ingest
    }
    return TaskResult((write_part(root, part_path(alias, "image", block), unit),), {"quarantined": failed})


def embed_keyed(
    root: Path, *, corpus: str, modality: Modality, spec: str, alias: str, start: int, stop: int, block: int
) -> TaskResult:
    """Look up the features of the corpus rows [start, stop); rows without features are zero."""
    teacher = worker.teacher(spec)
    ids = tables.ids(root / corpus, modality)[start:stop]
    rows, missing = teacher.lookup(modality, ids, range(start, stop))
    alive = np.ones(len(ids), bool)
    alive[list(missing)] = False
    unit = checked_units(rows, alive, ids, spec, teacher.dim)
    facts = {"quarantined": {str(start + row): "no_features" for row in missing}}
    return TaskResult((write_part(root, part_path(alias, modality, block), unit),), facts)


def checked_units(
    rows: Float32, alive: Bool, ids: Sequence[str], spec: str, dim: int, distinct: Sequence[int] | None = None
) -> Float16:
    """Unit rows, zero where not `alive`; refuses rows that no teacher should give.

    Args:
        ids: names of the rows in error messages.
        distinct: rows of different content, all live ones by default: these may not all be equal.

    Raises:
        TeacherError: rows of another shape or that are not finite, or all equal.
    """
    live = np.flatnonzero(alive)
    check_rows(rows[live], dim=dim, ids=[ids[row] for row in live.tolist()], what=f"teacher {spec}")
    check_not_constant(rows[live if distinct is None else list(distinct)], what=f"teacher {spec}")
    unit = np.zeros(rows.shape, np.float16)
    unit[live] = normalise(rows[live])
    return unit


def assemble_embedding(
    root: Path,
    *,
    corpus: str,
    alias: str,
    modality: Modality,
    by_text: bool,
    rows: int,
    dim: int,
    block: int,
    firsts: list[int],
    shard: int,
    generation: int = 1,
    kept: int = 0,
) -> TaskResult:
    """Gather one zarr shard from the parts; `by_text` parts are rows of distinct texts, others corpus rows.

    Args:
        firsts: see `BlockRanges`; rows before the first of them are not in the parts.
        generation: of the array that is written.
        kept: number of rows in the array of the generation before; they, and rows of the same texts, are copied.
    """
    spec = layout.embedding_spec(alias, modality, rows, dim, generation)
    start, stop = spec.shard_range(shard)
    here = np.arange(start, stop, dtype=np.int64)
    sources = tables.text_rows(root / corpus)[start:stop] if by_text else here
    known = np.where(here < kept, here, -1)
    if kept and by_text:
        again = (here >= kept) & (sources >= 0) & (sources < (firsts or [rows])[0])
        known[again] = tables.first_captions(root / corpus)[sources[again]]
    old = MappedArray(root, layout.embedding_spec(alias, modality, kept, dim, generation - 1)) if kept else None
    blocks = BlockRanges(block, tuple(firsts), rows)
    fact = write_shard(root, spec, shard, _gathered(root, alias, modality, sources, known, dim, blocks, old))
    return TaskResult((Output(spec.shard_path(shard), *fact),))


def deviation(root: Path, *, corpus: str, photos: str, spec: str, reference: str, modality: Modality) -> TaskResult:
    """Compare a reduced precision with float32: cosines between rows of a sample, as facts of the receipt."""
    low, full = (sampled_rows(root / corpus, Path(photos), item, modality) for item in (spec, reference))
    return TaskResult((), moved(low, full))


def sampled_rows(corpus: Path, photos: Path, spec: str, modality: Modality) -> Float32:
    """Rows that a teacher gives to the first 256 distinct texts, or to the first batch of photographs."""
    teacher = worker.teacher(spec)
    if modality == "text":
        rows: Float32 = teacher.encode_texts(tables.distinct_texts(corpus)[:256])
        return rows
    files = [file for file in tables.image_files(corpus) if file is not None][: teacher.image_batch]
    return np.concatenate([batch.rows for batch in _encoded_batches(teacher, photos, files)])


def moved(low: Float32, full: Float32) -> dict[str, float]:
    """How far rows of a reduced precision are from those of float32: cosines, and changes of their similarities."""
    a, b = (rows.astype(np.float64) for rows in (low, full))
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    cosines = (a * b).sum(1)
    return {
        "sample": len(a),
        "smallest_cosine": round(float(cosines.min()), 6),
        "mean_cosine": round(float(cosines.mean()), 6),
        "largest_similarity_change": round(float(np.abs(a @ a.T - b @ b.T).max()), 6),
    }


@dataclass(frozen=True)
class _Batch:
    """Rows of one forward pass; `notes` are (digest of the file, failure or "") of every image."""

    rows: Float32
    notes: list[tuple[bytes, str]]


def _encoded_batches(teacher: ImageTeacher, photos: Path, files: Sequence[str | None]) -> Iterator[_Batch]:
    """Batches in order. Several threads each read, decode and encode a batch, so decoding overlaps with the model.

    On a CPU every forward pass has one thread: the bits of a convolution can depend on the number of threads that share
    it, and must not depend on how many this worker has.

    Where the memory of this worker is small, the first batch of a teacher is encoded alone and measured, to decide how
    many are encoded at once.
    """
    size = teacher.image_batch
    starts = iter(range(0, len(files), size))
    ahead: deque[Future[_Batch]] = deque()
    threads = worker.settings().threads
    with worker.one_thread_a_pass() as turn, ThreadPoolExecutor(threads, thread_name_prefix="labelgen-embed") as pool:
        try:
            if worker.needs_measuring(teacher, "image"):
                first = files[: next(starts, 0) + size]
                with worker.measuring(teacher, "image"):
                    encoded = pool.submit(_encode_batch, teacher, photos, first, turn).result()
                yield encoded
            at_once = worker.batches_at_once(teacher, "image")
            for start in starts:
                ahead.append(pool.submit(_encode_batch, teacher, photos, files[start : start + size], turn))
                if len(ahead) > at_once - (at_once < threads):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encode_batch(
    teacher: ImageTeacher, photos: Path, files: Sequence[str | None], turn: AbstractContextManager[Any]
) -> _Batch:
    prepared = [_prepare(teacher, photos, file) for file in files]
    with turn, foreign(f"a teacher fails on a batch of images from {files[0]!r}"):
        rows = teacher.encode_images([image for image, _, _ in prepared])
    return _Batch(rows, [(content, failure) for _, content, failure in prepared])


def _prepare(teacher: ImageTeacher, photos: Path, file: str | None) -> tuple[Any, bytes, str]:
    if file is None:
        return teacher.prepare_image(black_photo()), b"", "missing"
    try:
        data = read_photo(photos, file)
        prepared = with_photo(data, teacher.prepare_image, least_side_of(teacher))
        return prepared, hashlib.blake2b(data, digest_size=16).digest(), ""
    except Exception as error:  # a photograph may raise anything; errors of the teacher itself are raised here
        return teacher.prepare_image(black_photo()), b"", photo_error(error).reason


def _gathered(
    root: Path,
    alias: str,
    modality: Modality,
    sources: Int64,
    known: Int64,
    dim: int,
    blocks: BlockRanges,
    old: MappedArray | None,
) -> Iterator[Float16]:
    """Rows in pieces of bounded size: `known` ones of the old array, else `sources` of the parts; -1 is none."""
    piece_rows = max(1, _SHARD_PIECE_BYTES // (2 * dim))
    for start in range(0, len(sources), piece_rows):
        needed, copied = sources[start : start + piece_rows], known[start : start + piece_rows]
        piece = np.zeros((len(needed), dim), np.float16)
        if old is not None:
            piece[copied >= 0] = old.take(copied[copied >= 0])
        made = np.flatnonzero((needed >= 0) & (copied < 0))
        numbers, places = blocks.places(needed[made]) if made.size else (made, made)
        for number in np.unique(numbers):
            part = read_part(root, part_path(alias, modality, int(number)))
            here = numbers == number
            piece[made[here]] = part[places[here]]
        yield piece
