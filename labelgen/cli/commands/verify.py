"""`labelgen verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from labelgen import units
from labelgen.cli import exits, show
from labelgen.cli.options import common, objects_option, progress_option, refuse_beside, with_objects
from labelgen.cli.progress import listening

if TYPE_CHECKING:
    from labelgen.store.verify.findings import Problem, Report


@click.command("verify", short_help="Check every file of a store.")
@click.argument("path", type=click.Path())
@click.option("--deep", is_flag=True, help="Also recompute a sample of rows, with the teachers where possible.")
@click.option(
    "--sample",
    metavar="N",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Rows of each kind with --deep.",
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sample."
)
@click.option("--root", metavar="FOLDER", type=click.Path(), help="The data set, if it moved (for --deep).")
@objects_option("for --deep")
@progress_option
@common
@click.pass_context
def command(
    ctx: click.Context,
    path: str,
    deep: bool,
    sample: int,
    seed: int,
    root: str | None,
    teachers: tuple[str, ...],
    progress: str,
    as_json: bool,
) -> None:
    """Compare every file of a sealed store with its checksum, and list files and rows that differ.

    With --deep the neighbours of a sample of rows are searched again in the stored embeddings (equal bits), and
    where teacher and data are available a sample is embedded again (within a tolerance). Exit code 1 with problems.

    \b
    Examples:
      labelgen verify stores/coco
      labelgen verify stores/coco --deep --sample 256 --root data/coco
    """
    from labelgen import pipeline

    if not deep:
        refuse_beside(ctx, ("sample", "seed", "root", "teachers"), "without --deep")
    with listening(progress, as_json=as_json) as listener:
        objects = with_objects({"teachers": teachers})["objects"]
        report = pipeline.verify(
            path, deep=deep, sample=sample, seed=seed, data_root=root or "", teachers=objects, progress=listener
        )
    if as_json:
        show.emit_json(report.to_json())
    else:
        _print(report)
    if not report.ok:
        ctx.exit(exits.NO)


def _print(report: Report) -> None:
    console = show.console()
    number = len(report.problems)
    state = ("whole", "green") if report.ok else (f"{number} problem{'s' if number > 1 else ''}", "bold red")
    show.title(console, show.shell_path(report.path), *state)
    if report.problems:
        table = show.table("file", "rows", "problem")
        for problem in report.problems:
            table.add_row(show.plain(problem.file), _rows(problem), show.plain(problem.what))
        console.print(table)
    show.notes(console, report.notes)
    facts = [("files", f"{units.count(report.files)}, {units.size(report.bytes)} in {units.duration(report.seconds)}")]
    console.print(show.facts([*facts, ("content digest", report.content_digest or "unknown")]))


def _rows(problem: Problem) -> str:
    if problem.rows is None:
        return ""
    start, stop = problem.rows
    return f"{start}" if stop == start + 1 else f"{start} to {stop - 1}"
