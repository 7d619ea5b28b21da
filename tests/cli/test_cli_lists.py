"""`datasets`, `teachers`, `recipes` and `completion`: what is registered, as its adapters describe it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from labelgen import registry, resources
from labelgen.cli import checks
from labelgen.cli.commands import extensions

Run = Callable[..., Result]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", ["dataset", "teacher"])
def test_everything_registered_is_listed(run: Run, kind: str) -> None:
    result = run(f"{kind}s")
    assert result.exit_code == 0
    headings = [line for line in result.stdout.splitlines() if line and not line.startswith(" ")]
    assert headings == registry.names(kind)
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_data_sets_say_what_they_expect(run: Run) -> None:
    described = json.loads(run("datasets", "--json").stdout)
    assert list(described) == registry.names("dataset")
    for facts in described.values():
        assert all(facts[word] for word in ("summary", "expects", "ids", "splits"))
    assert described["table"]["options"]["image_id"] == "'image_id'"


def test_options_of_a_data_set_are_settable(run: Run) -> None:
    shown = " ".join(run("datasets", "coco").stdout.split())
    assert "annotations='auto'" in shown
    assert "--set dataset.options.NAME=VALUE" in shown


def test_examples_of_teachers_are_specs_that_their_factories_take(run: Run) -> None:
    from labelgen.specs import Spec

    for name, facts in json.loads(run("teachers", "--json").stdout).items():
        spec = Spec.parse(facts["example"])
        assert spec.name == name
        registry.check_arguments("teacher", spec, registry.load("teacher", name), ("device",))
        assert facts["encodes"]
        assert facts["offline"]


def test_a_teacher_whose_packages_are_missing_shows_the_line_that_installs_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = [checks.Package("open_clip_torch", ">=2.26", "", in_range=False)]
    monkeypatch.setattr(checks, "packages", lambda _extra="": absent)
    shown = run("teachers", "open_clip").stdout
    assert 'missing open_clip_torch: pip install "labelgen[build]"' in shown


def test_an_extension_that_cannot_be_imported_does_not_hide_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry.load

    def load(kind: str, name: str) -> object:
        if name == "coco":
            raise ImportError("no module 'outside'")
        return real(kind, name)

    monkeypatch.setattr(registry, "load", load)
    result = run("datasets")
    assert result.exit_code == 0
    assert "cannot be loaded: no module 'outside'" in result.stdout
    assert "\ndemo\n" in result.stdout


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [("datasets", "cocoo", "coco"), ("teachers", "minlm", "minilm"), ("recipes", "dmeo", "demo")],
)
def test_unknown_names_offer_near_ones(run: Run, kind: str, name: str, near: str) -> None:
    result = run(kind, name)
    assert result.exit_code == 2
    assert f"'{near}'" in result.stderr


def test_recipes_are_listed_and_printed(run: Run) -> None:
    listed = run("recipes")
    assert [line for line in listed.stdout.splitlines() if line and line[0] != " "] == resources.recipe_names()
    assert list(json.loads(run("recipes", "--json").stdout)) == resources.recipe_names()
    printed = run("recipes", "demo").stdout
    assert printed == resources.recipe_path("demo").read_text(encoding="utf-8")
    assert json.loads(run("recipes", "demo", "--json").stdout) == tomllib.loads(printed)


def test_arguments_of_a_factory() -> None:
    def factory(*, model: str, size: int = 2, device: str = "cpu") -> None: ...

    assert extensions.arguments(factory, without=["device"]) == {"model": "", "size": "2"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    if shutil.which("bash") is None and shell == "bash":
        pytest.skip("click asks bash for its version")
    script = run("completion", shell).stdout
    assert "_LABELGEN_COMPLETE" in script
    assert json.loads(run("completion", shell, "--json").stdout)["script"].strip() == script.strip()
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_commands_and_names_complete() -> None:
    from labelgen.cli.completions import BashWords
    from labelgen.cli.main import cli

    def completions(words: list[str], incomplete: str) -> list[str]:
        found = BashWords(cli, {}, "labelgen", "_LABELGEN_COMPLETE").get_completions(words, incomplete)
        return [item.value for item in found]

    assert completions([], "d") == ["diff", "datasets", "doctor"]
    assert completions(["build", "--dataset"], "fl") == ["flickr30k", "flickr8k"]
    assert completions(["build", "--recipe"], "d") == ["demo"]
    assert completions(["build", "--teacher"], "text=mini") == ["text=minilm"]
    assert completions(["build", "--add-teacher"], "clip=cons") == ["clip=conse"]
    assert completions(["datasets"], "cu") == ["cusa"]
    assert completions(["recipes"], "wi") == ["wikipedia"]


def test_values_complete() -> None:
    from labelgen.audit.report.sections import SECTIONS
    from labelgen.cli.completions import BashWords
    from labelgen.cli.main import cli

    def values(*words: str) -> set[str]:
        found = BashWords(cli, {}, "labelgen", "_LABELGEN_COMPLETE").get_completions(list(words), "")
        return {item.value for item in found}

    relations = {"t2t", "i2i", "i2t", "t2i"}
    for words in (
        ("build", "--relation"),
        ("plan", "--relation"),
        ("build", "--add-relation"),
        ("inspect", "--relation"),
    ):
        assert values(*words) == relations
    assert values("audit", "--section") == set(SECTIONS)
    assert values("export", "--scheme") == set(registry.names("scheme"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("build --teacher text=mini", "build --teacher text=minilm "),
        ("build --teacher tex", "build --teacher text="),
        ("build --teacher text=minilm --recipe wi", "build --teacher text=minilm --recipe wikipedia "),
        ("build --recipe=wi", "build --recipe=wikipedia "),
        ("audit stores/demo --section noi", "audit stores/demo --section noisy_pairs "),
    ],
)
def test_bash_completes_with_tab(tmp_path: Path, run: Run, typed: str, completed: str) -> None:
    """A real bash breaks words at `=`: type, press tab, and print the line instead of running it."""
    (program := tmp_path / "labelgen").write_text(
        f"#!{sys.executable}\nfrom labelgen.cli.main import main\nmain()\n", encoding="utf-8"
    )
    program.chmod(0o755)
    (tmp_path / "rc").write_text(
        run("completion", "bash").stdout + 'bind -x \'"\\C-x": printf "<%s>" "$READLINE_LINE"\'\nPS1=ready\n',
        encoding="utf-8",
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("bash", ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"], environment)  # noqa: S606
    try:
        read_until(terminal, b"ready")
        os.write(terminal, f"labelgen {typed}\t\x18".encode())
        assert read_until(terminal, b">").endswith(f"<labelgen {completed}>".encode())
    finally:
        os.close(terminal)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def read_until(terminal: int, mark: bytes) -> bytes:
    """What a terminal shows up to a mark; 60 seconds at most."""
    shown, end = b"", time.monotonic() + 60
    while not shown.endswith(mark) and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 1)
    return shown
