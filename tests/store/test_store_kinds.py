"""A reader of some kinds of captions is a store without the others; groups of images; both in every table and check."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import labelgen
from labelgen.errors import ConfigError
from labelgen.store.diff import diff
from labelgen.store.inspect import inspect_image, overview
from labelgen.store.kind_store import KindStore
from labelgen.store.manifest import load_manifest, save_manifest
from labelgen.store.reader import Store
from labelgen.store.readme.croissant import render_croissant, table_paths
from labelgen.store.schema.contradictions import contradictions
from labelgen.store.verify.store import verify
from labelgen.testing.stores import make_store
from labelgen.types import PAD_ROW

SIZES = (5, 2, 0, 1, 7, 3, 4, 2)
#: Image 1 has synthetic captions only; caption 3 of them all has no embedding.
KINDS = ["human", "blip", None, "blip", "human", "blip", "blip", None, *["human", "blip"] * 8]
GROUPS = ["g", None, "g", "h", "g", None, "h", "i"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(
        tmp_path_factory.mktemp("kinds") / "store",
        n_images=8, captions_per_image=SIZES, dims={"text": 16, "image": 8, "clip": 12}, seed=3, k=6,
        missing_captions=[3], kinds=KINDS, groups=GROUPS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return labelgen.open(path)


@pytest.fixture(scope="module")
def human(path: Path) -> Store:
    return labelgen.open(path, kinds="human")


def test_captions_by_kind(store: Store) -> None:
    assert store.kinds == {"human": 10, "blip": 12, "unspecified": 2}
    assert np.flatnonzero(store.has_kind("human")).tolist() == [
        row for row, kind in enumerate(KINDS) if kind == "human"
    ]
    assert np.flatnonzero(store.has_kind(["unspecified"])).tolist() == [2, 7]
    assert store.has_kind(store.kinds).all()


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["humn", "human"], r"no caption is of kind 'humn'(.|\n)*human \(10 captions\), blip \(12"),
        ([], r"not named(.|\n)*human, blip, unspecified"),
        ([None], "None is not the name of a kind"),
        ([7, "human"], "7 is not the name of a kind"),
        ("", "no caption is of kind ''"),
        (5, "5 is not the name of a kind"),
        (b"human", "b'human' is not the name of a kind"),
    ],
)
def test_unknown_kinds(store: Store, kinds: Any, words: str) -> None:
    for call in (lambda: store.has_kind(kinds), lambda: KindStore(store, kinds)):
        with pytest.raises(ConfigError, match=words):
            call()


def test_a_store_without_kinds_says_so(tmp_path: Path) -> None:
    plain = make_store(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"captions without kinds(.|\n)*column kind of a table"):
        labelgen.open(plain, kinds="human")
    assert labelgen.open(plain).kinds == {}
    assert (labelgen.open(plain).group_numbers == -1).all()


def test_the_items_of_a_reader_of_some_kinds(store: Store, human: Store) -> None:
    rows = [row for row, kind in enumerate(KINDS) if kind == "human"]
    ids = [f"cap-{row}" for row in rows]
    assert human.captions["caption_id"].to_list() == human.caption_ids(range(10)) == ids
    assert human.captions["caption_row"].to_list() == list(range(10))
    assert human.caption_rows(ids).tolist() == list(range(10))
    assert human.caption_rows(["cap-1"], missing_ok=True).tolist() == [-1]
    assert human.images["n_captions"].to_list() == np.diff(human.offsets).tolist() == [2, 0, 0, 0, 4, 1, 2, 1]
    assert [len(human.captions_of(row)) for row in range(8)] == [2, 0, 0, 0, 4, 1, 2, 1]
    assert human.image_of(range(10)).tolist() == store.image_of(rows).tolist()
    assert human.captions_in([4, 0]).tolist() == [2, 3, 4, 5, 0, 1]
    assert np.asarray(human.embeddings("text")).tobytes() == store.embeddings("text").take(np.array(rows)).tobytes()
    assert human.embeddings("text").slice(3, 6).tobytes() == human.embeddings("text").take(np.arange(3, 6)).tobytes()
    assert human.embeddings("image") is store.embeddings("image") or human.embeddings("image").shape == (8, 8)
    assert human.quarantine.height == 0
    assert labelgen.open(store.path, kinds=["blip"]).quarantine["row"].to_list() == [1]
    with pytest.raises(IndexError):
        human.embeddings("text").take(np.array([10]))
    again = pickle.loads(pickle.dumps(human))
    assert again.caption_ids([0, 9]) == human.caption_ids([0, 9])
    assert again.kinds == {"human": 10}


def test_every_kind_is_the_store_itself(store: Store) -> None:
    everything = KindStore(store, store.kinds)
    assert everything.captions.equals(store.captions)
    assert everything.images.equals(store.images)
    for entry in store.manifest.neighbors:
        got, wanted = (reader.neighbors(entry.relation, alias=entry.alias) for reader in (everything, store))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, wanted, strict=True))


def test_blocks_are_over_these_captions(store: Store, human: Store) -> None:
    captions = human.caption_ids(range(10))
    images = ["img-0", "img-4", "img-6"]
    block = human.block("i2t", images, captions, alias="text")
    rows = [
        store.embeddings("text").take(store.caption_rows(human.caption_ids(human.captions_of(row))))
        for row in (0, 4, 6)
    ]
    others = store.embeddings("text").take(store.caption_rows(captions))
    wide, *sets = (part.astype(np.float64) for part in (others, *rows))
    squares = [np.multiply.outer((own * own).sum(axis=1), (wide * wide).sum(axis=1)) for own in sets]
    scores = [(own @ wide.T / np.sqrt(square)).astype(np.float32) for own, square in zip(sets, squares, strict=True)]
    assert block.tobytes() == np.stack([score.max(axis=0) for score in scores]).tobytes()
    assert (block <= store.block("i2t", images, captions, alias="text")).all()
    assert (
        human.block("i2t", images, captions, alias="clip").tobytes()
        == store.block("i2t", images, captions, alias="clip").tobytes()
    )


def test_lists_that_compare_rows_lose_the_other_captions(store: Store, human: Store) -> None:
    for relation, alias in (("t2t", "text"), ("t2t", "clip"), ("i2t", "clip")):
        queries = human.captions["caption_id"].to_list() if relation == "t2t" else human.images["image_id"].to_list()
        got, wanted = (reader.neighbors(relation, queries, alias=alias) for reader in (human, store))
        for few, many, scores in zip(got.ids, wanted.ids, got.scores, strict=True):
            kept = [item for item in many if item is not None and KINDS[int(item[4:])] == "human"]
            assert [item for item in few if item is not None] == kept
            assert (scores[len(kept) :] == -np.inf).all()
        assert got.next.tobytes() == wanted.next.tobytes()
        short = human.neighbors(relation, queries, alias=alias, k=1)
        assert (short.rows[:, 0] == got.rows[:, 0]).all()
        assert (short.next >= got.scores[:, 1]).all()
    t2i = [reader.neighbors("t2i", human.captions["caption_id"].to_list(), alias="clip") for reader in (human, store)]
    assert t2i[0].rows.tobytes() == t2i[1].rows.tobytes()
    with pytest.raises(ConfigError, match=r"list i2t of teacher 'text'"):
        human.neighbors("i2t", alias="text")  # sets of all captions are not those of some
    assert human.neighbors("t2t", alias="text", kinds="human").rows.shape == (10, 6)
    with pytest.raises(ConfigError, match="no caption is of kind 'blip'"):
        human.neighbors("t2t", alias="text", kinds="blip")


def test_groups(store: Store) -> None:
    assert store.group_numbers.tolist() == [0, -1, 0, 1, 0, -1, 1, 2]
    rows = np.arange(8)
    same = store.same_group(rows[:, None], rows[None, :])
    expected = [[a == b or (GROUPS[a] is not None and GROUPS[a] == GROUPS[b]) for b in range(8)] for a in range(8)]
    assert same.tolist() == expected


@pytest.mark.parametrize("relation", ["t2t", "i2i", "i2t", "t2i"])
@pytest.mark.parametrize("k", [None, 2])
def test_lists_without_the_group_of_the_query(store: Store, relation: str, k: int | None) -> None:
    alias = "image" if relation == "i2i" else "text"
    whole = store.neighbors(relation, alias=alias)
    got = store.neighbors(relation, alias=alias, k=k, same_group="leave_out")
    of_query = store.image_of(range(24)) if relation[0] == "t" else np.arange(8)
    for row, (image, many, few) in enumerate(
        zip(of_query.tolist(), whole.rows.tolist(), got.rows.tolist(), strict=True)
    ):
        owners = [int(store.image_of([item])[0]) if relation[2] == "t" else item for item in many if item != PAD_ROW]
        kept = [
            item
            for item, owner in zip(many, owners, strict=False)
            if not store.same_group(np.array(image), np.array(owner))
        ]
        width = k or 6
        assert few == [*kept, *[PAD_ROW] * 6][:width]
        bound = whole.scores[row][many.index(kept[width])] if len(kept) > width else whole.next[row]
        assert got.next[row] == bound
    if relation in ("t2t", "i2i"):
        assert (got.rows != whole.rows[:, :width]).any()
    with pytest.raises(ConfigError, match="keep or leave_out"):
        store.neighbors(relation, alias=alias, same_group="drop")  # type: ignore[arg-type]


def test_groups_within_a_reader_of_some_kinds(store: Store, human: Store) -> None:
    ids = human.captions["caption_id"].to_list()
    got, wanted = (reader.neighbors("t2t", ids, alias="text", same_group="leave_out") for reader in (human, store))
    for few, many in zip(got.ids, wanted.ids, strict=True):
        kept = [item for item in many if item is not None and KINDS[int(item[4:])] == "human"]
        assert [item for item in few if item is not None] == kept


def test_descriptions_name_kinds_and_groups(store: Store, path: Path) -> None:
    facts = overview(store)
    assert facts["kinds"] == {"human": 10, "blip": 12, "unspecified": 2}
    assert facts["groups"] == 3
    assert "kinds of captions human 10, blip 12" in repr(store)
    assert "| human | 10 |" in (path / "README.md").read_text()
    item = inspect_image(store, "img-0")
    assert item.group == "g"
    assert [caption.kind for caption in item.captions] == KINDS[:5]
    for reader, added in ((path, True), (None, False)):
        manifest = load_manifest(path)
        if reader is None:
            manifest = replace(manifest, corpus=replace(manifest.corpus, kinds={}, groups=0))
        document = render_croissant(manifest, dict.fromkeys(table_paths(manifest), "0" * 64))
        fields = {field["@id"] for table in document["recordSet"] for field in table["field"]}
        assert ({"captions/kind", "images/group"} <= fields) is added


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kinds": {"human": 24}}, "other kinds than the manifest counts"),
        ({"groups": 2}, "has 3 groups, the manifest counts 2"),
    ],
)
def test_verify_compares_tables_and_manifest(path: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    assert verify(path).problems == ()
    copy = shutil.copytree(path, tmp_path / "copy")
    manifest = load_manifest(copy)
    save_manifest(copy, replace(manifest, corpus=replace(manifest.corpus, **change)))
    assert any(words in str(problem) for problem in verify(copy).problems)


def test_verify_finds_captions_of_other_kinds_in_a_list(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(path, tmp_path / "copy")
    manifest = load_manifest(copy)
    kept = [entry for entry in manifest.neighbors if (entry.relation, entry.alias) == ("t2t", "text")]
    named = replace(kept[0], kinds=("human",), path=kept[0].path.replace("t2t.text.", "t2t.text.kinds-7d4eeb."))
    (copy / kept[0].path).rename(copy / named.path)
    files = {name.replace(f"{kept[0].path}/", f"{named.path}/"): fact for name, fact in manifest.files.items()}
    others = tuple(entry for entry in manifest.neighbors if entry not in kept)
    save_manifest(copy, replace(manifest, neighbors=(*others, named), files=files))
    assert any("captions of other kinds" in str(problem) for problem in verify(copy).problems)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kinds": {"human": 3}}, "3 captions have a kind or none, the corpus has 24"),
        ({"groups": 9}, "9 groups of 8 images"),
        ({"text_borders": (0,)}, "kinds begin at the texts"),
        ({"text_borders": (5, 5)}, "kinds begin at the texts"),
        ({"text_borders": (99,)}, "kinds begin at the texts"),
    ],
)
def test_contradictions(path: Path, change: dict[str, Any], words: str) -> None:
    manifest = load_manifest(path)
    assert contradictions(manifest) == []
    assert words in " ".join(contradictions(replace(manifest, corpus=replace(manifest.corpus, **change))))
    listed = tuple(replace(entry, kinds=("other",)) for entry in manifest.neighbors)
    assert "is over captions of ['other']" in " ".join(contradictions(replace(manifest, neighbors=listed)))


def test_tables_of_before_are_written_as_before(path: Path, tmp_path: Path) -> None:
    """A null column is not written, whatever the frame has."""
    from labelgen.store.disk.parquet import write_frame
    from labelgen.store.layout import TABLES

    frame = pl.read_parquet(path / "corpus" / "captions.parquet").select(list(TABLES["captions.parquet"]))
    bare = write_frame(tmp_path / "a" / "captions.parquet", frame)
    assert write_frame(tmp_path / "b" / "captions.parquet", frame.with_columns(kind=pl.lit(None, pl.String))) == bare


def test_a_difference_of_kinds_and_groups_is_named(path: Path, tmp_path: Path) -> None:
    other = make_store(
        tmp_path / "other",
        n_images=8, captions_per_image=SIZES, dims={"text": 16, "image": 8, "clip": 12}, seed=3, k=6,
        missing_captions=[3], kinds=["blip", *KINDS[1:]],
    )  # fmt: skip
    found = diff(path, other).corpus
    assert found.changed_kinds.first == ("cap-0",)
    assert found.changed_groups.first == ("img-0", "img-2", "img-3", "img-4", "img-6", "img-7")
    assert not found.equal_items
    assert diff(path, path).corpus.equal_items
