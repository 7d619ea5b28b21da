"""Examples are run as a user runs them, by their command lines, in this process."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: What is printed, and what goes to standard error.
Printed = tuple[str, str]


@pytest.fixture(autouse=True)
def _examples_importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the folder of the script is for python; torch's threads stay as they were."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    """`run("train.py", store, "--epochs", 2)`."""

    def call(name: str, *arguments: object) -> Printed:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        printed = capsys.readouterr()
        return printed.out, printed.err

    return call
