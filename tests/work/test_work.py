"""`labelgen work` beside builds, after the seal, with another recipe, and where a task fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import labelgen
from labelgen import pipeline
from labelgen.cli.main import cli
from labelgen.errors import ConfigError, LabelgenError, StoreBusyError, StoreMismatchError, TeacherError
from labelgen.stages.running import lock
from labelgen.stages.running.leases import Leases
from labelgen.store.manifest import load_manifest

pytest.importorskip("torch", reason="needs the extra labelgen[build]")


def work(recipe: list[str], out: Path, *settings: str, **how: Any) -> pipeline.BuildReport:
    config = pipeline.resolve(dataset="table", overrides=[*recipe, *settings])
    return pipeline.work(config, out, progress=lambda _event: None, **how)


def files(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_one_rank_makes_the_store_of_a_build(recipe: list[str], built: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    report = work(recipe, out)
    assert report.changed
    assert report.content_digest == load_manifest(built).content_digest
    assert files(out).keys() == files(built).keys()
    assert pipeline.verify(out).problems == ()
    before = files(out)
    late = work(recipe, out, rank=1, world=2)
    assert not late.changed
    assert late.content_digest == report.content_digest
    assert files(out) == before | {".labelgen/lock": files(out)[".labelgen/lock"]}
    with pytest.raises(StoreMismatchError, match=r"search\.k"):
        work(recipe, out, "search.k=6")


def stopped_at(stage: str) -> Any:
    class StoppedError(Exception):
        pass

    def stop(event: Any) -> None:
        if event.kind == "start" and event.stage == stage:
            raise StoppedError

    return stop, StoppedError


@pytest.mark.parametrize("stage", ["embed", "search"])
def test_a_build_is_resumed_by_a_rank_and_a_rank_by_a_build(
    recipe: list[str], built: Path, tmp_path: Path, stage: str
) -> None:
    config = pipeline.resolve(dataset="table", overrides=recipe)
    stop, error = stopped_at(stage)
    for first, second in ((pipeline.build, pipeline.work), (pipeline.work, pipeline.build)):
        out = tmp_path / first.__name__
        with pytest.raises(error):
            first(config, out, progress=stop)
        assert second(config, out, progress=lambda _event: None).content_digest == load_manifest(built).content_digest
        assert files(out).keys() == files(built).keys()


def test_a_rank_beside_another_recipe_is_refused(recipe: list[str], tmp_path: Path) -> None:
    out = tmp_path / "store"
    stop, error = stopped_at("search")
    with pytest.raises(error):
        pipeline.work(pipeline.resolve(dataset="table", overrides=recipe), out, progress=stop)
    with pytest.raises(StoreMismatchError, match=r"search\.k: 5 -> 6"):
        work(recipe, out, "search.k=6")
    with Leases(out, 0) as other:  # a rank at work
        assert other.lead()
        with other.joining():
            pass
        shown = CliRunner().invoke(cli, ["status", str(out)])
        assert f"rank 0 (process {os.getpid()} on " in shown.output
        with pytest.raises(StoreMismatchError, match="--memory"):
            work(recipe, out, "run.memory=3GB")


def test_builds_and_ranks_refuse_each_other(recipe: list[str], tmp_path: Path) -> None:
    out = tmp_path / "store"
    with lock.locked(out, shared=True):
        with lock.locked(out, shared=True):  # another rank
            pass
        with pytest.raises(StoreBusyError, match=rf"ranks of `labelgen work`.*process {os.getpid()}"):
            pipeline.build(pipeline.resolve(dataset="table", overrides=recipe), out)
    with lock.locked(out), pytest.raises(StoreBusyError, match=f"process {os.getpid()}"):
        work(recipe, out)


def test_a_rank_that_fails_early_leaves_nothing(recipe: list[str], tmp_path: Path) -> None:
    with pytest.raises(LabelgenError):
        work(recipe, tmp_path / "deep" / "store", "dataset.root=/nowhere/at/all")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("settings", [["run.workers=2"], ["run.device='cuda:0,cuda:1'"]])
def test_a_rank_is_one_worker(recipe: list[str], tmp_path: Path, settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="one worker"):
        work(recipe, tmp_path / "store", *settings)
    assert not (tmp_path / "store").exists()


def test_data_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"labelgen\.build"):
        labelgen.work({"caption": ["a"]}, tmp_path / "store")
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_task_ends_every_rank_with_it(
    recipe: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank fails; another, which waits for its task, ends with the same error."""
    from labelgen.stages.work import embed

    def fails(*_arguments: Any, **_named: Any) -> Any:
        raise TeacherError("this teacher cannot read digits", todo="give it words")

    out = tmp_path / "store"
    stop, error = stopped_at("search")
    with pytest.raises(error):
        pipeline.work(pipeline.resolve(dataset="table", overrides=recipe), out, progress=stop)
    (out / "receipts" / "embed" / "text.text" / "000000.json").unlink()
    (out / "embeddings" / "text" / "text" / "c" / "0" / "0").unlink()
    waiting = Leases(out, 5)
    with waiting:
        monkeypatch.setattr(embed, "embed_keyed", fails)
        with pytest.raises(TeacherError, match="cannot read digits"):
            work(recipe, out)
        with pytest.raises(TeacherError, match="cannot read digits"):
            waiting.refuse_failed()
    monkeypatch.undo()
    assert work(recipe, out).changed


def test_ctrl_c_names_the_other_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: Any, **_named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "work", interrupted)
    done = CliRunner().invoke(cli, ["work", str(tmp_path / "store"), "--dataset", "demo"])
    assert done.exit_code == 130
    assert "other ranks continue, the same command takes part again" in done.output
    assert "labelgen status" in done.output


def test_an_interrupted_rank_gives_its_leases_back(recipe: list[str], tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event.kind == "task" and event.stage == "embed":
            raise KeyboardInterrupt

    out = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        pipeline.work(pipeline.resolve(dataset="table", overrides=recipe), out, progress=interrupt)
    assert list(pipeline.status(out).ranks) == []
    assert work(recipe, out, expire=3600.0).changed  # nothing to wait for
