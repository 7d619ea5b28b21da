"""A siamese network in whole builds: first build, change of a sealed store, kill and resume, threads, wrong specs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from forked import Forked, command_line

import labelgen
from labelgen import pipeline
from labelgen.errors import ConfigError, StoreMismatchError, TeacherError, UnknownNameError
from labelgen.pipeline import BuildReport, verify
from labelgen.stages.model import tables
from labelgen.store import layout
from labelgen.store.manifest import load_manifest
from labelgen.teachers.siamese.towers import Towers

SIAMESE = "siamese(of='text', hidden=32, dim=8, batch=64, steps=200, patience=3, rate=0.01)"
LOST = "c40"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 images with three captions each, and features that hide what the captions of an image share in noise."""
    root = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    images = np.repeat(np.arange(240), 3)
    shown = draw.normal(size=(240, 4))[images] + 0.1 * draw.normal(size=(720, 4))
    rows = np.concatenate([shown, 2 * draw.normal(size=(720, 12))], axis=1).astype(np.float32)
    ids = [f"c{row}" for row in range(720)]
    np.savez(root / "features.npz", ids=[name for name in ids if name != LOST], features=np.delete(rows, 40, axis=0))
    frame = pl.DataFrame(
        {
            "image_id": [f"i{image}" for image in images],
            "caption_id": ids,
            "caption": [f"caption {row % 710}" for row in range(720)],
            "split": ["train" if image < 180 else "test" for image in images],
            "category": [f"k{image % 4}" for image in images],
        }
    )
    frame.write_parquet(root / "captions.parquet")
    return root


def recipe(data: Path, *extra: str) -> list[str]:
    path = data / "features.npz"
    return [
        f"dataset.root={json.dumps(str(data))}", f"teachers.text=precomputed(path={str(path)!r}, modality='text')",
        "search.k=5", "search.engine=numpy", *extra,
    ]  # fmt: skip


def built(data: Path, out: Path, *extra: str, **how: Any) -> BuildReport:
    return pipeline.build(pipeline.resolve(dataset="table", overrides=recipe(data, *extra)), out, **how)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a siamese network from the beginning."""
    out = tmp_path_factory.mktemp("whole") / "store"
    report = built(data, out, f"teachers.siamese={SIAMESE}")
    told = report.trained["siamese"]["auc"]["test"]
    assert told["trained"] > told["frozen"] + 0.05
    assert not report.notes
    return out


def test_the_trained_teacher_is_a_text_teacher_of_the_store(whole: Path, data: Path) -> None:
    store = labelgen.open(whole)
    entry = store.manifest.teachers["siamese"]
    assert (entry.kind, entry.modalities, entry.dim, entry.identity["of"]) == ("trained", ("text",), 8, "text")
    assert {"t2t.siamese.k5", "i2t.siamese.k5", "t2i.siamese.k5"} <= {
        item.path.partition("/")[2] for item in store.manifest.neighbors
    }
    assert store.block("i2t", ["i0", "i1"], ["c0", "c3"], alias="siamese").shape == (2, 2)
    towers = Towers.read(whole / layout.model_path("siamese"))
    frozen, rows = (np.asarray(store.embeddings(alias)) for alias in ("text", "siamese"))
    np.testing.assert_allclose(rows, towers.apply(frozen), atol=5e-4, err_msg="float16 rows of the stored network")
    assert not rows[40].any()
    assert store.quarantine.filter(pl.col("alias") == "siamese").select("id", "reason").rows() == [
        (LOST, "no_features")
    ]


def test_verify_recomputes_rows_from_the_stored_network(whole: Path, tmp_path: Path) -> None:
    report = verify(whole, deep=True, sample=720)
    assert report.problems == ()
    assert "embeddings/siamese/text: 719 rows embedded again" in " ".join(report.notes)
    manifest = load_manifest(whole)
    assert manifest.files[layout.model_path("siamese")].bytes == (whole / layout.model_path("siamese")).stat().st_size


def test_a_damaged_network_is_found(whole: Path, tmp_path: Path) -> None:
    copy = _copied(whole, tmp_path / "copy")
    path = copy / layout.model_path("siamese")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert [problem.file for problem in verify(copy).problems] == [layout.model_path("siamese")]


def test_card_and_overview_show_the_auc_of_both(whole: Path) -> None:
    from labelgen.store.inspect import overview

    told = load_manifest(whole).teachers["siamese"].training["auc"]["held_out"]
    page = (whole / layout.CARD).read_text(encoding="utf-8")
    assert f"| siamese | text | held out | {told['positive'] + told['negative']:,} | {told['frozen']:.4f} |" in page
    assert overview(labelgen.open(whole))["trained"]["siamese"]["auc"]["held_out"] == told


@pytest.fixture(scope="module")
def changed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store to which the network was added afterwards."""
    out = tmp_path_factory.mktemp("changed") / "store"
    built(data, out)
    assert "training" not in json.dumps(load_manifest(out).to_json())
    pipeline.add(out, teachers={"siamese": SIAMESE})
    return out


