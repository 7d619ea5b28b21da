"""Numbers and texts as people read them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from labelgen import units
from labelgen.cli import show


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_400, "99.4 kB"), (99_500, "100 kB"), (999_600, "1.0 MB"),
     (4_000_000_000, "4.0 GB"), (5 * 10**15, "5000 TB")],
)  # fmt: skip
def test_sizes(number: int, text: str) -> None:
    assert units.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (-1.0, "?"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00 min"),
     (200, "3:20 min"), (3599.6, "1:00 h"), (7500, "2:05 h")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(("rows", "text"), [(0.0, ""), (0.84, "0.8/s"), (412.3, "412/s"), (12345.0, "12,345/s")])
def test_rates(rows: float, text: str) -> None:
    assert units.rate(rows) == text


def test_long_texts_are_cut_and_put_on_one_line() -> None:
    assert show.shortened("a\n b", 10) == "a b"
    assert show.shortened("a" * 11, 10) == "aaaaaaa..."


@pytest.mark.parametrize(("text", "seen"), [("a\x1b[31mb", "a\\x1b[31mb"), ("x\0y", "x\\x00y"), ("\udcff", "\\udcff")])
def test_what_a_terminal_would_obey_is_shown(text: str, seen: str) -> None:
    assert show.visible(text) == seen


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show.console().print(show.facts([("file", "a[bold].jpg"), ("more", "[/x]")]))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["file", "a[bold].jpg"],
        ["more", "[/x]"],
    ]


def test_paths_are_relative_where_that_is_shorter_and_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert show.shell_path(tmp_path / "stores" / "x y") == "'stores/x y'"
    assert show.shell_path("/etc") == "/etc"


def test_the_console_is_at_most_100_columns_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show.console().width == 100
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "300")
    assert show.console().width == 100
    monkeypatch.setenv("COLUMNS", "60")
    assert show.console().width == 60
