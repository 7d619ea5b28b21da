"""`labelgen card`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelgen import units
from labelgen.cli import show
from labelgen.cli.options import common, objects_option, progress_option, teacher_pairs, with_objects
from labelgen.cli.progress import listening

if TYPE_CHECKING:
    from labelgen.audit.card.rows import AgreementCard, CardRow

_LABEL_WIDTH = 46
_HEADS = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "auc": "AUC",
    "average_precision": "av. precision",
    "map_at_r": "mAP@R",
    "r_precision": "R-Precision",
    "r_at_1": "R@1",
}


@click.command("card", short_help="Compare the labels of stores with human judgements.")
@click.argument("stores", metavar="STORE...", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--against",
    metavar="[READER=]FILE",
    multiple=True,
    required=True,
    help="Judgements: CxC, ECCV Caption, Flickr8k, STS, or a table of ratings. Repeatable.",
)
@click.option("--fusion", "fusions", metavar="SPEC", multiple=True, help="Compare a fusion of labels, too. Repeatable.")
@click.option("--fit", is_flag=True, help="Fit fusions on one half of the judged images, report on the other.")
@click.option("--half", type=click.Choice(["first", "second"]), help="Report on one half of the judged images.")
@click.option(
    "--aggregation",
    type=click.Choice(["max", "mean", "top2", "sets"]),
    multiple=True,
    help="Aggregation over captions; all by default.",
)
@click.option("--patch", metavar="FILE", type=click.Path(), help="Show every label without and with a patch.")
@objects_option("to encode sentences")
@click.option(
    "--bootstrap",
    metavar="N",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Replicates of the bootstrap.",
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the bootstrap."
)
@progress_option
@common
@click.pass_context
def command(
    ctx: click.Context,
    stores: tuple[str, ...],
    against: tuple[str, ...],
    fusions: tuple[str, ...],
    fit: bool,
    half: Any,
    aggregation: tuple[Any, ...],
    patch: str | None,
    teachers: tuple[str, ...],
    bootstrap: int,
    seed: int,
    progress: str,
    as_json: bool,
) -> None:
    """Compare the labels of stores with human judgements: rank correlation, AUC and average precision, by relation,
    teacher, aggregation and fusion, with 95 % intervals over images. A judged caption is excluded from the caption
    set of its image. Ctrl-C prints the lines that are done.

    \b
    Examples:
      labelgen card stores/flickr8k --against ExpertAnnotations.txt --against CrowdFlowerAnnotations.txt
      labelgen card stores/flickr8k --against ExpertAnnotations.txt --fit
      labelgen card stores/flickr8k --against ExpertAnnotations.txt --patch patch.json
      labelgen card stores/coco stores/coco-mpnet --against sits_val.csv --against eccv_image_to_caption.json
    """
    from labelgen.audit.card.card import CardInterrupted, agreement_card

    given = {**teacher_pairs(teachers), **with_objects({"teachers": teachers})["objects"]}
    try:
        with listening(progress, as_json=as_json) as listener:
            made = agreement_card(
                stores,
                against,
                fusions=fusions,
                fit=fit,
                half=half,
                **({"aggregations": aggregation} if aggregation else {}),
                patch=patch,
                teachers=given,
                replicates=bootstrap,
                seed=seed,
                progress=listener,
            )
    except CardInterrupted as stop:
        _show(stop.card, as_json, several=len(stores) > 1)
        ctx.meta["labelgen.resume"] = stop.card.notes[-1]
        raise
    _show(made, as_json, several=len(stores) > 1)


def _show(made: AgreementCard, as_json: bool, *, several: bool) -> None:
    show.emit_json(made.to_json()) if as_json else _print(made, several=several)


def _print(made: AgreementCard, *, several: bool) -> None:
    console = show.console()
    for name, subset in dict.fromkeys((row.judgements, row.subset) for row in made.rows):
        rows = [row for row in made.rows if (row.judgements, row.subset) == (name, subset)]
        about = f"{rows[0].source}, {rows[0].relation}, {_counts(rows[0])}"
        show.title(console, f"{name}: {subset}", about, "dim")
        console.print(_table(rows, several=several))
    for spec in dict.fromkeys(row.label for row in made.rows if row.kind == "fusion"):
        console.print(show.plain(spec, "dim"), soft_wrap=True)
    show.notes(console, made.notes)
    for sentence in made.recommendation:
        console.print(show.plain(sentence, "bold"), soft_wrap=True)


def _counts(row: CardRow) -> str:
    """`47,830 pairs of 1,000 images`; what the bootstrap draws stands behind `of`."""
    drawn = [(row.images, "image"), (row.sentences, "sentence")]
    words = [f"{units.count(number)} {word}{'' if number == 1 else 's'}" for number, word in drawn if number]
    kind = ("query", "queries") if "map_at_r" in row.figures else ("pair", "pairs")
    return f"{units.count(row.pairs)} {kind[row.pairs != 1]} of {' and '.join(words)}"


def _table(rows: list[CardRow], *, several: bool) -> Any:
    measures = list(rows[0].figures)
    heads = [_HEADS[measure] for measure in measures]
    table = show.table(*(["store"] if several else []), "label", *heads, right=heads)
    for row in rows:
        cells = [_figure(row.figures[measure].to_json()) for measure in measures]
        label = show.plain(_called(row, rows))
        table.add_row(*([show.plain(row.store)] if several else []), label, *cells)
    return table


def _called(row: CardRow, rows: list[CardRow]) -> str:
    """Return a label; a fusion by its name alone where the name is unique, because its spec is printed below."""
    name = row.label.partition("(")[0]
    alone = len({other.label for other in rows if other.label.startswith(f"{name}(")}) == 1
    return name if row.kind == "fusion" and alone else show.shortened(row.label, _LABEL_WIDTH)


def _figure(figure: dict[str, float | None]) -> str:
    """`.772` over its interval `.76-.79`."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "-"
    return _short(value) if low is None or high is None else f"{_short(value)}\n{_short(low)}-{_short(high)}"


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)
