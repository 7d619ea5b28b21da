"""Leases: one holder each, expiry by the clock of the folder, and nothing written under a lost one."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from labelgen.errors import ConfigError, DiskError, LabelgenError, TeacherError, WorkerError
from labelgen.pipeline.working import rank_of
from labelgen.stages.running.leases import Leases, ranks_of
from labelgen.store.disk import atomic
from labelgen.store.disk.atomic import LostLeaseError, atomic_file, write_atomic

DAY = 86_400


@pytest.fixture(autouse=True)
def _no_fence() -> object:
    yield
    atomic.fence = None


def opened(root: Path, rank: int, seconds: float = 60.0) -> Leases:
    """A rank that takes part in the work in a folder; the first one begins it."""
    leases = Leases(root, rank, seconds).__enter__()
    if not leases.is_open:
        assert leases.lead()
    with leases.joining():
        pass
    return leases


def everything(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def silent(leases: Leases, seconds: float) -> None:
    """Have a rank stop, and its leases be as old as that by the clock of the folder."""
    leases._left.set()
    for folder in leases._held:
        then = (folder / "beat").stat().st_mtime - seconds
        os.utime(folder / "beat", (then, then))


def test_of_many_processes_exactly_one_has_a_lease(tmp_path: Path) -> None:
    """Eight processes go through forty keys in different orders; a key that is done is not taken again."""
    root, keys = tmp_path / "store", [f"embed/text/{number:06d}" for number in range(40)]
    first = opened(root, 0)
    (tmp_path / "done").mkdir()
    children = []
    for rank in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                mine = opened(root, rank)
                for key in [*keys[5 * rank :], *keys[: 5 * rank]]:
                    with mine.task(key) as taken:
                        done = tmp_path / "done" / key.replace("/", "-")
                        if taken and not done.exists():
                            time.sleep(0.001)
                            with done.open("x"):  # a second holder at the same time fails here
                                pass
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 8
    assert len(everything(tmp_path / "done")) == len(keys)
    with first.task(keys[0]) as taken:
        assert taken


def test_a_rank_that_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    slow, quick = opened(root, 0), opened(root, 1)
    with slow.task("embed/a") as mine:
        assert mine
        with quick.task("embed/a") as second:
            assert not second
        write_atomic(root / "parts" / "before", b"1")
        with atomic_file(root / "new" / "folder" / "after") as file:
            file.write(b"2")
            silent(slow, 61)
            with quick.task("embed/a") as second:
                assert second
                before = everything(root)
        pytest.fail("the file got its name")
    assert [path for path in everything(root) if path not in before] == []
    assert (root / "parts" / "before").read_bytes() == b"1"
    assert not (root / "new").exists()
    with slow.task("embed/a") as mine:
        assert mine
        silent(slow, 61)
        with quick.task("embed/a"), pytest.raises(LostLeaseError):
            write_under(slow, root)
    assert not (root / "late").exists()


def write_under(leases: Leases, root: Path) -> None:
    """Write as a rank that has just woken up would."""
    atomic.fence = root, leases._held[-1]
    write_atomic(root / "late", b"3")


def test_nothing_is_written_after_the_leases_were_closed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    slow, sealing = opened(root, 0), opened(root, 1)
    with slow.task("merge/a") as mine:
        assert mine
        assert sealing.lead()
        sealing.close()
        write_atomic(root / "manifest.json", b"{}")  # as the rank that seals
        sealing.release()
        before = everything(root)
        with pytest.raises(LostLeaseError):
            write_under(slow, root)
        with pytest.raises(LostLeaseError), slow.task("merge/b"):
            pytest.fail("there is no work any more")
        assert [path for path in everything(root) if path not in before] == []


@pytest.mark.parametrize("shift", [-DAY, DAY])
def test_clocks_of_hosts_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    root, now = tmp_path / "store", time.time
    one, two = opened(root, 0), opened(root, 1)
    with one.task("search/a") as mine:
        assert mine
        monkeypatch.setattr(time, "time", lambda: now() + shift)
        with two.task("search/a") as second:
            assert not second
        silent(one, 61)
        with two.task("search/a") as second:
            assert second


def test_a_beat_from_the_future_has_expired(tmp_path: Path) -> None:
    """That of a copied folder, or before a clock was set back."""
    one, two = opened(tmp_path / "store", 0), opened(tmp_path / "store", 1)
    with one.task("search/a"):
        silent(one, -DAY)
        with two.task("search/a") as second:
            assert second


def test_a_lease_whose_removal_was_interrupted_is_free(tmp_path: Path) -> None:
    one, two = Leases(tmp_path / "store", 0).__enter__(), Leases(tmp_path / "store", 1).__enter__()
    assert one.lead()
    (one._held[0] / "beat").unlink()
    assert two.lead()


def test_a_lease_is_renewed_while_its_holder_lives(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "store", 0, 0.6), opened(tmp_path / "store", 1, 0.6)
    with one.task("search/a") as mine:
        assert mine
        time.sleep(1.0)
        with two.task("search/a") as second:
            assert not second


def test_one_rank_leads_and_the_next_one_after_its_death(tmp_path: Path) -> None:
    one, two = Leases(tmp_path / "store", 0).__enter__(), Leases(tmp_path / "store", 1).__enter__()
    assert one.lead()
    assert not two.lead()
    silent(one, 61)
    assert two.lead()
    with pytest.raises(LostLeaseError), one.joining():
        pass
    assert not two.is_open


def test_status_names_ranks_and_their_tasks(tmp_path: Path) -> None:
    root = tmp_path / "store"
    one, two = opened(root, 0), opened(root, 3)
    with two.task("embed/text/000001"):
        found = ranks_of(root)
    assert [(rank.rank, rank.process, rank.tasks) for rank in found] == [
        (0, os.getpid(), ()), (3, os.getpid(), ("embed/text/000001",)),
    ]  # fmt: skip
    assert max(rank.silent for rank in found) < 30
    for rank in (one, two):
        rank.__exit__()
    assert ranks_of(root) == []


def failing(root: Path, rank: int, error: Exception) -> None:
    leases = opened(root, rank)
    with pytest.raises(type(error)), leases.task("embed/a"):
        raise error
    leases.__exit__()


def test_an_error_that_every_rank_would_meet_stops_all(tmp_path: Path) -> None:
    root = tmp_path / "store"
    waiting = opened(root, 0)
    failing(root, 1, TeacherError("teacher t gives no numbers", found="NaN", todo="mend it"))
    with pytest.raises(TeacherError, match="gives no numbers") as raised:
        waiting.refuse_failed()
    assert (raised.value.found, raised.value.todo) == ("NaN", "mend it")
    time.sleep(0.05)
    opened(root, 2).refuse_failed()  # it came later: perhaps to try again


@pytest.mark.parametrize("error", [DiskError("full"), RuntimeError("CUDA out of memory"), OSError("gone")])
def test_an_error_of_a_host_stops_all_ranks_on_the_third(tmp_path: Path, error: Exception) -> None:
    root = tmp_path / "store"
    waiting = opened(root, 0)
    for rank in (1, 2):
        failing(root, rank, error)
        waiting.refuse_failed()
    failing(root, 3, error)
    with pytest.raises(DiskError if isinstance(error, DiskError) else WorkerError, match=str(error)):
        waiting.refuse_failed()


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b"{" * 10, json.dumps({"task": 1, "error": "os"}).encode()])
def test_a_damaged_record_of_a_failure_is_ignored(tmp_path: Path, record: bytes) -> None:
    leases = opened(tmp_path / "store", 0)
    (tmp_path / "store" / ".labelgen" / "ranks" / "failed-1-2-ab-host.json").write_bytes(record)
    leases.refuse_failed()


def test_names_of_errors_in_a_record_choose_no_code(tmp_path: Path) -> None:
    leases = opened(tmp_path / "store", 0)
    parts = {"what": "w", "found": "", "expected": "", "todo": ""}
    for number, name in enumerate(["Sequence", "contextmanager", "_REPR", "__builtins__"]):
        record = {"task": str(number % 1), "error": name, **parts}
        path = tmp_path / "store" / ".labelgen" / "ranks" / f"failed-{number}-2-ab-host.json"
        path.write_text(json.dumps(record))
    with pytest.raises(LabelgenError) as raised:
        leases.refuse_failed()
    assert type(raised.value) is WorkerError


SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "5",
    "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_STEP": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        (SLURM, (1, 2)),
        (ARRAY, (2, 4)),
        (ARRAY | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (2, 4)),
        (ARRAY | SLURM, (5, 8)),
        (SLURM | {"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        (SLURM | {"RANK": "3"}, (1, 2)),
    ],
)
def test_rank_and_world_of_slurm_and_torchrun(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert rank_of(environment) == expected
    assert rank_of(environment, 6, 7) == (6, 7)


@pytest.mark.parametrize(
    ("environment", "given"),
    [({}, (1, None)), ({}, (None, 2)), ({}, (2, 2)), ({}, (-1, 2)), ({"SLURM_NTASKS": "2(x3)"}, (None, None)),
     ({"RANK": "0", "WORLD_SIZE": "0"}, (None, None)), ({"RANK": "-1", "WORLD_SIZE": "2"}, (None, None))],
)  # fmt: skip
def test_what_is_no_rank_is_refused(environment: dict[str, str], given: tuple[int | None, int | None]) -> None:
    with pytest.raises(ConfigError):
        rank_of(environment, *given)


def test_every_token_is_told_apart(tmp_path: Path) -> None:
    tokens = Counter(Leases(tmp_path, 0)._token for _ in range(50))
    assert max(tokens.values()) == 1
