"""A reader sees one store, the one it opened, or an error that says that it was changed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen import pipeline
from labelgen.errors import CorruptStoreError, StoreMismatchError
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

pytest.importorskip("torch", reason="needs the extra labelgen[build]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, images in (("first", range(12)), ("more", range(12, 20))):
        (root / name).mkdir()
        lines = [{"image_id": f"i{i}", "caption_id": f"c{i}", "caption": f"text {i}"} for i in images]
        (root / name / "captions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    draw = np.random.default_rng(0)
    for name in ("one", "two"):
        np.savez(root / f"{name}.npz", **{f"c{i}": draw.standard_normal(8).astype(np.float32) for i in range(20)})
    return root


def build(data: Path, out: Path, features: str = "one", **how: bool) -> Path:
    path = str(data / f"{features}.npz")
    overrides = [
        f"dataset.root={json.dumps(str(data / 'first'))}", f"teachers.text=precomputed(path={path!r}, modality='text')",
        "search.k=3", "search.engine=numpy",
    ]  # fmt: skip
    pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), out, **how)
    return out


def append(data: Path, out: Path) -> None:
    pipeline.append(out, overrides=[f"dataset.root={json.dumps(str(data / 'more'))}"])


def use(store: Store) -> list[object]:
    """Rows, lists, ids and frames."""
    found = store.neighbors("t2t", rows=[0, 1])
    return [
        store.embeddings("text").take(np.arange(12)).tolist(),
        found.rows.tolist(),
        found.scores.tolist(),
        store.caption_rows(["c3"]).tolist(),
        store.caption_ids([5]),
        store.captions.height,
    ]


def test_what_a_reader_used_goes_on_after_an_append(data: Path, tmp_path: Path) -> None:
    out = build(data, tmp_path / "store")
    store = labelgen.open(out)
    expected = use(store)
    append(data, out)
    assert use(store) == expected


def test_what_it_did_not_use_says_that_the_store_was_changed(data: Path, tmp_path: Path) -> None:
    out = build(data, tmp_path / "store")
    store, array = labelgen.open(out), labelgen.open(out).embeddings("text")
    pickled = pickle.dumps(store), pickle.dumps(array)
    append(data, out)
    for read in (
        lambda: store.embeddings("text").take(np.arange(2)),
        lambda: store.neighbors("t2t", rows=[0]),
        lambda: store.captions,
        lambda: store.caption_ids([0]),
        lambda: store.caption_rows(["c1"]),
        lambda: store.zarr("embeddings/text/text"),
        lambda: pickle.loads(pickled[0]),
        lambda: pickle.loads(pickled[1]).take(np.arange(2)),
    ):
        with pytest.raises(StoreMismatchError, match="was changed after") as caught:
            read()
        assert len(str(caught.value).splitlines()) <= 4


def test_a_store_built_anew_at_the_same_paths_is_never_mixed_in(data: Path, tmp_path: Path) -> None:
    """Same names and shapes, other numbers."""
    out = build(data, tmp_path / "store")
    store, array = labelgen.open(out), pickle.dumps(labelgen.open(out).embeddings("text"))
    build(data, out, "two", fresh=True)
    with pytest.raises(StoreMismatchError, match="was changed"):
        store.embeddings("text").take(np.arange(2))
    with pytest.raises(StoreMismatchError, match="was changed"):
        store.neighbors("t2t", rows=[0])
    with pytest.raises(StoreMismatchError, match="was changed"):
        pickle.loads(array).take(np.arange(2))


def test_a_change_that_keeps_a_file_is_no_reason_to_stop(data: Path, tmp_path: Path) -> None:
    out = build(data, tmp_path / "store")
    store, expected = labelgen.open(out), use(labelgen.open(out))
    path = str(data / "two.npz")
    pipeline.add(out, teachers={"more": f"precomputed(path={path!r}, modality='text')"})
    assert use(store) == expected


def test_a_removed_store_says_so(tmp_path: Path) -> None:
    out = make_store(tmp_path / "store")
    store = labelgen.open(out)
    shutil.rmtree(out)
    with pytest.raises(StoreMismatchError, match="changed"):
        store.embeddings("text").take(np.arange(2))


def _spoil(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 16
    path.write_bytes(raw)


@pytest.mark.parametrize("pickled", [False, True])
def test_checked_readers_name_the_damaged_chunk(tmp_path: Path, pickled: bool) -> None:
    """600 rows of 2,048 bytes: two chunks of 512."""
    out = make_store(tmp_path / "store", n_images=600, captions_per_image=1, dims={"text": 1024}, lists=False)
    _spoil(out / "embeddings/text/text/c/0/0", 512 * 2048 + 4 + 100)
    unchecked = labelgen.open(out).embeddings("text")
    assert unchecked.take(np.arange(600)).shape == (600, 1024)
    store = labelgen.open(out, check=True)
    array = store.embeddings("text")
    if pickled:
        array = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(store)).embeddings("text")))
    np.testing.assert_array_equal(array.take(np.arange(512)), unchecked.take(np.arange(512)))
    for read in (lambda: array.take(np.array([3, 512])), lambda: array.slice(500, 520), lambda: np.asarray(array)):
        with pytest.raises(CorruptStoreError, match=r"chunk 1 of .*embeddings/text/text/c/0/0(.|\n)*rows 512 to 599"):
            read()


def test_a_chunk_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelgen.store.disk import mapped

    counted = 0
    is_sound = mapped.is_sound

    def counting(data: bytes) -> bool:
        nonlocal counted
        counted += 1
        return is_sound(data)

    monkeypatch.setattr(mapped, "is_sound", counting)
    array = labelgen.open(make_store(tmp_path / "store"), check=True).embeddings("text")
    for _ in range(3):
        array.take(np.arange(len(array)))
        array.slice(0, len(array))
    assert counted == 2  # the index of the shard, and its one chunk


def test_checked_readers_compare_tables_with_the_manifest(tmp_path: Path) -> None:
    out = make_store(tmp_path / "store")
    path = out / "corpus/captions.parquet"
    assert labelgen.open(out, check=True).captions.height == 60
    _spoil(path, 40)
    with pytest.raises(CorruptStoreError, match=r"captions\.parquet"):
        _ = labelgen.open(out, check=True).captions
