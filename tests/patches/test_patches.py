"""Patches: what they refuse, how they compose, what they mean for a batch, and cleaned files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labelgen
import labelgen.patches
from labelgen.errors import ConfigError, DatasetError, LabelgenError, StoreMismatchError, UnknownIdError
from labelgen.patches import patch as patches
from labelgen.patches.batch_masks import PatchMasks, bind, masks, patched
from labelgen.patches.cleaned.cleaned import export_captions
from labelgen.patches.patch import Patch, compose, read, revert, validate, write
from labelgen.relevance.base import SoftLabels
from labelgen.store.reader import Store
from labelgen.store.schema.validation import schema_problems
from labelgen.testing.stores import make_store

#: Images img-0 ... img-5 with three captions each: img-0 has cap-0, cap-1, cap-2, and so on.
ADD = {"decision": "add_positive", "image_id": "img-0", "caption_id": "cap-5"}
MASK = {"decision": "mask_pair", "image_id": "img-1", "caption_id": "cap-3"}
DROP_CAPTION = {"decision": "drop_caption", "caption_id": "cap-8", "reason": "'not a caption'"}
DROP_IMAGE = {"decision": "drop_image", "image_id": "img-3", "score": 0.5, "author": "ann"}
MERGE_IMAGES = {"decision": "merge_duplicates", "image_id": "img-4", "into": "img-5"}
MERGE_CAPTIONS = {"decision": "merge_duplicates", "caption_id": "cap-0", "into": "cap-6"}
ALL = [ADD, MASK, DROP_CAPTION, DROP_IMAGE, MERGE_IMAGES, MERGE_CAPTIONS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return labelgen.open(make_store(tmp_path_factory.mktemp("patch") / "s", n_images=6, captions_per_image=3))


@pytest.mark.parametrize("ending", [".parquet", ".json", ".csv"])
def test_round_trip(store: Store, tmp_path: Path, ending: str) -> None:
    made = Patch.of(store, ALL)
    again = read(write(made, tmp_path / f"patch{ending}"))
    assert again.store_id == store.manifest.store_id
    assert again.frame.equals(made.frame)
    assert again.decisions == ALL
    validate(again, store)


def test_json_keeps_its_schema(store: Store) -> None:
    assert schema_problems(Patch.of(store, ALL).to_json(), "patch.v1") == []


def test_empty_patches_are_json(store: Store, tmp_path: Path) -> None:
    empty = Patch.of(store)
    assert len(read(write(empty, tmp_path / "empty.json"))) == 0
    with pytest.raises(ConfigError, match="names no store"):
        write(empty, tmp_path / "empty.parquet")
    found = masks(empty, ["img-0"], ["cap-0", "cap-5"])
    assert not found.positive.any()
    assert found.where.all()


def test_whole_numbers_are_ids() -> None:
    made = Patch.of("s", [{"decision": "add_positive", "image_id": 391895, "caption_id": 770337}])
    assert made.decisions == [{"decision": "add_positive", "image_id": "391895", "caption_id": "770337"}]


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ([{"decision": "add"}], "no decision 'add'"),
        ([{"decision": None}], "no decision None"),
        ([{"decision": "add_positive", "image_id": "a"}], "must name image_id and caption_id"),
        ([{**ADD, "into": "x"}], "and nothing else"),
        ([{"decision": "drop_image", "caption_id": "c"}], "must name image_id"),
        ([{"decision": "merge_duplicates", "image_id": "a", "caption_id": "c", "into": "d"}], "or caption_id and into"),
        ([ADD, {**ADD, "reason": "again"}], "there twice"),
        ([ADD, {**ADD, "decision": "mask_pair"}], "added and masked"),
        ([ADD, {"decision": "drop_image", "image_id": "img-0"}], "is dropped"),
        ([ADD, {"decision": "drop_caption", "caption_id": "cap-5"}], "is dropped"),
        ([MERGE_IMAGES, {"decision": "drop_image", "image_id": "img-5"}], "is dropped"),
        ([MERGE_CAPTIONS, {"decision": "drop_caption", "caption_id": "cap-6"}], "is dropped"),
        ([MERGE_IMAGES, {**MERGE_IMAGES, "into": "img-1"}], "into 'img-5' and into 'img-1'"),
        ([{**MERGE_IMAGES, "into": "img-4"}], "into itself"),
        ([MERGE_IMAGES, {**MERGE_IMAGES, "image_id": "img-5", "into": "img-4"}], "into itself"),
        ([ADD, {**ADD, "decision": "reject_add_positive"}], "is accepted"),
        ([DROP_IMAGE, {"decision": "reject_drop_image", "image_id": "img-3"}], "is accepted"),
        ([MERGE_IMAGES, {"decision": "reject_merge_duplicates", "image_id": "img-5", "into": "img-4"}], "is accepted"),
        ([{**MASK, "decision": "reject_mask_pair"}, {**MASK, "decision": "reject_mask_pair"}], "there twice"),
        ([{"decision": "reject_drop_caption", "image_id": "img-3"}], "must name caption_id"),
        ([{**ADD, "decision": "reject_"}], "no decision 'reject_'"),
        ([{**ADD, "colour": "red"}], "colour"),
        ([{**ADD, "image_id": ["a"]}], "another type"),
    ],
)
def test_contradictions_and_wrong_forms(decisions: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        Patch.of("s", decisions)
    assert words in str(caught.value)


def test_an_image_and_a_caption_of_one_id_are_different_things() -> None:
    """`into` of a merged image is an image: a dropped caption of the same id is nobody's business."""
    Patch.of(
        "s",
        [
            {"decision": "merge_duplicates", "image_id": "7", "into": "8"},
            {"decision": "drop_caption", "caption_id": "8"},
        ],
    )


