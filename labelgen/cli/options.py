"""Options that several commands share, and the recipe that they describe."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from labelgen.cli import completions
from labelgen.cli.completions import registered
from labelgen.cli.flags import FIELDS, dataset_of, name_flags, placed, refuse_other_adapters
from labelgen.cli.progress import MODES
from labelgen.errors import ConfigError, LabelgenError

if TYPE_CHECKING:
    from labelgen.config import BuildConfig

Command = TypeVar("Command", bound=Callable[..., Any])


def common(command: Command) -> Command:
    """`--json` and `--debug`, which every command takes."""
    command = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def objects_option(purpose: str) -> Callable[[Command], Command]:
    """`--teacher ALIAS=MODULE:FACTORY` of commands that read a store; see `with_objects`."""
    return click.option(
        "--teacher",
        "teachers",
        metavar="ALIAS=MODULE:FACTORY",
        multiple=True,
        help=f"The Python object that a teacher of a store was made of, {purpose}. Repeatable.",
    )


def progress_option(command: Command) -> Command:
    """`--progress`, which every command that may take long takes."""
    return click.option(
        "--progress",
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        help="On stderr: bars, plain lines, JSON lines, or nothing. auto: bars on a terminal, else plain lines.",
    )(command)


def refuse_beside(ctx: click.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that were typed and would be ignored.

    Args:
        names: of parameters.
        why: completes the sentence "--x has no effect ...".

    Raises:
        ConfigError: naming the first of them.
    """
    for name in names:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            options = next(item.opts for item in ctx.command.params if item.name == name)
            raise ConfigError(f"{options[0]} has no effect {why}", todo="leave it out")


