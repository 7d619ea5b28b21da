"""The same two towers in Lightning: nothing changes but the collate function of the DataLoader.

python examples/train_lightning.py stores/demo --method "cusa(alpha=12.8, beta=6.4, reduction='mean')"
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

import labelgen
from corpus import Corpus, Vocabulary, texts_of, usable
from methods import method
from towers import FeatureTower, TwoTowers, WordTower
from train import loader_of, recall_at_1


class Student(lightning.LightningModule):
    """Two towers and a method. Soft labels move to the device with their batch: they have a `to`."""

    def __init__(self, towers: TwoTowers, text: str, rate: float) -> None:
        super().__init__()
        self.towers, self.objective, self.rate = towers, method(text), rate

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        images, texts = self.towers(batch["features"], batch["words"])
        loss = self.objective(images, texts, batch.get("soft_labels"))
        self.log("loss", loss, batch_size=len(images), on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a sealed store with a text and an image teacher")
    parser.add_argument("--method", default="cusa()", help="a method with its settings; see methods.py")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accelerator", default="cpu", help="as Lightning's Trainer takes it")
    options = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    store = labelgen.open(options.store)
    vocabulary = Vocabulary(texts_of(store, usable(store, "train")[1]))
    train, val = (Corpus.of(store, split, vocabulary) for split in ("train", "val"))
    towers = TwoTowers(FeatureTower(train.features.shape[1]), WordTower(len(vocabulary)))
    student = Student(towers, options.method, options.rate)
    loader: DataLoader[Any] = loader_of(store, train, student.objective, options.batch, options.workers)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator=options.accelerator,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(student, loader)
    i2t, t2i = recall_at_1(towers, val)
    loss = trainer.callback_metrics["loss"].item()
    print(f"loss {loss:.4f}, val recall@1 image to text {i2t:.1%}, text to image {t2i:.1%}")


if __name__ == "__main__":
    main()
