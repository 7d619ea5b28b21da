"""Build configs: recipe (TOML) -> frozen dataclasses.

Fields marked transient cannot change a single byte of the result; all others are part of the fingerprint, and a resume
with another value is refused.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from labelgen import foreign, resources
from labelgen.errors import ConfigError, SpecError, shown
from labelgen.fingerprint import ADDED, TRANSIENT, canonical, fingerprint
from labelgen.registry import unknown
from labelgen.specs import Spec
from labelgen.types import Aggregation, Relation

DEFAULT_K = 64
#: Rows are 32 bits wide; lists, processes and threads beyond these have no machine to run on.
MAX_K, MAX_LIMIT, MAX_WORKERS = 1 << 24, 2**32 - 1, 4_096
REFUSE = "refuse"
DEFAULT_TEACHERS = {"text": "minilm()", "image": "efficientnet_lite(size=2)"}


@dataclass(frozen=True)
class DatasetConfig:
    """The data set of a build.

    Attributes:
        name: an adapter, see `labelgen datasets`.
        root: its folder (transient: a data set may be moved).
        splits: splits to take, all when empty.
        limit: the first N images of each split, all when 0.
        options: keyword arguments of the adapter.
        patch: a file of decisions; items that it removes never become rows (transient: the file may be moved).
        patch_digest: of these decisions; filled in by a build.
        damaged: `refuse` damaged files of a data set, or `quarantine` them: read the others, and account for these. An
            option of the adapters that support it.
    """

    name: str
    root: str = field(default="", metadata=TRANSIENT)
    splits: tuple[str, ...] = ()
    limit: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    patch: str = field(default="", metadata=TRANSIENT)
    patch_digest: str = field(default="", metadata=ADDED)
    damaged: str = field(default=REFUSE, metadata=ADDED)

    @property
    def spec(self) -> Spec:
        return Spec.of(self.name, **{**self.options, **({"damaged": self.damaged} if self.damaged != REFUSE else {})})


@dataclass(frozen=True)
class SearchConfig:
    """The neighbour lists of a build.

    Attributes:
        relations: `t2t`, or `t2t.text` for one teacher only; all relations of the teachers when empty.
        k: length of the neighbour lists.
        aggregation: of the similarities of an image's captions in i2t and t2i.
        cross_k: length of second lists over the *other* splits (leakage checks), none when 0.
        engine: an exact engine (transient: all give equal bits).
        approximate: spec of an engine that may miss neighbours, such as `faiss(recall=0.95)`; exact when empty.
        kinds: the captions that lists of texts and of sets of captions are over; all when empty. `unspecified` are
            those without a kind.
    """

    relations: tuple[str, ...] = ()
    k: int = DEFAULT_K
    aggregation: Aggregation = "max"
    cross_k: int = 0
    engine: str = field(default="tiled", metadata=TRANSIENT)
    approximate: str = field(default="", metadata=ADDED)
    kinds: tuple[str, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        if self.approximate:  # one text for one meaning: it is part of fingerprints
            object.__setattr__(self, "approximate", str(spec_in("search.approximate", self.approximate)))
        object.__setattr__(self, "kinds", tuple(sorted(set(self.kinds))))


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run, none of which changes the result.

    Attributes:
        executor: `local` or `dask`.
        workers: number of processes; 1 is this process.
        threads: threads a worker, 0 for the cores divided by the workers.
        memory: anonymous memory of all workers together, for example "4GB".
        device: torch device, or several by commas, one worker each.
        scheduler: address of a dask scheduler; a local cluster when empty.
        strict: exit code 1 when anything was quarantined.
    """

    executor: Literal["local", "dask"] = "local"
    workers: int = 1
    threads: int = 0
    memory: str = "4GB"
    device: str = "cpu"
    scheduler: str = ""
    strict: bool = False


