"""A task, its receipt, and what "done" means.

A task is small, picklable and idempotent: it names a function and plain arguments, writes its files atomically and
then its receipt. Done means: a receipt with this task's fingerprint is there and every file it names still has the
size it names. Everything else is run again.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labelgen.fingerprint import fingerprint
from labelgen.stages.meter import PeakMeter
from labelgen.store import layout
from labelgen.store.atomic import write_atomic
from labelgen.store.files import read_below


@dataclass(frozen=True)
class Output:
    """A file that a task wrote: path relative to the store, size, BLAKE3."""

    path: str
    bytes: int
    blake3: str


@dataclass(frozen=True)
class Result:
    """What the function of a task returns; `facts` must be plain JSON data."""

    outputs: tuple[Output, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A unit of work of at most about 30 s.

    Attributes:
        key: unique name, the path of its receipt under `receipts/`; its first part is the stage.
        inputs: fingerprint of everything that decides the result.
        work: `module:function`, called as `function(root, **arguments, **places)`, returns a `Result`.
        arguments: plain JSON data.
        rows: how many rows it does (progress and rates).
        places: further arguments that say where things lie; a moved data set is the same data set.
    """

    key: str
    inputs: str
    work: str
    arguments: Mapping[str, Any]
    rows: int
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.key.partition("/")[0]

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.key, self.inputs, self.work, self.arguments])


@dataclass(frozen=True)
class Receipt:
    """Proof that a task was done, as it lies in `receipts/`."""

    task: str
    fingerprint: str
    rows: int
    outputs: tuple[Output, ...]
    seconds: float
    peak_bytes: int
    facts: Mapping[str, Any]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Receipt:
        outputs = tuple(Output(**output) for output in data["outputs"])
        made = cls(**{**data, "outputs": outputs})
        if not (type(made.rows) is int and isinstance(made.facts, dict) and all(map(_is_output, outputs))):
            raise ValueError("not the receipt of a task")
        return made


def _is_output(output: Output) -> bool:
    return type(output.bytes) is int and isinstance(output.path, str) and isinstance(output.blake3, str)


def receipt_path(key: str) -> str:
    return f"{layout.RECEIPTS}/{key}.json"


def find_receipt(root: Path, task: Task, *, outputs: bool = True) -> Receipt | None:
    """The receipt of a task that is done, else None; `outputs=False` does not ask whether its files are still there
    (parts go when the shard they made is whole)."""
    receipt = read_receipt(root, task.key)
    if receipt is None or receipt.fingerprint != task.fingerprint:
        return None
    if not outputs:
        return receipt
    for output in receipt.outputs:
        try:
            if (root / output.path).stat().st_size != output.bytes:
                return None
        except FileNotFoundError:
            return None
    return receipt


def read_receipt(root: Path, key: str) -> Receipt | None:
    """The receipt under a key, None where there is none or it cannot be read (then its task is not done)."""
    try:
        return Receipt.from_json(json.loads(read_below(root, receipt_path(key))))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, RecursionError):
        return None


def run_task(root: Path, task: Task) -> Receipt:
    """Run a task and write its receipt, or return the one it has."""
    done = find_receipt(root, task)
    if done is not None:
        return done
    started = time.perf_counter()
    with PeakMeter() as meter:
        result = _resolve(task.work)(root, **task.arguments, **task.places)
    receipt = Receipt(
        task=task.key,
        fingerprint=task.fingerprint,
        rows=task.rows,
        outputs=result.outputs,
        seconds=round(time.perf_counter() - started, 4),
        peak_bytes=meter.peak_bytes,
        facts=dict(result.facts),
    )
    write_atomic(root / receipt_path(task.key), json.dumps(asdict(receipt), indent=1).encode())
    return receipt


def outstanding(root: Path, tasks: Iterable[Task]) -> tuple[list[Receipt], list[Task]]:
    """Receipts of the tasks that are done, and the tasks that are not."""
    receipts, todo = [], []
    for task in tasks:
        receipt = find_receipt(root, task)
        if receipt is None:
            todo.append(task)
        else:
            receipts.append(receipt)
    return receipts, todo


def _resolve(work: str) -> Callable[..., Result]:
    module, _, name = work.partition(":")
    function: Callable[..., Result] = getattr(importlib.import_module(module), name)
    return function
