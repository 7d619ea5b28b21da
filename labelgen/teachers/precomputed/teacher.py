"""Features made elsewhere (Unicom's, a detector's, those of an unpublished network), looked up by id.

A vector is what a file holds for one id: of shape [D] or [1, D]; both mean one row. A grid such as Unicom's
[49, 768] becomes one row of 37,632 numbers with `flatten=True` only: a grid that should be averaged is refused.

These are errors that name ids, and never pass silently: a missing file (never zeros), another D, a zero or
non-finite vector, ids that are not those of the dataset. Single ids without features are reported to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import MAX_VALUE, ConfigError, TeacherError, shortened, shown, some
from labelgen.fingerprint import digest_file
from labelgen.registry import unknown
from labelgen.teachers.base import TeacherInfo, described
from labelgen.teachers.checks import check_rows, unit_rows
from labelgen.teachers.precomputed.feature_ids import loosely_equal, read_ids
from labelgen.teachers.precomputed.feature_limits import MAX_WIDTH
from labelgen.teachers.precomputed.features import Source, open_features, reading
from labelgen.types import Float32, Modality

Keys: TypeAlias = Literal["id", "name", "stem"]

#: Number of ids from which on "most are missing" means that the file belongs to another dataset.
_MIN_JUDGED = 8


@described(
    TeacherInfo(
        summary="features from a file: npy, npz, safetensors, parquet, or a pickled dict of arrays (not executed)",
        modalities=("text", "image"),
        example="precomputed(path='unicom.npy')",
        offline="always",
    )
)
def precomputed(
    *,
    path: str | None = None,
    modality: Modality = "image",
    ids: str | None = None,
    image_path: str | None = None,
    image_ids: str | None = None,
    text_path: str | None = None,
    text_ids: str | None = None,
    keys: Keys = "id",
    flatten: bool = False,
    device: str = "cpu",
) -> Precomputed:
    """A keyed teacher: give `path` (with `modality`), or `image_path` and `text_path` of one space.

    Args:
        path: file of features (relative to the working folder); formats: `labelgen.teachers.precomputed.features`.
        modality: what the features of `path` are of.
        ids: file with the ids of an array without any (one per line, `.json` list or `.npy`); without it row i of such
            an array belongs to corpus row i.
        image_path, image_ids, text_path, text_ids: the same for a cross-modal teacher.
        keys: what the file's keys are: `id` the ids of the dataset; `name` paths that end in the id; `stem` paths whose
            file name without its suffix is the id.
        flatten: grids become one row each.
        device: taken as every teacher takes it; there is nothing to compute.

    Raises:
        ConfigError: neither or both of the two ways to name files.
        TeacherError: a file is missing, damaged, of another format, or executes code; ids that appear twice.
    """
    del device  # every factory is called with it
    if keys not in get_args(Keys):
        raise unknown("kind of keys", str(keys), get_args(Keys))
    if modality not in get_args(Modality):
        raise unknown("modality", str(modality), get_args(Modality))
    single, double = (path, ids), (image_path, image_ids, text_path, text_ids)
    given: dict[Modality, tuple[str, str | None]]
    if path is not None and not any(double):
        given = {modality: (path, ids)}
    elif image_path is not None and text_path is not None and not any(single):
        given = {"image": (image_path, image_ids), "text": (text_path, text_ids)}
    else:
        raise ConfigError(
            "precomputed() does not know where its features are",
            expected="path=... (with modality=...), or both image_path=... and text_path=...",
        )
    tables = {side: Table(Path(file), Path(own) if own else None, keys, side) for side, (file, own) in given.items()}
    return Precomputed(tables, flatten=flatten)


def _base_name(key: str) -> str:
    return key.replace("\\", "/").rsplit("/", 1)[-1]


_FORMS: Mapping[str, Callable[[str], str]] = {
    "id": str,
    "name": _base_name,
    "stem": lambda key: _base_name(key).rsplit(".", 1)[0],
}


class Table:
    """One file of features with its index of ids."""

    def __init__(self, path: Path, ids: Path | None, keys: Keys, modality: Modality = "image") -> None:
        self.name, self._paths, self._keys = shortened(path.name, MAX_VALUE), (path, ids), keys
        self.source: Source = open_features(path, modality)
        listed = self.source.keys if ids is None else self._own_ids(read_ids(ids))
        self.ids = None if listed is None else [_FORMS[keys](key) for key in listed]
        if self.ids is not None and len(self.ids) != len(self.source):
            raise TeacherError(f"{self.name!r} has {len(self.ids):,} ids for {len(self.source):,} features")
        self.index = {key: position for position, key in enumerate(self.ids or ())}
        if self.ids is not None and len(self.index) < len(self.ids):
            twice = [key for position, key in enumerate(self.ids) if self.index[key] != position]
            raise TeacherError(f"{self.name!r} has several features for one id", found=some(twice))
        if not len(self.source):
            raise TeacherError(f"{self.name!r} has no features")

    def facts(self) -> dict[str, Any]:
        """Hashes of the files, read when called: a worker that only looks up need not read 16 GB first."""
        path, ids = self._paths
        return {
            "file": digest_file(path),
            "ids": digest_file(ids) if ids else None,
            "keys": self._keys,
            "rows": len(self.source),
            "by": "row" if self.ids is None else "id",
        }

    def _own_ids(self, listed: list[str]) -> list[str]:
        if self.source.keys is not None or len(listed) != len(self.source):
            raise TeacherError(
                f"the list of ids does not belong to {self.name!r}",
                found=f"{len(listed)} ids for {len(self.source)} features"
                + (" that have ids already" if self.source.keys is not None else ""),
                expected="one id per row of an array that has none",
            )
        return listed

    def positions(self, ids: Sequence[str], rows: Sequence[int]) -> list[int]:
        """Position of the features of every id, -1 where there are none.

        Raises:
            TeacherError: most of the ids have none, or an array by row that ends before a corpus row.
        """
        if self.ids is not None:
            found = [self.index.get(name, -1) for name in ids]
            self._refuse_strangers(ids, found)
            return found
        if rows and max(rows) >= len(self.source):
            raise TeacherError(
                f"{self.name!r} has fewer rows than the corpus",
                found=f"{len(self.source)} rows; corpus row {max(rows)} is needed",
                expected="one row per corpus row, in the order of the corpus",
                todo="give the ids of the rows with ids='FILE'",
            )
        return list(rows)

    def _refuse_strangers(self, ids: Sequence[str], found: Sequence[int]) -> None:
        absent = [name for name, position in zip(ids, found, strict=True) if position < 0]
        if len(ids) >= _MIN_JUDGED and 2 * len(absent) > len(ids):
            near, examples = loosely_equal(absent, self.ids or ()), some(self.ids or (), 3)
            alike = f"; {shown(near[1])} there is not {shown(near[0])} here" if near else ""
            raise TeacherError(
                f"the ids of {self.name!r} are not those of this dataset",
                found=f"{len(absent)} of {len(ids)} ids without features; the file has {examples}{alike}",
                expected=f"ids such as {some(absent, 3)}",
                todo="check dataset and splits; keys='name' or keys='stem' where the file's keys are paths",
            )


class Precomputed:
    """Features by id or by row, of one modality or of two that share a space."""

    def __init__(self, tables: Mapping[Modality, Table], *, flatten: bool) -> None:
        self._tables, self._flatten = tables, flatten
        self.modalities: frozenset[Modality] = frozenset(tables)
        sizes = {side: self._first(table).size for side, table in tables.items()}
        if len(set(sizes.values())) > 1:
            raise TeacherError(
                "image and text features have different lengths",
                found=", ".join(f"{size} for {side}s" for side, size in sizes.items()),
                expected="one space; otherwise use two teachers",
            )
        self.dim = next(iter(sizes.values()))

    def lookup(self, modality: Modality, ids: Sequence[str], rows: Sequence[int]) -> tuple[Float32, Sequence[int]]:
        """Unit rows [len(ids), dim] float32, and the positions in `ids` that have no features (zero rows).

        Raises:
            TeacherError: features of another length, zero or not finite; or most ids (of 8 or more) unknown.
        """
        table = self._tables[modality]
        positions = table.positions(ids, rows)
        present = [slot for slot, position in enumerate(positions) if position >= 0]
        found = np.zeros((len(ids), self.dim), dtype=np.float32)
        wrong = []
        with reading(table.name), np.errstate(over="ignore"):  # a number beyond float32 becomes infinite: found below
            for slot, array in zip(present, table.source.arrays([positions[slot] for slot in present]), strict=True):
                vector = self._vector(array, table, ids[slot])
                if vector.size == self.dim:
                    found[slot] = vector
                else:
                    wrong.append(f"{ids[slot]} ({vector.size})")
        if wrong:
            raise TeacherError(
                f"{table.name!r} has features of different lengths",
                found=some(wrong),
                expected=f"{self.dim} numbers, as the first one has",
            )
        checked = found if len(present) == len(ids) else found[present]
        check_rows(checked, dim=self.dim, ids=[ids[slot] for slot in present], what=repr(table.name))
        missing = [slot for slot, position in enumerate(positions) if position < 0]
        return unit_rows(found), missing

    def identity(self) -> Mapping[str, Any]:
        return {
            **{side: table.facts() for side, table in sorted(self._tables.items())},
            "flatten": self._flatten,
            "dim": self.dim,
        }

    def _first(self, table: Table) -> NDArray[Any]:
        with reading(table.name):
            (array,) = table.source.arrays([0])
        return self._vector(array, table, table.ids[0] if table.ids else "row 0")

    def _vector(self, array: NDArray[Any], table: Table, name: str) -> NDArray[Any]:
        """[D] of [D], [1, D] or, with `flatten`, of any shape."""
        size = int(array.size)
        one_row = array.ndim >= 1 and array.shape[-1] == size
        fitting = 2 <= size <= MAX_WIDTH and (one_row or self._flatten)
        if array.dtype.kind not in "fiu" or not fitting:
            raise TeacherError(
                f"{table.name!r} has a value that is not one vector per id",
                found=f"shape {list(array.shape)}, dtype {array.dtype}, for {shown(name)}",
                expected="numbers of shape [D] or [1, D]",
                todo="flatten=True makes one row of a grid" if size > 1 and array.ndim > 1 else "",
            )
        return array.reshape(-1)
