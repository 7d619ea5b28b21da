"""Flickr8k's two sets of judgements (Hodosh et al. 2013): grades of three experts, or fractions of yes of a crowd.

The original text files (tabs, no header): `ExpertAnnotations.txt` has image, caption and three grades from 1 (does not
describe the image) to 4 (describes it); `CrowdFlowerAnnotations.txt` has image, caption, fraction of yes, and the
numbers of yes and no. Parquet files with the same facts are read too, by their columns.
"""

from __future__ import annotations

import re

from labelgen.audit.judgements.judgements import Judgements, Sample, graded, ids, numbers, read_table
from labelgen.corpus.text.names import file_stem
from labelgen.errors import DatasetError

_EXPERT = re.compile(r"[^\t]+\t[^\t]+#\d+\t[1-4]\t[1-4]\t[1-4]")
_CROWD = re.compile(r"[^\t]+\t[^\t]+#\d+\t(?:0|1|0?\.\d+|1\.0*)\t\d+\t\d+")


class Flickr8kExperts:
    """Rating: the mean of the three grades. At least 3 counts as right."""

    expects = "Flickr8k: ExpertAnnotations.txt, or parquet with file_name, caption_id and mean_score"

    def sniff(self, sample: Sample) -> bool:
        if sample.is_parquet:
            return {"file_name", "caption_id", "mean_score"} <= set(sample.columns)
        return bool(sample.lines) and all(map(_EXPERT.fullmatch, sample.lines))

    def read(self, sample: Sample) -> Judgements:
        """Read the file; another form is a DatasetError."""
        if not self.sniff(sample):
            raise DatasetError(f"{sample.path.name} has no grades of experts", expected=self.expects)
        frame = read_table(sample, header=False)
        name = sample.path.name
        images, captions, *grades = frame.columns
        if sample.is_parquet:
            rating = numbers(frame, "mean_score", name)
            images, captions = "file_name", "caption_id"
        else:
            columns = [numbers(frame, grade, name) for grade in grades[:3]]
            rating = [None if None in row else sum(row) / 3 for row in zip(*columns, strict=True)]
        return _judgements(sample, ids(frame, images, name), ids(frame, captions, name), rating, 3.0, "1 to 4, experts")


class Flickr8kCrowd:
    """Rating: the fraction of yes. At least one half counts as right."""

    expects = "Flickr8k: CrowdFlowerAnnotations.txt, or parquet with file_name, caption_id and yes_fraction"

    def sniff(self, sample: Sample) -> bool:
        if sample.is_parquet:
            return {"file_name", "caption_id", "yes_fraction"} <= set(sample.columns)
        return bool(sample.lines) and all(map(_is_fraction, sample.lines))

    def read(self, sample: Sample) -> Judgements:
        """Read the file; another form is a DatasetError."""
        if not self.sniff(sample):
            raise DatasetError(f"{sample.path.name} has no judgements of a crowd", expected=self.expects)
        frame = read_table(sample, header=False)
        images, captions, fraction = frame.columns[:3]
        if sample.is_parquet:
            images, captions, fraction = "file_name", "caption_id", "yes_fraction"
        name, scale = sample.path.name, "fraction of yes, crowd"
        rating = numbers(frame, fraction, name)
        return _judgements(sample, ids(frame, images, name), ids(frame, captions, name), rating, 0.5, scale)


def _is_fraction(line: str) -> bool:
    """Return whether a line ends with a fraction of yes and the numbers of yes and no, and they agree."""
    match = _CROWD.fullmatch(line)
    if match is None:
        return False
    share, yes, no = (float(field) for field in line.split("\t")[2:])
    return yes + no > 0 and abs(share - yes / (yes + no)) < 1e-3


def _judgements(
    sample: Sample, files: list[str], captions: list[str], rating: list[float | None], threshold: float, scale: str
) -> Judgements:
    columns = ([file_stem(file) for file in files], captions, rating)
    return graded(sample, f"Flickr8k, {scale.rpartition(' ')[2]}", ("image", "caption"), columns, threshold, scale)
