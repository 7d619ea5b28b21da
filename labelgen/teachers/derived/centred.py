"""Rows of another teacher less their mean row: cosines of rows that share a direction spread over a wider range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelgen.errors import TeacherError
from labelgen.teachers.base import TeacherInfo, described
from labelgen.teachers.checks import unit_less
from labelgen.teachers.trained import (
    Arrays,
    Captions,
    Derivation,
    Saved,
    Shape,
    Source,
    SourceRows,
    Training,
    split_names,
)
from labelgen.types import Float16, Float32, Float64, Int64, Modality

#: Name of the file of the mean rows without its suffix.
FILE = "means"
_PIECE = 8192


@described(
    TeacherInfo(
        summary="the rows of another teacher less their mean row of the split that is trained on",
        modalities=("image", "text"),
        example="centred(of='text')",
        offline="always",
        trained=True,
    )
)
def centred(*, of: str = "text", splits: str | Sequence[str] = (), device: str = "cpu") -> Centred:
    """A teacher of the modalities of its source.

    Args:
        of: alias of the source.
        splits: what the mean is of; the split `train`, or everything where there is none.
        device: taken as every teacher takes it.
    """
    del device
    return Centred(str(of), split_names(splits))


class Centred:
    """A `TrainedTeacher`: (x - m) / |x - m|, m the mean of the rows of one modality; arguments as in `centred`."""

    def __init__(self, of: str, splits: tuple[str, ...]) -> None:
        self.of, self.splits, self.sources = of, splits, (of,)
        self.modalities: frozenset[Modality] = frozenset()
        self.dim = 0

    def identity(self) -> Mapping[str, Any]:
        """The source and the splits."""
        return {"of": self.of, "splits": list(self.splits)}

    def derive(self, shapes: Mapping[str, Shape]) -> Derivation:
        shape = shapes[self.of]
        rows = {modality: (Source(self.of, modality),) for modality in sorted(shape.modalities)}
        return Derivation(shape.dim, rows, tuple(source for made_of in rows.values() for source in made_of), FILE)

    def train(self, rows: Mapping[Source, SourceRows], captions: Captions, saved: Saved) -> Training:
        """The mean rows. The report: `mean_of`: splits, and numbers of rows by modality.

        Raises:
            TeacherError: an unknown split, or no row to take the mean of.
        """
        del saved
        splits = captions.splits_to_train_on(self.splits, "a centred teacher")
        images = captions.images_of(splits)
        chosen = {"image": images, "text": np.flatnonzero(np.isin(captions.images, images) & (captions.texts >= 0))}
        means, counts = dict[str, Float64](), dict[str, Any]()
        for source, listed in rows.items():
            means[source.modality], counts[source.modality] = _mean(listed, chosen[source.modality])
            if not counts[source.modality]:
                raise TeacherError(
                    f"there is no {source.modality} row of {self.of!r} to take the mean of",
                    found=f"none in {', '.join(splits)}",
                    expected="rows of the images that are trained on",
                )
        return Training(means, {"mean_of": {"splits": list(splits), **counts}})

    def refine(
        self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays, numbers: Int64 | None = None
    ) -> Float32:
        """See `TrainedTeacher.refine`."""
        return unit_less(rows[Source(self.of, modality)], arrays[modality])


def _mean(rows: SourceRows, chosen: Int64) -> tuple[Float64, int]:
    """The mean of the given rows without zero rows [d], and their number."""
    total, count = np.zeros(rows.shape[1]), 0
    for start in range(0, len(chosen), _PIECE):
        taken = rows.take(chosen[start : start + _PIECE]).astype(np.float64)
        total += taken.sum(axis=0)
        count += int(taken.any(axis=1).sum())
    return total / max(1, count), count
