"""Rows of data that lives in Python: frames, Hugging Face data sets, columns, records."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.errors import DatasetError, requires, shown

Row = Mapping[str, Any]

#: Splits of Hugging Face by the names that labelgen uses.
_SPLITS = {"validation": "val", "valid": "val", "dev": "val"}
#: Files that `Dataset.save_to_disk` and `DatasetDict.save_to_disk` leave.
_SAVED = ("state.json", "dataset_dict.json")
_EXPECTED = "a polars, pandas or arrow table, a Hugging Face Dataset, a mapping of columns, or an iterable of mappings"


def rows_of(data: Any) -> Iterator[Row]:
    """The rows of a data set in memory as mappings of plain values; what is missing is None.

    Images of Hugging Face are not decoded: they come as mappings of `bytes` and `path`. Names of its splits become the
    values of `split`, `validation` as `val`.

    Raises:
        DatasetError: data of another kind.
    """
    if type(data).__module__.partition(".")[0] == "datasets":
        yield from _hugging_face(data)
        return
    if isinstance(data, Mapping):
        yield from _columns(data)
        return
    frame = _frame(data)
    if frame is not None:
        for row in frame.iter_rows(named=True):
            yield {str(name): _plain(value) for name, value in row.items()}
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Path):
        for number, row in enumerate(data):
            if not isinstance(row, Mapping):
                raise DatasetError(
                    f"record {number} is not a mapping", found=shown(row), expected='{"image": ..., "caption": ...}'
                )
            yield {str(name): _plain(value) for name, value in row.items()}
    else:
        raise DatasetError("this is not a data set", found=shown(data), expected=_EXPECTED)


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of Hugging Face datasets."""
    return any((folder / name).is_file() for name in _SAVED)


def load_saved(folder: Path) -> Any:
    """The data set in a folder written by `save_to_disk`.

    Raises:
        MissingExtraError: the library `datasets` is not installed.
        DatasetError: it cannot be read.
    """
    with requires("datasets", "", f"the Hugging Face data set in {folder}"):
        library = importlib.import_module("datasets")
    try:
        return library.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds
        raise DatasetError(f"cannot read the Hugging Face data set in {folder}", found=shown(str(error))) from error


def _columns(data: Mapping[str, Any]) -> Iterator[Row]:
    lengths = {str(name): len(values) for name, values in data.items() if hasattr(values, "__len__")}
    text = [str(name) for name, values in data.items() if isinstance(values, str | bytes) or str(name) not in lengths]
    if text or len(set(lengths.values())) > 1:
        found = f"{text[0]!r} is one value" if text else ", ".join(f"{name}: {n}" for name, n in lengths.items())
        raise DatasetError("a mapping of columns needs lists of one length", found=found)
    for values in zip(*data.values(), strict=True):
        yield {str(name): _plain(value) for name, value in zip(data, values, strict=True)}


def _frame(data: Any) -> Any:
    """A frame of polars, pandas, arrow and the like as one of narwhals, None for anything else."""
    import narwhals as nw

    found: Any = nw.from_native(data, pass_through=True)
    if isinstance(found, nw.LazyFrame):
        found = found.collect()
    return found if isinstance(found, nw.DataFrame) else None


def _hugging_face(data: Any) -> Iterator[Row]:
    library = importlib.import_module("datasets")
    if isinstance(data, Mapping):
        for name, part in data.items():
            split = _SPLITS.get(str(name), str(name))
            yield from ({"split": split, **row} for row in _hugging_face(part))
        return
    features = data.features or {}
    for name, feature in features.items():
        if isinstance(feature, library.Image):
            data = data.cast_column(name, library.Image(decode=False))
    labels = {name: feature for name, feature in features.items() if isinstance(feature, library.ClassLabel)}
    for row in data.with_format(None):
        named = {name: labels[name].int2str(row[name]) for name in labels if row[name] is not None}
        yield {name: _plain(value) for name, value in {**row, **named}.items()}


def _plain(value: Any) -> Any:
    """A value without the numbers of numpy and the missing values of pandas."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN is how pandas writes a missing text
        return None
    return None if type(value).__name__ in ("NAType", "NaTType") else value
