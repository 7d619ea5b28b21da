"""The embed and train stages of a build: tasks of the arrays that the sealed store lacks, in order."""

from __future__ import annotations

from collections.abc import Sequence

from labelgen.errors import StoreMismatchError, TeacherError
from labelgen.stages.plan.build_plan import EmbeddingPlan
from labelgen.stages.running.stage_runner import StageRunner
from labelgen.stages.running.task import Receipt, Task, find_receipt, outstanding
from labelgen.store.disk.shards import write_array_metadata
from labelgen.store.manifest import Manifest


def embed(runner: StageRunner, plans: Sequence[EmbeddingPlan], sealed: Manifest | None) -> None:
    """Make the rows of every array: those that teachers encode or look up first, then what is made of them."""
    new = [plan for plan in plans if not _is_sealed(plan, sealed)]
    rounds = sorted({depth(plan) for plan in new})
    for number in rounds or [0]:
        plans = [plan for plan in new if depth(plan) == number]
        tasks = {task.key: task for plan in reversed(plans) if (task := plan.train_task()) is not None}
        if tasks:  # one training for the rows of both modalities
            runner.run("train", [*reversed(tasks.values())])
            runner.remove_parts("train")
        _make_rows(runner, plans)


def depth(plan: EmbeddingPlan) -> int:
    """Number of arrays on the longest way to rows that are made of no others."""
    return 1 + max(map(depth, plan.sources)) if plan.sources else 0


def _make_rows(runner: StageRunner, plans: Sequence[EmbeddingPlan]) -> None:
    """Make the parts of every array, then its shards; parts are removed when their shards are complete."""
    tasks: list[Task] = []
    for plan in plans:
        extra = plan.deviation_task() if plan.units else None
        parts = [*plan.part_tasks(), *([extra] if extra is not None else [])]
        known = [find_receipt(runner.root, task, outputs=False) for task in parts]
        # Only the receipts of the parts say which rows were quarantined.
        if None in known or outstanding(runner.root, plan.shard_tasks()).todo:
            tasks += parts
        else:
            runner.remember(known)
    runner.run("embed", tasks)
    for plan in plans:
        _refuse_empty(plan, [runner.receipts[task.key] for task in plan.part_tasks()])
        write_array_metadata(runner.root, plan.spec)
    runner.run("assemble", [task for plan in plans for task in plan.shard_tasks()])
    runner.remove_parts("embed")


def _is_sealed(plan: EmbeddingPlan, sealed: Manifest | None) -> bool:
    """Whether the sealed store holds this array.

    Raises:
        StoreMismatchError: it holds other rows under this name.
    """
    for entry in sealed.embeddings if sealed else ():
        if entry.array.path == plan.spec.path:
            if entry.fingerprint != plan.fingerprint:
                raise StoreMismatchError(
                    f"{entry.array.path} is sealed with other rows", todo="give the new teacher another alias"
                )
            return True
    return False


def _refuse_empty(plan: EmbeddingPlan, receipts: Sequence[Receipt]) -> None:
    """Refuse a teacher without a single row: that is a mistake, not a quarantine."""
    lost = sum(len(receipt.facts.get("quarantined", {})) for receipt in receipts)
    if plan.units and lost == plan.units:
        raise TeacherError(
            f"teacher {plan.alias} made no rows for the {plan.units} of {plan.modality}",
            found=f"all of them {next(iter(receipts[0].facts['quarantined'].values()))}",
            todo="check that its features, or the photographs, belong to this data set",
        )