def test_added_to_a_sealed_store_it_has_the_same_bytes(whole: Path, changed: Path, tmp_path: Path) -> None:
    """All files but the corpus: what the network cannot use is new to a sealed quarantine, which becomes `corpus.2`."""
    one, two = (load_manifest(store) for store in (whole, changed))
    assert one.teachers["siamese"].training == two.teachers["siamese"].training

    def content(files: Mapping[str, Any]) -> dict[str, Any]:
        return {path: fact for path, fact in files.items() if layout.is_content(path) and not path.startswith("corpus")}

    assert content(one.files) == content(two.files)
    assert layout.model_path("siamese") in content(one.files)
    assert verify(changed).problems == ()


def test_a_store_may_have_several(changed: Path, tmp_path: Path) -> None:
    _copied(changed, tmp_path / "store")
    before = load_manifest(changed).teachers["siamese"].training
    again = pipeline.add(tmp_path / "store", teachers={"second": SIAMESE.replace("dim=8", "dim=6")})
    manifest = load_manifest(tmp_path / "store")
    assert again.trained["siamese"] == before
    assert {layout.model_path(alias) for alias in ("siamese", "second")} <= set(manifest.files)
    with pytest.raises(StoreMismatchError):
        pipeline.add(tmp_path / "store", teachers={"siamese": SIAMESE.replace("dim=8", "dim=6")})


def test_a_trained_teacher_that_is_dropped_leaves_nothing(whole: Path, data: Path, tmp_path: Path) -> None:
    copy = _copied(whole, tmp_path / "copy")
    assert not built(data, copy, update=True).removed, "a recipe without it is no option that names it"
    assert (copy / layout.MODELS).exists()
    report = pipeline.add(copy, drop=["siamese"])
    assert set(report.removed) > {"teacher siamese", "list t2t.siamese.k5"}
    assert not (copy / layout.MODELS).exists()
    assert verify(copy).problems == ()


@pytest.mark.parametrize("way", [["--threads", "1"], ["--threads", "4"], ["--workers", "2"]])
def test_threads_and_workers_change_no_byte(
    forked: Forked, whole: Path, data: Path, way: Sequence[str], tmp_path: Path
) -> None:
    _run(forked, _command(data, tmp_path / "store", *way))
    assert load_manifest(tmp_path / "store").content_digest == load_manifest(whole).content_digest


def test_appended_images_get_rows_from_the_sealed_network(data: Path, tmp_path: Path) -> None:
    """Nothing is trained again: the network of the store makes the rows of what is new."""
    (tmp_path / "first").mkdir()
    frame = pl.read_parquet(data / "captions.parquet")
    frame.filter(pl.col("image_id").is_in([f"i{image}" for image in range(30, 240)])).write_parquet(
        tmp_path / "first" / "captions.parquet"
    )
    out = tmp_path / "store"
    chosen = [text for text in recipe(data, f"teachers.siamese={SIAMESE}") if not text.startswith("dataset.root")]
    first = json.dumps(str(tmp_path / "first"))
    pipeline.build(pipeline.resolve(dataset="table", overrides=[f"dataset.root={first}", *chosen]), out)
    sealed = load_manifest(out)
    before = np.asarray(labelgen.open(out).embeddings("siamese"))
    report = pipeline.append(out, overrides=[f"dataset.root={json.dumps(str(data))}"])
    assert report.appended == 30
    store = labelgen.open(out)
    path = layout.model_path("siamese")
    assert store.manifest.files[path] == sealed.files[path]
    assert store.manifest.teachers["siamese"].training == sealed.teachers["siamese"].training
    frozen, rows = (np.asarray(store.embeddings(alias)) for alias in ("text", "siamese"))
    assert len(rows) == 720
    np.testing.assert_array_equal(rows[: len(before)], before)
    np.testing.assert_allclose(rows, Towers.read(out / path).apply(frozen), atol=5e-4)
    assert verify(out, deep=True, sample=720).problems == ()


