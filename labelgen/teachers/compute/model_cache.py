"""Converted networks, what is known of them, and verdicts on them, in the user's cache folder; no store names them.

A converted network is found by what it was made of: classes, settings and weights of the network, shapes, versions of
the libraries. Its bytes are compared with their digests before it is used.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import labelgen
from labelgen.errors import LabelgenError
from labelgen.fingerprint import digest_file, fingerprint
from labelgen.resources import user_cache
from labelgen.teachers.objects.describe import describe

if TYPE_CHECKING:
    import torch

#: Raised when the conversion, the probe or what is recorded of a bundled model changes.
_FORMAT = 2
#: So many converted networks are kept, the last used ones.
_KEPT = 12
_LIBRARIES = ("torch", "torchvision", "transformers", "sentence-transformers", "timm", "open_clip_torch", "openvino")
_FILES = ("model.xml", "model.bin")


def key_of(call: Any, example: Sequence[torch.Tensor], dynamic: Sequence[int], runtime: str) -> str:
    """Identity of a converted network, empty where the network cannot be described: then it is not kept."""
    shapes = [[str(tensor.dtype), *tensor.shape] for tensor in example]
    try:
        return fingerprint([_FORMAT, describe(call), shapes, list(dynamic), runtime, _here()])
    except (LabelgenError, OSError, RuntimeError, TypeError, ValueError, AttributeError):
        return ""


def read_or_convert(core: Any, key: str, convert: Callable[[], Any]) -> Any:
    """The `openvino.Model` of a key from the cache, else the converted one, which is kept.

    The model is read from a file even where it cannot be kept: one in memory is compiled to other kernels, which gave
    other bits.

    Raises:
        OSError: there is no place for a temporary file.
    """
    found = read(core, key)
    if found is not None:
        return found
    model = convert()
    if key and _kept(model, _folder() / key):
        return core.read_model(_folder() / key / _FILES[0])
    with tempfile.TemporaryDirectory(prefix="labelgen.", ignore_cleanup_errors=True) as work:
        return core.read_model(_saved(model, Path(work)))


def read(core: Any, key: str) -> Any:
    """The `openvino.Model` of a key from the cache, None where it is not there or damaged."""
    folder = _folder() / key
    return core.read_model(folder / _FILES[0]) if key and _is_whole(folder) else None


def record_key(kind: str, files: Sequence[Path]) -> str:
    """Identity of what is known of a network in files: their names and contents, the versions of the libraries."""
    found = [[path.name, digest_file(path)] for path in sorted(files)]
    return fingerprint([_FORMAT, kind, found, labelgen.__version__, _here()])


def read_record(key: str) -> dict[str, Any] | None:
    """The record of a key, None where there is none or it is damaged."""
    try:
        written = json.loads((_folder() / f"{key}.json").read_text(encoding="utf-8"))
        record: dict[str, Any] = written["record"]
        return record if written["digest"] == fingerprint(record) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def keep_record(key: str, record: Mapping[str, Any]) -> None:
    """Keep plain JSON data under a key; where the cache cannot be written, it is made again next time."""
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_folder(), prefix=".writing.", ignore_cleanup_errors=True) as work:
            fresh = Path(work) / "record"
            fresh.write_text(json.dumps({"digest": fingerprint(record), "record": record}), encoding="utf-8")
            fresh.replace(_folder() / f"{key}.json")
    except OSError:
        return


def verdict_key(identity: Any) -> str:
    """Identity of a verdict on a teacher: its rows and the libraries and processor that make them."""
    return fingerprint([_FORMAT, identity, _here(), platform.machine(), _processor()])


def is_proven(key: str) -> bool:
    """Whether the teacher of a key agreed with torch on this machine before."""
    return (_folder() / f"{key}.agrees").is_file()


def remember_proven(key: str) -> None:
    """Keep a verdict; where the cache cannot be written, the next process compares again."""
    try:
        path = _folder() / f"{key}.agrees"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return


def _folder() -> Path:
    return user_cache() / "openvino"


def _here() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Vector units of the processor, by which kernels are chosen."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _is_whole(folder: Path) -> bool:
    try:
        expected = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
        whole: bool = expected == [digest_file(folder / name) for name in _FILES]
        if whole:
            os.utime(folder)
        return whole
    except (OSError, ValueError):
        return False


def _saved(model: Any, folder: Path) -> Path:
    import openvino

    openvino.save_model(model, folder / _FILES[0], compress_to_fp16=False)
    return folder / _FILES[0]


def _kept(model: Any, folder: Path) -> bool:
    """Write beside `folder`, then rename: another process sees all of it or nothing. False where that fails."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing.", ignore_cleanup_errors=True) as work:
            fresh = Path(work) / "fresh"
            fresh.mkdir()
            _saved(model, fresh)
            digests = [digest_file(fresh / name) for name in _FILES]
            (fresh / "digests.json").write_text(json.dumps(digests), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            if not folder.exists():
                fresh.rename(folder)
        _forget_oldest(folder.parent)
    except (OSError, RuntimeError):  # a full or foreign folder; another process was first
        pass
    return _is_whole(folder)


def _forget_oldest(parent: Path) -> None:
    kept = sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in kept[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
