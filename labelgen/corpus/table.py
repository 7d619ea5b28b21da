"""Any table of captions: CSV, JSONL or parquet, one row a caption, with a mapping of columns."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import data_folder, not_this, photo_folder
from labelgen.corpus.names import text_id, text_of
from labelgen.corpus.table_files import SUFFIXES, column_names, read_columns
from labelgen.corpus.tokens import UNASSIGNED
from labelgen.errors import DatasetError

_USUAL_FILES = tuple(f"captions{suffix}" for suffix in SUFFIXES)

# Columns that are read if they are there; the two without an entry here must be.
_OPTIONAL = {"caption_id": "caption_id", "split": "split", "image_file": "file_name", "category": "category"}


class Table:
    """Adapter of tables with one row a caption.

    Images take the order in which they first appear, captions theirs within the image. A row whose caption is null
    stands for its image alone. Column options that are left empty take the columns `caption_id`, `split`, `file_name`
    and `category` where the table has them.

    Args:
        root: folder of the table, or the table itself.
        file: the table, relative to `root`; captions.parquet, .csv, .tsv or .jsonl when empty.
        image_id: column of image ids (text or whole numbers).
        caption: column of captions.
        caption_id: column of caption ids; made as `<image_id>#<n>` without one.
        split: column of splits; all images are `train` without one, `unassigned` where it is null or empty.
        image_file: column of file names.
        category: column of categories.
        photos: folder of the photographs, relative to `root`; images/ or `root` itself when empty.
    """

    info = DatasetInfo(
        summary="Your own table: CSV, JSONL or parquet with one row a caption",
        expects="captions.parquet, captions.csv, captions.tsv or captions.jsonl (or file=...) with columns image_id, "
        "caption and, optionally, caption_id, split, file_name, category (or image_id=..., caption=..., ...); "
        "photographs in images/ (optional)",
        ids="image: the column image_id; caption: the column caption_id, else made, <image_id>#<n>",
        splits="the column split, else all train; unassigned where it is empty",
    )

    def __init__(
        self,
        root: Path | None,
        *,
        file: str = "",
        image_id: str = "image_id",
        caption: str = "caption",
        caption_id: str = "",
        split: str = "",
        image_file: str = "",
        category: str = "",
        photos: str = "",
    ) -> None:
        self.root, self.file, self.photos = root, file, photos
        self.required = {"image_id": image_id, "caption": caption}
        self.optional = {"caption_id": caption_id, "split": split, "image_file": image_file, "category": category}

    def read(self) -> Records:
        """All rows.

        Raises:
            DatasetError: no table, a column that it does not have, an image with two splits or files, or ids or
                captions of a wrong type.
        """
        folder, path = self._find()
        columns = _mapped(path, self.required, self.optional)
        images, captions = _records(path, columns)
        photos = photo_folder(folder, self.photos, ("images", "."), (image.file for image in images))
        return Records(images, captions, photos, [path])

    def _find(self) -> tuple[Path, Path]:
        """The folder and the table."""
        if self.root is not None and self.root.is_file() and not self.file:
            return self.root.parent, _checked(self.root)
        folder = data_folder(self.root, "table", self.info.expects)
        if self.file:
            if not (folder / self.file).is_file():
                raise DatasetError(
                    "the table does not exist", found=str(folder / self.file), expected=self.info.expects
                )
            return folder, _checked(folder / self.file)
        for name in _USUAL_FILES:
            if (folder / name).is_file():
                return folder, folder / name
        raise not_this("table", folder, self.info.expects)


def _checked(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise DatasetError(f"{path.name} is not a table", expected=f"a file ending in {', '.join(SUFFIXES)}")
    return path


def _mapped(path: Path, required: dict[str, str], optional: dict[str, str]) -> dict[str, str]:
    """Meaning -> column. Columns that were asked for must exist; defaults of optional ones may be absent."""
    present = column_names(path)
    for column in [*required.values(), *filter(None, optional.values())]:
        if column not in present:
            raise _no_column(path, column, present)
    defaults = {meaning: name for meaning, name in _OPTIONAL.items() if name in present}
    chosen = {meaning: column or defaults.get(meaning, "") for meaning, column in optional.items()}
    return {**required, **{meaning: column for meaning, column in chosen.items() if column}}


def _no_column(path: Path, column: str, present: Sequence[str]) -> DatasetError:
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
    return DatasetError(
        f"{path.name} has no column {column!r}",
        found=f"columns {', '.join(present)}",
        todo=f"did you mean {near[0]!r}?" if near else "name its columns with image_id=..., caption=..., and so on",
    )


def _records(path: Path, columns: dict[str, str]) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    images: dict[str, ImageRecord] = {}
    captions: list[CaptionRecord] = []
    numbers: Counter[str] = Counter()
    name = path.name
    for row, values in enumerate(read_columns(path, list(columns.values()))):
        where = f"row {row + 1} of {name}"
        entry = dict(zip(columns, values, strict=True))
        image_id = text_id(entry["image_id"], where)
        facts = _image_facts(entry, where)
        image = images.get(image_id)
        if image is None:
            images[image_id] = ImageRecord(image_id, facts[0], facts[1], row, facts[2])
        elif facts != (image.split, image.file, image.category):
            raise _contradiction(image, facts, where)
        if entry["caption"] is None:
            continue
        given = _cell(entry, "caption_id")
        caption_id = f"{image_id}#{numbers[image_id]}" if given is None else text_id(given, where)
        numbers[image_id] += 1
        captions.append(CaptionRecord(caption_id, image_id, text_of(entry["caption"], where), row))
    return list(images.values()), captions


def _image_facts(entry: dict[str, Any], where: str) -> tuple[str, str | None, str | None]:
    """Split, file and category."""
    split = _cell(entry, "split") if "split" in entry else "train"
    file, category = _cell(entry, "image_file"), _cell(entry, "category")
    return (
        UNASSIGNED if split is None else text_id(split, where),
        None if file is None else str(file),
        None if category is None else str(category),
    )


def _cell(entry: dict[str, Any], meaning: str) -> Any:
    """An optional value; an empty one counts as absent, for CSV has no null."""
    value = entry.get(meaning)
    return None if value == "" else value


def _contradiction(first: ImageRecord, facts: tuple[str, str | None, str | None], where: str) -> DatasetError:
    return DatasetError(
        f"{where} contradicts an earlier row of image {first.image_id!r}",
        found="split {!r}, file {!r}, category {!r}".format(*facts),
        expected=f"split {first.split!r}, file {first.file!r}, category {first.category!r}",
        todo="give every image one split, one file and one category",
    )
