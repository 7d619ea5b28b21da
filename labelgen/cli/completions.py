"""Shell completion of option values: registered names, relations, teachers, sections of the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import BashComplete, CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(known: Callable[[], Iterable[str]]) -> Completer:
    """Offer the known words that begin with what was typed."""

    def complete(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in known() if word.startswith(incomplete)]

    return complete


def registered(kind: str) -> Completer:
    """Complete the names of a registry, or of the shipped recipes."""

    def known() -> Iterable[str]:
        from labelgen import registry, resources

        return resources.recipe_names() if kind == "recipe" else registry.names(kind)

    return _completer(known)


def _relations() -> list[str]:
    from labelgen.types import Relation

    return [relation.value for relation in Relation]


def _sections() -> list[str]:
    from labelgen.audit.report.sections import SECTIONS

    return list(SECTIONS)


relations = _completer(_relations)
sections = _completer(_sections)


def teachers(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete `alias=name`. Names stand without parentheses, which a shell would want quoted."""
    from labelgen import registry

    alias, equals, begun = incomplete.partition("=")
    if not equals:
        return [CompletionItem(f"{word}=") for word in ("text", "image") if word.startswith(alias)]
    return [CompletionItem(f"{alias}={name}") for name in registry.names("teacher") if name.startswith(begun)]


class BashWords(BashComplete):
    """Bash breaks words at `=`: join them again to complete, and return only what follows the last `=`."""

    #: No space behind `text=`: the name of the teacher comes next.
    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value)\n            [[ $value == *= ]] && compopt -o nospace"
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        arguments, incomplete = super().get_completion_args()
        if incomplete == "=":
            arguments, incomplete = [*arguments, "="], ""
        joined: list[str] = []
        for word in [*arguments, incomplete]:
            if joined and (word == "=" or joined[-1].endswith("=")):
                joined[-1] += word
            else:
                joined.append(word)
        return joined[:-1], joined[-1]

    def format_completion(self, item: CompletionItem) -> str:
        _, incomplete = self.get_completion_args()
        start = incomplete.rfind("=") + 1
        return f"{item.type},{item.value[start:] if item.value.startswith(incomplete[:start]) else item.value}"
