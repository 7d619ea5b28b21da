"""Importing labelgen, and opening a store, costs next to nothing: proven in fresh processes."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import labelgen
from labelgen.testing.stores import make_store

HEAVY = ("torch", "dask", "distributed", "zarr", "polars", "pyarrow", "jsonschema", "pandas", "PIL", "transformers")


def fresh(code: str, *arguments: str) -> dict[str, object]:
    """Run code in a new interpreter; it prints one line of JSON."""
    command = [sys.executable, "-c", f"import json, sys, time\n{code}", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    loaded: dict[str, object] = json.loads(ran.stdout)
    return loaded


def heavy(modules: object) -> list[str]:
    assert isinstance(modules, list)
    return [name for name in HEAVY if name in modules]


def test_import_takes_under_a_quarter_of_a_second_and_loads_nothing_heavy() -> None:
    """The best of a few runs, so that a busy machine passes."""
    code = """
start = time.perf_counter()
import labelgen
print(json.dumps({"seconds": time.perf_counter() - start, "modules": list(sys.modules)}))
"""
    runs = [fresh(code) for _ in range(3)]
    assert heavy(runs[0]["modules"]) == []
    assert "numpy" not in runs[0]["modules"]  # type: ignore[operator]
    assert min(float(str(run["seconds"])) for run in runs) < 0.25


def test_opening_a_store_and_reading_blocks_loads_nothing_heavy(tmp_path: Path) -> None:
    root = make_store(tmp_path / "store", n_images=4, captions_per_image=2)
    code = """
import labelgen
labelgen.open
start = time.perf_counter()
store = labelgen.open(sys.argv[1])
seconds = time.perf_counter() - start
store.block("i2t", ["img-0"], ["cap-0"])
store.block("i2i", ["img-0"])
store.neighbors("t2t", ["cap-0"])
repr(store), store.offsets, store.splits
print(json.dumps({"seconds": seconds, "modules": list(sys.modules)}))
"""
    ran = fresh(code, str(root))
    assert heavy(ran["modules"]) == []
    assert float(str(ran["seconds"])) < 0.1


def test_the_public_names() -> None:
    assert set(labelgen.__all__) <= set(dir(labelgen))
    for name in labelgen.__all__:
        assert getattr(labelgen, name) is not None
    assert labelgen.open.__name__ == "open_store"
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = labelgen.opne


#: Public packages, which are attributes of labelgen.
PACKAGES = ("audit", "export", "loader", "losses", "patches", "relevance", "store", "testing")


def test_packages_are_attributes_that_cost_nothing_before_they_are_used() -> None:
    code = """
import labelgen
listed = dir(labelgen)
before = list(sys.modules)
labelgen.audit, labelgen.export, labelgen.loader, labelgen.patches, labelgen.relevance, labelgen.store, labelgen.testing
after = list(sys.modules)
functions = labelgen.audit.noisy_pairs, labelgen.losses.info_nce, labelgen.export.export, labelgen.patches.read
print(json.dumps({"listed": listed, "before": before, "after": after}))
"""
    ran = fresh(code)
    assert set(PACKAGES) <= set(ran["listed"])  # type: ignore[call-overload]
    assert not [name for name in ran["before"] if name.startswith("labelgen.") and name != "labelgen.lazy"]  # type: ignore[attr-defined]
    assert heavy(ran["after"]) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_names_of_a_package_are_known_to_type_checkers(name: str) -> None:
    """What is loaded lazily is imported under TYPE_CHECKING, too, from the same place; `dir` lists it."""
    package = importlib.import_module(f"labelgen.{name}")
    body = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8")).body
    guarded = next(node for node in body if isinstance(node, ast.If))
    listed = next(node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    imported = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in ast.walk(guarded)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    places = vars(package).get("_PLACES", {})
    assert set(imported) <= set(ast.literal_eval(listed.value)), "type checkers read __all__ as it is written"
    old = {"Labeller"}  # names that only older scripts use
    assert {name: places.get(name, imported[name]) for name in imported} == imported
    assert set(places) - old <= set(imported)
    assert set(dir(package)) >= {*imported, *package.__all__}
    for public in dir(package):
        assert getattr(package, public) is not None


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert labelgen.__version__ == version("labelgen")
