"""What people type and programs pass on: recipes, specs, ids, rows, and the arguments of every command."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from fuzz_harness import ODD, check, fuzz, mutated_bytes, mutated_tree, rounds, run

import labelgen
from labelgen.cli.main import cli
from labelgen.errors import LabelgenError
from labelgen.specs import Spec

# ---------------------------------------------------------------------------------------------------------- recipes


@rounds(60, 4_000)
def test_recipes(examples: int, table: Path, features: Path) -> None:
    tomli_w = pytest.importorskip("tomli_w")
    recipe = {
        "dataset": {
            "name": "table",
            "root": str(table),
            "splits": [],
            "limit": 0,
            "options": {"file": "captions.jsonl"},
        },
        "teachers": {"text": f"precomputed(path={str(features)!r}, modality='text')"},
        "search": {
            "relations": ["t2t"],
            "k": 3,
            "aggregation": "max",
            "cross_k": 0,
            "engine": "numpy",
            "approximate": "",
        },
        "run": {"executor": "local", "workers": 1, "threads": 1, "memory": "1GB", "device": "cpu", "strict": False},
    }

    def body(draw: random.Random, count: int, folder: Path) -> None:
        file = folder / "recipe.toml"
        try:
            data = tomli_w.dumps(mutated_tree(recipe, draw, count) if draw.random() < 0.7 else recipe).encode()
        except (TypeError, ValueError, AttributeError):
            return  # null, or no table at all: not TOML
        file.write_bytes(mutated_bytes(data, draw, count) if draw.random() < 0.4 else data)
        check(run("plan", "--recipe", file, "--no-calibrate", "--progress", "none"), folder)

    fuzz(examples, body)


@rounds(40, 3_000)
def test_assignments(examples: int, table: Path, features: Path) -> None:
    """`--set`, and the options that are fields, with odd values."""
    fields = [
        "dataset.root",
        "dataset.splits",
        "dataset.limit",
        "dataset.options.file",
        "dataset.options.x",
        "dataset.name",
        "search.k",
        "search.cross_k",
        "search.relations",
        "search.engine",
        "search.approximate",
        "run.memory",
        "run.workers",
        "run.threads",
        "run.device",
        "run.strict",
        "teachers.text",
        "teachers.b",
        "x.y",
        "a",
        "=",
    ]

    def body(draw: random.Random, count: int, folder: Path) -> None:
        options: list[object] = []
        for _ in range(count):
            value = draw.choice(ODD)
            text = repr(value) if draw.random() < 0.3 else str(value)
            options += ["--set", f"{draw.choice(fields)}={text}".replace("\0", "")[:5_000]]
        teacher = f"text=precomputed(path={str(features)!r}, modality='text')"
        shared = ["--dataset", "table", "--root", table, "--teacher", teacher, "--no-calibrate", "--progress", "none"]
        check(run("plan", *shared, *options), folder)

    fuzz(examples, body)


# ------------------------------------------------------------------------------------------------------------ specs

#: The first two load networks where they stay as they are: they are parsed only.
SPECS = (
    "minilm()", "sbert(model='a/b', text='cusa', batch=8)", "precomputed(path='f.npz', modality='text')",
    "bcls(transform=['clip', 'power(p=2)'])", "mean(of=['i2t.text', 'i2t.clip'])", "fine_grained(gamma=0.5)",
    "faiss(recall=0.95)", "siamese(of='text', dim=8)", "language_margin(percentile=50)",
)  # fmt: skip


@rounds(150, 20_000)
def test_specs(examples: int) -> None:
    """A text is a spec that prints and parses as itself, or a `SpecError`."""

    def body(draw: random.Random, count: int, folder: Path) -> None:
        text = mutated_bytes(draw.choice(SPECS).encode(), draw, count).decode("utf-8", "replace")
        try:
            spec = Spec.parse(text)
        except LabelgenError as error:
            assert len(str(error)) < 10_000  # noqa: PT017 - any error of labelgen is right, a long one is not
            return
        assert Spec.parse(str(spec)) == spec

    fuzz(examples, body)


@rounds(50, 4_000)
def test_specs_on_the_command_line(examples: int, small_store: Path, table: Path, features: Path) -> None:
    known = f"text=precomputed(path={str(features)!r}, modality='text')"

    def body(draw: random.Random, count: int, folder: Path) -> None:
        spec = mutated_bytes(draw.choice(SPECS[2:]).encode(), draw, count).decode("utf-8", "replace").replace("\0", "")
        data = ["--dataset", "table", "--root", table, "--teacher", known, "--no-calibrate", "--progress", "none"]
        pairs = folder / "pairs.csv"
        pairs.write_text("caption_id,image_id,y\ncap-0,img-1,1\n", encoding="utf-8")
        ratings = folder / "ratings.csv"
        ratings.write_text(
            "image_id,caption_id,rating\nimg-0,cap-9,1\nimg-1,cap-8,2\nimg-1,cap-3,2\n", encoding="utf-8"
        )
        ways: tuple[Callable[[], Sequence[object]], ...] = (
            lambda: ("plan", *data, "--teacher", f"b={spec}"),
            lambda: ("plan", *data, "--refine", spec),
            lambda: ("plan", *data, "--engine", spec),
            lambda: ("plan", *data, "--approximate", spec),
            lambda: (
                "export",
                small_store,
                "--for",
                "fine-grained",
                "--pairs",
                pairs,
                "--scheme",
                spec,
                "--out",
                folder / "o",
            ),
            lambda: ("card", small_store, "--against", ratings, "--bootstrap", 2, "--fusion", spec),
        )
        check(run(*draw.choice(ways)()), folder)

    fuzz(examples, body)


# --------------------------------------------------------------------------------------------------------- ids, rows


@rounds(150, 20_000)
def test_ids_and_rows_given_to_a_store(examples: int, small_store: Path) -> None:
    """A store answers, or raises an error of labelgen, an IndexError for rows, or a TypeError for what is no list."""
    store = labelgen.open(small_store)

    def body(draw: random.Random, count: int, folder: Path) -> None:
        odd = [draw.choice(ODD) for _ in range(count)]
        names = draw.choice(
            (odd, [str(value) for value in odd], ["img-0", *odd], ["cap-0"] * count, np.array(["img-1"] * count))
        )
        rows = draw.choice(
            (
                odd,
                [0, 1],
                [draw.choice((0, 11, 12, -1, 2**40)) for _ in range(count)],
                np.arange(count) * 1.0,
                range(count),
            )
        )
        calls: tuple[Callable[[], Any], ...] = (
            lambda: store.image_rows(names),
            lambda: store.caption_rows(names, missing_ok=True),
            lambda: store.image_ids(rows),
            lambda: store.caption_ids(rows),
            lambda: store.captions_in(rows),
            lambda: store.image_of(rows),
            lambda: store.neighbors("i2t", ids=names, alias="text"),
            lambda: store.neighbors("t2t", rows=rows, alias="text"),
            lambda: store.block("i2t", names, names, alias="text"),
            lambda: store.block("i2t", image_rows=rows, caption_rows=rows, alias="text", missing="mask"),
            lambda: labelgen.soft_labels(store, names, names, scheme="bcls(text='text')", missing="mask"),
        )
        try:
            draw.choice(calls)()
        except (LabelgenError, IndexError, TypeError) as error:
            assert len(str(error)) < 10_000  # noqa: PT017 - which error is for other tests

    fuzz(examples, body)


@rounds(25, 2_000)
def test_ids_on_the_command_line(examples: int, small_store: Path) -> None:
    def body(draw: random.Random, count: int, folder: Path) -> None:
        value = str(draw.choice(ODD)).replace("\0", "")
        name = draw.choice(
            (value, mutated_bytes(b"img-3", draw, count).decode("utf-8", "surrogateescape").replace("\0", ""))
        )
        options: list[object] = draw.choice(
            ([], ["--json"], ["--relation", value], ["--k", draw.choice((0, -1, 3, 10**30))])
        )
        check(run("inspect", small_store, draw.choice(("--image", "--caption")), name, *options), folder)

    fuzz(examples, body)


# ------------------------------------------------------------------------------------------- arguments of commands

#: Options that start something long, or ask another machine: not for random values.
_LEFT_OUT = {"self_test", "executor", "scheduler", "device", "workers", "deep"}
#: Commands that look at the machine, not at what they are given.
_WITHOUT_INPUT = {"doctor"}


def _value(parameter: click.Parameter, draw: random.Random, paths: Sequence[object]) -> str:
    kind = parameter.type
    if isinstance(kind, click.Choice) and draw.random() < 0.7:
        return str(draw.choice(list(kind.choices)))
    if isinstance(kind, click.Path) and draw.random() < 0.8:
        return str(draw.choice(paths))
    if isinstance(kind, (click.types.IntParamType, click.IntRange)) and draw.random() < 0.8:
        return str(draw.choice((0, 1, 2, 3, -1, 2**31, 2**63, 10**30)))
    value = draw.choice(
        (*ODD, "img-1", "cap-1", "text", "image", "train", "t2t", "minilm()", "text=minilm()", "demo", "table")
    )
    return str(value).replace("\0", "")[:3_000]


@rounds(120, 10_000)
def test_arguments(examples: int, small_store: Path, table: Path) -> None:
    """Commands with some of their options, most of them odd, over a store and other paths."""
    context = click.Context(cli)
    named = {name: cli.get_command(context, name) for name in cli.list_commands(context) if name not in _WITHOUT_INPUT}

    def body(draw: random.Random, count: int, folder: Path) -> None:
        (folder / "empty").mkdir()
        (folder / "file").write_bytes(b"x")
        paths = [
            small_store,
            small_store,
            small_store,
            table,
            folder / "empty",
            folder / "file",
            folder / "none",
            "/dev/null",
            "",
        ]
        name = draw.choice(sorted(named))
        command = named[name]
        assert command is not None
        arguments: list[str] = []
        for parameter in command.params:
            if parameter.name in _LEFT_OUT:
                continue
            if isinstance(parameter, click.Argument):
                arguments.append(_value(parameter, draw, paths))
            elif parameter.required or draw.random() < min(0.5, count / len(command.params)):
                flag = getattr(parameter, "is_flag", False)
                arguments += [parameter.opts[0]] if flag else [parameter.opts[0], _value(parameter, draw, paths)]
        if name in ("build", "export", "audit"):  # nothing is written outside of the test's folder
            arguments = _inside(arguments, folder)
        if draw.random() < 0.1:
            arguments.insert(draw.randint(0, len(arguments)), draw.choice(("--", "-x", "--no-such", "")))
        check(run(name, *arguments), folder)

    fuzz(examples, body)


_WRITING = ("--out", "--html", "--patch", "--clean")


def _inside(arguments: list[str], folder: Path) -> list[str]:
    kept = [argument for n, argument in enumerate(arguments) if n == 0 or arguments[n - 1] not in _WRITING]
    return [
        item for argument in kept for item in ([argument, str(folder / "out")] if argument in _WRITING else [argument])
    ]
