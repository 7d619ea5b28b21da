"""Patches: decisions about the pairs of a store, in a file that any tool can edit.

======================  ==========================  ==================================================================
decision                names                       means
======================  ==========================  ==================================================================
`add_positive`          image_id, caption_id        an unannotated pair that is right
`mask_pair`             image_id, caption_id        a pair that is ignored; an annotated pair: mismatched
`drop_caption`          caption_id                  the caption is not used
`drop_image`            image_id                    the image and its captions are not used
`merge_duplicates`      image_id or caption_id,     the item is the same as the one of the same kind that `into` names
                        into
======================  ==========================  ==================================================================

`reject_` before the name of a decision (`reject_add_positive`) says that it was proposed and rejected. Rejections are
kept so that no one reviews a pair twice. They change nothing else: no mask, no build, no digest.

A decision may have a `reason`, a `score` and an `author`. A patch belongs to one store: every row names its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from labelgen import foreign
from labelgen.errors import ConfigError, DatasetError, StoreMismatchError, UnknownIdError, some
from labelgen.fingerprint import fingerprint
from labelgen.patches.rules import Row, is_rejection, problems
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.reader import Store
from labelgen.store.schema.validation import schema_problems

if TYPE_CHECKING:
    import polars as pl

#: Columns that identify a decision.
KEY = ("decision", "image_id", "caption_id", "into")
#: What ids of a patch name.
Kind: TypeAlias = Literal["image", "caption"]
KINDS: tuple[Kind, ...] = ("image", "caption")
COLUMNS = (*KEY, "reason", "score", "author", "store_id")
#: Format of the JSON form without rejections and with them: a reader of format 1 alone refuses the second.
_FORMAT, _FORMAT_REJECTIONS = 1, 2


@dataclass(frozen=True)
class Patch:
    """Decisions about one store.

    Attributes:
        store_id: of the manifest of the store.
        frame: one row a decision, columns `COLUMNS`; text, `score` float64; null where a decision has no value.

    Raises:
        DatasetError: columns, decisions or ids that do not fit, or decisions that contradict each other.
    """

    store_id: str
    frame: pl.DataFrame

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _arranged(self.frame, self.store_id))
        found = problems(self.frame.select(KEY).rows())
        if found:
            raise DatasetError(
                f"the patch is not consistent: {len(found)} problem{'s' if len(found) > 1 else ''}",
                found=some(found, 3),
                todo="correct or remove these decisions",
            )

    @classmethod
    def of(cls, store: Store | str, decisions: Iterable[Mapping[str, Any]] = ()) -> Patch:
        """Make a patch from dictionaries, for a store or the id of one.

        Raises:
            DatasetError: as for `Patch`.
        """
        import polars as pl

        listed = list(decisions)
        unknown = {name for decision in listed for name in decision} - set(COLUMNS)
        if unknown:
            raise DatasetError(f"a decision has no {some(sorted(unknown))}", expected=", ".join(COLUMNS))
        columns = {name: [decision.get(name) for decision in listed] for name in COLUMNS[:-1]}
        store_id = store if isinstance(store, str) else store.manifest.store_id
        return cls(
            store_id, pl.DataFrame([pl.Series(name, values, dtype=pl.Object) for name, values in columns.items()])
        )

    def __len__(self) -> int:
        return self.frame.height

    @property
    def accepted(self) -> Patch:
        """The patch without its rejections."""
        kept = [not is_rejection(decision) for decision in self.frame["decision"]]
        return self if all(kept) else Patch(self.store_id, self.frame.filter(kept))

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Decisions as plain data, without the store's id and nulls."""
        rows = self.frame.drop("store_id").to_dicts()
        return [{name: value for name, value in row.items() if value is not None} for row in rows]

    @property
    def digest(self) -> str:
        """Digest of the decisions alone, without rejections, author, reason, order and store."""
        rows = sorted([value or "" for value in row] for row in self.accepted.frame.select(KEY).rows())
        return fingerprint(rows)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, valid against `schemas/patch.v1.json`; with rejections, `schemas/patch.v2.json`."""
        rejections = any(map(is_rejection, self.frame["decision"]))
        number = _FORMAT_REJECTIONS if rejections else _FORMAT
        return {"format": number, "store_id": self.store_id, "decisions": self.decisions}


def read(path: str | Path) -> Patch:
    """Read a patch: parquet, JSON (as the report saves it), or comma-separated text with a header.

    Raises:
        DatasetError: no such file, another format, several stores, or what `Patch` refuses.
    """
    file = Path(path).expanduser()
    try:
        data = foreign.read_bytes(file, foreign.MAX_DECISIONS)
    except OSError as error:
        raise DatasetError(f"cannot read the patch {file}", found=error.strerror or str(error)) from error
    if data.lstrip()[:1] == b"{":
        return _from_json(file.name, data)
    frame = _table(file.name, data)
    if "store_id" not in frame.columns or frame.height == 0:
        raise DatasetError(f"{file.name} is not a patch", found=", ".join(frame.columns), expected=", ".join(COLUMNS))
    ids = frame["store_id"].unique().to_list()
    if len(ids) != 1 or not ids[0]:
        raise DatasetError(f"{file.name} names several stores", found=some(ids), todo="split it by store_id")
    return Patch(str(ids[0]), frame)


def write(patch: Patch, path: str | Path) -> Path:
    """Write a patch: JSON or comma-separated text by the ending of the name, else parquet. Replaces the file at once.

    Raises:
        DiskError: the disk is full or read-only.
        ConfigError: a table of no decisions, which could not name its store: write JSON.
    """
    file = Path(path).expanduser()
    if file.suffix != ".json" and not len(patch):
        raise ConfigError("a table without decisions names no store", todo="write an empty patch as .json")
    if file.suffix == ".json":
        data = (json.dumps(patch.to_json(), indent=1, ensure_ascii=False) + "\n").encode()
    else:
        buffer = BytesIO()
        patch.frame.write_csv(buffer) if file.suffix == ".csv" else patch.frame.write_parquet(buffer)
        data = buffer.getvalue()
    write_atomic(file, data)
    return file


def validate(patch: Patch, store: Store) -> None:
    """Refuse a patch that does not fit a store.

    Raises:
        StoreMismatchError: it belongs to another store.
        UnknownIdError: ids that are not in the store.
        DatasetError: `add_positive` of a pair that the data set has already.
    """
    if patch.store_id != store.manifest.store_id:
        raise StoreMismatchError(
            "the patch belongs to another store",
            found=f"store_id {patch.store_id}",
            expected=f"{store.manifest.store_id} of {store.storage.name}",
            todo="open the store that was reviewed; ids of another store may mean other items",
        )
    for kind in KINDS:
        absent = unknown_ids(patch, store, kind)
        if absent:
            raise UnknownIdError(
                f"the patch names {len(absent)} {kind}s that are not in the store",
                found=some(absent),
                expected=f"ids of {store.storage.name}",
                todo="correct or remove these decisions",
            )
    added = [row for row in patch.frame.select(KEY).rows() if row[0] == "add_positive"]
    owners = store.image_of(store.caption_rows([row[2] for row in added]))
    rows = store.image_rows([row[1] for row in added])
    annotated = [f"{row[1]} / {row[2]}" for row, same in zip(added, owners == rows, strict=True) if same]
    if annotated:
        raise DatasetError(f"{len(annotated)} added pairs belong to the data set already", found=some(annotated))


def unknown_ids(patch: Patch, store: Store, kind: Kind) -> list[str]:
    """Return ids of a kind that a patch names and a store does not hold."""
    ids = named(patch, kind)
    rows = (store.image_rows if kind == "image" else store.caption_rows)(ids, missing_ok=True)
    return [item for item, row in zip(ids, rows.tolist(), strict=True) if row < 0]


def named(patch: Patch, kind: Kind) -> list[str]:
    """Return all ids of a kind that a patch names, each once, `into` included."""
    return list(dict.fromkeys(item for row in patch.decisions for item in ids_of(row, kind)))


def ids_of(decision: Mapping[str, Any], kind: Kind) -> list[str]:
    """Return the ids of a kind that a decision names, `into` included."""
    item, into = decision.get(f"{kind}_id"), decision.get("into")
    return [] if item is None else [item] if into is None else [item, into]


def compose(first: Patch, second: Patch, *, keep: Literal["both", "second"] = "both") -> Patch:
    """Return all decisions of two patches; a decision of both is taken once, from the second.

    Args:
        keep: `both` refuses decisions that contradict each other; with `second` those of the first that contradict
            the second are left out.

    Raises:
        StoreMismatchError: patches of different stores.
        DatasetError: they contradict each other.
    """
    import polars as pl

    _same_store(first, second)
    rest = first.frame.join(second.frame.select(KEY), on=KEY, how="anti", nulls_equal=True, maintain_order="left")
    if keep == "second":
        rows = dict(enumerate(rest.select(KEY).rows()))
        rest = rest[_consistent(second.frame.select(KEY).rows(), rows)]
    return Patch(first.store_id, pl.concat([rest, second.frame]))


def _consistent(base: list[Row], rows: dict[int, Row]) -> list[int]:
    """Return the numbers of the rows that fit the base and the rows chosen before them.

    More rows never resolve a contradiction, so a half that fits as a whole needs no look at its rows one by one.
    """
    if not problems([*base, *rows.values()]):
        return list(rows)
    if len(rows) <= 1:
        return []
    numbers = list(rows)
    left, right = numbers[: len(rows) // 2], numbers[len(rows) // 2 :]
    chosen = _consistent(base, {number: rows[number] for number in left})
    base = [*base, *(rows[number] for number in chosen)]
    return chosen + _consistent(base, {number: rows[number] for number in right})


def revert(patch: Patch, part: Patch) -> Patch:
    """Return the patch without the decisions of `part`: undoes `compose`.

    Raises:
        StoreMismatchError: patches of different stores.
        DatasetError: `part` holds a decision that the patch does not.
    """
    _same_store(patch, part)
    absent = part.frame.join(patch.frame.select(KEY), on=KEY, how="anti", nulls_equal=True)
    if absent.height:
        raise DatasetError(f"{absent.height} decisions are not in the patch", found=some(absent.select(KEY).rows(), 2))
    rest = patch.frame.join(part.frame.select(KEY), on=KEY, how="anti", nulls_equal=True, maintain_order="left")
    return Patch(patch.store_id, rest)


def _same_store(first: Patch, second: Patch) -> None:
    if first.store_id != second.store_id:
        raise StoreMismatchError(
            "the patches belong to different stores", found=f"{first.store_id} and {second.store_id}"
        )


def _arranged(frame: pl.DataFrame, store_id: str) -> pl.DataFrame:
    import polars as pl

    unknown = [name for name in frame.columns if name not in COLUMNS]
    if unknown or "decision" not in frame.columns:
        what = f"unknown columns {some(unknown)}" if unknown else "no column 'decision'"
        raise DatasetError("this is not a table of decisions", found=what, expected=", ".join(COLUMNS))
    types = {name: pl.Float64 if name == "score" else pl.String for name in COLUMNS}
    try:
        columns = [pl.Series(name, _values(frame, name), dtype=kind) for name, kind in types.items()]
    except (TypeError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DatasetError("a decision has a value of another type", found=str(error)[:200]) from error
    # spreadsheets write an empty text for null
    empty = [pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in COLUMNS if name != "score"]
    return pl.DataFrame(columns).with_columns(empty).with_columns(store_id=pl.lit(store_id, dtype=pl.String))


def _values(frame: pl.DataFrame, name: str) -> list[Any]:
    """Return a column, nulls where there is none; whole numbers are ids and become text."""
    if name not in frame.columns:
        return [None] * frame.height
    values = frame[name].to_list()
    if name == "score":
        return values
    return [str(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in values]


def _from_json(name: str, data: bytes) -> Patch:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{name} is not JSON", found=str(error)) from error
    newer = isinstance(document, dict) and document.get("format") == _FORMAT_REJECTIONS
    schema = f"patch.v{_FORMAT_REJECTIONS if newer else _FORMAT}"
    wrong = schema_problems(document, schema)
    if wrong:
        raise DatasetError(f"{name} is not a patch", found=some(wrong, 3), expected=f"schemas/{schema}.json")
    return Patch.of(document["store_id"], document["decisions"])


def _table(name: str, data: bytes) -> pl.DataFrame:
    import polars as pl

    try:
        if data[:4] == b"PAR1":
            return foreign.read_parquet(BytesIO(data))
        frame = pl.read_csv(BytesIO(data), infer_schema=False)
        numbers = [pl.col("score").replace("", None).cast(pl.Float64)] if "score" in frame.columns else []
        return frame.with_columns(numbers)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        raise DatasetError(f"{name} cannot be read as a table", found=str(error)[:200]) from error


__all__: Sequence[str] = ["COLUMNS", "KEY", "Patch", "compose", "named", "read", "revert", "validate", "write"]
