"""Paths of the data files of the package (recipes, schemas, the demo set), in a wheel and in a checkout."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from labelgen.registry import unknown

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """`pipelines` or `schemas`: inside the installed package, else beside it in the checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def demo_root() -> Path:
    """The demo set: 76 photographs with captions, licences and origins."""
    return _PACKAGE / "corpus" / "demo_data"


def user_cache() -> Path:
    """Folder of unpacked weights, converted networks and remote rows: `$XDG_CACHE_HOME/labelgen`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labelgen"


def recipe_names() -> list[str]:
    return sorted(path.stem for path in folder("pipelines").glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Path of a recipe that ships with the package.

    Raises:
        UnknownNameError: no such recipe.
    """
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return folder("pipelines") / f"{name}.toml"


@cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema `schemas/<name>.json`, for example `manifest.v1`."""
    loaded: dict[str, Any] = json.loads((folder("schemas") / f"{name}.json").read_text(encoding="utf-8"))
    return loaded
