"""The note of a plan on bfloat16: how much faster it encodes on this machine, and how far it moves rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from labelgen import registry
from labelgen.errors import LabelgenError
from labelgen.progress import Event, Listener
from labelgen.specs import Spec
from labelgen.stages.estimate.calibrate import clocked
from labelgen.stages.plan.build_plan import EmbeddingPlan
from labelgen.stages.running import worker
from labelgen.stages.running.environment import has_bfloat16
from labelgen.stages.work.embed import moved, sampled_rows
from labelgen.store import layout


def precision_note(root: Path, plan: EmbeddingPlan, progress: Listener) -> str:
    """A sentence on a sample of the data set; empty where the teacher or the processor has no bfloat16.

    Args:
        root: a folder with the tables of the corpus.
    """
    spec = Spec.parse(plan.teacher.spec)
    chosen = spec.arguments.get("precision", "float32")
    possible = plan.teacher.kind == "content" and plan.units and registry.takes("teacher", spec.name, "precision")
    if not possible or (chosen == "float32" and worker.settings().device == "cpu" and not has_bfloat16()):
        return ""
    progress(Event("note", "plan", text=f"comparing precisions of teacher {plan.alias} ({plan.modality})"))
    other = "bfloat16" if chosen == "float32" else "float32"
    specs = {chosen: str(spec), other: str(Spec.of(spec.name, **{**spec.arguments, "precision": other}))}
    photos = Path(plan.corpus.parts[0].photos)
    seconds, rows = {}, {}
    try:
        for precision, text in specs.items():
            encode = partial(sampled_rows, root / layout.INGEST, photos, text, plan.modality)
            encode()  # warms up
            seconds[precision], rows[precision] = clocked(encode)
    except LabelgenError:  # a network that has no bfloat16: the plan is that of the precision that was chosen
        return ""
    found = moved(rows["bfloat16"], rows["float32"])
    items = "texts" if plan.modality == "text" else "photographs"
    gain = seconds["float32"] / seconds["bfloat16"]
    return (
        f"{plan.alias}: bfloat16 encodes {items} {gain:.1f} times as fast as float32; "
        f"cosines with float32 rows are at least {found['smallest_cosine']:.5f}, similarities move by up to "
        f"{found['largest_similarity_change']:.4f} (measured on {found['sample']} {items})"
    )
