"""Words and numbers that every room shares."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float16: TypeAlias = NDArray[np.float16]
Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Int8: TypeAlias = NDArray[np.int8]
UInt16: TypeAlias = NDArray[np.uint16]
UInt32: TypeAlias = NDArray[np.uint32]
UInt64: TypeAlias = NDArray[np.uint64]
Int32: TypeAlias = NDArray[np.int32]
Int64: TypeAlias = NDArray[np.int64]
Bool: TypeAlias = NDArray[np.bool_]

Modality: TypeAlias = Literal["text", "image"]
Aggregation: TypeAlias = Literal["max", "mean"]
Scope: TypeAlias = Literal["split", "cross"]

#: What fills a neighbour list that is shorter than k.
PAD_ROW = np.uint32(4294967295)
PAD_SCORE = np.float32(-np.inf)

#: Splits come first in this order, any other after them by name.
SPLIT_ORDER = ("train", "val", "test")


class Relation(StrEnum):
    """A direction of comparison: the letter before the 2 is the query, the one after it the candidate.

    `t2t`, `i2i` compare rows of one modality. `i2t` compares an image, as the set of its captions, with a caption;
    `t2i` is the same matrix read by columns. With a cross-modal teacher both are plain similarities.
    """

    T2T = "t2t"
    I2I = "i2i"
    I2T = "i2t"
    T2I = "t2i"

    @property
    def query(self) -> Modality:
        return "image" if self.value[0] == "i" else "text"

    @property
    def candidate(self) -> Modality:
        return "image" if self.value[2] == "i" else "text"
