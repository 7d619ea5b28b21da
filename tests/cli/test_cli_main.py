"""The group: lazy commands, one place for errors, exit codes that are documented."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from click.testing import Result

from labelgen import errors
from labelgen.cli import exits, main

Run = Callable[..., Result]

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `labelgen status X` raise what a test wants."""

    def raise_in_status(error: BaseException) -> None:
        def status(_path: str) -> None:
            raise error

        monkeypatch.setattr("labelgen.pipeline.status", status)

    return raise_in_status


def every_error(kind: type[errors.LabelgenError] = errors.LabelgenError) -> Iterator[type[errors.LabelgenError]]:
    if kind.__module__ == errors.__name__:
        yield kind
    for below in kind.__subclasses__():
        yield from every_error(below)


def test_help_of_the_group_names_every_command_and_exit_code(run: Run) -> None:
    shown = run("--help").stdout
    for names in main.SECTIONS.values():
        for name in names:
            assert f"  {name} " in shown
    for code in exits.EXIT_CODES:
        assert f"\n  {code} " in shown


def test_short_helps_are_not_cut_off(run: Run) -> None:
    commands = run("--help").stdout.split("Make a store:")[1].split("Exit codes:")[0]
    assert "..." not in commands


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "labelgen")


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["doctor", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    heavy = ["torch", "polars", "zarr", "dask", "pyarrow", "numpy", "rich", "transformers", "PIL"]
    code = (
        "import sys\nfrom labelgen.cli.main import main\n"
        f"sys.argv = ['labelgen', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('loaded', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_unknown_command_offers_near_names(run: Run) -> None:
    result = run("buidl")
    assert result.exit_code == 2
    assert "'build'" in result.stderr
    assert result.stdout == ""


def test_unknown_option_is_a_usage_error(run: Run) -> None:
    result = run("build", "--datset", "demo")
    assert result.exit_code == 2
    assert "--dataset" in result.stderr


def test_every_exit_code_of_an_error_is_documented() -> None:
    assert {kind.exit_code for kind in every_error()} <= set(exits.EXIT_CODES)


@pytest.mark.parametrize("kind", list(every_error()), ids=lambda kind: kind.__name__)
def test_an_error_is_a_message_on_stderr_and_its_exit_code(
    run: Run, failing: Callable[..., None], kind: type[errors.LabelgenError]
) -> None:
    failing(kind("this is wrong", found="a", expected="b", todo="do c"))
    result = run("status", "x")
    assert result.exit_code == kind.exit_code
    assert result.stderr == "error: this is wrong\n  found: a\n  expected: b\n  what to do: do c\n"
    assert result.stdout == ""


def test_an_error_is_json_when_json_was_asked_for(run: Run, failing: Callable[..., None]) -> None:
    failing(errors.StoreBusyError("in use", found="process 7"))
    result = run("status", "x", "--json")
    assert result.stdout == ""
    assert json.loads(result.stderr) == {
        "kind": "error",
        "error": "StoreBusyError",
        "exit_code": 5,
        "what": "in use",
        "found": "process 7",
        "expected": "",
        "todo": "",
    }


@pytest.mark.parametrize("arguments", [("--debug", "status", "x"), ("status", "x", "--debug")])
def test_debug_shows_the_traceback(run: Run, failing: Callable[..., None], arguments: tuple[str, ...]) -> None:
    failing(errors.StoreBusyError("in use"))
    result = run(*arguments)
    assert result.exit_code == 5
    assert "Traceback" in result.stderr
    assert "error: in use" in result.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_has_its_own_exit_code(run: Run, failing: Callable[..., None], number: int) -> None:
    failing(OSError(number, "the system's words", "/data/x"))
    result = run("status", "x")
    assert result.exit_code == exits.DISK
    assert "the system's words: /data/x" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bug_says_so_without_a_traceback(run: Run, failing: Callable[..., None]) -> None:
    failing(ZeroDivisionError("division by zero"))
    result = run("status", "x")
    assert result.exit_code == exits.UNEXPECTED
    assert "ZeroDivisionError" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupt_ends_with_130(run: Run, failing: Callable[..., None]) -> None:
    failing(KeyboardInterrupt())
    result = run("status", "x")
    assert result.exit_code == exits.INTERRUPTED
    assert result.stderr.strip() == "interrupted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--verison",), "there is no option '--verison'"),
        (("build", "--datset", "demo"), "there is no option '--datset'"),
        (("build", "--k", "x"), "invalid value for '--k': 'x' is not a valid integer"),
        (("build", "--executor", "x"), "invalid value for '--executor': 'x' is not one of 'local', 'dask'"),
        (("build", "--k"), "option '--k' requires an argument"),
        (("export", "s", "--out", "x"), "missing option '--for'. Choose from: listwise-itr, itm-cls,"),
        (("status",), "missing argument 'PATH'"),
        (("status", "a", "b"), "got unexpected extra argument (b)"),
    ],
)
def test_usage_errors_look_like_all_others(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == exits.USAGE
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.splitlines()[-1].startswith("  what to do: ")
    assert "Usage:" not in result.stderr
    assert "\\t" not in result.stderr


def test_usage_errors_obey_json_and_debug(run: Run) -> None:
    answer = json.loads(run("build", "--json", "--datset", "demo").stderr)
    assert (answer["error"], answer["exit_code"]) == ("ConfigError", 2)
    assert answer["todo"].startswith("did you mean --dataset")
    assert "Traceback" in run("build", "--datset", "--debug").stderr


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    assert "Make a store:" in run().output


def test_the_real_program_shows_no_traceback(shell: Shell) -> None:
    done = shell("verify", "nowhere")
    assert done.returncode == 5
    assert done.stdout == ""
    assert "there is no store at" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    code = "from labelgen.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "datasets", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.wait(timeout=60)
    assert said == ""
    assert process.returncode == exits.READER_GONE
