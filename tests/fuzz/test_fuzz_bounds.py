"""Small files that ask for much: depth, size, time. Each is read by a process of its own, with bounds on all of them.

Exit codes are asserted here, because a bound that is missed can end in any way.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from fuzz_harness import check, run_alone

from labelgen.fingerprint import fingerprint

TEACHER = "text=precomputed(path={!r}, modality='text')"
_ROWS = "".join(json.dumps({"image_id": f"a{n}", "caption": f"text {n}"}) + "\n" for n in range(3))


def _npy(shape: str, dtype: str = "<f4", data: bytes = b"\0" * 64) -> bytes:
    """An array file whose header says more than it holds."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _zipped(name: str, size: int) -> bytes:
    """A member of zeros, a thousandth of its size."""
    data = io.BytesIO()
    with (
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return data.getvalue()


def _nested(open_: str, close: str, depth: int = 200_000) -> bytes:
    return (open_ * depth + close * depth).encode()


def _sparse(path: Path, size: int = 1 << 40) -> None:
    """A terabyte of nothing, which takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


def _sparse_member(path: Path, size: int = 1 << 40) -> None:
    """An archive that says it holds a member of a terabyte, and is as long as that says."""
    info = tarfile.TarInfo("a0.jpg")
    info.size = size
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(size + 2048)


Write = Callable[[Path], object]


def _of(make: Callable[[], bytes]) -> Write:
    return lambda path: path.write_bytes(make())


#: What lies in a data set's folder: adapter, name of the file, how it is written.
DATA: Mapping[str, tuple[str, str, Write]] = {
    "nested JSON lines": ("table", "captions.jsonl", _of(lambda: _nested("[", "]"))),
    "nested annotations": ("coco", "dataset_coco.json", _of(lambda: _nested('{"a":', "}"))),
    "nested objects of CUSA": ("cusa", "new_train.json", _of(lambda: _nested("[", "]"))),
    "a line of 200 MB": ("table", "captions.jsonl", _of(lambda: b'{"image_id": "' + b"a" * (200 << 20))),
    "a sparse table": ("table", "captions.csv", _sparse),
    "sparse tokens": ("flickr30k", "results_20130124.token", _sparse),
    "a sparse member": ("webdataset", "00000.tar", _sparse_member),
    "an archive of zeros": ("webdataset", "00000.tar", _sparse),
    "zipped zeros": ("webdataset", "00000.tar.gz", _of(lambda: gzip.compress(bytes(1 << 28)))),
    "a pipe": ("table", "captions.csv", os.mkfifo),
    "a pipe as an archive": ("webdataset", "00000.tar", os.mkfifo),
    "a digit of a million": ("table", "captions.jsonl", _of(lambda: b'{"image_id": ' + b"9" * 10**6 + b"}")),
}  # fmt: skip

FEATURES: Mapping[str, tuple[str, Write]] = {
    "a shape of 10^15": ("f.npy", _of(lambda: _npy("(1000000000, 1000000)"))),
    "a negative shape": ("f.npy", _of(lambda: _npy("(-1, 4)"))),
    "a dtype of a gigabyte": ("f.npy", _of(lambda: _npy("(4, 4)", "|V1073741824"))),
    "a header of nested tuples": ("f.npy", _of(lambda: _npy("(" * 5_000 + ")" * 5_000))),
    "zipped zeros": ("f.npz", _of(lambda: _zipped("a.npy", 1 << 30))),
    "a sparse array": ("f.npy", _sparse),
    "a sparse pickle": ("f.pkl", _sparse),
    "a pickle of a long": ("f.pkl", _of(lambda: b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b"\x01")),
    "a pickle of nested lists": ("f.pkl", _of(lambda: b"\x80\x04" + b"](" * 200_000 + b"e" * 200_000 + b".")),
    "safetensors of a terabyte": ("f.safetensors", _of(lambda: struct.pack("<Q", 1 << 40) + b"{}")),
    "a pipe": ("f.npy", os.mkfifo),
}  # fmt: skip

#: Those of the short form: one a mechanism.
_QUICK = {"nested annotations", "a sparse member", "a shape of 10^15"}


def _each(cases: Mapping[str, object]) -> list[object]:
    return [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in cases]


@pytest.mark.parametrize("name", _each(DATA))
def test_data_sets(name: str, features: Path, tmp_path: Path) -> None:
    dataset, file, write = DATA[name]
    root = tmp_path / "data"
    (root / file).parent.mkdir(parents=True)
    write(root / file)
    teacher = TEACHER.format(str(features))
    outcome = run_alone(
        "plan",
        "--dataset",
        dataset,
        "--root",
        root,
        "--teacher",
        teacher,
        "--no-calibrate",
        "--progress",
        "none",
        folder=tmp_path,
    )
    check(outcome)
    assert outcome.code == 3, outcome.stderr


@pytest.mark.parametrize("name", _each(FEATURES))
def test_features(name: str, tmp_path: Path) -> None:
    file, write = FEATURES[name]
    write(tmp_path / file)
    (tmp_path / "captions.jsonl").write_text(_ROWS, encoding="utf-8")
    data = ("--dataset", "table", "--root", tmp_path, "--teacher", TEACHER.format(str(tmp_path / file)))
    outcome = run_alone("plan", *data, "--progress", "none", folder=tmp_path)
    check(outcome)
    assert outcome.code == 4, outcome.stderr


STORES: Mapping[str, bytes] = {
    "nested manifest": _nested('{"format": 1, "a":', "}"),
    "a manifest of a shape": b"",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("command", ["inspect", "verify", "audit"])
def test_manifests(name: str, command: str, small_store: Path, tmp_path: Path) -> None:
    import shutil

    store = Path(shutil.copytree(small_store, tmp_path / "store"))
    data = STORES[name]
    if not data:  # every number of the corpus is far too large, and its digest is right
        document = json.loads((store / "manifest.json").read_bytes())
        document["corpus"] |= {"n_images": 10**15, "n_captions": 10**15, "n_texts": 10**15}
        del document["manifest_digest"]
        document["manifest_digest"] = fingerprint(document)
        data = json.dumps(document).encode()
    (store / "manifest.json").write_bytes(data)
    outcome = run_alone(command, store, folder=tmp_path)
    check(outcome)
    assert outcome.code in (1, 5), outcome.stderr


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--check", "--against"])
@pytest.mark.parametrize("kind", ["pipe", "sparse", "nested"])
def test_files_about_a_store(option: str, kind: str, small_store: Path, tmp_path: Path) -> None:
    file = tmp_path / ("p.json" if option == "--check" else "image_to_caption.json")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "sparse":
        _sparse(file)
    else:
        file.write_bytes(_nested('{"a":', "}"))
    command = "audit" if option == "--check" else "card"
    outcome = run_alone(command, small_store, option, file, folder=tmp_path)
    check(outcome)
    assert outcome.code == 3, outcome.stderr


@pytest.mark.slow
def test_a_recipe_of_nested_tables(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"a = " + _nested("[", "]"))
    for arguments in (
        ("plan", "--recipe", tmp_path / "r.toml"),
        ("plan", "--dataset", "table", "--set", "search.k=" + "[" * 50_000),
    ):
        outcome = run_alone(*arguments, folder=tmp_path)
        check(outcome)
        assert outcome.code == 2, outcome.stderr


@pytest.mark.slow
def test_specs_of_great_depth(tmp_path: Path) -> None:
    for spec in ("a(b=" + "[" * 20_000, "a(b=" + "-" * 50_000 + "1)", "a(" * 20_000, "a(b=" + "9" * 60_000 + ")"):
        outcome = run_alone("plan", "--dataset", "demo", "--teacher", f"text={spec}", folder=tmp_path)
        check(outcome)
        assert outcome.code == 2, outcome.stderr


def test_the_harness_sees_what_it_looks_for(tmp_path: Path) -> None:
    """Without this a broken harness would find nothing and say so."""
    sound = run_alone("--version", folder=tmp_path)
    assert sound.faults() == []
    from dataclasses import replace

    for change, words in (
        ({"code": 70}, "exit code 70"),
        ({"code": 9}, "exit code 9"),
        ({"stderr": "Traceback (most recent call last)\n"}, "a traceback"),
        ({"stderr": "x" * 20_000}, "20,000 characters"),
        ({"seconds": 11.0}, "11.0 seconds"),
        ({"growth": 3 << 30}, "3072 MiB"),
        ({"raised": "ValueError"}, "ValueError"),
        ({"code": 3, "stderr": ""}, "without a word"),
    ):
        (fault,) = replace(sound, **change).faults()  # type: ignore[arg-type]
        assert words in fault
    assert np.isfinite(sound.seconds)
