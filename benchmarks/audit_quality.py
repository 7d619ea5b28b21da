"""The findings of the audit against people and against noise that was put in.

    python benchmarks/audit_quality.py --data ../shared/data --store stores/flickr8k --texts stores/flickr30k

`--store` is the store that `benchmarks/card.py` takes, built when it is not there; figures of false negatives come from
the same pairs and resampled images as those of the card, and equal rows have equal figures. `--texts` is Flickr30k
with a text teacher; either can be left out.
False negatives: all judged unannotated pairs; choices were made on one half of the judged images (drawn with seed
0), the other half is reported beside all. Noise: captions swapped at random, with one that shares a noun, with a near
neighbour, or with one of a similar photograph, on Flickr8k as it is, with one caption an image, and on other stores
(`--photos` and `--texts` may be given several times). Where there are photographs a bridge is trained on the swapped
captions, as a build does.
Intervals are of 95 % over resampled images.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from flickr8k import FILES, REPLICATES, TfIdf, built, unannotated
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

import labelgen
from labelgen.audit.card.measures import draw_images
from labelgen.audit.checks.false_negatives import WEIGHTS, StoreScorer, weighted
from labelgen.audit.checks.mismatch import MismatchModel
from labelgen.audit.corpus_view import Held, NeighborLists, View, unit
from labelgen.similarity.caption_sets import pair_set_similarities
from labelgen.store.kinds import AllCaptions
from labelgen.teachers.bridge.teacher import bridge
from labelgen.teachers.trained import Captions, Unsaved

SHARES = (0.01, 0.1, 0.4)
#: Weights of earlier versions, of the same evidence without centering; `cross` was set by hand.
OLD_WEIGHTS = {
    "caption_set_top2": 0.95, "sets": 0.85, "neighbor_captions": 0.54, "images": 0.09, "hubness": -0.53,
    "length": -0.52, "cross": 0.5,
}  # fmt: skip
#: Falls with these, so alone they are turned round.
TURNED = ("hubness", "length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with flickr8k and noise_truth")
    parser.add_argument("--store", type=Path, help="Flickr8k with a text and an image teacher")
    parser.add_argument("--texts", type=Path, action="append", default=[], help="a store with a text teacher")
    parser.add_argument("--photos", type=Path, action="append", default=[], help="a store with an image teacher, too")
    parser.add_argument("--plot", type=Path, help="where to draw precision, recall and noise")
    parser.add_argument("--part", choices=("positives", "noise", "all"), default="all")
    options = parser.parse_args()
    curves: dict[str, Any] = {}
    if options.store and options.part != "noise":
        positives(built(options.data / "flickr8k", options.store), options.data / "flickr8k", curves)
    if options.part != "positives":
        truth = pl.read_parquet(options.data / "noise_truth" / "known_noise.parquet")
        if options.store:
            store = built(options.data / "flickr8k", options.store)
            view = View.of(store)
            noise("Flickr8k, photographs and five captions an image", view, texts_of(store), curves, clusters=True)
            alone, kept = one_caption(view)
            noise("Flickr8k, photographs and one caption an image", alone, texts_of(store, kept), curves)
            flagged("Flickr8k", store, view, truth.filter(pl.col("source") == "flickr8k"))
        for path in options.photos:
            store = labelgen.open(path)
            view = View.of(store)
            noise(f"{path.name}, photographs", view, texts_of(store), curves)
            alone, kept = one_caption(view)
            noise(f"{path.name}, photographs and one caption an image", alone, texts_of(store, kept), curves)
        for path in options.texts:
            store = labelgen.open(path)
            view = replace(View.of(store), image={}, cross={}, i2i=None)
            noise(f"{path.name}, texts alone", view, texts_of(store), curves)
            listed = truth.filter(pl.col("source") != "flickr8k")
            held = [
                caption for caption in listed["caption_id"] if store.caption_rows([caption], missing_ok=True)[0] >= 0
            ]
            if held:
                flagged(path.name, store, view, listed.filter(pl.col("caption_id").is_in(held)))
    if options.plot:
        draw(options.plot, curves)


# False negatives


def positives(store: labelgen.Store, data: Path, curves: dict[str, Any]) -> None:
    """Tables of every piece of evidence and of the score, beside TF-IDF and chance."""
    judge = StoreScorer(store)
    tf_idf = TfIdf(store)
    found = {name: unannotated(data, store, name) for name in FILES}
    sets = {name: (pairs.left, pairs.right, pairs.positive) for name, pairs in found.items()}
    scores = {}
    for name, (images, captions, _) in sets.items():
        evidence, score = judge.of(images, captions)
        units = judge.standard(images, captions)
        alone = {name: WEIGHTS[name] for name in ("caption_set_top2", "sets", "length")}
        rows = {"**default**": score, "default, texts alone": weighted(units, alone)}
        rows["weights of earlier versions"] = weighted(units, OLD_WEIGHTS)
        rows["maximum"] = maximum(judge.view, images, captions)
        rows |= {f"{piece} alone": (-values if piece in TURNED else values) for piece, values in evidence.items()}
        rows["TF-IDF, best caption"] = tf_idf.scores(images, captions)
        rows["chance"] = np.random.default_rng(0).random(len(images))
        scores[name] = {label: values for label, values in rows.items() if not np.isnan(values).any()}
    chosen = half(np.concatenate([images for images, _, _ in sets.values()]), len(store.offsets) - 1)
    for name, (images, _, right) in sets.items():
        for part, kept in (("the other half", ~chosen[images]), ("all judged pairs", np.ones(len(images), bool))):
            table(name, part, images[kept], right[kept], {label: s[kept] for label, s in scores[name].items()})
        curves[f"{name}"] = {label: (right, s) for label, s in scores[name].items() if "alone" not in label}
        curves[f"{name}"]["caption_set_max alone"] = (right, scores[name]["caption_set_max alone"])
    fitted(judge, sets, chosen)


def maximum(view: View, images: Any, captions: Any) -> Any:
    """The plain text maximum: the caption with the most similar caption of the image, itself left out."""
    rows, sets = next(iter(view.text.values())), AllCaptions(view.offsets)
    return pair_set_similarities(rows, sets, images, captions, "max")


def half(images: Any, count: int) -> Any:
    """Which images the weights may see: half of the judged ones, bool [count]."""
    known = np.unique(images)
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(0).permutation(known)[: len(known) // 2]] = True
    return chosen


def table(name: str, part: str, images: Any, right: Any, rows: dict[str, Any]) -> None:
    print(f"\n### False negatives, {name}, {part}: {len(right):,} pairs, {right.sum():,} right ({right.mean():.3f})\n")
    print(
        "| score | AUC | average precision | P@100 | P@1,000 | default is better by (AP) |\n|---|---|---|---|---|---|"
    )
    drawn = list(resamples(images))
    default = [average_precision_score(right[rows_], rows["**default**"][rows_]) for rows_ in drawn]
    alone: dict[str, float] = {}  # piece of evidence -> lower end of the default's lead
    for label, score in sorted(rows.items(), key=lambda item: -average_precision_score(right, item[1])):
        found = [measures(right, score), *(measures(right[rows_], score[rows_]) for rows_ in drawn)]
        cells = [f"{found[0][m]:.3f} [{low:.3f}, {high:.3f}]" for m in range(4) for low, high in [spread(found, m)]]
        gap = np.array(default) - np.array([item[1] for item in found[1:]])
        better = (
            ""
            if label == "**default**"
            else "{:+.3f} [{:+.3f}, {:+.3f}]".format(
                average_precision_score(right, rows["**default**"]) - found[0][1], *np.percentile(gap, [2.5, 97.5])
            )
        )
        print(f"| {label} | {' | '.join(cells)} | {better} |")
        if label.endswith("alone"):
            alone[label] = float(np.percentile(gap, 2.5))
    beaten = [label for label, low in alone.items() if low > 0]
    print(f"\nThe default beats {len(beaten)} of {len(alone)} pieces of evidence, with an interval clear of zero.")


def measures(right: Any, score: Any) -> tuple[float, float, float, float]:
    best = right[np.argsort(-score, kind="stable")]
    return roc_auc_score(right, score), average_precision_score(right, score), best[:100].mean(), best[:1000].mean()


def resamples(images: Any) -> Iterator[Any]:
    """Rows of images drawn with replacement, as the card draws them: pairs of one image are not independent."""
    _, groups = np.unique(images, return_inverse=True)
    for counts in draw_images(int(groups.max()) + 1, REPLICATES)[1:]:
        yield np.repeat(np.arange(len(images)), counts[groups])


def spread(found: list[Any], number: int) -> tuple[float, float]:
    low, high = np.percentile([item[number] for item in found[1:]], [2.5, 97.5])
    return float(low), float(high)


def fitted(judge: StoreScorer, sets: dict[str, Any], chosen: Any) -> None:
    """Weights of a logistic fit: to the chosen half, both files of equal weight, and to either file alone."""
    print("\n### Weights\n\n| evidence | shipped | chosen half | " + " | ".join(sets) + " |\n|---|---|---|---|---|")
    every = np.ones(len(chosen), bool)
    columns = [weights_of(judge, sets, chosen)]
    columns += [weights_of(judge, {name: part}, every) for name, part in sets.items()]
    for name, shipped in WEIGHTS.items():
        cells = [f"{column[name]:.2f}" if name in column else "" for column in columns]
        print(f"| {name} | {shipped:.2f} | {' | '.join(cells)} |")


def weights_of(judge: StoreScorer, sets: dict[str, Any], chosen: Any) -> dict[str, float]:
    rows, rights, weights = [], [], []
    for images, captions, right in sets.values():
        here = chosen[images]
        units = judge.standard(images[here], captions[here])
        # neighbor_captions stands in for a missing cross
        unused = "neighbor_captions" if "cross" in units else "cross"
        names = [name for name in WEIGHTS if name in units and name != unused]
        rows.append(np.stack([np.nan_to_num(units[name]) for name in names], axis=1))
        rights.append(right[here])
        weights.append(np.full(here.sum(), 1 / here.sum()))
    share = np.concatenate(weights)
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(np.concatenate(rows), np.concatenate(rights), sample_weight=share * len(share) / share.sum())
    return dict(zip(names, model.coef_[0].tolist(), strict=True))


# Noisy pairs


def texts_of(store: labelgen.Store, rows: Any = None) -> list[str]:
    texts = store.captions["text"].fill_null("")
    return (texts if rows is None else texts.gather(rows)).to_list()


def noise(title: str, view: View, texts: list[str], curves: dict[str, Any], *, clusters: bool = False) -> None:
    """A table of noise put in, level by level."""
    print(f"\n### Noisy pairs: {title}\n")
    print("| swapped | share | score | AUC | precision at the number of bad pairs | share estimated |")
    print("|---|---|---|---|---|---|")
    rows = Held(np.asarray(view.text[next(iter(view.text))].take(np.arange(view.n_captions))))
    near = with_siblings(view, rows)
    groups = photo_clusters(view) if clusters else None
    partners = shared_nouns(texts)
    kinds = {
        "at random": lambda share, draw: swapped(view, share, draw),
        "with one of the same noun": lambda share, draw: exchanged(view, partners, share, draw),
        "with a near one": lambda share, draw: exchanged(view, lambda c, _: near.ids[c][near.ids[c] >= 0], share, draw),
    }
    if view.i2i is not None:
        similar = similar_photographs(view)
        kinds["with one of a similar photograph"] = lambda share, draw: exchanged(view, similar, share, draw)
    for kind, swap in kinds.items():
        for share in SHARES:
            moved = swap(share, np.random.default_rng(7))
            bad = view.image_of[moved] != view.image_of
            changed = bridged(rearranged(view, rows, near, moved))
            found = MismatchModel(changed).find()
            living = found.captions
            low, high = found.noise_interval
            judges = {"**noisy_pairs**": (found.score, f"{found.noise:.3f} [{low:.3f}, {high:.3f}]")}
            judges |= {name: (values[living], "") for name, values in baselines(changed, groups).items()}
            for name, (score, estimate) in judges.items():
                auc, precision = noise_measures(bad[living], score)
                print(f"| {kind} | {share:.0%} | {name} | {auc:.4f} | {precision:.3f} | {estimate} |", flush=True)
                curves.setdefault(f"noise: {title}, {kind}", {}).setdefault(name, []).append((share, auc))


def noise_measures(bad: Any, score: Any) -> tuple[float, float]:
    first = np.argsort(-score, kind="stable")[: bad.sum()]
    return roc_auc_score(bad, score), float(bad[first].mean())


def bridged(view: View) -> View:
    """The corpus with a bridge that was trained on its captions as they stand; without photographs as it is."""
    if not view.image:
        return view
    teacher = bridge()
    captions = Captions(
        view.image_of,
        np.arange(view.n_captions),
        [None] * view.n_images,
        view.splits,
        [str(row) for row in range(view.n_images)],
    )
    sources: Any = {teacher.image: next(iter(view.image.values())), teacher.text: next(iter(view.text.values()))}
    arrays = teacher.train(sources, captions, Unsaved()).arrays
    photographs = sources[teacher.image].take(np.arange(view.n_images))
    images = teacher.refine("image", {teacher.image: photographs}, arrays, np.arange(view.n_images))
    texts = teacher.refine("text", {teacher.text: sources[teacher.text].take(np.arange(view.n_captions))}, arrays)
    others = {alias: sides for alias, sides in view.cross.items() if alias != "bridge"}
    return replace(view, cross={**others, "bridge": (Held(images), Held(texts))})


#: Words before and after a noun of a caption: "two dogs run" is missed, "a dog is running" is not.
_BEFORE = frozenset(["a", "an", "the", "two", "three", "some", "his", "her", "their"])
_AFTER = frozenset(
    ["is", "are", "in", "on", "with", "at", "and", "of", "through", "near", "by", "to", "that", "who", "while"]
)


def shared_nouns(texts: list[str]) -> Any:
    """Captions that share a noun with a caption, drawn at random: a function of the caption and a generator."""
    words = [re.findall(r"[^\W\d_]+", text.lower()) for text in texts]
    seen, framed = Counter[str](), Counter[str]()
    for caption in words:
        seen.update(caption)
        for before, word, after in zip(caption, caption[1:], [*caption[2:], "."], strict=False):
            framed[word] += before in _BEFORE and (after in _AFTER or after == ".")
    nouns = {word for word, count in framed.items() if count >= 0.15 * seen[word] and seen[word] >= 5}
    nouns -= _BEFORE | _AFTER
    holding: dict[str, list[int]] = {noun: [] for noun in nouns}
    for row, caption in enumerate(words):
        for noun in set(caption) & nouns:
            holding[noun].append(row)

    def partners(caption: int, draw: np.random.Generator) -> Any:
        mine = sorted(set(words[caption]) & nouns)
        chosen = [holding[mine[place]] for place in draw.permutation(len(mine))]
        drawn = [np.asarray(rows)[draw.integers(0, len(rows), 8)] for rows in chosen]
        return np.concatenate(drawn) if drawn else np.empty(0, np.int64)

    return partners


def similar_photographs(view: View) -> Any:
    """Captions of the five photographs most similar to that of a caption: a function of the caption and a generator."""
    lists, offsets = view.i2i.ids[:, :5], view.offsets

    def partners(caption: int, draw: np.random.Generator) -> Any:
        images = lists[view.image_of[caption]]
        images = draw.permutation(images[images >= 0])
        sets = [np.arange(offsets[image], offsets[image + 1]) for image in images]
        return np.concatenate([draw.permutation(rows) for rows in sets]) if sets else np.empty(0, np.int64)

    return partners


def swapped(view: View, share: float, draw: np.random.Generator) -> Any:
    """Which caption stands at every place when a share of them was swapped at random."""
    chosen = draw.permutation(view.n_captions)[: round(share * view.n_captions)]
    moved = np.arange(view.n_captions)
    moved[chosen] = np.roll(chosen, 1)
    return moved


def exchanged(view: View, partners: Any, share: float, draw: np.random.Generator) -> Any:
    """The same, every caption swapped with its first partner of another image that still stands at its place."""
    moved, taken = np.arange(view.n_captions), np.zeros(view.n_captions, bool)
    left = round(share * view.n_captions)
    for caption in draw.permutation(view.n_captions):
        if left <= 0:
            break
        others = partners(caption, draw)
        free = others[~taken[others] & (view.image_of[others] != view.image_of[caption])]
        if not taken[caption] and len(free):
            moved[caption], moved[free[0]] = free[0], caption
            taken[[caption, free[0]]] = True
            left -= 2
    return moved


def with_siblings(view: View, rows: Held) -> NeighborLists:
    """NeighborLists that know the captions of the own image too: those of the store leave them out."""
    ids, scores = [], []
    for start in range(0, view.n_captions, 8192):
        here = np.arange(start, min(start + 8192, view.n_captions))
        own, real = view.sets(view.image_of[here])
        real = real & (own != here[:, None])
        similar = np.einsum("nkd,nd->nk", unit(rows.take(own.ravel())).reshape(*own.shape, -1), unit(rows.take(here)))
        all_ids = np.concatenate([np.where(real, own, -1), view.t2t.ids[here]], axis=1)
        all_scores = np.concatenate([np.where(real, similar, -np.inf), view.t2t.scores[here]], axis=1)
        order = np.argsort(-all_scores, axis=1, kind="stable")
        ids.append(np.take_along_axis(all_ids, order, axis=1))
        scores.append(np.take_along_axis(all_scores, order, axis=1))
    return NeighborLists(np.concatenate(ids), np.concatenate(scores).astype(np.float32))


def rearranged(view: View, rows: Held, near: NeighborLists, moved: Any) -> View:
    """The corpus after the swaps: place p holds caption moved[p], and its list leaves out the image it stands at."""
    place = np.empty(len(moved), np.int64)
    place[moved] = np.arange(len(moved))
    ids, scores = near.ids[moved], near.scores[moved]
    ids = np.where(ids >= 0, place[np.maximum(ids, 0)], -1)
    foreign = (ids >= 0) & (view.image_of[np.maximum(ids, 0)] != view.image_of[:, None])
    scores = np.where(foreign, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :64]
    lists = NeighborLists(
        np.take_along_axis(np.where(foreign, ids, -1), order, axis=1), np.take_along_axis(scores, order, axis=1)
    )
    cross = {alias: (photographs, Held(texts.take(moved))) for alias, (photographs, texts) in view.cross.items()}
    return replace(view, text={"text": Held(rows.rows[moved])}, cross=cross, t2t=lists)


def one_caption(view: View) -> tuple[View, Any]:
    """One caption of every image, drawn at random, with lists among those captions; and their rows."""
    draw = np.random.default_rng(3)
    kept = view.offsets[:-1] + (draw.random(view.n_images) * np.diff(view.offsets)).astype(np.int64)
    rows = unit(next(iter(view.text.values())).take(kept))
    ids, scores = np.full((len(kept), 64), -1, np.int64), np.full((len(kept), 64), -np.inf, np.float32)
    for images in view.splits.values():
        similar = rows[images.start : images.stop] @ rows[images.start : images.stop].T
        np.fill_diagonal(similar, -np.inf)
        width = min(64, len(images) - 1)
        order = np.argsort(-similar, axis=1, kind="stable")[:, :width]
        ids[images.start : images.stop, :width] = order + images.start
        scores[images.start : images.stop, :width] = np.take_along_axis(similar, order, axis=1)
    offsets = np.arange(len(kept) + 1)
    fields = {name: getattr(view, name) for name in ("splits", "image", "i2i")}
    cross = {alias: (photographs, Held(texts.take(kept))) for alias, (photographs, texts) in view.cross.items()}
    return View(offsets=offsets, text={"text": Held(rows)}, cross=cross, t2t=NeighborLists(ids, scores), **fields), kept


def baselines(view: View, groups: Any) -> dict[str, Any]:
    """Distance to the siblings, confident learning over clusters of photographs, and a cross-modal cosine."""
    found: dict[str, Any] = {}
    rows = unit(view.text["text"].take(np.arange(view.n_captions)))
    if view.width > 1:
        own, real = view.sets(view.image_of)
        real = real & (own != np.arange(view.n_captions)[:, None])
        total = np.zeros(view.n_captions)
        for number in range(view.width):
            total += np.where(real[:, number], np.einsum("nd,nd->n", rows[own[:, number]], rows), 0)
        found["mean distance to siblings"] = -total / np.maximum(real.sum(axis=1), 1)
    if groups is not None:
        found["confident learning, 50 clusters of photographs"] = -self_confidence(view, rows, groups)
    for alias, (photographs, texts) in view.cross.items():
        found[f"image-caption cosine, {alias}"] = -np.einsum(
            "nd,nd->n", unit(photographs.take(view.image_of)), unit(texts.take(np.arange(view.n_captions)))
        )
    return found


def photo_clusters(view: View) -> Any:
    """A class for every image: its cluster among 50 of the photographs."""
    rows = unit(next(iter(view.image.values())).take(np.arange(view.n_images)))
    return MiniBatchKMeans(50, random_state=0, n_init=1, batch_size=2048).fit_predict(rows)


def self_confidence(view: View, rows: Any, groups: Any) -> Any:
    """Chance of the class of its image that a text classifier of the other half of the images gives a caption."""
    label, fold = groups[view.image_of], np.arange(view.n_images)[view.image_of] % 2
    chance = np.zeros(len(rows))
    for part in (0, 1):
        model = LogisticRegression(max_iter=60, tol=1e-2).fit(rows[fold != part][::4], label[fold != part][::4])
        column = np.searchsorted(model.classes_, label[fold == part]).clip(0, len(model.classes_) - 1)
        chance[fold == part] = model.predict_proba(rows[fold == part])[np.arange((fold == part).sum()), column]
    return chance


def flagged(title: str, store: labelgen.Store, view: View, truth: pl.DataFrame) -> None:
    """Ranks of the pairs that people called wrong, among all pairs."""
    found = MismatchModel(view).find()
    low, high = found.noise_interval
    rank = np.zeros(view.n_captions, np.int64)
    rank[found.captions[np.argsort(-found.score, kind="stable")]] = np.arange(1, len(found.captions) + 1)
    ranks = np.sort(rank[store.caption_rows(truth["caption_id"].to_list())])
    print(
        f"\nRanks of the {len(ranks)} pairs of {title} that people called wrong, of {len(found.captions):,}: ", end=""
    )
    wrong = np.isin(found.captions, store.caption_rows(truth["caption_id"].to_list()))
    alone = replace(view, cross={}, text={"text": view.text[next(iter(view.text))]})
    judges = {"noisy_pairs": found.score}
    judges |= {name: values[found.captions] for name, values in baselines(alone, None).items()}
    for name, score in judges.items():
        print(f"{name}: AUC {roc_auc_score(wrong, score):.4f}, AP {average_precision_score(wrong, score):.4f}")
    print(f"{', '.join(map(str, ranks.tolist()))} (median {np.median(ranks):,.0f})")
    print(f"share estimated {found.noise:.4f} [{low:.4f}, {high:.4f}]")


# Plot


def draw(path: Path, curves: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, -(-len(curves) // 2), figsize=(4.5 * -(-len(curves) // 2), 8), squeeze=False)
    for axis, (title, lines) in zip(axes.flat, curves.items(), strict=False):
        for label, line in lines.items():
            if title.startswith("noise"):
                axis.plot(*zip(*line, strict=True), marker="o", label=label.strip("*"))
                axis.set(xscale="log", xlabel="share swapped", ylabel="AUC")
            else:
                precision, recall, _ = precision_recall_curve(*line)
                axis.plot(recall, precision, label=label.strip("*"))
                axis.set(xlabel="recall", ylabel="precision")
        axis.set_title(title.removeprefix("noise: "), fontsize=7)
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
