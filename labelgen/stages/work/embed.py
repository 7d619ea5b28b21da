"""Teacher and rows in, embedding shards out.

Texts: fixed blocks of the table of distinct texts are encoded, so equal texts get equal rows and the composition of a
batch never depends on what was done before. Images: fixed blocks of image rows; a photograph that fails is replaced by
a black one in its batch (so that its neighbours' rows stay the same) and gets a zero row. A shard is then gathered from
the parts of the blocks.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.store import layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.shards import write_shard
from labelgen.teachers.base import ImageTeacher, KeyedTeacher
from labelgen.teachers.checks import check_not_constant, check_rows, normalise
from labelgen.teachers.failures import foreign
from labelgen.teachers.probe import check_repeatable
from labelgen.teachers.trained import TrainedTeacher
from labelgen.types import Float16, Float32, Int64, Modality

_SHARD_PIECE_BYTES = 8 << 20


def describe(root: Path, *, spec: str, alias: str) -> TaskResult:
    """What a teacher says of itself, as the facts of a receipt that every build writes anew."""
    return TaskResult((), describe_teacher(spec, alias))


def describe_teacher(spec: str, alias: str) -> dict[str, Any]:
    """Load a teacher and ask it, so that changed weights under the same name are noticed.

    Raises:
        TeacherError: it cannot be loaded, or gives other rows when it encodes the same items again.
    """
    teacher = worker.teacher(spec)
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
        rows = teacher.encode_texts(texts)
    named = [repr(text[:60]) for text in texts]
    check_rows(rows, dim=teacher.dim, ids=named, what=f"teacher {spec}")
    check_not_constant(rows, what=f"teacher {spec}")
    return _write_part(root, alias, "text", block, normalise(rows), {})


def embed_images(
    root: Path, *, corpus: str, photos: str, spec: str, alias: str, start: int, stop: int, block: int
) -> TaskResult:
    """Encode the images [start, stop); decoding runs in threads ahead of the model."""
    teacher = worker.teacher(spec)
    files = tables.image_files(root / corpus)[start:stop]
    batches = list(_encoded_batches(teacher, Path(photos), files))
    notes = [note for batch in batches for note in batch.notes]
    contents = [content for content, _ in notes]
    bad = {position: failure for position, (_, failure) in enumerate(notes) if failure}
    rows = np.concatenate([batch.rows for batch in batches])
    alive = np.array([position not in bad for position in range(len(files))])
    names = [file or "" for file in files]
    check_rows(rows[alive], dim=teacher.dim, ids=_where(names, alive), what=f"teacher {spec}")
    distinct = _first_of_each([content if live else b"" for content, live in zip(contents, alive, strict=True)])
    check_not_constant(rows[distinct], what=f"teacher {spec}")
    unit = np.zeros(rows.shape, np.float16)
    unit[alive] = normalise(rows[alive])
    failed = {str(start + position): reason for position, reason in sorted(bad.items())}
    known = {str(start + position) for position, file in enumerate(files) if file is None}
    facts = {"quarantined": {row: reason for row, reason in failed.items() if row not in known}}
    return _write_part(root, alias, "image", block, unit, facts)


def embed_keyed(
    root: Path, *, corpus: str, modality: Modality, spec: str, alias: str, start: int, stop: int, block: int
) -> TaskResult:
    """Look up the features of the corpus rows [start, stop); rows without features stay zero."""
    teacher = worker.teacher(spec)
    ids = tables.ids(root / corpus, modality)[start:stop]
    rows, missing = teacher.lookup(modality, ids, range(start, stop))
    alive = np.ones(len(ids), bool)
    alive[list(missing)] = False
    check_rows(rows[alive], dim=teacher.dim, ids=_where(ids, alive), what=f"teacher {spec}")
    check_not_constant(rows[alive], what=f"teacher {spec}")
    unit = np.zeros(rows.shape, np.float16)
    unit[alive] = normalise(rows[alive])
    return _write_part(
        root, alias, modality, block, unit, {"quarantined": {str(start + row): "no_features" for row in missing}}
    )


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
        firsts: see `BlockRanges`; what comes before the first of them is not in the parts.
        generation: of the array that is written.
        kept: rows that the array of the generation before has already: they, and texts that they hold, are copied.
    """
    spec = layout.embedding_spec(alias, modality, rows, dim, generation)
    start, stop = spec.shard_range(shard)
    own = np.arange(start, stop, dtype=np.int64)
    sources = tables.text_rows(root / corpus)[start:stop] if by_text else own
    known = np.where(own < kept, own, -1)
    if kept and by_text:
        again = (own >= kept) & (sources >= 0) & (sources < (firsts or [rows])[0])
        known[again] = tables.first_captions(root / corpus)[sources[again]]
    old = MappedArray(root, layout.embedding_spec(alias, modality, kept, dim, generation - 1)) if kept else None
    blocks = BlockRanges(block, tuple(firsts), rows)
    fact = write_shard(root, spec, shard, _gathered(root, alias, modality, sources, known, dim, blocks, old))
    return TaskResult((Output(spec.shard_path(shard), *fact),))


