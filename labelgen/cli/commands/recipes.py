"""`labelgen recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labelgen.cli import show
from labelgen.cli.commands import extensions
from labelgen.cli.completions import registered
from labelgen.cli.options import common


@click.command("recipes", short_help="List the recipes that ship with labelgen.")
@click.argument("name", required=False, shell_complete=registered("recipe"))
@common
def command(name: str | None, as_json: bool) -> None:
    """List the recipes that ship with labelgen, or print one as TOML to edit.

    \b
    Examples:
      labelgen recipes
      labelgen recipes coco > my.toml
      labelgen build --recipe my.toml
    """
    from labelgen import config, resources

    if name is not None:
        path = resources.recipe_path(name)
        show.emit_json(config.read_recipe(name)) if as_json else click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    recipes = {known: config.read_recipe(known) for known in resources.recipe_names()}
    if as_json:
        show.emit_json(recipes)
    else:
        extensions.print_blocks(
            {known: _described(recipe, resources.recipe_path(known)) for known, recipe in recipes.items()}
        )


def _described(recipe: dict[str, Any], path: Path) -> dict[str, Any]:
    """Description of a recipe: the comment in its first line."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    search = recipe.get("search", {})
    teachers = recipe.get("teachers", {})
    return {
        "summary": first.removeprefix("#").strip() if first.startswith("#") else "",
        "data set": recipe.get("dataset", {}).get("name", ""),
        "teachers": "\n".join(f"{alias} = {spec}" for alias, spec in teachers.items()),
        "relations": ", ".join(search.get("relations", ())),
    }
