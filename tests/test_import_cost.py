"""Importing labelgen, and opening a store, costs next to nothing: proven in fresh processes."""

from __future__ import annotations

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


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert labelgen.__version__ == version("labelgen")
