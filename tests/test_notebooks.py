"""The notebooks of the docs are executed, cell by cell, on the demo store.

A cell is compiled and run, and its last expression shown by `_repr_html_`, as a kernel would; there is no kernel, whose
sockets and start would make the test slow and unsteady.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    book: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return book


def code(book: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any]) -> str:
    """Run a cell; what it shows."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102 - our own documentation
    if last is None:
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["audit.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_run_is_kept(path: Path) -> None:
    """No outputs (they would hold photographs and another machine's paths), no kernel of somebody's own."""
    book = read(path)
    assert not [cell for cell in code(book) if cell["outputs"] or cell["execution_count"] is not None]
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert (book["nbformat"], len({cell["id"] for cell in book["cells"]})) == (4, len(book["cells"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "demo").symlink_to(demo_store)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [run("".join(cell["source"]), names) for cell in code(read(path))]
    galleries = [page for page in shown if "data:image/jpeg;base64," in page]
    assert len(galleries) == 2  # missed positives and noisy pairs, with their photographs
    assert galleries[0].count("<img") == 8
    assert names["better"].same_image.all(axis=1).any()
    assert not names["plain"].same_image[0, 1]
    assert (tmp_path / "patch.json").is_file()
