"""Refusals of whole data sets: ambiguous ids, and names that point out of their folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from labelgen.corpus.base import Records
from labelgen.corpus.frames import MAX_KIND, MAX_KINDS
from labelgen.corpus.text.names import is_unsafe, not_utf8
from labelgen.errors import DatasetError, some
from labelgen.types import UNSPECIFIED, is_path_word


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
    splits = [image.split for image in records.images]
    _check_ids("image", image_ids)
    _check_ids("caption", [caption.caption_id for caption in records.captions])
    _check_known(records, set(image_ids))
    _check_words("split", splits)
    _refuse(
        [name for name in dict.fromkeys(splits) if not is_path_word(name)],
        "split names cannot be names of files",
        "letters, digits, '.', '_' and '-', not beginning with a dot, at most 128",
        "rename them in the source, for example train, val, test",
    )
    _check_utf8("category", [image.category for image in records.images if image.category is not None])
    _check_words("group", list({image.group for image in records.images if image.group is not None}))
    _check_kinds(sorted({caption.kind for caption in records.captions if caption.kind is not None}, key=str))
    files = [str(image.file) for image in records.images if image.file is not None]
    _check_utf8("file name", files)
    _refuse(
        [file for file in files if is_unsafe(file)],
        "file names are not safe",
        "paths below the folder of the photographs, with forward slashes, without '..' or a drive",
        "name the folder of absolute paths with photos='...', make others relative; the folder may be a symbolic link",
    )


def _refuse(wrong: Sequence[str], problem: str, expected: str, todo: str = "") -> None:
    if wrong:
        raise DatasetError(f"{len(wrong)} {problem}", found=some(wrong), expected=expected, todo=todo)


def _check_ids(kind: str, ids: Sequence[str]) -> None:
    _check_words(f"{kind} id", ids)
    _refuse(
        [value for value, times in Counter(ids).items() if times > 1],
        f"{kind} ids occur more than once",
        f"one {kind} an id (case counts: 'a' and 'A' are two ids)",
        "make them unique in the source, or leave out the copies",
    )


def _check_words(what: str, values: Sequence[str]) -> None:
    wrong = [value for value in values if not isinstance(value, str) or not value]
    _refuse(wrong, f"of {len(values)} values of {what!r} are empty or not text", "text that is not empty")
    _check_utf8(what, values)


def _check_kinds(kinds: Sequence[str]) -> None:
    _check_words("kind", kinds)
    _refuse(
        [kind for kind in kinds if len(kind) > MAX_KIND],
        f"kinds of captions have more than {MAX_KIND} characters",
        "names such as human, or of captioners",
        "shorten them",
    )
    _refuse(
        [kind for kind in kinds if kind == UNSPECIFIED],
        "kinds of captions have a name that means captions without a kind",
        "another name, or no kind",
        "leave the kind of these captions empty",
    )
    _refuse(
        kinds if len(kinds) > MAX_KINDS else [],
        "kinds of captions are too many",
        f"at most {MAX_KINDS}: human, and the names of captioners",
        "is that column the kind of captions? of a table, name another one with kind=..., or read none: kind='none'",
    )


def _check_utf8(what: str, values: Sequence[str]) -> None:
    _refuse(
        not_utf8(values),
        f"values of {what!r} are not UTF-8",
        "UTF-8 (only captions may break it: they are quarantined, an id cannot be)",
        "convert the source to UTF-8",
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
