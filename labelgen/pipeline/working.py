"""`work`: one of several ranks, processes of a cluster that build a store together in a folder that all of them see."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from labelgen.config import BuildConfig
from labelgen.corpus.in_memory import rows
from labelgen.errors import ConfigError
from labelgen.executors.shared import SharedExecutor
from labelgen.pipeline.building import changed_recipe, checked, refuse_other_folder
from labelgen.pipeline.inputs import FIELDS, recipe_of
from labelgen.progress import Listener, listener_of
from labelgen.registry import unknown
from labelgen.stages.build import Build, Built
from labelgen.stages.ingest.ingest import refuse_missing_root
from labelgen.stages.plan.change import Change
from labelgen.stages.plan.runtimes import as_written
from labelgen.stages.report import BuildReport, report_of
from labelgen.stages.running import cleanup, lock
from labelgen.stages.running.inventory import refuse_foreign
from labelgen.stages.running.leases import EXPIRE_SECONDS, Leases
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.running.task import Receipt, read_receipt
from labelgen.stages.seal import seal
from labelgen.store import layout
from labelgen.store.disk.atomic import LostLeaseError
from labelgen.store.manifest import load_manifest

#: Seconds between two looks at what another rank begins, or seals.
_PAUSE = 0.1
#: Arguments of `build` that ranks take: a rank is one worker.
_SETTINGS = {"teachers", "columns", "photos", "overrides", *FIELDS} - {"workers", "executor"}


def work(
    data: Any,
    out: str | PathLike[str],
    *,
    rank: int | None = None,
    world: int | None = None,
    expire: float = EXPIRE_SECONDS,
    progress: Listener | None = None,
    allow_other_machine: bool = False,
    **settings: Any,
) -> BuildReport:
    """Build a new store in the folder `out` together with other ranks, which are called with the same arguments.

    Every rank takes tasks until there are none; one of them seals, and the others return when it has. A rank may end or
    come at any time: what it was doing is done by another one. The result is that of `build`, bit for bit.

    Args:
        data: a data set, a path or a recipe, which all ranks can read; see `build`.
        rank, world: number of this rank and of all; those of torchrun or Slurm if None (`rank_of`), else 0 of 1.
        expire: seconds of silence after which the task of a rank is given to another one.
        progress, allow_other_machine: see `build`.
        settings: what else `build` takes and describes the store or the run: teachers, root, columns, photos, splits,
            limit, k, relations, kinds, memory, device, overrides. The memory is that of a rank, the same for all.

    The report has `changed=False` where another rank sealed.

    Raises:
        LabelgenError: see `build`; also the error of another rank, where its task would fail here, too.
    """
    rank, world = rank_of(os.environ, rank, world)
    if not expire > 0:
        raise ConfigError("a rank cannot be dead at once", found=f"{expire} seconds", expected="more than 0 seconds")
    saved = isinstance(data, str | PathLike) and rows.is_saved_dataset(Path(data))
    if saved or not isinstance(data, str | PathLike | BuildConfig):
        raise ConfigError(
            "every rank reads the data set itself",
            found="a saved Hugging Face data set" if saved else f"a {type(data).__name__}",
            todo="give the name of a data set, or the path of a table or folder, or use `labelgen.build`",
        )
    for name in settings:
        if name not in _SETTINGS:
            raise unknown("argument of work", name, _SETTINGS)
    photos = fspath(settings.pop("photos", ""))
    with recipe_of(data, out, photos=photos, **settings) as (config, notes):
        ranks = Leases(Path(out), rank, expire)
        report = _Rank(ranks, world, checked(config), listener_of(progress), allow_other_machine).run()
    return replace(report, notes=(*notes, *report.notes))


def rank_of(environment: Mapping[str, str], rank: int | None = None, world: int | None = None) -> tuple[int, int]:
    """The number of this rank and of all: those that are given, else of torchrun, else of Slurm, else 0 of 1.

    Of a Slurm array every task of every job is a rank: the ids count from the lowest one, in their steps.

    Raises:
        ConfigError: one of them is missing, no number, or there is no such rank.
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name) or str(default)
        if not text.strip().isdecimal():
            raise ConfigError(f"the variable {name} is no number", found=repr(text), todo="give --rank and --world")
        return int(text)

    if (rank is None) != (world is None):
        raise ConfigError("a rank is one of several", todo="give both, like --rank 0 --world 8, or neither")
    if rank is None or world is None:
        if environment.get("RANK") and environment.get("WORLD_SIZE"):
            rank, world = number("RANK", 0), number("WORLD_SIZE", 1)
        else:
            tasks, first = number("SLURM_NTASKS", 1), number("SLURM_ARRAY_TASK_MIN", 0)
            job = (number("SLURM_ARRAY_TASK_ID", first) - first) // max(1, number("SLURM_ARRAY_TASK_STEP", 1))
            rank = job * tasks + number("SLURM_PROCID", 0)
            world = number("SLURM_ARRAY_TASK_COUNT", 1) * tasks
    if not 0 <= rank < world:
        raise ConfigError("there is no such rank", found=f"rank {rank} of {world}", expected=f"0 to {world - 1}")
    return rank, world


