"""From a finding to a better label: audit, review in a browser, the saved patch, the loader's masks, the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen import patches
from labelgen.audit import agreement_card
from labelgen.audit.report.report import write_report
from labelgen.audit.report.sections import audit_sections
from labelgen.cli.main import cli
from labelgen.errors import StoreMismatchError
from labelgen.loader import SoftLabelCollate
from labelgen.patches import Patch
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store


def reviewed_in_browser(chromium: Any, page: Path, saved: Path, keys: str) -> None:
    """Open the page, press keys, save the patch."""
    tab = chromium.new_page(accept_downloads=True)
    tab.goto(page.as_uri())
    for key in keys:
        tab.keyboard.press(key)
    with tab.expect_download() as waiting:
        tab.click("#save")
    waiting.value.save_as(saved)
    tab.close()


def judged(store: Store, pairs: list[tuple[str, str]], rating: list[float], path: Path) -> Path:
    columns = {"image_id": [image for image, _ in pairs], "caption_id": [caption for _, caption in pairs]}
    pl.DataFrame({**columns, "rating": rating}).write_parquet(path)
    return path


def test_from_finding_to_card(demo_store: Path, tmp_path: Path, chromium: Any) -> None:
    """The first false negative is accepted, the second rejected, the third and two noisy pairs are accepted."""
    store = labelgen.open(demo_store)
    sections = list(audit_sections(store, ["false_negatives", "noisy_pairs"], limit=3))
    page = write_report(store, sections, tmp_path / "report.html")
    reviewed_in_browser(chromium, page, tmp_path / "patch.json", "araara")
    missed, noisy = (section.frame for section in sections)
    assert missed is not None
    assert noisy is not None
    patch = patches.read(tmp_path / "patch.json")
    patches.validate(patch, store)
    accepted = [missed.row(0, named=True), missed.row(2, named=True)]
    doubted = [noisy.row(0, named=True), noisy.row(2, named=True)]
    assert [(row["decision"], row["image_id"], row["caption_id"]) for row in patch.accepted.decisions] == [
        *(("add_positive", row["image_id"], row["caption_id"]) for row in accepted),
        *(("mask_pair", row["image_id"], row["caption_id"]) for row in doubted),
    ]
    assert [row["decision"] for row in patch.decisions if row not in patch.accepted.decisions] == [
        *("reject_add_positive", "reject_mask_pair"),
    ]

    # The page of the same findings with the patch saves the same patch.
    again = write_report(store, sections, tmp_path / "again.html", patch=patch)
    reviewed_in_browser(chromium, again, tmp_path / "again.json", "")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "patch.json").read_bytes()

    # The loader: what was accepted is right, what is wrong does not count, what was rejected is as before.
    first = accepted[0]
    wrong = next(row for row in doubted if row["caption_id"] != first["caption_id"])
    samples = [
        {"image_id": first["image_id"], "caption_id": own(store, first["image_id"])},
        {"image_id": first["annotated_image_id"], "caption_id": first["caption_id"]},
        {"image_id": wrong["image_id"], "caption_id": wrong["caption_id"]},
    ]
    soft = SoftLabelCollate(store, tensors=False, patch=tmp_path / "patch.json", collate=list)(samples)[-1]
    assert soft.same_image[0, 1]
    assert soft.relevance[0, 1] == 1
    assert soft.where[0, 1]
    assert not soft.where[2, 2]

    # The card: people who think as the reviewer did agree more with the patched labels.
    rejected = missed.row(1, named=True)
    pairs = [(row["image_id"], row["caption_id"]) for row in [*accepted, rejected]]
    rating = [4.0, 4.0, 1.0]
    for image in range(20, 40):
        other = store.caption_ids([store.captions_of(image + 10)[0]])[0]
        pairs += [
            (store.image_ids([image])[0], own(store, store.image_ids([image])[0])),
            (store.image_ids([image])[0], other),
        ]
        rating += [3.0, 1.0]
    file = judged(store, pairs, rating, tmp_path / "people.parquet")
    card = agreement_card(store, [file], patch=patch, replicates=20)
    figures = {row.label: row.figures["spearman"].value for row in card.rows if row.subset == "all"}
    assert figures["i2t.text + patch"] > figures["i2t.text"]
    assert {row.kind for row in card.rows if row.label.endswith(" + patch")} == {"patched"}
    assert any("the patch moves" in sentence for sentence in card.recommendation)
    assert any("the patch adds 2 and leaves out 0" in note for note in card.notes)


def own(store: Store, image_id: str) -> str:
    row = int(store.image_rows([image_id])[0])
    return store.caption_ids([store.captions_of(row)[0]])[0]


# The card with a patch, value by value

ADD, MASK = ("img-0", "cap-5"), ("img-1", "cap-10")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return labelgen.open(make_store(tmp_path_factory.mktemp("card") / "s", n_images=12))


@pytest.fixture(scope="module")
def people(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every image with the first caption of every other; ratings grow with the place."""
    pairs = [(f"img-{image}", f"cap-{5 * other}") for image in range(12) for other in range(12) if other != image]
    return judged(store, pairs, [float(n) for n in range(len(pairs))], tmp_path_factory.mktemp("people") / "p.parquet")


