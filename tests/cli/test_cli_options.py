"""Options become a recipe: nothing is lost, nothing is guessed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from labelgen import config as configs
from labelgen import registry
from labelgen.cli import completions, flags, options
from labelgen.cli.commands import extensions
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
    of_adapters = {field for field in flags.FIELDS.values() if field.startswith("dataset.options.")}
    assert fields - set(flags.FIELDS.values()) == {"dataset.name", "dataset.options", "dataset.patch_digest"}
    assert set(flags.FIELDS.values()) <= fields | of_adapters
    table = {f"dataset.options.{name}" for name in extensions.arguments(registry.load("dataset", "table"), ["root"])}
    assert of_adapters <= table


def test_every_field_option_exists() -> None:
    assert set(flags.FIELDS) <= set(parsed())


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


#: Values of an option that a field refuses; the others are paths, or checked by click or a later stage.
WRONG = {
    "--k": ["0", "99999999999"],
    "--cross-k": ["-1", "99999999999"],
    "--limit": ["-1", "99999999999"],
    "--workers": ["0", "9999"],
    "--threads": ["-1", "9999"],
    "--memory": ["lots", "0", "", "4XB"],
    "--engine": ["tiled(", "1"],
    "--approximate": ["faiss(", "faiss(0)"],
    "--teacher": ["text=minilm(", "text=1"],
    "--refine": ["siamese=siamese("],
    "--scheduler": ["tcp://localhost:1"],
    "--damaged": ["quarantine"],
    "--file": ["", "x.csv"],
    "--id-column": ["", "x"],
    "--image-column": ["", "x"],
    "--caption-column": ["", "x"],
    "--split-column": ["", "x"],
    "--photos": ["", "x"],
}
UNNAMED = {"root", "splits", "kinds", "patch", "relation", "aggregation", "executor", "device", "strict"}


def test_every_field_option_is_tried_with_wrong_values() -> None:
    assert {flags.flag(name) for name in set(flags.FIELDS) - UNNAMED} == WRONG.keys() - {"--teacher", "--refine"}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option in WRONG for value in WRONG[option]])
def test_an_error_names_the_option_and_not_the_field(option: str, value: str, run: Callable[..., Result]) -> None:
    refused = run("plan", "--dataset", "demo", "--no-calibrate", "--progress", "none", option, value)
    assert refused.exit_code == 2
    assert option in refused.stderr.splitlines()[0]
    assert not re.search(r"(search|run|dataset|teachers)\.\w", refused.stderr)


@pytest.mark.parametrize(("field", "value"), [("search.k", "0"), ("run.memory", '"lots"'), ("teachers.text", '"a("')])
def test_an_error_names_the_field_of_a_recipe(
    field: str, value: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    table, _, name = field.partition(".")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[dataset]\nname = "demo"\n[{table}]\n{name} = {value}\n')
    for arguments in (["--recipe", recipe], ["--dataset", "demo", "--k", "5", "--set", f"{field}={value}"]):
        refused = run("plan", "--no-calibrate", "--progress", "none", *arguments)
        assert refused.exit_code == 2
        assert field in refused.stderr.splitlines()[0]


def test_an_option_of_another_adapter_is_refused_with_those_that_have_it() -> None:
    with pytest.raises(ConfigError) as refused:
        config_of("--dataset", "coco", "--caption-column", "title")
    assert refused.value.what == "--caption-column is no option of data set 'coco'"
    assert refused.value.expected == "a data set that has it: folder, table"


def test_a_file_is_a_table_and_its_folder_is_the_root() -> None:
    columns = ["--id-column", "a", "--image-column", "b", "--caption-column", "c", "--split-column", "d"]
    config = config_of("--file", "data/x.csv", "--photos", "data/pics", *columns)
    assert (config.dataset.name, config.dataset.root) == ("table", str(Path("data").absolute()))
    named = {"file": "x.csv", "photos": "pics", "image_id": "a", "image_file": "b", "caption": "c", "split": "d"}
    assert config.dataset.options == named
    config = config_of("--file", "sub/x.csv", "--photos", "pics", "--root", "data")
    assert (config.dataset.root, config.dataset.options) == ("data", {"file": "sub/x.csv", "photos": "pics"})


def test_an_adapter_speaks_of_options(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("no\twords\na.jpg\ta dog\n")
    refused = run("plan", "--file", tmp_path / "x.csv", "--no-calibrate")
    assert refused.exit_code == 3
    advice = refused.stderr.splitlines()[-1].strip()
    assert (
        advice
        == "what to do: name its columns with --id-column ... or --image-column ..., --caption-column ..., and so on"
    )


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
