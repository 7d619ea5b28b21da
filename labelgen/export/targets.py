"""`export`: a store written as the files that other code reads.

Every target is one function. A file is either complete or absent, arrays are written in pieces, and `export.json`,
written last, names the store, describes each file, and lists items that the target cannot represent. docs/export.md
describes every file with the source lines that read it.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import labelgen
from labelgen.errors import ConfigError, some
from labelgen.export.base import Options, Written, splits_of
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.reader import Store, as_store
from labelgen.types import is_path_word

#: Target -> the function that writes it.
TARGETS = {
    "listwise-itr": "labelgen.export.five_captions:write_listwise_itr",
    "itm-cls": "labelgen.export.five_captions:write_itm_cls",
    "cusa": "labelgen.export.cusa:write",
    "csr": "labelgen.export.npz:write_csr",
    "parquet": "labelgen.export.parquet:write",
    "npz": "labelgen.export.npz:write",
    "hf": "labelgen.export.hf:write",
    "fine-grained": "labelgen.export.parquet:write_fine_grained",
    "sentence-transformers": "labelgen.export.sentence_pairs:write",
}
REPORT = "export.json"
#: Targets whose files are called after splits.
_BY_SPLIT = ("listwise-itr", "itm-cls", "cusa", "hf", "sentence-transformers")


def export(store: Store | str | Path, target: str, out: str | Path, options: Options | None = None) -> Written:
    """Write a store as the files of a target.

    Args:
        store: opened, or its path.
        target: a key of `TARGETS`.
        out: a folder that is not there, is empty, or holds an earlier export, whose files are replaced.

    Raises:
        ConfigError: an unknown target or split, a folder with other files in it, a store that lacks what is exported.
        DiskError: the disk is full or read-only.
    """
    if target not in TARGETS:
        from labelgen.registry import unknown

        raise unknown("export target", target, TARGETS)
    store, chosen, folder = as_store(store), options or Options(), Path(out)
    _check(store, chosen, folder)
    if target in _BY_SPLIT:
        _check_split_names(store, chosen)
    written = Written(target, folder)
    module, _, name = TARGETS[target].partition(":")
    getattr(import_module(module), name)(store, chosen, written)
    made = {"store": store.manifest.content_digest, "store_id": store.manifest.store_id}
    report = {"labelgen": labelgen.__version__, **made, "options": chosen.to_json(), **written.to_json()}
    text = json.dumps(report, indent=1, ensure_ascii=False)
    write_atomic(written.path(REPORT), text.encode(errors="backslashreplace"))
    return written


def _check_split_names(store: Store, options: Options) -> None:
    """Splits whose names become names of files must be words: nothing in a store chooses a path."""
    wrong = [name for name in splits_of(store, options) if not is_path_word(name)]
    if wrong:
        raise ConfigError(
            f"{len(wrong)} split names cannot be names of files",
            found=some(wrong),
            expected="letters, digits, '.', '_' and '-', not beginning with a dot",
            todo="leave these splits out with --splits, or build the store with other split names",
        )


def _check(store: Store, options: Options, out: Path) -> None:
    if store.chosen:
        raise ConfigError(
            f"a reader of captions of kinds {', '.join(store.chosen)} is not exported",
            expected="the whole store",
            todo="open it without kinds; its column kind says which captions are which",
        )
    for name in options.splits:
        if name not in store.splits:
            raise ConfigError(f"this store has no split {name!r}", expected=", ".join(store.splits))
    if options.short not in ("repeat", "drop"):
        raise ConfigError(f"short={options.short!r} is unknown", expected="repeat or drop")
    if out.resolve().is_relative_to(store.path.resolve()):
        raise ConfigError(f"{out} is inside the store", todo="choose a folder outside the store")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / REPORT).is_file())):
        raise ConfigError(
            f"{out} is not an empty folder, and no earlier export",
            todo="choose another folder; your files are not overwritten",
        )
