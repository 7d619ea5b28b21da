"""Wikipedia 2010: retrieval by category from features, with labels of a tf-idf teacher.

The student reads what the original papers read, 128 numbers of an image (SIFT words) and 10 of a text (topics). The
text teacher is another view of the training documents, 1,000 tf-idf numbers. A pair is an image and its own text; the
ten categories are seen by the measure alone: every item of a query's category is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import scipy.io
import torch
from torch import Tensor

import labelgen
from comparison.measures import Function, Kept, Measure
from comparison.training import Budget, embed, train
from corpus import Corpus
from labelgen import pipeline
from labelgen.store.reader import Store

#: The lists are in random order: the last sixth of the training documents is there to choose by.
VAL_SHARE = 6
#: An epoch has 14 steps. More epochs give less on val.
EPOCHS = 20


def build(folder: Path, out: Path) -> None:
    """A store of the features in `folder`: teacher `text` is tf-idf, `image` the SIFT histogram.

    Args:
        folder: has features.parquet and originals/ with raw_features.mat and the lists.
    """
    frame = pl.read_parquet(folder / "features.parquet")
    matrices = scipy.io.loadmat(folder / "originals" / "raw_features.mat")
    tfidf = np.concatenate([matrices["T_tfidf_tr"], matrices["T_tfidf_te"]])  # rows as in the frame
    files = {name: out.parent / f"{out.name}-{name}.parquet" for name in ("text", "image")}
    out.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"id": frame["text_id"], "feature": tfidf.tolist()}).write_parquet(files["text"])
    frame.select(id="image_id", feature="image_feature_128").write_parquet(files["image"])
    overrides = [
        f"dataset.root={folder / 'originals'}",
        "dataset.options.features_only=true",
        *(f"teachers.{name}=precomputed(path={str(path)!r}, modality={name!r})" for name, path in files.items()),
    ]
    pipeline.build(pipeline.resolve(dataset="wikipedia", overrides=overrides), out)


@dataclass(frozen=True)
class Wikipedia:
    """The store in memory. Labels are asked for `train` alone."""

    store: Store
    train: Corpus
    val: Corpus
    test: Corpus
    category: dict[str, np.ndarray]

    @classmethod
    def open(cls, path: Path, folder: Path) -> Wikipedia:
        """The store at `path`, made of `folder` if it is not there."""
        if not path.exists():
            build(folder, path)
        store = labelgen.open(path)
        frame = pl.read_parquet(folder / "features.parquet")
        topics = dict(zip(frame["text_id"], frame["text_feature_10"], strict=True))
        whole, test = (corpus_of(store, split, topics) for split in ("train", "test"))
        border = len(whole) - len(whole) // VAL_SHARE
        parts = {"train": part(whole, 0, border), "val": part(whole, border, len(whole)), "test": test}
        label = store.images["category"].to_numpy()
        return cls(store, **parts, category={name: label[item.image_rows] for name, item in parts.items()})

    def run(self, text: str, budget: Budget, seed: int) -> Kept:
        """Train a student and keep the average precision of every query."""
        towers = train(text, self.train, self.store, None, budget, seed)
        found = {}
        for name in ("val", "test"):
            images, texts = embed(towers, getattr(self, name))
            right = self.category[name][:, None] == self.category[name][None, :]
            found[f"{name}.i2t"] = average_precisions(images @ texts.T, right)
            found[f"{name}.t2i"] = average_precisions(texts @ images.T, right)
        return found

    def selecting(self) -> list[Measure]:
        """What choices are made by."""
        return self._measures("val")

    def reporting(self) -> list[Measure]:
        """What is reported."""
        return self._measures("test")

    def _measures(self, split: str) -> list[Measure]:
        images = len(self.category[split])
        both = [Measure(f"{way} mAP", images, mean_of(f"{split}.{way}")) for way in ("i2t", "t2i")]
        return [*both, Measure("mean mAP", images, mean_of(f"{split}.i2t", f"{split}.t2i"))]


def corpus_of(store: Store, split: str, topics: dict[str, list[float]]) -> Corpus:
    """A split whose captions are features of the student's own."""
    rows = np.arange(store.splits[split].start, store.splits[split].stop)
    images, captions = store.image_ids(rows), store.caption_ids(rows)  # one text an image: rows are the same
    return Corpus(
        features=torch.from_numpy(store.embeddings("image", "image").take(rows).astype(np.float32)),
        captions=torch.tensor([topics[name] for name in captions], dtype=torch.float32).log(),
        owner=np.arange(len(rows)),
        image_rows=rows,
        caption_rows=rows,
        image_ids=np.array(images),
        caption_ids=np.array(captions),
    )


def part(corpus: Corpus, start: int, stop: int) -> Corpus:
    """Documents start to stop."""
    here = slice(start, stop)
    names = ("features", "captions", "image_rows", "caption_rows", "image_ids", "caption_ids")
    return Corpus(owner=np.arange(stop - start), **{name: getattr(corpus, name)[here] for name in names})


def average_precisions(scores: Tensor, right: np.ndarray) -> np.ndarray:
    """Average precision of every query over all candidates, [queries]; equal scores by position."""
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")
    hit = np.take_along_axis(right, order, axis=1)
    precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
    found: np.ndarray = (precision * hit).sum(axis=1) / hit.sum(axis=1)
    return found


def mean_of(*names: str) -> Function:
    """The mean over queries, and over the directions that are named."""

    def mean(kept: Kept, counts: np.ndarray) -> np.ndarray:
        values = np.mean([kept[name] for name in names], axis=0)
        found: np.ndarray = counts @ values / counts.sum(axis=1)
        return found

    return mean
