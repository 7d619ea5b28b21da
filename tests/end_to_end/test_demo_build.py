"""The main job on the demo set: what comes out is whole, right, and not made twice."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

import labelgen
from labelgen import pipeline
from labelgen.errors import StoreBusyError, StoreError, StoreMismatchError
from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.stages.running import lock
from labelgen.testing.oracles import brute_force
from labelgen.types import Relation


def test_the_demo_store_is_whole_and_deeply_right(demo_store: Path) -> None:
    report = pipeline.verify(demo_store, deep=True, sample=10)
    assert report.problems == ()
    assert any("embedded again" in note for note in report.notes)
    assert any("searched again" in note for note in report.notes)


@pytest.mark.parametrize("relation", list(Relation))
def test_neighbour_lists_are_those_of_a_brute_force(demo_store: Path, relation: Relation) -> None:
    store = labelgen.open(demo_store)
    product = "image" if relation is Relation.I2I else "text"
    rows = store.embeddings(product, product)
    request = ListRequest(relation, 64)
    plan = SearchPlan(
        product=product,
        text=rows if product == "text" else None,
        image=rows if product == "image" else None,
        offsets=store.offsets,
        splits=tuple((rows.start, rows.stop) for rows in store.splits.values()),
        requests=(request,),
        memory=1 << 30,
    )
    expected = brute_force(plan, request)
    found = store.neighbors(relation, rows=np.arange(len(expected.ids)))
    np.testing.assert_array_equal(found.rows, expected.ids)
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert found.next.tobytes() == expected.next.tobytes()


def test_plain_zarr_and_polars_open_it(demo_store: Path) -> None:
    captions = pl.read_parquet(demo_store / "corpus" / "captions.parquet")
    group = zarr.open_group(demo_store, mode="r")
    text = group["embeddings/text/text"]
    assert text.shape == (len(captions), 384)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(text[:], np.float32), axis=1), 1, atol=1e-3)
    listed = zarr.open_group(demo_store / "neighbors" / "t2t.text.k64", mode="r")
    assert listed["ids"].shape == (len(captions), 64)


def test_a_finished_build_is_not_built_again(demo_store: Path) -> None:
    manifest = demo_store / "manifest.json"
    before = manifest.read_bytes()
    started = time.perf_counter()
    report = pipeline.build(pipeline.resolve(dataset="demo"), demo_store)
    assert not report.changed
    assert manifest.read_bytes() == before
    assert report.stages, time.perf_counter() - started


def test_a_file_of_somebody_else_in_a_sealed_store_is_found_and_left_alone(demo_store: Path) -> None:
    stranger = demo_store / "stats" / "notes.txt"
    stranger.write_text("mine", encoding="utf-8")
    try:
        assert not pipeline.build(pipeline.resolve(dataset="demo"), demo_store).changed
        assert stranger.exists()
        assert [problem.file for problem in pipeline.verify(demo_store).problems] == ["stats/notes.txt"]
    finally:
        stranger.unlink()


def test_another_recipe_is_refused_and_the_changed_fields_are_named(demo_store: Path) -> None:
    config = pipeline.resolve(dataset="demo", overrides=["search.k=10", "teachers.text=minilm(text='cusa')"])
    with pytest.raises(StoreMismatchError) as caught:
        pipeline.build(config, demo_store)
    text = str(caught.value)
    assert "search.k: 64 -> 10" in text
    assert re.search(r"teachers\.text: minilm\([^)]*\) -> minilm\([^)]*text='cusa'\)", text)  # with their runtimes
    assert "--fresh" in text


def test_a_second_build_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from labelgen.stages.running.lock import locked\n"
            f"with locked(Path({str(tmp_path / 'store')!r})): print('held', flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreBusyError, match=f"process {holder.pid}"):
            pipeline.build(pipeline.resolve(dataset="demo"), tmp_path / "store")
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    with lock.locked(tmp_path / "store"):
        pass  # the dead process holds nothing


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(StoreError, match="not a store and not empty"):
        pipeline.build(pipeline.resolve(dataset="demo"), tmp_path, fresh=True)
    assert (tmp_path / "corpus" / "thesis.tex").exists()
