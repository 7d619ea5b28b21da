"""Builds for forked children; see `forked.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forked import Moment


def build(call: str, out: Path, overrides: list[str], arguments: dict[str, Any], kill: Moment | None) -> dict[str, Any]:
    """`pipeline.build`, `add` or `append`, perhaps killed: the digest and notes, or name and text of an error."""
    from labelgen import pipeline
    from labelgen.errors import LabelgenError
    from labelgen.testing.killer import kill_at

    if kill is not None:
        when, pattern, count = kill
        kill_at(when, pattern, count, out.with_suffix(".log"), out)  # type: ignore[arg-type]
    try:
        if call == "build":
            report = pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), out, **arguments)
        else:
            report = getattr(pipeline, call)(out, overrides=overrides, **arguments)
    except LabelgenError as error:
        return {"digest": "", "error": type(error).__name__, "text": str(error), "notes": []}
    return {"digest": report.content_digest, "error": "", "text": "", "notes": list(report.notes)}
