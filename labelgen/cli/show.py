"""Output of results: one console, sizes, durations and counts in readable units, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from labelgen.errors import visible
from labelgen.units import count, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # a path may have bytes that are no UTF-8, and a text marks that a terminal obeys: JSON has escapes for both
    click.echo("".join(mark if mark.isprintable() or mark == "\n" else _escaped(mark) for mark in text))


def _escaped(mark: str) -> str:
    return json.dumps(mark)[1:-1] if mark != "\x7f" else "\\u007f"


def console(*, stderr: bool = False) -> Console:
    """At most 100 columns wide, 100 where there is no terminal; file names are never coloured by guesswork."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    made = Piped(file=stream, highlight=False, width=None if stream.isatty() else WIDTH, emoji=False)
    made.width = min(made.width, WIDTH)
    return made


def title(console: Console, name: str, words: str = "", style: str = "") -> None:
    """Print a heading: a name, and a word on its state."""
    console.print()
    texts = [plain(name, "bold"), *([plain(words, style)] if words else [])]
    console.print(*texts, sep="  ", soft_wrap=True)


def notes(console: Console, sentences: Iterable[str]) -> None:
    """Print notes, one a line."""
    for sentence in sentences:
        console.print(plain(f"note: {sentence}", "yellow"))


def facts(rows: Iterable[tuple[str, Any]]) -> Table:
    """Two columns without lines: what, value. A value may be text or anything rich draws."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for what, value in rows:
        grid.add_row(what, value if hasattr(value, "__rich_console__") else lines(str(value)))
    return grid


def indented(content: Any) -> Any:
    from rich.padding import Padding

    return Padding(content, (0, 0, 0, 2))


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table with a line under its head; the columns named in `right` hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in set(right) else "left", overflow="fold")
    return made


def plain(text: str, style: str = "") -> Any:
    """Text that is shown as it is: brackets in a file name are no markup."""
    from rich.text import Text

    return Text(visible(text), style=style)


def lines(text: str) -> Any:
    """Several lines, without markup."""
    from rich.text import Text

    return Text("\n").join(Text(visible(line)) for line in text.split("\n"))


def shortened(text: str, length: int) -> str:
    """The beginning of a long text, on one line."""
    words = visible(" ".join(text.split()))
    return words if len(words) <= length else f"{words[: length - 3]}..."


def ledger(accounts: Iterable[Mapping[str, Any]]) -> str:
    """The account of a data set, a line a unit: `members: 36 seen, 30 used, 6 skipped (6 no photograph)`."""
    return "\n".join(_account(account) for account in accounts) or "not recorded"


def _account(account: Mapping[str, Any]) -> str:
    parts = [f"{count(account['used'])} used"]
    for fate in ("quarantined", "skipped"):
        tallies = account[fate]
        if tallies:
            kinds = ", ".join(f"{count(tally['count'])} {kind}" for kind, tally in tallies.items())
            parts.append(f"{count(sum(tally['count'] for tally in tallies.values()))} {fate} ({kinds})")
    return f"{account['unit']}: {count(account['seen'])} seen, {', '.join(parts)}"


def lists(paths: Iterable[str], notes: Mapping[str, str]) -> str:
    """Neighbour lists, one a line, with what is special about them."""
    named = [(path.partition("/")[2], notes.get(path, "")) for path in paths]
    return "\n".join(f"{name}  {text}" if text else name for name, text in named) or "none"


def stages(taken: Mapping[str, Mapping[str, Any]]) -> str:
    """The stages that took time, in the order they ran, and what was planned for them."""
    texts = []
    for name, facts in taken.items():
        seconds, planned = facts.get("seconds", 0.0), facts.get("planned_seconds")
        if max(seconds, planned or 0.0) >= 0.05:
            texts.append(f"{name} {duration(seconds)}" + ("" if planned is None else f" (planned {duration(planned)})"))
    return ", ".join(texts)


def shell_path(path: Any) -> str:
    """A path as one types it: relative where that is shorter, quoted where it must be; an address as it is."""
    import shlex

    if "://" in str(path):
        return shlex.quote(str(path))
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links that the user named
    relative = os.path.relpath(absolute)
    return shlex.quote(min(relative, absolute, key=len))
