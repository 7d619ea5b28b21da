"""Runs one task: looks up its function by name, and writes its receipt last."""

from __future__ import annotations

import time
from pathlib import Path
from pkgutil import resolve_name

from labelgen.stages.running import worker
from labelgen.stages.running.memory import PeakMeter, release_freed
from labelgen.stages.running.task import Receipt, Task, find_receipt, receipt_path
from labelgen.store.disk.atomic import write_atomic

#: Functions by their names in tasks. Names are part of fingerprints and must not change; files may move.
WORK = {
    "describe.teacher": "labelgen.stages.work.embed:describe",
    "embed.texts": "labelgen.stages.work.embed:embed_texts",
    "embed.images": "labelgen.stages.work.embed:embed_images",
    "embed.keyed": "labelgen.stages.work.embed:embed_keyed",
    "embed.trained": "labelgen.stages.work.train:embed_trained",
    "train.network": "labelgen.stages.work.train:train",
    "search.strip": "labelgen.stages.work.search:search_strip",
    "assemble.embedding": "labelgen.stages.work.embed:assemble_embedding",
    "assemble.neighbors": "labelgen.stages.work.search:assemble_neighbors",
    "measure.precision": "labelgen.stages.work.embed:deviation",
    "measure.similarities": "labelgen.stages.work.stats:measure",
    "approximate.index": "labelgen.stages.work.approximate:make_index",
    "approximate.search": "labelgen.stages.work.approximate:search_lists",
    "approximate.recall": "labelgen.stages.work.approximate:measure_recall",
}


def run_task(root: Path, task: Task) -> Receipt:
    """Run a task and write its receipt, or return the one it has."""
    done = find_receipt(root, task)
    if done is not None:
        return done
    started = time.perf_counter()
    with PeakMeter() as meter:
        result = resolve_name(WORK[task.work])(root, **task.arguments, **task.places)
    release_freed(worker.settings().memory // 2)
    receipt = Receipt(
        task=task.key,
        fingerprint=task.fingerprint,
        rows=task.rows,
        outputs=result.outputs,
        seconds=round(time.perf_counter() - started, 4),
        peak_bytes=meter.peak_bytes,
        facts=dict(result.facts),
    )
    write_atomic(root / receipt_path(task.key), receipt.to_bytes())
    return receipt
