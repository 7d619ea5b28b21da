"""Connected components: items that edges hold together, however long the chain."""

from __future__ import annotations

import numpy as np

from labelgen.types import Int64


def components(count: int, left: Int64, right: Int64) -> Int64:
    """The smallest item of the component of every item, [count].

    Args:
        left, right: the ends of the edges, [e].
    """
    label = np.arange(count, dtype=np.int64)
    while True:
        before = label.copy()
        lowest = np.minimum(label[left], label[right])
        # the representative of either end learns of the other's: whole trees are hooked at once
        np.minimum.at(label, before[left], lowest)
        np.minimum.at(label, before[right], lowest)
        while not np.array_equal(label, label[label]):
            label = label[label]
        if np.array_equal(label, before):
            return label
