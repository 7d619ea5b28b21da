"""`labelgen audit`: the report, the parts asked for, JSON and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result

from labelgen.audit.report.sections import SECTIONS
from labelgen.testing.stores import make_store

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_store(tmp_path_factory.mktemp("audit") / "a"))


def test_the_report_has_a_part_for_every_finding(run: Run, path: str) -> None:
    result = run("audit", path)
    assert result.exit_code == 0
    assert all(title in result.stdout for title, _, _ in SECTIONS.values())
    assert "not available" in result.stdout, "there is one text teacher only"
    assert "text number" in result.stdout


def test_a_part_as_json_and_as_a_file(run: Run, path: str, tmp_path: Path) -> None:
    out = tmp_path / "found"
    result = run("audit", path, "--section", "noisy_pairs", "--json", "--top", "2", "--limit", "7", "--out", str(out))
    assert result.exit_code == 0
    (section,) = json.loads(result.stdout)["sections"]
    assert section["rows"] == 7
    assert [row["rank"] for row in section["first"]] == [1, 2]
    assert pl.read_parquet(out / "noisy_pairs.parquet").height == 7
    assert [file.name for file in out.iterdir()] == ["noisy_pairs.parquet"]


def test_an_unknown_part_is_a_usage_error(run: Run, path: str) -> None:
    result = run("audit", path, "--section", "noisy")
    assert result.exit_code == 2
    assert "noisy_pairs" in result.stderr
