"""Exports for released codes, read by loaders written from the documented layout (docs/export.md), values exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.corpus.adapters.cusa import Cusa
from labelgen.errors import ConfigError
from labelgen.export.base import Options
from labelgen.export.targets import export
from labelgen.store.reader import Store
from labelgen.teachers.precomputed.pickled import read_mapping
from labelgen.testing.stores import make_store

#: Images 0 to 8 are train, 9 to 11 val. Caption 30 is the only one of image 6: it has no embedding.
SIZES = (5, 7, 0, 2, 5, 1, 1, 6, 5, 5, 3, 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    first_of_six = sum(SIZES[:6])
    return labelgen.open(
        make_store(
            tmp_path_factory.mktemp("export") / "store", n_images=12, captions_per_image=SIZES,
            missing_images=[4, 9], missing_captions=[first_of_six, 7],
        )
    )  # fmt: skip


class FiveCaptions:
    """A data set as `data.py` of Listwise_ITR and ITM_CLS reads it: line c belongs to image c // 5."""

    def __init__(self, folder: Path, split: str, *, photos: bool) -> None:
        with (folder / f"{split}_caps.txt").open(encoding="utf-8") as file:
            self.captions = [line.strip() for line in file]
        self.text_emb = np.load(folder / f"{split}_text_emb.npy")
        self.image_emb = np.load(folder / f"{split}_image_emb.npy") if photos else None
        self.ids = (folder / f"{split}_ids.txt").read_text(encoding="utf-8").splitlines()

    def relevance(self, captions: list[int]) -> Any:
        """Their pseudo label: the maximum over the image's five captions, rows normalised."""
        texts = self.text_emb / np.linalg.norm(self.text_emb, axis=1, keepdims=True)
        images = [caption // 5 for caption in captions]
        members = np.stack([texts[5 * image : 5 * image + 5] for image in images]).transpose(1, 0, 2)
        return (members @ texts[captions].T).max(axis=0)


@pytest.mark.parametrize("target", ["listwise-itr", "itm-cls"])
def test_five_captions_an_image(store: Store, tmp_path: Path, target: str) -> None:
    written = export(store, target, tmp_path / "out")
    photos = target == "itm-cls"
    train = FiveCaptions(tmp_path / "out", "train", photos=photos)
    ids = ["img-0", "img-1", "img-3", "img-4", "img-5", "img-7", "img-8"]
    if photos:
        ids.remove("img-4")  # no row of the image teacher
    assert train.ids == ids
    assert len(train.captions) == len(train.text_emb) == 5 * len(ids)
    assert train.text_emb.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(train.text_emb, axis=1), 1, atol=1e-6)
    # Image 1 has captions 5 to 11 and 7 is dead: the first five of the rest. Image 3 has 12 and 13, in turn.
    wanted = {"img-0": [0, 1, 2, 3, 4], "img-1": [5, 6, 8, 9, 10], "img-3": [12, 13, 12, 13, 12], "img-5": [19] * 5}
    texts, rows = store.captions["text"].to_list(), np.asarray(store.embeddings("text"), np.float64)
    unit = (rows / np.sqrt((rows * rows).sum(1, keepdims=True) + (rows == 0).all(1, keepdims=True))).astype(np.float32)
    named = (tmp_path / "out" / "train_caption_ids.txt").read_text(encoding="utf-8").split("\n")
    assert named.pop() == ""
    assert len(named) == len(train.captions)
    for image, captions in wanted.items():
        place = 5 * ids.index(image)
        assert train.captions[place : place + 5] == [texts[row] for row in captions]
        assert named[place : place + 5] == [f"cap-{row}" for row in captions]
        np.testing.assert_array_equal(train.text_emb[place : place + 5], unit[captions])
    # What their code makes of these files is our i2t block.
    captions = [place * 5 for place in range(len(ids))]
    caption_ids = [f"cap-{store.captions_of(int(store.image_rows([image])[0]))[0]}" for image in ids]
    block = store.block("i2t", ids, caption_ids)
    same = [ids.index(image) for image in ("img-0", "img-3", "img-5", "img-8")]  # all of whose captions are written
    np.testing.assert_allclose(train.relevance(captions)[same], block[same], atol=1e-6)
    dev = FiveCaptions(tmp_path / "out", "dev", photos=photos)
    assert dev.ids == (["img-10", "img-11"] if photos else ["img-9", "img-10", "img-11"])
    if photos:
        images = np.asarray(store.embeddings("image"), np.float64)[[10, 11]]
        expected = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
        np.testing.assert_allclose(dev.image_emb, expected, atol=1e-7)
    reasons = written.left_out["train: without a caption that has an embedding"]
    assert reasons == ["img-2", "img-6"]
    assert any("of 2 images with more than five captions" in note for note in written.notes)
    assert any("2 images with fewer than five" in note for note in written.notes)


