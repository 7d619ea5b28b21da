"""An approximate store: it says what it is everywhere, its recall is measured, and kills and workers change nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from forked import Forked, command_line

pytest.importorskip("faiss", reason="needs the extra labelgen[faiss]")

import labelgen
from labelgen import pipeline, registry
from labelgen.errors import BudgetError, ConfigError, MissingExtraError, StoreMismatchError
from labelgen.store.manifest import Manifest, NeighborEntry, load_manifest, save_manifest
from labelgen.testing.engines import clustered_rows
from labelgen.types import Relation

IMAGES, CAPTIONS, K = 400, 3, 10
SPEC = "faiss(lists=30, recall=0.9, sample=120)"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions in two splits, with features of texts and of images."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        (f"i{image}", f"caption {number} of {image}", "train" if image < 300 else "val")
        for image in range(IMAGES)
        for number in range(CAPTIONS)
    ]
    frame = pl.DataFrame(rows, schema=["image_id", "caption", "split"], orient="row")
    frame.write_parquet(folder / "captions.parquet")
    np.save(folder / "text.npy", clustered_rows(IMAGES * CAPTIONS, 48, seed=1).astype(np.float32))
    np.save(folder / "image.npy", clustered_rows(IMAGES, 32, seed=2).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def store(forked: Forked, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "approximate"
    _build(forked, data, out)
    return out


def _arguments(data: Path, spec: str = SPEC) -> list[str]:
    return [
        *("--dataset", "table", "--root", str(data), "--k", str(K), "--cross-k", "2", "--approximate", spec),
        *("--teacher", f"text=precomputed(path='{data / 'text.npy'}', modality='text')"),
        *("--teacher", f"image=precomputed(path='{data / 'image.npy'}', modality='image')"),
        *("--progress", "none"),
    ]


def _build(forked: Forked, data: Path, out: Path, *more: str, spec: str = SPEC) -> str:
    done = forked(command_line, "build", *_arguments(data, spec), "--out", str(out), *more)
    assert done.value == 0, done.errors
    return done.printed


def _list(manifest: Manifest, relation: str, scope: str = "split") -> NeighborEntry:
    return next(entry for entry in manifest.neighbors if (entry.relation, entry.scope) == (relation, scope))


def test_the_manifest_says_what_the_lists_are(store: Path) -> None:
    manifest = load_manifest(store)
    assert {(entry.relation.value, entry.scope) for entry in manifest.neighbors} == {
        (relation.value, scope) for relation in Relation for scope in ("split", "cross")
    }
    for entry in manifest.neighbors:
        assert entry.approximate
        assert ".approximate-" in entry.path
        recall = entry.facts["recall"]
        assert recall["k"] == entry.k
        assert recall["target"] == 0.9
        assert recall["images"] == 120
        assert 0.8 < recall["low"] < recall["mean"] < recall["high"] <= 1 or recall["mean"] == 1.0
        assert entry.facts["engine"] == SPEC
        assert entry.facts["library"].startswith("faiss ")
        assert len(entry.facts["tuning"]) == 2  # an index of either split
        assert all(tuning["probes"] <= tuning["lists"] for tuning in entry.facts["tuning"])


def test_recall_in_the_manifest_is_that_of_all_rows(forked: Forked, store: Path) -> None:
    """Measured here on every image by another program: an exact build of the same data."""
    manifest, opened = load_manifest(store), labelgen.open(store)
    exact = _exact_lists(forked, store)
    for relation in Relation:
        entry = _list(manifest, relation)
        found, true = opened.neighbors(relation, k=K), exact.neighbors(relation, k=K)
        recall = float((found.scores >= true.scores[:, -1:]).mean())
        assert entry.facts["recall"]["low"] <= recall <= entry.facts["recall"]["high"]
        hits = found.rows == true.rows
        assert (found.scores[hits] == true.scores[hits]).all()


def _exact_lists(forked: Forked, store: Path) -> labelgen.Store:
    out = store.parent / "exact"
    if not out.exists():
        data = Path(load_manifest(store).recipe["dataset"]["root"])
        arguments = _arguments(data)
        place = arguments.index("--approximate")
        done = forked(command_line, "build", *arguments[:place], *arguments[place + 2 :], "--out", str(out))
        assert done.value == 0, done.errors
    return labelgen.open(out)


def test_nothing_bounds_an_approximate_list(forked: Forked, store: Path) -> None:
    opened = labelgen.open(store)
    for relation in Relation:
        assert np.isnan(opened.neighbors(relation).next).all()
        assert np.isnan(opened.neighbors(relation, k=3).next).all()
    assert not np.isnan(_exact_lists(forked, store).neighbors("t2t").next).any()


def test_every_output_says_so(forked: Forked, store: Path, data: Path) -> None:
    built = _build(forked, data, store)
    assert "nothing to do" in built
    inspected, verified = (
        forked(command_line, "inspect", str(store)).printed,
        forked(command_line, "verify", str(store)).printed,
    )
    card = (store / "README.md").read_text(encoding="utf-8")
    for text in (built, inspected, verified, card, repr(labelgen.open(store))):
        assert "approximate, recall@10 " in text
        assert "120 images" in text
    facts = json.loads(forked(command_line, "inspect", str(store), "--json").printed)
    assert len(facts["approximate"]) == 8
    assert "approximate" not in forked(command_line, "inspect", str(_exact_lists(forked, store).path)).printed


def test_deep_verification_scores_again_and_measures_recall(store: Path, tmp_path: Path) -> None:
    report = pipeline.verify(store, deep=True, sample=40)
    assert report.problems == ()
    assert sum("searched exactly, recall@" in note for note in report.notes) == 8
    boastful = tmp_path / "boastful"
    shutil.copytree(store, boastful)
    manifest = load_manifest(boastful)
    entry = _list(manifest, "t2t")
    claim = {**entry.facts, "recall": {**entry.facts["recall"], "low": 1.01}}
    _replace(boastful, manifest, entry, facts=claim)
    problems = pipeline.verify(boastful, deep=True, sample=40).problems
    assert any("the manifest says at least 1.010" in problem.what for problem in problems)


def test_a_score_that_is_none_is_found(store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(store, broken)
    manifest = load_manifest(broken)
    entry = _list(manifest, "i2i")
    from labelgen.store.disk.shards import write_array

    scores = labelgen.open(store).neighbors("i2i").scores.copy()
    scores[:, 0] = np.minimum(np.float32(1), scores[:, 0] + np.float32(1e-6))
    write_array(broken, entry.arrays()["scores"], scores)
    from labelgen.stages.recheck.recheck import verify_deep

    problems = verify_deep(broken, sample=40, seed=0, data_root="").problems
    assert any("gives other scores" in problem.what for problem in problems)


def test_another_corpus_in_the_same_folder_and_process_has_its_own_index(data: Path, tmp_path: Path) -> None:
    digests = {}
    for place, seed in (("one", 3), ("one", 4), ("two", 4)):  # the second build may remember things of the first
        np.save(tmp_path / "text.npy", clustered_rows(IMAGES * CAPTIONS, 48, seed=seed).astype(np.float32))
        config = pipeline.resolve(
            dataset="table",
            overrides=[
                f"dataset.root={data}",
                "search.relations=t2t",
                f"search.k={K}",
                f"search.approximate={SPEC}",
                f"teachers.text=precomputed(path='{tmp_path / 'text.npy'}', modality='text')",
            ],
        )
        config = replace(config, teachers={"text": config.teachers["text"]})
        digests[place, seed] = pipeline.build(config, tmp_path / place, fresh=True).content_digest
    assert digests["one", 4] == digests["two", 4] != digests["one", 3]


def test_a_low_recall_is_reported(forked: Forked, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "low"
    text = _build(forked, data, out, "--relation", "t2t", spec="faiss(lists=100, probes=1, sample=1000)")
    assert "below its target" in text
    (entry,) = [entry for entry in load_manifest(out).neighbors if entry.scope == "split"]
    opened, images = labelgen.open(out), np.repeat(np.arange(IMAGES), CAPTIONS)
    rows = opened.embeddings("text").slice(0, IMAGES * CAPTIONS).astype(np.float64)
    similar = rows @ rows.T / np.sqrt(np.outer((rows**2).sum(1), (rows**2).sum(1)))
    similar[(images[:, None] == images) | ((images[:, None] < 300) != (images < 300))] = -1
    floor = np.sort(similar.astype(np.float32), axis=1)[:, -K]
    true = float((opened.neighbors("t2t", k=K).scores >= floor[:, None]).mean())
    assert true < 0.8
    assert entry.facts["recall"]["mean"] == pytest.approx(true, abs=1e-9)
    assert entry.facts["recall"]["images"] == IMAGES


@pytest.mark.parametrize(
    "more",
    [
        ("--workers", "2"),
        ("--executor", "dask", "--workers", "2"),
        ("--threads", "1", "--memory", "1GB"),
        ("--engine", "numpy"),
    ],
)
def test_the_digest_is_the_same_however_it_is_run(
    forked: Forked, store: Path, data: Path, tmp_path: Path, more: Sequence[str]
) -> None:
    _build(forked, data, tmp_path / "again", *more)
    assert load_manifest(tmp_path / "again").content_digest == load_manifest(store).content_digest


@pytest.mark.parametrize(
    ("when", "pattern", "count"),
    [
        ("after", ".labelgen/parts/search/*/index/*.faiss", 2),
        ("after", ".labelgen/parts/search/*/lists/*", 3),
        ("after", "neighbors/*/ids/c/0/0", 2),
        ("before", "receipts/search/*", 2),
        ("before", "receipts/recall/*", 3),
    ],
)
def test_a_killed_build_ends_like_an_undisturbed_one(
    forked: Forked, store: Path, data: Path, tmp_path: Path, when: str, pattern: str, count: int
) -> None:
    out = tmp_path / "killed"
    killed = forked(command_line, "build", *_arguments(data), "--out", out, kill=(when, pattern, count))
    assert killed.signal == 9, killed.errors
    _build(forked, data, out)
    assert load_manifest(out).content_digest == load_manifest(store).content_digest
    assert pipeline.verify(out).problems == ()


_RELATIONS = ("t2t", "i2i", "i2t", "t2i")


def test_an_exact_store_becomes_approximate_on_request_only(
    forked: Forked, store: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "changed"
    shutil.copytree(_exact_lists(forked, store).path, out)
    done = forked(command_line, "build", *_arguments(data), "--out", str(out))
    assert done.value == StoreMismatchError.exit_code
    assert "--approximate:" in done.errors
    _build(forked, data, out, "--update", *(word for name in _RELATIONS for word in ("--drop", name)))
    changed = load_manifest(out)
    assert all(entry.approximate for entry in changed.neighbors)
    assert changed.content_digest == load_manifest(store).content_digest
    assert not any(".approximate-" not in path.name for path in (out / "neighbors").iterdir() if path.is_dir())


def test_an_index_that_does_not_fit_is_refused(forked: Forked, data: Path, tmp_path: Path) -> None:
    done = forked(command_line, "build", *_arguments(data), "--memory", "400MB", "--out", str(tmp_path / "small"))
    assert done.value == BudgetError.exit_code
    assert "cannot hold the index of a split" in done.errors
    assert "raise --memory" in done.errors


def test_nobody_gets_an_approximate_search_by_the_name_of_an_engine(data: Path) -> None:
    with pytest.raises(ConfigError, match="is approximate") as caught:
        pipeline.check_names(pipeline.resolve(dataset="demo", overrides=["search.engine=faiss"]))
    assert "--approximate 'faiss'" in str(caught.value)
    with pytest.raises(ConfigError, match="is exact"):
        pipeline.check_names(pipeline.resolve(dataset="demo", overrides=["search.approximate=torch"]))
    with pytest.raises(ConfigError, match="takes no argument 'recal'"):
        pipeline.check_names(pipeline.resolve(dataset="demo", overrides=["search.approximate=faiss(recal=0.9)"]))
    with pytest.raises(ConfigError, match="recall"):
        pipeline.check_names(pipeline.resolve(dataset="demo", overrides=["search.approximate=faiss(recall=2)"]))


def test_the_spec_is_one_text_for_one_meaning() -> None:
    first = pipeline.resolve(dataset="demo", overrides=["search.approximate=faiss"])
    second = pipeline.resolve(dataset="demo", overrides=["search.approximate=faiss( )"])
    exact = pipeline.resolve(dataset="demo")
    assert first.fingerprint() == second.fingerprint() != exact.fingerprint()


def test_without_faiss_the_error_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, "labelgen.similarity.ann.faiss_engine", raising=False)
    with pytest.raises(MissingExtraError, match=r"needs the package 'faiss'") as caught:
        registry.load("engine", "faiss")
    assert 'pip install "labelgen[faiss]"' in str(caught.value)


def _replace(root: Path, manifest: Manifest, entry: NeighborEntry, **changes: Any) -> None:
    others = tuple(replace(item, **changes) if item is entry else item for item in manifest.neighbors)
    save_manifest(root, replace(manifest, neighbors=others))
