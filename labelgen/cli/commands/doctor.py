"""`labelgen doctor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from labelgen.cli import checks, exits, show
from labelgen.cli.checks import Check
from labelgen.cli.options import common, progress_option
from labelgen.cli.progress import listening

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "bold red")}


@click.command("doctor", short_help="Check this machine and its packages.")
@click.option(
    "--out", metavar="FOLDER", type=click.Path(), default="stores", show_default=True, help="Folder of the stores."
)
@click.option("--self-test", is_flag=True, help="Also build and verify four demo photographs (half a minute).")
@progress_option
@common
@click.pass_context
def command(ctx: click.Context, out: str, self_test: bool, progress: str, as_json: bool) -> None:
    """Check this machine: Python, memory, disk, packages and their versions, devices, weights, environment.

    Every problem comes with the command that repairs it. Exit code 1 where something needed is broken;
    a missing extra is only a note.

    \b
    Examples:
      labelgen doctor
      labelgen doctor --self-test --out /data/stores
    """
    found = list(checks.all_checks(Path(out)))
    if self_test:
        with listening(progress, as_json=as_json) as listener:
            found.append(checks.self_test(listener))
    broken = any(check.state == "problem" for check in found)
    if as_json:
        show.emit_json({"ok": not broken, "checks": [dataclasses.asdict(check) for check in found]})
    else:
        _print(found)
    if broken:
        ctx.exit(exits.NO)


def _print(found: list[Check]) -> None:
    console = show.console()
    for group in dict.fromkeys(check.group for check in found):
        show.title(console, group)
        console.print(show.indented(_table([check for check in found if check.group == group])))
    console.print()


def _table(found: list[Check]) -> object:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=7)
    grid.add_column(width=25, style="dim")
    grid.add_column(overflow="fold")
    for check in found:
        grid.add_row(show.plain(*_MARKS[check.state]), show.plain(check.name), show.plain(check.found))
        if check.todo:
            grid.add_row("", "", show.plain(check.todo, "cyan"))
    return grid
