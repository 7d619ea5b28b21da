"""The notebooks of the docs: their cells run on the demo store, and their saved outputs are those of such a run.

A cell is compiled and run, and its last expression shown by `_repr_html_`, as a kernel would; there is no kernel, whose
sockets and start would make the test slow and unstable.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    book: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return book


def shown(book: dict[str, Any]) -> list[str]:
    """What each code cell shows, "" for nothing."""
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    data = [[output["data"] for output in cell["outputs"]] for cell in cells]
    return ["".join("".join(lines) for lines in found[0].values()) if found else "" for found in data]


def heads(page: str) -> list[str]:
    """Heads of the tables of a page: the names of columns."""
    return re.findall(r"<th[^>]*>(.*?)</th>", page)


def run_again(path: Path) -> dict[str, Any]:
    """The notebook as the script that saves outputs leaves it."""
    spec = importlib.util.spec_from_file_location("save_outputs", FOLDER / "save_outputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    book: dict[str, Any] = module.saved(read(path))
    return book


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["audit.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_nothing_of_one_machine(path: Path) -> None:
    """Outputs are saved, without paths of the machine that made them, and small enough for a repository."""
    book, text = read(path), path.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\w)/(home|root|work|tmp|Users)/", text)
    assert len(text) < 300_000
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert (book["nbformat"], len({cell["id"] for cell in book["cells"]})) == (4, len(book["cells"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_shows_what_is_saved(
    path: Path, demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "demo").symlink_to(demo_store)
    monkeypatch.chdir(tmp_path)
    pages, saved = shown(run_again(path)), shown(read(path))
    again = "run docs/notebooks/save_outputs.py again"
    assert [heads(page) for page in pages] == [heads(page) for page in saved], again
    assert [page.count("<img") for page in pages] == [page.count("<img") for page in saved], again
    galleries = [page for page in pages if "data:image/jpeg;base64," in page]
    assert len(galleries) == 2  # false negatives and noisy pairs, with their photographs
    assert galleries[0].count("<img") == 8
    plain, better = re.findall(r"array\(\[\[.*?\]\]", next(page for page in pages if "array(" in page), re.DOTALL)[:2]
    assert (plain.count("True"), better.count("True")) == (2, 3), "the added pair is a positive"
    assert (tmp_path / "patch.json").is_file()
