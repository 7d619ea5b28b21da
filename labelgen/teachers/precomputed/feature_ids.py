"""Ids of features: which names mean ids, what may be one, and files of ids."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.errors import TeacherError, shown, some
from labelgen.teachers.failures import first_line
from labelgen.types import Modality

#: A file of ids is read into memory.
_MAX_FILE = 1 << 30
#: Names of columns and arrays that say they are ids, without case and signs: of whichever items, or of one modality.
_ANY = frozenset({"id", "key", "uid", "uuid", "guid", "itemid", "sampleid", "exampleid", "uniqueid"})
_OF: dict[Modality, frozenset[str]] = {
    "image": frozenset({"imageid", "imgid", "photoid", "pictureid", "cocoid", "picid"}),
    "text": frozenset({"captionid", "capid", "sentid", "sentenceid", "textid", "sentencesid"}),
}
_PATHS = frozenset(
    {
        *("name", "file", "path", "stem", "basename", "filename", "filepath", "relativepath", "relpath"),
        *("imagename", "imgname", "imagepath", "imagefile", "imagefilename", "photoname", "photofile"),
    }
)


def is_id_name(name: str) -> bool:
    """True if the name of a column or array says that it holds ids, of any items."""
    return bool(_forms(name) & (_ANY | _PATHS | _OF["image"] | _OF["text"]))


def id_name_for(names: Iterable[str], modality: Modality) -> list[str]:
    """Of the names of columns or arrays, those that say that they are ids of this modality's items.

    Names of the modality and general ones; names of files count where there are no others.

    Raises:
        ValueError: all names of ids are those of the other modality.
    """
    listed = [name for name in names if is_id_name(name)]
    own = [name for name in listed if _forms(name) & (_ANY | _OF[modality])]
    found = own or [name for name in listed if _forms(name) & _PATHS]
    if listed and not found:
        other = "captions" if modality == "image" else "images"
        raise ValueError(f"ids of {other} ({some(listed)}), and features of {modality}s are needed: see modality=")
    return found


def refuse_unnamed(names: Sequence[str]) -> None:
    """Refuse a file of arrays by name, none of them `features`, that looks like ids and features all the same.

    Raises:
        ValueError: `ids` and `embeddings`, say: they would be taken for features of two items.
    """
    several = [name for name in names if is_id_name(name) and (name.lower().endswith("s") or len(names) == 2)]
    if several:
        raise ValueError(f"arrays called {some(names)}; expected `ids` and `features`, or one array per id")


def _forms(name: str) -> set[str]:
    """Without case and signs, in the singular, too."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return {plain, plain.removesuffix("s")}


def as_ids(values: Any) -> list[str]:
    """Ids as text.

    Raises:
        TypeError: anything but text and whole numbers: floats lose digits, and nothing is no id.
        ValueError: an empty id.
    """
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise TypeError(f"ids of shape {list(values.shape)}; expected one list")
        values = values.tolist()
    if not isinstance(values, list):
        raise TypeError(f"ids in a {type(values).__name__}; expected a list")
    return [_as_id(value) for value in values]


def _as_id(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if type(value) not in (str, int):
        raise TypeError(f"the id {shown(value)}, which is neither text nor a whole number")
    if value == "":
        raise ValueError("an empty id")
    return str(value)


def read_ids(path: Path) -> list[str]:
    """Ids in a separate file: one per line, a JSON list, or an `.npy` of text or whole numbers.

    Raises:
        TeacherError: no such file, or not ids.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        if path.stat().st_size > _MAX_FILE:
            raise ValueError(f"{path.stat().st_size:,} bytes; expected at most {_MAX_FILE:,}")
        if path.suffix == ".npy":
            return as_ids(np.load(path, allow_pickle=False, mmap_mode="r"))
        text = path.read_text(encoding="utf-8-sig")
        return as_ids(json.loads(text) if path.suffix == ".json" else text.removesuffix("\n").split("\n"))
    except (OSError, ValueError, TypeError, RecursionError, SyntaxError, EOFError) as error:
        raise TeacherError(
            f"cannot read ids from {shown(str(path))}",
            found=first_line(error),
            expected="one id per line, a .json list, or an .npy of text or whole numbers",
        ) from error


def loosely_equal(absent: Sequence[str], known: Iterable[str]) -> tuple[str, str] | None:
    """An id without features and one of the file that differs from it in zeros, case or Unicode form only."""
    loose = {_loose(name): name for name in known}
    for name in absent:
        if (near := loose.get(_loose(name))) is not None:
            return name, near
    return None


def _loose(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold().lstrip("0")
