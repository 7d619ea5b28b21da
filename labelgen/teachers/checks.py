"""Checks of the rows of every teacher: right shape, finite, not zero, and not the same for everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from labelgen.errors import TeacherError, some
from labelgen.types import Bool, Float16, Float32, Float64

#: Rows are handled in pieces of about this size, so that wide ones (D = 37,632) need little beside themselves.
_PIECE_BYTES = 8 << 20
#: A teacher that gives (nearly) one row for everything has cosines like these between different items. Real teachers,
#: anisotropic ones included, stay far below: their *mean* may be .9, but not nine tenths of their pairs above .9999.
_SAME = 0.9999
_SHARE_OF_PAIRS = 0.9
_MIN_ROWS, _MAX_ROWS = 8, 64
#: Length of what is left of a row of length 1 when an equal one is subtracted in float64.
_NOTHING = 1e-12


def check_rows(rows: Float32, *, dim: int, ids: Sequence[str], what: str) -> None:
    """Refuse rows that cannot be embeddings; `ids` name them, `what` names the teacher in the message.

    Raises:
        TeacherError: not [len(ids), dim], or rows that are not finite or zero, with their ids.
    """
    if rows.shape != (len(ids), dim):
        raise TeacherError(
            f"{what} returned rows of the wrong shape",
            found=f"{list(rows.shape)} for {some(ids)}",
            expected=f"[{len(ids)}, {dim}]",
        )
    finite = np.ones(len(rows), dtype=np.bool_)
    zero = np.zeros(len(rows), dtype=np.bool_)
    for piece in _pieces(rows):
        finite[piece] = np.isfinite(rows[piece]).all(axis=1)
        zero[piece] = ~rows[piece].any(axis=1)
    _refuse(~finite, ids, f"{what} returned rows that are not finite (NaN or infinite)")
    _refuse(zero, ids, f"{what} returned rows of zeros")


def check_not_constant(rows: Float32 | Float16, what: str) -> None:
    """Refuse a teacher that gives (nearly) the same row for everything.

    `rows` are a sample of the rows of *distinct* items, [n, dim]; up to 64 of them, evenly spaced, are compared. Fewer
    than 8 are not judged. Constant means: nine tenths of all pairs have a cosine above .9999.

    Raises:
        TeacherError: the rows are constant.
    """
    if len(rows) < _MIN_ROWS:
        return
    picked = np.unique(np.linspace(0, len(rows) - 1, _MAX_ROWS).round().astype(np.int64))
    sample = rows[picked].astype(np.float64)
    sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    if np.mean(cosines > _SAME) >= _SHARE_OF_PAIRS:
        raise TeacherError(
            f"{what} gives (nearly) the same row for everything",
            found=f"{np.mean(cosines > _SAME):.0%} of the pairs of {len(sample)} different items have a cosine above "
            f"{_SAME}",
            expected="different rows for different items",
            todo="check that the weights were loaded and that the features belong to this dataset",
        )


def check_row_count(identity: Mapping[str, Any], modality: str, rows: int, what: str) -> None:
    """Refuse features without ids that are not exactly as many as the corpus has rows.

    `identity` is that of a keyed teacher; under the modality it may say `by: row`, and how many `rows` its file has.

    Raises:
        TeacherError: one more or one less, and every row may belong to another item.
    """
    facts = identity.get(modality)
    if not isinstance(facts, Mapping) or facts.get("by") != "row" or facts.get("rows") == rows:
        return
    items = "images" if modality == "image" else "captions"
    raise TeacherError(
        f"{what} has features without ids for another number of {items}",
        found=f"{facts.get('rows'):,} rows of features, {rows:,} {items} in the corpus",
        expected="one row for every row of the corpus, in its order",
        todo="give the ids of the rows with ids='FILE'",
    )


def normalise(rows: Float32) -> Float16:
    """Unit rows as they are stored: norm and division in float64, rounded once, to float16.

    A row of the result has a norm of about 1 (within 2^-11); the store's similarity divides by the norms it really has.
    Rows must have passed `check_rows`.
    """
    unit = np.empty(rows.shape, dtype=np.float16)
    for piece in _pieces(rows):
        wide = rows[piece].astype(np.float64)
        unit[piece] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def unit_rows(rows: Float32) -> Float32:
    """Rows scaled to length 1, in place, and returned; zero rows stay zero and rows that are not finite stay so."""
    for piece in _pieces(rows):
        norms = np.linalg.norm(rows[piece].astype(np.float64), axis=1, keepdims=True)
        norms[norms == 0] = 1
        with np.errstate(invalid="ignore"):
            rows[piece] /= norms
    return rows


def unit_where(rows: Float64, alive: Bool) -> Float32:
    """Rows of length 1 [n, d]; zero where not `alive` [n], or where (nearly) nothing is left of a row."""
    norms = np.linalg.norm(rows, axis=1)
    there = alive & (norms > _NOTHING)
    unit = np.zeros(rows.shape, np.float32)
    unit[there] = rows[there] / norms[there, None]
    return unit


def unit_less(rows: Float16 | Float32, mean: Float64) -> Float32:
    """Unit rows of the differences from a mean row, (x - m) / |x - m| [n, d]; zero rows stay zero."""
    wide = rows.astype(np.float64)
    return unit_where(wide - mean, np.asarray(wide.any(axis=1)))


def _pieces(rows: Float32) -> Iterator[slice]:
    step = max(1, _PIECE_BYTES // max(1, rows.shape[1] * 8))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def _refuse(bad: Bool, ids: Sequence[str], problem: str) -> None:
    if bad.any():
        raise TeacherError(
            problem,
            found=f"{int(bad.sum())} of {len(ids)} rows: {some([ids[int(row)] for row in np.flatnonzero(bad)])}",
            expected="finite rows that are not zero",
            todo="repair or leave out these items, or use another teacher or precision",
        )
