"""Runs builds in forked children of one process that has imported everything, so that a killed build costs little.

Reads one JSON line a job: {"kill": [when, pattern, count] or null, "out", "overrides", "call", "arguments"}, where
`call` is `build`, `add` or `append`. Writes {"signal", "digest", "error", "text", "notes"} for each. A child that is
killed leaves a line in the log of `labelgen.testing.killer`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def child(job: dict[str, Any], answer: int) -> None:
    """One build; what came of it is written to the pipe `answer`."""
    from labelgen import pipeline
    from labelgen.errors import LabelgenError
    from labelgen.testing.killer import kill_at

    out = Path(job["out"])
    if job["kill"] is not None:
        when, pattern, count = job["kill"]
        kill_at(when, pattern, count, out.with_suffix(".log"), out)
    told: dict[str, Any] = {"digest": "", "error": "", "text": "", "notes": []}
    try:
        if job["call"] == "build":
            config = pipeline.resolve(dataset="table", overrides=job["overrides"])
            report = pipeline.build(config, out, **job["arguments"])
        else:
            report = getattr(pipeline, job["call"])(out, overrides=job["overrides"], **job["arguments"])
        told |= {"digest": report.content_digest, "notes": list(report.notes)}
    except LabelgenError as error:
        told |= {"error": type(error).__name__, "text": str(error)}
    except BaseException as error:  # the parent judges it
        told |= {"error": type(error).__name__, "text": traceback.format_exc()}
    os.write(answer, json.dumps(told).encode())


def run(job: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        child(job, writing)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {"signal": signal, **(json.loads(told) if told else {})}


#: What a build imports: forked children find it there.
_IMPORTED = (
    "polars", "pyarrow.parquet", "safetensors.numpy", "torch",
    "labelgen.corpus.adapters.table", "labelgen.pipeline", "labelgen.similarity.reference",
    "labelgen.stages.work.embed", "labelgen.stages.work.stats", "labelgen.teachers.precomputed.teacher",
    "labelgen.teachers.siamese.teacher",
)  # fmt: skip

if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    os.fsync = lambda _handle: None  # a killed process loses nothing that it has written
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
