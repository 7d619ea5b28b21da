"""One run: a student trained by one method with a fixed budget. The same seed gives the same start and batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from corpus import Corpus
from labelgen.loader import SoftLabeler
from labelgen.loader.collate import to_tensors
from labelgen.store.reader import Store
from methods import method
from towers import FeatureTower, TwoTowers, WordTower


@dataclass(frozen=True)
class Budget:
    """What every method gets alike.

    Attributes:
        epochs: passes over all captions.
        batch: pairs of a batch.
        rate: largest learning rate; it rises over the first tenth of the steps and falls to zero as a cosine.
        decay: weight decay of AdamW.
    """

    epochs: int = 5
    batch: int = 128
    rate: float = 3e-3
    decay: float = 1e-2


def train(text: str, corpus: Corpus, store: Store, words: int | None, budget: Budget, seed: int) -> TwoTowers:
    """A student trained by the method that `text` names, on the captions of `corpus` and labels of `store`.

    Args:
        words: size of the vocabulary; None where captions are features themselves.
    """
    torch.manual_seed(seed)
    objective = method(text)
    labeller = None if objective.scheme is None else SoftLabeler(store, objective.scheme)
    towers = new_towers(corpus, words)
    parameters = [*towers.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=budget.rate, weight_decay=budget.decay, fused=True)
    steps = budget.epochs * sum(1 for _ in corpus.batches(budget.batch, [seed, 0]))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, steps))
    towers.train()
    for epoch in range(budget.epochs):
        for chosen in corpus.batches(budget.batch, [seed, epoch]):
            owner = corpus.owner[chosen]
            soft = None
            if labeller is not None:
                soft = to_tensors(labeller(corpus.image_ids[owner].tolist(), corpus.caption_ids[chosen].tolist()))
            loss = objective(*towers(corpus.features[owner], corpus.captions[chosen]), soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return towers


def share_of_rate(step: int, steps: int) -> float:
    """Rises over the first tenth of the steps, then falls to zero as a cosine."""
    return min(10 * (step + 1) / steps, (1 + math.cos(math.pi * step / steps)) / 2)


def new_towers(corpus: Corpus, words: int | None) -> TwoTowers:
    """An untrained student of the shape that the corpus asks for."""
    text = FeatureTower(corpus.captions.shape[1]) if words is None else WordTower(words)
    return TwoTowers(FeatureTower(corpus.features.shape[1]), text)


@torch.no_grad()
def embed(towers: TwoTowers, corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Unit rows of all images and captions of a split."""
    towers.eval()
    return towers(corpus.features, corpus.captions)
