"""Training of a siamese network, with torch: seeded, resumable, bit-identical every time.

It always runs on the CPU in one thread, because the bits of a matrix product can depend on the number of threads, and
the network is small. Every step draws its batch from a separate generator (seed and number of the step), so a step
depends on earlier ones only through the saved weights and moments of Adam.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from labelgen.teachers.siamese.pairs import Groups, Pairs, auc, batch
from labelgen.teachers.siamese.towers import Towers
from labelgen.teachers.trained import Arrays, Saved, SourceRows
from labelgen.torch_threads import using
from labelgen.types import Float32, Float64, Int64

if TYPE_CHECKING:
    import torch

Loss: TypeAlias = Literal["logistic", "contrastive"]

#: Steps between two looks at the part `stopping`.
ROUND = 25
#: Rows that the scale of the input is measured on.
_MEASURED = 4096
#: Seconds between two saves.
_SAVE_EVERY = 5.0
#: Scale and offset of the logistic loss at the beginning: cosines of .5 are as likely positive as negative.
_LOGISTIC = (10.0, -5.0)


@dataclass(frozen=True)
class Plan:
    """Settings that decide the weights beside the data.

    Attributes:
        loss: over all pairs of a batch, positive and negative ones with half of the weight each:
            `logistic`: log(1 + e^-z) of positive, log(1 + e^z) of negative pairs, z = a cos + b, a > 0 and b learnt;
            `contrastive` (Hadsell et al. 2006): d^2 of positive, max(0, margin - d)^2 of negative pairs, d = |u - v|.
        hidden, dim: lengths of the inner layer and of the rows that come out.
        margin: of the contrastive loss.
        batch: texts of a step.
        steps: at most so many.
        patience: rounds of 25 steps without a better AUC on the part `stopping`, after which the training stops.
        rate, decay: learning rate of Adam, and decoupled weight decay.
    """

    loss: Loss = "logistic"
    hidden: int = 512
    dim: int = 256
    margin: float = 1.0
    batch: int = 512
    steps: int = 1000
    patience: int = 8
    rate: float = 1e-3
    decay: float = 1e-2
    seed: int = 0


@dataclass
class Progress:
    """State of a training: AUC on `stopping` after every round (the first before any step), and the best weights."""

    curve: list[float] = field(default_factory=list)
    best: dict[str, Float32] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return len(self.curve) - 1

    @property
    def best_round(self) -> int:
        return int(np.argmax(self.curve))

    @property
    def next_steps(self) -> range:
        """The steps before the next look at `stopping`; none before the first."""
        return range(self.rounds * ROUND, (self.rounds + 1) * ROUND) if self.curve else range(0)

    def over(self, plan: Plan) -> bool:
        """True if the training ends here: out of steps, or of patience."""
        if not self.curve:
            return False
        return self.rounds * ROUND >= plan.steps or self.rounds - self.best_round >= plan.patience

    def note(self, score: float, weights: Mapping[str, Float32]) -> None:
        self.curve.append(score)
        if self.best_round == self.rounds:
            self.best = {name: array.copy() for name, array in weights.items()}


def train_towers(rows: SourceRows, fit: Groups, stopping: Pairs, plan: Plan, saved: Saved) -> tuple[Towers, Progress]:
    """Towers with the best AUC on the pairs `stopping`, and how the training went."""
    center, scale = _input_scale(rows, fit)
    requested, places = np.unique(np.stack([stopping.left, stopping.right]), return_inverse=True)
    left, right = places.reshape(2, -1)
    judged = _scaled(rows.take(requested), center, scale)
    with using(1):  # torch is imported by now
        learner, progress = _resumed(rows.shape[1], plan, saved)
        since = time.monotonic()
        while not progress.over(plan):
            for step in progress.next_steps:
                places = batch(fit, plan.batch, np.random.default_rng([plan.seed, 2, step]))
                learner.step(_scaled(rows.take(fit.members[places]), center, scale), fit, places)
            made = learner.outputs(judged)
            progress.note(auc(np.einsum("ij,ij->i", made[left], made[right]), stopping.positive), learner.weights())
            if time.monotonic() - since > _SAVE_EVERY:
                _save(learner, progress, saved)
                since = time.monotonic()
    return _folded(progress.best, center, scale), progress


def pair_loss(
    rows: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, logistic: torch.Tensor, plan: Plan
) -> torch.Tensor:
    """The loss of a batch; see `Plan.loss`.

    Args:
        rows: unit rows [n, dim].
        positive, negative: bool [n, n], which pairs count as what; a kind without a pair adds nothing.
        logistic: log a and b, [2].
    """
    import torch

    cosines = rows @ rows.T
    if plan.loss == "logistic":
        z = torch.exp(logistic[0]) * cosines + logistic[1]
        attract, repel = torch.nn.functional.softplus(-z), torch.nn.functional.softplus(z)
    else:
        squared = torch.clamp(2 - 2 * cosines, min=1e-12)  # the root has no gradient at 0
        attract, repel = squared, torch.clamp(plan.margin - torch.sqrt(squared), min=0) ** 2
    return (_mean(attract, positive) + _mean(repel, negative)) / 2


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


class Learner:
    """The network with its optimiser."""

    def __init__(self, length: int, plan: Plan) -> None:
        import torch

        self.plan = plan
        draw = np.random.default_rng([plan.seed, 3])
        start = {
            "inner.weight": draw.normal(0, np.sqrt(2 / length), (plan.hidden, length)),
            "inner.bias": np.zeros(plan.hidden),
            "outer.weight": draw.normal(0, np.sqrt(2 / plan.hidden), (plan.dim, plan.hidden)),
            "outer.bias": np.zeros(plan.dim),
            "logistic": np.array([np.log(_LOGISTIC[0]), _LOGISTIC[1]]),
        }
        self.values = {name: torch.tensor(array, dtype=torch.float32) for name, array in start.items()}
        for value in self.values.values():
            value.requires_grad_()
        self.optimiser = torch.optim.AdamW(self.values.values(), lr=plan.rate, weight_decay=plan.decay)

    def step(self, inputs: torch.Tensor, fit: Groups, places: Int64) -> float:
        """One step on the members at `places`, whose scaled rows are `inputs`; the loss before it."""
        import torch

        group, text = fit.number[places], fit.texts[places]
        other = text[:, None] != text[None, :]
        same = group[:, None] == group[None, :]
        self.optimiser.zero_grad()
        masks = (torch.from_numpy(same & other), torch.from_numpy(~same & other))
        loss = pair_loss(self.forward(inputs), *masks, self.values["logistic"], self.plan)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Unit rows of scaled inputs."""
        import torch

        values = self.values
        hidden = torch.relu(inputs @ values["inner.weight"].T + values["inner.bias"])
        made = hidden @ values["outer.weight"].T + values["outer.bias"]
        return torch.nn.functional.normalize(made, dim=1)

    def outputs(self, inputs: torch.Tensor) -> Float64:
        """Unit rows as numbers."""
        import torch

        with torch.no_grad():
            made: Float64 = self.forward(inputs).double().numpy()
        return made

    def weights(self) -> dict[str, Float32]:
        """Views of the weights."""
        return {name: value.detach().numpy() for name, value in self.values.items()}

    def state(self) -> dict[str, Any]:
        """Weights and moments by name, for `restore`."""
        arrays: dict[str, Any] = self.weights()
        for name, value in self.values.items():
            kept = self.optimiser.state[value]
            arrays |= {f"{name}/{key}": kept[key].numpy() for key in ("step", "exp_avg", "exp_avg_sq") if key in kept}
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """The inverse of `state`."""
        import torch

        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(torch.tensor(arrays[name]))
                kept = {key: f"{name}/{key}" for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in arrays}
                if kept:
                    self.optimiser.state[value] = {key: torch.tensor(arrays[at]) for key, at in kept.items()}


