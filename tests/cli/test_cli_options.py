"""Options become a recipe: nothing is lost, nothing is guessed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from labelgen import config as configs
from labelgen.cli import completions, options
from labelgen.config import BuildConfig, DatasetConfig, RunConfig, SearchConfig
from labelgen.errors import ConfigError, SpecError, UnknownNameError
from labelgen.specs import Spec
from labelgen.stages.plan.check_names import check_names


def parsed(*arguments: str) -> dict[str, Any]:
    """The options as click passes them."""
    seen: dict[str, Any] = {}

    @click.command()
    @options.recipe_options
    def command(**given: Any) -> None:
        seen.update(given)

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return seen


def config_of(*arguments: str) -> BuildConfig:
    return options.config_of(parsed(*arguments))


def test_every_field_of_a_recipe_has_an_option() -> None:
    fields = {
        f"{table}.{field.name}"
        for table, kind in (("search", SearchConfig), ("run", RunConfig), ("dataset", DatasetConfig))
        for field in dataclasses.fields(kind)
    }
    # --dataset names it; the options of an adapter are its own and are reached with --set; the digest is computed.
    assert fields - set(options.FIELDS.values()) == {"dataset.name", "dataset.options", "dataset.patch_digest"}
    assert set(options.FIELDS.values()) <= fields


def test_every_field_option_exists() -> None:
    assert set(options.FIELDS) <= set(parsed())


def test_an_option_that_is_not_given_overrides_nothing() -> None:
    assert options.overrides(parsed()) == []


def test_options_win_over_the_recipe_and_set_over_options() -> None:
    config = config_of("--dataset", "demo", "--k", "3", "--memory", "1GB", "--set", "search.k=5", "--strict")
    assert config.search.k == 5
    assert config.run.memory == "1GB"
    assert config.run.strict
    assert config.search.relations == ()


def test_all_search_and_run_options() -> None:
    search = "--dataset demo --relation t2t --relation i2t.text --aggregation mean --cross-k 2 --engine numpy"
    run = "--executor dask --workers 2 --threads 3 --device cpu,cpu --scheduler tcp://x:1"
    dataset = "--splits train,val --limit 7 --root data/x"
    config = config_of(*search.split(), *run.split(), *dataset.split())
    assert config.search == SearchConfig(("t2t", "i2t.text"), 64, "mean", 2, "numpy")
    assert config.run == RunConfig("dask", 2, 3, "4GB", "cpu,cpu", "tcp://x:1", strict=False)
    assert config.dataset == DatasetConfig("demo", "data/x", ("train", "val"), 7)


@given(st.text())
def test_a_folder_name_arrives_as_it_is(name: str) -> None:
    texts = options.overrides({"root": name})
    assert configs.override({}, texts)["dataset"]["root"] == name


@pytest.mark.parametrize("name", ["2017", "1e3", "true", "2017-01-01", "a'b\"c", "a b", "ünï", "[x]", "#1"])
def test_folder_names_that_look_like_toml(name: str) -> None:
    assert config_of("--dataset", "demo", "--root", name).dataset.root == name


def test_a_teacher_replaces_that_of_its_alias() -> None:
    config = config_of("--dataset", "demo", "--teacher", "text=minilm(text='cusa')")
    assert config.teachers == {
        "text": Spec.parse("minilm(text='cusa')"),
        "image": Spec.parse("efficientnet_lite(size=2)"),
    }


@pytest.mark.parametrize("quote", ["", "'", '"', "'''"])
@pytest.mark.parametrize("option", ["--set teachers.text=", "--teacher text="])
def test_a_teacher_may_be_quoted_as_in_a_recipe(option: str, quote: str) -> None:
    name, _, rest = option.partition(" ")
    spec = "minilm(text='cusa')" if quote == '"' else 'minilm(text="cusa")'
    config = config_of("--dataset", "demo", name, f"{rest}{quote}{spec}{quote}")
    assert config.teachers["text"] == Spec.parse("minilm(text='cusa')")


def test_added_and_refined_teachers_may_be_quoted() -> None:
    assert options.teacher_pairs(('clip="conse()"',)) == {"clip": "conse()"}
    assert options.refined_pairs(("small='siamese(of=\"text\")'",)) == {"small": 'siamese(of="text")'}


def test_a_teacher_can_be_left_out() -> None:
    assert list(config_of("--dataset", "demo", "--no-teacher", "image", "--relation", "t2t").teachers) == ["text"]


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (["--dataset", "demo", "--no-teacher", "imag"], UnknownNameError, "'image'"),
        (["--dataset", "demo", "--no-teacher", "image", "--no-teacher", "text"], ConfigError, "no teacher is left"),
        (["--dataset", "demmo"], UnknownNameError, "'demo'"),
        (["--recipe", "cocoo"], UnknownNameError, "'coco'"),
        (["--recipe", "none.toml"], ConfigError, "no recipe file"),
        (["--dataset", "demo", "--teacher", "minilm()"], ConfigError, "alias=spec"),
        (["--dataset", "demo", "--teacher", "text=minilmm()"], UnknownNameError, "'minilm'"),
        (["--dataset", "demo", "--teacher", "text=minilm(txt='x')"], SpecError, "'text'"),
        (["--dataset", "demo", "--teacher", "a=minilm()", "--teacher", "a=mpnet()"], ConfigError, "twice"),
        (["--dataset", "demo", "--set", "search.kk=3"], UnknownNameError, "'k'"),
        (["--dataset", "demo", "--set", "search"], ConfigError, "table.field=value"),
        (["--dataset", "demo", "--relation", "t2x"], UnknownNameError, "'t2t'"),
        (["--dataset", "demo", "--k", "0"], ConfigError, "at least 1"),
        (["--dataset", "demo", "--memory", "lots"], ConfigError, "4GB"),
        (["--dataset", "demo", "--engine", "nunpy"], UnknownNameError, "'numpy'"),
        ([], ConfigError, "--dataset demo"),
    ],
)
def test_wrong_options_are_refused(arguments: Sequence[str], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as refused:
        check_names(config_of(*arguments))
    assert says in str(refused.value)


def test_names_complete() -> None:
    context = click.Context(click.Command("x"))
    parameter = click.Option(["--x"])
    words = {
        kind: [item.value for item in completions.registered(kind)(context, parameter, "c")]
        for kind in ("dataset", "recipe")
    }
    assert words["dataset"] == ["coco", "cusa"]
    assert words["recipe"] == ["coco", "cusa"]
    assert [item.value for item in completions.teachers(context, parameter, "te")] == ["text="]
    assert [item.value for item in completions.teachers(context, parameter, "text=mi")] == ["text=minilm"]
