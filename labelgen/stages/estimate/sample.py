"""Seconds of the tasks that make rows, found by running them on pieces of the data set.

A piece is what a build does with the same rows: reading, tokenising or decoding, encoding, writing a part. Pieces are
spread over the data set, whose texts and photographs may differ in length and size from one end to the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.corpus.frames import Corpus
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.photo_identity import photo_identity
from labelgen.stages.plan.build_plan import EmbeddingPlan
from labelgen.stages.running import worker
from labelgen.stages.running.task import Task, TaskResult
from labelgen.stages.work import embed

_WORK: Mapping[str, Callable[..., TaskResult]] = {
    "embed.texts": embed.embed_texts,
    "embed.images": embed.embed_images,
    "embed.keyed": embed.embed_keyed,
}
#: Seconds that the pieces of one array may take together, and into how many the time is divided: a row of a
#: short piece costs more than one of a whole task, whose batches have less padding and whose threads wait less.
_SECONDS, _PIECES = 4.0, 2
#: Rows of the first piece, which warms up, and of other pieces.
_FIRST, _MOST = 32, 4096
_PHOTOS = 256


def embedding_seconds(root: Path, plan: EmbeddingPlan) -> float:
    """Seconds of all tasks of an array in this process.

    Args:
        root: a folder with the tables of the corpus, where parts are written.
    """
    tasks, teacher = plan.part_tasks(), worker.teacher(plan.teacher.spec)
    unit = teacher.image_batch * worker.settings().threads if tasks[0].work == "embed.images" else _FIRST
    middle = tasks[len(tasks) // 2]
    _run(root, middle, 0, unit)
    per_row = _run(root, middle, unit, unit)
    whole = _SECONDS / _PIECES / max(per_row, 1e-9)
    rows = unit * int(np.clip(whole // unit, 1, max(1, _MOST // unit)))
    pieces = [_run(root, tasks[place], offset, rows) for place, offset in _spread(tasks, rows)]
    return plan.units * float(np.mean(pieces))


def photo_seconds(corpus: Corpus) -> tuple[float, float]:
    """Seconds to read the headers of all photographs, and to hash all of them."""
    count = len(corpus.images)
    start = max(0, count - _PHOTOS) // 2
    rows = range(start, min(count, start + _PHOTOS))
    begun = time.perf_counter()
    ingest.probe(corpus, lambda _count: None, rows)
    probed = time.perf_counter()
    photo_identity(corpus, rows)
    share = count / max(1, len(rows))
    return share * (probed - begun), share * (time.perf_counter() - probed)


def _run(root: Path, task: Task, offset: int, rows: int) -> float:
    """Seconds a row of a piece of a task that begins `offset` rows after it, or earlier where it is too short."""
    start, stop = task.arguments["start"], task.arguments["stop"]
    first = max(start, min(start + offset, stop - rows))
    last = min(stop, first + rows)
    arguments: dict[str, Any] = {**task.arguments, "start": first, "stop": last, "block": 0}
    count: int = last - first
    begun = time.perf_counter()
    _WORK[task.work](root, **task.places, **arguments)
    return (time.perf_counter() - begun) / count


def _spread(tasks: list[Task], rows: int) -> list[tuple[int, int]]:
    """(task, offset) of the pieces, each in the middle of its share of the data set."""
    total = sum(task.rows for task in tasks)
    ends = np.cumsum([task.rows for task in tasks])
    count = int(np.clip(total // max(1, rows), 1, _PIECES))
    found = []
    for number in range(count):
        at = int((number + 0.5) / count * total) - rows // 2
        place = int(np.searchsorted(ends, max(0, at), side="right"))
        found.append((place, max(0, at - int(ends[place] - tasks[place].rows))))
    return found
