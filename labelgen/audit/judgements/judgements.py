"""Human judgements of pairs of items, read from files into one frame.

A reader reads one format. It is detected, or named: `read_judgements("cxc=ratings.csv")`. Readers are registered in the
entry-point group `labelgen.judgements`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from labelgen import foreign, registry
from labelgen.corpus.text.names import text_id
from labelgen.errors import DatasetError, some
from labelgen.types import Relation

if TYPE_CHECKING:
    import polars as pl

#: Meaning of the values of `left` or `right`: an id of an image or a caption, or a sentence itself.
Kind: TypeAlias = Literal["image", "caption", "text"]
#: `graded`: every judged pair has a rating. `positives`: all right answers of a query, everything else is wrong.
Form: TypeAlias = Literal["graded", "positives"]

COLUMNS = ("left", "right", "rating")
_HEAD = 1 << 14


@dataclass(frozen=True)
class Judgements:
    """Judgements of a file, one row a pair.

    Attributes:
        name: in a card, mostly the name of the file.
        source: origin, in a few words.
        relation: `i2t` (left an image, right a caption), `t2i`, `t2t` or `i2i`.
        kinds: meaning of the values of `left` and `right`.
        form: `graded` or `positives`.
        frame: columns left (text), right (text), rating (float64; higher is more alike; 1 for `positives`).
        positive_from: lowest rating that counts as right, for AUC and average precision; None without one.
        scale: meaning of the ratings.

    Raises:
        DatasetError: no pair at all, or a rating that is no number.
    """

    name: str
    source: str
    relation: Relation
    kinds: tuple[Kind, Kind]
    form: Form
    frame: pl.DataFrame
    positive_from: float | None
    scale: str

    def __post_init__(self) -> None:
        if not self.frame.height:
            raise DatasetError(f"{self.name} has no judged pair", expected=self.source)
        bad = self.frame.filter(self.frame["rating"].is_null() | ~self.frame["rating"].is_finite())
        if bad.height:
            raise DatasetError(
                f"{bad.height} ratings of {self.name} are no numbers",
                found=some(f"{left} / {right}" for left, right in bad.select("left", "right").rows()),
                expected=self.scale,
            )


@dataclass(frozen=True)
class Sample:
    """The path and the beginning of a file, for the detection of its format; or a table in memory.

    Attributes:
        path: the file; of a table in memory its name.
        head: the first bytes; none of a table in memory.
        table: the table in memory, with typed columns like those of a parquet file.
    """

    path: Path
    head: bytes
    table: pl.DataFrame | None = None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns of a table or a parquet file, or fields of the first line of a text file."""
        if self.table is not None:
            return tuple(self.table.columns)
        if self.head[:4] == b"PAR1":
            try:
                return tuple(foreign.parquet_schema(self.path))
            except ValueError as error:
                raise DatasetError(f"{self.path.name} is not a parquet file", found=str(error)) from error
        return tuple(field.strip().strip('"') for field in self.first_line.split(self.separator))

    @cached_property
    def lines(self) -> list[str]:
        """The first lines of a text file, without one that the sample cuts off."""
        found = self.head.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()
        return found[:-1] if len(self.head) == _HEAD and len(found) > 1 else found

    @property
    def first_line(self) -> str:
        return self.lines[0] if self.lines else ""

    @property
    def separator(self) -> str:
        return "\t" if "\t" in self.first_line else ","

    @property
    def is_parquet(self) -> bool:
        """Whether columns are typed: parquet, or a table in memory."""
        return self.table is not None or self.head[:4] == b"PAR1"


@runtime_checkable
class JudgementReader(Protocol):
    """Reads one format. Made without arguments by its factory in `labelgen.judgements`.

    Attributes:
        expects: the format, in a few words.
    """

    expects: str

    def sniff(self, sample: Sample) -> bool:
        """Return whether a file has this format."""
        ...

    def read(self, sample: Sample) -> Judgements:
        """Read the file.

        Raises:
            DatasetError: it has another format.
        """
        ...


def read_judgements(path: str | Path, reader: str | None = None) -> Judgements:
    """Read a file of judgements.

    Args:
        path: the file; `cxc=ratings.csv` names the reader too (a file of that very name is preferred).
        reader: name of the reader; detected by default.

    Raises:
        DatasetError: no such file, or a format that no reader, or more than one, accepts.
        UnknownNameError: no such reader.
    """
    reader, file = _named(path, reader)
    return read_sample(_sample(file), reader)


