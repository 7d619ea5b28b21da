"""Weighted unit rows of several teachers side by side: their dot product is the weighted mean of the cosines.

    z = (sqrt(w_1 / w) x_1, sqrt(w_2 / w) x_2, ...),  w = sum w_i   =>   z.z' = sum w_i x_i.x_i' / w

So a fusion of teachers is one teacher, with exact lists. Rows are stored as float16; how far that moves the cosine from
the fusion of the parts is measured in the build.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from labelgen.errors import ConfigError
from labelgen.teachers.base import TeacherInfo, described
from labelgen.teachers.checks import normalise, unit_where
from labelgen.teachers.trained import (
    Arrays,
    Captions,
    Derivation,
    Saved,
    Shape,
    Source,
    SourceRows,
    Training,
)
from labelgen.types import Float16, Float32, Float64, Int64, Modality

#: Pairs of rows that the distance from the fusion of the parts is measured on, and the seed of their draw.
PAIRS, SEED = 20_000, 20221105
_PIECE = 2048


@described(
    TeacherInfo(
        summary="weighted rows of several teachers side by side: a fusion of their similarities with exact lists",
        modalities=("image", "text"),
        example="concat(text=1, bridge=.5)",
        offline="always",
        trained=True,
    )
)
def concat(*, device: str = "cpu", **weights: float) -> Concat:
    """A teacher whose cosine is the weighted mean of the cosines of its parts.

    Args:
        weights: alias of a part -> its weight, positive.
        device: taken as every teacher takes it.

    Raises:
        ConfigError: fewer than two parts, or a weight that is not positive.
    """
    del device
    if len(weights) < 2:
        raise ConfigError(
            "concat needs two parts", found=", ".join(weights) or "none", expected="concat(text=1, clip=1)"
        )
    for alias, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise ConfigError(f"the weight of {alias!r} in concat is {weight!r}", expected="a positive number")
    return Concat({alias: float(weight) for alias, weight in sorted(weights.items())})


class Concat:
    """A `TrainedTeacher` without a file; arguments as in `concat`.

    It has rows of texts where all parts have, and rows of images where a part has: in the row of an image, a part
    without rows of images stands with the mean row of the image's captions.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
        self.weights, self.sources = dict(weights), tuple(weights)
        self._scales = {alias: float(np.sqrt(weight / total)) for alias, weight in weights.items()}
        self.modalities: frozenset[Modality] = frozenset()
        self.dim = 0

    def identity(self) -> Mapping[str, Any]:
        """The parts and their weights."""
        return {"sources": list(self.sources), "weights": list(self.weights.values())}

    def derive(self, shapes: Mapping[str, Shape]) -> Derivation:
        sides = {alias: shapes[alias].modalities for alias in self.sources}
        rows: dict[Modality, tuple[Source, ...]] = {}
        if any("image" in side for side in sides.values()):
            rows["image"] = tuple(
                Source(alias, "image" if "image" in side else "text") for alias, side in sides.items()
            )
        if all("text" in side for side in sides.values()):
            rows["text"] = tuple(Source(alias, "text") for alias in sides)
        made_of = [source for listed in rows.values() for source in listed]
        return Derivation(sum(shapes[alias].dim for alias in sides), rows, tuple(dict.fromkeys(made_of)), "")

    def train(self, rows: Mapping[Source, SourceRows], captions: Captions, saved: Saved) -> Training:
        """Nothing is trained: the distance of the float16 rows from the fusion of the parts is measured.

        The report: `fusion`: numbers of pairs, largest and mean absolute difference of the cosine of two rows from the
        weighted mean of the cosines of their parts; of texts where there are such rows, else of images.
        """
        del captions, saved
        parts = self._common(rows)
        count = min((listed.shape[0] for listed in parts.values()), default=0)
        pairs = np.random.default_rng(SEED).integers(count, size=(PAIRS, 2)) if count else np.empty((0, 2), np.int64)
        off = [self._distances(parts, pairs[start : start + _PIECE]) for start in range(0, len(pairs), _PIECE)]
        found = np.concatenate([np.empty(0), *off])
        measured = {
            "pairs": len(found),
            "largest": float(f"{found.max(initial=0):.3g}"),
            "mean": float(f"{found.mean() if len(found) else 0:.3g}"),
        }
        return Training({}, {"fusion": measured})

    def refine(
        self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays, numbers: Int64 | None = None
    ) -> Float32:
        """See `TrainedTeacher.refine`; a row is zero where a part is."""
        by_alias = {source.alias: listed.astype(np.float64) for source, listed in rows.items()}
        return self._beside([by_alias[alias] for alias in self.sources])

    def _beside(self, parts: list[Float64]) -> Float32:
        alive = np.all([part.any(axis=1) for part in parts], axis=0)
        scaled = [scale * unit_where(part, alive) for scale, part in zip(self._scales.values(), parts, strict=True)]
        return unit_where(np.concatenate(scaled, axis=1).astype(np.float64), alive)

    def _common(self, rows: Mapping[Source, SourceRows]) -> dict[str, SourceRows]:
        """Rows of one modality by part: texts where all have them, else images where all have them, else none."""
        for modality in ("text", "image"):
            found = {source.alias: listed for source, listed in rows.items() if source.modality == modality}
            if len(found) == len(self.sources):
                return {alias: found[alias] for alias in self.sources}
        return {}

    def _distances(self, parts: Mapping[str, SourceRows], pairs: Int64) -> Float64:
        left, right = ([part.take(pairs[:, side]).astype(np.float64) for part in parts.values()] for side in (0, 1))
        alive = np.all([x.any(axis=1) & y.any(axis=1) for x, y in zip(left, right, strict=True)], axis=0)
        left, right = ([part[alive] for part in side] for side in (left, right))
        squares = [scale**2 for scale in self._scales.values()]
        fused = sum(square * _cosines(x, y) for square, x, y in zip(squares, left, right, strict=True))
        stored = [normalise(self._beside(side)).astype(np.float64) for side in (left, right)]
        distances: Float64 = np.abs(_cosines(*stored) - fused)
        return distances


def _cosines(x: Float64, y: Float64) -> Float64:
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    found: Float64 = np.einsum("ij,ij->i", x, y) / np.where(scale > 0, scale, 1)
    return found
