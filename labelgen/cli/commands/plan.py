"""`labelgen plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelgen import units
from labelgen.cli import show
from labelgen.cli.flags import in_flags
from labelgen.cli.options import RecipeCommand, common, config_of, progress_option, recipe_options, with_objects
from labelgen.cli.progress import listening

if TYPE_CHECKING:
    from labelgen.pipeline import CostPlan


@click.command("plan", cls=RecipeCommand, short_help="Estimate the time, memory and disk space of a build.")
@recipe_options
@click.option("--calibrate/--no-calibrate", default=True, help="Time the teachers on a few rows first (some seconds).")
@progress_option
@common
def command(calibrate: bool, as_json: bool, progress: str, **options: Any) -> None:
    """Estimate what a build costs: rows, bytes, minutes on this machine and peak memory, by stage.

    Takes the options of `build` and writes nothing. Times come from a short calibration with the teachers;
    without it they are left open.

    \b
    Examples:
      labelgen plan --dataset demo
      labelgen plan --dataset coco --root data/coco --memory 2GB --no-calibrate
    """
    from labelgen import pipeline

    with listening(progress, as_json=as_json) as listener:
        options = with_objects(options)
        cost = pipeline.plan(config_of(options), teachers=options["objects"], calibrate=calibrate, progress=listener)
    if as_json:
        show.emit_json(cost.to_json())
    else:
        _print(cost)


def _memory(peak_bytes: int) -> str:
    return units.size(peak_bytes) if peak_bytes else "?"


def _print(cost: CostPlan) -> None:
    console = show.console()
    numbers = (
        f"{units.count(cost.images)} images, {units.count(cost.captions)} captions, {units.count(cost.texts)} texts"
    )
    show.title(console, numbers)
    console.print(show.facts([("read", show.ledger(account.to_json() for account in cost.ledger))]))
    console.print()
    table = show.table(
        "stage", "what", "rows", "bytes", "time", "peak memory", right=["rows", "bytes", "time", "peak memory"]
    )
    for stage in cost.stages:
        table.add_row(
            show.plain(stage.stage),
            show.plain(stage.what),
            units.count(stage.rows),
            units.size(stage.bytes),
            units.duration(stage.seconds),
            _memory(stage.peak_bytes),
        )
    total = "unknown" if cost.seconds is None else units.duration(cost.seconds)
    table.add_section()
    table.add_row("total", "", "", units.size(cost.bytes), total, _memory(cost.peak_bytes), style="bold")
    console.print(table)
    show.notes(console, map(in_flags, cost.notes))
