"""Shards with the traits of public bug reports: the right number of images, or a refusal that names the place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import labelgen
from labelgen.cli.main import cli
from labelgen.corpus.adapters.tar_shards import WebDataset
from labelgen.corpus.base import Records
from labelgen.errors import DatasetError

CASES = Path(__file__).resolve().parents[1] / "data" / "cases"


def read(case: str, **options: Any) -> Records:
    return WebDataset(CASES / case, **options).read()


def account(records: Records, unit: str = "members") -> dict[str, Any]:
    return next(found.to_json() for found in records.ledger if found.unit == unit)


def test_keys_with_dots() -> None:
    records = read("d02_wds_dots")
    assert len(records.images) == len({image.file for image in records.images}) == 12
    assert len(records.captions) == len({caption.image_id for caption in records.captions}) == 12
    assert {image.image_id for image in records.images} >= {"00000.v2", "00001"}
    assert account(records) == {"unit": "members", "seen": 24, "used": 24, "quarantined": {}, "skipped": {}}


def test_several_captions_a_key() -> None:
    records = read("d03_wds_multi")
    assert [image.image_id for image in records.images] == [f"{number:05d}" for number in range(12)]
    assert [caption.caption_id for caption in records.captions[:3]] == ["00000#0", "00000#1", "00001#0"]
    assert len(records.captions) == 24
    assert account(records)["used"] == 36


@pytest.mark.parametrize(
    ("case", "place"), [("d04_wds_bad_header", "15,872 of 40,960"), ("d04b_wds_trunc_in_header", "15,872 of 16,072")]
)
def test_damaged_shards(case: str, place: str) -> None:
    with pytest.raises(DatasetError, match=f"{case}/00000.tar cannot be read as a tar") as caught:
        read(case)
    assert f"at byte {place}" in caught.value.found
    assert "--damaged quarantine" in caught.value.todo
    records = read(case, damaged="quarantine")
    assert (len(records.images), len(records.captions)) == (6, 6)
    (reason,) = account(records, "files")["quarantined"]
    assert reason.startswith("damaged at byte 15,872")
    assert account(records, "files")["quarantined"][reason] == {"count": 1, "example": "00000.tar", "loud": True}


@pytest.mark.parametrize("damaged", ["refuse", "quarantine"])
def test_compressed_shards_beside_plain_ones(damaged: str) -> None:
    with pytest.raises(DatasetError, match="1 compressed shards") as caught:
        read("d04f_wds_gz_mixed", damaged=damaged)
    assert "00001.tar.gz" in caught.value.found


def test_a_key_twice_in_a_shard() -> None:
    with pytest.raises(DatasetError, match=r"12 members of 000000\.tar have the key and suffix") as caught:
        read("e06b_wds_dupkey")
    assert "'00000.jpg'" in caught.value.found


def test_photographs_with_other_suffixes() -> None:
    records = read("e06c_wds_heic")
    assert [str(image.file).rpartition(".")[2] for image in records.images].count("heic") == 4
    assert len(records.captions) == 12


def test_internal_members() -> None:
    records = read("e18_wds_prefix")
    assert (len(records.images), len(records.captions)) == (12, 12)
    skipped = account(records)["skipped"]
    assert skipped == {
        "internal members of libraries (__*__)": {
            "count": 1,
            "example": "000000.tar::__index__.json",
            "loud": False,
        }
    }


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def features(path: Path, ids: list[str]) -> str:
    draw = np.random.default_rng(0)
    np.savez(path, **{item: draw.standard_normal(8).astype(np.float32) for item in ids})
    return f"image=precomputed(path={str(path)!r})"


def test_plan_and_build_tell_the_account(tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(CASES / "d04_wds_bad_header", root)
    teacher = features(tmp_path / "f.npz", [f"{number:05d}" for number in range(6)])
    words = ("--dataset", "webdataset", "--root", str(root), "--teacher", teacher, "--k", "3")
    refused = run("plan", *words, "--no-calibrate", "--json")
    assert refused.exit_code == 3
    assert "at byte 15,872" in refused.output
    words = (*words, "--damaged", "quarantine")
    plan = json.loads(run("plan", *words, "--no-calibrate", "--json").stdout)
    assert (plan["images"], plan["captions"]) == (6, 6)
    members = next(entry for entry in plan["ledger"] if entry["unit"] == "members")
    assert (members["seen"], members["used"]) == (12, 12)
    assert any("damaged at byte 15,872" in note and "00000.tar" in note for note in plan["notes"])
    built = run("build", *words, "--out", str(tmp_path / "store"), "--json", "--progress", "none", "--engine", "numpy")
    assert built.exit_code == 0, built.output
    store = labelgen.open(tmp_path / "store")
    assert store.image_ids(range(6)) == [f"{number:05d}" for number in range(6)]
    assert store.manifest.recipe["dataset"]["damaged"] == "quarantine"
    files = next(entry for entry in store.manifest.corpus.ledger if entry["unit"] == "files")
    assert [tally["example"] for tally in files["quarantined"].values()] == ["00000.tar"]
    other = run("build", *words[:-2], "--out", str(tmp_path / "store"))
    assert other.exit_code == 5, "another way with damage is another recipe"
    assert "dataset.damaged" in other.output
