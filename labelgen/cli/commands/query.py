"""`labelgen query`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelgen.cli import completions, show
from labelgen.cli.options import common, look_here_for_modules, progress_option
from labelgen.cli.options import names as kind_names
from labelgen.cli.progress import listening
from labelgen.errors import ConfigError

if TYPE_CHECKING:
    from labelgen.queries.result import QueryResult

_CAPTION_WIDTH = 88


@click.command("query", short_help="Show the captions and images nearest to a text or photograph.")
@click.argument("store", type=click.Path())
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--image", "images", metavar="FILE", multiple=True, type=click.Path(), help="A photograph. Repeatable.")
@click.option(
    "--teacher",
    "teachers",
    metavar="ALIAS[=SPEC]",
    multiple=True,
    help="Only this teacher; or the one to use for rows that were made elsewhere (SPEC or module:factory). Repeatable.",
)
@click.option(
    "-n",
    "--k",
    "k",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Length of a list.",
)
@click.option("--split", "splits", metavar="NAME", multiple=True, help="Only candidates of this split. Repeatable.")
@click.option(
    "--relation",
    "relations",
    metavar="t2t|t2i|i2i|i2t",
    multiple=True,
    shell_complete=completions.relations,
    help="Only this relation. Repeatable.",
)
@click.option(
    "--aggregation",
    type=click.Choice(["max", "mean"]),
    default="max",
    show_default=True,
    help="Over the captions of an image.",
)
@click.option("--kinds", metavar="A,B", default="", help="Only captions of these kinds, such as human (all).")
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="Torch device of the teachers.")
@progress_option
@common
def command(
    store: str,
    texts: tuple[str, ...],
    images: tuple[str, ...],
    teachers: tuple[str, ...],
    kinds: str,
    progress: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the captions and images of a store that are nearest to texts and photographs which it does not hold.

    Queries are encoded by the store's own teachers, and compared with its stored rows.

    \b
    Examples:
      labelgen query stores/coco "a dog in the snow"
      labelgen query stores/coco "a dog in the snow" "two people" --split test -n 5
      labelgen query stores/coco --image photo.jpg --teacher image
      labelgen query stores/features "a dog" --teacher text=my_module:make_teacher
    """
    import labelgen

    if not texts and not images:
        raise ConfigError("there is no query", todo='give a text, "a dog in the snow", or --image FILE')
    with listening(progress, as_json=as_json) as listener:
        opened = labelgen.open(store, kinds=kind_names(kinds) or None)
        found = labelgen.query(opened, texts, image=images, teachers=_named(teachers), progress=listener, **options)
    show.emit_json(found.to_json()) if as_json else _print(found)


def _named(teachers: tuple[str, ...]) -> dict[str, str | None]:
    """`("text", "image=module:make")` -> `{"text": None, "image": "module:make"}`."""
    pairs = [text.partition("=") for text in teachers]
    if any(spec for _, _, spec in pairs):
        look_here_for_modules()
    return {alias.strip(): spec.strip() or None for alias, _, spec in pairs}


def _print(found: QueryResult) -> None:
    console = show.console()
    for title, rows in found.lists():
        show.title(console, title)
        table = show.table("", "similarity", "image", "caption", "split", "file", right=["", "similarity"])
        for row in rows:
            text, file = show.shortened(row["text"] or "", _CAPTION_WIDTH), show.plain(row["file"] or "", "dim")
            cells = show.plain(row["image_id"]), show.plain(text), show.plain(row["split"]), file
            table.add_row(str(row["rank"]), f"{row['score']:.4f}", *cells)
        console.print(table)
    if not len(found):
        console.print(show.plain("nothing found", "dim"))
    show.notes(console, found.notes)
