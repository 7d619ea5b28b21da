"""Messages: their parts in order, bounded, and the same after a journey between processes."""

from __future__ import annotations

import errno
import json
import pickle

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from labelgen import errors
from labelgen.cli.main import Commands
from labelgen.errors import DatasetError, LabelgenError, UnknownIdError, missing_extra, shortened, some

LONG = "\x00\xff picture " * 80_000  # 861 thousand characters and more, as the bytes of a photograph read as text


def test_the_parts_stand_in_order() -> None:
    error = LabelgenError("a is b", found="b", expected="a", todo="make it a")
    assert str(error) == "a is b\n  found: b\n  expected: a\n  what to do: make it a"
    assert str(UnknownIdError("no such id")) == "no such id"


@pytest.mark.parametrize("part", ["what", "found", "expected", "todo"])
def test_no_part_of_a_message_is_longer_than_two_thousand_characters(part: str) -> None:
    parts = {"what": "w", "found": "f", "expected": "e", "todo": "t", part: LONG}
    error = DatasetError(parts.pop("what"), **parts)
    assert len(getattr(error, part)) <= 2_000
    assert getattr(error, part).startswith(LONG[:1_900])
    assert getattr(error, part).endswith(f"... ({len(LONG):,} characters)")
    assert len(str(error)) < 2_100
    assert len(str(error.args[0])) < 2_100


def test_all_parts_together_are_bounded() -> None:
    assert len(str(LabelgenError(LONG, found=LONG, expected=LONG, todo=LONG))) < 8_100


def test_an_error_is_the_same_in_another_process() -> None:
    error = DatasetError(LONG, found="f" * 2_001, expected="e" * 2_000, todo="t")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DatasetError
    assert (str(again), again.found, again.expected) == (str(error), error.found, "e" * 2_000)


@given(st.text(max_size=60), st.integers(30, 50))
def test_shortened(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert len(short) <= limit
    assert (short == text) == (len(text) <= limit)
    assert shortened(short, limit) == short


def test_a_list_of_ids_is_bounded_in_both_directions() -> None:
    assert some(["a", "b"]) == "'a', 'b'"
    assert some([("x" * 100, 7)]) == f"('{'x' * 100}', 7)"
    assert len(some([10**100_000, ["y" * 10**6] * 10**5])) < 5 * 1_000
    listed = some([LONG] * 100_000)
    assert len(listed) < 5 * 1_000
    assert listed.endswith(" and 99995 more")


def _group(error: Exception) -> click.Group:
    @click.group(cls=Commands)
    def group() -> None: ...

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    @click.pass_context
    def fail(ctx: click.Context, as_json: bool) -> None:
        ctx.meta["labelgen.json"] = as_json
        raise error

    group.get_command = lambda ctx, name: fail  # type: ignore[method-assign]
    return group


@pytest.mark.parametrize("error", [DatasetError("w", found=LONG), ValueError(LONG)])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_line_prints_a_bounded_message(error: Exception, options: list[str]) -> None:
    result = CliRunner().invoke(_group(error), ["verify", *options])
    assert result.exit_code == (3 if isinstance(error, DatasetError) else 70)
    assert len(result.stderr) < 10_000
    if options:
        assert json.loads(result.stderr)["exit_code"] == result.exit_code


#: Exit codes as docs and help name them, by hand.
CODES = {
    errors.LabelgenError: 1,
    errors.ConfigError: 2,
    errors.SpecError: 2,
    errors.UnknownNameError: 2,
    errors.BudgetError: 2,
    errors.DatasetError: 3,
    errors.TeacherError: 4,
    errors.StoreError: 5,
    errors.StoreNotFoundError: 5,
    errors.StoreFormatError: 5,
    errors.StoreMismatchError: 5,
    errors.StoreBusyError: 5,
    errors.CorruptStoreError: 5,
    errors.UnknownIdError: 5,
    errors.MissingItemError: 5,
    errors.ArrayError: 1,
    errors.DiskError: 6,
    errors.MissingExtraError: 7,
    errors.WorkerError: 1,
}


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_the_exit_code_of_every_error(kind: type[LabelgenError], code: int) -> None:
    result = CliRunner().invoke(_group(kind("said")), ["verify"])
    assert (result.exit_code, result.stderr) == (code, "error: said\n")


def test_every_error_is_in_the_table_above() -> None:
    def below(kind: type[LabelgenError]) -> set[type[LabelgenError]]:
        return {kind}.union(*(below(sub) for sub in kind.__subclasses__() if sub.__module__ == errors.__name__))

    assert below(LabelgenError) == set(CODES)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, 6), (errno.EDQUOT, 6), (errno.EROFS, 6), (errno.EACCES, 6), (errno.EPERM, 6), (errno.EFBIG, 6),
        (errno.EIO, 6), (errno.ENAMETOOLONG, 2), (errno.ENOTDIR, 2), (errno.ELOOP, 2), (errno.EISDIR, 2),
        (errno.ENXIO, 2), (errno.EBADF, 70),
    ],
)  # fmt: skip
def test_the_exit_code_of_what_the_system_says(number: int, code: int) -> None:
    result = CliRunner().invoke(_group(OSError(number, "said", "a\nplace")), ["verify"])
    assert result.exit_code == code
    assert "said" in result.stderr


def test_a_package_that_no_extra_holds_is_installed_by_its_name() -> None:
    assert missing_extra("datasets", "", "a saved data set").todo == "pip install datasets"
    assert missing_extra("torch", "build", "a teacher").todo == 'pip install "labelgen[build]"'
