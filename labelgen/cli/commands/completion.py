"""`labelgen completion`."""

from __future__ import annotations

import click

from labelgen.cli import show
from labelgen.cli.options import common
from labelgen.errors import ConfigError

_VARIABLE = "_LABELGEN_COMPLETE"
_FILES = {
    "bash": "~/.bash_completion.d/labelgen",
    "zsh": "a folder of $fpath, as _labelgen",
    "fish": "~/.config/fish/completions/labelgen.fish",
}


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(list(_FILES)))
@common
@click.pass_context
def command(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print the script with which a shell completes commands, options and the names of data sets, teachers and recipes.

    \b
    Examples:
      labelgen completion bash > ~/.bash_completion.d/labelgen
      labelgen completion zsh > ~/.zfunc/_labelgen
      labelgen completion fish > ~/.config/fish/completions/labelgen.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"this version of click has no completion for {shell}")
    script = kind(ctx.find_root().command, {}, "labelgen", _VARIABLE).source()
    if as_json:
        show.emit_json({"shell": shell, "file": _FILES[shell], "script": script})
    else:
        click.echo(script)