def deviation(root: Path, *, corpus: str, photos: str, spec: str, reference: str, modality: Modality) -> TaskResult:
    """How far a reduced precision moves the rows: cosines between both on a sample, as facts of the receipt."""
    low, full = worker.teacher(spec), worker.teacher(reference)
    if modality == "text":
        sample = tables.distinct_texts(root / corpus)[:256]
        a, b = low.encode_texts(sample), full.encode_texts(sample)
    else:
        files = [file for file in tables.image_files(root / corpus) if file is not None][: low.image_batch]
        a, b = (
            np.concatenate([batch.rows for batch in _encoded_batches(it, Path(photos), files)]) for it in (low, full)
        )
    a, b = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (a, b))
    cosines = (a * b).sum(1)
    moved = np.abs(a @ a.T - b @ b.T)
    facts = {
        "sample": len(a),
        "smallest_cosine": round(float(cosines.min()), 6),
        "mean_cosine": round(float(cosines.mean()), 6),
        "largest_similarity_change": round(float(moved.max()), 6),
    }
    return TaskResult((), facts)


@dataclass(frozen=True)
class _Batch:
    """Rows of one forward pass; `notes` are (digest of the file, failure or "") of every image."""

    rows: Float32
    notes: list[tuple[bytes, str]]


def _encoded_batches(teacher: ImageTeacher, photos: Path, files: Sequence[str | None]) -> Iterator[_Batch]:
    """Batches in order, a few at work at once: one thread reads, decodes and encodes a batch, so that decoding overlaps
    with the model.

    On a CPU every forward pass has one thread. The bits of a convolution can depend on the number of threads that
    share it; so they do not depend on how many this worker has, and the cores are busy with whole batches instead.

    Where the memory of this worker is small, the first batch of a teacher is encoded alone and measured: what it took
    says how many are encoded at once.
    """
    size = teacher.image_batch
    starts = iter(range(0, len(files), size))
    ahead: deque[Future[_Batch]] = deque()
    threads = worker.settings().threads
    with worker.one_thread_a_pass() as turn, ThreadPoolExecutor(threads, thread_name_prefix="labelgen-embed") as pool:
        try:
            if worker.needs_measuring(teacher):
                first = files[: next(starts, 0) + size]
                with worker.measuring(teacher):
                    encoded = pool.submit(_encode_batch, teacher, photos, first, turn).result()
                yield encoded
            at_once = worker.batches_at_once(teacher)
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
        prepared = with_photo(data, teacher.prepare_image)
        return prepared, hashlib.blake2b(data, digest_size=16).digest(), ""
    except Exception as error:  # a photograph may raise anything; what a teacher raises for every one, it raises here
        return teacher.prepare_image(black_photo()), b"", photo_error(error).reason


def _where(names: Sequence[str], keep: np.ndarray[Any, np.dtype[np.bool_]]) -> list[str]:
    return [name for name, kept in zip(names, keep, strict=True) if kept]


def _first_of_each(contents: Iterable[bytes]) -> list[int]:
    """Positions of the first of each distinct content; failed ones (empty) are left out."""
    first: dict[bytes, int] = {}
    for position, content in enumerate(contents):
        if content:
            first.setdefault(content, position)
    return list(first.values())


def _write_part(
    root: Path, alias: str, modality: Modality, block: int, rows: Float16, facts: dict[str, Any]
) -> TaskResult:
    return TaskResult((write_part(root, part_path(alias, modality, block), rows),), facts)


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
        wanted, copied = sources[start : start + piece_rows], known[start : start + piece_rows]
        piece = np.zeros((len(wanted), dim), np.float16)
        if old is not None:
            piece[copied >= 0] = old.take(copied[copied >= 0])
        made = np.flatnonzero((wanted >= 0) & (copied < 0))
        numbers, places = blocks.places(wanted[made]) if made.size else (made, made)
        for number in np.unique(numbers):
            part = read_part(root, part_path(alias, modality, int(number)))
            here = numbers == number
            piece[made[here]] = part[places[here]]
        yield piece
