"""Recipes: TOML in, TOML out, every field from the command line, near names for misspelt ones."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from labelgen import resources
from labelgen.config import (
    DatasetConfig,
    RunConfig,
    SearchConfig,
    changes,
    from_dict,
    override,
    parse_bytes,
    read_recipe,
)
from labelgen.errors import ConfigError, UnknownNameError
from labelgen.specs import Spec

DEMO = {"dataset": {"name": "demo"}, "teachers": {"text": "minilm()"}}


@pytest.mark.parametrize("name", resources.recipe_names())
def test_every_shipped_recipe_is_the_same_after_a_round_trip(name: str) -> None:
    config = from_dict(read_recipe(name))
    assert from_dict(config.to_dict()) == config


def test_overrides_set_fields_teachers_and_options() -> None:
    data = override(
        DEMO, ["search.k=10", "teachers.image=timm(model='vit')", "dataset.options.annotations=2017", "run.memory=2GB"]
    )
    config = from_dict(data)
    assert (config.search.k, config.run.memory) == (10, "2GB")
    assert config.teachers["image"] == Spec.of("timm", model="vit")
    assert config.dataset.options == {"annotations": 2017}
    assert "search" not in DEMO, "the recipe that was given is left as it was"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("serch.k=3", "'search'"),
        ("search.kk=3", "'k'"),
        ("search.k=three", "int"),
        ("search.k=0", "at least 1"),
        ("search.relations=t2x", "'t2t'"),
        ("search.relations=t2t.imagee", "imagee"),
        ("search.aggregation=median", "mean"),
        ("run.memory=4XB", "4GB"),
        ("run.executor=slurm", "local"),
        ("k=3", "table.field=value"),
        ("run.workers=true", "int"),
        ("dataset.root=true", "str"),
    ],
)
def test_wrong_fields_and_values_say_what_would_be_right(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(override(DEMO, [assignment]))
    assert words in str(caught.value)


def test_what_cannot_change_the_result_is_not_part_of_the_identity() -> None:
    config = from_dict(DEMO)
    elsewhere = replace(
        config,
        dataset=replace(config.dataset, root="/mnt/data"),
        search=replace(config.search, engine="numpy"),
        run=RunConfig(workers=8, memory="1GB", device="cuda", strict=True),
    )
    assert elsewhere.fingerprint() == config.fingerprint()
    assert replace(config, search=replace(config.search, k=3)).fingerprint() != config.fingerprint()


def test_changes_name_the_fields() -> None:
    old = from_dict(DEMO).identity()
    new = from_dict(override(DEMO, ["search.k=3", "teachers.image=conse()"])).identity()
    assert changes(old, new) == ["search.k: 64 -> 3", "teachers.image: (none) -> conse()"]


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4_000_000_000), ("512MiB", 536_870_912), ("1.5 kb", 1500), (7, 7), ("2_000", 2000)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


def test_an_unknown_recipe_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="demo"):
        read_recipe("dmo")


#: Every field of a recipe, by hand: another value of it, and whether it decides the result.
FIELDS = [
    ("dataset.name", "table", True),
    ("dataset.root", "elsewhere", False),
    ("dataset.splits", ["train"], True),
    ("dataset.limit", 10, True),
    ("dataset.options", {"file": "x.csv"}, True),
    ("dataset.damaged", "quarantine", True),
    ("dataset.patch", "p.json", False),
    ("dataset.patch_digest", "0a", True),
    ("teachers.text", "mpnet()", True),
    ("teachers.other", "minilm()", True),
    ("search.relations", ["t2t"], True),
    ("search.k", 65, True),
    ("search.aggregation", "mean", True),
    ("search.cross_k", 3, True),
    ("search.engine", "numpy", False),
    ("search.approximate", "faiss()", True),
    ("search.kinds", ["human"], True),
    ("run.executor", "dask", False),
    ("run.workers", 2, False),
    ("run.threads", 3, False),
    ("run.memory", "8GB", False),
    ("run.device", "cuda", False),
    ("run.scheduler", "tcp://a:1", False),
    ("run.strict", True, False),
]


@pytest.mark.parametrize(("field", "value", "decides"), FIELDS)
def test_which_fields_decide_the_result(field: str, value: object, decides: bool) -> None:
    """A field that decides must change the identity, or a resume mixes two results; one that does not must not."""
    plain: dict[str, Any] = {"dataset": {"name": "demo"}, "teachers": {"text": "minilm()"}}
    table, _, name = field.partition(".")
    changed = {**plain, table: {**plain.get(table, {}), name: value}}
    one, other = from_dict(plain), from_dict(changed)
    assert (one.identity() != other.identity()) is decides
    assert (one.fingerprint() != other.fingerprint()) is decides
    assert one.to_dict() != other.to_dict()


def test_every_field_is_in_the_list_above() -> None:
    """A field that is added says here what it is."""
    tables = (("dataset", DatasetConfig), ("search", SearchConfig), ("run", RunConfig))
    fields = {f"{table}.{field.name}" for table, kind in tables for field in dataclasses.fields(kind)}
    assert fields == {field for field, _, _ in FIELDS if not field.startswith("teachers.")}
