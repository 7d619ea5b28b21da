"""Every command explains itself, and docs/cli.md says the same."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from labelgen.cli import exits
from labelgen.cli.main import SECTIONS, cli

Run = Callable[..., Result]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
NAMES = [name for names in SECTIONS.values() for name in names]
#: Described once, in the section on what all commands share.
SHARED = {"--json", "--debug", "--help", "--progress"}


def sections() -> dict[str, str]:
    """The text of docs/cli.md by heading."""
    parts = re.split(r"^## (.+)$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def options_of(name: str) -> set[str]:
    """Long options of a command, both words of a pair like --calibrate/--no-calibrate."""
    parameters = [item for item in command_of(name).params if isinstance(item, click.Option)]
    return {word for item in parameters for word in (*item.opts, *item.secondary_opts) if word.startswith("--")}


def examples_of(name: str) -> list[str]:
    help_text = command_of(name).help or ""
    return [line.strip() for line in help_text.splitlines() if line.strip().startswith("labelgen ")]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_an_example_and_a_short_help(name: str, run: Run) -> None:
    command = command_of(name)
    assert (command.help or "").strip()
    assert command.short_help
    assert any(example.startswith(f"labelgen {name}") for example in examples_of(name))
    shown = run(name, "--help")
    assert shown.exit_code == 0
    assert all(example in shown.stdout for example in examples_of(name))
    assert {"--json", "--debug"} <= options_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_does(name: str) -> None:
    silent = [item.name for item in command_of(name).params if isinstance(item, click.Option) and not item.help]
    assert silent == []


@pytest.mark.parametrize(
    "name", ["plan", "build", "work", "verify", "query", "diff", "audit", "card", "export", "doctor"]
)
def test_every_long_command_has_progress(name: str) -> None:
    assert "--progress" in options_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_section_with_its_examples(name: str) -> None:
    section = sections()[f"labelgen {name}"]
    fence = re.search(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert fence is not None
    assert fence.group(1).splitlines() == examples_of(name)
    assert f"[{name}](#labelgen-{name})" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_options_in_the_docs_are_those_of_the_command(name: str) -> None:
    section, known = words_of(sections()[f"labelgen {name}"]), options_of(name)
    shared = (
        options_of("build") if name in ("plan", "work", "datasets", "recipes", "completion") else set()
    )  # they point at build
    assert section - known - shared - SHARED == set()
    described = section | (words_of(sections()["labelgen build"]) if name in ("plan", "work") else set())
    assert known - described - SHARED == set()


def calls() -> dict[str, list[str]]:
    """The calls that the first table names, by command."""
    rows = re.findall(
        r"^\| \[(\w+)\]\(#labelgen-\w+\) \| .* \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {name: re.findall(r"`((?:labelgen|click)\.[\w.]+)`", cell) for name, cell in rows}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_names_a_call_that_exists(name: str) -> None:
    """Reached by attributes from `import labelgen` alone, except for what belongs to the command line."""
    assert calls()[name]
    for dotted in calls()[name]:
        found = pkgutil.resolve_name(dotted)
        assert callable(found)
        if not dotted.startswith(("labelgen.cli.", "click.")):
            code = f"import labelgen; assert callable({dotted})"
            subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("datasets", "teachers", "completion")])
def test_a_command_uses_the_calls_that_it_names(name: str) -> None:
    (path,) = (DOCS.parents[1] / "labelgen" / "cli" / "commands").rglob(f"{name}.py")
    source = path.read_text(encoding="utf-8")
    assert {
        word for dotted in calls()[name] if not re.search(rf"\b{(word := dotted.rpartition('.')[2])}\b", source)
    } == set()


def test_shared_options_are_described_once() -> None:
    assert words_of(sections()["What all commands share"]) >= SHARED


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_commands_that_exist(name: str) -> None:
    for example in examples_of(name):
        other = example.split()[1]
        assert words_of(example) <= options_of(other)


def test_exit_codes_are_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", sections()["Exit codes"], flags=re.MULTILINE)
    plain = {int(code): meaning.replace("`", "").replace("\\|", "|") for code, meaning in rows}
    assert plain == exits.EXIT_CODES


def test_fields_named_in_the_docs_exist() -> None:
    from labelgen import config

    named = re.findall(r"`((?:dataset|search|run)\.\w+)`", sections()["labelgen build"])
    assert len(named) > 15
    known = {
        f"{table}.{field}"
        for table, kind in (
            ("dataset", config.DatasetConfig),
            ("search", config.SearchConfig),
            ("run", config.RunConfig),
        )
        for field in kind.__dataclass_fields__
    }
    assert set(named) <= known
