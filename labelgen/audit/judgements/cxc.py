"""Crisscrossed Captions (Parekh et al. 2021, arXiv 2004.15020): graded pairs of COCO's val and test items.

Comma-separated files with a header: STS `caption1,caption2,...`, SIS `image1,image2,...`, SITS `caption,image,...`,
then a column whose name contains `score`, then how the pair was drawn. A caption is `COCO_val2014:sentid:190268`, an
image `COCO_val2014_000000545309.jpg`; the numbers at the end are COCO's annotation and image ids. Ratings go from 0 to
5.
"""

from __future__ import annotations

from labelgen.audit.judgements.judgements import Judgements, Kind, Sample, graded, ids, numbers, read_table
from labelgen.errors import DatasetError

_TASKS: dict[tuple[str, ...], tuple[tuple[Kind, Kind], str]] = {
    ("caption1", "caption2"): (("caption", "caption"), "STS"),
    ("image1", "image2"): (("image", "image"), "SIS"),
    ("caption", "image"): (("image", "caption"), "SITS"),
}


class Cxc:
    """STS, SIS and SITS files, aggregated or raw (several ratings of a pair are averaged)."""

    expects = "CxC: csv with caption1,caption2 or image1,image2 or caption,image and a score"

    def sniff(self, sample: Sample) -> bool:
        return (sample.is_parquet or sample.separator == ",") and sample.columns[:2] in _TASKS

    def read(self, sample: Sample) -> Judgements:
        """Read the file; another form is a DatasetError."""
        task = _TASKS.get(sample.columns[:2])
        score = next((column for column in sample.columns[2:] if "score" in column), None)
        if task is None or score is None:
            raise DatasetError(
                f"{sample.path.name} is not a file of CxC", found=", ".join(sample.columns)[:200], expected=self.expects
            )
        kinds, word = task
        frame = read_table(sample)
        first, second = (
            _numbers_at_the_end(ids(frame, column, sample.path.name), sample.path.name) for column in sample.columns[:2]
        )
        left, right = (second, first) if word == "SITS" else (first, second)
        columns = (left, right, numbers(frame, score, sample.path.name))
        return graded(sample, f"CxC {word}", kinds, columns, 3.0, "0 (unrelated) to 5 (the same)")


def _numbers_at_the_end(values: list[str], name: str) -> list[str]:
    """`COCO_val2014:sentid:190268` -> `190268`, `COCO_val2014_000000545309.jpg` -> `545309`."""
    found = []
    for value in values:
        last = value.rpartition(":")[2].partition(".")[0].rpartition("_")[2]
        if not last.isdecimal():
            raise DatasetError(f"{name} has an id of an unknown form", found=repr(value), expected="one of COCO")
        found.append(str(int(last)))
    return found
