"""Any table of captions: CSV, JSONL or parquet, one row a caption, with a mapping of columns."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from labelgen.corpus.adapters.tokens import UNASSIGNED
from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import below_photos, data_folder, not_this, photo_folder
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.columns import usual_column
from labelgen.corpus.text.csv_rows import check_options
from labelgen.corpus.text.names import text_id, text_of
from labelgen.corpus.text.table_files import SUFFIXES, TableFile
from labelgen.errors import DatasetError, shown

_USUAL_FILES = tuple(f"captions{suffix}" for suffix in SUFFIXES)

# Columns that are read if they are there; the two without an entry here must be.
_OPTIONAL = {
    "caption_id": "caption_id",
    "split": "split",
    "image_file": "file_name",
    "category": "category",
    "group": "group",
    "kind": "kind",
}

#: As a column: none is read, also where the table has the usual one.
_UNREAD = "none"

# Usual names of columns of texts; unread ones get a note.
_TEXTS = re.compile(r"caption|sentence|text|description|comment", re.IGNORECASE)
_ABOUT_TEXTS = re.compile(r"(id|ids|index|row|number|count|length)$", re.IGNORECASE)

#: Split, file, category and group of an image.
_Facts: TypeAlias = tuple[str, str | None, str | None, str | None]

#: Column of pictures in the parquet files of Hugging Face: bytes and path.
_PICTURE = "image"


class Table:
    """Adapter of tables with one row a caption, or one an image with a list of captions.

    Images take the order in which they first appear, captions theirs within the image. A row whose caption is null
    declares its image alone. Column options that are left empty take the columns `caption_id`, `split`, `file_name`,
    `category`, `group` and `kind` where the table has them; with `none` they take no column. A table without a column
    `image_id` or `caption` is read by the usual names (`labelgen.corpus.text.columns`): `filepath,title` is one.

    Args:
        root: folder of the table, or the table itself.
        file: the table, relative to `root`; captions.parquet, .csv, .tsv or .jsonl when empty.
        image_id: column of image ids (text or whole numbers); without a column `image_id`, a usual
            name of one, or else that of `image_file`.
        caption: column of captions; lists of parquet and JSONL are several captions of an image.
        caption_id: column of caption ids; made as `<image_id>#<n>` without one.
        split: column of splits; all images are `train` without one, `unassigned` where it is null or empty.
        image_file: column of file names. Absolute ones are taken if `photos` is given and contains them.
        category: column of categories.
        group: column of what images show: those with one group (text or a whole number) show the same thing.
        kind: column of the kinds of captions, such as `human` or the name of a captioner; for a list of captions a
            list of as many kinds, or one for all.
        photos: folder of the photographs, relative to `root` or absolute; images/ or `root` itself when empty.
        separator: of CSV and TSV: a character, or `comma`, `tab`, `semicolon` or `pipe`; taken from the suffix and the
            header when empty.
        quoting: of CSV and TSV: `csv` reads quotes by RFC 4180, `none` takes them as text, `auto` takes the reading
            that fits and refuses a file that neither or both do.
    """

    info = DatasetInfo(
        summary="Your own table: CSV, JSONL or parquet with one row a caption",
        expects="captions.parquet, captions.csv, captions.tsv or captions.jsonl (or file=...) with columns image_id, "
        "caption and, optionally, caption_id, split, file_name, category, group, kind (or image_id=..., ...); "
        "photographs in images/ (optional)",
        ids="image: the column image_id; caption: the column caption_id, else made, <image_id>#<n>",
        splits="the column split, else all train; unassigned where it is empty",
    )

    #: Whether the root may be a file.
    takes_file = True

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
        group: str = "",
        kind: str = "",
        photos: str = "",
        separator: str = "",
        quoting: str = "auto",
    ) -> None:
        check_options(separator, quoting)
        self.root, self.file, self.photos = root, file, photos
        self.separator, self.quoting = separator, quoting
        self.required = {"image_id": image_id, "caption": caption}
        self.optional = {
            "caption_id": caption_id,
            "split": split,
            "image_file": image_file,
            "category": category,
            "group": group,
            "kind": kind,
        }

    def read(self) -> Records:
        """All rows.

        Raises:
            DatasetError: no table, a column that it does not have, rows of another width, an image with two
                splits or files, or ids or captions of a wrong type.
        """
        ledger = Ledger()
        folder, path = self._find(ledger)
        table = TableFile(path, separator=self.separator, quoting=self.quoting, ledger=ledger)
        columns = _mapped(table, self.required, self.optional)
        _book_columns(ledger, table, columns)
        images, captions = _records(table, columns, ledger)
        images = below_photos(images, folder, self.photos)
        photos = photo_folder(folder, self.photos, ("images", "."), (image.file for image in images))
        return Records(images, captions, photos, [path], ledger.closed())

    def _find(self, ledger: Ledger) -> tuple[Path, Path]:
        """The folder and the table; unread tables of the usual names are booked."""
        if self.root is not None and self.root.is_file() and not self.file:
            return self.root.parent, _checked(self.root)
        folder = data_folder(self.root, "table", self.info.expects)
        if self.file:
            if not (folder / self.file).is_file():
                raise DatasetError(
                    "the table does not exist", found=str(folder / self.file), expected="a file below the root"
                )
            return folder, _checked(folder / self.file)
        present = [folder / name for name in _USUAL_FILES if (folder / name).is_file()]
        if not present:
            raise not_this("table", folder, self.info.expects)
        ledger.seen("tables", len(present))
        ledger.used("tables")
        for other in present[1:]:
            ledger.skipped("tables", f"{present[0].name} is read; file=... takes another", other.name, loud=True)
        return folder, present[0]


def _checked(path: Path) -> Path:
    if path.suffix.lower() not in SUFFIXES:
        raise DatasetError(f"{path.name} is not a table", expected=f"a file ending in {', '.join(SUFFIXES)}")
    return path


def _mapped(table: TableFile, required: dict[str, str], optional: dict[str, str]) -> dict[str, str]:
    """Meaning -> column. Requested columns must exist; defaults of optional ones may be absent."""
    present = table.columns
    unread = {meaning for meaning, column in optional.items() if column == _UNREAD and _UNREAD not in present}
    optional = {meaning: column for meaning, column in optional.items() if meaning not in unread}
    defaults = {meaning: name for meaning, name in _OPTIONAL.items() if name in present}
    if _PICTURE in table.pictures:
        defaults.setdefault("image_file", _PICTURE)
    if required["caption"] == "caption" and "caption" not in present:
        required = {**required, "caption": usual_column("caption", present) or "caption"}
    if required["image_id"] == "image_id" and "image_id" not in present:  # tables of others: usual names count
        if "image_file" not in unread and (found := optional["image_file"] or usual_column("image", present)):
            defaults.setdefault("image_file", found)
        named = usual_column("image_id", present) or optional.get("image_file") or defaults.get("image_file")
        required = {**required, "image_id": named or "image_id"}
    for column in [*required.values(), *filter(None, optional.values())]:
        if column not in present:
            raise _no_column(table.path, column, present)
    chosen = {meaning: column or defaults.get(meaning, "") for meaning, column in optional.items()}
    return {**required, **{meaning: column for meaning, column in chosen.items() if column}}


def _no_column(path: Path, column: str, present: Sequence[str]) -> DatasetError:
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
    one = len(present) == 1 and path.suffix.lower() in (".csv", ".tsv")
    return DatasetError(
        f"{path.name} has no column {column!r}",
        found=f"columns {', '.join(present)[:400]}" if present else "no column at all: the file is empty",
        todo=f"did you mean {near[0]!r}?"
        if near and not one
        else "name its columns with image_id=... or image_file=..., caption=..., and so on"
        + (", and their separator with separator=..." if one else ""),
    )


def _book_columns(ledger: Ledger, table: TableFile, columns: dict[str, str]) -> None:
    ledger.seen("columns", len(table.columns))
    for name in table.columns:
        if name in columns.values():
            ledger.used("columns")
        else:
            loud = _TEXTS.search(name) is not None and _ABOUT_TEXTS.search(name) is None
            ledger.skipped("columns", "texts that no option names" if loud else "without a meaning", name, loud=loud)


def _records(
    table: TableFile, columns: dict[str, str], ledger: Ledger
) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    images: dict[str, ImageRecord] = {}
    captions: list[CaptionRecord] = []
    numbers: Counter[str] = Counter()
    name, row = table.path.name, -1
    for row, (line, values) in enumerate(table.rows(list(columns.values()))):
        where = f"row {row + 1} of {name} (line {line})" if line else f"row {row + 1} of {name}"
        entry = dict(zip(columns, values, strict=True))
        image_id = text_id(entry["image_id"], where)
        if not image_id:
            raise DatasetError(f"{where} has no image id", found=shown(entry), expected="text or a whole number")
        facts = _image_facts(entry, where)
        image = images.get(image_id)
        if image is None:
            images[image_id] = ImageRecord(image_id, facts[0], facts[1], row, *facts[2:])
        elif facts != (image.split, image.file, *image[4:]):
            raise _contradiction(image, facts, where)
        for given, text, kind in _captions(entry, where):
            caption_id = f"{image_id}#{numbers[image_id]}" if given is None else text_id(given, where)
            numbers[image_id] += 1
            captions.append(CaptionRecord(caption_id, image_id, text_of(text, where), row, kind))
    ledger.used("rows", row + 1)
    return list(images.values()), captions


def _captions(entry: dict[str, Any], where: str) -> list[tuple[Any, Any, str | None]]:
    """(id or None, text, kind) of the captions of a row: of a list each, of a null none."""
    text, given, kinds = entry["caption"], _cell(entry, "caption_id"), _cell(entry, "kind")
    if text is None:
        return []
    if not isinstance(text, list):
        return [(given, text, _name(kinds, "kind", where))]
    ids = [None] * len(text) if given is None else _each(given, text, "ids", "an id for each", where)
    if isinstance(kinds, list):
        kinds = _each(kinds, text, "kinds", "a kind for each, or one for all", where)
    else:
        kinds = [kinds] * len(text)
    return list(zip(ids, text, (_name(kind, "kind", where) for kind in kinds), strict=True))


def _each(given: Any, texts: Sequence[Any], what: str, expected: str, where: str) -> list[Any]:
    if not isinstance(given, list) or len(given) != len(texts):
        raise DatasetError(
            f"{where} has {len(texts)} captions and a different number of {what}",
            found=shown(given),
            expected=expected,
        )
    return given


def _image_facts(entry: dict[str, Any], where: str) -> _Facts:
    """Split, file, category and group."""
    split = _cell(entry, "split") if "split" in entry else "train"
    file, category = _cell(entry, "image_file"), _cell(entry, "category")
    for meaning, value in (("file name", file), ("category", category)):
        if value is not None and isinstance(value, (list, dict, bytes)):
            raise DatasetError(f"{where} has a {meaning} that is not text", found=shown(value), expected="text")
    return (
        UNASSIGNED if split is None else text_id(split, where),
        None if file is None else str(file),
        None if category is None else str(category),
        _name(_cell(entry, "group"), "group", where),
    )


def _name(value: Any, meaning: str, where: str) -> str | None:
    """A kind or a group: text or a whole number; None where it is empty, null or not a number."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        return text_id(value, where)
    except DatasetError as error:
        raise DatasetError(
            f"{where} has a {meaning} that is not a name",
            found=error.found,
            expected=error.expected,
            todo=f"name another column with {meaning}=..., or read none: {meaning}='{_UNREAD}'",
        ) from error


def _cell(entry: dict[str, Any], meaning: str) -> Any:
    """An optional value; an empty one counts as absent, for CSV has no null."""
    value = entry.get(meaning)
    return None if value == "" else value


def _contradiction(first: ImageRecord, facts: _Facts, where: str) -> DatasetError:
    names = ("split", "file", "category", "group")
    pairs = zip(names, facts, (first.split, first.file, first.category, first.group), strict=True)
    differing = [(name, new, old) for name, new, old in pairs if new != old]
    return DatasetError(
        f"{where} contradicts an earlier row of image {shown(first.image_id)}",
        found=", ".join(f"{name} {shown(new)}" for name, new, _ in differing),
        expected=", ".join(f"{name} {shown(old)}" for name, _, old in differing),
        todo="give every image one split, one file, one category and one group"
        + "".join(f"; {name}='{_UNREAD}' reads no {name}" for name, *_ in differing if name in ("category", "group")),
    )
