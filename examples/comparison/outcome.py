"""What is kept of a run: ranks and scores of single queries and pairs, so that measures can be made later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from corpus import Corpus
from labelgen.audit.card.pairs import JudgedPairs

#: Nothing is compared with itself.
_ITSELF = -2.0


def ranks_of(images: Tensor, texts: Tensor, owner: np.ndarray) -> dict[str, np.ndarray]:
    """Rank, from 1, of the best right answer of every query; equal scores count against it.

    `i2t` [images]: the first own caption; `t2i` [captions]: the own image; `t2t` [captions]: the first other caption of
    the same image, 0 for a caption without one.
    """
    scores = (images @ texts.T).numpy()
    own = owner[None, :] == np.arange(len(images))[:, None]
    among = (texts @ texts.T).numpy()
    np.fill_diagonal(among, _ITSELF)
    same = owner[None, :] == owner[:, None]
    np.fill_diagonal(same, False)
    t2t = _ranks(among, same)
    t2t[~same.any(axis=1)] = 0
    return {"i2t": _ranks(scores, own), "t2i": _ranks(scores.T, own.T), "t2t": t2t}


def scores_of(images: Tensor, texts: Tensor, corpus: Corpus, judged: Sequence[JudgedPairs]) -> Mapping[str, np.ndarray]:
    """The student's scores of the judged pairs (image, caption), by file and by what is compared.

    `cross`: image and caption; `texts`: the caption with the most similar caption of the image, itself left out;
    `images`: the image and the image that the caption belongs to.
    """
    found = {}
    for pairs in judged:
        left = np.searchsorted(corpus.image_rows, pairs.left)
        right = np.searchsorted(corpus.caption_rows, pairs.right)
        name = pairs.judgements.name
        found[f"{name}.cross"] = (images[left] * texts[right]).sum(dim=1).numpy()
        found[f"{name}.images"] = (images[left] * images[corpus.owner[right]]).sum(dim=1).numpy()
        found[f"{name}.texts"] = _best_caption(texts, corpus.owner, left, right)
    return found


def _best_caption(texts: Tensor, owner: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Largest cosine of caption `right` with a caption of image `left`, without itself, [n]."""
    among = (texts @ texts.T).numpy()
    np.fill_diagonal(among, _ITSELF)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))  # captions lie in the order of their images
    best: np.ndarray = np.maximum.reduceat(among, starts, axis=1)[right, left]
    return best


def _ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~right).sum(axis=1) + 1
