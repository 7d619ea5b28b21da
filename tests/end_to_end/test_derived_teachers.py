"""A bridge, centred rows and rows side by side in whole builds: what test_trained_teachers.py asks of a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from forked import Forked, command_line
from safetensors.numpy import load_file

import labelgen
from labelgen import pipeline
from labelgen.errors import ConfigError, TeacherError, UnknownNameError
from labelgen.pipeline import BuildReport, verify
from labelgen.stages.estimate import calibrate
from labelgen.store import layout
from labelgen.store.manifest import load_manifest

BRIDGE, CENTRED, CONCAT = "bridge(folds=3)", "centred(of='text')", "concat(bridge=0.5, text=1)"
DERIVED = {"bridge": BRIDGE, "centred": CENTRED, "concat": CONCAT}
IMAGES, TRAINED, LONG, WIDE = 120, 90, 6, 10
LOST_IMAGE, LOST_CAPTION = 7, 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images with three captions each; features of both are noisy views of the same numbers, two are missing."""
    root = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    shown = draw.normal(size=(IMAGES, 4))
    owners = np.repeat(np.arange(IMAGES), 3)
    image = shown @ draw.normal(size=(4, WIDE)) + 0.3 * draw.normal(size=(IMAGES, WIDE)) + 1
    text = shown[owners] @ draw.normal(size=(4, LONG)) + 0.3 * draw.normal(size=(len(owners), LONG)) + 1
    for name, rows, lost, mark in (("image", image, LOST_IMAGE, "i"), ("text", text, LOST_CAPTION, "c")):
        ids = [f"{mark}{row}" for row in range(len(rows))]
        kept = [row for row in range(len(rows)) if row != lost]
        np.savez(root / f"{name}.npz", ids=[ids[row] for row in kept], features=rows[kept].astype(np.float32))
    frame = pl.DataFrame(
        {
            "image_id": [f"i{image}" for image in owners],
            "caption_id": [f"c{row}" for row in range(len(owners))],
            "caption": [f"caption {row}" for row in range(len(owners))],
            "split": ["train" if image < TRAINED else "test" for image in owners],
        }
    )
    frame.write_parquet(root / "captions.parquet")
    return root


def recipe(data: Path, root: Path | None = None) -> list[str]:
    return [
        f"dataset.root={json.dumps(str(root or data))}",
        f"teachers.text=precomputed(path={str(data / 'text.npz')!r}, modality='text')",
        f"teachers.image=precomputed(path={str(data / 'image.npz')!r}, modality='image')",
        "search.k=5", "search.engine=numpy",
    ]  # fmt: skip


def built(data: Path, out: Path, *extra: str, root: Path | None = None, **how: Any) -> BuildReport:
    return pipeline.build(pipeline.resolve(dataset="table", overrides=[*recipe(data, root), *extra]), out, **how)


def all_three() -> list[str]:
    return [f"teachers.{alias}={spec}" for alias, spec in DERIVED.items()]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "store"
    # concat is named first: the order of the recipe is not the order of the work
    built(data, out, *reversed(all_three()))
    return out


