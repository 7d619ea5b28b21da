"""Progress: bars for people, lines for machines."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from labelgen.cli import progress
from labelgen.cli.progress import Bars, JsonLines, PlainLines, counted, listening, stage
from labelgen.progress import Event, silent


def events_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_hold_every_field() -> None:
    stream = io.StringIO()
    JsonLines(stream)(Event("task", "embed", 5, 10, 2.5, 2.0, "embed/0", "words"))
    (line,) = events_of(stream)
    assert line.pop("seconds") == pytest.approx(0, abs=5)
    assert line == {
        "kind": "task",
        "stage": "embed",
        "done": 5,
        "total": 10,
        "rows_per_second": 2.5,
        "eta_seconds": 2.0,
        "task": "embed/0",
        "text": "words",
    }


def test_mere_movement_is_written_once_a_second_and_everything_else_always(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines(Event("start", "probe", 0, 9))
    for step in range(1, 10):
        now += 0.3
        lines(Event("task", "probe", step, 9))
    for key in "abc":
        lines(Event("task", "embed", 1, 3, task=key))
    lines(Event("note", "embed", text="hello"))
    lines(Event("end", "probe", 9, 9))
    written = [(line["kind"], line["task"] or line["done"]) for line in events_of(stream)]
    # at 0.3 the first step; then the first after each full second: 1.5 and 2.7
    assert written == [
        ("start", 0), ("task", 1), ("task", 5), ("task", 9), ("task", "a"), ("task", "b"), ("task", "c"),
        ("note", 0), ("end", 9),
    ]  # fmt: skip


def drawn(*events: Event, width: int = 100) -> str:
    stream = io.StringIO()
    with Bars(Console(file=stream, force_terminal=True, width=width, color_system=None)) as bars:
        for event in events:
            bars(event)
    return stream.getvalue()


def test_bars_show_rows_rate_and_rest() -> None:
    text = drawn(Event("start", "embed", 0, 1000), Event("task", "embed", 500, 1000, 412.0, 75.0))
    assert "500/1,000" in text
    assert "412/s" in text
    assert "1:15 min left" in text


def test_a_stage_that_ends_is_full_also_without_rows() -> None:
    assert "in 0.0 s" in drawn(Event("start", "seal"), Event("end", "seal"))


def test_bars_of_bytes_show_bytes() -> None:
    assert "1.5 MB/3.0 MB" in drawn(Event("task", "verify", 1_500_000, 3_000_000))


def test_notes_stand_above_the_bars_as_they_are() -> None:
    assert "a [bold] note" in drawn(Event("start", "embed", 0, 10), Event("note", "embed", text="a [bold] note"))


@pytest.mark.parametrize(
    ("mode", "as_json", "kind"),
    [
        *(("auto", False, PlainLines), ("auto", True, JsonLines), ("json", False, JsonLines)),
        *(("plain", True, PlainLines), ("rich", True, Bars)),
    ],
)
def test_the_listener_of_a_mode(mode: str, as_json: bool, kind: type) -> None:
    with listening(mode, as_json=as_json) as listener:  # stderr is no terminal in tests
        assert isinstance(listener, kind)


def test_no_progress_is_silent() -> None:
    with listening("none") as listener:
        assert listener is silent


def test_auto_is_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with listening("auto") as listener:
        assert isinstance(listener, Bars)
    with listening("auto", as_json=True) as listener:
        assert isinstance(listener, JsonLines)


@pytest.mark.parametrize("width", [50, 60, 80])
def test_bars_fit_narrow_terminals(width: int) -> None:
    text = drawn(
        Event("start", "assemble", 0, 616_767), Event("task", "assemble", 314_000, 616_767, 41_200.0, 75.0), width=width
    )
    line = next(line for line in text.splitlines() if "314,000" in line)
    for part in ("assemble", "314,000/616,767", "1:15 min left", "\u2501" * 4):
        assert part in line, line


def test_plain_lines_say_when_a_stage_begins_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    lines = PlainLines(stream)
    lines(Event("start", "embed", 0, 1000))
    for done in (100, 500, 600, 900):
        now += 6
        lines(Event("task", "embed", done, 1000, 16.7, 60.0, f"embed/{done}"))
    lines(Event("note", "embed", text="a \x1b[1mnote"))
    lines(Event("end", "embed", 1000, 1000, 40.0))
    lines(Event("start", "seal"))
    lines(Event("end", "seal"))
    assert stream.getvalue().splitlines() == [
        "embed: 0/1,000",
        "embed: 500/1,000, 17/s, 1:00 min left",
        "embed: 900/1,000, 17/s, 1:00 min left",
        "note: a \\x1b[1mnote",
        "embed: 1,000/1,000, 40/s, in 24 s",
        "seal: begins",
        "seal: in 0.0 s",
    ]


def test_calls_without_events_are_one_stage() -> None:
    events: list[Event] = []
    with stage(events.append, "export"):
        pass
    assert list(counted("ab", 2, "audit", events.append)) == ["a", "b"]
    assert [(event.kind, event.stage, event.done) for event in events] == [
        *(("start", "export", 0), ("end", "export", 0)),
        *(("start", "audit", 0), ("task", "audit", 1), ("task", "audit", 2), ("end", "audit", 2)),
    ]
