"""`benchmarks/card.py` and `benchmarks/audit_quality.py` compute the same figures of the same pairs."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.audit.card.labels import PairLabels
from labelgen.audit.card.measures import agreement_figures, draw_images
from labelgen.audit.checks.false_negatives import StoreScorer
from labelgen.relevance.base import BlockRequest
from labelgen.testing.stores import make_store
from labelgen.types import Relation

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_both_benchmarks_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    audit, shared, card = (importlib.import_module(name) for name in ("audit_quality", "flickr8k", "card"))
    assert audit.built is card.built is shared.built
    assert audit.unannotated is card.unannotated is shared.unannotated
    store = labelgen.open(make_store(tmp_path / "s", n_images=16))
    draw = np.random.default_rng(0)
    table = ["image_id,caption_id,rating,positive"]
    for image, caption in sorted({(int(draw.integers(16)), int(draw.integers(80))) for _ in range(300)}):
        rating = int(draw.integers(1, 6))
        table.append(f"img-{image},cap-{caption},{rating},{rating > 3}")
    (tmp_path / "mine.csv").write_text("\n".join(table))
    pairs = shared.unannotated(tmp_path, store, "mine.csv")
    assert not pairs.annotated.any()
    judge = StoreScorer(store)
    evidence, _ = judge.of(pairs.left, pairs.right)
    scores = PairLabels(store, pairs).values(BlockRequest(Relation.I2T, "text"))
    assert audit.maximum(judge.view, pairs.left, pairs.right) == pytest.approx(scores, abs=1e-6)
    for piece, how in (("caption_set_max", "max"), ("caption_set_top2", "top2"), ("sets", "sets")):
        centred = PairLabels(store, pairs).values(BlockRequest(Relation.I2T, "text", how, centred=True))
        assert evidence[piece] == pytest.approx(centred, abs=2e-3), "rows of the card are rounded to float16"
    counts = draw_images(pairs.n_groups, shared.REPLICATES)
    figures = agreement_figures(scores, pairs.ratings, pairs.groups, counts, right=pairs.positive)
    drawn = list(audit.resamples(pairs.left))
    found = [audit.measures(pairs.positive[rows], scores[rows]) for rows in (np.arange(len(pairs)), *drawn)]
    for place, name in enumerate(("auc", "average_precision")):
        low, high = audit.spread(found, place)
        assert (found[0][place], low, high) == pytest.approx(
            (figures[name].value, figures[name].low, figures[name].high)
        )
    baseline = shared.TfIdf(store).scores(pairs.left, pairs.right)
    assert baseline.shape == (len(pairs),)
    assert 0 <= baseline.min() <= baseline.max() <= 1 + 1e-9
