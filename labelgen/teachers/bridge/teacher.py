"""A bridge: image rows mapped into the space of a text teacher, by ridge regression on the corpus' own pairs.

A cross-modal teacher for every store with rows of images and of texts, cross-fitted: the row of an image that is
trained on is made by a map that saw neither it nor its captions (`labelgen.teachers.bridge.maps` has the formula). The
space is that of the text teacher, centred and mildly whitened. Near to CSA (arXiv 2410.07610), which maps both sides by
CCA; cross-fitting as in semiparametric inference and cross-fitted distillation (ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelgen.errors import ConfigError, TeacherError
from labelgen.teachers.base import TeacherInfo, described
from labelgen.teachers.bridge.maps import LONGEST, PENALTIES, Maps, PairedRows, fit, fold_of, mapped
from labelgen.teachers.bridge.retrieval import pool_of, recalls
from labelgen.teachers.checks import unit_less, unit_where
from labelgen.teachers.failures import require_least
from labelgen.teachers.trained import (
    Arrays,
    Captions,
    Derivation,
    Saved,
    Shape,
    Source,
    SourceRows,
    Training,
    caption_rows,
    source_of,
    split_names,
)
from labelgen.types import Float16, Float32, Int64, Modality

#: Name of the file of the maps without its suffix.
FILE = "maps"
_MOST_FOLDS = 20


@described(
    TeacherInfo(
        summary="images and texts in one space: a linear map of image rows, trained in the build on its pairs",
        modalities=("image", "text"),
        example="bridge(image='image', text='text', folds=5)",
        offline="always",
        trained=True,
    )
)
def bridge(
    *,
    image: str = "image",
    text: str = "text",
    folds: int = 5,
    splits: str | Sequence[str] = (),
    penalty: float = 0.0,
    within: float = 0.2,
    whiten: float = 0.1,
    device: str = "cpu",
) -> Bridge:
    """A trained teacher of images and texts.

    Args:
        image, text: aliases of the teachers whose rows of images and of texts are taken.
        folds: parts of the images that are trained on; the map of a part is made of the others.
        splits: what is trained on; the split `train`, or everything where there is none.
        penalty: of the ridge regression, in units of the mean variance of the image rows; 0 chooses it by the folds.
        within, whiten: powers of the covariances of captions, about the mean row of their own image and of all; 0 and
            0 leave the space of the text teacher as it is. The defaults were chosen on one half of the judged images of
            Flickr8k (docs/teachers.md).
        device: taken as every teacher takes it; the maps are solved on the CPU in one thread.

    Raises:
        ConfigError: a value out of range.
    """
    del device
    require_least("folds", folds, 2, "a bridge")
    if folds > _MOST_FOLDS:
        raise ConfigError(f"folds of a bridge is {folds}", expected=f"2 to {_MOST_FOLDS}")
    if not 0 <= penalty < float("inf"):
        raise ConfigError(f"penalty of a bridge is {penalty!r}", expected="0 to choose it, or a positive number")
    for name, power in (("within", within), ("whiten", whiten)):
        if not 0 <= power <= 1:
            raise ConfigError(f"{name} of a bridge is {power!r}", expected="0 to 1")
    if image == text:
        raise ConfigError("a bridge joins two teachers", found=f"image={image!r} and text={text!r}")
    powers = {"within": float(within), "whiten": float(whiten)}
    return Bridge(str(image), str(text), folds, split_names(splits), float(penalty), powers)


class Bridge:
    """A `TrainedTeacher`; arguments as in `bridge`."""

    def __init__(
        self,
        image: str,
        text: str,
        folds: int,
        splits: tuple[str, ...],
        penalty: float,
        powers: Mapping[str, float],
    ) -> None:
        self.image, self.text = Source(image, "image"), Source(text, "text")
        self.folds, self.splits, self.penalty, self.powers = folds, splits, penalty, dict(powers)
        self.sources = (image, text)
        self.modalities: frozenset[Modality] = frozenset({"image", "text"})
        self.dim = 0

    def identity(self) -> Mapping[str, Any]:
        """Every setting, defaults included; the build adds the rows that it is trained on."""
        settings = {"folds": self.folds, "splits": list(self.splits), "penalty": self.penalty, **self.powers}
        return {"sources": list(self.sources), **settings, "penalties": list(PENALTIES)}

    def derive(self, shapes: Mapping[str, Shape]) -> Derivation:
        image, text = (source_of(alias, side, shapes) for alias, side in (self.image, self.text))
        if shapes[image.alias].dim > LONGEST:
            raise ConfigError(
                f"the rows of {image.alias!r} are too long for a bridge",
                found=f"{shapes[image.alias].dim} numbers",
                expected=f"at most {LONGEST}",
            )
        rows: dict[Modality, tuple[Source, ...]] = {"image": (image,), "text": (text,)}
        return Derivation(shapes[text.alias].dim, rows, (image, text), FILE)

    def train(self, rows: Mapping[Source, SourceRows], captions: Captions, saved: Saved) -> Training:
        """Fit the maps. Nothing is saved: it takes seconds.

        The report: `fit` (splits, numbers of images and captions, folds, penalty) and `retrieval`, the recall of up to
        1,000 images (see `recalls`): `held_out` of images that are trained on, by the maps of their folds, `seen` of
        the same images by the map that saw them, and of every other split.

        Raises:
            TeacherError: an unknown split, too few images, or equal rows.
        """
        del saved
        images, texts = rows[self.image], rows[self.text]
        splits = captions.splits_to_train_on(self.splits, "a bridge")
        candidates = captions.images_of(splits)
        used = PairedRows.of(images, texts, captions, candidates)
        fold = np.full(len(captions.image_ids), -1, np.int64)
        fold[candidates] = fold_of(captions.names_of(candidates), self.folds)
        self._refuse_few(used, fold[used.chosen])
        penalties = (self.penalty,) if self.penalty else PENALTIES
        maps = fit(used, fold[used.chosen], self.folds, penalties, **self.powers)
        arrays = _arrays(maps, fold)
        report = {
            "fit": {
                "splits": list(splits),
                "images": len(used.chosen),
                "captions": len(caption_rows(captions, used.chosen)[0]),
                "folds": self.folds,
                "penalty": maps.penalty,
                "correlation": round(max(maps.correlations), 6),
            },
            "retrieval": self._judged(rows, captions, arrays, used.chosen, splits),
        }
        return Training(arrays, report)

    def refine(
        self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays, numbers: Int64 | None = None
    ) -> Float32:
        """See `TrainedTeacher.refine`. Images that were trained on are mapped by the map of their fold."""
        if modality == "text":
            if "text.map" not in arrays:
                return unit_less(rows[self.text], arrays["text.mean"])
            return unit_less(mapped(rows[self.text], arrays["text.mean"], arrays["text.map"]), arrays["text.centre"])
        wide = rows[self.image].astype(np.float64)
        fold = np.full(len(wide), -1, np.int64)
        if numbers is not None:
            known = numbers < len(arrays["folds"])
            fold[known] = arrays["folds"][numbers[known]]
        made, centred = np.zeros((len(wide), arrays["map"].shape[1])), wide - arrays["image.mean"]
        for number in np.unique(fold).tolist():
            here = fold == number
            weights = arrays["map"] if number < 0 else arrays["fold.maps"][number]
            made[here] = centred[here] @ weights.astype(np.float64)
        return unit_where(made, np.asarray(wide.any(axis=1)))

    def _judged(
        self, rows: Mapping[Source, SourceRows], captions: Captions, arrays: Arrays, used: Int64, named: Sequence[str]
    ) -> dict[str, Any]:
        """Recall of the images that were trained on, and of other splits."""

        def recall(chosen: Int64, *, numbered: bool) -> dict[str, Any]:
            pool = pool_of(chosen)
            at, owners = caption_rows(captions, pool)
            x = {self.image: rows[self.image].take(pool)}
            y = {self.text: rows[self.text].take(at)}
            made = self.refine("image", x, arrays, pool if numbered else None)
            texts = self.refine("text", y, arrays)
            alive = texts.any(axis=1) & (captions.texts[at] >= 0)
            return recalls(made.astype(np.float64), texts[alive].astype(np.float64), owners[alive])

        found = {"held_out": recall(used, numbered=True), "seen": recall(used, numbered=False)}
        for name, members in captions.splits.items():
            if name in named:
                continue
            others = PairedRows.of(rows[self.image], rows[self.text], captions, np.asarray(members, np.int64)).chosen
            if len(others) > 1:
                found[name] = recall(others, numbered=True)
        return found

    def _refuse_few(self, used: PairedRows, fold: Int64) -> None:
        """Refuse a corpus that leaves a map fewer than two images."""
        outside = len(fold) - np.bincount(fold, minlength=self.folds)
        if len(fold) < 2 * self.folds or outside.min() < 2:
            raise TeacherError(
                "a bridge cannot be trained on so few images",
                found=f"{len(used.chosen)} images with a row by {self.image.alias!r} and a caption with a row by "
                f"{self.text.alias!r}",
                expected=f"at least {2 * self.folds}, two for each of {self.folds} folds",
            )


def _arrays(maps: Maps, fold: Int64) -> dict[str, Any]:
    """By the names of the file: means float64, maps float32, folds of all images of the corpus int16, -1 for none."""
    space = {}
    if maps.space is not None:
        space = {"text.map": maps.space.map.astype(np.float32), "text.centre": maps.space.centre}
    return {
        **space,
        "image.mean": maps.image_mean,
        "text.mean": maps.text_mean,
        "map": maps.whole.astype(np.float32),
        "fold.maps": maps.folds.astype(np.float32),
        "folds": fold.astype(np.int16),
    }
