"""`labelgen diff`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from labelgen import units
from labelgen.cli import exits, show
from labelgen.cli.options import common, progress_option
from labelgen.cli.progress import listening, stage

if TYPE_CHECKING:
    from rich.console import Console

    from labelgen.store.diff import ArrayDiff, CorpusDiff, Diff, Named


@click.command("diff", short_help="Show the differences between two stores.")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@progress_option
@common
@click.pass_context
def command(ctx: click.Context, a: str, b: str, progress: str, as_json: bool) -> None:
    """Show the differences between two stores: recipe, teachers, corpus, rows of embeddings and neighbour lists.

    Items are matched by id. Exit code 0 where the contents are equal byte for byte, 1 where they are not.

    \b
    Example:
      labelgen diff stores/coco stores/coco-mpnet
    """
    from labelgen.store.diff import diff

    with listening(progress, as_json=as_json) as listener, stage(listener, "diff"):
        found = diff(a, b)
    if as_json:
        show.emit_json(found.to_json())
    else:
        _print(show.console(), found)
    if not found.equal:
        ctx.exit(exits.NO)


def _print(console: Console, found: Diff) -> None:
    state = ("equal content", "green") if found.equal else ("different content", "yellow")
    console.print(show.facts([("A", show.shell_path(found.a)), ("B", show.shell_path(found.b))]), soft_wrap=True)
    console.print(show.plain(*state))
    _listed(console, "recipe", found.recipe)
    _listed(console, "teachers", found.teachers)
    _listed(console, "corpus", _corpus_lines(found.corpus))
    arrays = [array for array in (*found.embeddings, *found.neighbors) if not array.equal]
    if arrays:
        _arrays(console, arrays)
    elif not found.equal:
        _listed(console, "files", [f"{found.files.count} differ: {_first(found.files)}"])
    _listed(console, "libraries", found.libraries)
    _listed(console, "machine", found.machine)


def _listed(console: Console, title: str, lines: Iterable[str]) -> None:
    texts = list(lines)
    if texts:
        show.title(console, title)
    for text in texts:
        console.print(show.plain(f"  {text}"))


def _corpus_lines(corpus: CorpusDiff) -> Iterable[str]:
    for words, named in (
        ("images only in A", corpus.images_only_a),
        ("images only in B", corpus.images_only_b),
        ("captions only in A", corpus.captions_only_a),
        ("captions only in B", corpus.captions_only_b),
        ("captions whose text changed", corpus.changed_texts),
        ("images whose split changed", corpus.changed_splits),
        ("captions whose kind changed", corpus.changed_kinds),
        ("images whose group changed", corpus.changed_groups),
    ):
        if named.count:
            yield f"{units.count(named.count)} {words}: {_first(named)}"
    if not corpus.same_rows and corpus.equal_items:
        yield "the same items in another order of rows"


def _arrays(console: Console, arrays: list[ArrayDiff]) -> None:
    show.title(console, "rows")
    table = show.table(
        "array", "compared", "differ", "largest change", "rows of A", right=["compared", "differ", "largest change"]
    )
    for array in arrays:
        differ = array.differing
        change = f"{array.largest:.2g}" if differ.count else ""
        rows = show.plain("; ".join(text for text in (array.note, _first(differ)) if text))
        table.add_row(show.plain(array.name), units.count(array.compared), units.count(differ.count), change, rows)
    console.print(table)


def _first(named: Named) -> str:
    shown = ", ".join(str(item) for item in named.first)
    return f"{shown}, ..." if named.count > len(named.first) else shown
