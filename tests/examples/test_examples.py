"""Every example runs on the demo store and learns; every example has help and a line in the README."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


def losses(printed: str) -> list[float]:
    return [float(number) for number in re.findall(r"loss (\d+\.\d+)", printed)]


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("ignore")  # of other libraries, at import
def test_help_and_readme(name: str, run: Callable[..., tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("lightning", "jax", "open_clip", "webdataset", "matplotlib"):
        pytest.importorskip(module)
    with pytest.raises(SystemExit) as stopped:
        run(name, "--help")
    assert stopped.value.code == 0
    assert f"python examples/{name}" in capsys.readouterr().out
    assert f"`{name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "method", ["triplet()", "info_nce()", "bcls(gap=0.1)", "cusa(mode='add')", "listwise(weight=0.3)", "fine_grained()"]
)
def test_torch_with_every_method(method: str, demo_store: Path, run: Callable[..., tuple[str, str]]) -> None:
    printed, _ = run("train.py", demo_store, "--method", method, "--epochs", 3)
    passed = losses(printed)
    assert len(passed) == 3
    assert passed[-1] < passed[0]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_lightning(demo_store: Path, run: Callable[..., tuple[str, str]]) -> None:
    pytest.importorskip("lightning")
    short, _ = run("train_lightning.py", demo_store, "--epochs", 1, "--method", "bcls()")
    longer, _ = run("train_lightning.py", demo_store, "--epochs", 4, "--method", "bcls()")
    assert losses(longer)[0] < losses(short)[0]


def test_jax(demo_store: Path, run: Callable[..., tuple[str, str]]) -> None:
    pytest.importorskip("jax")
    passed = losses(run("train_jax.py", demo_store, "--epochs", 3)[0])
    assert passed == sorted(passed, reverse=True)


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_open_clip(demo_store: Path, run: Callable[..., tuple[str, str]]) -> None:
    pytest.importorskip("open_clip")
    first, last = losses(run("train_open_clip.py", demo_store, "--epochs", 2, "--rate", "1e-3")[0])
    assert last < first


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_webdataset(demo_store: Path, run: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    arguments = ("webdataset_pipeline.py", demo_store, "--shards", tmp_path / "shards", "--batch", 10)
    lines = run(*arguments)[0].splitlines()
    assert len(lines) == 26 * 5 // 10
    assert all(line.startswith("10 photographs, 10 texts: ") for line in lines)
    assert run(*arguments)[0].splitlines() == lines, "shards that are there are used, in the same order"
