"""Options that set fields of a recipe, and errors about these fields that name the options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelgen.errors import ConfigError, DatasetError, LabelgenError

#: Option -> the field of a recipe that it sets. An option that is not given leaves the recipe as it is.
FIELDS: Mapping[str, str] = {
    "root": "dataset.root",
    "splits": "dataset.splits",
    "limit": "dataset.limit",
    "patch": "dataset.patch",
    "damaged": "dataset.damaged",
    "file": "dataset.options.file",
    "id_column": "dataset.options.image_id",
    "image_column": "dataset.options.image_file",
    "caption_column": "dataset.options.caption",
    "split_column": "dataset.options.split",
    "photos": "dataset.options.photos",
    "relation": "search.relations",
    "k": "search.k",
    "aggregation": "search.aggregation",
    "cross_k": "search.cross_k",
    "engine": "search.engine",
    "approximate": "search.approximate",
    "kinds": "search.kinds",
    "executor": "run.executor",
    "workers": "run.workers",
    "threads": "run.threads",
    "memory": "run.memory",
    "device": "run.device",
    "scheduler": "run.scheduler",
    "strict": "run.strict",
}
_OPTIONS = "dataset.options."
#: Option of an adapter -> the option of the command line that sets it.
OF_ADAPTERS = {field.removeprefix(_OPTIONS): name for name, field in FIELDS.items() if field.startswith(_OPTIONS)}
#: `caption=...` or `lines='each'` in the advice of an adapter.
_ARGUMENT = re.compile(r"(?<![\w.-])([a-z_]+)=(\.\.\.|'[^']*')")


def flag(name: str) -> str:
    """`cross_k` -> `--cross-k`."""
    return f"--{name.replace('_', '-')}"


def given(options: Mapping[str, Any]) -> dict[str, str]:
    """Field -> option, for the fields that options set; one that `--set` sets keeps its name."""
    assigned = {text.partition("=")[0].strip() for text in options.get("assignments", ())}
    set_here = {field: flag(name) for name, field in FIELDS.items() if options.get(name) not in (None, ())}
    for name, option in (("teachers", "--teacher"), ("added", "--add-teacher"), ("refined", "--refine")):
        aliases = [text.partition("=")[0].strip() for text in options.get(name, ())]
        set_here |= {f"teachers.{alias}": f"{option} {alias}" for alias in aliases}
    return {field: option for field, option in set_here.items() if field not in assigned}


def name_flags(error: LabelgenError, options: Mapping[str, Any]) -> None:
    """Change the message of an error in place: fields that came from options, and arguments of the adapter in its
    advice, become options; fields of a recipe file stay."""
    for field, option in given(options).items():
        pattern = re.compile(rf"(?<![\w.]){re.escape(field)}(?![\w.])")
        for part in ("what", "found", "expected", "todo"):
            setattr(error, part, pattern.sub(option, getattr(error, part)))
    if isinstance(error, DatasetError):
        error.expected, error.todo = in_flags(error.expected), in_flags(error.todo)


def in_flags(advice: str) -> str:
    """Advice of an adapter with `caption=...` as `--caption-column ...`."""
    return _ARGUMENT.sub(_as_option, advice)


def _as_option(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name in OF_ADAPTERS:
        return f"{flag(OF_ADAPTERS[name])} {value}"
    return f"--set dataset.options.{name}={value}"


def placed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `--file` and `--photos` relative to the root of the data set.

    With `--root` they are so already. Without it `--file` is relative to the current folder: the folder of the file is
    the root, and `--photos` beside it is relative to the current folder, too.
    """
    if not options.get("file") or options.get("root") is not None:
        return dict(options)
    file = Path(options["file"]).expanduser().absolute()  # readers of the store look for photographs there
    changed = {**options, "root": str(file.parent), "file": file.name}
    if options.get("photos"):
        changed["photos"] = os.path.relpath(Path(options["photos"]).expanduser(), file.parent)
    return changed


def dataset_of(options: Mapping[str, Any]) -> str:
    """The data set that the options name: that of `--dataset`, else a table where `--file` is given; "" for none."""
    return options["dataset"] or ("table" if options.get("file") is not None and not options.get("recipe") else "")


def refuse_other_adapters(options: Mapping[str, Any], dataset: str) -> None:
    """Refuse options that the adapter of the data set does not have.

    Raises:
        ConfigError: naming the option, and the data sets that have it.
        UnknownNameError: there is no such data set.
    """
    wanted = {argument: name for argument, name in OF_ADAPTERS.items() if options.get(name) is not None}
    for name in wanted.values():
        if not options[name]:
            raise ConfigError(f"{flag(name)} is empty", todo="leave it out, or give a value")
    wanted |= {"damaged": "damaged"} if options.get("damaged") == "quarantine" else {}
    if not wanted:
        return
    from labelgen.cli.commands.extensions import arguments, loaded

    takes = arguments(loaded("dataset", dataset)[dataset], without=["root"])
    for argument, name in wanted.items():
        if argument not in takes:
            adapters = {known: made for known, made in loaded("dataset", None).items() if callable(made)}
            others = [known for known, made in adapters.items() if argument in arguments(made, without=["root"])]
            raise ConfigError(
                f"{flag(name)} is no option of data set {dataset!r}",
                found=f"{flag(name)} {options[name]}",
                expected=f"a data set that has it: {', '.join(others)}",
                todo=f"leave it out, or name another --dataset; `labelgen datasets {dataset}` shows what it reads",
            )
