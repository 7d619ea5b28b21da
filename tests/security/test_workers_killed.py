"""A killed worker is one clear error, Ctrl-C ends dask within 2 s; nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from labelgen.stages.running.memory import tree_pids

pytest.importorskip("torch", reason="needs the extra labelgen[build]")
CAPTIONS = 12_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with features, so many that two workers of the numpy engine search for some seconds."""
    root = tmp_path_factory.mktemp("data")
    lines = [f"i{number // 5},c{number},text {number}" for number in range(CAPTIONS)]
    (root / "captions.csv").write_text("\n".join(["image_id,caption_id,caption", *lines]), encoding="utf-8")
    np.save(root / "rows.npy", np.random.default_rng(0).standard_normal((CAPTIONS, 64)).astype(np.float32))
    return root


@pytest.fixture
def searching(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A build with two workers that searches since half a second, in a session of its own.

    Its few tasks end together, so what is waited for is the beginning of the search.
    """
    command = [
        sys.executable, "-m", "labelgen", "build", "--dataset", "table", "--root", str(folder), "--progress", "json",
        "--engine", "numpy", "--workers", "2", "--executor", request.param, "--out", str(tmp_path / "store"),
        "--teacher", f"text=precomputed(path={str(folder / 'rows.npy')!r}, modality='text')",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stderr is not None
        limit = threading.Timer(240, process.kill)  # a build that hangs fails its test, and not the whole run
        limit.start()
        for line in process.stderr:
            if line.startswith("{") and (event := json.loads(line))["kind"] == "start" and event["stage"] == "search":
                break
        time.sleep(0.5)
        yield process
        limit.cancel()
        process.kill()


def words(process: subprocess.Popen[str]) -> list[str]:
    """What the command says to people until it ends."""
    assert process.stderr is not None
    return [line for line in process.stderr.read().splitlines() if line and not line.startswith("{")]


def workers(process: subprocess.Popen[str]) -> list[int]:
    found = []
    for pid in tree_pids(process.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if pid != process.pid and b"spawn_main" in command:
            found.append(pid)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="workers are found in /proc")
@pytest.mark.parametrize("searching", ["local"], indirect=True)
def test_a_killed_worker_is_one_error(searching: subprocess.Popen[str]) -> None:
    os.kill(workers(searching)[-1], signal.SIGKILL)
    said = words(searching)
    assert searching.wait(timeout=30) == 1
    assert said[0] == "error: a worker process died"
    assert len(said) == 3
    assert "run the same command again" in said[-1]


@pytest.mark.parametrize("searching", ["dask"], indirect=True)
@pytest.mark.parametrize("whom", ["command", "terminal"])
def test_ctrl_c_ends_dask_within_two_seconds(searching: subprocess.Popen[str], whom: str) -> None:
    pytest.importorskip("distributed", reason="needs the extra labelgen[build]")
    began = time.monotonic()
    if whom == "command":
        searching.send_signal(signal.SIGINT)
    else:
        os.killpg(searching.pid, signal.SIGINT)
    said = words(searching)
    assert searching.wait(timeout=30) == 130
    # Two seconds are promised on an idle machine; nowhere may it take the 30 s that a cluster is waited for.
    assert time.monotonic() - began < 25
    assert len(said) == 1
    assert said[0].startswith("interrupted: ")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="workers are found in /proc")
@pytest.mark.parametrize("searching", ["dask"], indirect=True)
def test_dask_gives_up_on_a_task_that_kills_its_workers_with_one_error(searching: subprocess.Popen[str]) -> None:
    """All workers, again and again: what no restart can mend."""
    pytest.importorskip("distributed", reason="needs the extra labelgen[build]")
    deadline = time.monotonic() + 90
    while searching.poll() is None and time.monotonic() < deadline:
        for pid in workers(searching):
            os.kill(pid, signal.SIGKILL)
        time.sleep(1)
    said = words(searching)
    assert searching.wait(timeout=30) == 1, said
    assert said[0] == "error: a worker process died", said
    assert not [line for line in said if "Traceback" in line]