class RecipeCommand(click.Command):
    """A command with the options of a recipe: its help groups them by topic, its errors name those that were given."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LabelgenError as error:
            name_flags(error, ctx.params)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in (*_SECTIONS, "Output")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            title = next((title for title, names in _SECTIONS.items() if parameter.name in names), "Output")
            if record is not None:
                sections[title].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "What": (
        *("dataset", "recipe", "root", "file", "id_column", "image_column", "caption_column", "split_column", "photos"),
        *("splits", "limit", "patch", "damaged", "assignments"),
    ),
    "Teachers": ("teachers", "dropped", "refined"),
    "Search": ("relation", "k", "aggregation", "cross_k", "engine", "approximate", "kinds"),
    "Run": (
        *("rank", "world", "expire", "executor", "workers", "threads", "memory", "device", "scheduler"),
        *("strict", "calibrate"),
    ),
    "Store": (
        "out",
        "fresh",
        "discard",
        "update",
        "append",
        "added",
        "added_relations",
        "drop",
        "allow_other_machine",
        "plan",
    ),
}


def recipe_options(command: Command) -> Command:
    """Add the options that describe a build; see `config_of`."""
    for option in reversed(_RECIPE_OPTIONS):
        command = option(command)
    return command


_RECIPE_OPTIONS = (
    click.option(
        "--dataset",
        metavar="NAME",
        shell_complete=registered("dataset"),
        help="See `labelgen datasets`.",
    ),
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        shell_complete=registered("recipe"),
        help="A shipped recipe or a TOML file; by default the recipe named like the data set. Options override it.",
    ),
    click.option("--root", metavar="FOLDER", type=click.Path(), help="Folder of the data set."),
    click.option(
        "--file",
        metavar="FILE",
        type=click.Path(),
        help="A table of captions: CSV, JSONL or parquet; relative to --root, if given. Implies --dataset table.",
    ),
    click.option("--id-column", metavar="NAME", help="Its column of image ids (image_id, else the image column)."),
    click.option("--image-column", metavar="NAME", help="Its column of file names or pictures (file_name)."),
    click.option("--caption-column", metavar="NAME", help="Its column of captions (caption)."),
    click.option("--split-column", metavar="NAME", help="Its column of splits (split)."),
    click.option(
        "--photos",
        metavar="FOLDER",
        type=click.Path(),
        help="Folder of the photographs, relative to the data set; beside --file without --root, to this folder.",
    ),
    click.option("--splits", metavar="A,B", help="Only these splits."),
    click.option("--limit", metavar="N", type=int, help="The first N images of each split; 0 for all."),
    click.option("--patch", metavar="FILE", type=click.Path(), help="Leave out items removed by a reviewed patch."),
    click.option(
        "--damaged",
        type=click.Choice(["refuse", "quarantine"]),
        help="Damaged files of the data set: refuse them, or use the undamaged part (refuse).",
    ),
    click.option(
        "--teacher",
        "teachers",
        metavar="ALIAS=SPEC",
        multiple=True,
        shell_complete=completions.teachers,
        help="Set a teacher, text='minilm()' or text=my_module:make. Repeatable; replaces that teacher of the recipe.",
    ),
    click.option("--no-teacher", "dropped", metavar="ALIAS", multiple=True, help="Leave out a teacher of the recipe."),
    click.option(
        "--refine",
        "refined",
        metavar="[ALIAS=]SPEC",
        multiple=True,
        help="Train a teacher on the rows of another one, for example \"siamese(of='text')\". Repeatable.",
    ),
    click.option(
        "--relation",
        metavar="t2t|i2i|i2t|t2i",
        multiple=True,
        shell_complete=completions.relations,
        help="Relation to search; t2t.text for one teacher. Repeatable.",
    ),
    click.option("--k", metavar="N", type=int, help="Length of the neighbour lists (64)."),
    click.option("--aggregation", type=click.Choice(["max", "mean"]), help="Over the captions of an image (max)."),
    click.option("--cross-k", metavar="N", type=int, help="Length of additional lists over the other splits (none)."),
    click.option("--engine", metavar="NAME", shell_complete=registered("engine"), help="The search engine (tiled)."),
    click.option(
        "--approximate",
        metavar="[SPEC]",
        is_flag=False,
        flag_value="faiss()",
        help="Search an index that may miss neighbours, with measured recall: faiss(recall=0.99) (no).",
    ),
    click.option("--kinds", metavar="A,B", help="Lists over captions of these kinds only, such as human (all)."),
    click.option("--executor", type=click.Choice(["local", "dask"]), help="Where tasks run (local)."),
    click.option("--workers", metavar="N", type=int, help="Worker processes; 1 uses this process (1)."),
    click.option("--threads", metavar="N", type=int, help="Threads per worker (cores divided by workers)."),
    click.option("--memory", metavar="SIZE", help="Memory of all workers together, for example 2GB (4GB)."),
    click.option("--device", metavar="NAME", help="Torch device, or several separated by commas (cpu)."),
    click.option("--scheduler", metavar="ADDRESS", help="Address of a dask scheduler; by default a local cluster."),
    click.option("--strict", is_flag=True, default=None, help="Exit with code 1 if an item was quarantined."),
    click.option(
        "--set", "assignments", metavar="TABLE.FIELD=VALUE", multiple=True, help="Set any field of the recipe."
    ),
)


def overrides(options: Mapping[str, Any]) -> list[str]:
    """Options of the command line as `table.field=value` texts; `--set` comes last and overrides."""
    texts = []
    options = placed(options)
    for name, field in FIELDS.items():
        value = options.get(name)
        if value is None or value == ():
            continue
        if name in ("splits", "kinds"):
            value = names(value)
        texts.append(f"{field}={_toml(value)}")
    texts += [f"teachers.{alias}={spec}" for alias, spec in _specs(options).items()]
    texts += [f"teachers.{alias}={spec}" for alias, spec in refined_pairs(options.get("refined", ())).items()]
    return texts + list(options.get("assignments", ()))


def names(text: str) -> list[str]:
    """`"a, b"` -> `["a", "b"]`."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _toml(value: Any) -> str:
    """Format a value as TOML, so that a folder named 2017 remains text. JSON is valid TOML except for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _specs(options: Mapping[str, Any]) -> dict[str, str]:
    """Specs of `--teacher` by alias; that of a `module:factory` is the spec of what the factory makes."""
    made = {alias: str(teacher.spec) for alias, teacher in options.get("objects", {}).items()}
    return {alias: made.get(alias, spec) for alias, spec in teacher_pairs(options.get("teachers", ())).items()}


def with_objects(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `objects`: alias -> the teacher that a `module:factory` of `--teacher` makes.

    Modules are looked for in the current folder first. Only what is typed here names code, never a file.

    Raises:
        ConfigError, TeacherError: no such module or function, or it does not make a teacher.
    """
    from labelgen.pipeline.inputs import is_reference, teacher_of_reference

    references = {a: spec for a, spec in teacher_pairs(options.get("teachers", ())).items() if is_reference(spec)}
    if references:
        look_here_for_modules()
    return {**options, "objects": {a: teacher_of_reference(spec, a) for a, spec in references.items()}}