#: (when, which file, how often it appears before the kill).
MOMENTS = [
    ("after", ".labelgen/parts/train/*", 2),
    ("before", "models/*", 1),
    ("after", "models/*", 1),
    ("before", "receipts/train/*", 1),
    ("after", ".labelgen/parts/embed/siamese*", 1),
    ("before", "manifest.json", 1),
]


@pytest.mark.parametrize("change", [False, True], ids=["first build", "change"])
def test_killed_again_and_again_it_ends_like_an_undisturbed_build(
    forked: Forked, whole: Path, changed: Path, data: Path, change: bool, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    if change:
        built(data, out)
    command = ["build", "--out", str(out), "--refine", SIAMESE, "--progress", "none"] if change else _command(data, out)
    eager = {"labelgen.teachers.siamese.training._SAVE_EVERY": -1.0}
    for moment in MOMENTS:
        done = forked(command_line, *command, kill=moment, settings=eager)
        assert done.signal == 9, (moment, done.errors)
        if change:
            assert verify(out).problems == (), "the sealed store stays whole"
    _run(forked, command)
    assert load_manifest(out).content_digest == load_manifest(changed if change else whole).content_digest
    assert verify(out).problems == ()
    assert not (out / layout.WORK / "parts").exists()


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        ("teachers.siamese=siamese(of='txt')", UnknownNameError, "did you mean 'text'?"),
        ("teachers.siamese=siamese(of='siamese')", ConfigError, "cannot be made of its own rows"),
        ("teachers.siamese=siamese(off='text')", ConfigError, "takes no argument 'off'"),
        ("teachers.siamese=siamese(splits=['trian'])", TeacherError, "train, test"),
    ],
)
def test_wrong_specs_are_refused(data: Path, extra: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        built(data, tmp_path / "store", extra)
    assert words in str(caught.value)


def test_a_source_without_texts_is_refused(data: Path, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "images.npz",
        ids=[f"i{row}" for row in range(240)],
        features=np.random.default_rng(0).random((240, 4)),
    )
    extra = [
        f"teachers.image=precomputed(path={str(tmp_path / 'images.npz')!r})",
        "teachers.siamese=siamese(of='image')",
    ]
    with pytest.raises(ConfigError, match="has no rows of texts") as caught:
        built(data, tmp_path / "store", *extra)
    assert "expected: one of text" in str(caught.value)


def test_no_better_than_its_source_is_said(data: Path, tmp_path: Path) -> None:
    """Two steps with a hopeless rate."""
    spec = "siamese(hidden=2, dim=2, batch=4, steps=1, patience=1, rate=1e-9)"
    report = built(data, tmp_path / "store", f"teachers.siamese={spec}")
    told = report.trained["siamese"]["auc"]["held_out"]
    assert any("no better than text" in note for note in report.notes) == (told["trained"] <= told["frozen"])


def test_rows_of_equal_texts_are_equal_where_the_source_encodes_texts(tmp_path: Path) -> None:
    """`first_captions` is the first row of each distinct text."""
    frame = pl.DataFrame({"text_row": pl.Series([0, None, 1, 0, 2, 1], dtype=pl.UInt32)})
    frame.write_parquet(tmp_path / layout.CAPTIONS)
    pl.DataFrame({"image_row": pl.Series([0], dtype=pl.UInt32)}).write_parquet(tmp_path / layout.IMAGES)
    assert tables.first_captions(tmp_path).tolist() == [0, 2, 4]


def _command(data: Path, out: Path, *extra: str) -> list[str]:
    chosen = [argument for text in recipe(data) for argument in ("--set", text)]
    return [
        "build",
        "--dataset",
        "table",
        *chosen,
        "--refine",
        SIAMESE,
        "--out",
        str(out),
        "--progress",
        "none",
        *extra,
    ]


def _copied(store: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(store, to))


def _run(forked: Forked, command: Sequence[str]) -> None:
    done = forked(command_line, *command)
    assert done.value == 0, done.errors
