"""Tasks of a trained teacher (`siamese`, `bridge`): its network as a file of the store, then its rows.

It runs after the embed stage of its sources and before the search. Training is one task, which may save its progress;
if it is killed, it resumes and gives the same bits. Rows are computed in fixed blocks with one thread: of distinct
texts if all sources encode texts, else of the rows of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelgen import registry
from labelgen.errors import requires
from labelgen.fingerprint import digest
from labelgen.specs import Spec
from labelgen.stages.model import tables
from labelgen.stages.model.part_files import part_path, write_part
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.stages.work.embed import checked_units
from labelgen.store import layout
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.layout import ArraySpec
from labelgen.store.manifest import EmbeddingEntry, Manifest
from labelgen.teachers.trained import Arrays, Captions, Derivation, Shape, Source, TrainedTeacher, caption_means
from labelgen.types import Bool, Float16, Int64, Modality

_DIGEST_BYTES = 32


def train(
    root: Path, *, corpus: str, spec: str, alias: str, sources: list[list[Any]], network: str, inputs: str
) -> TaskResult:
    """Train and write the network, if there is one to keep; the report is the facts of the receipt."""
    teacher: TrainedTeacher = worker.teacher(spec)
    saved = _SavedFile(root / layout.PARTS / "train" / f"{alias}-{inputs[:8]}.safetensors")
    with _one_blas_thread():
        training = teacher.train(_mapped(root, sources), captions_of(root / corpus), saved)
    outputs = (Output(network, *write_atomic(root / network, _packed(training.arrays))),) if network else ()
    return TaskResult(outputs, dict(training.report))


def embed_trained(
    root: Path,
    *,
    corpus: str,
    spec: str,
    alias: str,
    modality: Modality,
    dim: int,
    sources: list[list[Any]],
    network: str,
    by_text: bool,
    **block: int,
) -> TaskResult:
    """Rows [start, stop) of a trained teacher as one part; `by_text`: of distinct texts, else of the corpus."""
    start, stop = block["start"], block["stop"]
    folder = root / corpus
    places = tables.first_captions(folder)[start:stop] if by_text else np.arange(start, stop)
    taken = _taken(folder, modality, _mapped(root, sources), places)
    arrays = read_network(root / network) if network else {}
    unit = _refined(worker.teacher(spec), modality, taken, arrays, spec, dim, places)
    missing = ~unit.any(axis=1)
    if modality == "text":
        missing &= tables.text_rows(folder)[places] >= 0
    facts = {"quarantined": {str(start + place): "no_features" for place in np.flatnonzero(missing).tolist()}}
    return TaskResult((write_part(root, part_path(alias, modality, block["block"]), unit),), facts)


def rows_again(root: Path, manifest: Manifest, entry: EmbeddingEntry, rows: Int64) -> Float16:
    """Rows of a trained teacher made again by its stored network from the stored rows of its sources."""
    arrays = {Source(item.alias, item.modality): item.array for item in manifest.embeddings}
    needed = derivation_of(manifest, entry.alias).rows[entry.modality]
    mapped = {source: MappedArray(root, arrays[source]) for source in needed}
    taken = _taken(root / manifest.corpus.path, entry.modality, mapped, rows)
    return refined_again(root, manifest, entry.alias, entry.modality, taken, rows)


def refined_again(
    root: Path,
    manifest: Manifest,
    alias: str,
    modality: Modality,
    taken: Mapping[Source, Float16],
    numbers: Int64 | None = None,
) -> Float16:
    """Rows that the stored network of a trained teacher makes of rows of its sources; `numbers`: see `refine`."""
    entry, file = manifest.teachers[alias], derivation_of(manifest, alias).file
    teacher: TrainedTeacher = registry.create("teacher", Spec.parse(entry.spec), device="cpu")
    arrays = read_network(root / layout.model_path(alias, file)) if file else {}
    return _refined(teacher, modality, taken, arrays, entry.spec, entry.dim, numbers)


def derivation_of(manifest: Manifest, alias: str) -> Derivation:
    """What a trained teacher of a store is made of."""
    teacher: TrainedTeacher = registry.create("teacher", Spec.parse(manifest.teachers[alias].spec), device="cpu")
    return teacher.derive(
        {name: Shape(frozenset(entry.modalities), entry.dim) for name, entry in manifest.teachers.items()}
    )


def _taken(
    folder: Path, modality: Modality, rows: Mapping[Source, MappedArray], places: Int64
) -> dict[Source, Float16]:
    """The rows of all sources for the same items; for images, of a source of texts the mean rows of their captions."""
    return {
        source: array.take(places)
        if source.modality == modality
        else caption_means(array, captions_of(folder), places)[0].astype(np.float16)
        for source, array in rows.items()
    }


def _mapped(root: Path, sources: list[list[Any]]) -> dict[Source, MappedArray]:
    return {Source(alias, modality): MappedArray(root, ArraySpec.from_json(spec)) for alias, modality, spec in sources}


def read_network(path: Path) -> Arrays:
    """The arrays of a file that `train` wrote."""
    from safetensors.numpy import load_file

    arrays: Arrays = load_file(path)
    return arrays


def captions_of(folder: Path) -> Captions:
    """The facts of a corpus that a training uses."""
    images = np.repeat(np.arange(len(tables.offsets(folder)) - 1), np.diff(tables.offsets(folder)))
    facts = (images, tables.text_rows(folder), tables.categories(folder), tables.splits(folder))
    return Captions(*facts, image_ids=tables.ids(folder, "image"), groups=tables.groups(folder))


def _refined(
    teacher: TrainedTeacher,
    modality: Modality,
    taken: Mapping[Source, Float16],
    arrays: Arrays,
    spec: str,
    dim: int,
    numbers: Int64 | None,
) -> Float16:
    with _one_blas_thread():
        made = teacher.refine(modality, taken, arrays, numbers)
    alive: Bool = np.asarray(made.any(axis=1))
    return checked_units(made, alive, [str(row) for row in range(len(made))], spec, dim)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Use one thread for BLAS: the bits of a product can depend on how many threads share it."""
    with requires("threadpoolctl", "build", "a trained teacher"):
        from threadpoolctl import threadpool_limits
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@dataclass(frozen=True)
class _SavedFile:
    """Saved progress of a training; the name of the file holds the fingerprint, so no other one resumes it.

    The file is the BLAKE3 of the arrays (32 hexadecimal digits) and the arrays: a damaged one is ignored.
    """

    path: Path

    def load(self) -> Arrays | None:
        if not self.path.is_file():
            return None
        raw = self.path.read_bytes()
        found, packed = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if found != digest(packed).encode():
            return None
        from safetensors.numpy import load

        arrays: Arrays = load(packed)
        return arrays

    def save(self, arrays: Arrays) -> None:
        packed = _packed(arrays)
        write_atomic(self.path, digest(packed).encode() + packed)


def _packed(arrays: Arrays) -> bytes:
    """Safetensors of the arrays: equal arrays give equal bytes."""
    with requires("safetensors", "build", "a trained teacher"):
        from safetensors.numpy import save
    packed: bytes = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    return packed
