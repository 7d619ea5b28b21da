"""Errors of foreign libraries and files as one `TeacherError` of bounded length; checks of arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labelgen.errors import MAX_VALUE, ConfigError, LabelgenError, TeacherError, shortened


def first_line(error: BaseException) -> str:
    """First line of the message of an exception, its kind where there is none."""
    return shortened(next(iter(str(error).strip().splitlines()), type(error).__name__), MAX_VALUE)


def reason_of(error: BaseException) -> str:
    """Kind and first line of an exception."""
    kind, first = type(error).__name__, first_line(error)
    return kind if first == kind else shortened(f"{kind}: {first}", MAX_VALUE)


@contextmanager
def foreign(what: str, *, expected: str = "", todo: str = "") -> Iterator[None]:
    """Turn whatever a foreign library raises inside into a `TeacherError`; errors of labelgen and a full memory pass.

    Libraries of models raise a dozen kinds of exceptions for one cause (an index out of range, a shape, a device).
    """
    try:
        yield
    except (LabelgenError, MemoryError):
        raise
    except Exception as error:
        raise TeacherError(what, found=reason_of(error), expected=expected, todo=todo) from error


def require_least(name: str, value: int, least: int = 1, owner: str = "a teacher") -> None:
    """Refuse a whole number below `least`.

    Raises:
        ConfigError: names the argument.
    """
    if value < least:
        raise ConfigError(f"{name} of {owner} is {value}", expected=f"a whole number of at least {least}")
