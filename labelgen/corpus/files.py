"""Finding and reading the files of a data set, and saying what is there when they are not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from labelgen.corpus.names import INSIDE, is_unsafe
from labelgen.errors import DatasetError, some

#: Suffixes of photographs, in lower case.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif", ".ppm"})

# Files by which a person recognises a data set, for hints only; an adapter decides by itself what it reads.
_SIGNS: Mapping[str, tuple[str, ...]] = {
    "coco": ("dataset_coco.json", "captions_train20*.json", "captions_val20*.json", "annotations/captions_*20*.json"),
    "flickr30k": ("dataset_flickr30k.json", "results_20130124.token"),
    "flickr8k": ("dataset_flickr8k.json", "Flickr8k.token.txt"),
    "cusa": ("new_train.json", "new_val.json", "new_test.json"),
    "wikipedia": ("trainset_txt_img_cat.list", "testset_txt_img_cat.list"),
    "table": ("captions.parquet", "captions.csv", "captions.tsv"),
    "webdataset": ("*.tar", "*/*.tar"),
    "folder": ("captions.jsonl", "*.jpg", "*/*.jpg", "*.png", "*/*.png"),
}


def data_folder(root: Path | None, dataset: str, expects: str) -> Path:
    """The folder of a data set.

    Raises:
        DatasetError: none was given, or it does not exist or is a file.
    """
    if root is None:
        raise DatasetError(f"dataset {dataset!r} needs a root", expected=expects, todo="give the folder with --root")
    if not root.exists():
        raise DatasetError(
            f"the root of dataset {dataset!r} does not exist", found=str(root), expected=expects, todo="check --root"
        )
    if not root.is_dir():
        raise DatasetError(
            f"the root of dataset {dataset!r} is not a folder", found=str(root), expected=expects, todo="check --root"
        )
    return root


def not_this(dataset: str, folder: Path, expects: str) -> DatasetError:
    """The error for a folder that holds something else; names the adapters that would fit."""
    names = sorted(path.name for path in folder.iterdir())
    fits = [name for name, signs in _SIGNS.items() if name != dataset and any(_any(folder, sign) for sign in signs)]
    return DatasetError(
        f"this is not a data set of {dataset!r}",
        found=f"{folder} holds {some(names)}" if names else f"{folder} is empty",
        expected=expects,
        todo=f"try dataset {' or '.join(repr(name) for name in fits)}" if fits else "check --root",
    )


def _any(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def find_file(folder: Path, name: str) -> Path | None:
    """The file in the folder or one level below it (the first by name)."""
    direct = folder / name
    return direct if direct.is_file() else next(iter(sorted(folder.glob(f"*/{name}"))), None)


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """JSON of a file; bytes that are not UTF-8 become lone surrogates.

    Raises:
        DatasetError: not JSON.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            return json.load(file, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON", found=str(error), todo="download it again") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, split at newlines only, without line ends; as UTF-8 with lone surrogates for the rest."""
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def field(record: Any, name: str, where: str) -> Any:
    """`record[name]` of parsed JSON.

    Raises:
        DatasetError: no such field, or not an object at all.
    """
    if isinstance(record, Mapping) and name in record:
        return record[name]
    fields = some(record) if isinstance(record, Mapping) else f"a {type(record).__name__}"
    raise DatasetError(f"{where} has no field {name!r}", found=fields)


def items(value: Any, where: str) -> Sequence[Any]:
    """A list of parsed JSON.

    Raises:
        DatasetError: not a list.
    """
    if isinstance(value, list):
        return value
    raise DatasetError(f"{where} is not a list", found=f"a {type(value).__name__}")


def photo_folder(root: Path, given: str, usual: Sequence[str], files: Iterable[str | None]) -> Path | None:
    """The folder that the file names are relative to, None where there are no photographs.

    Args:
        root: folder of the data set.
        given: the user's own choice, relative to `root` or absolute; "" looks through `usual`.
        usual: subfolders in order of preference. The first that holds one of the first 100 named files is taken, else
            the first that exists; "." counts only if it holds a file.
        files: the names.

    Raises:
        DatasetError: `given` does not exist.
    """
    if given:
        if not (root / given).is_dir():
            raise DatasetError("the folder of photographs does not exist", found=str(root / given))
        return root / given
    named = (file.partition(INSIDE)[0] for file in files if file and not is_unsafe(file))
    sample = list(islice(named, 100))
    present = [root / name for name in usual if (root / name).is_dir()]
    for folder in present:
        if any(os.path.exists(folder / file) for file in sample):  # noqa: PTH110 - Path.exists raises on overlong names
            return folder
    return next((folder for folder in present if folder != root), None)
