"""Print = parse, and nothing is ever evaluated."""

from __future__ import annotations

import keyword
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelgen.errors import ConfigError, LabelgenError, MissingExtraError, SpecError, UnknownIdError, some
from labelgen.registry import check_arguments, create, load, names
from labelgen.specs import Spec

LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda word: word != "name" and not keyword.iskeyword(word)
)


@given(WORDS, st.dictionaries(WORDS, LITERALS, max_size=4))
def test_print_and_parse_are_inverse(name: str, arguments: dict[str, object]) -> None:
    spec = Spec.of(name, **arguments)
    assert Spec.parse(str(spec)) == spec
    assert str(Spec.parse(str(spec))) == str(spec)
    assert hash(Spec.parse(str(spec))) == hash(spec)


def test_order_and_spaces_do_not_count() -> None:
    assert Spec.parse(" sbert( text='cusa',model = 'x') ") == Spec.parse("sbert(model='x', text='cusa')")
    assert str(Spec.parse("minilm")) == "minilm()"


@pytest.mark.parametrize(
    "text",
    ["", "minilm(", "minilm(1)", "minilm(a=b)", "__import__('os').system('true')", "a.b()", "f(**x)", "f(a=1, a=2)",
     "f(a={1})", "f(a=open('x'))", "f() + g()", "f(a=-x)"],
)  # fmt: skip
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Spec.parse(text)


def test_the_registry_offers_near_names_and_checks_arguments() -> None:
    with pytest.raises(ConfigError, match="'minilm'"):
        load("teacher", "minlm")
    with pytest.raises(SpecError, match="'batch'"):
        create("teacher", Spec.of("minilm", batchs=3), device="cpu")
    with pytest.raises(SpecError, match="needs 'model'"):
        check_arguments("teacher", Spec("sbert"), load("teacher", "sbert"), ("device",))


@pytest.mark.parametrize("kind", ["dataset", "teacher", "engine", "executor"])
def test_everything_registered_can_be_loaded(kind: str) -> None:
    assert names(kind)
    for name in names(kind):
        assert callable(load(kind, name))


def test_errors_survive_pickling_and_keep_their_parts() -> None:
    error = UnknownIdError("no such id", found="'x'", expected="'y'", todo="look")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is UnknownIdError
    assert str(again) == str(error) == "no such id\n  found: 'x'\n  expected: 'y'\n  what to do: look"
    assert isinstance(again, KeyError)
    assert isinstance(again, LabelgenError)
    assert issubclass(MissingExtraError, ImportError)


def test_some_lists_a_few() -> None:
    assert some("abc") == "'a', 'b', 'c'"
    assert some(range(8)) == "0, 1, 2, 3, 4 and 3 more"