def read_sample(sample: Sample, reader: str | None = None) -> Judgements:
    """Read a file or a table in memory with the reader of its format; see `read_judgements`."""
    if reader is None:
        able = [name for name in registry.names("judgement") if registry.load("judgement", name)().sniff(sample)]
        if len(able) != 1:
            raise _unclear(sample, able)
        reader = able[0]
    made: JudgementReader = registry.load("judgement", reader)()
    return made.read(sample)


def graded(
    sample: Sample,
    source: str,
    kinds: tuple[Kind, Kind],
    columns: tuple[Sequence[str], Sequence[str], Iterable[float | None]],
    positive_from: float | None,
    scale: str,
) -> Judgements:
    """Return graded judgements named after the file; `columns` are left, right and rating."""
    relation = Relation("2".join("i" if kind == "image" else "t" for kind in kinds))
    return Judgements(sample.path.stem, source, relation, kinds, "graded", graded_frame(*columns), positive_from, scale)


def graded_frame(left: Sequence[str], right: Sequence[str], rating: Iterable[float | None]) -> pl.DataFrame:
    """Return the frame of `Judgements`. A pair that was judged several times gets the mean of its ratings."""
    import polars as pl

    frame = pl.DataFrame(
        {"left": list(left), "right": list(right), "rating": list(rating)},
        schema={"left": pl.String, "right": pl.String, "rating": pl.Float64},
        strict=False,
    )
    if frame.select("left", "right").is_duplicated().any():
        frame = frame.group_by("left", "right", maintain_order=True).agg(pl.col("rating").mean())
    return frame


def read_table(sample: Sample, *, header: bool = True) -> pl.DataFrame:
    """Read a parquet file, or a text file with separated fields, whose columns are text.

    Raises:
        DatasetError: it cannot be parsed.
    """
    import polars as pl

    if sample.table is not None:
        return sample.table
    try:
        if sample.is_parquet:
            return foreign.read_parquet(sample.path)
        return pl.read_csv(
            sample.path,
            separator=sample.separator,
            has_header=header,
            infer_schema=False,
            quote_char=None if sample.separator == "\t" else '"',
            truncate_ragged_lines=True,
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        raise DatasetError(f"{sample.path.name} cannot be read as a table", found=str(error)[:300]) from error


def ids(frame: pl.DataFrame, column: str, name: str) -> list[str]:
    """Return a column of ids, file names or sentences as text.

    Raises:
        DatasetError: no such column, a missing value, or one that is neither text nor a whole number.
    """
    if column not in frame.columns:
        raise DatasetError(f"{name} has no column {column!r}", found=", ".join(frame.columns))
    return [text_id(value, f"row {row} of {name}, column {column!r},") for row, value in enumerate(frame[column])]


def numbers(frame: pl.DataFrame, column: str, name: str) -> list[float | None]:
    """Return a column as numbers; other values become null, which `Judgements` refuses with its pair."""
    import polars as pl

    if column not in frame.columns:
        raise DatasetError(f"{name} has no column {column!r}", found=", ".join(frame.columns))
    return frame[column].cast(pl.Float64, strict=False).to_list()


def _named(path: str | Path, reader: str | None) -> tuple[str | None, Path]:
    if reader is None and isinstance(path, str) and "=" in path and not Path(path).exists():
        before, _, after = path.partition("=")
        return before.strip(), Path(after).expanduser()
    return reader, Path(path).expanduser()


def _sample(path: Path) -> Sample:
    try:
        with foreign.opened(path, foreign.MAX_DECISIONS) as file:
            return Sample(path, file.read(_HEAD))
    except OSError as error:
        raise DatasetError(
            f"cannot read the judgements {path}",
            found=error.strerror or str(error),
            todo="give a file; see docs/card.md",
        ) from error


def _unclear(sample: Sample, able: Sequence[str]) -> DatasetError:
    path = sample.path
    known = [f"{name} ({registry.load('judgement', name)().expects})" for name in registry.names("judgement")]
    return DatasetError(
        f"the format of {path.name} is unclear",
        found=f"readers that accept it: {', '.join(able)}" if able else "no reader accepts it",
        expected="; ".join(known),
        todo="rename its columns, see docs/card.md"
        if sample.table is not None
        else f"name a reader: {(able or registry.names('judgement'))[0]}={path}",
    )