@dataclass(frozen=True)
class BuildConfig:
    """A resolved recipe."""

    dataset: DatasetConfig
    teachers: Mapping[str, Spec]
    search: SearchConfig = SearchConfig()
    run: RunConfig = field(default=RunConfig(), metadata=TRANSIENT)

    def __post_init__(self) -> None:
        _check(self)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as plain JSON data."""
        data: dict[str, Any] = canonical(self)
        return data

    def fingerprint(self) -> str:
        return fingerprint(self)

    def to_dict(self) -> dict[str, Any]:
        """Every field, transient ones included, as in `recipe` of the manifest."""
        dataset, search, run = (_plain(dataclasses.asdict(table)) for table in (self.dataset, self.search, self.run))
        teachers = {alias: str(spec) for alias, spec in self.teachers.items()}
        return {"dataset": dataset, "teachers": teachers, "search": search, "run": run}


def from_dict(data: Mapping[str, Any]) -> BuildConfig:
    """A config from nested plain data.

    Raises:
        ConfigError: an unknown table or field (near names offered), or a value of the wrong type.
    """
    tables = {"dataset", "teachers", "search", "run"}
    for table in data:
        if table not in tables:
            raise unknown("table of a recipe", table, tables)
    if "dataset" not in data:
        raise ConfigError("the recipe has no [dataset] table", todo='add [dataset] with name = "..."')
    teachers = data.get("teachers") or DEFAULT_TEACHERS
    if not isinstance(teachers, Mapping):
        raise ConfigError("[teachers] is not a table", found=shown(teachers), expected='text = "minilm()"')
    for alias, spec in teachers.items():
        if not isinstance(spec, str):
            raise ConfigError(f"teacher {alias!r} is not a spec string", found=shown(spec), expected='"minilm()"')
    return BuildConfig(
        dataset=_table(DatasetConfig, "dataset", data["dataset"]),
        teachers={alias: spec_in(f"teachers.{alias}", spec) for alias, spec in teachers.items()},
        search=_table(SearchConfig, "search", data.get("search", {})),
        run=_table(RunConfig, "run", data.get("run", {})),
    )


def refuse_address(recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe that names a scheduler, to which the build would send code: its address is an option.

    Raises:
        ConfigError: it names one.
    """
    run = recipe.get("run")
    if isinstance(run, Mapping) and run.get("scheduler"):
        raise ConfigError(
            "a recipe cannot choose the address of a scheduler",
            found=f"run.scheduler = {str(run['scheduler'])[:200]!r}",
            todo="take it out of the recipe and give it with --scheduler, if you trust that address",
        )


