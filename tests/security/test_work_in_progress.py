"""A change only adds, and a command that fails early leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen import pipeline
from labelgen.errors import (
    ConfigError,
    CorruptStoreError,
    DatasetError,
    LabelgenError,
    StoreMismatchError,
    TeacherError,
    UnknownNameError,
)
from labelgen.stages.running import lock
from labelgen.store.manifest import load_manifest

pytest.importorskip("torch", reason="needs the extra labelgen[build]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images with two captions each, and features by id."""
    root = tmp_path_factory.mktemp("data")
    lines = [
        {"image_id": f"i{row // 2}", "caption_id": f"c{row}", "caption": f"text {row}", "split": "train"}
        for row in range(40)
    ]
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    draw = np.random.default_rng(0)
    for name, ids in (("text", [f"c{row}" for row in range(40)]), ("image", [f"i{row}" for row in range(20)])):
        rows = draw.standard_normal((len(ids), 8)).astype(np.float32)
        np.savez(root / f"{name}.npz", **dict(zip(ids, rows, strict=True)))
    return root


def spec(data: Path, name: str) -> str:
    side = "text" if name == "text" else "image"
    return f"precomputed(path={str(data / f'{name}.npz')!r}, modality={side!r})"


def build(data: Path, out: Path, *settings: str, **how: Any) -> pipeline.BuildReport:
    overrides = [
        f"dataset.root={json.dumps(str(data))}", f"teachers.text={spec(data, 'text')}",
        f"teachers.image={spec(data, 'image')}", "search.k=4", "search.engine=numpy", *settings,
    ]  # fmt: skip
    return pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), out, **how)


@pytest.fixture
def store(data: Path, tmp_path: Path) -> Path:
    build(data, tmp_path / "store")
    return tmp_path / "store"


def lists(store: Path) -> set[str]:
    return {entry.path.partition("/")[2] for entry in load_manifest(store).neighbors}


ALL = {"t2t.text.k4", "i2t.text.k4", "t2i.text.k4", "i2i.image.k4"}


# --- a change adds -------------------------------------------------------------------------------------------------


def test_a_relation_named_for_a_new_teacher_takes_no_list_away(data: Path, store: Path) -> None:
    report = pipeline.add(store, teachers={"more": spec(data, "text")}, overrides=['search.relations=["t2t"]'])
    assert lists(store) == ALL | {"t2t.more.k4"}
    assert report.removed == ()
    assert pipeline.verify(store).problems == ()
    assert not pipeline.add(store, overrides=['search.relations=["t2t"]']).changed


def test_an_update_with_a_smaller_recipe_takes_nothing_away(data: Path, store: Path) -> None:
    before = load_manifest(store)
    overrides = [
        f"dataset.root={json.dumps(str(data))}", f"teachers.text={spec(data, 'text')}",
        'search.relations=["t2t"]', "search.k=2", "search.engine=numpy",
    ]  # fmt: skip
    report = pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), store, update=True)
    assert not report.changed
    assert load_manifest(store) == before


def test_a_longer_list_takes_the_place_of_the_one_it_holds_and_says_so(store: Path) -> None:
    report = pipeline.add(store, k=6)
    assert lists(store) == {name.replace("k4", "k6") for name in ALL}
    assert set(report.removed) == {f"list {name}" for name in ALL}
    assert not pipeline.add(store, k=5).changed


def test_lists_of_another_aggregation_stand_beside_the_old_ones(store: Path) -> None:
    report = pipeline.add(store, overrides=["search.aggregation=mean"])
    assert lists(store) == ALL | {"i2t.text.mean.k4", "t2i.text.mean.k4"}
    assert report.removed == ()
    assert pipeline.verify(store).problems == ()


def test_what_is_named_is_dropped_and_nothing_else(data: Path, store: Path) -> None:
    report = pipeline.add(store, drop=["i2t.text"])
    assert lists(store) == ALL - {"i2t.text.k4"}
    assert report.removed == ("list i2t.text.k4",)
    assert pipeline.verify(store).problems == ()
    report = pipeline.add(store, drop=["image"])
    assert (lists(store), set(load_manifest(store).teachers)) == ({"t2t.text.k4", "t2i.text.k4"}, {"text"})
    assert set(report.removed) == {"teacher image", "list i2i.image.k4"}
    assert not (store / "embeddings" / "image").exists()
    assert pipeline.verify(store).problems == ()
    assert pipeline.add(store, relations=["i2t"]).changed
    assert lists(store) == ALL - {"i2i.image.k4"}
    assert pipeline.add(store, teachers={"image": spec(data, "image")}, relations=["i2i"]).changed
    assert lists(store) == ALL
    assert pipeline.verify(store).problems == ()


