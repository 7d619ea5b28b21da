"""`labelgen teachers`."""

from __future__ import annotations

from typing import Any

import click

from labelgen.cli import checks, show
from labelgen.cli.commands import extensions
from labelgen.cli.completions import registered
from labelgen.cli.options import common


@click.command("teachers", short_help="List the encoders, with example specs.")
@click.argument("name", required=False, shell_complete=registered("teacher"))
@common
def command(name: str | None, as_json: bool) -> None:
    """List the teachers: an example of each spec, whether it works offline, whether its packages are installed.

    \b
    Examples:
      labelgen teachers
      labelgen teachers sbert
    """
    described = {known: _describe(known, factory) for known, factory in extensions.loaded("teacher", name).items()}
    if as_json:
        show.emit_json(described)
    else:
        extensions.print_blocks({known: {**facts, **_shown(facts)} for known, facts in described.items()})


def _describe(name: str, factory: Any) -> dict[str, Any]:
    if isinstance(factory, Exception):
        return {"summary": f"cannot be loaded: {factory}", "encodes": [], "arguments": {}, "extra": "", "missing": []}
    info = getattr(factory, "info", None)
    extra = getattr(info, "extra", "")
    return {
        "summary": getattr(info, "summary", ""),
        "encodes": list(getattr(info, "modalities", ())),
        "example": getattr(info, "example", ""),
        "arguments": extensions.arguments(factory, without=["device"]),
        "offline": getattr(info, "offline", ""),
        "extra": extra,
        "weights": checks.weights_of(name),
        "missing": [found.name for found in checks.packages(extra) if not found.version] if extra else [],
    }


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    weights = facts.get("weights", {}).items()
    missing = f"missing {', '.join(facts['missing'])}" if facts["missing"] else "installed"
    install = f": {checks.install_line(facts['extra'])}" if facts["missing"] else ""
    return {
        "encodes": " and ".join(facts["encodes"]),
        "arguments": ", ".join(f"{name}={value}" if value else name for name, value in facts["arguments"].items()),
        "weights": "\n".join(f"{spec} {'installed' if there else 'missing'}" for spec, there in weights),
        "extra": "",
        "missing": "",
        "packages": f"{missing}{install}" if facts["extra"] else "",
    }
