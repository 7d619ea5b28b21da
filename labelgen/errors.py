"""Errors that labelgen raises on purpose.

The tree (each class also inherits the builtin that a caller would catch)::

    LabelgenError
    ├── ConfigError (ValueError)            a recipe, flag or spec is wrong                     exit 2
    │   ├── SpecError                       "sbert(model=" does not parse
    │   ├── UnknownNameError (LookupError)  no such dataset, teacher, recipe ...
    │   └── BudgetError                     --memory is too small for one unit of work
    ├── DatasetError (ValueError)           the data is not what its adapter expects            exit 3
    ├── TeacherError (RuntimeError)         a teacher cannot be loaded or returns nonsense      exit 4
    ├── StoreError (OSError)                anything about a store folder                       exit 5
    │   ├── StoreNotFoundError (FileNotFoundError)
    │   ├── StoreFormatError                another format version, or not a store at all
    │   ├── StoreMismatchError              resume or change with another configuration
    │   ├── StoreBusyError                  another build is alive in this folder
    │   └── CorruptStoreError               bytes differ from what was sealed
    ├── UnknownIdError (KeyError)           ids that are not in the store                       exit 5
    ├── MissingItemError (LookupError)      ids whose embedding is missing (quarantined)        exit 5
    ├── WorkerError (RuntimeError)          a worker process died                               exit 1
    ├── ArrayError (ValueError)             an array given to a scheme or a loss is wrong       exit 1
    ├── DiskError (OSError)                 the disk is full or read-only                       exit 6
    └── MissingExtraError (ImportError)     an optional dependency is not installed             exit 7

A message says what was found, what was expected and what to do, in this order. The length of each part is bounded,
because quoted input, such as the bytes of a picture in a text file, can have any length.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

#: Characters of one part of a message, and of one value in a list of values.
MAX_PART, MAX_VALUE = 2_000, 200

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = MAX_VALUE
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = _REPR.maxfrozenset = 50


class LabelgenError(Exception):
    """Root of the tree. `found`, `expected` and `todo` are optional sentences that complete the message.

    A part of more than `MAX_PART` characters is cut; what is left ends with its length.
    """

    exit_code = 1

    def __init__(self, what: str, *, found: str = "", expected: str = "", todo: str = "") -> None:
        self.what, self.found, self.expected, self.todo = (shortened(part) for part in (what, found, expected, todo))
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [printed(self.what)]
        for label, text in (("found", self.found), ("expected", self.expected), ("what to do", self.todo)):
            if text:
                lines.append(f"  {label}: {printed(text)}")
        return "\n".join(lines)

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return self._text()

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Errors travel from worker processes, so keyword-only parts must survive pickling."""
        return _rebuild, (type(self), self.what, self.found, self.expected, self.todo)


def _rebuild(cls: type[LabelgenError], what: str, found: str, expected: str, todo: str) -> LabelgenError:
    error = cls.__new__(cls)
    LabelgenError.__init__(error, what, found=found, expected=expected, todo=todo)
    return error


class ConfigError(LabelgenError, ValueError):
    """A recipe, option or spec is wrong."""

    exit_code = 2


class SpecError(ConfigError):
    """A spec string that does not parse, or a parameter that its target does not take."""


class UnknownNameError(ConfigError, LookupError):
    """A name that no registry entry, field or recipe has; the message offers near names."""


class BudgetError(ConfigError):
    """The memory budget cannot hold one unit of work."""


class DatasetError(LabelgenError, ValueError):
    """The data set is not what its adapter expects."""

    exit_code = 3


class TeacherError(LabelgenError, RuntimeError):
    """A teacher cannot be loaded, or returns unusable rows."""

    exit_code = 4


class StoreError(LabelgenError, OSError):
    """Anything about the folder of a store."""

    exit_code = 5


class StoreNotFoundError(StoreError, FileNotFoundError):
    """No sealed store at the path (a folder without a manifest can be resumed, not opened)."""


class StoreFormatError(StoreError):
    """The folder is not a store of a format that this version reads."""


class StoreMismatchError(StoreError):
    """A resume or a change was requested with a configuration that differs from the one on disk."""


class StoreBusyError(StoreError):
    """Another live build holds the folder."""


class CorruptStoreError(StoreError):
    """Bytes on disk are not the bytes that were sealed."""


class UnknownIdError(LabelgenError, KeyError):
    """Ids that are not in the store."""

    exit_code = 5


class MissingItemError(LabelgenError, LookupError):
    """The ids are known, but have no embedding: they were quarantined."""

    exit_code = 5


class ArrayError(LabelgenError, ValueError):
    """An array given to a scheme or a loss has a wrong shape or type, or in debug mode wrong values."""


class WorkerError(LabelgenError, RuntimeError):
    """A worker process was killed or crashed, or the scheduler that ran it has ended."""


class DiskError(LabelgenError, OSError):
    """The disk is full or read-only."""

    exit_code = 6


class MissingExtraError(LabelgenError, ImportError):
    """An optional dependency is missing; ends with the line that installs it."""

    exit_code = 7


def missing_extra(package: str, extra: str, needed_for: str) -> MissingExtraError:
    """The one way to say that an optional package is absent; no extra holds the package where `extra` is empty."""
    return MissingExtraError(
        f"{needed_for} needs the package {package!r}, which is not installed",
        todo=f'pip install "labelgen[{extra}]"' if extra else f"pip install {package}",
    )


@contextmanager
def requires(package: str, extra: str, needed_for: str) -> Iterator[None]:
    """Turn the failed import of an optional package inside into `missing_extra`."""
    try:
        yield
    except ImportError as error:
        raise missing_extra(package, extra, needed_for) from error


def shortened(text: str, limit: int = MAX_PART) -> str:
    """The text; where it is longer than `limit` characters, its beginning and its length: `ab... (9,210 characters)`.

    The result is never longer than `limit`, so that a text is cut once however often it is passed on.
    """
    if len(text) <= limit:
        return text
    note = f"... ({len(text):,} characters)"
    return text[: max(0, limit - len(note))] + note


def visible(text: str, *, lines: bool = False) -> str:
    """Text for a terminal or a page: control characters, marks that turn the direction of writing and lone surrogates
    are shown as escapes; `lines` keeps line feeds."""
    if lines:
        return "\n".join(map(visible, text.split("\n")))
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def printed(text: str) -> str:
    """A part of a message as it is shown: escaped and bounded, with its end, which has its length."""
    escaped = visible(shortened(text), lines=True)
    if len(escaped) <= MAX_PART:
        return escaped
    tail = escaped[-40:]
    return f"{escaped[: MAX_PART - len(tail) - 3]}...{tail}"


def some(values: Iterable[object], limit: int = 5) -> str:
    """`a, b, c and 7 more`: how messages list ids, each as `shown`."""
    listed: Sequence[object] = list(values)
    text = ", ".join(shown(value) for value in listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"


def shown(value: object, limit: int = MAX_VALUE) -> str:
    """`repr` of any value, at most `limit` characters, for use in messages."""
    if isinstance(value, (str, bytes)) and len(value) > limit:  # the repr of a large picture takes four times its bytes
        kind = "bytes" if isinstance(value, bytes) else "characters"
        note = f"... ({len(value):,} {kind})"
        return repr(value[:limit])[: limit - len(note)] + note
    try:
        text = repr(value) if isinstance(value, (str, bytes)) else _REPR.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = f"a {type(value).__name__} that cannot be written"
    return shortened(text, limit)
