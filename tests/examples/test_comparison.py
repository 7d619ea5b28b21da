"""The comparison: ranks, measures and draws by hand, and the three commands on the demo store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen

torch = pytest.importorskip("torch")


def test_ranks_by_hand() -> None:
    """Two images with two and one captions, in a plane."""
    from comparison.outcome import ranks_of

    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
    found = ranks_of(images, texts, np.array([0, 0, 1]))
    assert found["i2t"].tolist() == [1, 2]  # .8 leads the first row; the second has 1 (foreign) before .8
    assert found["t2i"].tolist() == [2, 1, 1]
    assert found["t2t"].tolist() == [2, 2, 0]  # each finds the last caption first; that one has no sibling


def test_equal_scores_count_against_the_model() -> None:
    """A student that has collapsed finds nothing."""
    from comparison.outcome import ranks_of

    same = torch.ones(3, 1)
    assert ranks_of(same, same, np.arange(3))["i2t"].tolist() == [3, 3, 3]


def test_recall_counts_queries_of_drawn_images() -> None:
    from comparison.measures import retrieval, value

    owner = np.array([0, 0, 1])
    kept = {"i2t": np.array([1, 7]), "t2i": np.array([1, 6, 2]), "t2t": np.array([1, 3, 0])}
    found = {measure.name: value(measure, kept) for measure in retrieval(owner)}
    assert (found["i2t R@1"], found["i2t R@5"], found["i2t R@10"]) == (0.5, 0.5, 1.0)
    assert found["t2i R@1"] == pytest.approx(1 / 3)
    assert found["t2t R@1"] == 0.5  # the caption without a sibling asks nothing
    assert found["mean recall"] == pytest.approx((0.5 + 0.5 + 1 + 1 / 3 + 2 / 3 + 1) / 6)
    counts = np.array([[1, 1], [2, 0], [0, 2]])
    t2i = next(measure for measure in retrieval(owner) if measure.name == "t2i R@1")
    assert t2i.function(kept, counts).tolist() == pytest.approx([1 / 3, 0.5, 0.0])


def test_ndcg_is_that_of_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    from comparison.measures import discounted

    draw = np.random.default_rng(0)
    scores, gains, groups = draw.random(60), draw.random(60), draw.integers(0, 5, 60)
    found = discounted(scores, gains, groups) / discounted(gains, gains, groups)
    for group in range(5):
        here = groups == group
        assert found[group] == pytest.approx(metrics.ndcg_score(gains[None, here], scores[None, here]))


def test_figures_are_paired_over_images_and_seeds() -> None:
    """A lead that is the same for every image and seed has an interval of no width; its parts have wide ones."""
    from comparison.measures import Measure, figures

    draw = np.random.default_rng(0)
    base = draw.random((5, 40))
    measure = Measure("mean", 40, lambda kept, counts: counts @ kept["x"] / counts.sum(axis=1))
    runs: dict[str, Any] = {"a": [{"x": row} for row in base], "b": [{"x": row + 0.1} for row in base]}
    found = figures(measure, runs, 400)
    assert found["a"].value == pytest.approx(base.mean())
    assert found["a"].high - found["a"].low > 0.05
    lead = found["b"].lead_over(found["a"])
    assert (lead.value, lead.low, lead.high) == pytest.approx((0.1, 0.1, 0.1))


def test_seeds_widen_an_interval() -> None:
    """Seeds that differ, images that do not: all of the width comes from the draw of seeds."""
    from comparison.measures import Measure, figures

    measure = Measure("mean", 40, lambda kept, counts: counts @ kept["x"] / counts.sum(axis=1))
    spread = figures(measure, {"a": [{"x": np.full(40, level)} for level in (0.0, 1.0)]}, 400)["a"]
    assert (spread.value, spread.low, spread.high) == pytest.approx((0.5, 0.0, 1.0))


def test_batches_show_every_caption_once_and_no_image_twice(demo_store: Path) -> None:
    from corpus import Corpus, Vocabulary

    store = labelgen.open(demo_store)
    corpus = Corpus.of(store, "train", Vocabulary(["a cat"], least=1))
    batches = list(corpus.batches(13, [0, 0]))
    assert len(batches) == 10
    assert sorted(np.concatenate(batches)) == list(range(130))
    assert all(len(set(corpus.owner[batch])) == 13 for batch in batches)
    assert not np.array_equal(batches[0], next(corpus.batches(13, [0, 1])))
    assert np.array_equal(batches[0], next(corpus.batches(13, [0, 0])))


@pytest.fixture
def judged(demo_store: Path, tmp_path: Path) -> Path:
    """Judgements of the val images: own captions are right, those of the next image are not."""
    pl = pytest.importorskip("polars")
    store = labelgen.open(demo_store)
    images = list(store.splits["val"])
    rows = [
        (image, int(store.offsets[other]), rating)
        for image, following in zip(images, images[1:] + images[:1], strict=True)
        for other, rating in ((image, 4.0), (following, 1.0))
    ]
    left, right, ratings = zip(*rows, strict=True)
    frame = {"image_id": store.image_ids(left), "caption_id": store.caption_ids(right), "rating": ratings}
    path = tmp_path / "people.parquet"
    pl.DataFrame(frame).write_parquet(path)
    return path


def test_the_three_commands(
    demo_store: Path, judged: Path, tmp_path: Path, run: Callable[..., tuple[str, str]]
) -> None:
    pytest.importorskip("matplotlib")
    common = (
        *("compare.py", "{}", demo_store, "--against", judged, "--out", tmp_path / "out", "--splits", "train,val,val"),
        *("--epochs", 2, "--batch", 13, "--configuration", "triplet()", "--configuration", "bcls(gap=0.1)"),
    )

    def command(word: str, *more: object) -> tuple[str, str]:
        return run(common[0], word, *common[2:], *more)

    table, told = command("sweep")
    assert told.count("seed 0") == 2
    assert "| `bcls(gap=0.1)` |" in table
    lines = [json.loads(line) for line in (tmp_path / "out" / "sweep.jsonl").read_text().splitlines()]
    assert [line["setting"] for line in lines] == ["triplet()", "bcls(gap=0.1)"]
    assert all(0 < line["reached"]["mean recall"] < 1 for line in lines)
    _, told = command("run", "--seeds", 2)
    assert told.count("seed 1") == 2
    assert "seed 0" not in told, "the sweep has trained it"
    printed, told = command("report", "--seeds", 2, "--replicates", 20)
    assert told == ""
    assert printed == (tmp_path / "out" / "report.md").read_text()
    assert "Points over triplet:" in printed, "the name that the sweep has for triplet()"
    assert all(f"| ratings {word}" in printed for word in ("Spearman |", "nDCG |", "Spearman, images |"))
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_the_rule_of_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best agreement among settings that keep their recall, not the best agreement."""
    from comparison import configurations

    def row(recall: float, experts: float, crowd: float) -> dict[str, float]:
        return {"mean recall": recall, "experts Spearman": experts, "crowd Spearman": crowd}

    monkeypatch.setattr(configurations, "SWEEP", {"m": ["a", "b", "c"], "n": ["d"]})
    rows = {"a": row(0.40, 0.6, 0.3), "b": row(0.39, 0.7, 0.3), "c": row(0.37, 0.9, 0.9), "d": row(0.1, 0.1, 0.1)}
    assert configurations.choose(rows) == {"m": "b", "n": "d"}