def look_here_for_modules() -> None:
    """Import modules of the current folder, as `python` does and a console script does not."""
    if "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def teacher_pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """`("text=minilm()",)` -> `{"text": "minilm()"}`.

    Raises:
        ConfigError: no `alias=` before the spec, or an alias twice.
    """
    from labelgen.config import spec_text

    pairs: dict[str, str] = {}
    for text in texts:
        alias, equals, spec = (part.strip() for part in text.partition("="))
        spec = spec_text(spec)
        if not (equals and alias.isascii() and alias.replace("_", "").replace("-", "").isalnum() and spec):
            raise ConfigError("this is not a teacher", found=repr(text), expected="alias=spec, like text='minilm()'")
        if alias in pairs:
            raise ConfigError(f"teacher {alias!r} is given twice", found=f"{pairs[alias]} and {spec}")
        pairs[alias] = spec
    return pairs


def refined_pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """`("siamese(of='text')",)` -> `{"siamese": "siamese(of='text')"}`; an alias may be given as with `--teacher`.

    Raises:
        ConfigError: not a spec, an alias twice, or a teacher that is not trained.
    """
    from labelgen.config import spec_in, spec_text
    from labelgen.registry import load

    named = []
    for text in texts:
        spec = text.strip() if re.match(r"[\w-]+\s*=", text.strip()) is None else text.partition("=")[2].strip()
        parsed = spec_in("--refine", spec_text(spec))
        if not getattr(getattr(load("teacher", parsed.name), "info", None), "trained", False):
            raise ConfigError(
                f"{parsed.name!r} is not trained in a build", todo="add it with --teacher or --add-teacher"
            )
        named.append(f"{parsed.name}={spec}" if spec == text.strip() else text)
    return teacher_pairs(tuple(named))


def config_of(options: Mapping[str, Any]) -> BuildConfig:
    """Return the build that the options describe.

    Raises:
        ConfigError: unknown names or fields, wrong values, or no teacher left.
    """
    from labelgen.pipeline import resolve
    from labelgen.registry import unknown

    config = resolve(recipe=options["recipe"] or "", dataset=dataset_of(options), overrides=overrides(options))
    refuse_other_adapters(options, config.dataset.name)
    if options["scheduler"] and config.run.executor != "dask":
        raise ConfigError("--scheduler is the address of a dask scheduler", todo="add --executor dask, or leave it out")
    for alias in options["dropped"]:
        if alias not in config.teachers:
            raise unknown("teacher alias", alias, config.teachers)
    left = {alias: spec for alias, spec in config.teachers.items() if alias not in options["dropped"]}
    if not left:
        raise ConfigError("no teacher is left", found=f"--no-teacher {' '.join(options['dropped'])}")
    return dataclasses.replace(config, teachers=left)
