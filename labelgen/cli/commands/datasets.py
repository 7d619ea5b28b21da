"""`labelgen datasets`."""

from __future__ import annotations

from typing import Any

import click

from labelgen.cli import show
from labelgen.cli.commands import extensions
from labelgen.cli.completions import registered
from labelgen.cli.options import common


@click.command("datasets", short_help="List the data sets that labelgen reads.")
@click.argument("name", required=False, shell_complete=registered("dataset"))
@common
def command(name: str | None, as_json: bool) -> None:
    """List the data sets that labelgen reads: the files of each on disk, its ids and splits.

    \b
    Examples:
      labelgen datasets
      labelgen datasets coco
    """
    described = {known: _describe(adapter) for known, adapter in extensions.loaded("dataset", name).items()}
    if as_json:
        show.emit_json(described)
    else:
        extensions.print_blocks({known: {**facts, "options": _shown(facts)} for known, facts in described.items()})


def _describe(adapter: Any) -> dict[str, Any]:
    if isinstance(adapter, Exception):
        return {"summary": f"cannot be loaded: {adapter}", "options": {}}
    info = getattr(adapter, "info", None)
    facts: dict[str, Any] = {word: getattr(info, word, "") for word in ("summary", "expects", "ids", "splits", "url")}
    return {**facts, "options": extensions.arguments(adapter, without=["root"])}


def _shown(facts: dict[str, Any]) -> str:
    options = ", ".join(f"{name}={value or '...'}" for name, value in facts["options"].items())
    return f"{options}  (--set dataset.options.NAME=VALUE)" if options else ""