@pytest.mark.parametrize(
    ("drop", "error"),
    [(["i2t.txt"], UnknownNameError), (["t2t", "i2t", "t2i", "i2i"], ConfigError), (["text", "image"], ConfigError)],
)
def test_what_cannot_be_dropped_is_refused_and_leaves_no_note(
    store: Path, drop: list[str], error: type[LabelgenError]
) -> None:
    before = load_manifest(store)
    with pytest.raises(error):
        pipeline.add(store, drop=drop)
    assert load_manifest(store) == before
    assert lock.read_pending(store) is None


def test_dropping_needs_the_word_that_a_store_is_changed(data: Path, store: Path) -> None:
    with pytest.raises(StoreMismatchError, match="--drop i2t"):
        build(data, store, drop=["i2t"])
    assert lists(store) == ALL


# --- failing early -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("dataset.root=/nowhere/at/all", DatasetError),
        ("dataset.options.caption_column=txt", LabelgenError),
        ("dataset.splits=holdout", DatasetError),
        ("dataset.patch=/nowhere/patch.parquet", LabelgenError),
        ("teachers.text=precomputed(path='/nowhere.npz', modality='text')", TeacherError),
        ('search.relations=["t2i.image"]', ConfigError),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_build_that_fails_before_any_work_leaves_nothing(
    data: Path, tmp_path: Path, settings: str, error: type[LabelgenError], there: bool
) -> None:
    out = tmp_path / "deep" / "store"
    if there:
        out.mkdir(parents=True)
    with pytest.raises(error):
        build(data, out, settings)
    assert (list(out.iterdir()) == []) if there else not (tmp_path / "deep").exists()
    assert build(data, out).changed


def test_a_failed_change_leaves_no_note(data: Path, store: Path) -> None:
    with pytest.raises(TeacherError):
        pipeline.add(store, teachers={"more": "precomputed(path='/nowhere.npz', modality='text')"})
    assert lock.read_pending(store) is None
    assert pipeline.verify(store).problems == ()
    assert pipeline.add(store, teachers={"more": spec(data, "text")}).changed


def test_a_fresh_build_that_fails_early_keeps_the_store(data: Path, store: Path) -> None:
    before = load_manifest(store)
    with pytest.raises(DatasetError):
        build(data, store, "dataset.root=/nowhere/at/all", fresh=True)
    with pytest.raises(TeacherError):
        build(data, store, "teachers.text=precomputed(path='/nowhere.npz', modality='text')", fresh=True)
    assert load_manifest(store) == before
    assert pipeline.verify(store).problems == ()
    assert build(data, store, "search.k=3", fresh=True).changed
    assert lists(store) == {name.replace("k4", "k3") for name in ALL}


def test_the_data_set_is_read_before_a_teacher_is_loaded(
    data: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelgen.stages.running.worker.teacher", lambda spec: pytest.fail("loaded"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "captions.jsonl").write_text('{"image_id": "1"}\n', encoding="utf-8")
    calls: list[Callable[[], Any]] = [
        lambda: build(tmp_path / "bad", tmp_path / "other"),
        lambda: pipeline.append(store, overrides=[f"dataset.root={json.dumps(str(tmp_path / 'bad'))}"]),
    ]
    for call in calls:
        with pytest.raises(DatasetError):
            call()


def test_a_damaged_note_is_refused_with_the_way_out(data: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(event: Any) -> None:
        if event.kind == "start" and event.stage == "search":
            raise StoppedError

    with pytest.raises(StoppedError):
        build(data, tmp_path / "store", progress=stop)
    note = tmp_path / "store" / ".labelgen" / "pending.json"
    note.write_bytes(note.read_bytes().replace(b'"machines"', b'"machinez"'))
    with pytest.raises(CorruptStoreError, match="--discard"):
        build(data, tmp_path / "store")
    assert build(data, tmp_path / "store", discard=True).content_digest == build(data, tmp_path / "o").content_digest


def test_the_store_is_opened_by_the_lists_it_has(store: Path) -> None:
    pipeline.add(store, drop=["i2t"])
    opened = labelgen.open(store)
    assert opened.neighbors("t2i", rows=[0]).rows.shape == (1, 4)
    with pytest.raises(ConfigError):
        opened.neighbors("i2t", rows=[0])
