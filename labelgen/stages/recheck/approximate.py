"""`verify --deep` of an approximate list: every entry must be right, and as many must be there as the manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from labelgen.similarity.ann.listing import score
from labelgen.similarity.ann.recall import Sampled, by_image, recalls, wilson
from labelgen.similarity.base import Engine, SearchPlan
from labelgen.similarity.groups import sides
from labelgen.similarity.rescoring import Candidates
from labelgen.similarity.sort_keys import PAD_KEY, encode, merge
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.manifest import NeighborEntry
from labelgen.store.verify.findings import ProblemList
from labelgen.types import PAD_ROW, Int64, UInt64


def check_again(
    root: Path, entry: NeighborEntry, plan: SearchPlan, images: Int64, engine: Engine, found: ProblemList
) -> None:
    """Score the lists of some images again (equal bits), and compare their recall with what the manifest says.

    Args:
        plan: of this list alone.
        engine: an exact one.
    """
    (want,) = plan.wants
    sampled = Sampled(plan, images)
    queries, owners = sampled.queries(want, images)
    arrays = {name: MappedArray(root, spec).take(queries) for name, spec in entry.arrays().items()}
    keys = np.where(arrays["ids"] == PAD_ROW, PAD_KEY, encode(arrays["scores"], arrays["ids"]))
    wrong = (_scored_again(plan, queries, arrays["ids"].astype(np.int64)) != keys).any(axis=1)
    for row in queries[wrong].tolist():
        found.add(f"{entry.path}/scores", "scores are not the similarities of the stored embeddings", (row, row + 1))
    means = by_image(recalls(keys, _exact(sampled, engine, len(queries)), want.k), owners)
    if not len(means):
        return
    mean, (_, high) = float(means.mean()), wilson(float(means.mean()), len(means))
    claimed = entry.facts.get("recall") or {}
    if high < claimed.get("low", 0.0):
        what = f"recall@{want.k} is {mean:.3f}, the manifest says at least {claimed['low']:.3f}"
        found.add(entry.path, what, None)
    found.notes.append(
        f"{entry.path}: approximate; {len(means)} images searched exactly, recall@{want.k} {mean:.3f}; equal scores"
    )


def _scored_again(plan: SearchPlan, queries: Int64, ids: Int64) -> UInt64:
    """Sorted keys [queries, k] of what is listed, scored from the embeddings."""
    (want,) = plan.wants
    listed = ids != PAD_ROW
    owner = np.nonzero(listed)[0]
    units = ids[listed]
    grouped = any(side.grouped for side in sides(plan, want.relation))
    nothing = np.empty(0, np.float32)
    members = np.full(len(units), -1) if grouped else units
    return score(plan, want, Candidates(queries, owner, units, members, nothing, nothing))[0][:, : want.k]


def _exact(sampled: Sampled, engine: Engine, count: int) -> UInt64:
    (want,) = sampled.plan.wants
    queries, _ = sampled.queries(want, sampled.images)
    found = np.full((count, want.k + 1), PAD_KEY)
    for first, last, span in sampled.strips():
        part = Sampled(sampled.plan, sampled.images[first:last])
        (keys,) = part.search(engine, 0, last - first, span)
        here = np.searchsorted(queries, part.queries(want, part.images)[0])
        found[here] = merge([found[here], keys], want.k + 1)
    return found
