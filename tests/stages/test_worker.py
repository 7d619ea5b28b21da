"""A worker's settings: threads are given back, compiling is counted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labelgen.config import RunConfig
from labelgen.executors.local import LocalExecutor
from labelgen.stages.running import worker
from labelgen.stages.work.search import compile_meter

torch = pytest.importorskip("torch", reason="needs the extra labelgen[build]")


def test_torch_has_the_threads_again_that_it_had_before() -> None:
    before = torch.get_num_threads()
    other = before + 1
    with LocalExecutor(run=RunConfig(threads=other), engine="fused"):
        assert torch.get_num_threads() == other
        assert worker.settings().threads == other
    assert torch.get_num_threads() == before


def test_compiling_is_counted_and_what_is_compiled_already_is_not() -> None:
    numba = pytest.importorskip("numba")
    twice = numba.njit(lambda number: 2 * number)
    with compile_meter() as first:
        assert twice(3) == 6
    with compile_meter() as second:
        assert twice(4) == 8
    assert sum(first) > 0
    assert second == []


LATE = """
import sys
from labelgen.stages.running import worker
from labelgen.torch_threads import limiting, set_threads, threads
with worker.working(worker.WorkerSettings(threads=3)):
    assert "torch" not in sys.modules and threads() == 3
    with worker.one_thread_a_pass():
        assert threads() == 1
    with limiting():
        import torch
        own = torch.get_num_threads()
    assert torch.get_num_threads() == 3
    with worker.one_thread_a_pass():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
assert torch.get_num_threads() == own, (torch.get_num_threads(), own)
torch.set_num_threads(5)
with limiting():
    import torch
assert torch.get_num_threads() == 5, "what the caller sets stays"
with worker.working(worker.WorkerSettings(threads=2)):
    assert torch.get_num_threads() == threads() == 2
assert torch.get_num_threads() == 5
"""


def test_torch_that_is_imported_late_gets_the_threads_of_the_worker() -> None:
    subprocess.run([sys.executable, "-c", LATE], check=True, timeout=120)
