"""Objects that sealed stores were made with, given again by the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labelgen import given
from labelgen.errors import StoreMismatchError
from labelgen.registry import unknown
from labelgen.teachers.objects.given_teacher import resolve_teachers


def sealed_objects(sealed: Sequence[Mapping[str, str]], teachers: Mapping[str, Any] | None) -> dict[str, given.Given]:
    """The objects by the texts of their specs.

    Args:
        sealed: alias -> the text of its spec, of every store; an object is that of one of them.
        teachers: alias -> the object, or `module:factory`.

    Raises:
        UnknownNameError: no store has a teacher of this alias.
        StoreMismatchError: it was made with another one.
    """
    specs, objects = resolve_teachers(teachers or {})
    for alias, spec in specs.items():
        made_with = dict.fromkeys(store[alias] for store in sealed if alias in store)
        if not made_with:
            raise unknown("teacher of the store", alias, dict.fromkeys(name for store in sealed for name in store))
        if str(spec) not in made_with:
            raise StoreMismatchError(
                f"the store was made with another teacher {alias!r}",
                found=str(spec),
                expected=" or ".join(made_with),
                todo="give the object that it was made with: same class, settings, weights and options of as_teacher",
            )
    return objects
