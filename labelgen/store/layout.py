"""Every name, path, shape and dtype of a store, once. See docs/formats.md for the prose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelgen.fingerprint import fingerprint
from labelgen.types import Aggregation, Modality, Relation, Scope

FORMAT_VERSION = 1

MANIFEST = "manifest.json"
CARD = "README.md"
CROISSANT = "croissant.json"
#: Work in progress: lock, pending configuration, parts. Never part of what is sealed.
WORK = ".labelgen"
LOCK = f"{WORK}/lock"
PENDING = f"{WORK}/pending.json"
#: Which arrays a partial store lacks, and where it was pulled from.
PULLED = f"{WORK}/pulled.json"
INGEST = f"{WORK}/ingest"
PARTS = f"{WORK}/parts"
#: Leases of the ranks that build together.
RANKS = f"{WORK}/ranks"
#: Files of a seal before they are moved into place; the manifest that it will commit; the one that it replaces.
SEALING = f"{WORK}/seal"
NEXT = f"{WORK}/next.json"
REPLACED = f"{WORK}/replaced.json"

CORPUS = "corpus"
EMBEDDINGS = "embeddings"
NEIGHBORS = "neighbors"
RECEIPTS = "receipts"
#: Networks that were trained in the build, one folder an alias.
MODELS = "models"
STATS = "stats"
IMAGES, CAPTIONS, QUARANTINE = "images.parquet", "captions.parquet", "quarantine.parquet"

#: What a folder that zarr opens as a group or an array holds beside its shards.
ZARR_JSON = "zarr.json"

#: Columns of the three tables, in order: name -> type; a type that ends in `?` may be null.
TABLES: dict[str, dict[str, str]] = {
    IMAGES: {
        "image_row": "uint32",
        "image_id": "string",
        "split": "string",
        "file": "string?",
        "source_row": "uint32",
        "n_captions": "uint32",
        "category": "string?",
        "width": "uint32?",
        "height": "uint32?",
        "status": "string",
    },
    CAPTIONS: {
        "caption_row": "uint32",
        "caption_id": "string",
        "image_row": "uint32",
        "split": "string",
        "text": "string",
        "text_row": "uint32?",
        "source_row": "uint32",
        "status": "string",
    },
    QUARANTINE: {
        "kind": "string",
        "row": "uint32?",
        "id": "string",
        "file": "string?",
        "stage": "string",
        "alias": "string?",
        "reason": "string",
    },
}

#: Columns behind those of `TABLES`, in tables that have a value in them.
ADDED_COLUMNS: dict[str, dict[str, str]] = {IMAGES: {"group": "string?"}, CAPTIONS: {"kind": "string?"}, QUARANTINE: {}}

#: Part of format 1: readers derive the cut of every array from these two.
MAX_SHARD_BYTES = 256 << 20
TARGET_CHUNK_BYTES = 1 << 20
#: Rows are counted by uint32, whose largest number fills short lists; a row has at most so many numbers.
MAX_ROWS, MAX_ROW_LENGTH = 2**32 - 2, 1 << 20


def is_row_count(value: Any) -> bool:
    """Whether a declared number can be one of rows."""
    return type(value) is int and 0 <= value <= MAX_ROWS


@dataclass(frozen=True)
class ArraySpec:
    """Shape and cut of one zarr array: rows are cut into shards, shards into inner chunks, both powers of two.

    `shard_rows` is the largest power of two with at most 256 MiB (no larger than needed); `chunk_rows` the largest
    with at most 1 MiB, at least one row. Trailing dimensions are never cut.

    With `whole` a shard is one chunk. The arrays of `corpus/index` are stored so: they are searched, and a binary
    search wants one aligned piece of memory.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    whole: bool = False

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def shard_rows(self) -> int:
        return min(_power_of_two_below(MAX_SHARD_BYTES // self.row_bytes), _power_of_two_above(self.shape[0]))

    @property
    def chunk_rows(self) -> int:
        if self.whole:
            return self.shard_rows
        return min(_power_of_two_below(TARGET_CHUNK_BYTES // self.row_bytes), self.shard_rows)

    @property
    def n_shards(self) -> int:
        return -(-self.shape[0] // self.shard_rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, its checksum not counted."""
        return self.chunk_rows * self.row_bytes

    @property
    def metadata_path(self) -> str:
        return f"{self.path}/{ZARR_JSON}"

    def shard_path(self, shard: int) -> str:
        """Path of a shard file, as zarr's default chunk key encoding names it."""
        return "/".join([self.path, "c", str(shard), *("0" for _ in self.shape[1:])])

    def shard_range(self, shard: int) -> tuple[int, int]:
        """Rows [start, stop) of a shard."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.shape[0])

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "shard_rows": self.shard_rows,
            "chunk_rows": self.chunk_rows,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArraySpec:
        """The inverse of `to_json`.

        Raises:
            ValueError: a cut that this format does not make of such an array.
        """
        rows, *inner = data["shape"]
        if not (is_row_count(rows) and all(type(size) is int and 1 <= size <= MAX_ROW_LENGTH for size in inner)):
            raise ValueError(f"{data['path']} is declared as {data['shape']}")
        spec = cls(data["path"], (rows, *inner), data["dtype"])
        if (spec.shard_rows, spec.chunk_rows) != (data["shard_rows"], data["chunk_rows"]):
            raise ValueError(f"{spec.path} is cut into {data['shard_rows']} and {data['chunk_rows']} rows")
        return spec


def _power_of_two_below(limit: int) -> int:
    return 1 << max(0, limit.bit_length() - 1)


def _power_of_two_above(count: int) -> int:
    return 1 << max(0, (count - 1).bit_length())


def numbered(name: str, generation: int) -> str:
    """`embeddings`, then `embeddings.2`, `embeddings.3` ...: every `--append` writes new folders."""
    return name if generation == 1 else f"{name}.{generation}"


def model_path(alias: str, file: str = "towers") -> str:
    """The arrays that a trained teacher keeps; `file`: the name without suffix, `towers` of a siamese network."""
    return f"{MODELS}/{alias}/{file}.safetensors"


def generation_of(path: str) -> int:
    """The number of the top folder of a path, see `numbered`."""
    return int(path.partition("/")[0].partition(".")[2] or 1)


def neighbors_path(
    relation: Relation,
    alias: str,
    aggregation: Aggregation,
    scope: Scope,
    k: int,
    approximate: str = "",
    generation: int = 1,
    kinds: Sequence[str] = (),
) -> str:
    """Folder of one neighbour list; what is usual (max, split, exact, all captions) is not spelt out.

    `approximate` tells lists of different approximate searches apart: digits of the fingerprint of their spec.
    """
    parts = [relation.value, alias]
    parts += ["mean"] if aggregation == "mean" else []
    parts += ["cross"] if scope == "cross" else []
    parts += [f"approximate-{approximate}"] if approximate else []
    parts += [kinds_mark(kinds)] if kinds else []
    return f"{numbered(NEIGHBORS, generation)}/{'.'.join(parts)}.k{k}"


def kinds_mark(kinds: Sequence[str]) -> str:
    """The part of a name that stands for kinds of captions: digits of the fingerprint of their names."""
    return f"kinds-{fingerprint(sorted(kinds))[:6]}"


def stats_path(
    relation: Relation, alias: str, aggregation: Aggregation, generation: int = 1, kinds: Sequence[str] = ()
) -> str:
    """i2t and t2i read one matrix, so they share one file."""
    name = Relation.I2T if relation is Relation.T2I else relation
    mark = ".mean" if aggregation == "mean" else ""
    mark += f".{kinds_mark(kinds)}" if kinds else ""
    return f"{numbered(STATS, generation)}/{name.value}.{alias}{mark}.json"


def embedding_spec(alias: str, modality: Modality, rows: int, dim: int, generation: int = 1) -> ArraySpec:
    return ArraySpec(f"{numbered(EMBEDDINGS, generation)}/{alias}/{modality}", (rows, dim), "float16")


def neighbor_specs(path: str, rows: int, k: int) -> dict[str, ArraySpec]:
    """ids, scores and next of one neighbour folder."""
    return {
        "ids": ArraySpec(f"{path}/ids", (rows, k), "uint32"),
        "scores": ArraySpec(f"{path}/scores", (rows, k), "float32"),
        "next": ArraySpec(f"{path}/next", (rows,), "float32"),
    }


def index_specs(corpus: str, n_images: int, n_captions: int) -> dict[str, ArraySpec]:
    """The arrays of `corpus/index`, for readers that touch no parquet.

    `*_hash` are the sorted 64-bit hashes of the ids, `*_row` the row of each.
    """
    shapes = {
        "offsets": (n_images + 1, "int64"),
        "caption_image": (n_captions, "uint32"),
        "image_hash": (n_images, "uint64"),
        "image_row": (n_images, "uint32"),
        "caption_hash": (n_captions, "uint64"),
        "caption_row": (n_captions, "uint32"),
    }
    return {
        name: ArraySpec(f"{corpus}/index/{name}", (rows,), dtype, whole=True) for name, (rows, dtype) in shapes.items()
    }


def is_content(path: str) -> bool:
    """Whether a file counts for the content digest: corpus, embeddings, neighbors and stats do.

    The card and the Croissant file are made from the manifest, receipts hold times, and the root's `zarr.json` is
    constant; all of them are listed with their checksums all the same.
    """
    return path not in (MANIFEST, CARD, CROISSANT, ZARR_JSON) and not path.startswith((f"{RECEIPTS}/", f"{WORK}/"))
