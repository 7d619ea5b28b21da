"""Graded pairs of sentences of the STS tasks: two sentences and their similarity, 0 to 5.

Formats: tables (csv, tab-separated or parquet) with columns `sentence1`, `sentence2` and `score`, and the tab-separated
files of STS-B without a header: genre, file, year, number, score, sentence 1, sentence 2. The sentences need not be
captions of the store: its text teachers encode the others.
"""

from __future__ import annotations

from labelgen.audit.judgements.judgements import Judgements, Sample, graded, ids, numbers, read_table
from labelgen.errors import DatasetError

_NAMED = {"sentence1", "sentence2", "score"}
_SCORE, _FIRST, _SECOND = 4, 5, 6


class Sts:
    """Sentence pairs. Ratings of at least 4 count as right."""

    expects = "STS: columns sentence1, sentence2, score; or STS-B's seven tab-separated fields"

    def sniff(self, sample: Sample) -> bool:
        return set(sample.columns) >= _NAMED or _is_stsb(sample)

    def read(self, sample: Sample) -> Judgements:
        """Read the file; another form is a DatasetError."""
        if not self.sniff(sample):
            raise DatasetError(f"{sample.path.name} has no pairs of sentences", expected=self.expects)
        headless = not set(sample.columns) >= _NAMED
        frame = read_table(sample, header=not headless)
        first, second, score = ("sentence1", "sentence2", "score")
        if headless:
            first, second, score = (frame.columns[place] for place in (_FIRST, _SECOND, _SCORE))
        name = sample.path.name
        columns = (ids(frame, first, name), ids(frame, second, name), numbers(frame, score, name))
        return graded(sample, "sentence pairs", ("text", "text"), columns, 4.0, "0 (unrelated) to 5 (the same)")


def _is_stsb(sample: Sample) -> bool:
    fields = sample.columns
    if sample.is_parquet or sample.separator != "\t" or len(fields) <= _SECOND:
        return False
    try:
        return 0 <= float(fields[_SCORE]) <= 5
    except ValueError:
        return False
