"""Errors of foreign libraries and files as one `TeacherError` of bounded length; checks of arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from labelgen.errors import ConfigError, LabelgenError, TeacherError, some

_LONGEST = 200


def brief(value: object, limit: int = _LONGEST) -> str:
    """`str(value)` on one line, its middle left out where it is longer than `limit` characters."""
    text = str(value)
    if len(text) > limit:
        half = (limit - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text.replace("\n", " ")


def some_of(values: Iterable[object], limit: int = 5) -> str:
    """`errors.some` over names that may be very long."""
    listed = list(values)
    return some([*(brief(value, 80) for value in listed[:limit]), *listed[limit:]], limit)


def first_line(error: BaseException) -> str:
    """First line of the message of an exception, its kind where there is none."""
    return brief(next(iter(str(error).strip().splitlines()), type(error).__name__))


def reason_of(error: BaseException) -> str:
    """Kind and first line of an exception."""
    kind, first = type(error).__name__, first_line(error)
    return kind if first == kind else brief(f"{kind}: {first}")


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


def require_text(**arguments: object) -> None:
    """Refuse arguments of a spec that are neither text nor None.

    Raises:
        ConfigError: another type.
    """
    for name, value in arguments.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{name} of a teacher is {brief(repr(value))}", expected="a text in quotes")
        if value is not None and "\0" in value:
            raise ConfigError(f"{name} of a teacher has a NUL in it", found=brief(repr(value)), expected="a text")


def require_whole(name: str, value: object, least: int = 1, owner: str = "a teacher") -> None:
    """Refuse an argument of a spec that is not a whole number of at least `least`.

    Raises:
        ConfigError: another type or number.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} of {owner} is {brief(repr(value))}", expected=f"a whole number of at least {least}")
