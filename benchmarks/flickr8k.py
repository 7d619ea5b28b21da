"""The store of Flickr8k, its judged pairs and the text baseline that `card.py` and `audit_quality.py` share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

import labelgen
from labelgen import pipeline
from labelgen.audit.card.pairs import JudgedPairs, resolve
from labelgen.audit.judgements.judgements import read_judgements
from labelgen.errors import MissingExtraError
from labelgen.store.reader import Store
from labelgen.teachers.packages import mpnet_folder
from labelgen.types import Float64, Int64

FILES = ("ExpertAnnotations.txt", "CrowdFlowerAnnotations.txt")  # the parquet files beside them hold the same
REPLICATES = 400


def built(data: Path, out: Path) -> Store:
    """The store of all images with every bundled teacher; made where it is not there."""
    if not (out / "manifest.json").is_file():
        teachers = {"text": "minilm()", "image": "efficientnet_lite(size=2)", "clip": "conse()"}
        teachers["bridge"] = "bridge(image='image', text='text')"
        teachers |= {f"lite{size}": f"efficientnet_lite(size={size})" for size in (0, 1)}
        with suppress(MissingExtraError):
            mpnet_folder()
            teachers["mpnet"] = "mpnet()"
        texts = [f'teachers.{alias}="{spec}"' for alias, spec in teachers.items()]
        pipeline.build(pipeline.resolve(dataset="flickr8k", overrides=[f'dataset.root="{data}"', *texts]), out)
    return labelgen.open(out)


def unannotated(data: Path, store: Store, name: str) -> JudgedPairs:
    """Judged unannotated pairs of a file."""
    pairs = resolve(store, read_judgements(data / name))
    return pairs.take(~pairs.annotated)


class TfIdf:
    """Cosine with the best other caption of the image: 1- and 2-grams, sublinear, fitted on all captions."""

    def __init__(self, store: Store) -> None:
        texts = store.captions["text"].to_list()
        self._rows = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
        self._offsets = np.asarray(store.offsets)

    def scores(self, images: Int64, captions: Int64) -> Float64:
        """One score a pair, [n]."""
        best = np.zeros(len(images))
        for number in range(int(np.diff(self._offsets).max())):
            other = np.minimum(self._offsets[images] + number, self._offsets[images + 1] - 1)
            cosine = np.asarray(self._rows[other].multiply(self._rows[captions]).sum(axis=1)).ravel()
            best = np.maximum(best, np.where(other == captions, 0, cosine))
        return best
