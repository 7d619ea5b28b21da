"""Done means hashed: kill a build in every stage, flip one bit in what it had finished, and run it again.

The end is the digest of an undisturbed build or a refusal, never another digest.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Forked, Moment
from forked_builds import build

from labelgen.pipeline import verify
from labelgen.store.manifest import load_manifest

pytest.importorskip("torch", reason="needs the extra labelgen[build]")
pytest.importorskip("safetensors", reason="needs the extra labelgen[build]")

SIAMESE = "siamese(of='text', hidden=8, dim=4, batch=32, steps=12, patience=3, rate=0.01)"

#: (when, which file, for which time): at least one moment in every stage of a build. `after` a part is between a rename
#: and its receipt.
MOMENTS = [
    ("after", ".labelgen/pending.json", 2),
    ("after", ".labelgen/ingest/captions.parquet", 1),
    ("after", ".labelgen/parts/embed/*", 2),
    ("after", "receipts/embed/*", 1),
    ("after", "receipts/embed/*", 2),
    ("after", "embeddings/*/c/*", 1),
    ("after", "receipts/assemble/*", 1),
    ("after", "receipts/assemble/*", 2),
    ("after", "models/*", 1),
    ("after", "receipts/train/*", 1),
    ("after", "embeddings/siamese/*", 1),
    ("after", ".labelgen/parts/search/*", 2),
    ("after", "receipts/search/*", 2),
    ("after", "receipts/search/*", 1),
    ("after", "neighbors/*/c/*", 5),
    ("after", "receipts/merge/*", 4),
    ("after", "receipts/merge/*", 12),
    ("after", "stats/*", 2),
    ("before", "corpus/captions.parquet", 1),
    ("before", "manifest.json", 1),
]
CHANGES = [
    ("after", "receipts/embed/*", 1),
    ("after", "receipts/assemble/*", 1),
    ("after", "receipts/search/*", 1),
    ("after", "receipts/merge/*", 2),
    ("before", "manifest.json", 1),
]
#: In parts: bytes of whole files that hold finished work. The lock holds none.
_IDLE = (".labelgen/lock",)


class Builds:
    """Builds in forked children."""

    def __init__(self, forked: Forked, folder: Path) -> None:
        self._forked = forked
        draw = np.random.default_rng(3)
        (folder / "data").mkdir()
        lines = [
            {"image_id": f"i{row // 3}", "caption_id": f"c{row}", "caption": f"text {row % 110}", "split": split}
            for row, split in enumerate(["train"] * 90 + ["val"] * 30)
        ]
        (folder / "data" / "captions.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )
        for name, ids in (("text", [f"c{row}" for row in range(120)]), ("image", [f"i{row}" for row in range(40)])):
            rows = draw.standard_normal((len(ids), 8)).astype(np.float32)
            np.savez(folder / f"{name}.npz", **dict(zip(ids, rows, strict=True)))
        self.image = f"precomputed(path={str(folder / 'image.npz')!r})"
        text = f"precomputed(path={str(folder / 'text.npz')!r}, modality='text')"
        self.overrides = [
            f"dataset.root={json.dumps(str(folder / 'data'))}",
            "search.k=5", "search.cross_k=2", "search.engine=numpy",
            f"teachers.text={text}", f"teachers.siamese={SIAMESE}",
        ]  # fmt: skip

    def run(self, out: Path, kill: Moment | None = None, **arguments: Any) -> dict[str, Any]:
        return self.ask("build", out, self.overrides, arguments, kill)

    def change(self, out: Path, kill: Moment | None = None) -> dict[str, Any]:
        return self.ask("add", out, ["search.engine=numpy"], {"teachers": {"image": self.image}}, kill)

    def ask(self, call: str, out: Path, overrides: list[str], arguments: Any, kill: Moment | None) -> dict[str, Any]:
        ended = self._forked(build, call, out, overrides, arguments, kill)
        return {"signal": ended.signal, **(ended.value or {})}


@pytest.fixture(scope="module")
def builds(forked: Forked, tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return Builds(forked, tmp_path_factory.mktemp("builds"))


@pytest.fixture(scope="module")
def undisturbed(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "store"
    told = builds.run(out)
    assert told["digest"], told["text"]
    return out


@pytest.fixture(scope="module")
def changed(builds: Builds, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("changed") / "store"
    shutil.copytree(undisturbed, out)
    told = builds.change(out)
    assert told["digest"], told["text"]
    return str(told["digest"])


def flip(draw: random.Random, files: list[Path]) -> Path:
    """Turn over one bit of one of the files."""
    path = draw.choice(files)
    raw = bytearray(path.read_bytes())
    place = draw.randrange(8 * len(raw))
    raw[place // 8] ^= 1 << place % 8
    path.write_bytes(raw)
    return path


def finished(out: Path, sealed: set[str]) -> list[Path]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.stat().st_size]
    names = {path: path.relative_to(out).as_posix() for path in files}
    return [path for path, name in names.items() if name not in _IDLE and name not in sealed and ".tmp" not in name]


@pytest.mark.parametrize("seed", range(len(MOMENTS)))
def test_a_flipped_bit_in_finished_work_is_never_sealed(
    builds: Builds, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    out, expected = tmp_path / "store", load_manifest(undisturbed).content_digest
    killed = builds.run(out, MOMENTS[seed])
    assert killed["signal"] == 9, (MOMENTS[seed], killed)
    damaged = flip(random.Random(seed), finished(out, set()))
    told = builds.run(out)
    if told["error"] == "StoreError":  # not recognised as our own any more: the message names it, and the user moves it
        assert damaged.name == "zarr.json"
        assert "zarr.json" in told["text"]
        damaged.unlink()
        told = builds.run(out)
    elif told["error"]:
        assert told["error"] in ("CorruptStoreError", "StoreMismatchError"), told["text"]
        told = builds.run(out, discard=True)
    assert told["digest"] == expected, (damaged, told)
    assert verify(out).problems == ()


@pytest.mark.parametrize("seed", range(len(CHANGES)))
def test_nor_in_a_change_of_a_sealed_store(
    builds: Builds, undisturbed: Path, changed: str, tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "store"
    shutil.copytree(undisturbed, out)
    sealed = {"manifest.json", "README.md", "croissant.json", *load_manifest(out).files}
    assert builds.change(out, CHANGES[seed])["signal"] == 9, CHANGES[seed]
    damaged = flip(random.Random(100 + seed), finished(out, sealed))
    told = builds.change(out)
    if told["error"]:
        assert told["error"] in ("CorruptStoreError", "StoreMismatchError"), told["text"]
        again = builds.run(out, discard=True)
        assert again["digest"] == load_manifest(undisturbed).content_digest, again
        told = builds.change(out)
    assert told["digest"] == changed, (damaged, told)
    assert verify(out).problems == ()


@pytest.mark.parametrize("kind", ["receipts/embed", ".labelgen/parts/search", "embeddings", "models", "neighbors"])
def test_every_kind_of_finished_work_is_looked_at(builds: Builds, undisturbed: Path, tmp_path: Path, kind: str) -> None:
    """One bit in every file of a kind: those that count are made again, with a note that names one."""
    out = tmp_path / "store"
    moment = ("after", "receipts/merge/*", 6) if kind != ".labelgen/parts/search" else ("after", "receipts/search/*", 2)
    assert builds.run(out, moment)["signal"] == 9
    draw = random.Random(kind)
    files = [path for path in finished(out, set()) if path.relative_to(out).as_posix().startswith(kind)]
    files = [path for path in files if path.name != "zarr.json"]  # written again by every run
    assert files
    for path in files:
        flip(draw, [path])
    told = builds.run(out)
    assert told["digest"] == load_manifest(undisturbed).content_digest, told
    assert any("not what was written" in note for note in told["notes"])
    assert verify(out).problems == ()


def test_a_change_is_not_made_from_damaged_rows(builds: Builds, undisturbed: Path, tmp_path: Path) -> None:
    """A list of rows that are not those that were sealed would be right nowhere."""
    out = tmp_path / "store"
    shutil.copytree(undisturbed, out)
    rows = out / "embeddings/text/text/c/0/0"
    raw = bytearray(rows.read_bytes())
    raw[10] ^= 1
    rows.write_bytes(raw)
    told = builds.ask("add", out, ["search.engine=numpy", "search.k=6"], {}, None)
    assert told["error"] == "CorruptStoreError"
    assert "embeddings/text/text/c/0/0" in told["text"]
    assert not (out / ".labelgen" / "pending.json").exists()


def test_the_note_of_a_training_is_hashed_as_well(tmp_path: Path) -> None:
    from labelgen.stages.work.train import _SavedFile

    saved = _SavedFile(tmp_path / "network.safetensors")
    saved.save({"weight": np.arange(6, dtype=np.float32)})
    found = saved.load()
    assert found is not None
    np.testing.assert_array_equal(found["weight"], np.arange(6, dtype=np.float32))
    raw = bytearray(saved.path.read_bytes())
    raw[-3] ^= 8
    saved.path.write_bytes(raw)
    assert saved.load() is None