@pytest.fixture(scope="module")
def changed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same teachers, added to a sealed store one after the other."""
    out = tmp_path_factory.mktemp("changed") / "store"
    built(data, out)
    for alias, spec in DERIVED.items():
        pipeline.add(out, teachers={alias: spec})
    return out


def unit(rows: Any) -> Any:
    wide = np.asarray(rows, np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def test_they_are_teachers_of_the_store(whole: Path) -> None:
    store = labelgen.open(whole)
    entries = store.manifest.teachers
    sides = {alias: (entries[alias].kind, entries[alias].modalities, entries[alias].dim) for alias in DERIVED}
    assert sides == {
        "bridge": ("trained", ("image", "text"), LONG),
        "centred": ("trained", ("text",), LONG),
        "concat": ("trained", ("image", "text"), 2 * LONG),
    }
    names = {item.path.partition("/")[2] for item in store.manifest.neighbors}
    assert {f"{relation}.bridge.k5" for relation in ("t2t", "i2i", "i2t", "t2i")} <= names
    assert {"i2t.centred.k5", "t2t.centred.k5", "i2t.concat.k5"} <= names
    assert "i2i.centred.k5" not in names
    assert verify(whole, deep=True, sample=400).problems == ()


def test_rows_are_those_of_the_maps_in_the_file(whole: Path) -> None:
    store = labelgen.open(whole)
    arrays = load_file(whole / layout.model_path("bridge", "maps"))
    image = np.asarray(store.embeddings("image"), np.float64)
    expected = np.stack(
        [
            (row - arrays["image.mean"]) @ (arrays["map"] if fold < 0 else arrays["fold.maps"][fold]).astype(np.float64)
            for row, fold in zip(image, arrays["folds"], strict=True)
        ]
    )
    made = np.asarray(store.embeddings("bridge", "image"))
    alive = np.arange(IMAGES) != LOST_IMAGE
    np.testing.assert_allclose(made[alive], unit(expected)[alive], atol=1e-3)
    assert not made[LOST_IMAGE].any()
    text = np.asarray(store.embeddings("text"), np.float64)
    mapped = (text - arrays["text.mean"]) @ arrays["text.map"].astype(np.float64)
    captions = unit(unit(mapped) - arrays["text.centre"])
    np.testing.assert_allclose(np.asarray(store.embeddings("bridge", "text"))[:30], captions[:30], atol=1e-3)
    captions = np.asarray(store.embeddings("centred"))
    used = [row for row in range(3 * TRAINED) if row != LOST_CAPTION]
    np.testing.assert_allclose(captions[used], unit(text - text[used].mean(axis=0))[used], atol=1e-3)
    lost = store.quarantine.filter(pl.col("alias").is_in([*DERIVED])).select("alias", "id").rows()
    assert set(lost) == {
        ("bridge", f"i{LOST_IMAGE}"), ("bridge", f"c{LOST_CAPTION}"), ("centred", f"c{LOST_CAPTION}"),
        ("concat", f"i{LOST_IMAGE}"), ("concat", f"c{LOST_CAPTION}"),
    }  # fmt: skip


def test_blocks_and_lists_of_concat_are_those_of_the_fusion(whole: Path) -> None:
    """An image stands with the mean of its captions for the text teacher, and with its own row for the bridge."""
    store = labelgen.open(whole)
    rows = range(20)
    texts = unit(store.embeddings("text"))
    means = unit([texts[3 * image : 3 * image + 3].mean(axis=0) for image in rows])
    bridge = {side: unit(store.embeddings("bridge", side)) for side in ("image", "text")}
    t2t = (texts @ texts.T + 0.5 * bridge["text"] @ bridge["text"].T) / 1.5
    block = store.block("t2t", caption_rows=range(30), alias="concat")
    np.testing.assert_allclose(block, t2t[:30, :30], atol=1e-3)
    i2t = (means @ texts.T + 0.5 * bridge["image"][:20] @ bridge["text"].T) / 1.5
    chosen = [image for image in rows if image not in (LOST_IMAGE, LOST_CAPTION // 3)]
    block = store.block("i2t", image_rows=chosen, caption_rows=range(30), alias="concat")
    np.testing.assert_allclose(block, i2t[chosen][:, :30], atol=1e-3)
    fusion = store.manifest.teachers["concat"].training["fusion"]
    assert 0 < fusion["largest"] < 2e-3


def test_a_plan_names_what_they_are_made_of(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "_SMALL", 400)
    monkeypatch.setattr(calibrate, "_LARGEST", 1000)
    plan = pipeline.plan(pipeline.resolve(dataset="table", overrides=[*recipe(data), *all_three()]))
    told = [stage.what for stage in plan.stages if stage.stage == "train"]
    assert told == [
        "bridge: on 120 image rows of image, text",
        "bridge: on 360 caption rows of image, text",
        "centred: on 360 caption rows of text",
        "concat: on 120 image rows of bridge, text",
        "concat: on 360 caption rows of bridge, text",
    ]


def test_a_bridge_that_learns_nothing_is_reported(data: Path, tmp_path: Path) -> None:
    """Captions of a data set in another order than their photographs."""
    turned = tmp_path / "turned"
    turned.mkdir()
    frame = pl.read_parquet(data / "captions.parquet")
    owners = np.random.default_rng(3).permutation(IMAGES)
    frame.with_columns(image_id=pl.Series([f"i{image}" for image in np.repeat(owners, 3)])).drop("split").write_parquet(
        turned / "captions.parquet"
    )
    report = built(data, tmp_path / "store", f"teachers.bridge={BRIDGE}", root=turned)
    held_out = report.trained["bridge"]["retrieval"]["held_out"]
    worse = held_out["t2i"]["10"] <= held_out["chance"]["t2i"]["10"]
    assert any("no better than chance" in note for note in report.notes) == worse
    assert held_out["t2i"]["10"] < 2 * held_out["chance"]["t2i"]["10"]


def test_card_and_overview_show_the_reports(whole: Path) -> None:
    from labelgen.store.describe import training_text
    from labelgen.store.inspect import overview

    found = overview(labelgen.open(whole))["trained"]
    recall = found["bridge"]["retrieval"]
    assert recall["test"]["t2i"]["1"] > recall["test"]["chance"]["t2i"]["1"]
    page = (whole / layout.CARD).read_text(encoding="utf-8")
    for alias in DERIVED:
        for line in training_text(found[alias]).splitlines():
            assert line.split(":")[0] in page
    assert "held out: R@1 / 5 / 10 image to text" in training_text(found["bridge"])


def content(store: Path) -> Mapping[str, Any]:
    """All files but the corpus: lost rows are new to a sealed quarantine, which becomes `corpus.2`."""
    files = load_manifest(store).files
    return {path: fact for path, fact in files.items() if layout.is_content(path) and not path.startswith("corpus")}


def test_added_to_a_sealed_store_they_have_the_same_bytes(whole: Path, changed: Path) -> None:
    assert content(whole) == content(changed)
    assert {layout.model_path("bridge", "maps"), layout.model_path("centred", "means")} <= set(content(whole))
    assert not (whole / layout.MODELS / "concat").exists()
    assert verify(changed).problems == ()


@pytest.mark.parametrize("way", [["--threads", "4"], ["--workers", "2"], ["--executor", "dask"]])
def test_threads_workers_and_executors_change_no_byte(
    forked: Forked, whole: Path, data: Path, way: Sequence[str], tmp_path: Path
) -> None:
    if "dask" in way:
        pytest.importorskip("distributed")
    _run(forked, _command(data, tmp_path / "store", *way))
    assert load_manifest(tmp_path / "store").content_digest == load_manifest(whole).content_digest


def test_appended_images_get_rows_from_the_whole_map(data: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(data / "captions.parquet")
    first = tmp_path / "first"
    first.mkdir()
    frame.filter(pl.col("image_id").is_in([f"i{image}" for image in range(20, IMAGES)])).write_parquet(
        first / "captions.parquet"
    )
    out = tmp_path / "store"
    built(data, out, *all_three(), root=first)
    sealed = load_manifest(out)
    names = [("bridge", "image"), ("bridge", "text"), ("centred", "text"), ("concat", "image"), ("concat", "text")]
    before = {name: np.asarray(labelgen.open(out).embeddings(*name)) for name in names}
    assert pipeline.append(out, overrides=[f"dataset.root={json.dumps(str(data))}"]).appended == 20
    store = labelgen.open(out)
    for alias, file in (("bridge", "maps"), ("centred", "means")):
        path = layout.model_path(alias, file)
        assert store.manifest.files[path] == sealed.files[path]
        assert store.manifest.teachers[alias].training == sealed.teachers[alias].training
    for name, rows in before.items():
        np.testing.assert_array_equal(np.asarray(store.embeddings(*name))[: len(rows)], rows)
    arrays = load_file(out / layout.model_path("bridge", "maps"))
    image = np.asarray(store.embeddings("image"), np.float64)[IMAGES - 20 :]
    made = np.asarray(store.embeddings("bridge", "image"))[IMAGES - 20 :]
    alive = image.any(axis=1)
    expected = unit((image - arrays["image.mean"]) @ arrays["map"].astype(np.float64))
    np.testing.assert_allclose(made[alive], expected[alive], atol=1e-3)
    assert verify(out, deep=True, sample=400).problems == ()


def test_a_patched_store_is_trained_without_what_was_removed(data: Path, whole: Path, tmp_path: Path) -> None:
    from labelgen import patches

    store = labelgen.open(whole)
    dropped = [{"decision": "drop_image", "image_id": f"i{image}"} for image in range(10)]
    patch = patches.write(patches.Patch.of(store, dropped), tmp_path / "patch.parquet")
    out = tmp_path / "store"
    built(data, out, *all_three(), f"dataset.patch={json.dumps(str(patch))}")
    report = load_manifest(out).teachers["bridge"].training["fit"]
    assert report["images"] == store.manifest.teachers["bridge"].training["fit"]["images"] - 9
    assert verify(out, deep=True, sample=400).problems == ()


#: (when, which file, how often it appears before the kill).
MOMENTS = [
    ("before", "models/bridge/*", 1),
    ("after", "models/bridge/*", 1),
    ("before", "receipts/train/*", 1),
    ("after", ".labelgen/parts/embed/bridge*", 1),
    ("after", ".labelgen/parts/embed/concat*", 1),
    ("before", "manifest.json", 1),
]


def test_killed_again_and_again_it_ends_like_an_undisturbed_build(
    forked: Forked, whole: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    command = _command(data, out)
    for moment in MOMENTS:
        done = forked(command_line, *command, kill=moment)
        assert done.signal == 9, (moment, done.errors)
    _run(forked, command)
    assert load_manifest(out).content_digest == load_manifest(whole).content_digest
    assert not (out / layout.WORK / "parts").exists()


def test_a_damaged_file_of_maps_is_found(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    path = copy / layout.model_path("bridge", "maps")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert [problem.file for problem in verify(copy).problems] == [layout.model_path("bridge", "maps")]


def test_a_source_is_not_dropped_without_what_is_made_of_it(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    with pytest.raises(ConfigError, match="drop both"):
        pipeline.add(copy, drop=["bridge"])
    report = pipeline.add(copy, drop=["bridge", "concat"])
    assert {"teacher bridge", "teacher concat"} <= set(report.removed)
    assert not (copy / layout.MODELS / "bridge").exists()
    assert (copy / layout.model_path("centred", "means")).exists()
    assert verify(copy).problems == ()


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        (["teachers.bridge=bridge(text='txt')"], UnknownNameError, "did you mean 'text'?"),
        (["teachers.a=concat(b=1, text=1)", "teachers.b=centred(of='a')"], ConfigError, "a -> b -> a"),
        (["teachers.concat=concat(text=1, missing=1)"], UnknownNameError, "'missing'"),
        (["teachers.bridge=bridge(image='text', text='image')"], ConfigError, "no rows of images"),
        (["teachers.bridge=bridge(of='text')"], ConfigError, "takes no argument 'of'"),
        (["teachers.bridge=bridge(splits=['trian'])"], TeacherError, "train, test"),
    ],
)
def test_wrong_specs_are_refused(
    data: Path, extra: list[str], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        built(data, tmp_path / "store", *extra)
    assert words in str(caught.value)


def _command(data: Path, out: Path, *extra: str) -> list[str]:
    chosen = [argument for text in recipe(data) for argument in ("--set", text)]
    refined = [argument for spec in (CONCAT, CENTRED, BRIDGE) for argument in ("--refine", spec)]
    return ["build", "--dataset", "table", *chosen, *refined, "--out", str(out), "--progress", "none", *extra]


def _run(forked: Forked, command: Sequence[str]) -> None:
    done = forked(command_line, *command)
    assert done.value == 0, done.errors
