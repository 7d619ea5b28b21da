"""Names of the members of a tar shard -> samples: which photograph, texts and JSON belong together.

A pure function of names; `labelgen.corpus.adapters.tar_shards` documents the rule for users.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from labelgen.corpus.files import PHOTO_SUFFIXES

#: Photographs by their suffix that the usual decoders do not read; their bytes decide.
OTHER_PHOTO_SUFFIXES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".jpe", ".jfif", ".pjpeg", ".pjp", ".j2k", ".jpf", ".jpx", ".jpm", ".j2c"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pgm", ".pbm", ".pnm", ".dib", ".tga"),
        *(".exr", ".hdr", ".psd", ".svg", ".avifs", ".apng", ".jps", ".mpo", ".qoi", ".bpg"),
    }
)

#: Suffixes of texts that are not read; they look like captions.
_OTHER_TEXT_SUFFIXES = frozenset({".text", ".caption", ".captions", ".cap", ".txt", ".tsv", ".srt", ".vtt", ".md"})
_PHOTOS = PHOTO_SUFFIXES | OTHER_PHOTO_SUFFIXES

Kind: TypeAlias = Literal["photo", "text", "json"]

# Parts between the key and `.txt` of one of several captions: `key.0.txt`, `key.caption.txt`.
_CAPTION = re.compile(r"(?:captions?[-_]?\d*|\d+)(?:\.\d+)?|")
# The same where no photograph says what the key is: `img.0001.txt` more likely has the key `img.0001`.
_COUNTED = re.compile(r"\.(?:captions?|0|[1-9]\d{0,2})$")
_SHOWN = 24


@dataclass(frozen=True)
class Skipped:
    """Reason why a member is not read; `loud` where it looks like a photograph or a caption."""

    kind: str
    loud: bool = False


@dataclass
class Sample:
    """One image: numbers of its members; `captions` in the order of the shard."""

    key: str
    photo: int | None = None
    texts: list[int] = field(default_factory=list)
    json: int | None = None

    @property
    def first(self) -> int:
        """Its first member, by which samples are ordered."""
        return min(number for number in (self.photo, self.json, *self.texts) if number is not None)


@dataclass
class Keys:
    """Samples in order of their first member, and what belongs to none.

    Attributes:
        samples: by key.
        skipped: member -> the reason why it is not read.
        repeated: members whose key and suffix another member had before.
    """

    samples: dict[str, Sample]
    skipped: dict[int, Skipped]
    repeated: list[int]

    def owner(self, name: str) -> str | None:
        """Key of the sample that any member belongs to by its name, None where there is none."""
        group = group_of(name)
        for prefix in _prefixes(name, group):
            if prefix in self.samples:
                return prefix
        near = self._by_group.get(group, ())
        return near[0] if len(near) == 1 else None

    @cached_property
    def _by_group(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for key in self.samples:
            keys.setdefault(group_of(key), []).append(key)
        return keys


def kind_of(name: str) -> Kind | None:
    """Kind of a member by its last suffix, in upper or lower case."""
    suffix = _suffix(name)
    return "photo" if suffix in _PHOTOS else "text" if suffix == ".txt" else "json" if suffix == ".json" else None


def looks_used(name: str) -> bool:
    """True if a member looks like a photograph or a caption (`x.jpg.gz`, `x.caption`)."""
    parts = {f".{part}" for part in name.rpartition("/")[2].lower().split(".")[1:]}
    return bool(parts & (_PHOTOS | _OTHER_TEXT_SUFFIXES))


def other_suffix(name: str) -> Skipped:
    """Reason for skipping a member whose suffix is not known."""
    looks = looks_used(name)
    suffix = _suffix(name)
    if looks and kind_of(name[: -len(suffix)]) is not None:
        suffix = _suffix(name[: -len(suffix)]) + suffix
    word = f"*{suffix}" if re.fullmatch(r"(?:\.[a-z0-9_-]{1,16}){1,2}", suffix) else "other names"
    return Skipped(f"members that are not read ({word})", looks)


def group_of(name: str) -> str:
    """The key as the webdataset library counts: the path up to the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def keys_of(names: Mapping[int, str]) -> Keys:
    """Samples of a shard: number -> name of every member with a known suffix, in the order of the shard."""
    found = Keys({}, {}, [])
    groups: dict[str, _Group] = {}
    seen: set[tuple[str, str]] = set()
    for number, name in names.items():
        stem, suffix = _stem(name), _suffix(name)
        if (stem, suffix) in seen:
            found.repeated.append(number)
            continue
        seen.add((stem, suffix))
        group = groups.setdefault(group_of(name), _Group(group_of(name), names))
        kind = kind_of(name)
        if kind is not None:
            group.of(kind).setdefault(stem, []).append(number)
    for group in groups.values():
        group.divide(found)
    found.samples = {item.key: item for item in sorted(found.samples.values(), key=lambda item: item.first)}
    return found