def _resumed(length: int, plan: Plan, saved: Saved) -> tuple[Learner, Progress]:
    learner, arrays = Learner(length, plan), saved.load()
    if arrays is None:
        return learner, Progress()
    learner.restore(arrays)
    best = {name.removeprefix("best/"): array for name, array in arrays.items() if name.startswith("best/")}
    return learner, Progress(arrays["curve"].tolist(), best)


def _save(learner: Learner, progress: Progress, saved: Saved) -> None:
    best = {f"best/{name}": array for name, array in progress.best.items()}
    saved.save({**learner.state(), **best, "curve": np.array(progress.curve)})


def _input_scale(rows: SourceRows, fit: Groups) -> tuple[Float64, float]:
    """Mean of the rows, and one over the spread of a number around it, from members evenly spaced."""
    picked = np.unique(np.linspace(0, len(fit.members) - 1, _MEASURED).round().astype(np.int64))
    sample = rows.take(fit.members[picked]).astype(np.float64)
    center = sample.mean(axis=0)
    spread = float(np.sqrt(((sample - center) ** 2).mean()))
    return center, 1 / spread if spread > 0 else 1.0


def _scaled(rows: Any, center: Float64, scale: float) -> torch.Tensor:
    import torch

    return torch.from_numpy(((rows.astype(np.float64) - center) * scale).astype(np.float32))


def _folded(weights: Mapping[str, Float32], center: Float64, scale: float) -> Towers:
    """Towers that take rows as they are: the scaling of the input is linear, so it goes into the first layer."""
    inner = weights["inner.weight"].astype(np.float64) * scale
    bias = weights["inner.bias"] - inner @ center
    layers = (inner, bias, weights["outer.weight"], weights["outer.bias"])
    return Towers(*(np.ascontiguousarray(array, np.float32) for array in layers))
