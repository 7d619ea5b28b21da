"""A two-tower student over frozen image features: small enough for a laptop, and honest about its text side.

The text tower learns its words from nothing. It never sees a row of the text teacher, so whatever it knows of other
captions came from the training pairs or from soft labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from corpus import PAD


class WordTower(nn.Module):
    """Words to a unit vector: a weighted mean of their vectors (the weights are learnt), then a layer on top."""

    def __init__(self, words: int, width: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self.vectors = nn.Embedding(words, width, padding_idx=PAD)
        self.weights = nn.Parameter(torch.zeros(words))
        self.layer = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, words: Tensor) -> Tensor:
        """Unit rows [B, width] of words [B, length]."""
        weights = self.weights[words].masked_fill(words == PAD, -torch.inf).softmax(dim=1)
        mean = embedding_bag(words, self.vectors.weight, per_sample_weights=weights, mode="sum")
        return normalize(mean + self.layer(mean), dim=-1)


class FeatureTower(nn.Module):
    """Frozen features to a unit vector: one layer, centred and scaled over the batch."""

    def __init__(self, features: int, width: int = 256) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(features, width, bias=False), nn.BatchNorm1d(width))

    def forward(self, features: Tensor) -> Tensor:
        """Unit rows [B, width] of features [B, features]."""
        return normalize(self.layer(features), dim=-1)


class TwoTowers(nn.Module):
    """Images and captions in one space; a score is a cosine."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image, self.text = image, text

    def forward(self, features: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Unit rows of images and of captions."""
        return self.image(features), self.text(captions)