def test_other_stores_and_unknown_ids(store: Store) -> None:
    with pytest.raises(StoreMismatchError, match="another store"):
        validate(Patch.of("other", [ADD]), store)
    with pytest.raises(UnknownIdError, match="2 captions"):
        validate(Patch.of(store, [{**ADD, "caption_id": "cap-99"}, {**MASK, "caption_id": "cap-98"}]), store)
    with pytest.raises(UnknownIdError, match="img-77"):
        validate(Patch.of(store, [{**MERGE_IMAGES, "into": "img-77"}]), store)
    with pytest.raises(DatasetError, match="belong to the data set already"):
        validate(Patch.of(store, [{**ADD, "caption_id": "cap-1"}]), store)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{}", "[]", '{"format": 3, "store_id": "s", "decisions": []}',
        '{"format": 1, "store_id": "s", "decisions": [{"decision": "reject_drop_image", "image_id": "a"}]}',
        '{"format": 2, "store_id": "s", "decisions": [{"decision": "reject_evil", "image_id": "a"}]}',
        '{"format": 1, "store_id": "s", "decisions": [{"decision": "evil"}]}',
        '{"format": 1, "store_id": "s", "decisions": [{"decision": "drop_image", "image_id": "a", "x": 1}]}',
        '{"format": 1, "store_id": "s", "decisions": [{"decision": "drop_image", "image_id": 1}]}',
        "a,b\n1,2\n", "decision,image_id\ndrop_image,a\n", "decision,image_id,store_id\ndrop_image,a,\n",
        "decision,image_id,store_id\ndrop_image,a,s\ndrop_image,b,t\n",
        "decision,image_id,score,store_id\ndrop_image,a,high,s\n", "PAR1", "\x00\xff",
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "patch"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError):
        read(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read"):
        read(tmp_path / "absent")


def test_compose_and_revert(store: Store) -> None:
    one, two = Patch.of(store, [ADD, MASK]), Patch.of(store, [DROP_IMAGE, {**MASK, "reason": "seen"}])
    both = compose(one, two)
    assert both.decisions == [ADD, DROP_IMAGE, {**MASK, "reason": "seen"}]
    assert revert(both, two).decisions == [ADD]
    with pytest.raises(DatasetError, match="not in the patch"):
        revert(one, Patch.of(store, [DROP_IMAGE]))
    with pytest.raises(StoreMismatchError):
        compose(one, Patch.of("other", [ADD]))


def test_the_later_patch_may_win(store: Store) -> None:
    one, two = Patch.of(store, [ADD, MASK]), Patch.of(store, [{**ADD, "decision": "mask_pair"}])
    with pytest.raises(DatasetError, match="added and masked"):
        compose(one, two)
    assert compose(one, two, keep="second").decisions == [MASK, {**ADD, "decision": "mask_pair"}]


REJECTIONS = [{**decision, "decision": f"reject_{decision['decision']}"} for decision in ALL]


@pytest.mark.parametrize("ending", [".parquet", ".json", ".csv"])
def test_rejections_are_kept_and_change_nothing_else(store: Store, tmp_path: Path, ending: str) -> None:
    """Of items that other decisions add, mask, drop and merge, and the same decisions elsewhere."""
    plain = Patch.of(store, [{**ADD, "caption_id": "cap-4"}, {"decision": "drop_caption", "caption_id": "cap-3"}])
    made = compose(plain, Patch.of(store, REJECTIONS))
    again = read(write(made, tmp_path / f"patch{ending}"))
    assert again.frame.equals(made.frame)
    assert again.decisions[2:] == REJECTIONS
    validate(again, store)
    assert again.accepted.frame.equals(plain.frame)
    assert again.digest == plain.digest
    images, captions = store.image_ids(range(6)), store.caption_ids(range(18))
    for one, other in zip(
        (masks(made, images, captions), bind(made, store).masks(*rows_of(store, images, captions)[:2])),
        (masks(plain, images, captions), bind(plain, store).masks(*rows_of(store, images, captions)[:2])),
        strict=True,
    ):
        assert np.array_equal(one.positive, other.positive)
        assert np.array_equal(one.where, other.where)
    assert np.array_equal(bind(made, store).removed_captions, bind(plain, store).removed_captions)
    source, out = tmp_path / "captions.csv", tmp_path / "clean.csv"
    source.write_text("image_id,caption_id,caption\nimg-3,cap-9,a\nimg-2,cap-8,b\nimg-1,cap-3,c\n")
    assert (export_captions(made, source, out).kept, export_captions(plain, source, out).kept) == (2, 2)


def test_formats_with_and_without_rejections(store: Store) -> None:
    """A reader of format 1 alone must refuse rejections, and read everything else."""
    assert Patch.of(store, ALL).to_json()["format"] == 1
    document = Patch.of(store, REJECTIONS).to_json()
    assert document["format"] == 2
    assert schema_problems(document, "patch.v2") == []
    assert schema_problems(document, "patch.v1") != []
    assert Patch.of(store, REJECTIONS).digest == Patch.of(store).digest


def test_a_later_verdict_replaces_an_earlier_one(store: Store) -> None:
    first, second = Patch.of(store, [ADD, REJECTIONS[1]]), Patch.of(store, [REJECTIONS[0], MASK])
    with pytest.raises(DatasetError, match="contradicts the same decision"):
        compose(first, second)
    assert compose(first, second, keep="second").decisions == [REJECTIONS[0], MASK]
    assert revert(compose(first, Patch.of(store, [DROP_CAPTION])), first).decisions == [DROP_CAPTION]


def rows_of(store: Store, images: list[str], captions: list[str]) -> tuple[Any, Any, list[str]]:
    rows = store.caption_rows(captions)
    return store.image_rows(images), rows, store.image_ids(store.image_of(rows))


def test_masks_by_hand(store: Store) -> None:
    """Every image against captions cap-0 (merged with cap-6), cap-3, cap-5, cap-8 (dropped), cap-9 (of the dropped
    img-3), cap-12 (of img-4) and cap-15 (of img-5, with which img-4 is merged)."""
    images = [f"img-{n}" for n in range(6)]
    captions = ["cap-0", "cap-3", "cap-5", "cap-6", "cap-8", "cap-9", "cap-12", "cap-15"]
    made = Patch.of(store, ALL)
    image_rows, caption_rows, owners = rows_of(store, images, captions)
    expected = {(0, 2), (0, 3), (2, 0), (4, 7), (5, 6)}
    found = masks(made, images, captions, owners)
    assert {(int(a), int(b)) for a, b in np.argwhere(found.positive)} == expected
    gone = np.zeros((6, 8), bool)
    gone[3], gone[:, 4], gone[:, 5], gone[1, 1] = True, True, True, True
    assert np.array_equal(found.where, ~gone)
    bound = pickle.loads(pickle.dumps(bind(made, store)))
    rows = bound.masks(image_rows, caption_rows)
    assert np.array_equal(rows.positive, found.positive)
    assert np.array_equal(rows.where, found.where)


@given(st.lists(st.integers(0, 10**6), min_size=0, max_size=12), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_ids_and_rows_agree_on_whole_batches(store: Store, seeds: list[int], seed: int) -> None:
    """Random decisions that hold together; a batch of everything, where merged items meet their partners."""
    made = Patch.of(store)
    for number in seeds:
        draw = np.random.default_rng(number)
        image, other = (f"img-{n}" for n in draw.choice(6, 2, replace=False))
        caption, twin = (f"cap-{n}" for n in draw.choice(18, 2, replace=False))
        kind = str(draw.choice(["add_positive", "mask_pair", "drop_caption", "drop_image", "images", "captions"]))
        decision = {
            "add_positive": {"decision": kind, "image_id": image, "caption_id": caption},
            "mask_pair": {"decision": kind, "image_id": image, "caption_id": caption},
            "drop_caption": {"decision": kind, "caption_id": caption},
            "drop_image": {"decision": kind, "image_id": image},
            "images": {"decision": "merge_duplicates", "image_id": image, "into": other},
            "captions": {"decision": "merge_duplicates", "caption_id": caption, "into": twin},
        }[kind]
        try:
            longer = compose(made, Patch.of(store, [decision]))
            validate(longer, store)
        except LabelgenError:
            continue
        assert revert(longer, Patch.of(store, [decision])).frame.equals(
            revert(compose(longer, Patch.of(store, [decision])), Patch.of(store, [decision])).frame
        )
        made = longer
    draw = np.random.default_rng(seed)
    images = [f"img-{n}" for n in draw.permutation(6)]
    captions = [f"cap-{n}" for n in draw.permutation(18)]
    image_rows, caption_rows, owners = rows_of(store, images, captions)
    by_id, by_row = masks(made, images, captions, owners), bind(made, store).masks(image_rows, caption_rows)
    assert np.array_equal(by_id.positive, by_row.positive)
    assert np.array_equal(by_id.where, by_row.where)


def test_soft_labels_with_a_patch() -> None:
    same = np.eye(2, dtype=bool)
    labels = SoftLabels(np.array([[1, 0.2], [0.3, 1]], np.float32), same, np.ones((2, 2), bool), np.arange(2))
    found = patched(
        labels, PatchMasks(np.array([[False, True], [False, False]]), ~np.array([[False, False], [True, False]]))
    )
    assert found.relevance.tolist() == [[1, 1], [np.float32(0.3), 1]]
    assert found.relevance.dtype == np.float32
    assert found.same_image.tolist() == [[True, True], [False, True]]
    assert found.where.tolist() == [[True, True], [False, True]]


TOKENS = "a.jpg#0\tone\na.jpg#1\ttwo\nb.jpg#0\tthree\nc.jpg#0\tfour\r\nd.jpg#0\tfünf"
CLEAN = [
    {"decision": "drop_caption", "caption_id": "a.jpg#1"},
    {"decision": "drop_image", "image_id": "b"},
    {"decision": "mask_pair", "image_id": "c", "caption_id": "c.jpg#0"},
    {"decision": "mask_pair", "image_id": "a", "caption_id": "d.jpg#0"},
]


def test_token_files(tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(TOKENS.encode())
    done = export_captions(Patch.of("s", CLEAN), source, out)
    assert (done.kept, done.removed) == (2, 3)
    assert out.read_bytes() == "a.jpg#0\tone\nd.jpg#0\tfünf".encode()
    export_captions(Patch.of("s"), source, out)
    assert out.read_bytes() == source.read_bytes()


def test_karpathy_files(tmp_path: Path) -> None:
    entries = [
        {
            "cocoid": 1,
            "filename": "x1.jpg",
            "sentids": [10, 11],
            "sentences": [{"sentid": 10, "raw": "a"}, {"sentid": 11}],
        },
        {"cocoid": 2, "filename": "x2.jpg", "sentids": [12], "sentences": [{"sentid": 12}]},
    ]
    source, out = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps({"dataset": "coco", "images": entries}))
    decisions = [
        {"decision": "drop_caption", "caption_id": "11"},
        {"decision": "merge_duplicates", "image_id": "2", "into": "1"},
    ]
    done = export_captions(Patch.of("s", decisions), source, out)
    assert (done.kept, done.removed) == (1, 2)
    assert json.loads(out.read_text()) == {
        "dataset": "coco",
        "images": [{"cocoid": 1, "filename": "x1.jpg", "sentids": [10], "sentences": [{"sentid": 10, "raw": "a"}]}],
    }


def test_coco_and_parquet_files(tmp_path: Path) -> None:
    notes = [{"id": 5, "image_id": 1, "caption": "a"}, {"id": 6, "image_id": 2, "caption": "b"}]
    source, out = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps({"info": {}, "images": [{"id": 1}, {"id": 2}], "annotations": notes}))
    made = Patch.of("s", [{"decision": "drop_image", "image_id": "2"}])
    assert export_captions(made, source, out).kept == 1
    assert json.loads(out.read_text()) == {"info": {}, "images": [{"id": 1}], "annotations": notes[:1]}
    frame = pl.DataFrame({"image_id": [1, 2], "caption_id": [5, 6], "caption": ["a", "b"]})
    frame.write_parquet(tmp_path / "in.parquet")
    export_captions(made, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet").equals(frame[:1])


@pytest.mark.parametrize("text", ["no tabs here\n", '{"images": 3}', '{"annotations": [{}]}', "{", "PAR1...."])
def test_files_of_other_formats(tmp_path: Path, text: str) -> None:
    (tmp_path / "in").write_text(text)
    with pytest.raises(DatasetError):
        export_captions(Patch.of("s"), tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_in_the_module_are_there() -> None:
    assert all(hasattr(patches, name) for name in patches.__all__)


def test_public_names_are_no_modules() -> None:
    """A module of the same name would take its place as soon as something imports it."""
    assert all(callable(getattr(labelgen.patches, name)) for name in labelgen.patches.__all__)
