"""Finding and reading the files of a data set, and saying what is there when they are not."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from labelgen import foreign
from labelgen.corpus.base import ImageRecord
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.encodings import decode_text
from labelgen.corpus.text.names import INSIDE, is_unsafe, text_of
from labelgen.errors import DatasetError, shown, some

#: Suffixes of photographs, in lower case.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif", ".ppm"})

#: The line ends of all systems, and a line with any of them. (`str.splitlines` knows further ones, which texts hold.)
LINE_ENDS = re.compile("\r\n|\r|\n")
ANY_LINE = re.compile("[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

# Typical files of data sets, for hints only; an adapter decides by itself what it reads.
_SIGNS: Mapping[str, tuple[str, ...]] = {
    "coco": (
        "dataset_coco.json",
        "dataset_rsicd.json",
        "captions_train20*.json",
        "captions_val20*.json",
        "annotations/captions_*20*.json",
    ),
    "flickr30k": ("dataset_flickr30k.json", "results_20130124.token"),
    "flickr8k": ("dataset_flickr8k.json", "Flickr8k.token.txt"),
    "cusa": ("new_train.json", "new_val.json", "new_test.json"),
    "wikipedia": ("trainset_txt_img_cat.list", "testset_txt_img_cat.list"),
    "table": ("captions.parquet", "captions.csv", "captions.tsv"),
    "webdataset": ("*.tar", "*/*.tar"),
    "folder": ("captions.jsonl", "metadata.jsonl", "metadata.csv", "*/metadata.jsonl", "*.jpg", "*/*.jpg", "*.png"),
}


def data_folder(root: Path | None, dataset: str, expects: str) -> Path:
    """The folder of a data set.

    Raises:
        DatasetError: none was given, or it does not exist or is a file.
    """
    if root is None:
        raise DatasetError(f"dataset {dataset!r} needs a root", expected=expects, todo="give the folder with --root")
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(
            f"the root of dataset {dataset!r} {problem}", found=str(root), expected=expects, todo="check --root"
        )
    try:
        with os.scandir(root):
            pass
    except OSError as error:
        raise DatasetError(f"cannot read the folder {root}", found=error.strerror or str(error)) from error
    return root


def not_this(dataset: str, folder: Path, expects: str) -> DatasetError:
    """The error for a folder that holds something else; names the adapters that would fit."""
    names = sorted(path.name for path in folder.iterdir())
    fits = [name for name, signs in _SIGNS.items() if name != dataset and any(any(folder.glob(sign)) for sign in signs)]
    return DatasetError(
        f"this is not the data set {dataset!r}",
        found=f"{folder} holds {some(names)}" if names else f"{folder} is empty",
        expected=expects,
        todo=f"try dataset {' or '.join(repr(name) for name in fits)}" if fits else "check --root",
    )


def find_file(folder: Path, name: str, ledger: Ledger | None = None) -> Path | None:
    """The file in the folder or one level below it (the first by name); further ones are booked as skipped."""
    found = [path for path in (folder / name, *sorted(folder.glob(f"*/{name}"))) if path.is_file()]
    if found and ledger is not None:
        ledger.seen("annotation files", len(found))
        ledger.used("annotation files")
        for path in found[1:]:
            kind = f"another {name}: {found[0].relative_to(folder)} is read"
            ledger.skipped("annotation files", kind, str(path.relative_to(folder)), loud=True)
    return found[0] if found else None


def book_other(folder: Path, name: str, read: Path, ledger: Ledger) -> None:
    """Book a file that holds the captions of a data set in another form, if there is one."""
    if find_file(folder, name) is not None:
        ledger.seen("annotation files")
        ledger.skipped("annotation files", f"{read.name} is read, annotations=... takes another form", name)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return foreign.read_bytes(path)
    except OSError as error:
        raise DatasetError(f"cannot read {path}", found=error.strerror or str(error)) from error


def read_json(path: Path, drop: Collection[str] = ()) -> Any:
    """JSON of a file; bytes that are not UTF-8 become lone surrogates.

    Args:
        path: the file.
        drop: unused fields, which are not held in memory.

    Raises:
        DatasetError: not JSON, in another encoding, or with a key twice in one object.
    """
    return parse_json(decode_text(read_bytes(path), path.name), str(path), drop)


def parse_json(text: str, where: str, drop: Collection[str] = ()) -> Any:
    """JSON of a text, as `read_json` reads it."""
    try:
        if drop:
            return json.loads(text, object_pairs_hook=partial(_json_object, drop=drop))
        return _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{where} is not JSON", found=str(error)[:400], todo="download it again, or repair it"
        ) from error


def _json_object(pairs: list[tuple[str, Any]], drop: Collection[str] = ()) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    for name in drop:
        made.pop(name, None)
    return made


#: Made once: a table has a line of JSON for every caption.
_JSON = json.JSONDecoder(object_pairs_hook=_json_object)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, without line ends; as UTF-8 with lone surrogates for the rest.

    Lines end with a newline (with or without a carriage return before it), in a file without any with a carriage
    return. Other characters that Unicode knows as line ends stay in the line.

    Raises:
        DatasetError: the file is in another encoding.
    """
    lines = split_lines(decode_text(read_bytes(path), path.name))
    return [line.removesuffix("\n").removesuffix("\r") for line in lines]


