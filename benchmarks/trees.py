"""Two versions of labelgen on one machine: a commit in a worktree of its own, and this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


@contextmanager
def old_tree(commit: str) -> Iterator[Path]:
    """A checkout of `commit`, removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "old"
        _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        _write_entry_points(tree)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def environment(tree: Path) -> Mapping[str, str]:
    """The environment in which `import labelgen` finds the tree, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def run(tree: Path, arguments: Sequence[str]) -> str:
    """What a python command prints that runs with the tree's labelgen.

    Raises:
        SystemExit: the command failed; its message is shown.
    """
    command = [sys.executable, *arguments]
    # The tree is also the working folder: scripts of it import their siblings.
    done = subprocess.run(command, cwd=tree, env=environment(tree), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {tree}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def bundled(tree: Path) -> list[str]:
    """Options of the bundled teachers, run by torch in every version: older ones have nothing else."""
    torch = "runtime='torch'" if (tree / "labelgen/teachers/compute/openvino_network.py").exists() else ""
    return [
        "--teacher",
        f"text=minilm({torch})",
        "--teacher",
        f"image=efficientnet_lite(size=2{torch and f', {torch}'})",
    ]


def labelgen(tree: Path, *arguments: str) -> str:
    """The output of a labelgen command of the tree."""
    return run(tree, ["-m", "labelgen", *arguments])


def _write_entry_points(tree: Path) -> None:
    """Metadata beside the package, which go before those of the installed one: names may mean other modules there."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    folder = tree / f"labelgen-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: labelgen\nVersion: {project['version']}\n")
    groups = {f"[{group}]": names for group, names in project["entry-points"].items()}
    lines = [line for head, names in groups.items() for line in (head, *(f"{a} = {b}" for a, b in names.items()))]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(HERE), *arguments], check=True)
