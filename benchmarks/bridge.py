"""A bridge on Flickr8k: against people, beside `conse`, and images whose pairs its map saw against others.

    python benchmarks/bridge.py ../shared/data/flickr8k stores/flickr8k

The second folder is a store of all images with text, image and conse teachers (alias text, image, and clip or conse);
it is built when it is not there, and gets a bridge (`bridge()`: cross-fitted on the split train) and `centred` when it
has none. Judged pairs are unannotated, of the split test. Weights of fusions are fitted on the first half of the judged
images, and all figures of fusions are of the second half. Intervals are of 95 % over resampled images.

all-MiniLM-L6-v2 has seen captions of Flickr30k, which shares photographs with Flickr8k: that holds for every figure
with its rows, those of the bridge too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flickr8k import FILES, REPLICATES, unannotated

import labelgen
from labelgen import pipeline
from labelgen.audit.card.fusion import fit_logistic
from labelgen.audit.card.measures import agreement_figures, draw_images
from labelgen.audit.card.pairs import JudgedPairs
from labelgen.relevance.fusion import parse_request
from labelgen.store.reader import Store
from labelgen.teachers.bridge.retrieval import recalls
from labelgen.types import Float64, Int64

MEASURES = ("spearman", "auc", "average_precision")
CUTS = ("1", "5", "10")
#: Inputs of fusions; `pair_scores` has what they mean.
FUSIONS = {
    "text maximum + bridge": ("text maximum", "bridge"),
    "text maximum + conse": ("text maximum", "conse"),
    "two largest + sets, centred": ("two largest", "sets"),
    "two largest + sets, centred + bridge": ("two largest", "sets", "bridge"),
    "two largest + sets, centred + conse": ("two largest", "sets", "conse"),
}


def main(data: Path, out: Path) -> None:
    store = with_bridge(data, out)
    print("all-MiniLM-L6-v2 has seen captions of Flickr30k, which shares photographs with Flickr8k.\n")
    retrieval(store)
    for name in FILES:
        pairs = unannotated(data, store, name)
        scores = pair_scores(store, pairs)
        alone(name, pairs, {key: scores[key] for key in ("text maximum", "conse", "bridge") if key in scores})
        fused(name, pairs, scores)
    folds(data, store)


def with_bridge(data: Path, out: Path) -> Store:
    """The store with a bridge and a centred text teacher."""
    if not (out / "manifest.json").is_file():
        teachers = ("teachers.text=minilm()", "teachers.image=efficientnet_lite()", "teachers.conse=conse()")
        pipeline.build(pipeline.resolve(dataset="flickr8k", overrides=[f'dataset.root="{data}"', *teachers]), out)
    wanted = {"bridge": "bridge()", "centred": "centred(of='text')"}
    store = labelgen.open(out)
    missing = {alias: spec for alias, spec in wanted.items() if alias not in store.manifest.teachers}
    if missing:
        pipeline.add(out, teachers=missing)
    return labelgen.open(out)


def rows(store: Store, alias: str, modality: Any) -> Float64:
    """Unit rows of a teacher, float64."""
    wide = np.asarray(store.embeddings(alias, modality), np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def conse_of(store: Store) -> str | None:
    """The alias of `conse()`; None in a store without it, whose lines are left out."""
    return next((alias for alias, entry in store.manifest.teachers.items() if entry.spec.startswith("conse")), None)


def retrieval(store: Store) -> None:
    """Recall on the split test, and of images that are trained on: held out, and by the map that saw them."""
    report = store.manifest.teachers["bridge"].training["retrieval"]
    test = np.asarray(store.manifest.corpus.splits["test"], np.int64)
    offsets = np.asarray(store.offsets)
    captions = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in test])
    owners = np.repeat(np.arange(len(test)), np.diff(offsets)[test])
    print("| R@1 / 5 / 10, % | images | image to text | text to image |\n|---|---|---|---|")
    lines = {"bridge, split test": report["test"]}
    if (alias := conse_of(store)) is not None:
        image, text = rows(store, alias, "image")[test], rows(store, alias, "text")[captions]
        lines["conse, split test"] = recalls(image, text, owners)
    lines["chance"] = {**report["test"]["chance"], "images": report["test"]["images"]}
    lines["bridge, split train, each image by a map that did not see it"] = report["held_out"]
    lines["bridge, split train, by the map that saw it"] = report["seen"]
    for name, part in lines.items():
        shown_recalls = (" / ".join(f"{100 * part[side][cut]:.1f}" for cut in CUTS) for side in ("i2t", "t2i"))
        print(f"| {name} | {part['images']:,} | {' | '.join(shown_recalls)} |")


def pair_scores(store: Store, pairs: JudgedPairs) -> dict[str, Float64]:
    """Scores of pairs of an image and a caption, [n].

    `text maximum`: cosine with the most similar caption of the image; `two largest`: mean of the two largest, of
    centred rows; `sets`: cosine of the mean row of the image's captions with that of the caption's image, of centred
    rows.
    """
    text, centred = rows(store, "text", "text"), rows(store, "centred", "text")
    offsets = np.asarray(store.offsets)
    most = int(np.diff(offsets).max())
    listed = {name: np.full((most, len(pairs)), -np.inf) for name in ("text", "centred")}
    for number in range(most):
        at = offsets[pairs.left] + number
        there = at < offsets[pairs.left + 1]
        for name, taken in (("text", text), ("centred", centred)):
            listed[name][number, there] = np.einsum("ij,ij->i", taken[at[there]], taken[pairs.right[there]])
    means = np.add.reduceat(centred, offsets[:-1], axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    found = {
        "text maximum": listed["text"].max(axis=0),
        "two largest": np.sort(listed["centred"], axis=0)[-2:].mean(axis=0),
        "sets": np.einsum("ij,ij->i", means[pairs.left], means[store.image_of(pairs.right)]),
    }
    for name, alias in (("bridge", "bridge"), ("conse", conse_of(store))):
        if alias is None:
            continue
        image, caption = rows(store, alias, "image"), rows(store, alias, "text")
        found[name] = np.einsum("ij,ij->i", image[pairs.left], caption[pairs.right])
    return found


def figures(pairs: JudgedPairs, scores: Mapping[str, Float64]) -> None:
    """A table of scores against the ratings of pairs."""
    counts = draw_images(pairs.n_groups, REPLICATES)
    print(f"| label | {' | '.join(MEASURES)} |\n|---|---|---|---|")
    for name, values in scores.items():
        found = agreement_figures(values, pairs.ratings, pairs.groups, counts, right=pairs.positive, measures=MEASURES)
        cells = (f"{found[key].value:.3f} [{found[key].low:.3f}, {found[key].high:.3f}]" for key in MEASURES)
        print(f"| {name} | {' | '.join(cells)} |")


def alone(name: str, pairs: JudgedPairs, scores: Mapping[str, Float64]) -> None:
    print(f"\n{name}: {len(pairs):,} unannotated pairs of {pairs.n_groups} images, all judged pairs\n")
    figures(pairs, scores)


def fused(name: str, pairs: JudgedPairs, scores: Mapping[str, Float64]) -> None:
    """Fusions fitted on the first half, beside their inputs alone, all on the second half."""
    first, second = pairs.first_half, pairs.half("second")
    print(f"\n{name}: {len(second):,} pairs of {second.n_groups} images, second half; fusions fitted on the first\n")
    shown = {key: values[~first] for key, values in scores.items()}
    share = (pairs.ratings - pairs.ratings.min()) / np.ptp(pairs.ratings)
    for label, inputs in FUSIONS.items():
        if not set(inputs) <= set(scores):
            continue
        of = [parse_request(f"i2t.{number}") for number, _ in enumerate(inputs)]
        fitted = fit_logistic(of, [scores[key][first] for key in inputs], share[first], np.ones(int(first.sum())))
        weights = np.array(fitted.weights)
        weighted = sum(weight * scores[key][~first] for weight, key in zip(weights, inputs, strict=True))
        parts = ", ".join(f"{weight / weights[0]:.2f} {key}" for weight, key in zip(weights, inputs, strict=True))
        shown[f"{label} ({parts})"] = np.asarray(weighted)
    figures(second, shown)


def folds(data: Path, store: Store) -> None:
    """Judged pairs without whitening; and when the judged images are trained on, too, by either map."""
    listed = {"within=0, whiten=0": made_by(store, seen=False, within=0.0, whiten=0.0)}
    every = list(store.manifest.corpus.splits)
    for seen in (False, True):
        name = f"trained on all splits, image by a map that has its pair {'seen' if seen else 'not seen'}"
        listed[name] = made_by(store, seen=seen, splits=every)
    print("\nOther bridges")
    for name in FILES:
        pairs = unannotated(data, store, name)
        scores = {called: np.einsum("ij,ij->i", x[pairs.left], y[pairs.right]) for called, (x, y) in listed.items()}
        print(f"\n{name}, all judged pairs\n")
        figures(pairs, scores)
        print(f"\n{name}, second half\n")
        figures(pairs.half("second"), {called: values[~pairs.first_half] for called, values in scores.items()})


def made_by(store: Store, *, seen: bool, **arguments: Any) -> tuple[Float64, Float64]:
    """Unit rows of images and of captions by another bridge; `seen`: by the map of all images."""
    from labelgen.stages.work.train import captions_of
    from labelgen.store.disk.mapped import MappedArray
    from labelgen.teachers.bridge.teacher import bridge
    from labelgen.teachers.trained import Source, Unsaved

    teacher = bridge(**arguments)
    arrays = {Source(entry.alias, entry.modality): entry.array for entry in store.manifest.embeddings}
    taken = {source: MappedArray(store.path, arrays[source]) for source in (teacher.image, teacher.text)}
    training = teacher.train(taken, captions_of(store.path / store.manifest.corpus.path), Unsaved())
    every = {source: array.slice(0, array.shape[0]) for source, array in taken.items()}
    numbers: Int64 | None = None if seen else np.arange(len(every[teacher.image]))
    image = teacher.refine("image", {teacher.image: every[teacher.image]}, training.arrays, numbers)
    text = teacher.refine("text", {teacher.text: every[teacher.text]}, training.arrays)
    return image.astype(np.float64), text.astype(np.float64)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
