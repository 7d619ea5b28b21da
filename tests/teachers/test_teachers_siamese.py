"""The siamese network: towers, pairs, losses and training against loops, hand arithmetic and known answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from siamese_corpus import NOISE, SIGNAL, made_corpus
from sklearn.metrics import roc_auc_score

from labelgen import registry
from labelgen.errors import ArrayError, ConfigError, LabelgenError, SpecError, TeacherError, UnknownNameError
from labelgen.similarity.base import ArrayRows
from labelgen.specs import Spec
from labelgen.teachers.siamese import training
from labelgen.teachers.siamese.pairs import Groups, auc, batch, divided, grouped, judged
from labelgen.teachers.siamese.towers import NAMES, Towers
from labelgen.teachers.siamese.training import ROUND, Learner, Plan, pair_loss, train_towers
from labelgen.teachers.trained import Arrays, Captions, Source, Training, Unsaved
from labelgen.testing.teachers import TrainedTeacherSuite
from labelgen.types import Float16, Float32, Modality

SMALL = {"hidden": 32, "dim": 8, "batch": 64, "steps": 200, "patience": 3, "rate": 0.01}


def create(**arguments: Any) -> Any:
    return registry.create("teacher", Spec.of("siamese", **arguments), device="cpu")


def trained(corpus: tuple[Float16, Captions], **arguments: Any) -> Training:
    rows, captions = corpus
    taken = {Source("text", "text"): ArrayRows(rows)}
    training: Training = create(**SMALL | arguments).train(taken, captions, Unsaved())
    return training


def tower_by_loops(row: Any, arrays: Arrays) -> list[float]:
    """The formula, number by number, in Python floats."""
    w1, b1, w2, b2 = (arrays[name].tolist() for name in NAMES)
    x = row.tolist()
    hidden = [max(0.0, sum(w * a for w, a in zip(line, x, strict=True)) + b) for line, b in zip(w1, b1, strict=True)]
    z = [sum(w * h for w, h in zip(line, hidden, strict=True)) + b for line, b in zip(w2, b2, strict=True)]
    length = sum(value * value for value in z) ** 0.5
    return [value / length for value in z]


class TestSiamese(TrainedTeacherSuite):
    @pytest.fixture(autouse=True)
    def save_always(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training, "_SAVE_EVERY", -1.0)

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("siamese", **SMALL | changes)

    def variants(self) -> dict[str, Spec]:
        changes: dict[str, Any] = {
            "of": "other", "positives": "category", "loss": "contrastive", "hidden": 33, "dim": 9, "margin": 0.5,
            "splits": ["test"], "holdout": 0.2, "batch": 62, "steps": 199, "patience": 4, "rate": 0.02, "decay": 0.0,
            "seed": 1,
        }  # fmt: skip
        return {name: self.spec(**{name: value}) for name, value in changes.items()}

    def corpus(self) -> tuple[Mapping[Source, Float16], Captions]:
        rows, captions = made_corpus()
        return {Source("text", "text"): rows}, captions

    def oracle_rows(self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays) -> Float32:
        return np.array([tower_by_loops(row, arrays) for row in rows[Source("text", modality)]], np.float32)


class TestContrastive(TestSiamese):
    def spec(self, **changes: Any) -> Spec:
        return Spec.of("siamese", **SMALL | {"loss": "contrastive", "margin": 1.2} | changes)

    def variants(self) -> dict[str, Spec]:
        return {}


def test_a_tower_by_hand(tmp_path: Path) -> None:
    arrays = {
        "inner.weight": np.array([[1, 0], [0, -1]], np.float32),
        "inner.bias": np.array([0, 1], np.float32),
        "outer.weight": np.array([[3, 0], [0, 4]], np.float32),
        "outer.bias": np.array([0, 0], np.float32),
    }
    save_file(arrays, tmp_path / "towers.safetensors")
    towers = Towers.read(tmp_path / "towers.safetensors")
    # (1, 0): hidden (1, 1), out (3, 4), length 5. (-1, 2): hidden (0, 0), so the origin, which stays there.
    made = towers.apply(np.array([[1, 0], [0, 0], [-1, 2]], np.float32))
    np.testing.assert_allclose(made, [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-7)
    assert towers.dim == 2
    with pytest.raises(ArrayError, match="rows do not fit the towers"):
        towers.apply(np.ones((1, 3), np.float32))
    with pytest.raises(ArrayError, match="not the weights"):
        Towers.of({**arrays, "inner.bias": np.zeros(3, np.float32)})
    with pytest.raises(ArrayError, match="not the weights"):
        Towers.of({name: arrays[name] for name in NAMES[:3]})
    save_file({"features": arrays["inner.weight"]}, tmp_path / "other.safetensors")
    with pytest.raises(TeacherError):
        Towers.read(tmp_path / "other.safetensors")
    with pytest.raises(TeacherError, match="no features at"):
        Towers.read(tmp_path / "absent.safetensors")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.booleans())
def test_auc_is_that_of_scikit_learn(seed: int, count: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 5, count).astype(float) if ties else draw.normal(size=count)
    positive = draw.random(count) < 0.5
    positive[:2] = [True, False]
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_auc_by_hand() -> None:
    """Positives .9 and .5 against negatives .5 and .1: three of four comparisons won, one tied."""
    assert auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])) == 3.5 / 4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["image", "category"]))
def test_no_image_and_no_text_is_in_two_parts(seed: int, by: Any) -> None:
    _, captions = made_corpus(40, seed=seed)
    texts = captions.texts % 60  # the second half of the texts repeats the first
    captions = dataclasses.replace(captions, texts=np.where(captions.texts < 0, -1, texts))
    parts = divided(captions, ("train",), 0.2, seed)
    assert {name: len(rows) for name, rows in parts.items()} == {"fit": 18, "stopping": 6, "held_out": 6, "test": 10}
    rows = np.concatenate(list(parts.values()))
    assert len(np.unique(rows)) == len(rows) == 40
    usable = captions.texts >= 0
    fit = grouped(captions, parts["fit"], usable, by)
    for name in ("stopping", "held_out", "test"):
        groups = grouped(captions, parts[name], usable, by, fit.texts)
        assert set(captions.images[groups.members]) <= set(parts[name].tolist())
        assert not set(groups.texts) & set(fit.texts)
        pairs = judged(groups, seed, 200)
        assert not set(captions.images[pairs.left]) & set(captions.images[fit.members])
        assert not set(captions.images[pairs.right]) & set(captions.images[fit.members])


@pytest.mark.parametrize("by", ["image", "category"])
def test_pairs_are_what_they_are_called(by: Any) -> None:
    _, captions = made_corpus(60, categories=3)
    captions = dataclasses.replace(captions, texts=np.where(captions.texts < 0, -1, captions.texts % 100))
    groups = grouped(captions, np.arange(60), captions.texts >= 0, by)
    label = captions.images if by == "image" else np.array(captions.categories)[captions.images]
    for start, stop in zip(groups.bounds[:-1], groups.bounds[1:], strict=True):
        assert len(set(label[groups.members[start:stop]])) == 1
        assert len(set(groups.texts[start:stop])) == stop - start
    pairs = judged(groups, 0)
    assert (label[pairs.left] == label[pairs.right]).tolist() == pairs.positive.tolist()
    assert (captions.texts[pairs.left] != captions.texts[pairs.right]).all()
    assert pairs.positive.sum() == (~pairs.positive).sum() > 50
    unordered = {frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}
    assert len(unordered) == len(pairs), "a pair is judged once"
    places = batch(groups, 32, np.random.default_rng(0))
    assert (groups.number[places[:16]] == groups.number[places[16:]]).all(), "every anchor has a partner"
    assert (groups.texts[places[:16]] != groups.texts[places[16:]]).all()


def test_losses_by_hand() -> None:
    """Cosines: (0, 1) 0.6, (0, 2) 0, (1, 2) 0.8; 0 and 1 belong together."""
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    positive = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    negative = torch.tensor([[False, False, True], [False, False, True], [True, True, False]])
    logistic = torch.tensor([np.log(2.0), -1.0], dtype=torch.float64)
    softplus: Callable[[float], float] = lambda z: float(np.log1p(np.exp(z)))  # noqa: E731
    expected = (softplus(-0.2) + (softplus(-1.0) + softplus(0.6)) / 2) / 2
    assert pair_loss(rows, positive, negative, logistic, Plan()).item() == pytest.approx(expected, rel=1e-12)
    plan = Plan(loss="contrastive", margin=1.5)
    expected = (0.8 + ((1.5 - 2**0.5) ** 2 + (1.5 - 0.4**0.5) ** 2) / 2) / 2
    assert pair_loss(rows, positive, negative, logistic, plan).item() == pytest.approx(expected, rel=1e-12)
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    assert pair_loss(rows, nothing, nothing, logistic, plan).item() == 0


@pytest.mark.parametrize("loss", ["logistic", "contrastive"])
def test_gradient_is_that_of_finite_differences(loss: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 3, dtype=torch.float64, generator=draw).requires_grad_()
    logistic = torch.tensor([1.0, -0.5], dtype=torch.float64, requires_grad=True)
    positive = torch.tensor(np.equal.outer([0, 0, 1, 1, 2], [0, 0, 1, 1, 2])) & ~torch.eye(5, dtype=torch.bool)
    negative = ~positive & ~torch.eye(5, dtype=torch.bool)

    def of(inputs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        unit = torch.nn.functional.normalize(inputs, dim=1)
        return pair_loss(unit, positive, negative, numbers, Plan(loss=loss, margin=1.3))

    assert torch.autograd.gradcheck(of, (rows, logistic))


def test_equal_texts_of_two_groups_make_no_pair() -> None:
    """Members 0 and 1 are pairs, 2 and 3 too, but texts 1 and 2 are the same one: that is neither."""
    learner = Learner(2, Plan(hidden=4, dim=2))
    fit = Groups(np.arange(4), np.array([0, 2, 4]), np.array([0, 1, 1, 2]))
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    rows = learner.forward(inputs).detach()
    group, text = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    same, other = np.equal.outer(group, group), np.not_equal.outer(text, text)
    expected = pair_loss(
        rows, torch.tensor(same & other), torch.tensor(~same & other), learner.values["logistic"].detach(), learner.plan
    )
    assert learner.step(inputs, fit, np.arange(4)) == pytest.approx(expected.item(), rel=1e-6)
    assert not (~same & other)[1, 2]


@pytest.mark.parametrize("loss", ["logistic", "contrastive"])
@pytest.mark.parametrize("positives", ["image", "category"])
def test_learns_what_noise_hides(loss: str, positives: str) -> None:
    """The cosine is mostly that of the noise; the towers find the numbers that say something."""
    training = trained(made_corpus(400), loss=loss, positives=positives, steps=400, patience=6)
    assert training.report["auc"].keys() == {"stopping", "held_out", "test"}
    for part in ("held_out", "test"):
        told = training.report["auc"][part]
        assert told["frozen"] < 0.75
        assert told["trained"] > told["frozen"] + (0.15 if positives == "image" else 0.05), part
    weights = np.abs(training.arrays["inner.weight"]).mean(axis=0)
    assert weights[:SIGNAL].min() > weights[SIGNAL : SIGNAL + NOISE].max(), "it looks at the signal"


def test_nothing_to_learn_stops_early_and_is_reported_as_such() -> None:
    """Pure noise: the AUC of pairs held out stays about one half, and the training does not take all its steps."""
    rows, captions = made_corpus(200)
    noise = np.random.default_rng(1).normal(size=rows.shape).astype(np.float16)
    training = trained((noise, captions), steps=2000)
    assert training.report["stopped"] == "early"
    assert training.report["steps"] == training.report["best_step"] + SMALL["patience"] * ROUND < 2000
    assert abs(training.report["auc"]["test"]["trained"] - 0.5) < 0.08


def test_the_best_weights_are_kept_and_steps_are_a_limit() -> None:
    rows, captions = made_corpus()
    training = trained((rows, captions), steps=50, patience=50)
    assert (training.report["stopped"], training.report["steps"]) == ("steps", 50)
    plan = Plan(**{**{name: SMALL[name] for name in ("hidden", "dim", "batch", "rate", "patience")}, "steps": 1000})
    parts = divided(captions, ("train",), 0.1, 0)
    fit = grouped(captions, parts["fit"], captions.texts >= 0, "image")
    stopping = judged(grouped(captions, parts["stopping"], captions.texts >= 0, "image", fit.texts), 0)
    towers, progress = train_towers(ArrayRows(rows), fit, stopping, plan, Unsaved())
    made = towers.apply(rows).astype(np.float64)
    score = auc(np.einsum("ij,ij->i", made[stopping.left], made[stopping.right]), stopping.positive)
    assert score == pytest.approx(max(progress.curve), abs=0.002), "the last weights would give another one"
    assert progress.rounds - progress.best_round == plan.patience


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    made = {}
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        made[threads] = trained(made_corpus(), steps=50).arrays
        assert torch.get_num_threads() == threads, "the number is given back"
    torch.set_num_threads(before)
    for name in NAMES:
        assert made[1][name].tobytes() == made[2][name].tobytes() == made[4][name].tobytes()


def test_seeds_give_other_networks() -> None:
    first, second = (trained(made_corpus(), steps=25, seed=seed).arrays for seed in (0, 1))
    assert not np.array_equal(first["inner.weight"], second["inner.weight"])


def test_other_splits_are_not_looked_at_before_the_end() -> None:
    """What lies in `test` changes the report on `test` and nothing else."""
    rows, captions = made_corpus()
    other = rows.copy()
    first = np.flatnonzero(captions.images >= captions.splits["test"][0])[0]
    other[first:-1] = np.random.default_rng(5).normal(size=other[first:-1].shape).astype(np.float16)
    one, two = trained((rows, captions)), trained((other, captions))
    for name in NAMES:
        np.testing.assert_array_equal(one.arrays[name], two.arrays[name])
    assert one.report["auc"].pop("test") != two.report["auc"].pop("test")
    assert one.report == two.report


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ("one caption", {}, "no image with two different texts"),
        ("one caption", {}, "positives='category' where images have categories"),
        ("no categories", {"positives": "category"}, "no category with two different texts"),
        ("one category", {"positives": "category"}, "one category only"),
        ("three images", {}, "so few images"),
        ("equal texts", {}, "no image with two different texts"),
        ("", {"splits": ["trian"]}, "'trian'"),
        ("", {"holdout": 0.45}, ""),
    ],
)
def test_a_corpus_without_pairs_is_refused(change: str, arguments: dict[str, Any], words: str) -> None:
    rows, captions = made_corpus(40, 1 if change == "one caption" else 3)
    if change == "no categories":
        captions = dataclasses.replace(captions, categories=[None] * 40)
    if change == "one category":
        captions = dataclasses.replace(captions, categories=["a"] * 40)
    if change == "three images":
        captions = dataclasses.replace(captions, splits={"train": range(3), "test": range(3, 40)})
    if change == "equal texts":
        captions = dataclasses.replace(captions, texts=captions.images)
    if not words:
        assert trained((rows, captions), steps=25, **arguments).report["fit"]["images"] == 2
        return
    with pytest.raises(TeacherError) as caught:
        trained((rows, captions), **arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"positives": "images"}, UnknownNameError),
        ({"loss": "triplet"}, UnknownNameError),
        ({"off": "text"}, SpecError),
        *(({name: 0}, ConfigError) for name in ("hidden", "dim", "batch", "steps", "patience", "rate", "holdout")),
        *(({name: 2.5}, ConfigError) for name in ("hidden", "seed", "margin", "rate", "decay")),
        ({"holdout": 0.5}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"rate": "fast"}, ConfigError),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[LabelgenError]) -> None:
    with pytest.raises(error):
        create(**arguments)


def test_captions_without_a_row_or_a_text_are_left_out() -> None:
    rows, captions = made_corpus()
    rows[:9] = 0
    report = trained((rows, captions), steps=25, holdout=0.05).report
    assert report["fit"]["captions"] % 3 == 0
    assert report["fit"]["images"] in (82 - 3, 82 - 2, 82 - 1, 82), "90 in train, 8 held out, 3 without rows"
