"""A split of a store in memory: what a small model trains on, and the ids to ask for soft labels with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelgen.store.reader import Store

PAD, UNKNOWN = 0, 1
_WORD = re.compile(r"[a-z0-9]+")


class Vocabulary:
    """Words that occur `least` times or more, numbered from 2; 0 fills short captions, 1 is every other word."""

    def __init__(self, texts: Sequence[str], least: int = 2, length: int = 24) -> None:
        counts = Counter(word for text in texts for word in words_of(text))
        kept = sorted(word for word, count in counts.items() if count >= least)
        self.numbers = {word: number for number, word in enumerate(kept, start=2)}
        self.length = length

    def __len__(self) -> int:
        return len(self.numbers) + 2

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Numbers of the first words of every text, int64 [n, length]."""
        rows = np.full((len(texts), self.length), PAD, np.int64)
        for row, text in zip(rows, texts, strict=True):
            numbers = [self.numbers.get(word, UNKNOWN) for word in words_of(text)][: self.length] or [UNKNOWN]
            row[: len(numbers)] = numbers
        return torch.from_numpy(rows)


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Corpus:
    """Images and captions of one split that the store could use.

    Attributes:
        features: frozen rows of the image teacher, float32 [images, dim].
        captions: what the text tower reads, [captions, ...]; words of a vocabulary here.
        owner: which image a caption belongs to, int64 [captions], numbers from 0 as in `features`.
        image_rows, caption_rows: rows of the store.
        image_ids, caption_ids: what soft labels are asked for with.
    """

    features: Tensor
    captions: Tensor
    owner: np.ndarray
    image_rows: np.ndarray
    caption_rows: np.ndarray
    image_ids: np.ndarray
    caption_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.caption_rows)

    @classmethod
    def of(cls, store: Store, split: str, read: Vocabulary, alias: str = "image") -> Corpus:
        """The split of a store, its captions read by a vocabulary."""
        images, captions = usable(store, split)
        place = np.full(store.manifest.corpus.n_images, -1)
        place[images] = np.arange(len(images))
        return cls(
            features=torch.from_numpy(store.embeddings(alias, "image").take(images).astype(np.float32)),
            captions=read(texts_of(store, captions)),
            owner=place[store.image_of(captions)],
            image_rows=images,
            caption_rows=captions,
            image_ids=np.array(store.image_ids(images)),
            caption_ids=np.array(store.caption_ids(captions)),
        )

    def batches(self, size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
        """Positions of captions, every caption once, no image twice in a batch; what fills no batch is left out.

        A pass shows every image once, with another caption each pass.
        """
        draw = np.random.default_rng(seed)
        order = draw.permutation(len(self))
        order = order[np.argsort(self.owner[order], kind="stable")]  # captions of an image together, in random order
        starts = np.flatnonzero(np.diff(self.owner[order], prepend=-1))
        turn = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        for number in range(turn.max() + 1):
            chosen = draw.permutation(order[turn == number])
            for start in range(0, len(chosen) - size + 1, size):
                yield chosen[start : start + size]


def usable(store: Store, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the images of a split that have a photograph and captions that can be read, and of these captions."""
    part = store.splits[split]
    fine = (store.captions["status"] == "ok").to_numpy()
    captions = np.flatnonzero(fine)
    there = (store.images["status"] == "ok").to_numpy()
    owner = store.image_of(captions)
    captions = captions[(owner >= part.start) & (owner < part.stop) & there[owner]]
    return np.unique(store.image_of(captions)), captions


def texts_of(store: Store, rows: np.ndarray) -> list[str]:
    """Captions as they stand in the store."""
    texts: list[str] = store.captions["text"].gather(rows.tolist()).to_list()
    return texts
