"""The imports are the architecture: who may import whom, and which file may use which library.

Two tables, `DEPENDENCIES` and `LIBRARIES`, are compared with what the sources import: at the top of a module, inside
functions, under `TYPE_CHECKING` and through `"package.module:name"` strings. docs/architecture.md draws the first one.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property, lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "labelgen"

#: Package -> what it may import: packages, or single modules of a package. Itself and the kernel are always allowed.
#: Nothing points up.
DEPENDENCIES: dict[str, set[str]] = {
    "kernel": set(),
    # bottom
    "similarity": set(),
    # similarity is defined by the store, and its arithmetic is pure: reading a block needs it, engines need no store
    "store": {
        *("similarity.base", "similarity.exact", "similarity.groups", "similarity.single_precision"),
        "similarity.caption_sets",
    },
    # a data set in memory is written as every other file: whole or not at all; frames have the columns of the tables
    "corpus": {"store.disk.atomic", "store.layout"},
    "teachers": set(),
    "relevance": set(),
    "losses": set(),
    # building: what a task is, what runs tasks, what they do and in which order, what users call
    "tasks": {"store"},
    "runner": {"tasks", "stages", "store"},
    "executors": {"tasks", "runner"},
    "stages": {"tasks", "executors.base", "store", "corpus", "teachers", "similarity", "patches"},
    # a data set in memory becomes a table, and an object a teacher, before a build begins; a rank is its own executor
    "pipeline": {"stages", "tasks", "store", "patches", "corpus", "teachers", "executors.shared"},
    # functions of a store
    # a patch applies to records before a build and to a batch's labels after it
    "patches": {
        # cleaned files are read as their adapters read them
        *("store", "relevance.base", "corpus"),
    },
    # a list of pairs is a table like one of captions; the loss for open_clip adds one of ours to its own
    "loader": {"store", "relevance", "patches", "losses", "corpus.text.table_files"},
    # one target is a list of pairs with its labels
    "export": {"store", "loader.fine_grained"},
    # pairs are scored one by one, with the arithmetic that blocks use
    "audit": {
        *("store", "corpus", "relevance", "patches", "similarity.exact", "similarity.groups"),
        "similarity.caption_sets",
        # objects that a store was made with encode sentences of judgements
        "teachers.objects.sealed_objects",
    },
    # outside
    "testing": {"store", "corpus", "teachers", "similarity", "tasks", "executors", "relevance"},
    # every public package is an attribute, loaded when it is first used
    "labelgen": {
        *("pipeline", "store", "loader", "teachers", "queries"),
        *("audit", "export", "losses", "patches", "relevance", "testing"),
    },
    # queries are encoded by teachers, compared as the store compares, and shown with the photographs of the audit
    "queries": {
        *(
            "store",
            "corpus",
            "teachers",
            "stages",
            "tasks",
            "similarity.exact",
            "similarity.groups",
            "similarity.sort_keys",
        ),
        *("audit.report.photos",),
    },
    "cli": {"pipeline", "store", "export", "audit", "queries", "patches", "labelgen"},
    "__main__": {"cli"},
}

KERNEL = {
    "errors",
    "types",
    "specs",
    "fingerprint",
    "foreign",
    "lazy",
    "registry",
    "resources",
    "config",
    "given",
    "progress",
    "torch_threads",
    "units",
    "version",
}

#: The bottom of `stages`: what executors need to know of a task, which is not what it does.
TASKS = {"stages.running.task", "stages.running.worker", "stages.running.memory", "stages.running.leases"}

#: Names of tasks -> functions, called by executors; what a task does is behind its name.
RUNNER = "stages.running.runner"

#: Adapters are reached through the registry. The exceptions are built on another one, of the same package or one below.
ADAPTER_SIBLINGS = {
    ("corpus.adapters.demo", "corpus.adapters.table"),
    ("teachers.adapters.bundled", "teachers.adapters.sentences"),
    ("teachers.adapters.ready", "teachers.adapters.sentences"),
    ("teachers.objects.given_teacher", "teachers.adapters.sentences"),
    ("teachers.objects.networks", "teachers.adapters.open_clip_teacher"),
    ("similarity.fallback", "similarity.reference"),
    ("similarity.tiled.engine", "similarity.reference"),
    ("similarity.ann.recall", "similarity.reference"),
}

#: Third-party package -> the only files of labelgen/ that may import it (numpy may be used everywhere).
LIBRARIES: dict[str, set[str]] = {
    "array_api_compat": {"losses/_namespace.py", "losses/_by_query.py"},
    "botocore": {"store/remote/sources.py", "store/remote/push.py"},
    "blake3": {"fingerprint.py", "store/disk/atomic.py", "teachers/weights.py"},
    "click": {"cli/*"},
    "datasets": {"corpus/in_memory/rows.py"},
    "distributed": {"executors/dask_executor.py"},
    "faiss": {"similarity/ann/faiss_engine.py"},
    "google_crc32c": {"store/disk/shards.py"},
    "huggingface_hub": {"teachers/weights.py", "store/remote/sources.py", "store/remote/push.py"},
    "jax": {"losses/_jax.py", "loader/frameworks/jax_arrays.py"},
    "jsonschema": {"store/schema/validation.py"},
    "narwhals": {"corpus/in_memory/rows.py"},
    "open_clip": {"teachers/adapters/open_clip_teacher.py", "loader/frameworks/open_clip_loss.py"},
    "openvino": {"teachers/compute/openvino_network.py", "teachers/compute/model_cache.py"},
    "packaging": {"cli/checks.py"},
    "PIL": {
        *("corpus/photos/photos.py", "corpus/photos/pixels.py", "testing/teachers.py"),
        *("corpus/in_memory/pictures.py", "teachers/objects/encoders.py"),
        *(
            "teachers/base.py",
            "teachers/adapters/crossmodal.py",
            "teachers/adapters/lite.py",
            "teachers/adapters/vision.py",
        ),
        *("teachers/probe.py", "teachers/compute/choice.py"),
    },
    "polars": {
        "foreign.py",
        *("corpus/arrange.py", "corpus/frames.py", "corpus/join.py", "corpus/text/table_files.py"),
        "corpus/in_memory/snapshot.py",
        *("store/items.py", "store/kind_store.py", "store/disk/parquet.py"),
        *(
            "stages/ingest/final_corpus.py",
            "stages/ingest/ingest.py",
            "testing/stores.py",
            "audit/*",
            "queries/result.py",
            "patches/patch.py",
            "patches/cleaned/cleaned.py",
        ),
    },
    "pyarrow": {
        "foreign.py",
        "store/disk/parquet.py",
        "teachers/precomputed/parquet_features.py",
        "export/list_rows.py",
        "export/parquet.py",
        "export/hf.py",
        "export/sentence_pairs.py",
    },
    "rich": {"cli/*"},
    "safetensors": {"stages/work/train.py"},
    "scipy": {"audit/checks/duplicates.py", "audit/report/datalab.py"},
    "sentence_transformers": {"teachers/adapters/sentences.py"},
    "timm": {
        "teachers/adapters/timm_teacher.py",
        "teachers/adapters/lite.py",
        "teachers/adapters/conse.py",
        "teachers/objects/networks.py",
    },
    "torch": {
        *(
            "teachers/*",
            "similarity/tiled/*",
        ),
        *("losses/_torch.py", "losses/modules.py", "loader/frameworks/open_clip_loss.py"),
        *("loader/collate.py", "loader/ddp.py", "loader/on_device.py", "loader/tensors.py"),
    },
    "llvmlite": {"similarity/tiled/bits.py"},
    "numba": {"similarity/tiled/bits.py", "stages/work/search.py"},
    "threadpoolctl": {
        "stages/work/train.py",
        "similarity/tiled/engine.py",
        "similarity/ann/faiss_engine.py",
        "loader/collate.py",
    },
    "urllib3": {"store/remote/client.py"},
    "tokenizers": {"teachers/adapters/sentence_passes.py"},
    "torchvision": {"teachers/adapters/vision.py"},
    "transformers": {"teachers/adapters/transformers_teacher.py", "teachers/weights.py"},
    "zarr": {"store/zarr_access.py"},
}

#: Part of the core install, and quick enough to be imported by whatever opens a store or prints help.
LIGHT = {"numpy", "blake3", "google_crc32c", "click", "rich"}

MAX_LINES = 400
MAX_FILES = 16
#: A longer function must have a docstring whatever it does; one longer than this is not a function any more.
MAX_FUNCTION_LINES = 60
#: What a name alone can explain.
SHORT_LINES = 6


@dataclass(frozen=True)
class Module:
    """One file of the package and what it imports, `labelgen.` left out of our own names."""

    name: str
    path: Path
    tree: ast.Module = field(repr=False)

    @property
    def file(self) -> str:
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def package(self) -> str:
        return package_of(self.name)

    @cached_property
    def ours(self) -> set[str]:
        """Modules of labelgen that this one imports; "" is the package itself."""
        names = {name.removeprefix("labelgen").lstrip(".") for name in self._imported() if is_ours(name)}
        found = {existing(name) for name in names} - {self.name}
        return found - {""} if self._asks_for_the_version_alone() else found

    def _asks_for_the_version_alone(self) -> bool:
        """`import labelgen` for `labelgen.__version__`, which files that are written carry, is no dependency."""
        wanted = {
            node.attr
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "labelgen"
        }
        return wanted == {"__version__"}

    @cached_property
    def foreign(self) -> set[str]:
        """Top-level names of the third-party packages that it imports."""
        tops = {name.partition(".")[0] for name in self._imported() if not is_ours(name)}
        return tops - set(sys.stdlib_module_names) - {"__future__"}

    def top(self) -> set[str]:
        """Third-party packages imported at the top of the module, outside of functions and `TYPE_CHECKING`."""
        return {name.partition(".")[0] for name in self._at_top()} & self.foreign

    def top_ours(self) -> set[str]:
        """Modules of labelgen imported at the top."""
        return {existing(name.removeprefix("labelgen").lstrip(".")) for name in self._at_top() if is_ours(name)}

    def _at_top(self) -> list[str]:
        plain = [node for node in self.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        return [name for node in plain for name in imported_names(node)]

    def _imported(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from imported_names(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.fullmatch(r"labelgen(\.\w+)+:\w+", node.value):
                    yield node.value.replace(":", ".")
            elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
                yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Dotted names: `from a import b` gives `a.b`, whether b is a module or not."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, "a relative import: write the whole name"
    return [f"{node.module}.{alias.name}" for alias in node.names]


def is_ours(name: str) -> bool:
    return name == "labelgen" or name.startswith("labelgen.")


def existing(name: str) -> str:
    """The longest beginning of a dotted name that is a module of ours: `corpus.base.Records` -> `corpus.base`."""
    while name and name not in sources():
        name = name.rpartition(".")[0]
    return name


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def package_of(name: str) -> str:
    if not name:
        return "labelgen"
    if name in TASKS:
        return "tasks"
    if name == RUNNER:
        return "runner"
    top = name.partition(".")[0]
    return "kernel" if top in KERNEL else top


@lru_cache(maxsize=1)
def sources() -> dict[str, Path]:
    """Every module of the package by its name without `labelgen.`; packages by the name of their folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@lru_cache(maxsize=1)
