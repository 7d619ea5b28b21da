"""`Lookup`: the images and captions of samples that hold a photograph's path and a caption's text instead of ids."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from labelgen.errors import ConfigError, UnknownIdError, shown, some
from labelgen.store import layout
from labelgen.store.disk.parquet import StringColumn
from labelgen.store.index import hash_ids
from labelgen.store.reader import Store
from labelgen.types import Int64, UInt64

EqualCaptions: TypeAlias = Literal["raise", "first"]

#: Names or samples that are worked on at once, and examples of each kind in a message.
_PIECE, _EXAMPLES = 65_536, 3


class Lookup:
    """Finds images by the paths of their photographs, and captions by their texts within the image.

    A path stands for the image whose stored `file` has the same last component (the file's name). Where several images
    have that name, the folders decide, from the last one on: `/data/train/1.jpg` is `train/1.jpg` and not `val/1.jpg`.
    A text stands for the caption of that image with exactly this text, else for the one that differs only in the white
    space around it or in the Unicode normal form.

    Names are kept as sorted 64-bit hashes (`labelgen.store.index`), texts as one Arrow column; both are read when they
    are first needed, are shared with forked workers from then on, and are not pickled: a spawned worker reads them.

    Args:
        store: an open store.
        images: `file`, or `id` where samples hold the ids of images.
        captions: `text`, or `id` where samples hold the ids of captions.
        equal_captions: an image may have the same text twice. `raise`, or `first`: take the first of the two, whose
            similarities are the same.

    Raises:
        ConfigError: an unknown option, or a store without file names.
    """

    def __init__(
        self,
        store: Store,
        *,
        images: Literal["file", "id"] = "file",
        captions: Literal["text", "id"] = "text",
        equal_captions: EqualCaptions = "raise",
    ) -> None:
        options = (
            ("images", images, ("file", "id")),
            ("captions", captions, ("text", "id")),
            ("equal_captions", equal_captions, ("raise", "first")),
        )
        for name, value, allowed in options:
            if value not in allowed:
                raise ConfigError(f"{name}={value!r} is unknown", expected=" or ".join(allowed))
        self.store, self.images, self.captions, self.equal_captions = store, images, captions, equal_captions

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __call__(self, images: Iterable[Any], captions: Iterable[Any]) -> tuple[list[str], list[str]]:
        """Image ids and caption ids of pairs: `labelgen.soft_labels(store, *lookup(paths, texts))`.

        Raises:
            UnknownIdError: photographs or texts that the store does not have; all kinds and examples in one message.
            ConfigError: a path that several images could have, or a text that its image has twice.
        """
        image_rows, caption_rows = self.rows(images, captions)
        return self.store.image_ids(image_rows), self.store.caption_ids(caption_rows)

    def rows(self, images: Iterable[Any], captions: Iterable[Any], *, missing_ok: bool = False) -> tuple[Int64, Int64]:
        """Image rows and caption rows of n pairs, int64 [n] each; -1 for unknown ones with `missing_ok`.

        Raises:
            UnknownIdError, ConfigError: as when called.
        """
        paths, texts = _listed(images), _listed(captions)
        if len(paths) != len(texts):
            raise ConfigError(f"{len(paths)} images and {len(texts)} captions are not pairs")
        problems = _Problems()
        if self.images == "id":
            image_rows = self.store.image_rows(paths, missing_ok=missing_ok)
        else:
            image_rows = self._image_rows([_path_text(path) for path in paths], problems)
        if self.captions == "id":
            caption_rows = self.store.caption_rows(texts, missing_ok=missing_ok)
        else:
            caption_rows = self._caption_rows(image_rows, [_caption_text(text) for text in texts], paths, problems)
        problems.refuse(self.store, missing_ok=missing_ok)
        return image_rows, caption_rows

    def read(self) -> None:
        """Read names and texts now, so that workers that are forked later share them."""
        if self.images == "file":
            _ = self._names
        if self.captions == "text":
            _ = self._texts

    @cached_property
    def _files(self) -> StringColumn:
        return self.store.strings(layout.IMAGES, "file")

    @cached_property
    def _texts(self) -> StringColumn:
        return self.store.strings(layout.CAPTIONS, "text")

    @cached_property
    def _names(self) -> _Hashed:
        """Images by the last component of their files."""
        names = _Hashed.of(self._files, lambda parts: parts[-1])
        if not len(names.rows) and len(self._files):
            raise ConfigError(
                "this store has no file names to look photographs up by",
                todo="look images up by id: Lookup(store, images='id'), with the ids of store.images",
            )
        return names

    @cached_property
    def _whole(self) -> _Hashed:
        """Images by their whole files; made where names repeat."""
        return _Hashed.of(self._files, "/".join)

    def _image_rows(self, paths: list[str], problems: _Problems) -> Int64:
        different = list(dict.fromkeys(paths))
        parts = [_components(path) for path in different]
        starts, counts = self._names.ranges([last[-1] if last else "" for last in parts])
        found = np.full(len(different), -1, np.int64)
        single = counts == 1
        found[single] = self._names.rows[starts[single]]
        for at in np.flatnonzero(counts > 1).tolist():
            candidates = self._names.rows[starts[at] : starts[at] + counts[at]]
            rows = self._by_folders(parts[at], candidates)
            found[at] = rows[0]
            if len(rows) > 1:
                named = zip(self.store.image_ids(rows[:2]), self._files.take(rows[:2]), strict=True)
                problems.several_images.append((different[at], dict(named)))
        problems.unknown_images += [different[at] for at in np.flatnonzero(counts == 0).tolist()]
        self._refuse_collisions(different, parts, found, problems)
        row_of = dict(zip(different, found.tolist(), strict=True))
        return np.array([row_of[path] for path in paths], np.int64)

    def _by_folders(self, given: tuple[str, ...], candidates: Int64) -> Int64:
        """Those of the images with the name of a path that agree with most of its folders, from the last on."""
        endings = ["/".join(given[start:]) for start in range(len(given))]
        starts, counts = self._whole.ranges(endings)
        ends_with = np.flatnonzero(counts)  # the whole stored path is an ending of the given one: the longest
        if len(ends_with):
            first = int(ends_with[0])
            return self._whole.rows[starts[first] : starts[first] + counts[first]]
        common = [_common_ending(given, _components(file)) for file in self._files.take(candidates)]
        best: Int64 = candidates[np.array(common) == max(common)]
        return best

    def _refuse_collisions(
        self, paths: list[str], parts: list[tuple[str, ...]], found: Int64, problems: _Problems
    ) -> None:
        """Two paths in different folders are two photographs, but only one of them is in the store under this name."""
        if len(np.unique(found[found >= 0])) == (found >= 0).sum():
            return
        by_row = defaultdict(list)
        for at, row in enumerate(found.tolist()):
            by_row[row].append(at)
        for row, group in by_row.items():
            longest = max(group, key=lambda at: len(parts[at]))
            other = [at for at in group if parts[longest][-len(parts[at]) :] != parts[at]]
            if row >= 0 and other:
                problems.one_image.append((paths[longest], paths[other[0]], self._files.take(np.array([row]))[0]))

    def _caption_rows(self, images: Int64, texts: list[str], paths: Sequence[Any], problems: _Problems) -> Int64:
        found = np.full(len(texts), -1, np.int64)
        for low in range(0, len(texts), _PIECE):
            here = low + np.flatnonzero(images[low : low + _PIECE] >= 0)
            starts = self.store.offsets[images[here]]
            counts = self.store.offsets[images[here] + 1] - starts
            listed = self._texts.take(self.store.captions_in(images[here]))
            ends = np.cumsum(counts)
            for at, start, end, count in zip(here.tolist(), starts, ends.tolist(), counts.tolist(), strict=True):
                own = listed[end - count : end]
                hits = _equal(texts[at], own)
                if hits:
                    found[at] = start + hits[0]
                else:
                    problems.unknown_captions.append((paths[at], texts[at]))
                    problems.known = problems.known or f"; {shown(paths[at], 80)} has {some(own, _EXAMPLES)}"
                if len(hits) > 1 and (self.equal_captions == "raise" or len({own[hit] for hit in hits}) > 1):
                    problems.several_captions.append((paths[at], texts[at]))
        return found


class _Hashed(NamedTuple):
    """Rows by the hash of a text: sorted hashes and the row of each, both [n]; rows without a text have none."""

    hashes: UInt64
    rows: Int64

    @classmethod
    def of(cls, files: StringColumn, key: Any) -> _Hashed:
        hashes, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for low, names in _pieces(files):
            parts = [_components(name) if name else () for name in names]
            there = np.array([bool(part) for part in parts], bool)
            hashes.append(hash_ids(key(part) for part in parts if part))
            rows.append(low + np.flatnonzero(there))
        joined, numbers = np.concatenate(hashes), np.concatenate(rows)
        order = np.argsort(joined, kind="stable")
        return cls(joined[order], numbers[order])

    def ranges(self, texts: list[str]) -> tuple[Int64, Int64]:
        """Where the rows of each text start, and how many there are, int64 [n]."""
        wanted = hash_ids(text.encode("utf-8", "replace").decode() for text in texts)
        starts = np.searchsorted(self.hashes, wanted, side="left")
        return starts.astype(np.int64), (np.searchsorted(self.hashes, wanted, side="right") - starts).astype(np.int64)


class _Problems:
    """What a lookup could not decide, kept until all of it can be said at once."""

    def __init__(self) -> None:
        self.unknown_images: list[str] = []
        self.several_images: list[tuple[str, dict[str, str]]] = []
        self.one_image: list[tuple[str, str, str]] = []
        self.unknown_captions: list[tuple[Any, str]] = []
        self.several_captions: list[tuple[Any, str]] = []
        self.known = ""  #: the captions of one image with an unknown one

    def refuse(self, store: Store, *, missing_ok: bool) -> None:
        """Raise one error for all kinds of problems, unknown ones left out with `missing_ok`."""
        unknown: dict[str, Sequence[object]] = {
            "photographs are not in this store": self.unknown_images,
            "captions are not among those of their image": self.unknown_captions,
        }
        if missing_ok:
            unknown = {}
        unclear: dict[str, Sequence[object]] = {
            "photographs could be those of several images": self.several_images,
            "images would be taken for two photographs in different folders": self.one_image,
            "captions are there twice in their image": self.several_captions,
        }
        kinds = {what: found for what, found in {**unknown, **unclear}.items() if found}
        if not kinds:
            return
        kind = UnknownIdError if any(unknown.values()) else ConfigError
        advice = ["compare with `file` of store.images and `text` of store.captions"] if any(unknown.values()) else []
        if self.several_images or self.one_image:
            advice.append("give more of the path, or look images up by id: Lookup(store, images='id')")
        if self.several_captions:
            advice.append("equal_captions='first' takes the first of them: equal texts have equal similarities")
        raise kind(
            "; ".join(f"{len(found)} {what}" for what, found in kinds.items()),
            found="; ".join(some(found, _EXAMPLES) for found in kinds.values()),
            expected=f"paths such as {_example(store)}, with a caption of that image{self.known}",
            todo="; ".join(advice),
        )


def _listed(values: Iterable[Any]) -> list[Any]:
    if isinstance(values, (str, bytes, os.PathLike)):
        raise ConfigError("one sample where a list is expected", found=shown(values), todo=f"write [{shown(values)}]")
    return list(getattr(values, "tolist", lambda: values)())


def _example(store: Store) -> str:
    """The file of the first image that has one."""
    for _, names in _pieces(store.strings(layout.IMAGES, "file")):
        for name in names:
            if name:
                return shown(name)
    return "those of the data set"


def _pieces(column: StringColumn) -> Iterator[tuple[int, list[str]]]:
    for low in range(0, len(column), _PIECE):
        yield low, column.take(np.arange(low, min(low + _PIECE, len(column))))


def _components(path: str) -> tuple[str, ...]:
    """Folders and name of a path, in one Unicode normal form; a shard counts as a folder of its members."""
    plain = unicodedata.normalize("NFC", path).replace("\\", "/").replace("::", "/")
    return tuple(part for part in plain.split("/") if part not in ("", "."))


def _common_ending(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Number of equal components from the last on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one[::-1], other[::-1], strict=False)))


def _equal(text: str, listed: list[str]) -> list[int]:
    """Positions of a text in a list: exactly, else but for white space around it and the Unicode normal form."""
    exact = [at for at, other in enumerate(listed) if other == text]
    return exact or [at for at, other in enumerate(listed) if _plain(other) == _plain(text)]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _path_text(path: Any) -> str:
    if isinstance(path, (str, bytes, os.PathLike)):
        return os.fsdecode(path)
    raise ConfigError(
        f"a {type(path).__name__} where the path of a photograph is expected",
        found=shown(path),
        todo="pass the path or file name, or Lookup(store, images='id') for ids",
    )


def _caption_text(text: Any) -> str:
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    if isinstance(text, str):
        return text
    raise ConfigError(
        f"a {type(text).__name__} where the text of a caption is expected",
        found=shown(text),
        todo="pass one text a sample, or Lookup(store, captions='id') for ids",
    )
