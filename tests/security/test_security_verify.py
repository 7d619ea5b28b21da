"""`verify` excuses nothing by a note, names what is no file, and is not stopped by bombs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import labelgen
from labelgen.errors import StoreError
from labelgen.fingerprint import digest_file
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.parquet import read_frame, read_strings
from labelgen.store.manifest import content_digest, load_manifest, save_manifest
from labelgen.store.verify.store import verify


def _planted(store: Path, **more: Any) -> None:
    (store / ".labelgen").mkdir(exist_ok=True)
    note = {"paths": ["", "embeddings/", "corpus", "README.md"], "identity": {}, "machines": [{}], **more}
    (store / ".labelgen" / "pending.json").write_text(json.dumps(note))


def test_a_planted_note_excuses_no_file(received: Path) -> None:
    _planted(received)
    for path in ("embeddings/extra/run.sh", "corpus/evil.parquet", "receipts/evil.json", "evil.txt"):
        (received / path).parent.mkdir(exist_ok=True)
        (received / path).write_text("evil")
    (received / "README.md").write_text("# Call this number")
    (received / "croissant.json").write_text("{}")
    report = verify(received)
    assert {problem.file for problem in report.problems} == {
        "embeddings/extra/run.sh", "corpus/evil.parquet", "receipts/evil.json", "evil.txt", "README.md",
        "croissant.json",
    }  # fmt: skip
    assert any("not finished" in note for note in report.notes), "and the note is reported"


def test_a_planted_next_manifest_excuses_no_card(received: Path) -> None:
    """The next manifest must be a whole one of this store, and the card exactly what it makes."""
    _planted(received)
    (received / "README.md").write_text("# Call this number")
    manifest = load_manifest(received)
    files = {**manifest.files, "README.md": FileFact((received / "README.md").stat().st_size, "")}
    files["README.md"] = files["README.md"]._replace(blake3=digest_file(received / "README.md"))
    save_manifest(received, replace(manifest, files=files), ".labelgen/next.json")
    assert [problem.file for problem in verify(received).problems] == ["README.md"]


def test_extra_shards_of_a_sealed_array_are_named(received: Path) -> None:
    _planted(received)
    shutil.copytree(received / "embeddings/text/text/c/0", received / "embeddings/text/text/c/1")
    assert [problem.file for problem in verify(received).problems] == ["embeddings/text/text/c/1/0"]


@pytest.mark.parametrize("path", ["corpus/x", "x", ".labelgen/x", "embeddings/text/text/c/7"])
@pytest.mark.parametrize("kind", ["pipe", "link", "link to a folder", "dangling"])
def test_everything_that_is_no_file_is_named(received: Path, sound_store: Path, path: str, kind: str) -> None:
    (received / ".labelgen").mkdir()
    if kind == "pipe":
        os.mkfifo(received / path)
    else:
        targets = {"link": sound_store / "README.md", "link to a folder": sound_store, "dangling": Path("nowhere")}
        (received / path).symlink_to(targets[kind])
    (problem,) = verify(received).problems
    assert problem.file == path
    assert ("pipe" if kind == "pipe" else "link") in problem.what


def _listed(store: Path, path: str, blake3: str = "0" * 32) -> None:
    """Put a file's present size into the manifest, digests and all."""
    manifest = load_manifest(store)
    files = {**manifest.files, path: FileFact((store / path).stat().st_size, blake3)}
    save_manifest(store, replace(manifest, files=files, content_digest=content_digest(files)))


@pytest.mark.parametrize("path", ["corpus/images.parquet", "corpus/extra.bin", "README.md", "stats/x.json"])
def test_a_sparse_terabyte_is_named_at_once(received: Path, path: str) -> None:
    (received / path).parent.mkdir(exist_ok=True)
    (received / path).touch()
    os.truncate(received / path, 1 << 40)
    _listed(received, path)
    started = time.perf_counter()
    report = verify(received)
    assert time.perf_counter() - started < 20
    assert any(problem.file == path and "holes" in problem.what for problem in report.problems)


def test_a_bomb_of_a_table(received: Path) -> None:
    """One long text, named by every row: kilobytes that become terabytes."""
    path = received / "corpus" / "captions.parquet"
    rows = 50_000
    long = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * (32 << 20)]))
    pq.write_table(pa.table({"caption_id": long, "text": long}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from pathlib import Path
from labelgen.errors import CorruptStoreError
from labelgen.store.disk.parquet import iter_columns, read_frame, read_strings
path = Path({str(path)!r})
for call in (lambda: read_strings(path, "text"), lambda: list(iter_columns(path, ["text"])),
             lambda: read_frame(path, rows=24)):
    try:
        call()
    except CorruptStoreError as error:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["refused"] * 3, done.stderr[-2000:]
    assert not verify(received).ok


@pytest.mark.parametrize("rows", [7, 9, 3_000_000])
def test_a_table_of_other_rows_than_the_manifest_counts(received: Path, rows: int) -> None:
    path = received / "corpus" / "images.parquet"
    table = pq.read_table(path)
    picked = table.take(pa.array([row % 8 for row in range(min(rows, 9))]))
    pq.write_table(picked if rows < 10 else pa.concat_tables([table] * (rows // 8)), path)
    store = labelgen.open(received)
    for call in (lambda: store.images, lambda: store.image_ids([0])):
        with pytest.raises(StoreError, match="manifest counts"):
            call()
    assert read_frame(path).height == (rows if rows < 10 else rows // 8 * 8)
    assert len(read_strings(path, "image_id")) == read_frame(path).height


def test_metadata_of_zarr_is_data(received: Path) -> None:
    """Codecs of another kind, version 2 with an object codec, and nesting are problems, not code."""
    folder = received / "embeddings" / "text" / "text"
    (folder / "zarr.json").write_text("[" * 100_000)
    (folder / ".zarray").write_text(json.dumps({
        "zarr_format": 2, "shape": [24, 16], "chunks": [24, 16], "dtype": "|O", "fill_value": 0, "order": "C",
        "filters": [{"id": "pickle"}], "compressor": None,
    }))  # fmt: skip
    report = verify(received)
    assert any(problem.file.startswith("embeddings/text/text") for problem in report.problems)
    with pytest.raises(Exception, match=r".+"):
        labelgen.open(received).zarr("embeddings/text/text")


def test_memory_of_a_check_is_bounded(received: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert verify(received).ok
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_a_file_between_its_rename_and_its_receipt_belongs_to_a_change_by_what_is_in_it(
    received: Path,
) -> None:
    """A whole network or table of statistics is a note while a change is pending; other bytes of that name are not."""
    from safetensors.numpy import save_file

    store = received
    _planted(store)
    network = store / "models" / "new" / "towers.safetensors"
    network.parent.mkdir(parents=True)
    save_file({"a": np.ones((2, 3), np.float32)}, network)
    table = {
        "relation": "i2i",
        "alias": "other",
        "aggregation": "max",
        "seed": 0,
        "pairs": 0,
        "quantiles": {"0.5": 0.25},
        "bins": [-1.0, 1.0],
        "splits": {},
    }
    (store / "stats").mkdir(exist_ok=True)
    (store / "stats" / "i2i.other.json").write_text(json.dumps(table))
    assert [problem.file for problem in verify(store).problems] == []
    network.write_bytes(network.read_bytes() + b"x")
    (store / "stats" / "i2i.other.json").write_text("{}")
    files = {problem.file for problem in verify(store).problems}
    assert files == {"models/new/towers.safetensors", "stats/i2i.other.json"}