def modules() -> list[Module]:
    return [Module(name, path, ast.parse(path.read_text(encoding="utf-8"))) for name, path in sources().items()]


@lru_cache(maxsize=1)
def adapters() -> set[str]:
    """Modules that the registry reaches through our own entry points."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    return {
        target.partition(":")[0].removeprefix("labelgen.") for group in groups.values() for target in group.values()
    }


#: The one dependency that points up: `Store.query` imports what it calls when it is called.
UPWARD = {
    ("store.reader", "queries.query"),
    ("store.reader", "queries.result"),
}


def allowed(package: str, target: str) -> bool:
    """Whether a package may import a module."""
    return package_of(target) in (DEPENDENCIES[package] | {package, "kernel"}) or target in DEPENDENCIES[package]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """What is left when leaves are taken away again and again: empty where no cycle is."""
    left = {node: targets & graph.keys() for node, targets in graph.items()}
    while leaves := {node for node, targets in left.items() if not targets}:
        left = {node: targets - leaves for node, targets in left.items() if node not in leaves}
    return sorted(left)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def lines(node: ast.FunctionDef) -> int:
    """Lines of the body; signature and docstring do not count."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1


def is_overload(node: ast.AST) -> bool:
    return any(isinstance(item, ast.Name) and item.id == "overload" for item in getattr(node, "decorator_list", ()))


