"""The Wikipedia set of Rasiwasia et al. 2010: text-image documents in ten categories."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import PHOTO_SUFFIXES, data_folder, not_this, photo_folder, read_bytes, read_lines
from labelgen.corpus.ledger import Ledger
from labelgen.errors import DatasetError, shown

_LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}
_CATEGORIES = "categories.list"

# One id of the released training list has a stray character before its 32 hexadecimal digits.
_STRAY = re.compile(r"^.(?=[0-9a-f]{32}-)")
_TEXT = re.compile(r"<text[^>]*>(.*?)</text>", re.DOTALL)


class Wikipedia:
    """Adapter of the Rasiwasia 2010 layout (other sets in this layout work too).

    Args:
        root: folder of the data set.
        features_only: read the lists alone, for use with `precomputed(...)` teachers. There are no documents then, so
            **the caption of an image is the id of its text**: a text teacher would embed ids.
        photos: folder with one subfolder a category, relative to `root`; images/ when empty.
    """

    info = DatasetInfo(
        summary="English Wikipedia: 2,866 text-image documents in 10 categories (Rasiwasia et al. 2010)",
        expects=f"{', '.join(_LISTS.values())} (text id, image id, category), texts/<text id>.xml; optional: "
        f"{_CATEGORIES} and images/<category>/<image id>.jpg. With features_only=true the lists suffice: captions are "
        "then the text ids, meant for precomputed teachers",
        ids="image: image id of the lists; caption: text id of the lists, unchanged",
        splits="train, test",
        url="http://www.svcl.ucsd.edu/projects/crossmodal/",
    )

    def __init__(self, root: Path | None, *, features_only: bool = False, photos: str = "") -> None:
        self.root, self.features_only, self.photos = root, features_only, photos

    def read(self) -> Records:
        """Both splits.

        A document whose file is missing or has no text is a blank caption and thus quarantined.

        Raises:
            DatasetError: the root or its files are missing or of another format, or a text declares a DOCTYPE.
        """
        folder = data_folder(self.root, "wikipedia", self.info.expects)
        sources = [folder / name for name in _LISTS.values()]
        if not all(path.is_file() for path in sources):
            raise not_this("wikipedia", folder, self.info.expects)
        texts = folder / "texts"
        if not self.features_only and not texts.is_dir():
            raise DatasetError(
                "the texts of 'wikipedia' are missing",
                found=f"no folder {texts}",
                expected="texts/<text id>.xml",
                todo="add them, or set features_only=true to use precomputed features (captions are then the text ids)",
            )
        categories, used = _categories(folder / _CATEGORIES)
        photos = photo_folder(folder, self.photos, ("images",), ())
        ledger = Ledger()
        found = _photos_by_id(photos)
        located = dict(found)
        images: list[ImageRecord] = []
        captions: list[CaptionRecord] = []
        for split, path in zip(_LISTS, sources, strict=True):
            for text_id, image_id, number in _entries(path, ledger):
                row, category = len(images), categories.get(number, number)
                file = located.get(image_id, f"{category}/{image_id}.jpg")
                text = text_id if self.features_only else _document(texts, text_id)
                images.append(ImageRecord(image_id, split, file, row, category))
                captions.append(CaptionRecord(text_id, image_id, text, row))
        _book_photos(ledger, found, images)
        return Records(images, captions, photos, [*sources, *used], ledger.closed())


def _entries(path: Path, ledger: Ledger) -> list[tuple[str, str, str]]:
    entries = []
    for number, line in enumerate(read_lines(path)):
        ledger.seen("lines")
        if not line.strip():
            ledger.skipped("lines", "blank line", f"line {number + 1} of {path.name}")
            continue
        parts = line.split()
        if len(parts) != 3:
            raise DatasetError(
                f"line {number + 1} of {path.name} is not an entry",
                found=shown(line),
                expected="text id, image id, category",
            )
        entries.append((parts[0], parts[1], parts[2]))
        ledger.used("lines")
    return entries


def _categories(path: Path) -> tuple[dict[str, str], list[Path]]:
    """Number (from 1) -> name, and the file if it is there; without it categories keep their numbers."""
    if not path.is_file():
        return {}, []
    return {str(number): name.strip() for number, name in enumerate(read_lines(path), start=1)}, [path]


def _photos_by_id(photos: Path | None) -> list[tuple[str, str]]:
    """(id, file) of every photograph; of two with one id the last is meant."""
    if photos is None:
        return []
    found = sorted(path for path in photos.glob("*/*") if path.suffix.lower() in PHOTO_SUFFIXES)
    return [(path.stem, path.relative_to(photos).as_posix()) for path in found]


def _book_photos(ledger: Ledger, found: Sequence[tuple[str, str]], images: Sequence[ImageRecord]) -> None:
    """Book photographs that no list names, and those that another of the same id hides."""
    used, named = {image.file for image in images}, {image.image_id for image in images}
    ledger.seen("photographs", len(found))
    for image_id, file in found:
        if file in used:
            ledger.used("photographs")
        else:
            kind = "another one has the same id" if image_id in named else "named by no list"
            ledger.skipped("photographs", kind, file, loud=True)


def _document(texts: Path, text_id: str) -> str:
    """The text of a document, empty where there is none."""
    for name in (text_id, _STRAY.sub("", text_id)):
        if "/" not in name and "\\" not in name and (texts / f"{name}.xml").is_file():
            return _text_of_xml(read_bytes(texts / f"{name}.xml"), name)
    return ""


def _text_of_xml(data: bytes, name: str) -> str:
    """The content of the `<text>` elements; where the XML is not well-formed, the text between the tags."""
    try:
        root = ET.fromstring(data, ET.XMLParser(target=_Plain(name)))  # noqa: S314 - _Plain refuses entities
        parts = ["".join(element.itertext()) for element in root.iter("text")]
    except DatasetError:
        raise
    except (ET.ParseError, ValueError, LookupError):
        parts = [html.unescape(part) for part in _TEXT.findall(data.decode("utf-8", "surrogateescape"))]
    return "\n".join(parts).strip()


class _Plain(ET.TreeBuilder):
    """Builds the tree of a document that declares nothing."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def doctype(self, *_: object) -> None:
        """Called where a DOCTYPE begins, before any entity in it could be used."""
        raise DatasetError(
            f"{self.name}.xml declares a DOCTYPE",
            expected="plain elements (entities can read other files or grow without bound)",
            todo="remove the declaration",
        )
