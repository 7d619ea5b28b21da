"""Command-line interface: import the command that is called, turn every error into a message and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

import click
from click.shell_completion import add_completion_class

from labelgen.cli import completions, exits
from labelgen.errors import ConfigError, LabelgenError, printed, visible
from labelgen.lazy import collect_rarely

#: Commands by what they are for, in the order of the help. Each lives in the module of its name, as `command`.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Make a store": ("plan", "build", "work", "status"),
    "Look at a store": ("verify", "inspect", "query", "diff", "audit", "card"),
    "Use a store": ("export", "push", "pull"),
    "Find out": ("datasets", "teachers", "recipes", "doctor", "completion"),
}

#: Commands in a folder of their own.
_FOLDERS = {"work": "ranks.", "push": "remote.", "pull": "remote."}


class Commands(click.Group):
    """A group that imports a command when it is used and turns every error into a message and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in ("json", "debug"):  # before anything is parsed: an error of parsing obeys them too
            ctx.meta[f"labelgen.{word}"] = f"--{word}" in args
        if not args:  # the help
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            _refuse(ctx, error)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = f"{_FOLDERS.get(cmd_name, '')}{cmd_name}"
        command: click.Command = importlib.import_module(f"labelgen.cli.commands.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            from labelgen.registry import unknown

            raise unknown("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                commands = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl([(name, command.get_short_help_str(76)) for name, command in commands if command])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in exits.EXIT_CODES.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _interrupted(ctx)
        except BrokenPipeError:
            _reader_gone()
        except Exception as error:
            _refuse(ctx, error)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "--version", package_name="labelgen", message="labelgen %(version)s")
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error; every command takes it too."
)
def cli() -> None:
    """Offline soft labels for image-text retrieval: embed once, search exactly, train anywhere.

    \b
      labelgen build --dataset demo             real photographs and teachers, no download
      labelgen inspect stores/demo              what came out
      labelgen build --help                     every option of a command
    """


add_completion_class(completions.BashWords, "bash")


def main() -> None:
    """Run the console script."""
    collect_rarely()
    signal.signal(signal.SIGTERM, _terminated)
    cli(prog_name="labelgen")


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _refuse(ctx: click.Context, error: Exception) -> NoReturn:
    """Print one message on stderr, with --debug the traceback too, and exit with the code of the error."""
    if ctx.meta.get("labelgen.debug"):
        click.echo(visible("".join(traceback.format_exception(error)), lines=True), err=True)
    if isinstance(error, click.ClickException):
        error = _usage_error(error)
    code, text = _explain(error)
    if ctx.meta.get("labelgen.json"):
        parts = {name: getattr(error, name) for name in ("what", "found", "expected", "todo") if hasattr(error, name)}
        answer = {"kind": "error", "error": type(error).__name__, "exit_code": code, **(parts or {"what": text})}
        click.echo(json.dumps(answer), err=True)
    else:
        click.echo(click.style("error: ", fg="red", bold=True) + text, err=True)
    ctx.exit(code)


def _usage_error(error: click.ClickException) -> ConfigError:
    """An error of parsing options, in the form of all others."""
    what, near = " ".join(error.format_message().split()).rstrip("."), ""
    if isinstance(error, click.NoSuchOption):
        what = f"there is no option {error.option_name!r}"
        near = f"did you mean {' or '.join(error.possibilities)}? " if error.possibilities else ""
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "labelgen"
    return ConfigError(what[:1].lower() + what[1:], todo=f"{near}`{command} --help` lists the options")


def _explain(error: Exception) -> tuple[int, str]:
    if isinstance(error, LabelgenError):
        return error.exit_code, str(error)
    if isinstance(error, OSError) and error.errno in exits.DISK_ERRNOS:
        todo = "free space or choose another folder; finished tasks are kept, the same command resumes"
        return exits.DISK, f"{error.strerror}: {visible(str(error.filename or 'no file named'))}\n  what to do: {todo}"
    if isinstance(error, OSError) and error.errno in exits.PATH_ERRNOS:
        path = printed(str(error.filename or "no path named"))
        return exits.USAGE, f"{error.strerror}: {path}\n  what to do: give another path"
    text = printed(f"unexpected {type(error).__name__}: {error}")
    return exits.UNEXPECTED, f"{text}\n  what to do: --debug shows where it happened; please report it"


def _interrupted(ctx: click.Context) -> NoReturn:
    how_to_resume = ctx.meta.get("labelgen.resume", "")
    click.echo(f"\ninterrupted{': ' if how_to_resume else ''}{how_to_resume}", err=True)
    ctx.exit(exits.INTERRUPTED)


def _reader_gone() -> NoReturn:
    # The interpreter flushes stdout once more at exit: give it somewhere to go.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exits.READER_GONE)
