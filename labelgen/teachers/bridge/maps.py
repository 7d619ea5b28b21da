"""Cross-fitted linear maps from image rows x into the space of text rows y (ridge regression).

Images are divided into folds. With the mean rows m of all images and texts that are trained on,

    W_f = (S + p s I)^-1 C,   S = sum (x_i - m_x)(x_i - m_x)',   C = sum (x_i - m_x)(y_i - m_y)',   s = trace(S) / D,

over the images outside fold f; y_i is the mean row of the captions of image i. W, of all images, is for new ones. An
image of fold f has the row W_f'(x - m_x), so no pair of its fold has a part in it. The two means are shared: they
belong to images alone and to texts alone, so they know no pair, and all folds have one origin.

S and C outside a fold are the sums over all images less those over the fold. Sums are made in float64 in a fixed order.

Caption rows t are brought into another space first, by one matrix P for all folds, made of captions alone; y_i is the
mean of the rows there:

    u(u((t - m) P) - n),   P = A (A V A + r I)^-whiten,   A = (U + r I)^-within,   u(x) = x / |x|

with the covariances of captions, V about their mean row m and U about the mean row of their own image, r a tenth of the
mean eigenvalue of the matrix beside it, and n the mean of the rows before it is taken away. U is what five people write
about one photograph; directions in which they differ count less (within-class covariance normalization, Hatch et al.
2006). V is what captions say most of; mild whitening lets rarer directions count more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labelgen.errors import TeacherError
from labelgen.fingerprint import digest
from labelgen.teachers.checks import unit_where
from labelgen.teachers.trained import Captions, Rows, caption_means, means_by_image, usable_captions
from labelgen.types import Bool, Float16, Float32, Float64, Int64

#: Candidates of the penalty p, in units of the mean variance of the image rows.
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
#: Longest rows of images: the sums are D x D numbers a fold.
LONGEST = 8192
_PIECE = 2048
#: What is added to the eigenvalues of a covariance before a power of it is taken, in units of their mean.
_SHRINKAGE = 0.1


@dataclass(frozen=True)
class PairedRows:
    """Rows of the images that are trained on and the mean rows of their captions, read in pieces."""

    images: Rows
    texts: Rows
    captions: Captions
    chosen: Int64

    @classmethod
    def of(cls, images: Rows, texts: Rows, captions: Captions, candidates: Int64) -> PairedRows:
        """The images among `candidates` (ascending) that have a row and a caption with a row."""
        every = cls(images, texts, captions, candidates)
        usable = [alive for _, _, alive in every._pieces(candidates)]
        return cls(images, texts, captions, candidates[np.concatenate([np.empty(0, np.bool_), *usable])])

    def pieces(self) -> Iterator[tuple[slice, Float64, Float64]]:
        """(positions in `chosen`, image rows [n, D], mean caption rows [n, T]) of consecutive images."""
        start = 0
        for x, y, _ in self._pieces(self.chosen):
            yield slice(start, start + len(x)), x, y
            start += len(x)

    def caption_covariances(self, mean: Float64) -> tuple[Float64, Float64]:
        """Sums over the captions of the chosen images, [T, T]: of squares about `mean`, and about the own image's."""
        length = self.texts.shape[1]
        total, within = np.zeros((length, length)), np.zeros((length, length))
        for start in range(0, len(self.chosen), _PIECE):
            images = self.chosen[start : start + _PIECE]
            rows, owners = usable_captions(self.texts, self.captions, images)
            own = rows - means_by_image(rows, owners, len(images))[0][owners]
            total += (rows - mean).T @ (rows - mean)
            within += own.T @ own
        return total, within

    def _pieces(self, chosen: Int64) -> Iterator[tuple[Float64, Float64, Bool]]:
        for start in range(0, len(chosen), _PIECE):
            rows = chosen[start : start + _PIECE]
            x = self.images.take(rows).astype(np.float64)
            y, counts = caption_means(self.texts, self.captions, rows)
            yield x, y, x.any(axis=1) & (counts > 0)


def fold_of(names: Sequence[str], folds: int) -> Int64:
    """The fold of every image, from the hash of its name: it does not depend on other images."""
    return np.array([int(digest(name.encode(errors="surrogatepass"))[:12], 16) % folds for name in names], np.int64)


@dataclass(frozen=True)
class TextSpace:
    """Caption rows in the space of the module; `Rows`.

    Attributes:
        rows: of captions.
        mean: m [T].
        map: P [T, T].
        centre: n [T].
    """

    rows: Rows
    mean: Float64
    map: Float64
    centre: Float64

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def take(self, rows: Int64) -> Float32:
        """u((t - m) P) of captions, float32 [n, T]; zero rows stay zero."""
        return mapped(self.rows.take(rows), self.mean, self.map)


def mapped(rows: Float16 | Float32, mean: Float64, matrix: Float64) -> Float32:
    """Unit rows of (t - m) P, [n, T]; zero rows stay zero."""
    wide = rows.astype(np.float64)
    return unit_where((wide - mean) @ matrix, np.asarray(wide.any(axis=1)))


