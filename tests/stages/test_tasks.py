"""Done means: a receipt with this fingerprint, and the files it names at the size it names."""

from __future__ import annotations

import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from labelgen.errors import CorruptStoreError
from labelgen.stages.running import lock, task
from labelgen.stages.running.runner import WORK, run_task
from labelgen.stages.running.task import Output, Task, TaskResult, find_receipt, outstanding, receipt_path
from labelgen.store.disk.atomic import write_atomic

CALLS: list[str] = []


def write(root: Path, *, text: str, where: str = "") -> TaskResult:
    """The work of the tasks below."""
    CALLS.append(text)
    fact = write_atomic(root / "parts" / text, text.encode())
    return TaskResult((Output(f"parts/{text}", *fact),), {"where": where})


def _task(text: str = "a", **changes: Any) -> Task:
    return Task(
        **{
            "key": f"embed/x/{text}",
            "inputs": "i",
            "work": "test.write",
            "arguments": {"text": text},
            "rows": 3,
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def _forget() -> None:
    CALLS.clear()


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setitem(WORK, "test.write", f"{__name__}:write")


def test_a_task_is_run_once(tmp_path: Path) -> None:
    first = run_task(tmp_path, _task())
    assert run_task(tmp_path, _task()) == first
    assert CALLS == ["a"]
    assert first.rows == 3
    assert first.outputs[0].bytes == 1
    assert json.loads((tmp_path / receipt_path("embed/x/a")).read_bytes())["fingerprint"] == _task().fingerprint


def _truncate(root: Path) -> None:
    (root / "parts" / "a").write_bytes(b"")


def _remove(root: Path) -> None:
    (root / "parts" / "a").unlink()


def _spoil_receipt(root: Path) -> None:
    (root / receipt_path("embed/x/a")).write_bytes(b'{"task": ')


def _empty_receipt(root: Path) -> None:
    (root / receipt_path("embed/x/a")).write_bytes(b"{}")


@pytest.mark.parametrize("spoil", [_truncate, _remove, _spoil_receipt, _empty_receipt])
def test_what_is_not_whole_is_not_done(tmp_path: Path, spoil: Any) -> None:
    run_task(tmp_path, _task())
    spoil(tmp_path)
    assert find_receipt(tmp_path, _task()) is None
    run_task(tmp_path, _task())
    assert CALLS == ["a", "a"]
    assert (tmp_path / "parts" / "a").read_bytes() == b"a"


@pytest.mark.parametrize("change", [{"inputs": "j"}, {"arguments": {"text": "a", "where": "x"}}])
def test_other_inputs_or_arguments_are_another_task(tmp_path: Path, change: dict[str, Any]) -> None:
    run_task(tmp_path, _task())
    assert find_receipt(tmp_path, _task(**change)) is None


def test_where_things_lie_does_not_count(tmp_path: Path) -> None:
    run_task(tmp_path, _task(places={"where": "/here"}))
    assert find_receipt(tmp_path, _task(places={"where": "/there"})) is not None


def test_outstanding_tells_done_from_not_done(tmp_path: Path) -> None:
    run_task(tmp_path, _task("a"))
    done, todo, damaged = outstanding(tmp_path, [_task("a"), _task("b")])
    assert [receipt.task for receipt in done] == ["embed/x/a"]
    assert todo == [_task("b")]
    assert not damaged


def test_parts_may_go_when_their_receipt_is_asked_for_alone(tmp_path: Path) -> None:
    run_task(tmp_path, _task())
    _remove(tmp_path)
    assert task.find_receipt(tmp_path, _task(), outputs=False) is not None


@pytest.mark.parametrize("name", sorted(WORK))
def test_every_name_of_a_task_is_a_function(name: str) -> None:
    pytest.importorskip("torch", reason="some tasks train networks")
    assert callable(resolve_name(WORK[name]))


def test_a_note_of_tasks_with_module_paths_is_refused_in_one_sentence(tmp_path: Path) -> None:
    note = {"format": 1, "identity": {}, "machines": [{}], "paths": []}
    lock.write_pending(tmp_path, note)
    with pytest.raises(CorruptStoreError, match="started by another version of labelgen") as caught:
        lock.read_pending(tmp_path)
    assert "--discard" in str(caught.value)
