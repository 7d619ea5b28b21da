"""Hooks of the documentation site: pages made from docstrings, the notebook, and files outside of `docs/`.

Sources are read as text, so the site builds where labelgen is not installed. A public name without a docstring is a
warning, which `mkdocs build --strict` makes an error.
"""

from __future__ import annotations

import ast
import html
import json
import logging
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: Page of the API reference -> title, and the modules whose public names it lists.
REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "labelgen": ("labelgen", ("labelgen",)),
    "loader": ("labelgen.loader", ("labelgen.loader",)),
    "losses": ("labelgen.losses", ("labelgen.losses", "labelgen.losses.modules")),
    "relevance": (
        "labelgen.relevance",
        ("labelgen.relevance", "labelgen.relevance.base", "labelgen.relevance.transforms"),
    ),
    "patches": ("labelgen.patches", ("labelgen.patches",)),
    "audit": ("labelgen.audit", ("labelgen.audit",)),
    "export": ("labelgen.export", ("labelgen.export",)),
    "store": ("labelgen.store", ("labelgen.store", "labelgen.store.inspect")),
    "pipeline": ("labelgen.pipeline", ("labelgen.pipeline", "labelgen.config", "labelgen.progress", "labelgen.specs")),
    "errors": ("labelgen.errors", ("labelgen.errors",)),
    "extend": (
        "Protocols and helpers of extensions",
        (
            "labelgen.corpus.base",
            "labelgen.corpus.files",
            "labelgen.teachers.base",
            "labelgen.similarity.base",
            "labelgen.executors.base",
            "labelgen.registry",
        ),
    ),
    "testing": (
        "labelgen.testing",
        (
            "labelgen.testing",
            "labelgen.testing.teachers",
            "labelgen.testing.engines",
            "labelgen.testing.schemes",
            "labelgen.testing.stores",
        ),
    ),
}

#: Files outside of `docs/` that are pages of the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - the rest is used where mkdocs is not installed

    pages = {f"reference/{page}.md": reference(page) for page in REFERENCE}
    pages |= {target: (ROOT / source).read_text(encoding="utf-8") for source, target in OUTSIDE.items()}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook(path)
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    for name in undocumented():
        logging.getLogger("mkdocs.plugins.labelgen").warning("public name without a docstring: %s", name)
    return files


def reference(page: str) -> str:
    """The page of some modules: what mkdocstrings makes of every public name."""
    title, modules = REFERENCE[page]
    blocks, described = [f"# {title}"], set()
    for module in modules:
        blocks += [f"## `{module}`"] if len(modules) > 1 else []
        blocks += [ast.get_docstring(tree_of(module)) or ""]
        for name, place in places(module).items():
            if is_alias(place) or place in described:
                continue
            described.add(place)
            if home_of(place) != page:
                blocks.append(f"[`{name}`][{place}]: see its page")
                continue
            options = [f"heading_level: {3 if len(modules) > 1 else 2}"]
            options += [f"heading: {name}"] if not place.endswith(f".{name}") else []
            blocks.append(f"::: {place}\n    options: {{{', '.join(options)}}}")
    return "\n\n".join(blocks) + "\n"


def home_of(place: str) -> str:
    """The page that describes a name: the first that lists it."""
    listed = (
        page for page, (_, modules) in REFERENCE.items() for module in modules if place in places(module).values()
    )
    return next(listed)


@lru_cache
def places(module: str) -> dict[str, str]:
    """Public names of a module or package, and the dotted path where each is defined."""
    tree = tree_of(module)
    table: dict[str, str] = assigned(tree, "_PLACES") or {}
    guarded = [node for node in tree.body if isinstance(node, ast.If)]  # `if TYPE_CHECKING`
    typed = [
        alias.asname or alias.name for node in ast.walk(ast.Module(guarded, [])) for alias in getattr(node, "names", ())
    ]
    exported: list[str] = assigned(tree, "__all__") or list(table) or (typed if "_PLACES" in names_of(tree) else [])
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    found = imported | {name: place.replace(":", ".") for name, place in table.items()}
    found = {name: found.get(name, f"{module}.{name}") for name in exported or defined(tree)}
    found = {name: defined_at(place) for name, place in found.items() if not name.startswith("_")}
    return {name: place for name, place in found.items() if not path_of(place).exists()}


def defined_at(place: str) -> str:
    """Where a name is defined that a package imports when it is first used; modules stay as they are."""
    package, _, name = place.rpartition(".")
    if path_of(place).exists() or not path_of(package).is_file():
        return place
    further = (assigned(tree_of(package), "_PLACES") or {}).get(name)
    return defined_at(further.replace(":", ".")) if further else place


def is_alias(place: str) -> bool:
    """Whether a name is an older one of another, `carried = remaining`: it works, and is not described."""
    module, _, name = place.rpartition(".")
    return name in names_of(tree_of(module))


def names_of(tree: ast.Module) -> set[str]:
    """Names that a module assigns at its top level."""
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def assigned(tree: ast.Module, name: str) -> Any:
    """The literal that a module assigns to a name; None where there is none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            try:
                return ast.literal_eval(node.value)  # type: ignore[attr-defined]
            except ValueError:
                return None
    return None


def defined(tree: ast.Module) -> Iterator[str]:
    """Public classes and functions of a module."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node.name


def undocumented() -> list[str]:
    """Public names of the reference that have no docstring."""
    found = []
    for _, modules in REFERENCE.values():
        for place in (place for module in modules for place in places(module).values() if not is_alias(place)):
            module, _, name = place.rpartition(".")
            node = next((node for node in tree_of(module).body if getattr(node, "name", "") == name), None)
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or not ast.get_docstring(node):
                found.append(place)
    return found


@lru_cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def path_of(module: str) -> Path:
    """The file of a module or package, whether it exists or not."""
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Links as they are on the site: those that leave `docs/` lead to pages, or become text where there is none."""
    uri = page.file.src_uri
    source = next((source for source, target in OUTSIDE.items() if target == uri), f"docs/{uri}")

    def moved(match: re.Match[str]) -> str:
        label, target = match.groups()
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not file:
            return match[0]
        path = os.path.normpath(Path(source).parent / file)
        found = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        place = os.path.relpath(found, Path(uri).parent) if found else ""
        return f"[{label}]({place}{'#' if anchor else ''}{anchor})" if place else label

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", moved, text).replace('src="docs/', 'src="')


def notebook(path: Path) -> str:
    """A notebook with its saved outputs as a page."""
    blocks = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output["data"]
            shown = "".join(data.get("text/html") or f"<pre>{html.escape(''.join(data['text/plain']))}</pre>")
            blocks.append('<div class="output">' + re.sub(r"\n\s*\n", "\n", shown) + "</div>")
    return "\n\n".join(blocks) + "\n"
