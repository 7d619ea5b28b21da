"""Refusals of whole data sets: ambiguous ids, and names that point out of their folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from labelgen.corpus.base import Records
from labelgen.corpus.text.names import is_unsafe, not_utf8
from labelgen.errors import DatasetError, some
from labelgen.types import is_path_word


def check_records(records: Records) -> None:
    """Refuse records whose rows would be ambiguous.

    Raises:
        DatasetError: no images; empty, duplicate or not UTF-8 ids; captions of unknown images; unsafe file names.
    """
    if not records.images:
        raise DatasetError(
            "the data set is empty",
            found=f"no image in {', '.join(str(path) for path in records.sources) or 'the source'}",
            expected="at least one image (a row of an image needs no photograph)",
        )
    image_ids = [image.image_id for image in records.images]
    caption_ids = [caption.caption_id for caption in records.captions]
    _check_ids("image", image_ids)
    _check_ids("caption", caption_ids)
    _check_known(records, set(image_ids))
    _check_words("split", [image.split for image in records.images])
    _check_splits([image.split for image in records.images])
    _check_utf8("category", [image.category for image in records.images if image.category is not None])
    _check_files(records)


def _check_ids(kind: str, ids: Sequence[str]) -> None:
    _check_words(f"{kind} id", ids)
    if len(set(ids)) == len(ids):
        return
    repeated = [value for value, times in Counter(ids).items() if times > 1]
    raise DatasetError(
        f"{len(repeated)} {kind} ids occur more than once",
        found=some(repeated),
        expected=f"one {kind} an id (case counts: 'a' and 'A' are two ids)",
        todo="make them unique in the source, or leave out the copies",
    )


def _check_words(what: str, values: Sequence[str]) -> None:
    wrong = [value for value in values if not isinstance(value, str) or not value]
    if wrong:
        raise DatasetError(
            f"{len(wrong)} of {len(values)} values of {what!r} are empty or not text",
            found=some(wrong),
            expected="text that is not empty",
        )
    _check_utf8(what, values)


def _check_splits(values: Sequence[str]) -> None:
    """Split names become names of files."""
    wrong = [name for name in dict.fromkeys(values) if not is_path_word(name)]
    if wrong:
        raise DatasetError(
            f"{len(wrong)} split names cannot be names of files",
            found=some(wrong),
            expected="letters, digits, '.', '_' and '-', not beginning with a dot, at most 128",
            todo="rename them in the source, for example train, val, test",
        )


def _check_utf8(what: str, values: Sequence[str]) -> None:
    wrong = not_utf8(values)
    if wrong:
        raise DatasetError(
            f"{len(wrong)} values of {what!r} are not UTF-8",
            found=some(wrong),
            expected="UTF-8 (only captions may break it: they are quarantined, an id cannot be)",
            todo="convert the source to UTF-8",
        )


def _check_known(records: Records, known: set[str]) -> None:
    orphans = [caption for caption in records.captions if caption.image_id not in known]
    if orphans:
        images = some(dict.fromkeys(caption.image_id for caption in orphans))
        raise DatasetError(
            f"{len(orphans)} captions belong to images that the data set does not have",
            found=f"captions {some(item.caption_id for item in orphans)} of images {images}",
            expected="an image record for every caption",
            todo="add the images (they need no photograph) or remove the captions",
        )


def _check_files(records: Records) -> None:
    named = [image for image in records.images if image.file is not None]
    _check_utf8("file name", [str(image.file) for image in named])
    unsafe = [image for image in named if is_unsafe(str(image.file))]
    if unsafe:
        raise DatasetError(
            f"{len(unsafe)} file names are not safe",
            found=some(image.file for image in unsafe),
            expected="paths below the folder of the photographs, with forward slashes, without '..' or a drive",
            todo="make them relative; the folder itself may be a symbolic link",
        )
