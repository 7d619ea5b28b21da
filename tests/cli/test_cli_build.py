"""`build`, `plan` and `status`: what they pass to the library, what they show of its result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from labelgen.pipeline import BuildReport, Status
from labelgen.progress import Event
from labelgen.stages.estimate.cost import CostPlan, StageCost

Run = Callable[..., Result]

REPORT = BuildReport(
    path=Path("stores/demo"),
    content_digest="0123456789abcdef",
    changed=True,
    images=76,
    captions=1380,
    texts=1375,
    splits={"train": 26, "val": 50},
    teachers={"text": "minilm()"},
    lists=["neighbors/t2t.text.k64"],
    quarantined={},
    bytes=3_200_000,
    seconds=75.4,
    peak_bytes=640_000_000,
    stages={"embed": {"seconds": 70.0}, "seal": {"seconds": 0.01}},
)


class Calls:
    """Stands in for the pipeline and notes what it was called with."""

    def __init__(self) -> None:
        self.positional: tuple[Any, ...] = ()
        self.named: dict[str, Any] = {}
        self.answer: Any = REPORT
        self.error: BaseException | None = None

    def __call__(self, *positional: Any, **named: Any) -> Any:
        self.positional, self.named = positional, named
        progress = named.get("progress")
        if progress is not None:
            progress(Event("start", "embed", 0, 10))
            progress(Event("task", "embed", 5, 10, 2.5, 2.0, "embed/0"))
            progress(Event("end", "embed", 10, 10))
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr("labelgen.pipeline.build", calls)
    return calls


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr("labelgen.pipeline.add", calls)
    return calls


def test_build_hands_over_config_folder_and_flags(run: Run, build: Calls) -> None:
    result = run("build", "--dataset", "demo", "--k", 7, "--discard", "--update", "--allow-other-machine")
    assert result.exit_code == 0
    config, out = build.positional
    assert (config.dataset.name, config.search.k, out) == ("demo", 7, "stores/demo")
    del build.named["progress"]
    flags = {"fresh": False, "discard": True, "update": True, "allow_other_machine": True, "plan": False}
    assert build.named == {"teachers": {}, **flags}


def test_build_takes_a_recipe_file(run: Run, build: Calls, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[dataset]\nname = "demo"\n[teachers]\nwords = "minilm()"\n', encoding="utf-8")
    assert run("build", "--recipe", recipe, "--out", tmp_path / "s").exit_code == 0
    assert list(build.positional[0].teachers) == ["words"]
    assert build.positional[1] == str(tmp_path / "s")


def test_build_shows_a_summary_and_where_to_look_next(run: Run, build: Calls) -> None:
    shown = run("build", "--dataset", "demo").stdout
    for text in (
        "76 (train 26, val 50)",
        "1,380, 1,375 different texts",
        "text = minilm()",
        "t2t.text.k64",
        "3.2 MB",
        "1:15 min",
        "640 MB",
        "0123456789abcdef",
        "labelgen inspect stores/demo",
        "labelgen verify stores/demo",
        "labelgen.open('stores/demo')",
    ):
        assert text in shown
    assert "seal 0.0 s" not in shown  # took no time worth a word
    assert max(map(len, shown.splitlines())) <= 100


def test_build_of_a_finished_store_says_so(run: Run, build: Calls) -> None:
    build.answer = replace(REPORT, changed=False, seconds=0.0)
    shown = run("build", "--dataset", "demo").stdout
    assert "sealed already" in shown
    assert "peak memory" not in shown


def test_build_counts_the_quarantine_by_stage_and_reason(run: Run, build: Calls) -> None:
    build.answer = replace(REPORT, quarantined={"embed: truncated": 2, "ingest: missing": 1})
    result = run("build", "--dataset", "demo")
    assert result.exit_code == 0
    assert "quarantined     3" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["2", "embed", "truncated"] in lines
    assert ["1", "ingest", "missing"] in lines


@pytest.mark.parametrize("strictly", [["--strict"], ["--set", "run.strict=true"]])
def test_strict_builds_end_with_1_when_anything_was_quarantined(run: Run, build: Calls, strictly: list[str]) -> None:
    assert run("build", "--dataset", "demo", *strictly).exit_code == 0
    build.answer = replace(REPORT, quarantined={"embed: truncated": 2})
    result = run("build", "--dataset", "demo", *strictly)
    assert result.exit_code == 1
    assert "labelgen inspect" in result.stdout


def test_json_is_on_stdout_and_progress_as_json_lines_on_stderr(run: Run, build: Calls) -> None:
    result = run("build", "--dataset", "demo", "--json")
    assert json.loads(result.stdout) == json.loads(json.dumps(REPORT.to_json()))
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [event["kind"] for event in events] == ["start", "task", "end"]
    assert events[1]["task"] == "embed/0"


def test_progress_can_be_silent(run: Run, build: Calls) -> None:
    assert run("build", "--dataset", "demo", "--progress", "none").stderr == ""


def test_notes_of_a_build_are_shown(run: Run, build: Calls) -> None:
    build.answer = replace(REPORT, notes=["k is more than there are [candidates]"])
    assert "note: k is more than there are [candidates]" in run("build", "--dataset", "demo").stdout


@pytest.mark.parametrize(
    ("fresh", "again"), [([], "the same command resumes"), (["--fresh"], "without --fresh resumes")]
)
def test_an_interrupted_build_says_how_to_resume(run: Run, build: Calls, fresh: list[str], again: str) -> None:
    build.error = KeyboardInterrupt()
    result = run("build", "--dataset", "demo", "--progress", "none", *fresh)
    assert result.exit_code == 130
    assert len(result.stderr.strip().splitlines()) == 1
    assert again in result.stderr
    assert "labelgen status stores/demo" in result.stderr


def test_additions_change_the_store(run: Run, add: Calls) -> None:
    additions = "--out s --add-teacher clip=conse() --add-teacher more=minilm() --add-relation t2t --add-relation i2i"
    result = run("build", *additions.split(), "--workers", 2, "--allow-other-machine")
    assert result.exit_code == 0
    assert add.positional == ("s",)
    del add.named["progress"]
    assert add.named == {
        "teachers": {"clip": "conse()", "more": "minilm()"},
        "relations": ("t2t", "i2i"),
        "overrides": ["run.workers=2"],
        "discard": False,
        "allow_other_machine": True,
    }


def test_update_without_a_recipe_changes_the_stores_own(run: Run, add: Calls) -> None:
    assert run("build", "--out", "s", "--update", "--k", 128).exit_code == 0
    assert add.named["overrides"] == ["search.k=128"]


def test_update_with_a_data_set_builds_its_recipe(run: Run, build: Calls) -> None:
    assert run("build", "--dataset", "demo", "--update", "--k", 128).exit_code == 0
    assert build.named["update"]


def test_additions_find_the_store_of_a_data_set(run: Run, add: Calls) -> None:
    assert run("build", "--dataset", "demo", "--add-relation", "t2t").exit_code == 0
    assert add.positional == ("stores/demo",)


@pytest.mark.parametrize(
    "arguments",
    [
        "--dataset demo --fresh --update",
        "--dataset demo --fresh --discard",
        "--dataset demo --fresh --add-relation t2t",
        "--add-relation t2t",
        "--out s --add-relation t2t --no-teacher text",
    ],
)
def test_contradictions_are_usage_errors(run: Run, arguments: str) -> None:
    result = run("build", *arguments.split())
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "what to do: " in result.stderr
    assert "Usage" not in result.stderr


def test_plan_shows_stages_and_totals(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    stages = [
        StageCost("embed", "text", 380, 292_000, 90.0, 650_000_000),
        StageCost("search", "t2t", 380, 8_000, 1.5, 100),
    ]
    calls.answer = CostPlan(stages, images=76, captions=380, texts=375, notes=["k is long"])
    monkeypatch.setattr("labelgen.pipeline.plan", calls)
    result = run("plan", "--dataset", "demo", "--no-calibrate", "--k", 3)
    assert result.exit_code == 0
    assert calls.positional[0].search.k == 3
    assert calls.named["calibrate"] is False
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "76 images, 380 captions, 375 texts" in lines
    assert "embed text 380 292 kB 1:30 min 650 MB" in lines
    assert "total 300 kB 1:32 min 650 MB" in lines
    assert "note: k is long" in lines
    assert json.loads(run("plan", "--dataset", "demo", "--json").stdout)["seconds"] == 91.5


def test_plan_without_calibration_leaves_times_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    calls.answer = CostPlan([StageCost("embed", "text", 380, 292_000, None, 0)], images=76, captions=380, texts=375)
    monkeypatch.setattr("labelgen.pipeline.plan", calls)
    lines = [" ".join(line.split()) for line in run("plan", "--dataset", "demo").stdout.splitlines()]
    assert "embed text 380 292 kB ? ?" in lines
    assert "total 292 kB unknown ?" in lines


@pytest.mark.parametrize(
    ("state", "words"), [("sealed", "sealed"), ("unfinished", "to resume"), ("changing", "a change")]
)
def test_status_shows_state_and_holder(run: Run, monkeypatch: pytest.MonkeyPatch, state: Any, words: str) -> None:
    recipe = {"dataset": {"name": "demo"}, "teachers": {"text": "minilm()"}}
    status = Status(Path("s"), state, recipe, {"embed": 3}, {"embed": 1200}, {"embed": 5}, "process 7 on here", [])
    monkeypatch.setattr("labelgen.pipeline.status", lambda _path: status)
    shown = run("status", "s").stdout
    assert words in shown
    assert "process 7 on here" in shown
    assert ["embed", "3", "5", "1,200"] in [line.split() for line in shown.splitlines()]
    assert json.loads(run("status", "s", "--json").stdout)["state"] == state


def test_status_lists_stages_in_the_order_of_a_build(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"describe": 2, "embed": 3, "measure": 1, "search": 2}
    totals = {"measure": 1, "search": 4, "describe": 2, "embed": 3, "assemble": 1}
    status = Status(Path("s"), "unfinished", {}, done, done, totals, None, [])
    monkeypatch.setattr("labelgen.pipeline.status", lambda _path: status)
    first = [line.split()[0] for line in run("status", "s").stdout.splitlines() if line.strip()]
    assert first[-5:] == ["describe", "embed", "assemble", "search", "measure"]