def split_lines(text: str) -> list[str]:
    """Lines of a text with their ends, as `read_lines` has them."""
    end = "\n" if "\n" in text or "\r" not in text else "\r"
    *lines, last = text.split(end)
    return [*(line + end for line in lines), *([last] if last else [])]


def field(record: Any, name: str, where: str) -> Any:
    """`record[name]` of parsed JSON.

    Raises:
        DatasetError: no such field, or not an object at all.
    """
    if isinstance(record, Mapping) and name in record:
        return record[name]
    fields = some(record) if isinstance(record, Mapping) else f"a {type(record).__name__}"
    raise DatasetError(f"{where} has no field {name!r}", found=fields)


def text_field(record: Any, name: str, where: str) -> str:
    """`record[name]` of parsed JSON as text: a split, a file name; whole numbers become their digits.

    Raises:
        DatasetError: no such field, or another type.
    """
    value = field(record, name, where)
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DatasetError(f"the field {name!r} of {where} is not text", found=shown(value), expected="text")


def items(value: Any, where: str) -> Sequence[Any]:
    """A list of parsed JSON.

    Raises:
        DatasetError: not a list.
    """
    if isinstance(value, list):
        return value
    raise DatasetError(f"{where} is not a list", found=f"a {type(value).__name__}")


def texts_of(value: Any, where: str) -> list[str]:
    """The captions in a field of parsed JSON or of a table: one text, a list of texts, or None for none.

    Raises:
        DatasetError: another type.
    """
    if value is None:
        return []
    return [text_of(text, where) for text in ([value] if isinstance(value, str) else items(value, where))]


def below_photos(images: Sequence[ImageRecord], root: Path, given: str) -> list[ImageRecord]:
    """The images with absolute file names made relative to the folder of photographs that the user names.

    Without one they stay as they are (and are refused as unsafe): what a file says chooses no place to read.

    Args:
        images: as a data set names their files.
        root: folder of the data set.
        given: the user's folder of photographs, relative to `root` or absolute; "" for none.

    Raises:
        DatasetError: an absolute name outside of it.
    """
    if not given or not any(image.file is not None and image.file.startswith("/") for image in images):
        return list(images)
    return [image if image.file is None else image._replace(file=_below(image, root / given)) for image in images]


def _below(image: ImageRecord, folder: Path) -> str:
    name = relative_name(str(image.file), folder)
    if name.startswith("/"):
        raise DatasetError(
            f"the photograph of image {shown(image.image_id)} is outside the folder of photographs",
            found=shown(image.file),
            expected=f"a path below {folder}",
            todo="give the folder that holds all of them with photos=...",
        )
    return name


def relative_name(file: str, folder: Path) -> str:
    """An absolute file name below `folder` (as the user names it, or where its links lead to) made relative to it;
    other names as they are."""
    if not file.startswith("/"):
        return file
    path = PurePosixPath(file)
    for base in (os.path.abspath(folder), os.path.realpath(folder)):  # noqa: PTH100 - as the user names it: links stay
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return file


def photo_folder(root: Path, given: str, usual: Sequence[str], files: Iterable[str | None]) -> Path | None:
    """The folder that the file names are relative to, None where there are no photographs.

    Args:
        root: folder of the data set.
        given: the user's choice, relative to `root` or absolute; "" looks through `usual`.
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
