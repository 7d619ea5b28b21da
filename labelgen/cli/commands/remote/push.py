"""`labelgen push`."""

from __future__ import annotations

import dataclasses

import click

from labelgen import units
from labelgen.cli import show
from labelgen.cli.options import common, progress_option
from labelgen.cli.progress import listening


@click.command("push", short_help="Copy a store to a web server, a bucket or the hub.")
@click.argument("store", type=click.Path())
@click.argument("destination")
@progress_option
@common
def command(store: str, destination: str, progress: str, as_json: bool) -> None:
    """Copy a sealed store to an address, where others open it or pull it from.

    Every file is compared with its checksum before it is sent, and the manifest comes last. The same command
    resumes what was interrupted.

    \b
    Examples:
      labelgen push stores/coco s3://bucket/labels/coco
      labelgen push stores/coco hf://datasets/owner/coco-labels
    """
    from labelgen import push

    with listening(progress, as_json=as_json) as listener:
        done = push(store, destination, progress=listener)
    if as_json:
        show.emit_json(dataclasses.asdict(done))
        return
    console = show.console()
    show.title(console, show.shell_path(done.target))
    sent = f"{units.count(done.files)} files, {units.size(done.bytes)}"
    console.print(show.facts([("sent", sent), ("content digest", done.content_digest)]))
