"""Descriptions of registered data sets and teachers, for the commands that list them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from labelgen.cli import show


def loaded(kind: str, name: str | None) -> dict[str, Any]:
    """Objects of a registry by name, or one of them; in a list, one that cannot be imported is its error.

    Raises:
        UnknownNameError: no such name.
    """
    from labelgen import registry

    if name is not None:
        return {name: registry.load(kind, name)}
    found: dict[str, Any] = {}
    for known in registry.names(kind):
        try:
            found[known] = registry.load(kind, known)
        except (ImportError, AttributeError) as error:  # of an outside package: the others are still worth listing
            found[known] = error
    return found


def arguments(made: Any, without: Sequence[str]) -> dict[str, str]:
    """Argument -> default as text, empty where one must be given."""
    parameters = inspect.signature(made).parameters
    return {
        name: "" if item.default is item.empty else repr(item.default)
        for name, item in parameters.items()
        if name not in without
    }


def print_blocks(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Name and summary, and below them what is known, word by word."""
    console = show.console()
    for name, facts in described.items():
        show.title(console, name)
        console.print(show.indented(show.plain(facts["summary"])))
        rows = [(word, value) for word, value in facts.items() if word != "summary" and value]
        console.print(show.indented(show.facts(rows)))
    console.print()
