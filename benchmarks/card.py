"""Labels of every bundled teacher, TF-IDF and fusions against all judgements of Flickr8k.

    python benchmarks/card.py ../shared/data/flickr8k stores/flickr8k-test

The second folder is a store of Flickr8k's test images with every bundled teacher: text (minilm), mpnet (where its parts
are installed), image, lite1 and lite0 (efficientnet_lite of sizes 2, 1, 0) and clip (conse); it is built when it is not
there (a few minutes, most of them for mpnet). Fusions get their parameters from the first half of
the judged images; lines are of the second one, unannotated pairs. TF-IDF: 1- and 2-grams, sublinear, fitted on all
captions of the set; the maximum over the image's captions, the judged one left out.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

import labelgen
from labelgen import pipeline
from labelgen.audit.card.card import CardRow, agreement_card
from labelgen.audit.card.measures import MEASURES, Figure, agreement_figures, draw_images
from labelgen.audit.card.pairs import JudgedPairs, resolve
from labelgen.audit.judgements.judgements import read_judgements
from labelgen.errors import MissingExtraError
from labelgen.store.reader import Store
from labelgen.teachers.packages import mpnet_folder
from labelgen.types import Float64

FILES = ("ExpertAnnotations.txt", "CrowdFlowerAnnotations.txt")  # the parquet files beside them hold the same
REPLICATES = 400


def built(data: Path, out: Path) -> Store:
    """The store of the judged images."""
    if not (out / "manifest.json").is_file():
        teachers = {"text": "minilm()", "image": "efficientnet_lite(size=2)", "clip": "conse()"}
        teachers |= {f"lite{size}": f"efficientnet_lite(size={size})" for size in (0, 1)}
        with suppress(MissingExtraError):
            mpnet_folder()
            teachers["mpnet"] = "mpnet()"
        texts = [f"teachers.{alias}={spec}" for alias, spec in teachers.items()]
        splits = ['dataset.splits=["test"]', f'dataset.root="{data}"', 'search.relations=["i2t"]']
        pipeline.build(pipeline.resolve(dataset="flickr8k", overrides=[*splits, *texts]), out)
    return labelgen.open(out)


def tfidf(data: Path, store: Store, pairs: JudgedPairs) -> Float64:
    """Largest cosine of the judged caption with the image's other captions."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    lines = (data / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(line.partition("\t")[2] for line in lines)
    rows = vectorizer.transform(store.captions["text"].to_list())
    best = np.full(len(pairs), np.nan)
    for image in np.unique(pairs.left):
        members = store.captions_of(int(image))
        here = np.flatnonzero(pairs.left == image)
        scores = (rows[members] @ rows[pairs.right[here]].T).toarray()
        scores[members[:, None] == pairs.right[here]] = -1
        best[here] = scores.max(axis=0)
    return best


def main(data: Path, out: Path) -> None:
    store = built(data, out)
    card = agreement_card(store, [data / name for name in FILES], fit=True, replicates=REPLICATES)
    for name in FILES:
        stem = name.partition(".")[0]
        pairs = resolve(store, read_judgements(data / name)).half("second")
        pairs, values = pairs.take(~pairs.annotated), tfidf(data, store, pairs)[~pairs.annotated]
        counts = draw_images(pairs.n_groups, REPLICATES)
        floor = agreement_figures(values, pairs.ratings, pairs.groups, counts, right=pairs.positive)
        rows = [row for row in card.rows if row.judgements == stem and row.subset == "unannotated"]
        best = max((row for row in rows if row.kind == "teacher"), key=lambda row: row.figures["spearman"].value)
        print(f"\n{name}: {len(pairs):,} unannotated pairs of {pairs.n_groups} images, second half\n")
        print(f"| label | {' | '.join(MEASURES)} | Spearman over {best.label} |\n|---|---|---|---|---|---|")
        print(f"| TF-IDF | {' | '.join(shown(floor[name]) for name in MEASURES)} | |")
        for row in rows:
            print(line(row, best))
    print("\nspecs of the fusions\n")
    for spec in dict.fromkeys(row.label for row in card.rows if row.kind == "fusion"):
        print(f"- `{spec}`")


def line(row: CardRow, best: CardRow) -> str:
    lead = row.figures["spearman"].lead_over(best.figures["spearman"])
    label = row.label.partition("(")[0]
    return f"| {label} | {' | '.join(shown(row.figures[name]) for name in MEASURES)} | {shown(lead, '+')} |"


def shown(figure: Figure, sign: str = "") -> str:
    return f"{figure.value:{sign}.3f} [{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
