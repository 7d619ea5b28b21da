"""`labelgen work`."""

from __future__ import annotations

from typing import Any

import click

from labelgen import units
from labelgen.cli import exits, show
from labelgen.cli.options import RecipeCommand, common, config_of, progress_option, recipe_options, with_objects
from labelgen.cli.progress import listening


@click.command("work", cls=RecipeCommand, short_help="Make a store with other machines: one rank of several.")
@click.argument("store", type=click.Path())
@click.option(
    "--rank",
    metavar="R",
    type=click.IntRange(min=0),
    help="Number of this rank, from 0 (that of torchrun or Slurm, else 0).",
)
@click.option(
    "--world", metavar="N", type=click.IntRange(min=1), help="Number of ranks (that of torchrun or Slurm, else 1)."
)
@click.option(
    "--expire",
    metavar="SECONDS",
    type=click.FloatRange(1),
    default=60.0,
    help="Silence after which a rank is dead (60).",
)
@recipe_options
@click.option("--allow-other-machine", is_flag=True, help="Mix the rows of several kinds of machines.")
@progress_option
@common
@click.pass_context
def command(ctx: click.Context, /, store: str, **options: Any) -> None:
    """Build a new store in a folder that several machines share: start the same command on each of them.

    Every rank takes tasks until none is left, and one of them seals. Ranks may die, end or come at any time. The store
    is that of `labelgen build`, bit for bit.

    \b
    Examples:
      labelgen work /shared/stores/coco --dataset coco --root /shared/coco
      labelgen work stores/coco --dataset coco --root data/coco --rank 1 --world 2 --device cuda:1
    """
    from labelgen import pipeline

    options |= {"executor": None, "workers": None, "scheduler": None} | with_objects(options)
    config = config_of(options)
    status = f"labelgen status {show.shell_path(store)}"
    ctx.meta["labelgen.resume"] = f"other ranks continue, the same command takes part again (`{status}` shows them)"
    with listening(options["progress"], as_json=options["as_json"]) as progress:
        report = pipeline.work(
            config,
            store,
            rank=options["rank"],
            world=options["world"],
            expire=options["expire"],
            teachers=options["objects"],
            progress=progress,
            allow_other_machine=options["allow_other_machine"],
        )
    if options["as_json"]:
        show.emit_json(report.to_json())
    else:
        console = show.console()
        show.title(
            console, show.shell_path(report.path), f"sealed by {'this' if report.changed else 'another'} rank", "green"
        )
        rows = [("images", units.count(report.images)), ("captions", units.count(report.captions))]
        console.print(show.facts([*rows, ("content digest", report.content_digest)]))
        show.notes(console, report.notes)
    if config.run.strict and report.quarantined:
        ctx.exit(exits.NO)


#: Settings of other executors: a rank is one worker.
command.params = [option for option in command.params if option.name not in ("executor", "workers", "scheduler")]