def test_short_images_may_be_left_out(store: Store, tmp_path: Path) -> None:
    written = export(store, "listwise-itr", tmp_path / "out", Options(short="drop", splits=("train",)))
    assert written.left_out["train: with fewer than five captions"] == ["img-3", "img-5"]
    assert sorted(written.files) == ["train_caps.txt", "train_caption_ids.txt", "train_ids.txt", "train_text_emb.npy"]
    assert np.load(tmp_path / "out" / "train_text_emb.npy").shape == (25, 16)


def test_a_caption_id_of_two_lines_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "caption_ids", lambda _self, rows: [f"{row}\nb" for row in rows])
    with pytest.raises(ConfigError, match=r"caption id '0\\nb' is not one line"):
        export(store, "listwise-itr", tmp_path / "out")


def test_cusa(store: Store, tmp_path: Path) -> None:
    """Read as `cross_coco_dataset` does, by our adapter of its JSON, and by the reader that executes no pickle."""
    written = export(store, "cusa", tmp_path, Options(photos="./pics/"))
    kept = [0, 1, 3, 5, 7, 8]
    entries = json.loads((tmp_path / "new_train.json").read_text(encoding="utf-8"))
    assert list(dict.fromkeys(entry["image_id"] for entry in entries)) == [f"img-{row}" for row in kept]
    features = np.load(tmp_path / "train_unicom.npy", allow_pickle=True).item()
    assert set(features) == {f"img-{row}" for row in kept}, "an image without captions is in neither file"
    rows = np.asarray(store.embeddings("image"))
    for entry in entries:  # dataset/cross_coco_dataset.py takes .get(image_id)[0] and joins the root and image_path
        row = int(entry["image_id"].removeprefix("img-"))
        np.testing.assert_array_equal(features.get(entry["image_id"])[0], rows[row].astype(np.float32))
        assert entry["image_path"] == f"./pics/photos/{row:04d}.jpg"
    texts = store.captions["text"].to_list()
    wanted = [text for row in kept for text in texts[sum(SIZES[:row]) : sum(SIZES[: row + 1])] if text]
    assert [entry["caption"] for entry in entries] == wanted
    assert {value.shape for value in features.values()} == {(1, 8)}
    assert set(read_mapping(tmp_path / "train_unicom.npy", _header(tmp_path / "train_unicom.npy"))) == set(features)
    read = Cusa(tmp_path).read()
    assert [image.image_id for image in read.images] == [f"img-{row}" for row in [*kept, 10, 11]]
    assert written.left_out == {
        "train: without a row of the image teacher": ["img-4"],
        "train: without captions": ["img-2", "img-6"],
        "val: without a row of the image teacher": ["img-9"],
    }


def _header(path: Path) -> int:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def test_a_folder_of_yours_is_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export(store, "npz", tmp_path)
    with pytest.raises(ConfigError, match="inside the store"):
        export(store, "npz", store.path / "out")
    with pytest.raises(ConfigError, match="cusa"):
        export(store, "cusaa", tmp_path / "out")
    with pytest.raises(ConfigError, match="no split 'all'"):
        export(store, "npz", tmp_path / "out", Options(splits=("all",)))
    export(store, "listwise-itr", tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    export(store, "listwise-itr", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    report = json.loads(first["export.json"])
    assert report["store"] == store.manifest.content_digest
    assert {name: len(first[name]) for name in report["files"]} == {
        name: fact["bytes"] for name, fact in report["files"].items()
    }
