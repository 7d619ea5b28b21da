"""A siamese network over the rows of another text teacher (method 4: Xu et al., ICCS 2019), trained in the build.

Two weight-sharing towers (`labelgen.teachers.siamese.towers`) are trained on positive and negative pairs of the corpus'
texts. The paper specifies only this; architecture, pairs, losses and stopping are defined by labelgen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np

from labelgen.errors import ConfigError
from labelgen.registry import unknown
from labelgen.teachers.base import TeacherInfo, described
from labelgen.teachers.failures import require_least
from labelgen.teachers.siamese.pairs import Pairs, Positives, auc, divided, grouped, judged, require_pairs
from labelgen.teachers.siamese.towers import FILE, Towers
from labelgen.teachers.siamese.training import ROUND, Loss, Plan, train_towers
from labelgen.teachers.trained import (
    Arrays,
    Captions,
    Derivation,
    Saved,
    Shape,
    Source,
    SourceRows,
    Training,
    source_of,
    split_names,
)
from labelgen.types import Bool, Float16, Float32, Float64, Int64, Modality

_PIECE = 8192


@described(
    TeacherInfo(
        summary="a siamese network, trained in the build on the stored rows of another text teacher",
        modalities=("text",),
        example="siamese(of='text', positives='image')",
        offline="always",
        trained=True,
    )
)
def siamese(
    *,
    of: str = "text",
    positives: Positives = "image",
    loss: Loss = "logistic",
    hidden: int = Plan.hidden,
    dim: int = Plan.dim,
    margin: float = Plan.margin,
    splits: str | Sequence[str] = (),
    holdout: float = 0.1,
    batch: int = Plan.batch,
    steps: int = Plan.steps,
    patience: int = Plan.patience,
    rate: float = Plan.rate,
    decay: float = Plan.decay,
    seed: int = Plan.seed,
    device: str = "cpu",
) -> Siamese:
    """A trained teacher of texts.

    Args:
        of: alias of the teacher whose rows of texts the towers take.
        positives: which texts belong together: those of one `image`, or of all images of one `category`.
        splits: what is trained on (and held out of); the split `train`, or everything where there is none.
        holdout: share of these images that says when to stop, and share that is only reported.
        loss, hidden, dim, margin, batch, steps, patience, rate, decay, seed: see `siamese_training.Plan`.
        device: taken as every teacher takes it; the training runs on the CPU in one thread, so that its result
            depends on nothing else.

    Raises:
        ConfigError: a value out of range, or an unknown loss or kind of positives.
    """
    del device
    if positives not in get_args(Positives):
        raise unknown("kind of positives", str(positives), get_args(Positives))
    if loss not in get_args(Loss):
        raise unknown("loss of a siamese network", str(loss), get_args(Loss))
    plan = Plan(loss, hidden, dim, margin, batch, steps, patience, rate, decay, seed)
    _check(plan, holdout)
    return Siamese(str(of), positives, split_names(splits), holdout, plan)


class Siamese:
    """A `TrainedTeacher`; arguments as in `siamese`."""

    def __init__(self, of: str, positives: Positives, splits: tuple[str, ...], holdout: float, plan: Plan) -> None:
        self.of, self.positives, self.splits, self.holdout, self.plan = of, positives, splits, holdout, plan
        self.sources = (of,)
        self.modalities: frozenset[Modality] = frozenset({"text"})
        self.dim = plan.dim

    def identity(self) -> Mapping[str, Any]:
        """Every setting, defaults included; the build adds the rows that it is trained on."""
        named = {"of": self.of, "positives": self.positives, "splits": list(self.splits), "holdout": self.holdout}
        return {**named, **asdict(self.plan), "round": ROUND}

    def derive(self, shapes: Mapping[str, Shape]) -> Derivation:
        source = source_of(self.of, "text", shapes)
        return Derivation(self.dim, {"text": (source,)}, (source,), FILE)

    def train(self, rows: Mapping[Source, SourceRows], captions: Captions, saved: Saved) -> Training:
        """Divide, pair, train, and judge frozen and trained rows on the same pairs of every part.

        The report: `fit` (what was trained on), `steps`, `best_step`, `stopped` (`early` or `steps`), and `auc`: for
        `stopping`, `held_out` and every other split that has pairs, the number of images and pairs, and the AUC of the
        cosine of the source's rows (`frozen`) and of the rows that come out (`trained`).

        Raises:
            TeacherError: an unknown split, too few images, or no positive or no negative pairs.
        """
        splits, source = captions.splits_to_train_on(self.splits, "a siamese network"), rows[Source(self.of, "text")]
        usable = _usable(source, captions)
        parts = divided(captions, splits, self.holdout, self.plan.seed)
        fit = grouped(captions, parts.pop("fit"), usable, self.positives)
        groups = {name: grouped(captions, images, usable, self.positives, fit.texts) for name, images in parts.items()}
        pairs = {name: judged(members, self.plan.seed) for name, members in groups.items()}
        needed = {"fit": judged(fit, self.plan.seed), **{name: pairs[name] for name in ("stopping", "held_out")}}
        require_pairs(needed, self.positives)
        towers, progress = train_towers(source, fit, pairs["stopping"], self.plan, saved)
        counted = {name: listed for name, listed in pairs.items() if 0 < listed.positive.sum() < len(listed)}
        images = len(np.unique(captions.images[fit.members]))
        report = {
            "fit": {
                "splits": list(splits),
                "images": images,
                "captions": len(fit.members),
                "groups": len(fit.bounds) - 1,
            },
            "steps": progress.rounds * ROUND,
            "best_step": progress.best_round * ROUND,
            "stopped": "steps" if progress.rounds * ROUND >= self.plan.steps else "early",
            "auc": {name: _report(listed, source, towers, captions) for name, listed in counted.items()},
        }
        return Training(towers.arrays(), report)

    def refine(
        self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays, numbers: Int64 | None = None
    ) -> Float32:
        return Towers.of(arrays).apply(rows[Source(self.of, modality)])


def _usable(rows: SourceRows, captions: Captions) -> Bool:
    """Captions with a text and a row of the source, bool [n]."""
    usable: Bool = captions.texts >= 0
    for start in range(0, len(usable), _PIECE):
        piece = np.arange(start, min(start + _PIECE, len(usable)))
        usable[piece] &= rows.take(piece).any(axis=1)
    return usable


def _report(pairs: Pairs, rows: SourceRows, towers: Towers, captions: Captions) -> dict[str, Any]:
    """Numbers of images and pairs, and the AUC of both teachers on the same pairs."""
    requested, places = np.unique(np.stack([pairs.left, pairs.right]), return_inverse=True)
    left, right = places.reshape(2, -1)
    source = rows.take(requested)
    made = np.concatenate([towers.apply(source[start : start + _PIECE]) for start in range(0, len(source), _PIECE)])
    scores = {"frozen": _cosines(source, left, right), "trained": _cosines(made, left, right)}
    measured = {name: round(auc(values, pairs.positive), 6) for name, values in scores.items()}
    images, positive = len(np.unique(captions.images[requested])), int(pairs.positive.sum())
    return {"images": images, "positive": positive, "negative": len(pairs) - positive, **measured}


def _cosines(rows: Float16 | Float32, left: Int64, right: Int64) -> Float64:
    """Cosine of the rows at the places left[i] and right[i], piece by piece."""
    found = np.empty(len(left))
    for start in range(0, len(left), _PIECE):
        piece = slice(start, start + _PIECE)
        x, y = (rows[places[piece]].astype(np.float64) for places in (left, right))
        products = np.einsum("ij,ij->i", x, y)
        found[piece] = products / np.sqrt(np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y))
    return found


def _check(plan: Plan, holdout: float) -> None:
    whole = {"hidden": 1, "dim": 2, "batch": 4, "steps": 1, "patience": 1, "seed": 0}
    for name, least in whole.items():
        require_least(name, getattr(plan, name), least, "a siamese network")
    ranges = {
        "margin": (0 < plan.margin < 2, plan.margin, "between 0 and 2"),
        "rate": (0 < plan.rate < 1, plan.rate, "between 0 and 1"),
        "holdout": (0 < holdout < 0.5, holdout, "between 0 and 0.5"),
        "decay": (0 <= plan.decay < 1, plan.decay, "at least 0 and below 1"),
    }
    for name, (fits, value, expected) in ranges.items():
        if not fits:
            raise ConfigError(f"{name} of a siamese network is {value!r}", expected=expected)
