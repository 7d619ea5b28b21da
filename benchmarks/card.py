"""Labels of every bundled teacher, TF-IDF and fusions against all judgements of Flickr8k.

    python benchmarks/card.py ../shared/data/flickr8k stores/flickr8k

The second folder is the store that `audit_quality.py` takes, too: all images of Flickr8k with every bundled teacher:
text (minilm), mpnet (where its parts are installed), image, lite1 and lite0 (efficientnet_lite of sizes 2, 1, 0) and
clip (conse); it is built when it is not there. All lines are of unannotated pairs. The first tables are of all judged
pairs, those that `audit_quality.py` reports: equal rows have equal figures. Of the others fusions got their parameters
from the first half of the judged images, and figures are of the second one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flickr8k import FILES, REPLICATES, TfIdf, built, unannotated

from labelgen.audit.card.card import AgreementCard, CardRow, agreement_card
from labelgen.audit.card.measures import MEASURES, Figure, agreement_figures, draw_images
from labelgen.audit.card.pairs import JudgedPairs


def main(data: Path, out: Path) -> None:
    store = built(data, out)
    files, tf_idf = [data / name for name in FILES], TfIdf(store)
    whole = agreement_card(store, files, replicates=REPLICATES)
    fitted = agreement_card(store, files, fit=True, replicates=REPLICATES)
    for name in FILES:
        pairs = unannotated(data, store, name)
        tables(name, "all judged pairs", pairs, tf_idf, whole)
        tables(name, "second half", pairs.half("second"), tf_idf, fitted)
    print("\nspecs of the fusions\n")
    for spec in dict.fromkeys(row.label for row in fitted.rows if row.kind == "fusion"):
        print(f"- `{spec}`")


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