def without_run(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a store without the settings of its run."""
    search = {key: value for key, value in recipe.get("search", {}).items() if key != "engine"}
    return {key: value for key, value in recipe.items() if key != "run"} | {"search": search}


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """Plain data of a recipe that ships with labelgen (by name) or of a TOML file (by path)."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = resources.recipe_path(name_or_path)
    try:
        return tomllib.loads(foreign.read_bytes(path, foreign.MAX_DECISIONS).decode("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no recipe file {path}", todo=f"give a path, or one of {', '.join(resources.recipe_names())}"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}", found=error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML", found=str(error)) from error


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply `table.field=value` texts; a value is TOML, else plain text.

    `teachers.text=minilm()` sets a teacher; `dataset.options.annotations=2017` sets an option of the adapter.
    """
    merged = _copied(data)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise ConfigError("this does not set a field", found=repr(assignment), expected="table.field=value")
        table = merged
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{key!r} in {assignment!r} is a field, not a table")
        table[keys[-1]] = spec_text(text) if keys[0] == "teachers" else _value(text.strip())
    return merged


def spec_text(text: str) -> str:
    """A spec as it stands in a recipe, `'minilm()'`, or bare, `minilm()`."""
    value = _value(text.strip())
    return value if isinstance(value, str) else text.strip()


def changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`search.k: 64 -> 128` for every difference of two identities."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted(set(old) | set(new)):
            found += changes(old.get(key, "(none)"), new.get(key, "(none)"), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if old == new else [f"{prefix}: {old} -> {new}"]


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def parse_bytes(text: str | int, what: str = "this") -> int:
    """`"4GB"` -> 4000000000, `"512MiB"` -> 536870912, plain numbers are bytes. `what` names it in an error.

    Raises:
        ConfigError: not a size.
    """
    cleaned = str(text).strip().upper().replace(" ", "").replace("_", "")
    number = cleaned.rstrip("KMGTIB")
    try:
        size = int(float(number) * _UNITS[cleaned[len(number) :]])
    except (ValueError, KeyError, OverflowError) as error:
        raise ConfigError(f"{what} is not a size", found=repr(text), expected='like "4GB" or "512MiB"') from error
    if size <= 0:
        raise ConfigError(f"{what} is not a size", found=repr(text), expected='more than nothing, like "4GB"')
    return size


def _table(kind: Any, name: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"[{name}] is not a table", found=repr(values))
    fields = {item.name: item for item in dataclasses.fields(kind)}
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown(f"field in [{name}]", key, fields)
        arguments[key] = _typed(f"{name}.{key}", str(fields[key].type), value)
    absent = dataclasses.MISSING
    required = [key for key, item in fields.items() if item.default is absent and item.default_factory is absent]
    if missing := [key for key in required if key not in arguments]:
        raise ConfigError(f"[{name}] lacks {', '.join(missing)}")
    return kind(**arguments)


def _typed(path: str, kind: str, value: Any) -> Any:
    if kind.startswith("tuple"):
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif kind.startswith("Mapping"):
        if isinstance(value, Mapping):
            return dict(value)
    elif kind in ("int", "bool"):
        if type(value).__name__ == kind:  # True is no number
            return value
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{path} has the wrong type", found=repr(value), expected=kind)


def _check(config: BuildConfig) -> None:
    search, run = config.search, config.run
    known = [relation.value for relation in Relation]
    for text in search.relations:
        relation, _, alias = text.partition(".")
        if relation not in known:
            raise unknown("relation", relation, known)
        if alias and alias not in config.teachers:
            raise unknown("teacher alias", alias, config.teachers)
    for name, value, least, most in (
        ("search.k", search.k, 1, MAX_K),
        ("search.cross_k", search.cross_k, 0, MAX_K),
        ("dataset.limit", config.dataset.limit, 0, MAX_LIMIT),
        ("run.workers", run.workers, 1, MAX_WORKERS),
        ("run.threads", run.threads, 0, MAX_WORKERS),
    ):
        if isinstance(value, bool):
            raise ConfigError(f"{name} has the wrong type", found=repr(value), expected="a whole number")
        if value < least:
            raise ConfigError(f"{name} is too small", found=shown(value), expected=f"at least {least}")
        if value > most:
            raise ConfigError(f"{name} is too large", found=shown(value), expected=f"at most {most:,}")
    aggregations = ("search.aggregation", search.aggregation, ("max", "mean"))
    for name, text, choices in (aggregations, ("run.executor", run.executor, ("local", "dask"))):
        if text not in choices:
            raise unknown(f"value of {name}", text, choices)
    for alias in config.teachers:
        if not (alias.isascii() and alias.replace("_", "").replace("-", "").isalnum() and len(alias) <= 64):
            raise SpecError(
                f"teacher alias {alias!r} is not a plain word", expected="at most 64 letters, digits, - and _"
            )
    if search.kinds and search.approximate:
        raise ConfigError(
            "lists over some kinds of captions are searched exactly",
            found=f"kinds {', '.join(search.kinds)} and {search.approximate}",
            todo="leave one of the two out: --approximate '' or --kinds ''",
        )
    spec_in("search.engine", search.engine)
    parse_bytes(run.memory, "run.memory")


def spec_in(field: str, text: str) -> Spec:
    """The spec in a field.

    Raises:
        SpecError: naming the field.
    """
    try:
        return Spec.parse(text)
    except SpecError as error:
        raise SpecError(f"{field} is not a spec", found=error.found, expected=error.expected) from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