def public(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes of a module, and the public methods of those classes with their class."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield None, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield node, inner


def protocol_methods() -> set[str]:
    """Names of all methods that a protocol of ours documents."""
    found = set()
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
                found |= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


def test_dependencies_point_down() -> None:
    wrong = [
        f"{module.file} imports {target or 'labelgen'}: {module.package} may not use {package_of(target)}"
        for module in modules()
        for target in sorted(module.ours)
        if not allowed(module.package, target) and (module.name, target) not in UPWARD
    ]
    assert not wrong, "\n".join(wrong)


def test_table_has_no_way_back() -> None:
    """Followed from any package, the dependencies never lead back to it; `executors.base` counts as its own package."""
    graph = {
        package: {package_of(target) if target in DEPENDENCIES else target for target in targets}
        for package, targets in DEPENDENCIES.items()
    }
    graph |= {"executors.base": {"tasks"}}
    assert not cycle(graph)


def test_the_page_describes_every_package() -> None:
    """docs/architecture.md has a row for each package that exists, with what it may import."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `?(\w+)`? \| .* \| (.*) \|$", page, re.MULTILINE)
    described = {name: set(re.findall(r"`([\w.]+)`", imports)) for name, imports in rows if name in DEPENDENCIES}
    existing_packages = {module.package for module in modules()} - {"labelgen", "__main__"}
    assert described == {name: DEPENDENCIES[name] for name in existing_packages}


def test_the_page_names_every_folder() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {module.path.parent.relative_to(PACKAGE) for module in modules()}
    nested = {folder.name for folder in folders if len(folder.parts) == 2}
    assert not {name for name in nested if f"`{name}/`" not in page}


def test_no_folder_is_too_full() -> None:
    folders = Counter(module.path.parent for module in modules() if module.path.name != "__init__.py")
    assert not {folder.name: count for folder, count in folders.items() if count > MAX_FILES}


def test_no_module_has_the_name_of_a_library() -> None:
    # and a command, which is named as it is typed
    private = {"losses/_torch.py", "losses/_jax.py", "cli/commands/datasets.py"}
    named = [module.file for module in modules() if module.path.stem.lstrip("_") in LIBRARIES]
    assert set(named) == private


def test_modules_form_no_cycle() -> None:
    down = {
        module.name: {target for target in module.ours - {""} if (module.name, target) not in UPWARD}
        for module in modules()
        if module.name
    }
    assert not cycle(down)
    reader = next(module for module in modules() if module.name == "store.reader")
    assert {("store.reader", target) for target in reader.ours} >= UPWARD
    assert not {("store.reader", target) for target in reader.top_ours()} & UPWARD, (
        "opening a store imports no teachers"
    )


def test_every_module_belongs_to_a_package() -> None:
    assert not [module.file for module in modules() if module.package not in DEPENDENCIES]
    assert {name for name in sources() if package_of(name) == "tasks"} == TASKS
    assert set(sources()) >= KERNEL


def test_adapters_are_reached_through_the_registry() -> None:
    assert adapters() <= set(sources()), "an entry point names a module that is not there"
    used = {(module.name, target) for module in modules() for target in module.ours & adapters()}
    assert {pair for pair in used if package_of(pair[0]) != "testing"} == ADAPTER_SIBLINGS
    assert all(allowed(package_of(module), target) for module, target in ADAPTER_SIBLINGS)


def test_one_library_lives_in_its_files() -> None:
    wrong = [
        f"{module.file} imports {library}"
        for module in modules()
        for library in sorted(module.foreign - {"numpy"})
        if not any(fnmatch(module.file, pattern) for pattern in LIBRARIES.get(library, ()))
    ]
    assert not wrong, "\n".join(wrong)


def test_library_table_has_no_stale_rows() -> None:
    used = {library: [module.file for module in modules() if library in module.foreign] for library in LIBRARIES}
    stale = [
        f"{library}: {pattern}"
        for library, patterns in LIBRARIES.items()
        for pattern in patterns
        if not any(fnmatch(file, pattern) for file in used[library])
    ]
    assert not stale, "\n".join(stale)


def test_opening_a_store_and_help_load_nothing_heavy() -> None:
    """What `import labelgen`, `labelgen.open` and `labelgen --help` load has no heavy import at its top."""
    loaded, waiting = set(), {"", "cli.main", "store.reader"}
    by_name = {module.name: module for module in modules()}
    while waiting:
        name = waiting.pop()
        loaded.add(name)
        waiting |= by_name[name].top_ours() - loaded
    wrong = [
        f"{by_name[name].file} imports {library} at its top"
        for name in sorted(loaded)
        for library in sorted(by_name[name].top() - LIGHT)
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_are_small() -> None:
    lines = {module.file: len(module.path.read_text(encoding="utf-8").splitlines()) for module in modules()}
    assert not {file: count for file, count in lines.items() if count > MAX_LINES}


@pytest.mark.parametrize("name", ["utils", "util", "common", "helpers", "core", "misc"])
def test_modules_are_named_by_what_they_hold(name: str) -> None:
    assert not [module.file for module in modules() if module.path.stem == name]


def test_functions_are_short() -> None:
    wrong = [
        f"{module.file}: {function.name} has {lines(function)} lines"
        for module in modules()
        for function in functions(module.tree)
        if lines(function) > MAX_FUNCTION_LINES and not is_overload(function)
    ]
    assert not wrong, "\n".join(wrong)


def test_public_things_say_what_they_are() -> None:
    """Docstrings on public modules, classes and functions.

    Not asked of what a name explains (a few lines, the tests of a suite), of one `return`, of errors (their tree is the
    documentation), and of methods that implement a protocol or override a library's class: it is documented there.
    """
    documented = protocol_methods()
    wrong = [
        module.file for module in modules() if not ast.get_docstring(module.tree) and module.path.stem != "__init__"
    ]
    for module in modules():
        for owner, node in public(module.tree):
            inherited = owner is not None and (bool(owner.bases) or node.name in documented)
            obvious = isinstance(node, ast.FunctionDef) and (
                lines(node) <= SHORT_LINES or len(node.body) == 1 or node.name.startswith("test_")
            )
            if not (ast.get_docstring(node) or inherited or obvious or module.name == "errors" or is_overload(node)):
                wrong.append(f"{module.file}: {node.name}")
    assert not wrong, "\n".join(wrong)


def test_public_functions_are_annotated() -> None:
    wrong = []
    for module in modules():
        for _, node in public(module.tree):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                bare = [item.arg for item in arguments if item.annotation is None and item.arg not in ("self", "cls")]
                if bare or node.returns is None:
                    wrong.append(f"{module.file}: {node.name} ({', '.join(bare) or 'return'})")
    assert not wrong, "\n".join(wrong)


def test_library_does_not_assert_print_or_evaluate() -> None:
    wrong = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Assert):
                wrong.append(f"{module.file}:{node.lineno} assert")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("eval", "exec", "compile") or (node.func.id == "print" and module.package != "cli"):
                    wrong.append(f"{module.file}:{node.lineno} {node.func.id}")
            elif isinstance(node, ast.Call) and called(node) == "basicConfig":
                wrong.append(f"{module.file}:{node.lineno} configures logging")
    assert not wrong, "\n".join(wrong)


def test_no_decision_is_left_open() -> None:
    """Nothing that ships says that it is unfinished."""
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    files = [
        path for folder in ("labelgen", "pipelines", "schemas", "docs", "docker") for path in (ROOT / folder).rglob("*")
    ]
    texts = [path for path in files if path.suffix in (".py", ".toml", ".json", ".md", ".yaml")]
    assert not [path.relative_to(ROOT).as_posix() for path in texts if mark.search(path.read_text(encoding="utf-8"))]
