"""Tasks of a trained teacher (`siamese`): its network as a file of the store, then its rows.

It runs after the embed stage of its source and before the search. Training is one task that saves its progress every
few seconds; if it is killed, it resumes and gives the same bits. Rows are computed in fixed blocks with one thread: of
distinct texts if the source encodes texts, else of caption rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelgen import registry
from labelgen.errors import ConfigError, requires
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
from labelgen.teachers.base import info_of
from labelgen.teachers.trained import Arrays, Captions, TrainedTeacher
from labelgen.types import Bool, Float16, Int64

_DIGEST_BYTES = 32


def check_sources(teachers: Mapping[str, Spec]) -> None:
    """Refuse trained teachers whose source is not among the teachers, before anything is read.

    Raises:
        UnknownNameError: no teacher has the alias; offers near ones.
        ConfigError: the source is itself trained.
    """
    infos = {alias: info_of(registry.load("teacher", spec.name)) for alias, spec in teachers.items()}
    trained = {alias for alias, info in infos.items() if info is not None and info.trained}
    for alias in sorted(trained):
        source = registry.create("teacher", teachers[alias], device="cpu").of
        frozen = [name for name in teachers if name not in trained]
        if source not in teachers:
            raise registry.unknown(f"teacher for {alias!r} to be trained on, with the alias", source, frozen)
        if source in trained:
            raise ConfigError(
                f"teacher {alias!r} is to be trained on the rows of {source!r}, which is itself trained in the build",
                expected=f"of= one of {', '.join(frozen)}" if frozen else "another teacher, which is not trained",
            )


def train(root: Path, *, corpus: str, spec: str, alias: str, source: Mapping[str, Any], inputs: str) -> TaskResult:
    """Train and write the network; the report is the facts of the receipt."""
    teacher: TrainedTeacher = worker.teacher(spec)
    rows = MappedArray(root, ArraySpec.from_json(source))
    saved = _SavedFile(root / layout.PARTS / "train" / f"{alias}-{inputs[:8]}.safetensors")
    training = teacher.train(rows, captions_of(root / corpus), saved)
    path = layout.model_path(alias)
    fact = write_atomic(root / path, _packed(training.arrays))
    return TaskResult((Output(path, *fact),), dict(training.report))


def embed_trained(
    root: Path, *, corpus: str, spec: str, alias: str, source: Mapping[str, Any], by_text: bool, **block: int
) -> TaskResult:
    """Rows [start, stop) of a trained teacher as one part; `by_text`: of distinct texts, else of captions."""
    start, stop = block["start"], block["stop"]
    folder, rows = root / corpus, MappedArray(root, ArraySpec.from_json(source))
    places = tables.first_captions(folder)[start:stop] if by_text else np.arange(start, stop)
    taken = rows.take(places)
    unit = _refined(worker.teacher(spec), taken, read_network(root / layout.model_path(alias)), spec)
    lost = np.flatnonzero(~taken.any(axis=1) & (tables.text_rows(folder)[places] >= 0))
    facts = {"quarantined": {str(start + place): "no_features" for place in lost.tolist()}}
    return TaskResult((write_part(root, part_path(alias, "text", block["block"]), unit),), facts)


def rows_again(root: Path, manifest: Manifest, entry: EmbeddingEntry, rows: Int64) -> Float16:
    """Rows of a trained teacher made again by its stored network from the stored rows of its source."""
    source = str(manifest.teachers[entry.alias].identity["of"])
    sources = {item.alias: item.array for item in manifest.embeddings if item.modality == "text"}
    return refined_again(root, manifest, entry.alias, MappedArray(root, sources[source]).take(rows))


def refined_again(root: Path, manifest: Manifest, alias: str, taken: Float16) -> Float16:
    """Rows that the stored network of a trained teacher makes of rows of its source."""
    spec = manifest.teachers[alias].spec
    teacher: TrainedTeacher = registry.create("teacher", Spec.parse(spec), device="cpu")
    return _refined(teacher, taken, read_network(root / layout.model_path(alias)), spec)


def read_network(path: Path) -> Arrays:
    """The arrays of a file that `train` wrote."""
    from safetensors.numpy import load_file

    arrays: Arrays = load_file(path)
    return arrays


def captions_of(folder: Path) -> Captions:
    """The facts of a corpus that a training uses."""
    images = np.repeat(np.arange(len(tables.offsets(folder)) - 1), np.diff(tables.offsets(folder)))
    return Captions(images, tables.text_rows(folder), tables.categories(folder), tables.splits(folder))


def _refined(teacher: TrainedTeacher, taken: Float16, arrays: Arrays, spec: str) -> Float16:
    with _one_blas_thread():
        made = teacher.refine(taken, arrays)
    alive: Bool = np.asarray(taken.any(axis=1))
    return checked_units(made, alive, [str(row) for row in range(len(made))], spec, teacher.dim)


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