@dataclass
class _Group:
    """Members with one key in the sense of the webdataset library, by their names without the last suffix."""

    key: str
    names: Mapping[int, str]
    photos: dict[str, list[int]] = field(default_factory=dict)
    texts: dict[str, list[int]] = field(default_factory=dict)
    jsons: dict[str, list[int]] = field(default_factory=dict)

    def of(self, kind: Kind) -> dict[str, list[int]]:
        return {"photo": self.photos, "text": self.texts, "json": self.jsons}[kind]

    def divide(self, found: Keys) -> None:
        """Give every member its sample or the reason why it has none."""
        captioned, common, left = self._texts()
        images = self._images(captioned)
        if common and not captioned and len(images) > 1:  # one sample of several pictures in the sense of the library
            images = images[:1]
        samples = {stem: Sample(stem, photo=self.photos[stem][0]) for stem in images}
        for stem, numbers in self.photos.items():
            for number in numbers[1:] if stem in samples else numbers:
                found.skipped[number] = self._skipped("further pictures of a sample", number, samples)
        if common and len(samples) == 1:
            samples[next(iter(samples))].texts += common
        elif common and samples:
            for number in common:
                found.skipped[number] = self._skipped("captions that several photographs could have", number, samples)
        elif common:
            self._without_photographs(common, samples)
        for stem, numbers in captioned.items():
            samples[stem].texts += numbers
        for number in left:
            found.skipped[number] = self._skipped("texts that are not named as captions", number, samples)
        for item in samples.values():
            item.texts.sort()
        self._jsons(samples, found)
        found.samples |= samples

    def _texts(self) -> tuple[dict[str, list[int]], list[int], list[int]]:
        """Captions of photographs by their stem; captions of the group; texts that are no captions."""
        captioned: dict[str, list[int]] = {}
        common, left = [], []
        for stem, numbers in self.texts.items():
            photo = next((prefix for prefix in _prefixes(stem, self.key) if prefix in self.photos), None)
            caption = _CAPTION.fullmatch(_rest(stem, self.key if photo is None else photo)) is not None
            if photo is not None and caption:
                captioned.setdefault(photo, []).extend(numbers)
            elif photo is None and (caption or not self.photos):
                common += numbers
            else:
                left += numbers
        return captioned, common, left

    def _images(self, captioned: Mapping[str, list[int]]) -> list[str]:
        """Stems of photographs that are images: not `x.seg` beside `x`, unless it has a caption."""
        images = []
        for stem in self.photos:
            shorter = next(
                (prefix for prefix in _prefixes(stem, self.key) if prefix in self.photos and prefix != stem), ""
            )
            if not shorter or stem in captioned or _rest(stem, shorter).replace(".", "").isdigit():
                images.append(stem)
        return images

    def _without_photographs(self, texts: Sequence[int], samples: dict[str, Sample]) -> None:
        for number in texts:
            stem = _stem(self.names[number])
            while _COUNTED.search(stem[len(self.key) :]):
                stem = stem.rpartition(".")[0]
            samples.setdefault(stem, Sample(stem)).texts.append(number)

    def _jsons(self, samples: dict[str, Sample], found: Keys) -> None:
        for stem, (number, *_) in self.jsons.items():
            single = next(iter(samples)) if len(samples) == 1 else ""
            if stem in samples:
                samples[stem].json = number
            elif stem == self.key and single and samples[single].json is None and single not in self.jsons:
                samples[single].json = number
            elif not samples and not self.photos:
                continue
            else:
                loud = stem == self.key or bool(_CAPTION.fullmatch(_rest(stem, self.key)))
                found.skipped[number] = self._skipped("JSON of no sample", number, samples, loud=loud)
        if not samples:
            samples |= {stem: Sample(stem, json=numbers[0]) for stem, numbers in self.jsons.items()}

    def _skipped(self, kind: str, number: int, samples: Mapping[str, Sample], *, loud: bool = True) -> Skipped:
        """The reason with the end of the name behind its key, in which all numbers look alike."""
        name = self.names[number]
        key = next((prefix for prefix in _prefixes(_stem(name), self.key) if prefix in samples), self.key)
        rest = re.sub(r"\d+", "0", _rest(_stem(name), key))
        word = f"*.{rest}{_suffix(name)}" if rest else f"*{_suffix(name)}"
        return Skipped(f"{kind} ({word[:_SHOWN]})", loud)


def _prefixes(stem: str, key: str) -> Iterator[str]:
    """The stem, and what is left of it before each dot, down to the key."""
    yield stem
    while len(stem) > len(key) and "." in stem[len(key) :]:
        stem = stem.rpartition(".")[0]
        yield stem


def _rest(stem: str, key: str) -> str:
    return stem[len(key) + 1 :]


def _stem(name: str) -> str:
    return name[: len(name) - len(_suffix(name))]


def _suffix(name: str) -> str:
    """The last suffix with its dot, in lower case; empty where there is none."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:].lower() if dot >= 0 else ""
