"""The sealed corpus: tables with the quarantine of the embed stage, and the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.corpus.frames import group_count
from labelgen.corpus.ledger import Account, with_quarantine
from labelgen.stages.ingest.ingest import quarantined
from labelgen.stages.model.facts import CorpusPart
from labelgen.stages.plan.build_plan import EmbeddingPlan
from labelgen.stages.running.task import Receipt
from labelgen.store import layout
from labelgen.store.disk import atomic
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.parquet import read_frame, write_frame
from labelgen.store.disk.shards import write_array
from labelgen.store.index import build_index
from labelgen.store.manifest import Manifest

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class SealedCorpus:
    """The corpus folder of a store, its files, and its quarantine as (kind, row, id, reason).

    `groups` is as in `CorpusEntry`;
    `new` files are below `layout.SEALING` until `move_into_place`.
    """

    path: str
    files: Mapping[str, FileFact]
    by_reason: tuple[Mapping[str, Any], ...]
    quarantine: Sequence[tuple[str, int, str, str]]
    new: bool
    groups: int

    def tables(self, root: Path) -> Path:
        """The folder above the tables before they are moved."""
        return root / layout.SEALING if self.new else root

    def ledger(self, accounts: Sequence[Account], first: CorpusPart) -> tuple[Mapping[str, Any], ...]:
        """Accounts of the data set whose rows begin at `first` and end with the corpus, with the final quarantine."""
        starts = {"image": first.image, "caption": first.caption}
        rows = [entry for entry in self.quarantine if entry[1] >= starts[entry[0]]]
        return tuple(account.to_json() for account in with_quarantine(accounts, rows))


def seal_corpus(
    root: Path, source: Path, plans: Sequence[EmbeddingPlan], receipts: Mapping[str, Receipt], sealed: Manifest | None
) -> SealedCorpus:
    """Write the corpus folder with the quarantine of the embed stage; a folder that would not change is reused.

    Only files that are written here are sealed, whatever else the folder holds.
    """
    import polars as pl

    frames = {name: read_frame(source / name) for name in layout.TABLES}
    added = list(_found_by_embedding(frames, plans, receipts))
    if added:
        frames[layout.QUARANTINE] = pl.concat([frames[layout.QUARANTINE], *added]).unique(maintain_order=True)
        frames[layout.IMAGES] = _with_status(frames[layout.IMAGES], frames[layout.QUARANTINE])
    counted = Counter(frames[layout.QUARANTINE].select("stage", "reason").iter_rows())
    by_reason = tuple(
        {"stage": stage, "reason": reason, "count": count} for (stage, reason), count in sorted(counted.items())
    )
    path = previous = sealed.corpus.path if sealed else ""
    if not previous or any(not frames[name].equals(read_frame(root / previous / name)) for name in layout.TABLES):
        number = int(previous.partition(".")[2] or 1) + 1  # a sealed folder is never written into
        path = f"{layout.CORPUS}.{number}" if previous else layout.CORPUS
        files = _write_corpus(root / layout.SEALING, path, frames)
    else:
        files = {name: fact for name, fact in sealed.files.items() if name.startswith(f"{path}/")} if sealed else {}
    rows = frames[layout.QUARANTINE].select("kind", "row", "id", "reason").rows()
    return SealedCorpus(path, files, by_reason, rows, path != previous, group_count(frames[layout.IMAGES]))


def move_into_place(root: Path, corpus: SealedCorpus) -> None:
    """Move the new files of a corpus to their places in the store; repeated from the start after a kill."""
    for path in sorted(corpus.files) if corpus.new else ():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        atomic.move(root / layout.SEALING / path, root / path)


def _write_corpus(folder: Path, path: str, frames: Mapping[str, pl.DataFrame]) -> dict[str, FileFact]:
    """Write tables and index below a folder that is not the store's; returns the files by path."""
    images, captions = frames[layout.IMAGES], frames[layout.CAPTIONS]
    files = {f"{path}/{name}": write_frame(folder / path / name, frame) for name, frame in frames.items()}
    specs = layout.index_specs(path, len(images), len(captions))
    offsets = np.concatenate([[0], np.cumsum(images["n_captions"].to_numpy(), dtype=np.int64)]).astype(np.int64)
    arrays: dict[str, Any] = {"offsets": offsets, "caption_image": captions["image_row"].to_numpy()}
    arrays["image_hash"], arrays["image_row"] = build_index(images["image_id"].to_list())
    arrays["caption_hash"], arrays["caption_row"] = build_index(captions["caption_id"].to_list())
    for name, spec in specs.items():
        files |= write_array(folder, spec, arrays[name])
    return {name: fact for name, fact in files.items() if name != layout.ZARR_JSON}


def _found_by_embedding(
    frames: Mapping[str, pl.DataFrame], plans: Sequence[EmbeddingPlan], receipts: Mapping[str, Receipt]
) -> Iterable[pl.DataFrame]:
    """Quarantine rows from the receipts of the embed stage, in an order that does not depend on the recipe."""
    for plan in sorted(plans, key=lambda plan: (plan.alias, plan.modality)):
        bad: dict[int, str] = {}
        for task in plan.part_tasks():
            found = receipts[task.key].facts.get("quarantined", {}) if task.key in receipts else {}
            bad |= {int(row): reason for row, reason in found.items()}
        if bad and plan.modality == "image":
            yield quarantined(frames[layout.IMAGES], "image", bad, stage="embed", alias=plan.alias)
        elif bad:
            yield quarantined(frames[layout.CAPTIONS], "caption", bad, stage="embed", alias=plan.alias)


def _with_status(images: pl.DataFrame, quarantine: pl.DataFrame) -> pl.DataFrame:
    """Images with the reason as the status of damaged photographs; missing features are not damage."""
    import polars as pl

    damaged = quarantine.filter((pl.col("kind") == "image") & (pl.col("reason") != "no_features"))
    reasons = dict(zip(damaged["row"].to_list(), damaged["reason"].to_list(), strict=True))
    status = [reasons.get(row, old) for row, old in enumerate(images["status"].to_list())]
    return images.with_columns(pl.Series("status", status, dtype=pl.String))