def test_settings_have_the_names_of_the_sweep() -> None:
    from comparison.configurations import SWEEP, names_of

    fused, first, second = SWEEP["listwise, fused"][1], SWEEP["listwise"][1], SWEEP["listwise"][2]
    assert names_of([fused, first, "bcls(weight=7.0)"]) == {
        "listwise, fused": fused,
        "listwise": first,
        "bcls(weight=7.0)": "bcls(weight=7.0)",
    }
    assert names_of([first, second]) == {first: first, second: second}, "two settings of one name keep their texts"


def test_average_precision_is_that_of_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    pytest.importorskip("scipy")
    from comparison.wikipedia import average_precisions

    draw = np.random.default_rng(0)
    scores, right = draw.random((6, 30)), draw.random((6, 30)) < 0.3
    found = average_precisions(torch.from_numpy(scores), right)
    wanted = [metrics.average_precision_score(answers, row) for answers, row in zip(right, scores, strict=True)]
    np.testing.assert_allclose(found, wanted)


@pytest.mark.shared
def test_wikipedia_by_category(shared_data: Path, tmp_path: Path, run: Callable[..., tuple[str, str]]) -> None:
    """The store is made of the features; retrieval by category is better than the share of a category (.1 or so)."""
    pytest.importorskip("matplotlib")
    printed, _ = run(
        *("compare.py", "report", tmp_path / "wikipedia", "--wikipedia", shared_data / "wikipedia2010_features"),
        *("--out", tmp_path / "out", "--epochs", 2, "--seeds", 1, "--replicates", 20),
        *("--configuration", "info_nce()", "--configuration", "bcls(gap=0.05)"),
    )
    row = next(line for line in printed.splitlines() if line.startswith("| mean mAP |"))
    assert all(15 < float(cell.strip(" *").split()[0].strip("*")) < 40 for cell in row.split("|")[2:4])
