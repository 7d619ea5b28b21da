"""How the tests of the command line call it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from labelgen.cli.main import cli
from labelgen.testing.stores import make_store

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Call a command in this process: `run("build", "--dataset", "demo")`."""

    def call(*arguments: Any) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="labelgen")

    return call


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the real program in a process of its own, in an empty folder."""

    def call(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from labelgen.cli.main import main; main()", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return call


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of 12 images with five captions each; read only."""
    return make_store(tmp_path_factory.mktemp("cli") / "small")
