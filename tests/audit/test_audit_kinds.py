"""Audits over kinds of captions, and pairs that groups of images make known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen import audit
from labelgen.audit.checks.false_negatives import known_by_group
from labelgen.audit.report.report import write_report
from labelgen.audit.report.sections import audit_sections
from labelgen.cli.main import cli
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

GROUPS = ["g", "g", None, "h", *[None] * 15, "h"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images with four captions each, every other one of them synthetic; images 0 and 1 are one product."""
    return make_store(
        tmp_path_factory.mktemp("kinds") / "store",
        n_images=20, captions_per_image=4, dims={"text": 12, "image": 8, "clip": 10}, k=12,
        kinds=["human", "blip"] * 40, groups=GROUPS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return labelgen.open(path)


def test_findings_are_about_the_chosen_captions(path: Path, tmp_path: Path) -> None:
    human = labelgen.open(path, kinds="human")
    sections = list(audit_sections(human))
    served = {section.name: section.frame for section in sections if section.frame is not None}
    assert {"false_negatives", "noisy_pairs", "duplicate_captions", "duplicate_images"} <= served.keys()
    for name, frame in served.items():
        for column in ("caption_id", "other_caption_id"):
            if column in frame.columns:
                assert (human.caption_rows(frame[column].drop_nulls().to_list()) >= 0).all(), name
    assert len(served["noisy_pairs"]) == 40
    page = write_report(human, sections, tmp_path / "page.html").read_text()
    assert "40, " in page
    texts = {human.captions["text"][row] for row in range(40)}
    assert set(served["false_negatives"]["image_text"].to_list()) <= texts


def test_the_command(path: Path, tmp_path: Path) -> None:
    words = ["audit", str(path), "--json", "--section", "noisy_pairs", "--top", "100"]
    done = CliRunner().invoke(cli, [*words, "--kinds", "human", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (section,) = json.loads(done.stdout)["sections"]
    assert {row["caption_id"] for row in section["first"]} == {f"cap-{row}" for row in range(0, 80, 2)}
    assert len(pl.read_parquet(tmp_path / "out" / "noisy_pairs.parquet")) == 40
    both = CliRunner().invoke(cli, [*words, "--kinds", "blip, human"])
    assert json.loads(both.stdout)["sections"][0]["rows"] == 80
    wrong = CliRunner().invoke(cli, [*words, "--kinds", "humn"])
    assert wrong.exit_code == 2
    assert "human (40 captions), blip (40 captions)" in wrong.stderr


def test_pairs_of_one_group_are_known(store: Store) -> None:
    found = audit.false_negatives(store, limit=1000)
    rows = found.select("image_row", "caption_row").to_numpy().astype(np.int64)
    assert not store.same_group(rows[:, 0], store.image_of(rows[:, 1])).any()
    listed = set()
    for relation in ("i2t", "t2i"):
        lists = store.neighbors(relation, alias="text")
        for query, row in enumerate(lists.rows.tolist()):
            listed |= {(query, item) if relation == "i2t" else (item, query) for item in row if item < 2**32 - 1}
    grouped = [(image, caption) for image, caption in listed if GROUPS[image] and GROUPS[image] == GROUPS[caption // 4]]
    assert known_by_group(store) == len(grouped) > 0
    assert len(found) == len(listed) - len(grouped)
    (section,) = audit_sections(store, ["false_negatives"])
    assert f"; {len(grouped)} listed pairs of images of one group are known, and left out" in section.note


def test_without_groups_nothing_is_left_out(tmp_path: Path) -> None:
    plain = labelgen.open(make_store(tmp_path / "plain"))
    assert known_by_group(plain) == 0
    (section,) = audit_sections(plain, ["false_negatives"])
    assert section.note == "the score ranks pairs; it is not a probability"
