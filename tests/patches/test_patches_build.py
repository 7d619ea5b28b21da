"""A build with a patch: what the patch takes away never becomes rows, and the recipe says which patch it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import labelgen
from labelgen import patches, pipeline
from labelgen.cli.main import cli
from labelgen.config import DatasetConfig
from labelgen.corpus.adapters.demo import Demo
from labelgen.corpus.base import CaptionRecord, ImageRecord, Records
from labelgen.errors import ConfigError, DatasetError, StoreMismatchError, UnknownIdError
from labelgen.fingerprint import canonical, fingerprint
from labelgen.patches import Patch, carried, remaining
from labelgen.patches.removed import without
from labelgen.store.reader import Store

RECORDS = Records(
    [ImageRecord(name, "train", None, row) for row, name in enumerate("abcd")],
    [CaptionRecord(f"{name}{n}", name, f"{name} {n}", 2 * row + n) for row, name in enumerate("abcd") for n in (0, 1)],
    None,
)


@pytest.mark.parametrize(
    ("decision", "images", "captions"),
    [
        ({"decision": "drop_caption", "caption_id": "a0"}, "abcd", "a1 b0 b1 c0 c1 d0 d1"),
        ({"decision": "drop_image", "image_id": "b"}, "acd", "a0 a1 c0 c1 d0 d1"),
        ({"decision": "merge_duplicates", "image_id": "c", "into": "d"}, "abd", "a0 a1 b0 b1 d0 d1"),
        ({"decision": "merge_duplicates", "caption_id": "a0", "into": "b0"}, "abcd", "a1 b0 b1 c0 c1 d0 d1"),
        ({"decision": "mask_pair", "image_id": "a", "caption_id": "a0"}, "abcd", "a1 b0 b1 c0 c1 d0 d1"),
        ({"decision": "mask_pair", "image_id": "b", "caption_id": "a0"}, "abcd", "a0 a1 b0 b1 c0 c1 d0 d1"),
        ({"decision": "add_positive", "image_id": "b", "caption_id": "a0"}, "abcd", "a0 a1 b0 b1 c0 c1 d0 d1"),
    ],
)
def test_what_leaves_the_records(decision: dict[str, Any], images: str, captions: str) -> None:
    rejected = {**decision, "decision": f"reject_{decision['decision']}"}
    assert without(RECORDS, Patch.of("s", [rejected])) == RECORDS
    left = without(RECORDS, Patch.of("s", [decision]))
    assert [image.image_id for image in left.images] == list(images)
    assert [caption.caption_id for caption in left.captions] == captions.split()
    assert set(left.captions) <= set(RECORDS.captions)  # ids and places of what stays are as they were


def test_ids_of_another_data_set() -> None:
    for decision in ({"decision": "drop_image", "image_id": "x"}, {"decision": "drop_caption", "caption_id": "x"}):
        with pytest.raises(UnknownIdError, match="that are not in the data set"):
            without(RECORDS, Patch.of("s", [decision]))
        rejected = {**decision, "decision": f"reject_{decision['decision']}"}
        assert without(RECORDS, Patch.of("s", [rejected])) == RECORDS, "what is rejected need not be there"


def test_every_part_of_a_decision_is_in_the_digest() -> None:
    """Decisions that differ in one word only, whatever it is, have different digests."""
    decisions = [
        {"decision": "mask_pair", "image_id": "a", "caption_id": "b"},
        {"decision": "add_positive", "image_id": "a", "caption_id": "b"},
        {"decision": "mask_pair", "image_id": "x", "caption_id": "b"},
        {"decision": "mask_pair", "image_id": "a", "caption_id": "x"},
        {"decision": "merge_duplicates", "image_id": "a", "into": "b"},
        {"decision": "merge_duplicates", "image_id": "a", "into": "x"},
        {"decision": "merge_duplicates", "image_id": "x", "into": "b"},
        {"decision": "merge_duplicates", "caption_id": "a", "into": "b"},
        {"decision": "drop_image", "image_id": "a"},
        {"decision": "drop_caption", "caption_id": "a"},
    ]
    digests = [Patch.of("s", [decision]).digest for decision in decisions]
    assert len(set(digests)) == len(decisions)
    assert Patch.of("s", decisions[:1] + decisions[5:6]).digest == Patch.of("s", decisions[5:6] + decisions[:1]).digest


def test_digest_is_of_the_decisions() -> None:
    one, two = {"decision": "drop_image", "image_id": "a"}, {"decision": "drop_caption", "caption_id": "b0"}
    made = Patch.of("s", [one, two]).digest
    assert Patch.of("other", [{**two, "author": "ann", "score": 0.5}, {**one, "reason": "blurred"}]).digest == made
    assert Patch.of("s", [one]).digest != made
    # an image and a caption of one id are two things
    assert Patch.of("s", [{"decision": "merge_duplicates", "image_id": "a", "into": "b"}]).digest != (
        Patch.of("s", [{"decision": "merge_duplicates", "caption_id": "a", "into": "b"}]).digest
    )


def test_recipes_without_a_patch_keep_their_identity() -> None:
    """Stores that were made before there were patches can still be taken up and changed."""
    plain = DatasetConfig("demo", root="somewhere")
    assert canonical(plain) == {"name": "demo", "splits": [], "limit": 0, "options": {}}
    moved = DatasetConfig("demo", patch="there.json", patch_digest="0a")
    assert fingerprint(moved) != fingerprint(plain)
    assert fingerprint(moved) == fingerprint(DatasetConfig("demo", patch="here.json", patch_digest="0a"))


# Whole builds, with the real text teacher

TEXTS_ONLY = ["teachers.text=minilm()", "search.relations=['t2t', 'i2t']"]


@pytest.fixture(scope="module")
def reviewed(demo_store: Path) -> Store:
    return labelgen.open(demo_store)


@pytest.fixture(scope="module")
def patch(reviewed: Store) -> Patch:
    """Image rows: 0 dropped, 1 merged into 2, a caption of 3 dropped, one of 4 masked, pairs of 5 and 6 added."""
    images, first = reviewed.image_ids(range(10)), reviewed.caption_ids(reviewed.offsets[:10])
    return Patch.of(
        reviewed,
        [
            {"decision": "drop_image", "image_id": images[0]},
            {"decision": "merge_duplicates", "image_id": images[1], "into": images[2]},
            {"decision": "drop_caption", "caption_id": first[3]},
            {"decision": "mask_pair", "image_id": images[4], "caption_id": first[4]},
            {"decision": "add_positive", "image_id": images[5], "caption_id": first[6], "author": "ann"},
            {"decision": "add_positive", "image_id": images[1], "caption_id": first[6]},
            {"decision": "mask_pair", "image_id": images[2], "caption_id": first[7]},
            {"decision": "mask_pair", "image_id": images[1], "caption_id": first[8]},
            {"decision": "add_positive", "image_id": images[2], "caption_id": first[8]},
            {"decision": "add_positive", "image_id": images[2], "caption_id": reviewed.caption_ids([7])[0]},
        ],
    )


def demo(folder: Path, patch: Path, *others: str) -> Store:
    config = pipeline.resolve(dataset="demo", overrides=[f'dataset.patch="{patch}"', *TEXTS_ONLY, *others])
    pipeline.build(config, folder)
    return labelgen.open(folder)


@pytest.fixture(scope="module")
def cleaned(reviewed: Store, patch: Patch, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("cleaned")
    return demo(folder / "store", patches.write(patch, folder / "patch.parquet"))


def test_rows_of_a_patched_build(reviewed: Store, cleaned: Store, patch: Patch) -> None:
    """The same captions as the whole store, less those that go; texts and owners are those of before."""
    gone = patches.bind(patch, reviewed).removed_captions
    assert len(gone) == 5 + 5 + 1 + 1
    kept = [row for row in range(len(reviewed.captions)) if row not in gone]
    assert cleaned.captions["caption_id"].to_list() == reviewed.caption_ids(kept)
    assert cleaned.captions["text"].to_list() == reviewed.captions["text"].gather(kept).to_list()
    assert cleaned.image_ids(cleaned.image_of(range(len(kept)))) == reviewed.image_ids(reviewed.image_of(kept))
    assert set(reviewed.images["image_id"]) - set(cleaned.images["image_id"]) == set(reviewed.image_ids([0, 1]))
    listed = cleaned.neighbors("t2t").rows
    assert listed.max() < len(kept)
    assert pipeline.verify(cleaned.path, deep=True, sample=8).ok


def test_it_is_what_the_cleaned_file_gives(cleaned: Store, patch: Patch, tmp_path: Path) -> None:
    """Building with a patch and cleaning the captions first are one thing."""
    root = Demo().root
    (tmp_path / "images").symlink_to(root / "images")
    patches.export_captions(patch, root / "captions.csv", tmp_path / "captions.csv")
    records, left = Demo(tmp_path).read(), without(Demo().read(), patch)
    assert [item[:3] for item in records.captions] == [item[:3] for item in left.captions]
    assert [item[:3] for item in records.images] == [item[:3] for item in left.images]
    assert cleaned.captions["caption_id"].to_list() == [item.caption_id for item in left.captions]


def test_the_recipe_says_which_patch(cleaned: Store, patch: Patch, tmp_path: Path) -> None:
    recipe = cleaned.manifest.recipe["dataset"]
    assert recipe["patch_digest"] == patch.digest
    again = [f'dataset.patch="{recipe["patch"]}"', *TEXTS_ONLY]
    assert not pipeline.build(pipeline.resolve(dataset="demo", overrides=again), cleaned.path).changed
    with pytest.raises(StoreMismatchError, match="patch_digest"):
        pipeline.build(pipeline.resolve(dataset="demo", overrides=TEXTS_ONLY), cleaned.path)
    less = patches.write(patches.revert(patch, Patch(patch.store_id, patch.frame[:1])), tmp_path / "less.json")
    with pytest.raises(StoreMismatchError, match="patch_digest"):
        demo(cleaned.path, less)
    with pytest.raises(ConfigError, match="was changed"):
        demo(tmp_path / "s", less, f'dataset.patch_digest="{patch.digest}"')
    with pytest.raises(ConfigError, match="without a patch"):
        pipeline.plan(pipeline.resolve(dataset="demo", overrides=[f'dataset.patch_digest="{patch.digest}"']))
    with pytest.raises(DatasetError, match="cannot read the patch"):
        pipeline.plan(pipeline.resolve(dataset="demo", overrides=['dataset.patch="nowhere.json"']))


def test_what_stays_a_decision(reviewed: Store, cleaned: Store, patch: Patch) -> None:
    """Pairs of a merged image are pairs of the one it was merged into; a mask wins over an added pair."""
    images, first = reviewed.image_ids(range(10)), reviewed.caption_ids(reviewed.offsets[:10])
    left = remaining(patch, cleaned)
    patches.validate(left, cleaned)
    assert [(row["decision"], row["image_id"], row["caption_id"]) for row in left.decisions] == [
        ("add_positive", images[5], first[6]),
        ("add_positive", images[2], first[6]),
        ("mask_pair", images[2], first[7]),
        ("mask_pair", images[2], first[8]),
    ]
    assert left.decisions[0]["author"] == "ann"
    assert carried is remaining, "the first name, in older scripts"
    soft = labelgen.soft_labels(cleaned, images[5:7], first[5:7], patch=left)
    assert soft.same_image.tolist() == [[True, True], [False, True]]
    with pytest.raises(StoreMismatchError, match="not built with this patch"):
        remaining(patch, reviewed)
    with pytest.raises(StoreMismatchError, match="another store"):
        labelgen.soft_labels(cleaned, images[5:7], first[5:7], patch=patch)


def test_adding_a_teacher_needs_no_patch_file(patch: Patch, tmp_path: Path) -> None:
    file = patches.write(patch, tmp_path / "patch.json")
    made = demo(tmp_path / "s", file, "dataset.limit=12")
    file.unlink()
    pipeline.add(made.path, relations=["t2i"])
    assert "t2i" in {str(entry.relation) for entry in labelgen.open(made.path).manifest.neighbors}


def test_command(patch: Patch, tmp_path: Path) -> None:
    file, out = patches.write(patch, tmp_path / "patch.csv"), tmp_path / "store"
    arguments = ["build", "--dataset", "demo", "--patch", str(file), "--no-teacher", "image", "--out", str(out)]
    done = CliRunner().invoke(cli, [*arguments, "--limit", "10", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 20
    assert labelgen.open(out).manifest.recipe["dataset"]["patch_digest"] == patch.digest


def test_which_rejections_remain(reviewed: Store, cleaned: Store, patch: Patch) -> None:
    """Those of items that the store still holds, unless merging made the rejected pair an accepted one."""
    images, first = reviewed.image_ids(range(10)), reviewed.caption_ids(reviewed.offsets[:10])
    kept = [
        {"decision": "reject_add_positive", "image_id": images[8], "caption_id": first[9], "author": "ann"},
        {"decision": "reject_merge_duplicates", "image_id": images[8], "into": images[9]},
        {"decision": "reject_drop_image", "image_id": images[2]},
    ]
    gone = [
        {"decision": "reject_drop_image", "image_id": images[1]},
        {"decision": "reject_merge_duplicates", "image_id": images[8], "into": images[0]},
        {"decision": "reject_merge_duplicates", "caption_id": first[9], "into": first[3]},
        {"decision": "reject_mask_pair", "image_id": images[1], "caption_id": first[7]},
        {"decision": "reject_add_positive", "image_id": images[2], "caption_id": first[6]},
    ]
    both = patches.compose(patch, Patch.of(reviewed, [*kept, *gone]))
    left = remaining(both, cleaned)
    assert left.decisions == [*remaining(patch, cleaned).decisions, *kept]
