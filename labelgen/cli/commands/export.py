"""`labelgen export`."""

from __future__ import annotations

from typing import Any

import click

from labelgen import units
from labelgen.cli import completions, show
from labelgen.cli.options import common, names, progress_option, refuse_beside
from labelgen.cli.progress import listening, stage

#: Written out: `--help` imports nothing. A test compares it with `labelgen.export.targets.TARGETS`.
TARGETS = ("listwise-itr", "itm-cls", "cusa", "csr", "parquet", "npz", "hf", "fine-grained", "sentence-transformers")
#: Option -> the targets that read it.
USED_BY = {
    "text": ("listwise-itr", "itm-cls", "sentence-transformers"),
    "image": ("itm-cls", "cusa"),
    "short": ("listwise-itr", "itm-cls"),
    "photos": ("cusa",),
    "pairs": ("fine-grained",),
    "scheme": ("fine-grained",),
    "nearest": ("sentence-transformers",),
    "texts": ("hf",),
    "positives": ("hf",),
}


@click.command("export", short_help="Write a store as the files that other code reads.")
@click.argument("store", type=click.Path())
@click.option("--for", "target", type=click.Choice(TARGETS), required=True, help="The format; see docs/export.md.")
@click.option(
    "--out", metavar="FOLDER", type=click.Path(), required=True, help="A new, empty or earlier export folder."
)
@click.option("--text", metavar="ALIAS", help="The text teacher, if the store has several.")
@click.option("--image", metavar="ALIAS", help="The image teacher, if the store has several.")
@click.option("--splits", metavar="A,B", help="Only these splits.")
@click.option(
    "--short",
    type=click.Choice(["repeat", "drop"]),
    default="repeat",
    show_default=True,
    help="Images with fewer than five captions, for formats that need five.",
)
@click.option("--photos", metavar="PREFIX", default="./pics/", show_default=True, help="Prefix of file names (cusa).")
@click.option("--pairs", metavar="FILE", default="", help="Pairs to label: caption_id, image_id, y (fine-grained).")
@click.option(
    "--scheme",
    metavar="SPEC",
    shell_complete=completions.registered("scheme"),
    default="fine_grained()",
    show_default=True,
    help="Scheme for --pairs (fine-grained).",
)
@click.option(
    "--nearest",
    metavar="N",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Neighbours of a caption (sentence-transformers).",
)
@click.option("--texts", is_flag=True, help="Add captions and file names to the lists (hf).")
@click.option("--positives", is_flag=True, help="Add the annotated pairs to the lists (hf).")
@progress_option
@common
@click.pass_context
def command(
    ctx: click.Context,
    /,
    store: str,
    target: str,
    out: str,
    progress: str,
    as_json: bool,
    splits: str | None,
    **options: Any,
) -> None:
    """Write the files that the data loaders of a released training code read, or a neutral format.

    \b
    Examples:
      labelgen export stores/coco --for listwise-itr --out exports/listwise
      labelgen export stores/coco --for cusa --image unicom --out exports/cusa
      labelgen export stores/coco --for csr --out exports/graphs
      labelgen export stores/coco --for hf --texts --positives --out exports/hub
      labelgen export stores/coco --for fine-grained --pairs pairs.parquet --out exports/pairs
      labelgen export stores/coco --for sentence-transformers --nearest 8 --out exports/sentences
    """
    import labelgen
    from labelgen.export.base import Options
    from labelgen.export.targets import export

    unused = [name for name, targets in USED_BY.items() if target not in targets]
    refuse_beside(ctx, unused, f"for {target}")
    chosen = tuple(names(splits or ""))
    with listening(progress, as_json=as_json) as listener, stage(listener, "export"):
        written = export(labelgen.open(store), target, out, Options(splits=chosen, **options))
    if as_json:
        show.emit_json(written.to_json())
        return
    console = show.console()
    table = show.table("file", "size", right=["size"])
    for name, fact in sorted(written.files.items()):
        table.add_row(show.plain(name), units.size(fact.bytes))
    console.print(table)
    for note in written.notes:
        console.print(show.plain(note), soft_wrap=True)
