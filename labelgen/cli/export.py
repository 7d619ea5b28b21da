"""`labelgen export`."""

from __future__ import annotations

from typing import Any

import click

from labelgen.cli import show
from labelgen.cli.options import common

#: Written out: `--help` imports nothing. A test compares it with `labelgen.export.targets.TARGETS`.
TARGETS = ("listwise-itr", "itm-cls", "cusa", "csr", "parquet", "npz", "hf")


@click.command("export", short_help="Write a store as the files that another code reads.")
@click.argument("store", type=click.Path())
@click.option("--for", "target", type=click.Choice(TARGETS), required=True, help="Whose files; see docs/export.md.")
@click.option(
    "--out", metavar="FOLDER", type=click.Path(), required=True, help="A new, empty or earlier export folder."
)
@click.option("--text", metavar="ALIAS", help="The text teacher, where the store has several.")
@click.option("--image", metavar="ALIAS", help="The image teacher, where the store has several.")
@click.option("--splits", metavar="A,B", help="Only these splits.")
@click.option(
    "--short",
    type=click.Choice(["repeat", "drop"]),
    default="repeat",
    show_default=True,
    help="Images with fewer than five captions, where five are needed.",
)
@click.option("--photos", metavar="PREFIX", default="./pics/", show_default=True, help="Before file names (cusa).")
@common
def command(store: str, target: str, out: str, as_json: bool, splits: str | None, **options: Any) -> None:
    """Write what the data loaders of a released training code read, or a neutral format.

    \b
    Examples:
      labelgen export stores/coco --for listwise-itr --out exports/listwise
      labelgen export stores/coco --for cusa --image unicom --out exports/cusa
      labelgen export stores/coco --for csr --out exports/graphs
    """
    import labelgen
    from labelgen.export.base import Options
    from labelgen.export.targets import export

    chosen = tuple(name.strip() for name in splits.split(",")) if splits else ()
    written = export(labelgen.open(store), target, out, Options(splits=chosen, **options))
    if as_json:
        show.emit_json(written.to_json())
        return
    console = show.console()
    table = show.table("file", "size", right=["size"])
    for name, fact in sorted(written.files.items()):
        table.add_row(show.plain(name), show.size(fact.bytes))
    console.print(table)
    for note in written.notes:
        console.print(show.plain(note), soft_wrap=True)
