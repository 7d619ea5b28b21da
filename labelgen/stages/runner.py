"""Runs one task: its function by name, its receipt last."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path

from labelgen.stages.base import Receipt, Result, Task, find_receipt, receipt_path
from labelgen.stages.meter import PeakMeter
from labelgen.store.atomic import write_atomic

#: Names of the functions that tasks call. They are part of fingerprints: a file may move, a name stays.
WORK = {
    "describe.teacher": "labelgen.stages.embed:describe",
    "embed.texts": "labelgen.stages.embed:embed_texts",
    "embed.images": "labelgen.stages.embed:embed_images",
    "embed.keyed": "labelgen.stages.embed:embed_keyed",
    "embed.trained": "labelgen.stages.refine:embed_trained",
    "train.network": "labelgen.stages.refine:train",
    "search.strip": "labelgen.stages.search:search_strip",
    "assemble.embedding": "labelgen.stages.embed:assemble_embedding",
    "assemble.neighbors": "labelgen.stages.search:assemble_neighbors",
    "measure.precision": "labelgen.stages.embed:deviation",
    "measure.similarities": "labelgen.stages.stats:measure",
    "approximate.train": "labelgen.stages.approximate:train",
    "approximate.assign": "labelgen.stages.approximate:assign",
    "approximate.divide": "labelgen.stages.approximate:divide",
    "approximate.pack": "labelgen.stages.approximate:pack",
    "approximate.search_exactly": "labelgen.stages.approximate:search_exactly",
    "approximate.tune": "labelgen.stages.approximate:tune",
    "approximate.search_lists": "labelgen.stages.approximate:search_lists",
    "approximate.measure_recall": "labelgen.stages.approximate:measure_recall",
}


def run_task(root: Path, task: Task) -> Receipt:
    """Run a task and write its receipt, or return the one it has."""
    done = find_receipt(root, task)
    if done is not None:
        return done
    started = time.perf_counter()
    with PeakMeter() as meter:
        result = _function(task.work)(root, **task.arguments, **task.places)
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


def _function(name: str) -> Callable[..., Result]:
    module, _, attribute = WORK[name].partition(":")
    function: Callable[..., Result] = getattr(importlib.import_module(module), attribute)
    return function
