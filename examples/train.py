"""A two-tower model on frozen image features, trained with any of the four methods. Plain torch.

    labelgen build --dataset demo --out stores/demo
    python examples/train.py stores/demo --method "bcls(weight=1.0, gap=0.2)"

The labels come with the batch: `SoftLabelCollate` makes them in the workers of an ordinary DataLoader. Other methods:
`cusa()`, `listwise()`, `fine_grained()`, and the baselines `triplet()` and `info_nce()`, which see no label.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

import labelgen
from corpus import Corpus, Vocabulary, texts_of, usable
from labelgen.loader import SoftLabelCollate
from labelgen.store.reader import Store
from methods import Method, method
from towers import FeatureTower, TwoTowers, WordTower


class Pairs(Dataset[dict[str, Any]]):
    """One item a caption: frozen features of its image, its words, and both ids."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, at: int) -> dict[str, Any]:
        corpus, owner = self.corpus, self.corpus.owner[at]
        return {
            "features": corpus.features[owner],
            "words": corpus.captions[at],
            "image_id": str(corpus.image_ids[owner]),
            "caption_id": str(corpus.caption_ids[at]),
        }


def loader_of(store: Store, corpus: Corpus, objective: Method, batch: int, workers: int) -> DataLoader[Any]:
    """Shuffled batches; with soft labels where the method asks for some."""
    collate = None if objective.scheme is None else SoftLabelCollate(store, scheme=objective.scheme)
    return DataLoader(Pairs(corpus), batch, shuffle=True, drop_last=True, num_workers=workers, collate_fn=collate)


def train_epoch(towers: TwoTowers, objective: Method, loader: DataLoader[Any], optimizer: Any) -> float:
    """One pass; the mean loss."""
    towers.train()
    total = 0.0
    for batch in loader:
        images, texts = towers(batch["features"], batch["words"])
        loss = objective(images, texts, batch.get("soft_labels"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / max(1, len(loader))


@torch.no_grad()
def recall_at_1(towers: TwoTowers, corpus: Corpus) -> tuple[float, float]:
    """Image to text and text to image: the share of queries whose best candidate is an own one."""
    towers.eval()
    images, texts = towers(corpus.features, corpus.captions)
    scores, owner = images @ texts.T, torch.from_numpy(corpus.owner)
    first = owner[scores.argmax(dim=1)] == torch.arange(len(images))
    return first.float().mean().item(), (scores.argmax(dim=0) == owner).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a sealed store with a text and an image teacher")
    parser.add_argument("--method", default="bcls()", help="a method with its settings; see methods.py")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(0)
    store = labelgen.open(options.store)
    vocabulary = Vocabulary(texts_of(store, usable(store, "train")[1]))
    train, val = (Corpus.of(store, split, vocabulary) for split in ("train", "val"))
    towers = TwoTowers(FeatureTower(train.features.shape[1]), WordTower(len(vocabulary)))
    objective = method(options.method)
    optimizer = torch.optim.AdamW([*towers.parameters(), *objective.parameters()], lr=options.rate)
    loader = loader_of(store, train, objective, options.batch, options.workers)
    for epoch in range(options.epochs):
        loss = train_epoch(towers, objective, loader, optimizer)
        i2t, t2i = recall_at_1(towers, val)
        print(f"epoch {epoch}: loss {loss:.4f}, val recall@1 image to text {i2t:.1%}, text to image {t2i:.1%}")


if __name__ == "__main__":
    main()
