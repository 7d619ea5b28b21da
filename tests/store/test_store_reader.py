"""`labelgen.open`: items, ids and rows, neighbour lists, what a store says of itself."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

import labelgen
from labelgen.errors import (
    ConfigError,
    StoreError,
    StoreNotFoundError,
    UnknownIdError,
    UnknownNameError,
)
from labelgen.store.layout import TABLES
from labelgen.store.manifest import load_manifest, save_manifest
from labelgen.store.reader import Store
from labelgen.store.splits import SplitRows
from labelgen.types import PAD_ROW

SIZES = (5, 2, 0, 1, 7, 3, 4, 2)  # of the fixture `made_store`
OFFSETS = [0, 5, 7, 7, 8, 15, 18, 22, 24]


@pytest.fixture(scope="module")
def store(made_store: Path) -> Store:
    return labelgen.open(made_store)


def test_frames(store: Store) -> None:
    assert store.images.columns == list(TABLES["images.parquet"])
    assert store.captions.columns == list(TABLES["captions.parquet"])
    assert (len(store.images), len(store.captions)) == (8, 24)
    assert store.images is store.images
    assert store.quarantine.select("kind", "row", "reason").rows() == [
        ("image", 5, "truncated"),
        ("caption", 3, "blank"),
        ("caption", 7, "blank"),
    ]


def test_how_images_and_captions_belong_together(store: Store) -> None:
    assert store.offsets.tolist() == OFFSETS
    assert store.splits == {"train": range(6), "val": range(6, 8)}
    assert store.captions_of(1).tolist() == [5, 6]
    assert store.captions_of(2).tolist() == []
    assert store.image_of([0, 4, 5, 23]).tolist() == [0, 0, 1, 7]
    assert store.image_of(range(24)).tolist() == np.repeat(np.arange(8), SIZES).tolist()


def test_ids_and_rows(store: Store) -> None:
    assert store.image_rows(["img-7", "img-0"]).tolist() == [7, 0]
    assert store.caption_rows(pl.Series(["cap-23"]).to_list()).tolist() == [23]
    assert store.image_ids([7, 0]) == ["img-7", "img-0"]
    assert store.caption_ids(np.array([23])) == ["cap-23"]
    assert store.caption_rows(store.captions["caption_id"].to_list()).tolist() == list(range(24))
    assert store.image_rows(["nobody"], missing_ok=True).tolist() == [-1]
    assert store.image_ids([]) == []


def test_unknown_ids_and_rows(store: Store) -> None:
    with pytest.raises(UnknownIdError, match="1 of 2 caption ids"):
        store.caption_rows(["cap-0", "img-0"])
    for rows in ([8], [-1], [0.5], [[0]], [True], [True, 2]):
        with pytest.raises(IndexError):
            store.image_ids(rows)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="image row 8 does not exist: there are 8"):
        store.captions_of(8)


def test_embeddings_by_alias(store: Store) -> None:
    assert store.embeddings("text").shape == (24, 16)
    assert store.embeddings("clip", "image").shape == (8, 12)
    np.testing.assert_array_equal(np.asarray(store.embeddings("image")), zarr_array(store, "embeddings/image/image"))
    with pytest.raises(ConfigError, match="image and text"):
        store.embeddings("clip")
    with pytest.raises(ConfigError, match="modality='image'"):
        store.embeddings("text", "image")
    with pytest.raises(UnknownNameError, match="'text'"):
        store.embeddings("texts")


def zarr_array(store: Store, path: str) -> np.ndarray:
    return zarr.open_array(store.path / path, mode="r")[:]


@pytest.mark.parametrize("relation", ["t2t", "i2i", "i2t", "t2i"])
def test_neighbor_lists_are_the_stored_ones(store: Store, relation: str) -> None:
    found = store.neighbors(relation, alias="clip")
    for name, array in (("rows", "ids"), ("scores", "scores"), ("next", "next")):
        np.testing.assert_array_equal(getattr(found, name), zarr_array(store, f"neighbors/{relation}.clip.k4/{array}"))
    assert (found.rows.dtype, found.scores.dtype, found.next.dtype) == (np.uint32, np.float32, np.float32)
    prefix = {"i": "img", "t": "cap"}[relation[0]]
    some = store.neighbors(relation, [f"{prefix}-4", f"{prefix}-0"], alias="clip")
    np.testing.assert_array_equal(some.rows, found.rows[[4, 0]])


@pytest.mark.parametrize("relation", ["t2t", "i2i", "i2t", "t2i"])
@pytest.mark.parametrize("k", [None, 2])
def test_neighbors_have_ids_beside_rows(store: Store, relation: str, k: int | None) -> None:
    found = store.neighbors(relation, alias="clip", k=k)
    name_of = store.image_ids if relation.endswith("i") else store.caption_ids
    want = [[None if row == PAD_ROW else name_of([row])[0] for row in listed] for listed in found.rows.tolist()]
    assert None in found.ids
    assert found.ids.tolist() == want
    assert pickle.loads(pickle.dumps(found)).ids.tolist() == want
    assert len(found) == 3
    nothing = store.neighbors(relation, rows=[], alias="clip", k=k)
    assert nothing.ids.shape == nothing.rows.shape == (0, k or 4)


def test_a_shorter_list_is_bounded_by_the_first_entry_left_out(store: Store) -> None:
    full, short = store.neighbors("t2t", alias="text"), store.neighbors("t2t", alias="text", k=3)
    np.testing.assert_array_equal(short.rows, full.rows[:, :3])
    np.testing.assert_array_equal(short.scores, full.scores[:, :3])
    np.testing.assert_array_equal(short.next, full.scores[:, 3])
    with pytest.raises(ConfigError, match="k is True"):
        store.neighbors("t2t", alias="text", k=True)


def test_a_bound_of_an_approximate_list_stays_unknown(broken: Path) -> None:
    """NaN says that unlisted pairs may be better; a shorter list does not know more."""
    from labelgen.store.disk.shards import write_shard
    from labelgen.store.layout import neighbor_specs

    spec = neighbor_specs("neighbors/i2i.image.k4", 8, 4)["next"]
    write_shard(broken, spec, 0, np.full(8, np.nan, np.float32))
    assert np.isnan(labelgen.open(broken).neighbors("i2i", k=2, alias="image").next).all()


def test_lists_of_items_without_an_embedding_are_empty(store: Store) -> None:
    found = store.neighbors("i2i", ["img-5"], alias="image")
    assert (found.rows == PAD_ROW).all()
    assert np.isneginf(found.scores).all()
    assert np.isneginf(found.next).all()


def test_which_list_is_meant(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"2 choices.*\n.*clip, text.*\n.*alias="):
        store.neighbors("t2t")
    with pytest.raises(ConfigError, match="1 to 4"):
        store.neighbors("t2t", alias="text", k=5)
    with pytest.raises(ConfigError, match="1 to 4"):
        store.neighbors("t2t", alias="text", k=0)
    with pytest.raises(ConfigError, match="no list"):
        store.neighbors("t2t", scope="cross")
    with pytest.raises(ConfigError, match="no list i2i of teacher 'text'"):
        store.neighbors("i2i", alias="text")
    with pytest.raises(ConfigError, match="t2t, i2i, i2t, t2i"):
        store.neighbors("x2y")
    with pytest.raises(ConfigError, match="both"):
        store.neighbors("t2t", ["cap-0"], rows=[0], alias="text")


def test_of_several_lists_the_shortest_that_is_long_enough(made_store: Path, tmp_path: Path) -> None:
    from labelgen.store import choose
    from labelgen.types import Relation

    manifest = load_manifest(made_store)
    (entry,) = (item for item in manifest.neighbors if item.path == "neighbors/i2i.image.k4")
    several = replace(manifest, neighbors=tuple(replace(entry, k=k, path=f"neighbors/{k}") for k in (64, 4, 16)))

    def chosen(k: int | None) -> int:
        found = choose.neighbor_list(several, Relation.I2I, alias=None, scope="split", aggregation="max", k=k)
        return found.k

    assert [chosen(k) for k in (None, 1, 4, 5, 17, 64)] == [64, 4, 4, 16, 64, 64]


def test_zarr_beside_our_own_reader(store: Store) -> None:
    assert store.zarr("neighbors/t2t.text.k4")["ids"].shape == (24, 4)
    assert store.zarr().info is not None
    with pytest.raises(StoreError, match="as the manifest lists it"):
        store.zarr("neighbors/nothing")


def test_text_and_html(store: Store) -> None:
    text = repr(store)
    assert text.startswith("labelgen store ")
    for part in ("8 images (train 6, val 2)", "24 captions", "random(dim=16)", "t2i.clip.k4", "quarantined 3"):
        assert part in text
    assert store.manifest.content_digest in text
    assert "<table>" in store._repr_html_()


def test_html_is_escaped(broken: Path) -> None:
    """Names come from data sets, so they may hold anything."""
    manifest = load_manifest(broken)
    evil = "<script>alert('x')</script>"
    save_manifest(
        broken,
        replace(manifest, corpus=replace(manifest.corpus, about={"name": evil}, splits={evil: SplitRows([range(8)])})),
    )
    html = labelgen.open(broken)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_paths_of_all_kinds(made_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made_store.parent)
    relative = labelgen.open("made")
    monkeypatch.chdir("/")
    assert relative.path == made_store
    assert relative.embeddings("text").take(np.array([0])).shape == (1, 16)
    monkeypatch.setenv("HOME", str(made_store.parent))
    assert labelgen.open("~/made").path == made_store


def test_readers_never_write(made_store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made_store, tmp_path / "copy")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in copy.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    store = labelgen.open(copy)
    assert len(store.images) == 8
    store.neighbors("t2t", alias="text")
    store.block("i2t", image_rows=[0], caption_rows=[0], alias="text")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in copy.rglob("*")} == before
    for path in before:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_frames_in_a_forked_process_are_refused_rather_than_hanging(
    made_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = labelgen.open(made_store)
    read = store.images
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert store.images is read
    with pytest.raises(StoreError, match="forked"):
        _ = store.captions
    assert store.caption_ids([3]) == ["cap-3"]


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        labelgen.open(tmp_path)
