"""The towers of a siamese network: linear, ReLU, linear, unit length; both texts of a pair pass through the same one.

    tower(x) = z / |z|,   z = W2 max(0, W1 x + b1) + b2

A store keeps them as `models/ALIAS/towers.safetensors`, so they can be applied to new rows of the source teacher with
numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelgen.errors import ArrayError, TeacherError
from labelgen.teachers.precomputed.features import open_features
from labelgen.teachers.trained import Arrays
from labelgen.types import Float16, Float32

#: Name of the file without its suffix.
FILE = "towers"
NAMES = ("inner.weight", "inner.bias", "outer.weight", "outer.bias")


@dataclass(frozen=True)
class Towers:
    """Weights of one tower, float32.

    Attributes:
        inner_weight, inner_bias: W1 [hidden, D] and b1 [hidden], D the length of the source's rows.
        outer_weight, outer_bias: W2 [dim, hidden] and b2 [dim].
    """

    inner_weight: Float32
    inner_bias: Float32
    outer_weight: Float32
    outer_bias: Float32

    def __post_init__(self) -> None:
        (hidden, _), (dim, inner) = self.inner_weight.shape, self.outer_weight.shape
        if (self.inner_bias.shape, self.outer_bias.shape, inner) != ((hidden,), (dim,), hidden):
            shapes = [list(array.shape) for array in self.arrays().values()]
            raise ArrayError(
                "these are not the weights of a tower", found=f"shapes {shapes}", expected=", ".join(NAMES)
            )

    @property
    def dim(self) -> int:
        """Length of the rows that come out."""
        return len(self.outer_bias)

    def arrays(self) -> dict[str, Float32]:
        """By the names of the file."""
        return dict(zip(NAMES, (self.inner_weight, self.inner_bias, self.outer_weight, self.outer_bias), strict=True))

    @classmethod
    def of(cls, arrays: Arrays) -> Towers:
        """The inverse of `arrays`.

        Raises:
            ArrayError: other names or shapes.
        """
        if set(arrays) < set(NAMES) or any(arrays[name].ndim != (2 if "weight" in name else 1) for name in NAMES):
            raise ArrayError("these are not the weights of a tower", found=", ".join(arrays), expected=", ".join(NAMES))
        return cls(*(np.asarray(arrays[name], np.float32) for name in NAMES))

    @classmethod
    def read(cls, path: str | Path) -> Towers:
        """The towers of a file `towers.safetensors`.

        Raises:
            TeacherError: no such file, or another one.
        """
        source = open_features(Path(path))
        keys = list(source.keys or ())
        if set(keys) != set(NAMES):
            raise TeacherError(f"{path} has no towers", found=", ".join(keys[:6]), expected=", ".join(NAMES))
        return cls.of(dict(zip(keys, source.arrays(range(len(keys))), strict=True)))

    def apply(self, rows: Float16 | Float32) -> Float32:
        """[n, D] unit rows of the source -> [n, dim] unit rows; computed in float64. Zero rows stay zero.

        Raises:
            ArrayError: rows of another length.
        """
        if rows.ndim != 2 or rows.shape[1] != self.inner_weight.shape[1]:
            expected = f"[n, {self.inner_weight.shape[1]}], rows of the teacher that the towers were trained on"
            raise ArrayError("rows do not fit the towers", found=str(list(rows.shape)), expected=expected)
        wide = rows.astype(np.float64)
        hidden = np.maximum(wide @ self.inner_weight.T.astype(np.float64) + self.inner_bias, 0)
        made = hidden @ self.outer_weight.T.astype(np.float64) + self.outer_bias
        made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        made[~wide.any(axis=1)] = 0
        unit: Float32 = made.astype(np.float32)
        return unit
