"""The report of a build on the store that it made or found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labelgen.errors import visible
from labelgen.store.describe import list_text, recall_text
from labelgen.store.manifest import Manifest
from labelgen.units import count, duration, size


@dataclass(frozen=True)
class BuildReport:
    """Summary of a store after a build.

    Attributes:
        changed: False where the store was already sealed with this recipe.
        approximate: the measured recall of every approximate list.
        list_notes: what is special about a list: its recall, the kinds of captions that it is over.
        trained: the report of every teacher that the build trained.
        appended, skipped: images that an append added, and images that the store held already.
        ledger: accounts of everything that was read, of the appended data set where images were appended.
        removed: teachers and lists that a change dropped or replaced by longer ones.
    """

    path: Path
    content_digest: str
    changed: bool
    images: int
    captions: int
    texts: int
    splits: Mapping[str, int]
    teachers: Mapping[str, str]
    lists: Sequence[str]
    quarantined: Mapping[str, int]
    bytes: int
    seconds: float
    peak_bytes: int
    stages: Mapping[str, Mapping[str, Any]]
    approximate: Mapping[str, str] = field(default_factory=dict)
    list_notes: Mapping[str, str] = field(default_factory=dict)
    trained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    appended: int = 0
    skipped: int = 0
    ledger: Sequence[Mapping[str, Any]] = ()
    removed: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        """What was built, quarantined and noted, in a few lines."""
        state = "sealed" if self.changed else "was sealed already"
        lines = [
            f"{self.path}: {state}, {count(self.images)} images, {count(self.captions)} captions, "
            f"{count(self.texts)} texts, {size(self.bytes)}, {duration(self.seconds)}",
            *(f"  teacher {alias} = {spec}" for alias, spec in self.teachers.items()),
            f"  lists {', '.join(self.lists)}",
            *(f"  {count(number)} quarantined: {reason}" for reason, number in self.quarantined.items()),
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(visible(line) for line in lines)


def report_of(
    root: Path,
    manifest: Manifest,
    *,
    changed: bool,
    seconds: float = 0.0,
    notes: Sequence[str] = (),
    appended: int = 0,
    skipped: int = 0,
    removed: Sequence[str] = (),
) -> BuildReport:
    """The report of a store, sealed now or before."""
    corpus = manifest.corpus
    return BuildReport(
        path=root,
        content_digest=manifest.content_digest,
        changed=changed,
        images=corpus.n_images,
        captions=corpus.n_captions,
        texts=corpus.n_texts,
        splits={name: len(rows) for name, rows in corpus.splits.items()},
        teachers={alias: entry.spec for alias, entry in manifest.teachers.items()},
        lists=[entry.path for entry in manifest.neighbors],
        approximate={entry.path: recall_text(entry) for entry in manifest.neighbors if entry.approximate},
        list_notes={entry.path: text for entry in manifest.neighbors if (text := list_text(entry))},
        quarantined={f"{row['stage']}: {row['reason']}": row["count"] for row in manifest.quarantine.by_reason},
        bytes=manifest.total_bytes,
        seconds=round(seconds, 3),
        peak_bytes=max((stage.get("peak_bytes", 0) for stage in manifest.stages.values()), default=0),
        stages=manifest.stages,
        trained={alias: entry.training for alias, entry in manifest.teachers.items() if entry.training},
        notes=[*notes, *_no_better(manifest)],
        appended=appended,
        skipped=skipped,
        ledger=corpus.parts[-1].ledger if appended else corpus.ledger,
        removed=removed,
    )


def _no_better(manifest: Manifest) -> list[str]:
    """A note on every trained teacher that is not better than its source on the held-out pairs."""
    held_out = {
        alias: entry.training["auc"]["held_out"]
        for alias, entry in manifest.teachers.items()
        if "auc" in entry.training
    }
    return [
        f"{alias} separates held-out pairs no better than {manifest.teachers[alias].identity['of']} "
        f"(AUC {auc['trained']:.4f} and {auc['frozen']:.4f})"
        for alias, auc in held_out.items()
        if auc["trained"] <= auc["frozen"]
    ]
