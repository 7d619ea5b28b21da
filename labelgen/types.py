"""Names and numbers that all packages share."""

from __future__ import annotations

import re
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
#: How stored lists aggregate the captions of an image; blocks know `top2`, the mean of the two largest, too.
Aggregation: TypeAlias = Literal["max", "mean"]
BlockAggregation: TypeAlias = Literal["max", "mean", "top2"]
Scope: TypeAlias = Literal["split", "cross"]

#: What fills a neighbour list that is shorter than k.
PAD_ROW = np.uint32(4294967295)
PAD_SCORE = np.float32(-np.inf)

#: Name of the captions without a kind, where kinds are chosen; no kind of a data set may be called so.
UNSPECIFIED = "unspecified"

#: Splits come first in this order, any other after them by name.
SPLIT_ORDER = ("train", "val", "test")


#: Names that become names of files: letters, digits, `.`, `_` and `-`, not beginning with a dot.
_PATH_WORD = re.compile(r"[\w-][\w.-]{0,127}")
_WORDS = re.compile(rf"{_PATH_WORD.pattern}(/{_PATH_WORD.pattern})*")


def is_path_word(name: str) -> bool:
    """True if a name may become the name of a file or folder, at most 128 characters long."""
    return _PATH_WORD.fullmatch(name) is not None


def is_word_path(path: str) -> bool:
    """True if every part of a relative path may be the name of a file or folder."""
    return _WORDS.fullmatch(path) is not None


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
