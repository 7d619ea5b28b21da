"""Lists that follow from lists of rows: images by their best captions, without one more product.

Let s(c, m) be the similarity of captions, and an image v stand for its captions m. Keys are `keys.py`'s: smaller is
better, equal scores go by row.

*t2i from t2t.* s(c, v) = max over m of s(c, m). In the sorted list of c, the first caption of every image makes the
maximum of the image, and images come in the order of these captions: captions are numbered as their images are, so
equal scores too are in order. A list that goes down to the k-th best image is enough.

*i2t from t2t.* s(v, c) = max over m of s(m, c). If c is among the k best of v, by the key of m, it is among the k best
of m: k better ones of m would be as good for v. So the k best of v are among the k best of its captions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from labelgen.similarity.sort_keys import PAD_KEY
from labelgen.similarity.tiled.bits import compiled
from labelgen.types import Int32, Int64, UInt64

_SCORE, _UNIT = np.uint64(0xFFFFFFFF00000000), np.uint64(0xFFFFFFFF)
_PAD = PAD_KEY


def best_images(keys: UInt64, rank: int, start: int, group: Int32, first: int) -> UInt64:
    """The best `rank` images of sorted lists of captions [n, c], each with the key of its best caption; [n, rank].

    Args:
        start, group: the first candidate, and the image of every one, counted from the image `first`.
    """
    found = np.full((len(keys), rank), PAD_KEY)
    seen = np.full(int(group[-1]) + 1 if len(group) else 0, -1, np.int32)
    _best_images(keys, start, group, first, seen, found)
    return found


def best_of_captions(keys: UInt64, rank: int, bounds: Int64, start: int, count: int) -> UInt64:
    """The best `rank` captions of images, from the sorted lists of their own captions; [images, rank].

    Args:
        keys: [captions, c], c >= rank; those of image v are rows bounds[v]:bounds[v + 1].
        start, count: first candidate, and their number.
    """
    found = np.full((len(bounds) - 1, rank), PAD_KEY)
    _best_of_captions(np.ascontiguousarray(keys[:, :rank]), bounds, start, np.full(count, -1, np.int64), found)
    return found


@compiled
def _best_images(keys: Any, start: Any, group: Any, first: Any, seen: Any, found: Any) -> None:
    for row in range(len(keys)):
        place = 0
        for key in keys[row]:
            if place == found.shape[1] or key == _PAD:
                break
            own = group[np.int64(key & _UNIT) - start]
            if seen[own] != row:
                seen[own] = row
                found[row, place] = (key & _SCORE) | np.uint64(first + own)
                place += 1


@compiled
def _best_of_captions(keys: Any, bounds: Any, start: Any, seen: Any, found: Any) -> None:
    """Lists are merged one after the other: linear in the captions of an image."""
    rank, merge = found.shape[1], 0
    held = np.empty(rank, np.uint64)
    for image in range(len(bounds) - 1):
        best = found[image]
        for row in range(bounds[image], bounds[image + 1]):
            held[:] = best
            merge += 1
            mine, theirs, place = 0, 0, 0
            while place < rank:
                # Places taken so far are `place` at least as many as were consumed from either list.
                if held[mine] <= keys[row, theirs]:
                    key = held[mine]
                    mine += 1
                else:
                    key = keys[row, theirs]
                    theirs += 1
                if key == _PAD:
                    break
                candidate = np.int64(key & _UNIT) - start
                if seen[candidate] != merge:
                    seen[candidate] = merge
                    best[place] = key
                    place += 1