@dataclass
class _Rank:
    """One rank, from its arrival to the seal."""

    leases: Leases
    world: int
    config: BuildConfig
    progress: Listener
    allow_other_machine: bool

    def run(self) -> BuildReport:
        """Work until the store is sealed, by this rank or another one."""
        root, started = self.leases.root, time.perf_counter()
        refuse_other_folder(root)
        with cleanup.locked(root, shared=True):
            report = self._sealed() if (root / layout.MANIFEST).exists() and not lock.read_pending(root) else None
            if report is not None:
                return report
            with self.leases:
                while report is None:
                    try:
                        if (root / layout.MANIFEST).exists():
                            report = self._sealed()
                        elif self._may_join():
                            report = self._build(started)
                        else:
                            time.sleep(_PAUSE)
                    except Exception as error:  # this rank was silent for too long, or another one seals
                        if not isinstance(error, LostLeaseError) and not self.leases.lost:
                            raise
                        time.sleep(_PAUSE)
                    finally:
                        self.leases.release()
        return report

    def _may_join(self) -> bool:
        """Whether the work was begun, or this rank may begin it."""
        root = self.leases.root
        self.leases.arrive()
        return self.leases.is_open or (
            self.leases.lead() and not self.leases.is_open and not (root / layout.MANIFEST).exists()
        )

    def _build(self, started: float) -> BuildReport | None:
        """Do all stages with the other ranks, and seal; None where another rank seals."""
        root = self.leases.root
        refuse_foreign(root)
        refuse_missing_root(self.config.dataset)
        config = as_written(self.config, root, None, fresh=False)
        if self.leases.is_open:
            lock.refuse_other_cut(root, config.to_dict())
        work = Build(root, config, None, self.progress, self.allow_other_machine, ranks=self.leases)
        with PeakMeter(tree=True) as meter:
            executor = SharedExecutor(self.leases, self.world, run=config.run, engine=config.search.engine)
            built = work.run(executor, meter)
            while not self.leases.lead():
                if not self.leases.is_open:
                    return None
                time.sleep(_PAUSE)
            if (root / layout.MANIFEST).exists():
                return None
            self.leases.close()
            manifest = seal(root, work.config, replace(built, receipts=self._receipts(built)), None)
        cleanup.remove_all_but(root, manifest)
        seconds = time.perf_counter() - started
        return report_of(root, manifest, changed=True, seconds=seconds, notes=work.notes)

    def _receipts(self, built: Built) -> dict[str, Receipt]:
        """The receipts as they are: a task that lost its lease may have been done by two ranks."""
        found = {key: read_receipt(self.leases.root, key) for key in built.receipts}
        same = {
            key: receipt
            for key, receipt in found.items()
            if receipt is not None and receipt.fingerprint == built.receipts[key].fingerprint
        }
        if len(same) < len(found):
            raise LostLeaseError("a receipt is not there any more")
        return same

    def _sealed(self) -> BuildReport | None:
        """The report of a store that another rank sealed; completes a cleanup that a kill interrupted."""
        root = self.leases.root
        manifest = load_manifest(root)
        config = as_written(self.config, root, manifest, fresh=False)
        changed_recipe(root, manifest, config, Change(), update=False)
        if lock.refuse_other_work(root, lock.work_identity(config), changing=True) is not None:
            self.leases.arrive()
            if not self.leases.lead():
                time.sleep(_PAUSE)
                return None
            cleanup.remove_all_but(root, manifest)
        return report_of(root, manifest, changed=False)
