"""Ctrl-C and SIGTERM during a real build: a line, exit code 130, and the same command resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

_PROGRAM = [sys.executable, "-c", "from labelgen.cli.main import main; main()"]
_BUILD = [
    *("build", "--dataset", "table", "--root", ".", "--engine", "numpy", "--out", "store"),
    *("--progress", "json"),
    *("--teacher", "text=precomputed(path='rows.npy', modality='text')"),
]
_CAPTIONS = 2500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of texts with features, large enough that the numpy engine searches for more than a second."""
    lines = [f"i{number // 5},c{number},text {number}" for number in range(_CAPTIONS)]
    (tmp_path / "captions.csv").write_text("\n".join(["image_id,caption_id,caption", *lines]), encoding="utf-8")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((_CAPTIONS, 64)).astype(np.float32))
    return tmp_path


def stopped_in_search(folder: Path, number: signal.Signals) -> tuple[int, str, float]:
    """Start a build, send a signal when the search begins; exit code, what was said after it, seconds until the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*_PROGRAM, *_BUILD], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line)
            if (event["kind"], event["stage"]) == ("start", "search"):
                break
        process.send_signal(number)
        began = time.monotonic()
        said = process.stderr.read()
        code = process.wait(timeout=30)
    return code, said, time.monotonic() - began


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*_PROGRAM, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )


def test_after_ctrl_c_the_same_command_resumes(folder: Path) -> None:
    code, said, seconds = stopped_in_search(folder, signal.SIGINT)
    assert code == 130
    assert seconds < 30  # two are promised; a loaded machine gets many more
    words = [line for line in said.splitlines() if line and not line.startswith("{")]
    assert len(words) == 1
    assert words[0].startswith("interrupted: finished tasks are kept, the same command resumes")
    status = json.loads(program(folder, "status", "store", "--json").stdout)
    assert (status["state"], status["holder"]) == ("unfinished", None)
    again = program(folder, *_BUILD, "--json")
    events = [json.loads(line) for line in again.stderr.splitlines()]
    first = next(event for event in events if (event["kind"], event["stage"]) == ("start", "assemble"))
    assert first["done"] == first["total"] == _CAPTIONS  # what was finished is not done again
    assert json.loads(again.stdout)["changed"] is True


def test_sigterm_is_treated_as_ctrl_c(folder: Path) -> None:
    code, said, _ = stopped_in_search(folder, signal.SIGTERM)
    assert code == 130
    assert "interrupted: finished tasks are kept" in said
    assert "Traceback" not in said