@dataclass(frozen=True)
class Maps:
    """Maps W, float64.

    Attributes:
        image_mean, text_mean: m_x [D] and m [T], which is m_y where there is no P.
        space: P [T, T] and n [T]; None where both powers are 0.
        whole: W of all images, [D, T].
        folds: W of the images outside each fold, [F, D, T].
        penalty: the p that was chosen.
        correlations: of every candidate of p, the correlation of held-out rows with their targets.
    """

    image_mean: Float64
    text_mean: Float64
    space: TextSpace | None
    whole: Float64
    folds: Float64
    penalty: float
    correlations: tuple[float, ...]


def fit(
    rows: PairedRows,
    fold: Int64,
    folds: int,
    penalties: Sequence[float] = PENALTIES,
    *,
    within: float = 0.0,
    whiten: float = 0.0,
) -> Maps:
    """Fit the maps of all folds and the whole one; `fold` of every chosen image.

    The penalty is the candidate with the largest correlation between rows of images and their targets, each row by the
    map that did not see it: sum f.y / sqrt(sum f.f sum y.y); the larger one of equals.

    Raises:
        TeacherError: all rows of images, or of texts, are equal.
    """
    image_mean, text_mean = _means(rows)
    space = _space(rows, text_mean, within, whiten)
    target_mean = text_mean
    if space is not None:
        rows, target_mean = replace(rows, texts=space), space.centre
    moments = _moments(rows, fold, folds, image_mean, target_mean)
    inputs, crosses, spread = (sum(parts) for parts in zip(*moments, strict=True))
    for name, size in (("image", np.trace(inputs)), ("text", spread)):
        if size <= 1e-9 * len(rows.chosen):
            raise TeacherError(
                f"a bridge cannot be trained: the {name} rows of all images are the same",
                found=f"{len(rows.chosen)} images with equal {name} rows",
                expected="rows that differ",
                todo=f"check the {name} teacher and its features",
            )
    outside = [(inputs - own, crosses - cross) for own, cross, _ in moments]
    agreement = np.zeros((len(penalties), 2))
    for (gram, target), (own, cross, _) in zip(outside, moments, strict=True):
        for place, penalty in enumerate(penalties):
            weights = _solved(gram, target, penalty)
            agreement[place] += (weights * cross).sum(), (weights * (own @ weights)).sum()
    scale = np.sqrt(np.maximum(agreement[:, 1], np.finfo(np.float64).tiny) * spread)
    found = agreement[:, 0] / scale
    penalty = penalties[max(range(len(penalties)), key=lambda place: (found[place], penalties[place]))]
    fitted = np.stack([_solved(gram, target, penalty) for gram, target in outside])
    whole = _solved(inputs, crosses, penalty)
    return Maps(image_mean, text_mean, space, whole, fitted, float(penalty), tuple(found.tolist()))


def _space(rows: PairedRows, mean: Float64, within: float, whiten: float) -> TextSpace | None:
    if not within and not whiten:
        return None
    total, own = rows.caption_covariances(mean)
    first = _power(own, -within)
    space = TextSpace(rows.texts, mean, first @ _power(first @ total @ first, -whiten), np.zeros_like(mean))
    return replace(space, centre=_means(replace(rows, texts=space))[1])


def _power(covariance: Float64, exponent: float) -> Float64:
    """The power of a symmetric matrix, its eigenvalues over their mean; the identity where that is 0, as of the
    captions about their own image where every image has one."""
    values, vectors = np.linalg.eigh(covariance)
    scale = float(values.mean())
    if not exponent or scale <= np.finfo(np.float64).tiny:
        return np.eye(len(covariance))
    powers = (np.maximum(values / scale, 0) + _SHRINKAGE) ** exponent
    made: Float64 = (vectors * powers) @ vectors.T
    return made


def _means(rows: PairedRows) -> tuple[Float64, Float64]:
    sums = [(x.sum(axis=0), y.sum(axis=0)) for _, x, y in rows.pieces()]
    count = len(rows.chosen)
    image, text = (np.sum(parts, axis=0) / count for parts in zip(*sums, strict=True))
    return image, text


def _moments(
    rows: PairedRows, fold: Int64, folds: int, image_mean: Float64, text_mean: Float64
) -> list[tuple[Float64, Float64, float]]:
    """S [D, D], C [D, T] and sum |y - m_y|^2 of every fold."""
    length, width = len(image_mean), len(text_mean)
    grams, crosses, spreads = np.zeros((folds, length, length)), np.zeros((folds, length, width)), np.zeros(folds)
    for piece, x, y in rows.pieces():
        for number in range(folds):
            here = fold[piece] == number
            own, target = x[here] - image_mean, y[here] - text_mean
            grams[number] += own.T @ own
            crosses[number] += own.T @ target
            spreads[number] += (target * target).sum()
    return list(zip(grams, crosses, spreads.tolist(), strict=True))


def _solved(gram: Float64, cross: Float64, penalty: float) -> Float64:
    """(S + p s I)^-1 C; zero where S is."""
    scale = float(np.trace(gram)) / len(gram)
    if scale <= 0:
        return np.zeros_like(cross)
    solved: Float64 = np.asarray(np.linalg.solve(gram + penalty * scale * np.eye(len(gram)), cross), np.float64)
    return solved