def figures(card: Any, label: str) -> dict[str, float]:
    """By measure; those that are not defined are left out."""
    row = next(row for row in card.rows if row.label == label)
    return {name: figure.value for name, figure in row.figures.items() if np.isfinite(figure.value)}


def test_added_pairs_come_first_and_masked_ones_are_left_out(store: Store, people: Path) -> None:
    from scipy.stats import spearmanr

    decisions = [
        {"decision": "add_positive", "image_id": ADD[0], "caption_id": ADD[1]},
        {"decision": "mask_pair", "image_id": MASK[0], "caption_id": MASK[1]},
        {"decision": "drop_image", "image_id": "img-7"},
        {"decision": "drop_caption", "caption_id": "cap-16"},
    ]
    card = agreement_card(store, [people], patch=Patch.of(store, decisions), replicates=5)
    frame = pl.read_parquet(people)
    values, patched, ratings = [], [], []
    for image, caption, rating in frame.rows():
        if (image, caption) == MASK or image == "img-7" or caption == "cap-35":
            continue
        row, column = int(image[4:]), int(caption[4:])
        members = list(range(5 * row, 5 * row + 5))
        scores = store.block("t2t", caption_rows=[*members, column])[:-1, -1]
        values.append(scores.max())
        kept = [score for member, score in zip(members, scores, strict=True) if member != 16]
        patched.append(1.0 if (image, caption) == ADD else max(kept))
        ratings.append(rating)
    assert figures(card, "i2t.text")["spearman"] == pytest.approx(spearmanr(values, ratings).statistic)
    assert figures(card, "i2t.text + patch")["spearman"] == pytest.approx(spearmanr(patched, ratings).statistic)
    assert next(row for row in card.rows).pairs == 12 * 11 - 1 - 22 + 1 - 1
    assert not np.allclose(values, patched)


def test_an_empty_patch_changes_nothing(store: Store, people: Path) -> None:
    fusion = "mean(of=['i2t.text', 'i2i.image'])"
    card = agreement_card(store, [people], patch=Patch.of(store), fusions=[fusion], replicates=5)
    labels = [row.label for row in card.rows if row.kind != "patched"]
    assert len(labels) == len(card.rows) / 2
    assert all(figures(card, label) == figures(card, f"{label} + patch") for label in labels)


def test_patches_of_other_stores(store: Store, people: Path) -> None:
    with pytest.raises(StoreMismatchError, match="another store"):
        agreement_card(store, [people], patch=Patch.of("other"), replicates=5)


def test_command_shows_both(store: Store, people: Path, tmp_path: Path) -> None:
    file = patches.write(Patch.of(store, [{"decision": "drop_caption", "caption_id": "cap-16"}]), tmp_path / "p.json")
    arguments = ["card", str(store.path), "--against", str(people), "--patch", str(file), "--bootstrap", "5"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "i2t.text + patch" in done.output
    assert "the patch moves" in done.output
