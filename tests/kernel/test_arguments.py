"""Arguments of specs: their types are looked at before anything is loaded, whoever takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest

from labelgen import registry
from labelgen.config import from_dict
from labelgen.errors import ConfigError, SpecError
from labelgen.specs import Spec

if TYPE_CHECKING:
    from nowhere import Nothing


def target(
    *,
    name: str = "",
    count: int = 0,
    share: float = 0.0,
    maybe: str | None = None,
    one: Literal["a", "b"] = "a",
    listed: Sequence[str] = (),
    either: str | tuple[str, ...] = (),
    table: Mapping[str, Any] | None = None,
    free: Any = None,
) -> None: ...


def unresolved(*, name: Nothing = None, other: str = "") -> None: ...


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"name": "a"}, True),
        ({"name": 5}, False),
        ({"name": None}, False),
        ({"count": 3}, True),
        ({"count": 3.5}, False),
        ({"count": "3"}, False),
        ({"share": 1}, True),
        ({"share": 0.5}, True),
        ({"share": "0.5"}, False),
        ({"maybe": None}, True),
        ({"maybe": []}, False),
        ({"one": "c"}, True),  # which words there are is said by the adapter, with near ones
        ({"one": 1}, False),
        ({"listed": ["a", "b"]}, True),
        ({"listed": ["a", 1]}, False),
        ({"listed": "a"}, False),
        ({"either": "a"}, True),
        ({"either": ["a"]}, True),
        ({"either": 1}, False),
        ({"table": {"a": 1}}, True),
        ({"table": ["a"]}, False),
        ({"free": [1]}, True),
    ],
)
def test_types_of_arguments(arguments: dict[str, Any], right: bool) -> None:
    spec = Spec("target", arguments)
    if right:
        registry.check_arguments("teacher", spec, target)
        return
    with pytest.raises(SpecError, match="has the wrong type") as refused:
        registry.check_arguments("teacher", spec, target)
    assert repr(next(iter(arguments))) in refused.value.what


def test_types_that_only_type_checkers_know_are_not_looked_at() -> None:
    registry.check_arguments("teacher", Spec("x", {"name": 1, "other": 1}), unresolved)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("dataset", "table(file=0.5)"),
        ("dataset", "webdataset(caption_field=[1])"),
        ("teacher", "sbert(model=5)"),
        ("teacher", "precomputed(path=['a'])"),
        ("teacher", "minilm(batch='x')"),
        ("scheme", "fine_grained(gamma='x')"),
        ("scheme", "bcls(text=1)"),
    ],
)
def test_the_adapters_that_ship(kind: str, spec: str) -> None:
    parsed = Spec.parse(spec)
    with pytest.raises(SpecError, match="has the wrong type"):
        registry.check_arguments(kind, parsed, registry.load(kind, parsed.name), ("root", "device"))


@pytest.mark.parametrize("value", [1, "minilm()", [1], True, 0.5])
def test_teachers_that_are_no_table(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"\[teachers\] is not a table"):
        from_dict({"dataset": {"name": "demo"}, "teachers": value})
