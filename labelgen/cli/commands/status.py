"""`labelgen status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelgen import units
from labelgen.cli import show
from labelgen.cli.options import common

if TYPE_CHECKING:
    from labelgen.pipeline import Status

#: Stages in the order of a build.
_ORDER = ("describe", "ingest", "embed", "assemble", "train", "search", "merge", "measure")
#: Seconds of silence from which on a rank is not shown as a live one.
_SILENT = 30.0
_WORDS = {
    "sealed": ("finished and sealed", "green"),
    "unfinished": ("not finished: run its command again to resume", "yellow"),
    "changing": ("sealed, and a change of it is not finished", "yellow"),
}


@click.command("status", short_help="Show the progress of a build.")
@click.argument("path", type=click.Path())
@common
def command(path: str, as_json: bool) -> None:
    """Show the progress of a build or a change: finished tasks and rows by stage, and the running process.

    \b
    Example:
      labelgen status stores/coco
    """
    from labelgen import pipeline

    status = pipeline.status(path)
    if as_json:
        show.emit_json(status.to_json())
    else:
        _print(status)


def _at_work(status: Status) -> str:
    ranks = [
        f"rank {rank.rank} (process {rank.process} on {rank.host}): {', '.join(rank.tasks) or 'waits'}"
        + (f", silent for {units.duration(rank.silent)}" if rank.silent > _SILENT else "")
        for rank in status.ranks
    ]
    return status.holder or "\n".join(ranks) or "nobody"


def _print(status: Status) -> None:
    console = show.console()
    show.title(console, show.shell_path(status.path), *_WORDS[status.state])
    teachers = "\n".join(f"{alias} = {spec}" for alias, spec in status.recipe.get("teachers", {}).items())
    facts: list[tuple[str, Any]] = [
        ("data set", status.recipe.get("dataset", {}).get("name", "")),
        ("teachers", teachers),
        ("at work", _at_work(status)),
    ]
    console.print(show.facts(facts))
    stages = sorted({*status.done, *status.totals}, key=lambda stage: [*_ORDER, stage].index(stage))
    if not stages:
        return
    console.print()
    table = show.table("stage", "tasks done", "of", "rows done", right=["tasks done", "of", "rows done"])
    for stage in stages:
        total = units.count(status.totals[stage]) if stage in status.totals else ""
        done, rows = status.done.get(stage, 0), status.rows.get(stage, 0)
        table.add_row(show.plain(stage), units.count(done), total, units.count(rows))
    console.print(table)
