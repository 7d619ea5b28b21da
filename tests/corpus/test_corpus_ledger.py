"""The account of a data set: everything that was read is used, quarantined or skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import labelgen
from labelgen.cli.main import cli
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import CaptionRecord, ImageRecord, Records
from labelgen.corpus.ledger import Account, Ledger, Tally, ledger_notes, rebooked, with_quarantine


def test_an_account_that_balances_is_closed() -> None:
    ledger = Ledger()
    ledger.seen("members", 5)
    ledger.used("members", 2)
    ledger.skipped("members", ".heic", "a.heic", loud=True)
    ledger.skipped("members", ".heic", "b.heic")
    ledger.quarantined("members", "damaged", "c.jpg")
    (account,) = ledger.closed()
    assert account == Account(
        "members", 5, 2, {"damaged": Tally(1, "c.jpg", True)}, {".heic": Tally(2, "a.heic", True)}
    )
    assert ledger_notes([account]) == [
        "1 of 5 members quarantined: damaged (for example c.jpg)",
        "2 of 5 members skipped: .heic (for example a.heic)",
    ]
    assert Account.from_json(json.loads(json.dumps(account.to_json()))) == account


@pytest.mark.parametrize("change", ["seen", "used"])
def test_an_account_that_does_not_balance_is_a_fault(change: str) -> None:
    ledger = Ledger()
    ledger.seen("rows")
    ledger.used("rows")
    getattr(ledger, change)("rows")
    with pytest.raises(RuntimeError, match="1 rows are not accounted for"):
        ledger.closed()


def test_an_example_is_bounded() -> None:
    ledger = Ledger()
    ledger.seen("lines")
    ledger.skipped("lines", "no caption", "x" * 1_000_000)
    assert len(ledger.closed()[0].skipped["no caption"].example) == 200


def test_the_first_reason_of_a_row_counts_and_other_units_stay() -> None:
    accounts = (Account("rows", 9, 9), Account("images", 3, 3), Account("captions", 4, 4))
    rows = [("image", 1, "b", "missing"), ("image", 1, "b", "no_features"), ("caption", 1, "x", "blank")]
    assert with_quarantine(accounts, rows) == (
        Account("rows", 9, 9),
        Account("images", 3, 2, {"missing": Tally(1, "b")}),
        Account("captions", 4, 3, {"blank": Tally(1, "x")}),
    )


def test_items_that_a_later_step_leaves_out_are_skipped() -> None:
    accounts = (Account("images", 3, 3), Account("captions", 3, 3))
    assert rebooked(accounts, "images", "there already", ["a", "b"]) == (
        Account("images", 3, 1, skipped={"there already": Tally(2, "a")}),
        Account("captions", 3, 3),
    )


#: The engine that needs no torch.
ENGINE = ("--engine", "numpy")
TEXTS = st.sampled_from(["a cat", "a dog", "", "  ", "caf\udce9"])
SPLITS = st.sampled_from(["train", "val", "test"])


@given(st.lists(st.tuples(SPLITS, st.lists(TEXTS, max_size=3)), min_size=1, max_size=12), st.data())
def test_rows_of_any_choice_balance(images: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    records = Records(
        [ImageRecord(f"i{row}", split, None, row) for row, (split, _) in enumerate(images)],
        [
            CaptionRecord(f"i{row}#{number}", f"i{row}", text, row)
            for row, (_, texts) in enumerate(images)
            for number, text in enumerate(texts)
        ],
        None,
    )
    present = sorted({split for split, _ in images})
    chosen = data.draw(st.lists(st.sampled_from(present), unique=True))
    limit = data.draw(st.integers(0, 4))
    corpus = arrange(records, splits=chosen, limit=limit)
    of_images, of_captions = corpus.ledger
    assert of_images.seen == len(images)
    assert of_captions.seen == sum(len(texts) for _, texts in images)
    assert of_images.used == len(corpus.images)
    assert of_captions.used == corpus.captions.filter(corpus.captions["status"] == "ok").height
    assert of_images.balance == of_captions.balance == 0
    others = sum(split not in (chosen or present) for split, _ in images)
    assert of_images.skipped.get("in another split", Tally(0, "")).count == others


def _table(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    folder.mkdir()
    lines = [json.dumps({"image_id": image, "caption": text, "split": split}) for image, text, split in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _run(*arguments: Any) -> Any:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"], prog_name="labelgen")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_build_plan_manifest_and_append_tell_the_account(tmp_path: Path) -> None:
    first = _table(
        tmp_path / "a", [("a", "one", "train"), ("a", " ", "train"), ("b", "two", "train"), ("c", "x", "val")]
    )
    more = _table(tmp_path / "b", [("b", "two", "train"), ("d", "four", "train"), ("e", "", "train")])
    ids = ["a#0", "a#1", "b#0", "c#0", "d#0", "e#0"]
    np.savez(tmp_path / "text.npz", **{name: np.eye(8, dtype=np.float32)[row] for row, name in enumerate(ids)})
    teacher = f"text=precomputed(path={str(tmp_path / 'text.npz')!r}, modality='text')"
    out = tmp_path / "store"
    choice = ("--dataset", "table", "--root", first, "--teacher", teacher, "--splits", "train")

    def of(unit: str, accounts: list[dict[str, Any]]) -> dict[str, Any]:
        return next(account for account in accounts if account["unit"] == unit)

    planned, built = _run("plan", *choice, "--no-calibrate"), _run("build", *choice, "--k", 2, "--out", out, *ENGINE)
    sealed = labelgen.open(out).manifest.corpus
    for accounts in (planned["ledger"], built["ledger"], [dict(account) for account in sealed.ledger]):
        images, captions = of("images", accounts), of("captions", accounts)
        assert (images["seen"], images["used"], images["skipped"]["in another split"]["count"]) == (3, 2, 1)
        assert (captions["seen"], captions["used"]) == (4, 2)
        assert captions["quarantined"]["blank"] == {"count": 1, "example": "a#1", "loud": False}

    appended = _run("build", "--append", "--out", out, "--root", more, *ENGINE)
    images, captions = of("images", appended["ledger"]), of("captions", appended["ledger"])
    assert (images["seen"], images["used"], images["skipped"]["in the store already"]["count"]) == (3, 2, 1)
    assert (captions["seen"], captions["used"], captions["quarantined"]["blank"]["count"]) == (3, 1, 1)
    grown = labelgen.open(out).manifest.corpus
    assert grown.ledger == sealed.ledger
    assert list(grown.parts[1].ledger) == appended["ledger"]
    inspected = _run("inspect", out)
    assert inspected["ledger"] == [dict(account) for account in sealed.ledger]


@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_data_set_without_captions_is_refused_by_name(command: str, tmp_path: Path) -> None:
    root = _table(tmp_path / "a", [("a", "", "train"), ("b", "  ", "train")])
    np.savez(tmp_path / "text.npz", **{"a#0": np.ones(4, np.float32), "b#0": np.ones(4, np.float32)})
    arguments = [command, "--dataset", "table", "--root", str(root)]
    arguments += ["--teacher", f"text=precomputed(path={str(tmp_path / 'text.npz')!r}, modality='text')"]
    arguments += ["--out", str(tmp_path / "store")] if command == "build" else []
    result = CliRunner().invoke(cli, arguments, prog_name="labelgen")
    assert result.exit_code == 3
    assert "the data set has no usable caption" in result.output
