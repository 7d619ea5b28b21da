"""`verify`, `inspect` and `diff` on small sealed stores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from labelgen.cli import flags, main
from labelgen.store.verify.findings import Report
from labelgen.testing.stores import make_store

Run = Callable[..., Result]


def narrow(shown: str) -> bool:
    return max(map(len, shown.splitlines())) <= 100


def test_verify_of_a_whole_store(run: Run, small_store: Path) -> None:
    result = run("verify", small_store, "--progress", "none")
    assert result.exit_code == 0
    assert "whole" in result.stdout
    assert run("verify", small_store, "--json").exit_code == 0


def test_verify_names_file_and_rows_and_ends_with_1(run: Run, small_store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_store, broken)
    shard = broken / "embeddings/image/image/c/0/0"
    raw = bytearray(shard.read_bytes())
    raw[0] ^= 1
    shard.write_bytes(raw)
    result = run("verify", broken, "--progress", "none")
    assert result.exit_code == 1
    assert "embeddings/image/image/c/0/0" in result.stdout
    assert "0 to 11" in result.stdout
    assert narrow(result.stdout)
    answer = run("verify", broken, "--json")
    assert answer.exit_code == 1
    problems = json.loads(answer.stdout)["problems"]
    assert {problem["file"] for problem in problems} == {"embeddings/image/image/c/0/0"}


def test_verify_hands_its_options_over(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def verify(path: str, **named: Any) -> Report:
        seen.update(named, path=path)
        return Report(tmp_path, (), ("a leftover",), "abc", 1, 2, 0.5)

    monkeypatch.setattr("labelgen.pipeline.verify", verify)
    result = run("verify", "s", "--deep", "--sample", 3, "--seed", 4, "--root", "d")
    assert result.exit_code == 0
    assert "note: a leftover" in result.stdout
    del seen["progress"]
    assert seen == {"path": "s", "deep": True, "sample": 3, "seed": 4, "data_root": "d", "teachers": {}}


def test_inspect_shows_what_a_store_holds_and_examples(run: Run, small_store: Path) -> None:
    result = run("inspect", small_store)
    assert result.exit_code == 0
    assert "12 (train 9, val 3)" in result.stdout
    assert "text = random(dim=16)" in result.stdout
    assert result.stdout.count("\nimage img-") == 3
    assert narrow(result.stdout)
    assert run("inspect", small_store).stdout == result.stdout
    assert run("inspect", small_store, "--seed", 1).stdout != result.stdout
    assert run("inspect", small_store, "--examples", 0).stdout.count("\nimage img-") == 0


def test_inspect_as_json(run: Run, small_store: Path) -> None:
    answer = json.loads(run("inspect", small_store, "--json").stdout)
    assert (answer["images"], answer["captions"], len(answer["examples"])) == (12, 60, 3)


def test_inspect_of_an_image(run: Run, small_store: Path) -> None:
    result = run("inspect", small_store, "--image", "img-1", "--k", 2)
    assert result.exit_code == 0
    assert "photos/0001.jpg (640 x 480)" in result.stdout
    assert "(cap-5)" in result.stdout
    assert "i2t by text" in result.stdout
    assert "i2i by image" in result.stdout
    assert narrow(result.stdout)
    item = json.loads(run("inspect", small_store, "--image", "img-1", "--k", 2, "--json").stdout)
    assert [len(listed["neighbors"]) for listed in item["lists"]] == [2, 2]


def test_inspect_of_a_caption_and_one_relation(run: Run, small_store: Path) -> None:
    result = run("inspect", small_store, "--caption", "cap-7", "--relation", "t2i.text")
    assert result.exit_code == 0
    assert "t2i by text" in result.stdout
    assert "t2t by text" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("--image img-99", 5, "img-99"),
        ("--caption img-1", 5, "img-1"),
        ("--image img-1 --relation t2t", 2, "'i2t'"),
        ("--image img-1 --k 99", 2, "1 to 4"),
        ("--image img-1 --caption cap-1", 2, "exclude each other"),
        ("--k 3", 2, "--image or --caption"),
        ("--image img-1 --examples 3", 2, "no effect"),
    ],
)
def test_questions_without_an_answer(run: Run, small_store: Path, arguments: str, code: int, says: str) -> None:
    result = run("inspect", small_store, *arguments.split())
    assert result.exit_code == code
    assert says in result.stderr


def test_inspect_shows_hostile_captions_as_text(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    store = make_store(tmp_path / "s")
    frame = pl.read_parquet(store / "corpus/captions.parquet").with_columns(text=pl.lit("\x1b[2J[bold]\0 \n"))
    frame.write_parquet(store / "corpus/captions.parquet")
    shown = run("inspect", store, "--image", "img-1").stdout
    assert "\x1b" not in shown
    assert "\\x1b[2J[bold]\\x00" in shown


def test_diff_of_equal_stores(run: Run, small_store: Path, tmp_path: Path) -> None:
    result = run("diff", small_store, make_store(tmp_path / "again"))
    assert result.exit_code == 0
    assert "equal content" in result.stdout


def test_diff_names_what_differs(run: Run, small_store: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", seed=1, n_images=10, dims={"text": 16, "clip": 4})
    result = run("diff", small_store, other)
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "2 images only in A: img-10, img-11" in lines
    assert "1 images whose split changed: img-8" in lines
    assert any(line.startswith("clip/text 0 0 only in B") for line in lines)
    assert any(line.startswith("teachers.clip: (none) -> random(dim=4)") for line in lines)
    assert narrow(result.stdout)
    answer = json.loads(run("diff", small_store, other, "--json").stdout)
    assert answer["equal"] is False
    assert answer["corpus"]["images_only_a"] == {"count": 2, "first": ["img-10", "img-11"]}


def test_diff_needs_two_stores(run: Run, small_store: Path, tmp_path: Path) -> None:
    assert run("diff", small_store, tmp_path / "none").exit_code == 5
    assert run("diff", small_store).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("verify STORE --sample 3", "--sample has no effect without --deep"),
        ("verify STORE --root x", "--root has no effect without --deep"),
        ("inspect STORE --caption cap-1 --seed 3", "--seed has no effect beside --image or --caption"),
        ("audit STORE --photos .", "--photos has no effect without --html"),
        ("audit STORE --check x --section duplicates", "--section has no effect beside --check"),
        ("export STORE --for csr --out x --text text", "--text has no effect for csr"),
        ("export STORE --for parquet --out x --short drop", "--short has no effect for parquet"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(run: Run, small_store: Path, arguments: str, says: str) -> None:
    result = run(*arguments.replace("STORE", str(small_store)).split())
    assert result.exit_code == 2
    assert says in result.stderr


def test_numbers_have_a_range_or_are_checked_as_fields_of_a_recipe() -> None:
    """A negative seed is an error of the option, not one of numpy."""
    group = click.Context(main.cli)
    bare = {
        f"{name} --{item.name}"
        for names in main.SECTIONS.values()
        for name in names
        for item in main.cli.get_command(group, name).params  # type: ignore[union-attr]
        if item.type is click.INT and item.name not in flags.FIELDS
    }
    assert bare == set()


def test_an_output_that_is_in_the_way_is_no_bug(run: Run, small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("audit", small_store, "--section", "hub_images", "--out", tmp_path / "file")
    assert (result.exit_code, result.stderr.splitlines()[-2]) == (2, f"error: File exists: {tmp_path / 'file'}")
