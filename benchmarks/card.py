"""Labels of every bundled teacher, TF-IDF and fusions against all judgements of Flickr8k.

    python benchmarks/card.py ../shared/data/flickr8k stores/flickr8k

The second folder is the store that `audit_quality.py` takes, too: all images of Flickr8k with every bundled teacher:
text (minilm), mpnet (where its parts are installed), image, lite1 and lite0 (efficientnet_lite of sizes 2, 1, 0), clip
(conse) and bridge (trained on text and image of the train split, cross-fitted); it is built when it is not there.
MiniLM has seen captions of Flickr30k, which shares photographs with Flickr8k.

First the defaults: the label of earlier versions (maximum) and the fusions of `labelgen.relevance.fusion.default`, on
all unannotated judged pairs, with paired intervals; the same weights fitted to one file alone and reported on the
other, and fitted to the first half of the judged images and reported on the second; and the aggregations as rankings of
all candidates, where an image has many right captions. Then tables of all labels: of all judged pairs, those that
`audit_quality.py` reports (equal rows have equal figures), and of the second half, with fusions fitted on the first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from flickr8k import FILES, REPLICATES, TfIdf, built, unannotated
from scipy.stats import rankdata

from labelgen.audit.card.card import AgreementCard, CardRow, agreement_card
from labelgen.audit.card.labels import PairLabels
from labelgen.audit.card.measures import MEASURES, Figure, agreement_figures, draw_images
from labelgen.audit.card.pairs import JudgedPairs, resolve
from labelgen.audit.judgements.judgements import Judgements, read_judgements
from labelgen.relevance.fusion import Fusion, Mean, default, fusion
from labelgen.store.reader import Store
from labelgen.types import Float64, Relation

OLD = fusion("mean(of=['i2t.text'])")
#: Labels that are compared as rankings of all candidates.
RANKED = ("i2t.text", "i2t.text.centred", "i2t.text.centred.top2", "i2t.text.centred.mean", "i2t.text.centred.sets")


def main(data: Path, out: Path) -> None:
    store = built(data, out)
    files, tf_idf = [data / name for name in FILES], TfIdf(store)
    defaults(data, store)
    rankings(data, store)
    whole = agreement_card(store, files, replicates=REPLICATES)
    fitted = agreement_card(store, files, fit=True, replicates=REPLICATES)
    for name in FILES:
        pairs = unannotated(data, store, name)
        tables(name, "all judged pairs", pairs, tf_idf, whole)
        tables(name, "second half", pairs.half("second"), tf_idf, fitted)
    print("\nspecs of the fusions\n")
    for spec in dict.fromkeys(row.label for row in fitted.rows if row.kind == "fusion"):
        print(f"- `{spec}`")


# Defaults


def defaults(data: Path, store: Store) -> None:
    """Every default beside the old one: as shipped, fitted to the other file, and fitted to the other half."""
    judged = {name: unannotated(data, store, name) for name in FILES}
    values = {name: PairLabels(store, pairs) for name, pairs in judged.items()}
    shipped = {"texts": default()} | ({"texts and bridge": default(bridge="bridge")} if "bridge" in held(store) else {})
    for name, pairs in judged.items():
        found = {"maximum (the default of earlier versions)": fused(OLD, values[name])}
        if "bridge" in held(store):
            found["bridge alone"] = fused(fusion("mean(of=['i2t.bridge'])"), values[name])
        other = next(file for file in FILES if file != name)
        for called, made in shipped.items():
            found[f"{called}: as shipped"] = fused(made, values[name])
            refitted = fitted_to(made, {other: values[other]}, half=None)
            found[f"{called}: fitted to the other file {shown_weights(refitted)}"] = fused(refitted, values[name])
        compared(f"{name}, all unannotated judged pairs", pairs, found, np.ones(len(pairs), bool))
        half = {"maximum": fused(OLD, values[name])}
        for called, made in shipped.items():
            refitted = fitted_to(made, values, half="first")
            half[f"{called}: fitted to the first half {shown_weights(refitted)}"] = fused(refitted, values[name])
        compared(f"{name}, second half of the judged images", pairs, half, ~pairs.first_half)


def held(store: Store) -> set[str]:
    return set(store.manifest.teachers)


def fused(made: Fusion, file: PairLabels) -> Float64:
    return made.combine([file.values(need) for need in made.inputs])


def fitted_to(made: Mean, files: Mapping[str, PairLabels], half: str | None) -> Mean:
    """The same inputs, with the weights of a regression to the ranks of the ratings; files of equal weight."""
    rows, ranks, weights = [], [], []
    for file in files.values():
        pairs = file.pairs
        chosen = ~pairs.annotated & (np.ones(len(pairs), bool) if half is None else pairs.first_half)
        inputs = np.stack([file.values(need)[chosen] for need in made.inputs], axis=1)
        rows.append(inputs - inputs.mean(axis=0))
        ranked = rankdata(pairs.ratings[chosen]) / chosen.sum()
        ranks.append(ranked - ranked.mean())
        weights.append(np.full(chosen.sum(), 1 / np.sqrt(chosen.sum())))
    share = np.concatenate(weights)
    slopes = np.linalg.lstsq(np.concatenate(rows) * share[:, None], np.concatenate(ranks) * share, rcond=None)[0]
    return replace(made, weights=tuple((slopes / slopes[0]).tolist()))


def shown_weights(made: Mean) -> str:
    return "(" + ", ".join(f"{weight:.2f}" for weight in made.weights) + ")"


def compared(title: str, pairs: JudgedPairs, found: Mapping[str, Float64], chosen: np.ndarray) -> None:
    """Figures of labels on the same pairs, and the lead over the first one."""
    part = pairs.take(chosen)
    counts = draw_images(part.n_groups, REPLICATES)
    names = ("spearman", "auc", "average_precision")
    print(f"\n{title}: {len(part):,} pairs of {part.n_groups} images\n")
    print(f"| label | {' | '.join(names)} | lead: {' | lead: '.join(names)} |\n|---|---|---|---|---|---|---|")
    first = None
    for label, scores in found.items():
        figures = agreement_figures(
            scores[chosen], part.ratings, part.groups, counts, right=part.positive, measures=names
        )
        first = first or figures
        leads = ["" if figures is first else shown(figures[name].lead_over(first[name]), "+") for name in names]
        print(f"| {label} | {' | '.join(shown(figures[name]) for name in names)} | {' | '.join(leads)} |", flush=True)


def rankings(data: Path, store: Store) -> None:
    """mAP@R of labels where the right answers are the annotated captions and those that people call right."""
    answers = Judgements(
        "annotated and called right", "", Relation.I2T, ("image", "caption"), "positives", *right_of(data, store)
    )
    turned = replace(
        answers,
        relation=Relation.T2I,
        kinds=("caption", "image"),
        frame=answers.frame.rename({"left": "right", "right": "left"}),
    )
    fusions = [OLD, *(fusion(f"mean(of=['{label}'])") for label in RANKED[1:])]
    card = agreement_card(store, [answers, turned], fusions=fusions, aggregations=("max",), replicates=REPLICATES)
    print(
        "\nmAP@R in the split test, the judged caption left out of its image's set\n\n"
        "| label | i2t | t2i |\n|---|---|---|"
    )
    by_label: dict[str, dict[str, Figure]] = {}
    for row in card.rows:
        if row.subset == "with annotated":
            by_label.setdefault(row.label, {})[row.relation] = row.figures["map_at_r"]
    for label, figures in by_label.items():
        print(f"| {label} | {' | '.join(shown(figures[relation]) for relation in ('i2t', 't2i'))} |")


def right_of(data: Path, store: Store) -> tuple[pl.DataFrame, float, str]:
    """Image and caption ids of right pairs of the judged images: annotated, or right for the experts or the crowd."""
    images, captions = [], []
    for name in FILES:
        pairs = resolve(store, read_judgements(data / name))
        right = ~pairs.annotated & (pairs.positive if pairs.positive is not None else False)
        images.append(pairs.left[right])
        captions.append(pairs.right[right])
    judged = np.unique(np.concatenate(images))
    annotated = store.captions_in(judged)
    both = np.unique(
        np.stack([np.concatenate([*images, store.image_of(annotated)]), np.concatenate([*captions, annotated])]), axis=1
    )
    left, right = store.image_ids(both[0]), store.caption_ids(both[1])
    return pl.DataFrame({"left": left, "right": right, "rating": np.ones(len(left))}), 1.0, "1: right"


# Tables of all labels


def tables(name: str, part: str, pairs: JudgedPairs, tf_idf: TfIdf, card: AgreementCard) -> None:
    """The lines of a card and TF-IDF on the same pairs."""
    counts, scores = draw_images(pairs.n_groups, REPLICATES), tf_idf.scores(pairs.left, pairs.right)
    floor = agreement_figures(scores, pairs.ratings, pairs.groups, counts, right=pairs.positive)
    stem = name.partition(".")[0]
    rows = [row for row in card.rows if row.judgements == stem and row.subset == "unannotated"]
    best = max((row for row in rows if row.kind == "teacher"), key=lambda row: row.figures["spearman"].value)
    print(f"\n{name}: {len(pairs):,} unannotated pairs of {pairs.n_groups} images, {part}\n")
    print(f"| label | {' | '.join(MEASURES)} | Spearman over {best.label} |\n|---|---|---|---|---|---|")
    print(f"| TF-IDF | {' | '.join(shown(floor[name]) for name in MEASURES)} | |")
    for row in rows:
        print(line(row, best))


def line(row: CardRow, best: CardRow) -> str:
    lead = row.figures["spearman"].lead_over(best.figures["spearman"])
    label = row.label.partition("(")[0]
    return f"| {label} | {' | '.join(shown(row.figures[name]) for name in MEASURES)} | {shown(lead, '+')} |"


def shown(figure: Figure, sign: str = "") -> str:
    return f"{figure.value:{sign}.3f} [{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
