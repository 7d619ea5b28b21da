"""`labelgen pull`."""

from __future__ import annotations

import dataclasses

import click

from labelgen import units
from labelgen.cli import show
from labelgen.cli.options import common, names, progress_option
from labelgen.cli.progress import listening


@click.command("pull", short_help="Copy a store, or some of its arrays, from an address.")
@click.argument("source")
@click.option("--out", metavar="FOLDER", type=click.Path(), help="The copy (the last part of the address).")
@click.option(
    "--only",
    metavar="NAMES",
    multiple=True,
    help="Arrays to copy: relations, lists, aliases of teachers; commas or repeated.",
)
@progress_option
@common
def command(source: str, out: str | None, only: tuple[str, ...], progress: str, as_json: bool) -> None:
    """Copy a store from an address into a folder, every file compared with its checksum.

    With --only the copy has the named neighbour lists and embeddings beside corpus, index and statistics. It knows
    what it lacks: whatever needs it says which line adds it. The same command resumes what was interrupted.

    \b
    Examples:
      labelgen pull s3://bucket/labels/coco --out stores/coco
      labelgen pull hf://datasets/owner/coco-labels@main --only i2t,text
    """
    from labelgen import pull

    with listening(progress, as_json=as_json) as listener:
        done = pull(source, out, only=names(",".join(only)), progress=listener)
    if as_json:
        show.emit_json(dataclasses.asdict(done))
        return
    console = show.console()
    show.title(console, show.shell_path(done.target))
    facts = [("copied", f"{units.count(done.files)} files, {units.size(done.bytes)}"), ("from", done.source)]
    facts += [("lacks", "\n".join(done.lacks))] if done.lacks else []
    console.print(show.facts([*facts, ("content digest", done.content_digest)]))
