"""Figures of a card against the published formulas in plain loops, and against scipy and scikit-learn, to 1e-9."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.audit.card.card import agreement_card
from labelgen.audit.card.labels import PairLabels
from labelgen.audit.card.pairs import resolve
from labelgen.audit.judgements.judgements import Judgements, graded_frame
from labelgen.relevance.base import BlockRequest
from labelgen.testing.stores import make_store
from labelgen.types import Relation


def midranks(values: list[float]) -> list[float]:
    """1 for the smallest; equal values share their mean rank."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(x: list[float], y: list[float]) -> float:
    a, b = midranks(x), midranks(y)
    middle = (len(x) + 1) / 2
    product = sum((p - middle) * (q - middle) for p, q in zip(a, b, strict=True))
    return product / math.sqrt(sum((p - middle) ** 2 for p in a) * sum((q - middle) ** 2 for q in b))


def kendall_b(x: list[float], y: list[float]) -> float:
    lead = untied_x = untied_y = 0
    for i in range(len(x)):
        for j in range(i):
            one, two = (x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])
            lead, untied_x, untied_y = lead + one * two, untied_x + one * one, untied_y + two * two
    return lead / math.sqrt(untied_x * untied_y)


def auc(x: list[float], right: list[bool]) -> float:
    wins = pairs = 0.0
    for i, good in enumerate(right):
        for j, other in enumerate(right):
            if good and not other:
                wins, pairs = wins + (x[i] > x[j]) + (x[i] == x[j]) / 2, pairs + 1
    return wins / pairs


def average_precision(x: list[float], right: list[bool]) -> float:
    """Sum of (R_n - R_(n-1)) P_n over the thresholds n."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(x), reverse=True):
        above = [good for value, good in zip(x, right, strict=True) if value >= threshold]
        reached = sum(above) / sum(right)
        total, recall = total + (reached - recall) * sum(above) / len(above), reached
    return total


def retrieval(scores: list[float], right: set[int], excluded: set[int]) -> tuple[float, float, float]:
    """AP@R, R-Precision and R@1 (Musgrave et al. 2020; Chun et al. 2022)."""
    order = sorted((n for n in range(len(scores)) if n not in excluded), key=lambda n: (-scores[n], n))
    wanted = right - excluded
    found, precision = 0, 0.0
    for place, item in enumerate(order[: len(wanted)], 1):
        if item in wanted:
            found += 1
            precision += found / place
    return precision / len(wanted), found / len(wanted), float(order[0] in wanted)


@pytest.mark.parametrize("levels", [2, 5, 300])
def test_graded_figures(tmp_path: Path, levels: int) -> None:
    stats, metrics = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    store = labelgen.open(make_store(tmp_path / "s", n_images=14, lists=False, dims={"text": 6, "clip": 5}))
    draw = np.random.default_rng(levels)
    images, captions = draw.integers(0, 14, 150), draw.integers(0, 70, 150)
    captions[:30] = images[:30] * 5 + draw.integers(0, 5, 30)
    grades = draw.integers(0, levels, 150).astype(float)
    frame = graded_frame(store.image_ids(images), store.caption_ids(captions), grades.tolist())
    judged = Judgements("g", "g", Relation.I2T, ("image", "caption"), "graded", frame, levels / 2, "")
    pairs = resolve(store, judged)
    rows = [row for row in agreement_card(store, judged, replicates=2).rows if row.kind != "fusion"]
    assert len(rows) == 12  # six labels on two subsets
    for row in rows:
        relation, alias, *how = row.label.split(".")
        need = BlockRequest(Relation(relation), alias, how[0] if how else "max")
        chosen = np.ones(len(pairs), bool) if row.subset == "all" else ~pairs.annotated
        x, y = PairLabels(store, pairs).values(need)[chosen].tolist(), pairs.ratings[chosen].tolist()
        right = [rating >= levels / 2 for rating in y]
        loops = {
            "spearman": spearman(x, y),
            "kendall": kendall_b(x, y),
            "auc": auc(x, right),
            "average_precision": average_precision(x, right),
        }
        theirs = {
            "spearman": stats.spearmanr(x, y).statistic,
            "kendall": stats.kendalltau(x, y).statistic,
            "auc": metrics.roc_auc_score(right, x),
            "average_precision": metrics.average_precision_score(right, x),
        }
        ours = {name: figure.value for name, figure in row.figures.items()}
        assert ours == pytest.approx(loops, abs=1e-9), row.label
        assert ours == pytest.approx(theirs, abs=1e-9), row.label


@pytest.mark.parametrize("relation", [Relation.I2T, Relation.T2I])
def test_retrieval_figures(tmp_path: Path, relation: Relation) -> None:
    """Every query ranks the 50 captions (or 10 images) of its split by the label of every pair."""
    store = labelgen.open(make_store(tmp_path / "s", n_images=13, lists=False, dims={"text": 6, "clip": 5}))
    forward = relation is Relation.I2T
    n_images = len(store.splits["train"])
    images, captions = range(n_images), range(5 * n_images)
    queries, pool = (images, captions) if forward else (captions, images)
    draw = np.random.default_rng(2)
    right = {query: set(draw.choice(len(pool), 4, replace=False).tolist()) for query in queries}
    for query in list(queries)[::2]:
        right[query].add(5 * query if forward else query // 5)
    names = (store.image_ids, store.caption_ids) if forward else (store.caption_ids, store.image_ids)
    frame = graded_frame(
        names[0]([query for query in queries for _ in right[query]]),
        names[1]([item for query in queries for item in sorted(right[query])]),
        [1.0] * sum(map(len, right.values())),
    )
    kinds = ("image", "caption") if forward else ("caption", "image")
    judged = Judgements("p", "p", relation, kinds, "positives", frame, 1.0, "p")  # type: ignore[arg-type]
    every = graded_frame(
        [name for name in store.image_ids(images) for _ in captions],
        store.caption_ids(captions) * n_images,
        [1.0] * (n_images * 5 * n_images),
    )
    pairs = resolve(store, Judgements("a", "a", Relation.I2T, ("image", "caption"), "graded", every, None, "a"))
    for row in agreement_card(store, judged, replicates=2).rows:
        if row.kind == "fusion":
            continue
        label, alias, *how = row.label.split(".")
        need = BlockRequest(Relation(label), alias, how[0] if how else "max")
        block = PairLabels(store, pairs).values(need).reshape(n_images, -1)
        scores = block if forward else block.T
        found = []
        for query in queries:
            own = set(range(5 * query, 5 * query + 5)) if forward else {query // 5}
            excluded = own if row.subset == "without annotated" else set()
            if right[query] - excluded:
                found.append(retrieval(scores[query].tolist(), right[query], excluded))
        assert row.pairs == len(found)
        ours = [row.figures[name].value for name in ("map_at_r", "r_precision", "r_at_1")]
        assert ours == pytest.approx(np.mean(found, axis=0).tolist(), abs=1e-9), (row.label, row.subset)
