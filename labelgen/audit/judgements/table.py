"""Ratings of pairs in your own table: parquet, or text with a header.

Two of the columns `image_id`, `caption_id`, `text`, `image_id_2`, `caption_id_2`, `text_2` name the pair, `rating` is
higher for more similar pairs. With a column `positive` (true or false) AUC and average precision are reported, too; all
positive pairs must be rated above all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.audit.judgements.judgements import Judgements, Kind, Sample, graded, ids, numbers, read_table
from labelgen.errors import DatasetError

if TYPE_CHECKING:
    import polars as pl

_KINDS: dict[str, Kind] = {
    "image_id": "image",
    "caption_id": "caption",
    "text": "text",
    "image_id_2": "image",
    "caption_id_2": "caption",
    "text_2": "text",
}


class Ratings:
    """A table of ratings."""

    expects = "a table with rating and two of image_id, caption_id, text (and the same with _2)"

    def sniff(self, sample: Sample) -> bool:
        return "rating" in sample.columns and len(_sides(sample)) == 2

    def read(self, sample: Sample) -> Judgements:
        """Read the file.

        Raises:
            DatasetError: other columns, or `positive` contradicts the rating.
        """
        sides = _sides(sample)
        if "rating" not in sample.columns or len(sides) != 2:
            raise DatasetError(
                f"{sample.path.name} is not a table of ratings",
                found=", ".join(sample.columns)[:200],
                expected=self.expects,
            )
        frame = read_table(sample)
        rating = numbers(frame, "rating", sample.path.name)
        left, right = (ids(frame, column, sample.path.name) for column in sides)
        kinds = _KINDS[sides[0]], _KINDS[sides[1]]
        threshold = _threshold(frame, sample.path.name) if "positive" in frame.columns else None
        return graded(sample, "ratings", kinds, (left, right, rating), threshold, "higher is more similar")


def _sides(sample: Sample) -> list[str]:
    """Return the columns that are compared; an image comes first."""
    return [column for column in _KINDS if column in sample.columns]


def _threshold(frame: pl.DataFrame, name: str) -> float:
    import polars as pl

    yes = frame["positive"].cast(pl.String).str.to_lowercase().is_in(["true", "1", "yes"])
    rating = frame["rating"].cast(pl.Float64, strict=False)
    right, wrong = rating.filter(yes).min(), rating.filter(~yes).max()
    if right is None or (wrong is not None and right <= wrong):  # type: ignore[operator]
        raise DatasetError(
            f"the columns positive and rating of {name} contradict each other",
            found=f"lowest rating that is positive {right!r}, highest that is not {wrong!r}",
            expected="every positive pair rated above every other",
        )
    return float(right)  # type: ignore[arg-type]
